//! The two clocks of the protocol. Neither is the wall clock, and safety depends on no other.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on this machine's CLOCK_BOOTTIME, which goes on through suspend. Comparable within one
/// boot of one machine only. Pure code receives it as `now`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    nanos: u64,
}

impl Timestamp {
    /// From nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }
    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }
    /// Time since `earlier`, zero if that lies in the future.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, duration: Duration) -> Timestamp {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Timestamp { nanos: self.nanos.saturating_add(nanos) }
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, duration: Duration) -> Timestamp {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Timestamp { nanos: self.nanos.saturating_sub(nanos) }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.nanos))
    }
}

/// The clock inside the log, in milliseconds. Never falls, and stands still while nobody leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogTime {
    /// Milliseconds of service since the cluster began.
    pub millis: u64,
}

impl LogTime {
    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }
}

impl Add<Duration> for LogTime {
    type Output = LogTime;
    fn add(self, duration: Duration) -> LogTime {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        LogTime { millis: self.millis.saturating_add(millis) }
    }
}
