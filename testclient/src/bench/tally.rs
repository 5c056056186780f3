//! What a load was answered: latencies, and how its calls ended. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::ledger::End;

/// Figures that a latency keeps, whatever its size.
const FIGURES: u8 = 3;

/// Percentiles in tables and JSON.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Latencies of one kind of call.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(super) fn new() -> Latencies {
        Latencies(Histogram::new(FIGURES).expect("three figures are within what it can keep"))
    }

    /// One more.
    pub(super) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        // Not `saturating_record`: that one keeps the histogram from growing, and counts what does
        // not fit as almost nothing.
        self.0.record(nanos).expect("a histogram grows up to 500 years");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of calls did not exceed, 0 to 1.
    #[must_use]
    pub fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// Adds those of another part of the same load.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("histograms of the same figures");
    }
}

/// What a load, or a part of it, was answered.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latencies of reads that were answered.
    pub reads: Latencies,
    /// Latencies of writes that were acknowledged.
    pub writes: Latencies,
    /// Calls that certainly had no effect, and reads that found nothing.
    pub failed: u64,
    /// Calls that may have had an effect.
    pub unknown: u64,
    /// Calls of an open loop whose moment had come, but that nobody was free to make.
    pub not_started: u64,
    /// How long it took.
    pub took: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            reads: Latencies::new(),
            writes: Latencies::new(),
            failed: 0,
            unknown: 0,
            not_started: 0,
            took: Duration::ZERO,
        }
    }
}

impl Tally {
    /// Takes note of a call that has ended. The latency counts only if it was done.
    pub fn record(&mut self, read: bool, latency: Duration, end: End) {
        match end {
            End::Done if read => self.reads.record(latency),
            End::Done => self.writes.record(latency),
            End::NotDone => self.failed += 1,
            End::Unknown => self.unknown += 1,
        }
    }

    /// Adds a part of the same load that came after it.
    pub fn add(&mut self, other: &Tally) {
        self.reads.add(&other.reads);
        self.writes.add(&other.writes);
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.not_started += other.not_started;
        self.took += other.took;
    }

    /// Calls that were done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }

    /// So many calls, per second.
    #[must_use]
    pub fn per_second(&self, calls: u64) -> f64 {
        calls as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Reads and writes together.
    #[must_use]
    pub fn both(&self) -> Latencies {
        let mut both = self.reads.clone();
        both.add(&self.writes);
        both
    }

    /// Whether calls ended otherwise than done, so that the figures do not speak of a healthy
    /// cluster.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        self.failed + self.unknown > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_calls_are_counted_as_slow() {
        let mut tally = Tally::default();
        for millis in [1, 3, 50, 2_000, 10_000] {
            tally.record(false, Duration::from_millis(millis), End::Done);
        }
        for (quantile, millis) in [(0.0, 1), (0.5, 50), (1.0, 10_000)] {
            let off = tally.writes.at(quantile).abs_diff(Duration::from_millis(millis));
            assert!(off <= Duration::from_micros(millis), "{off:?} off {millis} ms");
        }
        assert_eq!(tally.reads.count(), 0);
    }

    #[test]
    fn sums_of_parts_keep_the_slowest_call() {
        let mut sum = Tally::default();
        let mut slow = Tally::default();
        slow.record(true, Duration::from_secs(5), End::Done);
        slow.record(true, Duration::from_secs(9), End::Unknown);
        sum.add(&slow);
        assert!(sum.reads.max() >= Duration::from_secs(5));
        assert_eq!((sum.done(), sum.unknown, sum.is_troubled()), (1, 1, true));
    }
}
