//! The journal of a cluster that keeps its data in memory only. Pure.
//!
//! It keeps no entries: the replica's own log holds them already, and nothing here would outlive
//! the process. What it owns is the promise of the contract, so that a replica takes the same path
//! in both modes: everything is safe as soon as it is taken on, and reported by the next poll.

use kvproto::ids::{OpNumber, Position};

use super::pending::Pending;
use super::{Completion, Journal, Work};

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
    fn take(&mut self, work: Work) {
        let snapshot = self.pending.snapshot();
        match (work, snapshot) {
            (Work::Adopt(epoch), _) => drop(self.pending.adopt(epoch)),
            (Work::Record(record), _) => drop(self.pending.record(record.order())),
            (Work::Append(entries), _) => drop(self.pending.append(&entries)),
            (Work::Truncate { after }, _) => drop(self.pending.truncate(after)),
            (Work::Reset { base }, _) => drop(self.pending.reset(base)),
            (Work::BeginSnapshot { at, .. }, _) => {
                self.snapshot = (at, 0);
                self.pending.begin_snapshot();
            }
            (Work::SnapshotChunk(_), Some(number)) => {
                self.snapshot.1 += 1;
                self.pending.chunks_written(number, self.snapshot.1);
            }
            (Work::EndSnapshot(_), Some(number)) => {
                self.pending.snapshot_done(number, self.snapshot.0);
            }
            (Work::Read { from, .. }, _) => self.read = Some(from),
            (Work::SnapshotChunk(_) | Work::EndSnapshot(_), None) | (Work::Committed { .. }, _) => {
            }
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        if let Some(from) = self.read.take() {
            return Some(Completion::Read { from, entries: Ok(Vec::new()) });
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
        journal.take(Work::Append(entries(1, 1..=3)));
        assert_eq!(journal.poll(), Some(Completion::Safe(position(1, 3))));
        journal.take(Work::Truncate { after: OpNumber(2) });
        journal.take(Work::Adopt(position(2, 0).epoch));
        journal.take(Work::Append(entries(2, 3..=3)));
        assert_eq!(journal.poll(), Some(Completion::Adopted(position(2, 0).epoch)));
        assert_eq!(journal.poll(), Some(Completion::Safe(position(2, 3))));
        assert_eq!(journal.poll(), None);
    }
}
