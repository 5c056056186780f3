//! Where in the segments of an era which ops stand. Pure.
//!
//! Truncations do not change what is in the files: this is the one place that knows which of it is
//! still part of the log.

use std::collections::VecDeque;

use kvproto::ids::{Epoch, OpNumber, Position};

/// A run closes at this many bytes: it is what one read for a catch-up takes from the disk.
const RUN_SIZE: u64 = 256 << 10;

/// Contiguous ops of one epoch in neighbouring records of one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its first op.
    pub first: OpNumber,
    /// Its last op that is still part of the log.
    pub last: OpNumber,
    /// The epoch that ordered them.
    pub epoch: Epoch,
    /// Number of the segment.
    pub segment: u64,
    /// Where its first record begins in the segment.
    pub offset: u64,
    /// Bytes through the end of its last record.
    pub size: u64,
}

/// The ops of a log that are in segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// The op before the first one here.
    after: OpNumber,
    runs: VecDeque<Run>,
    /// The next entries may join the last run.
    open: bool,
}

impl Index {
    /// No ops; the first one will follow this one.
    #[must_use]
    pub fn new(after: OpNumber) -> Index {
        Index { after, runs: VecDeque::new(), open: false }
    }

    /// The op before the first one here.
    #[must_use]
    pub fn after(&self) -> OpNumber {
        self.after
    }

    /// The last op; the one before the first when there is none.
    #[must_use]
    pub fn last(&self) -> OpNumber {
        self.runs.back().map_or(self.after, |run| run.last)
    }

    /// Position of the last op, if it is here.
    #[must_use]
    pub fn last_position(&self) -> Option<Position> {
        self.runs.back().map(|run| Position { epoch: run.epoch, op: run.last })
    }

    /// The epoch that ordered an op, if it is here.
    #[must_use]
    pub fn epoch_of(&self, op: OpNumber) -> Option<Epoch> {
        let run = self.runs.get(self.runs.partition_point(|run| run.last < op))?;
        (run.first <= op).then_some(run.epoch)
    }

    /// First position of each epoch, as far as its ops are here.
    pub fn epochs(&self) -> impl Iterator<Item = Position> {
        let before = std::iter::once(None).chain(self.runs.iter().map(|run| Some(run.epoch)));
        self.runs
            .iter()
            .zip(before)
            .filter(|(run, before)| *before != Some(run.epoch))
            .map(|(run, _)| Position { epoch: run.epoch, op: run.first })
    }

    /// The runs from the one with this op on.
    pub fn from(&self, op: OpNumber) -> impl Iterator<Item = &Run> {
        self.runs.range(self.runs.partition_point(|run| run.last < op)..)
    }

    /// Adds a record of entries that follow the last op.
    pub fn append(&mut self, run: Run) {
        assert_eq!(run.first, self.last().next(), "OneOrder: ops are contiguous");
        if self.open
            && let Some(last) = self.runs.back_mut()
            && (last.segment, last.epoch) == (run.segment, run.epoch)
            && last.size < RUN_SIZE
        {
            last.last = run.last;
            last.size = run.offset + run.size - last.offset;
            return;
        }
        self.runs.push_back(run);
        self.open = true;
    }

    /// Drops every op after this one. Returns the last one dropped.
    pub fn truncate(&mut self, after: OpNumber) -> Option<Position> {
        if after >= self.last() {
            return None;
        }
        let dropped = self.last_position().filter(|last| last.op > after);
        while self.runs.back().is_some_and(|run| run.first > after) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(after);
        }
        self.after = self.after.min(after);
        self.open = false;
        dropped
    }

    /// The last op in the segments through this one.
    #[must_use]
    pub fn last_through(&self, segment: u64) -> Option<OpNumber> {
        let runs = self.runs.iter().take_while(|run| run.segment <= segment);
        runs.last().map(|run| run.last)
    }

    /// Forgets the ops in the segments through this one.
    pub fn forget_through(&mut self, segment: u64) {
        while let Some(run) = self.runs.front()
            && run.segment <= segment
        {
            self.after = run.last;
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use kvproto::ids::{Generation, ViewNumber};

    use super::*;

    fn run(view: u64, ops: std::ops::RangeInclusive<u64>, segment: u64, offset: u64) -> Run {
        Run {
            first: OpNumber(*ops.start()),
            last: OpNumber(*ops.end()),
            epoch: Epoch { generation: Generation(1), primary_since: ViewNumber(view) },
            segment,
            offset,
            size: 100,
        }
    }

    fn ops(index: &Index, from: u64) -> Vec<(u64, u64, u64)> {
        index.from(OpNumber(from)).map(|run| (run.first.0, run.last.0, run.segment)).collect()
    }

    #[test]
    fn neighbours_make_one_run_until_something_stands_between() {
        let mut index = Index::new(OpNumber(0));
        index.append(run(1, 1..=2, 1, 100));
        index.append(run(1, 3..=3, 1, 200));
        index.append(run(2, 4..=4, 1, 300));
        index.append(run(2, 5..=6, 2, 100));
        assert_eq!(ops(&index, 1), [(1, 3, 1), (4, 4, 1), (5, 6, 2)]);
        assert_eq!(ops(&index, 4), [(4, 4, 1), (5, 6, 2)]);
        assert_eq!(ops(&index, 7), []);
        let starts: Vec<_> = index.epochs().map(|start| start.op.0).collect();
        assert_eq!(starts, [1, 4]);
    }

    #[test]
    fn what_was_truncated_is_not_part_of_the_log_and_what_follows_makes_a_new_run() {
        let mut index = Index::new(OpNumber(0));
        index.append(run(1, 1..=9, 1, 100));
        assert_eq!(index.truncate(OpNumber(5)).map(|dropped| dropped.op), Some(OpNumber(9)));
        index.append(run(3, 6..=7, 1, 300));
        assert_eq!(ops(&index, 2), [(1, 5, 1), (6, 7, 1)]);
        assert_eq!(index.epoch_of(OpNumber(6)), Some(run(3, 6..=7, 1, 0).epoch));
        assert_eq!(index.truncate(OpNumber(7)), None);
    }

    #[test]
    fn a_truncation_before_the_first_op_moves_the_beginning() {
        let mut index = Index::new(OpNumber(10));
        index.append(run(1, 11..=12, 1, 100));
        index.truncate(OpNumber(5));
        assert_eq!((index.after(), index.last()), (OpNumber(5), OpNumber(5)));
        index.append(run(2, 6..=8, 1, 300));
        assert_eq!(ops(&index, 1), [(6, 8, 1)]);
    }

    #[test]
    fn ops_of_removed_segments_are_forgotten() {
        let mut index = Index::new(OpNumber(0));
        index.append(run(1, 1..=9, 1, 100));
        index.append(run(1, 10..=12, 2, 100));
        assert_eq!(index.last_through(1), Some(OpNumber(9)));
        index.forget_through(1);
        assert_eq!((index.after(), index.last()), (OpNumber(9), OpNumber(12)));
        assert_eq!(index.epoch_of(OpNumber(9)), None);
    }
}
