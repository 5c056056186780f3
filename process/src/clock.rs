//! The clock that pure code receives as `now`.

use kvproto::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// This machine's CLOCK_BOOTTIME, which, unlike `Instant`, goes on while the machine is suspended.
#[must_use]
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_never_goes_back() {
        let first = super::now();
        assert!(first.as_nanos() > 0);
        assert!(super::now() >= first);
    }
}
