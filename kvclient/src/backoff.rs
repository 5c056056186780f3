//! How long to wait before trying again. Pure: the caller passes randomness in.
//!
//! Delays grow so that a cluster in trouble is not kept there by its clients, and are jittered so
//! that those clients do not come back in step. The budget is shared by all calls of a client:
//! once retries have become more than a tenth of the work, everybody waits the longest delay.

use std::time::Duration;

/// Bounds the first delay: a handover within one machine takes about as long.
pub const DELAY_FIRST: Duration = Duration::from_millis(5);

/// Bounds every delay: far below the time a failover takes, far above a round trip.
pub const DELAY_MAX: Duration = Duration::from_millis(250);

/// Delays of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backoff {
    retries: u32,
}

impl Backoff {
    /// Bound of the next delay, which doubles with every retry up to [`DELAY_MAX`].
    #[must_use]
    pub fn bound(&self) -> Duration {
        DELAY_FIRST.saturating_mul(1 << self.retries.min(16)).min(DELAY_MAX)
    }

    /// The next delay: between half of the bound and the bound, by `random` in `0.0..1.0`.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let bound = self.bound();
        self.retries = self.retries.saturating_add(1);
        jittered(bound, random)
    }
}

/// Between half of `bound` and `bound`, by `random` in `0.0..1.0`.
#[must_use]
pub fn jittered(bound: Duration, random: f64) -> Duration {
    bound.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
}

/// What all calls of a client together may retry quickly: ten calls earn one retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryBudget {
    /// In tenths of a retry; at most [`RetryBudget::MAX`].
    tenths: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tenths: Self::MAX }
    }
}

impl RetryBudget {
    /// A full budget: 100 quick retries, so that an ordinary failover never meets the end of it.
    const MAX: u32 = 1000;

    /// A call was answered.
    pub fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(Self::MAX);
    }

    /// Whether the next retry may be quick; if not, wait [`DELAY_MAX`].
    pub fn spend(&mut self) -> bool {
        let rich = self.tenths >= 10;
        if rich {
            self.tenths -= 10;
        }
        rich
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_the_first_and_stay_at_the_cap() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..9).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 250, 250, 250]);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        for random in [0.0, 0.3, 0.999] {
            let delay = Backoff::default().next_delay(random);
            assert!(delay >= DELAY_FIRST / 2 && delay <= DELAY_FIRST);
        }
        assert_eq!(jittered(DELAY_MAX, 0.0), DELAY_MAX / 2);
    }

    #[test]
    fn a_billion_retries_do_not_overflow() {
        let mut backoff = Backoff { retries: u32::MAX };
        assert_eq!(backoff.next_delay(1.0), DELAY_MAX);
        assert_eq!(backoff.next_delay(1.0), DELAY_MAX);
    }

    #[test]
    fn quick_retries_end_when_the_budget_is_spent_and_return_with_answered_calls() {
        let mut budget = RetryBudget::default();
        let quick = (0..1000).filter(|_| budget.spend()).count();
        assert_eq!(quick, 100);
        for _ in 0..10 {
            budget.earn();
        }
        assert!(budget.spend());
        assert!(!budget.spend());
    }
}
