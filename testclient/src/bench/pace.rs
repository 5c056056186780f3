//! When the calls of an open loop should start. Pure: time is an argument, counted from the
//! beginning of the load.
//!
//! Calls become due at a fixed rate, whatever happens to those before them, and wait here until
//! somebody is free to make them. Whoever takes one is told its *intended* start, from which its
//! latency counts; else a stall would be seen by one call only, although it delayed all that were
//! due meanwhile (Tene, "How not to measure latency": coordinated omission).

use std::collections::VecDeque;
use std::time::Duration;

/// Calls at a rate, and those of them that wait for somebody to make them.
#[derive(Clone, Debug)]
pub struct Pace {
    per_second: u64,
    backlog_max: usize,
    /// Calls that have become due.
    due: u64,
    /// Intended starts of calls that are due and not taken, oldest first.
    waiting: VecDeque<Duration>,
    not_started: u64,
}

impl Pace {
    /// So many calls a second, of which at most `backlog_max` may wait.
    #[must_use]
    pub fn new(per_second: u64, backlog_max: usize) -> Pace {
        Pace {
            per_second: per_second.max(1),
            backlog_max,
            due: 0,
            waiting: VecDeque::new(),
            not_started: 0,
        }
    }

    /// When the next call becomes due.
    #[must_use]
    pub fn next_due(&self) -> Duration {
        self.intended(self.due)
    }

    fn intended(&self, number: u64) -> Duration {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Makes everything due that is so by now. Returns how many calls more can be taken; those for
    /// which the backlog has no room count as not started.
    pub fn release(&mut self, now: Duration) -> usize {
        let before = self.waiting.len();
        while self.next_due() <= now {
            if self.waiting.len() < self.backlog_max {
                self.waiting.push_back(self.next_due());
            } else {
                self.not_started += 1;
            }
            self.due += 1;
        }
        self.waiting.len() - before
    }

    /// The intended start of the call that has waited longest.
    pub fn take(&mut self) -> Option<Duration> {
        self.waiting.pop_front()
    }

    /// Calls that nobody was free to make: those that found no room, and those that still wait.
    /// They are forgotten with that.
    pub fn give_up(&mut self) -> u64 {
        let waiting = self.waiting.drain(..).count() as u64;
        std::mem::take(&mut self.not_started) + waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn calls_become_due_at_the_rate() {
        let mut pace = Pace::new(1_000, 10_000);
        assert_eq!(pace.release(ms(0)), 1, "the first is due at once");
        assert_eq!(pace.release(Duration::from_micros(999)), 0);
        assert_eq!(pace.release(ms(1)), 1);
        assert_eq!(pace.release(ms(2_000)), 1_999);
        assert_eq!(pace.next_due(), ms(2_001));
    }

    #[test]
    fn a_stall_is_seen_by_every_call_that_was_due_meanwhile() {
        let mut pace = Pace::new(100, 10_000);
        // One caller; the first call takes 100 ms, the others 1 ms each.
        let mut now = Duration::ZERO;
        let mut latencies = Vec::new();
        while latencies.len() < 13 {
            pace.release(now);
            let Some(intended) = pace.take() else {
                now = pace.next_due();
                continue;
            };
            now += if latencies.is_empty() { ms(100) } else { ms(1) };
            latencies.push((now - intended).as_millis());
        }
        assert_eq!(latencies, [100, 91, 82, 73, 64, 55, 46, 37, 28, 19, 10, 1, 1]);
    }

    #[test]
    fn what_nobody_makes_is_bounded_and_counted() {
        let mut pace = Pace::new(1_000, 10);
        assert_eq!(pace.release(ms(99)), 10, "a hundred are due");
        assert_eq!(pace.take(), Some(ms(0)));
        assert_eq!(pace.give_up(), 90 + 9);
        assert_eq!((pace.take(), pace.give_up()), (None, 0));
    }
}
