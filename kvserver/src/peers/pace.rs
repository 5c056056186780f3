//! How many bytes may be under way on one connection. Pure.
//!
//! What lies in the kernel ahead of a heartbeat delays it, so no more is sent than the other side
//! takes within a short time; as much as that, so that a quick way is used. The measure is how much
//! longer bytes take to be confirmed than on an empty way: under `QUEUED_FEW` the window grows, over
//! `QUEUED_MANY` it shrinks.
//!
//! Its caller owes it every number of bytes sent and confirmed, and says when the window held
//! something back.

use std::time::Duration;

use kvproto::Timestamp;

/// The other side confirms when so many more bytes have arrived.
pub(super) const CONFIRM_EVERY: u64 = 8 << 10;

/// Two pieces: one is under way while the other is confirmed.
const WINDOW_MIN: u64 = 40 << 10;
/// At 8 Mbit/s this takes 64 ms.
const WINDOW_FIRST: u64 = 64 << 10;
/// 10 Gbit/s over 3 ms.
const WINDOW_MAX: u64 = 4 << 20;
const QUEUED_FEW: Duration = Duration::from_millis(20);
const QUEUED_MANY: Duration = Duration::from_millis(50);

/// The window of one direction of a connection.
#[derive(Debug)]
pub(super) struct Pace {
    window: u64,
    sent: u64,
    confirmed: u64,
    /// A full window was sent then; how long it takes to be confirmed through this byte is measured.
    measured: Option<(u64, Timestamp)>,
    /// The shortest time that this took.
    shortest: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { window: WINDOW_FIRST, sent: 0, confirmed: 0, measured: None, shortest: None }
    }
}

impl Pace {
    /// So many bytes may follow now.
    #[must_use]
    pub(super) fn room(&self) -> usize {
        let room = self.window.saturating_sub(self.sent - self.confirmed);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// These bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// More is to be sent than there is room for.
    pub(super) fn held_back(&mut self, now: Timestamp) {
        // What arrives last is not confirmed until there is more of it.
        let through = self.sent.saturating_sub(CONFIRM_EVERY);
        self.measured.get_or_insert((through, now));
    }

    /// Everything through this byte has arrived.
    ///
    /// # Errors
    /// When it was never sent.
    pub(super) fn confirmed(&mut self, through: u64, now: Timestamp) -> Result<(), NeverSent> {
        if through > self.sent {
            return Err(NeverSent);
        }
        self.confirmed = self.confirmed.max(through);
        if let Some((_, at)) = self.measured.take_if(|(through, _)| *through <= self.confirmed) {
            let took = now.since(at);
            let shortest = self.shortest.map_or(took, |shortest| shortest.min(took));
            self.shortest = Some(shortest);
            let queued = took.saturating_sub(shortest);
            if queued <= QUEUED_FEW {
                self.window = (self.window * 2).min(WINDOW_MAX);
            } else if queued > QUEUED_MANY {
                self.window = (self.window * 3 / 4).max(WINDOW_MIN);
            }
        }
        Ok(())
    }
}

/// The other side confirms more than there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NeverSent;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends through a way of so many bytes per millisecond that takes so long, for ten seconds, and
    /// returns how many bytes arrived, and how long the last of them were under way.
    fn through(bytes_per_ms: u64, way: Duration) -> (u64, Duration) {
        let mut pace = Pace::default();
        let start = Timestamp::from_nanos(1_000_000_000);
        let (mut free_at, mut arrived, mut longest) = (start, 0, Duration::ZERO);
        let mut under_way = std::collections::VecDeque::new();
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            while pace.room() >= 16 << 10 {
                pace.sent(16 << 10);
                let takes = Duration::from_nanos((16 << 10) * 1_000_000 / bytes_per_ms);
                free_at = free_at.max(now) + takes;
                under_way.push_back((pace.sent, now, free_at + way * 2));
            }
            pace.held_back(now);
            while under_way.front().is_some_and(|(_, _, at)| *at <= now) {
                let (through, sent_at, at) = under_way.pop_front().expect("there is one");
                arrived = through;
                if millis > 5000 {
                    longest = longest.max(at.since(sent_at));
                }
                pace.confirmed(through, now).expect("it was sent");
            }
        }
        (arrived, longest)
    }

    #[test]
    fn a_slow_way_is_used_and_delays_nothing_for_long() {
        let (arrived, longest) = through(1000, Duration::ZERO);
        assert!(arrived > 9_500_000, "{arrived}");
        assert!(longest < Duration::from_millis(150), "{longest:?}");
    }

    #[test]
    fn a_long_way_is_used() {
        let (arrived, longest) = through(12_500, Duration::from_millis(20));
        assert!(arrived > 90_000_000, "{arrived}");
        assert!(longest < Duration::from_millis(150), "{longest:?}");
    }

    #[test]
    fn a_quick_way_is_used() {
        let (arrived, _) = through(125_000, Duration::ZERO);
        assert!(arrived > 1_000_000_000, "{arrived}");
    }

    #[test]
    fn nobody_confirms_what_was_never_sent() {
        let mut pace = Pace::default();
        pace.sent(100);
        let now = Timestamp::from_nanos(1);
        assert_eq!(pace.confirmed(101, now), Err(NeverSent));
        assert_eq!(pace.confirmed(100, now), Ok(()));
    }
}
