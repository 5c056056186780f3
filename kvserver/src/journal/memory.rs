//! The journal of a cluster that keeps its data in memory only. Pure.
//!
//! It keeps no entries: the replica's own log holds them already, and nothing here would outlive
//! the process. What it owns is the promise of the contract, so that a replica takes the same path
//! in both modes: everything is safe as soon as it is taken on, and reported by the next poll.

use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::ids::{OpNumber, Position};

use super::Journal;

/// Reports everything as safe at once.
#[derive(Default, Debug)]
pub struct MemoryJournal {
    /// The last op taken on.
    last: OpNumber,
    /// Positions that the next poll has to cover, in order: the last one of each epoch. A
    /// truncation may fall back into an older epoch, whose position must then be named.
    unreported: Vec<Run>,
}

/// Contiguous ops of one epoch that have not been reported.
#[derive(Debug)]
struct Run {
    first: OpNumber,
    last: Position,
}

impl MemoryJournal {
    /// An empty journal, whose first op will be 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, entries: &[Arc<Entry>]) {
        for entry in entries {
            assert_eq!(entry.op(), self.last.next(), "OneOrder: ops are contiguous");
            self.last = entry.op();
            match self.unreported.last_mut() {
                Some(run) if run.last.epoch == entry.position.epoch => run.last = entry.position,
                _ => self.unreported.push(Run { first: entry.op(), last: entry.position }),
            }
        }
    }

    fn truncate(&mut self, after: OpNumber) {
        self.last = self.last.min(after);
        self.unreported.retain(|run| run.first <= after);
        if let Some(run) = self.unreported.last_mut() {
            run.last.op = run.last.op.min(after);
        }
    }

    fn reset(&mut self, base: Position) {
        self.last = base.op;
        self.unreported = vec![Run { first: base.op, last: base }];
    }

    fn trim(&mut self, _through: OpNumber) {}

    fn poll_safe(&mut self) -> Option<Position> {
        let safe = self.unreported.last().map(|run| run.last);
        self.unreported.clear();
        safe
    }
}

#[cfg(test)]
mod tests {
    use kvproto::command::Command;
    use kvproto::ids::{Epoch, Generation, ViewNumber};
    use kvproto::time::LogTime;

    use super::*;

    fn position(view: u64, op: u64) -> Position {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
        Position { epoch, op: OpNumber(op) }
    }

    fn entries(view: u64, ops: std::ops::RangeInclusive<u64>) -> Vec<Arc<Entry>> {
        let entry = |op| Entry {
            position: position(view, op),
            at: LogTime::default(),
            id: None,
            command: Command::Barrier,
        };
        ops.map(|op| Arc::new(entry(op))).collect()
    }

    #[test]
    fn what_was_appended_is_reported_once() {
        let mut journal = MemoryJournal::new();
        assert_eq!(journal.poll_safe(), None);
        journal.append(&entries(1, 1..=3));
        journal.append(&entries(1, 4..=4));
        assert_eq!(journal.poll_safe(), Some(position(1, 4)));
        assert_eq!(journal.poll_safe(), None);
        journal.append(&[]);
        assert_eq!(journal.poll_safe(), None);
    }

    #[test]
    fn a_truncated_position_is_not_reported() {
        let mut journal = MemoryJournal::new();
        journal.append(&entries(1, 1..=3));
        journal.append(&entries(2, 4..=6));
        journal.truncate(OpNumber(2));
        assert_eq!(journal.poll_safe(), Some(position(1, 2)), "named in its own epoch");
        journal.append(&entries(3, 3..=4));
        journal.truncate(OpNumber(2));
        assert_eq!(journal.poll_safe(), None, "what is left was reported before");
        journal.append(&entries(4, 3..=3));
        assert_eq!(journal.poll_safe(), Some(position(4, 3)));
    }

    #[test]
    fn a_truncation_beyond_the_end_changes_nothing() {
        let mut journal = MemoryJournal::new();
        journal.append(&entries(1, 1..=3));
        journal.truncate(OpNumber(9));
        assert_eq!(journal.poll_safe(), Some(position(1, 3)));
        journal.append(&entries(1, 4..=4));
        assert_eq!(journal.poll_safe(), Some(position(1, 4)));
    }

    #[test]
    fn a_reset_reports_its_base_and_the_log_goes_on_after_it() {
        let mut journal = MemoryJournal::new();
        journal.append(&entries(1, 1..=3));
        journal.reset(position(2, 40));
        assert_eq!(journal.poll_safe(), Some(position(2, 40)));
        journal.append(&entries(2, 41..=42));
        journal.trim(OpNumber(41));
        assert_eq!(journal.poll_safe(), Some(position(2, 42)));
    }
}
