//! The journal of a cluster that keeps its data in memory only. Pure.
//!
//! It keeps no entries: the replica's own log holds them already, and nothing here would outlive
//! the process. What it owns is the promise of the contract, so that a replica takes the same path
//! in both modes: everything is safe as soon as it is taken on, and reported by the next poll.

use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::ids::{Epoch, OpNumber, Position};
use kvproto::snapshot::SnapshotEnd;

use super::pending::Pending;
use super::{Completion, Journal};

/// Reports everything as safe at once.
#[derive(Default, Debug)]
pub struct MemoryJournal {
    pending: Pending,
    /// The op of the snapshot under way, and its chunks so far.
    snapshot: (Position, u64),
    /// Somebody asks for entries, of which there are none.
    read: Option<OpNumber>,
}

impl MemoryJournal {
    /// An empty journal, whose first op will be 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that goes on after this op.
    #[cfg(test)]
    #[must_use]
    pub fn after(last: OpNumber) -> Self {
        MemoryJournal { pending: Pending::after(last), ..Self::default() }
    }
}

impl Journal for MemoryJournal {
    fn adopt(&mut self, epoch: Epoch) {
        self.pending.adopt(epoch);
    }

    fn append(&mut self, entries: &[Arc<Entry>]) {
        self.pending.append(entries);
    }

    fn truncate(&mut self, after: OpNumber) {
        self.pending.truncate(after);
    }

    fn reset(&mut self, base: Position) {
        self.pending.reset(base);
    }

    fn trim(&mut self, _through: OpNumber) {}

    fn committed(&mut self, _through: OpNumber) {}

    fn begin_snapshot(&mut self, at: Position, _keys: u64) {
        self.snapshot = (at, 0);
        self.pending.begin_snapshot();
    }

    fn snapshot_chunk(&mut self, _records: Bytes) {
        if let Some(number) = self.pending.snapshot() {
            self.snapshot.1 += 1;
            self.pending.chunks_written(number, self.snapshot.1);
        }
    }

    fn end_snapshot(&mut self, _end: SnapshotEnd) {
        if let Some(number) = self.pending.snapshot() {
            self.pending.snapshot_done(number, self.snapshot.0);
        }
    }

    fn read(&mut self, from: OpNumber, _bytes_max: u64) {
        self.read = Some(from);
    }

    fn poll(&mut self) -> Option<Completion> {
        if let Some(from) = self.read.take() {
            return Some(Completion::Read { from, entries: Vec::new() });
        }
        self.pending.all_finished();
        self.pending.poll()
    }
}

#[cfg(test)]
mod tests {
    use super::super::pending::tests::{entries, position};
    use super::*;

    #[test]
    fn everything_is_safe_at_once() {
        let mut journal = MemoryJournal::new();
        assert_eq!(journal.poll(), None);
        journal.append(&entries(1, 1..=3));
        journal.append(&[]);
        assert_eq!(journal.poll(), Some(Completion::Safe(position(1, 3))));
        journal.truncate(OpNumber(2));
        journal.adopt(position(2, 0).epoch);
        journal.append(&entries(2, 3..=3));
        assert_eq!(journal.poll(), Some(Completion::Adopted(position(2, 0).epoch)));
        assert_eq!(journal.poll(), Some(Completion::Safe(position(2, 3))));
        assert_eq!(journal.poll(), None);
    }
}
