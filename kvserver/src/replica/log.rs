//! The retained part of the log: entries after a base, and which epoch ordered each op.
//!
//! Owns no durability (that is the journal's) and decides nothing; positions are contiguous by
//! construction (OneOrder).

use std::collections::VecDeque;
use std::sync::Arc;

use kvproto::command::{Command, Entry};
use kvproto::ids::{EpochStart, History, OpNumber, Position};
use kvproto::message::Opened;
use kvproto::rules::{Rule, keeps};
use kvproto::time::LogTime;

/// Epochs remembered. One is added by each promotion; a copy that is further behind than this gets
/// a full transfer.
const EPOCHS_MAX: usize = 1024;

/// Entries after a base, and the start of each epoch.
#[derive(Clone, Hash, Debug, Default)]
pub struct Log {
    /// The op before the first retained entry: everything through here is in the store.
    base: Position,
    entries: VecDeque<Arc<Entry>>,
    /// Where each epoch begins, oldest first. Covers the base.
    epochs: Vec<EpochStart>,
    bytes: usize,
}

impl Log {
    /// Position of the last op, the base if nothing follows it.
    #[must_use]
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| entry.position)
    }

    /// Log time of the last entry, if one is retained.
    #[must_use]
    pub fn last_time(&self) -> Option<LogTime> {
        self.entries.back().map(|entry| entry.at)
    }

    /// The op before the first retained entry.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// Where each epoch begins, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[EpochStart] {
        &self.epochs
    }

    /// Where each epoch begins that does so at this op or before it, oldest first.
    #[must_use]
    pub fn epochs_through(&self, op: OpNumber) -> Vec<EpochStart> {
        self.epochs.iter().filter(|start| start.op <= op).copied().collect()
    }

    /// Position of an op through the last one, as far as the epochs are remembered. Op 0 stands
    /// before the first epoch.
    #[must_use]
    pub fn position_at(&self, op: OpNumber) -> Option<Position> {
        if op == OpNumber(0) {
            return Some(Position::default());
        }
        if op > self.last().op {
            return None;
        }
        let epoch = self.epochs.iter().rev().find(|start| start.op <= op)?.epoch;
        Some(Position { epoch, op })
    }

    /// The history that began the epoch of an op through the last one, as far as it is remembered.
    #[must_use]
    pub fn began(&self, op: OpNumber) -> Option<History> {
        Some(self.epochs.iter().rev().find(|start| start.op <= op)?.history)
    }

    /// Whether this log has this entry in its place, as far as the epochs are remembered. Two entries
    /// of one position are the same unless their epochs are of two pasts, which their barriers tell.
    #[must_use]
    pub fn has(&self, entry: &Entry) -> bool {
        let began = match entry.command {
            Command::Barrier(began) if keeps(Rule::EpochsHaveTheirHistory) => began,
            _ => return self.position_at(entry.op()) == Some(entry.position),
        };
        self.epochs.contains(&EpochStart::at(entry.position, began))
    }

    /// The entry of an op, if it is retained.
    #[must_use]
    pub fn get(&self, op: OpNumber) -> Option<&Arc<Entry>> {
        let index = op.0.checked_sub(self.base.op.0 + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Adds the next entry.
    pub fn append(&mut self, entry: Arc<Entry>) {
        let last = self.last();
        assert_eq!(entry.op(), last.op.next(), "OneOrder: the log has no gaps");
        assert!(entry.position.epoch >= last.epoch, "OneOrder: epochs never fall along the log");
        let (epoch, known) =
            (entry.position.epoch, self.epochs.last().copied().unwrap_or_default());
        let began = match entry.command {
            Command::Barrier(began) => began,
            _ if known.epoch == epoch => known.history,
            _ => History::default(),
        };
        if self.epochs.is_empty() || (known.epoch, known.history) != (epoch, began) {
            self.epochs.push(EpochStart::at(entry.position, began));
        }
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    /// Drops every entry after `op`, which must be at or after the base. Returns the first and last
    /// position dropped.
    pub fn truncate_after(&mut self, op: OpNumber) -> Option<(Position, Position)> {
        assert!(op >= self.base.op, "CommittedIsKept: the base is committed");
        let last = self.last();
        let mut first = None;
        while self.entries.back().is_some_and(|entry| entry.op() > op) {
            let entry = self.entries.pop_back()?;
            self.bytes -= entry.weight();
            first = Some(entry.position);
        }
        self.epochs.retain(|start| start.op <= op);
        first.map(|first| (first, last))
    }

    /// Entries from `op` on, as many as fit `bytes_max`, at least one if there is one.
    #[must_use]
    pub fn from(&self, op: OpNumber, bytes_max: usize) -> Vec<Arc<Entry>> {
        let skip = usize::try_from(op.0.saturating_sub(self.base.op.0 + 1)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut batch = Vec::new();
        for entry in self.entries.range(skip.min(self.entries.len())..) {
            bytes += entry.weight();
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            batch.push(Arc::clone(entry));
        }
        batch
    }

    /// Forgets the oldest entries while more than `bytes_max` are retained, but none after
    /// `through`.
    pub fn trim(&mut self, bytes_max: usize, through: OpNumber) {
        while self.bytes > bytes_max
            && let Some(entry) = self.entries.front()
            && entry.op() <= through
        {
            self.bytes -= entry.weight();
            self.base = entry.position;
            self.entries.pop_front();
        }
        if self.epochs.len() > EPOCHS_MAX {
            let covering = self.epochs.partition_point(|start| start.op <= self.base.op);
            let excess = self.epochs.len() - EPOCHS_MAX;
            self.epochs.drain(..excess.min(covering.saturating_sub(1)));
        }
    }

    /// Starts anew after `base`, with the epochs that led there.
    pub fn reset(&mut self, base: Position, epochs: Vec<EpochStart>) {
        *self = Log { base, epochs, ..Log::default() };
    }

    /// The last op that this log and another have in common: for the newest epoch known to both,
    /// the smaller of its two ends. Op 0 when they share no epoch.
    #[must_use]
    pub fn common_point(&self, other: &Opened) -> OpNumber {
        for (index, start) in self.epochs.iter().enumerate().rev() {
            let same = |theirs: &EpochStart| {
                let of_one_past =
                    theirs.history == start.history || !keeps(Rule::EpochsHaveTheirHistory);
                (theirs.epoch, theirs.op) == (start.epoch, start.op) && of_one_past
            };
            let Some(their_index) = other.epochs.iter().position(same) else {
                continue;
            };
            let ours = end_of(&self.epochs, index, self.last().op);
            let theirs = end_of(&other.epochs, their_index, other.last);
            return ours.min(theirs);
        }
        OpNumber(0)
    }
}

/// Last op of an epoch in a table of epoch starts.
fn end_of(epochs: &[EpochStart], index: usize, last: OpNumber) -> OpNumber {
    epochs.get(index + 1).map_or(last, |next| OpNumber(next.op.0.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::ids::{Epoch, Generation, ViewNumber};
    use kvproto::time::LogTime;

    fn position(view: u64, op: u64) -> Position {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
        Position { epoch, op: OpNumber(op) }
    }

    /// A log whose op `i + 1` was ordered in view `views[i]`.
    fn log(views: &[u64]) -> Log {
        log_of(views, 1)
    }

    /// The same, with epochs that began with this history.
    fn log_of(views: &[u64], past: u8) -> Log {
        let mut log = Log::default();
        for (view, op) in views.iter().zip(1..) {
            log.append(Arc::new(Entry {
                position: position(*view, op),
                at: LogTime::default(),
                id: None,
                command: Command::Barrier(History([past; 16])),
            }));
        }
        log
    }

    fn opened(log: &Log) -> Opened {
        Opened {
            epochs: log.epochs().to_vec(),
            last: log.last().op,
            committed: OpNumber(0),
            complete: true,
            recorded: kvproto::Revision(1),
        }
    }

    #[test]
    fn the_common_point_is_the_smaller_end_of_the_newest_shared_epoch() {
        let primary = log(&[1, 1, 1, 3, 3]);
        for (other, common) in [
            (log(&[]), 0),
            (log(&[1, 1]), 2),
            (log(&[1, 1, 1, 1, 1]), 3),
            (log(&[1, 1, 2, 2]), 2),
            (log(&[1, 1, 1, 3]), 4),
            (log(&[1, 1, 1, 3, 3]), 5),
            (log(&[2, 2]), 0),
        ] {
            assert_eq!(primary.common_point(&opened(&other)), OpNumber(common), "{other:?}");
        }
    }

    #[test]
    fn an_epoch_that_began_elsewhere_is_not_shared() {
        // Same epoch number, other start: cannot come from one primary, so it proves nothing.
        let primary = log(&[1, 1, 2, 2]);
        let other = log(&[1, 2, 2]);
        assert_eq!(primary.common_point(&opened(&other)), OpNumber(1));
    }

    #[test]
    fn an_epoch_of_another_past_is_another_epoch() {
        let (ours, theirs) = (log_of(&[1, 1, 2], 1), log_of(&[1, 1, 2], 2));
        assert_eq!(ours.common_point(&opened(&ours)), OpNumber(3));
        assert_eq!(ours.common_point(&opened(&theirs)), OpNumber(0));
        assert!(theirs.entries.iter().all(|entry| !ours.has(entry)));
    }

    #[test]
    fn truncation_names_what_it_dropped_and_forgets_its_epochs() {
        let mut log = log(&[1, 1, 2, 2]);
        assert_eq!(log.truncate_after(OpNumber(2)), Some((position(2, 3), position(2, 4))));
        assert_eq!(log.last(), position(1, 2));
        assert_eq!(log.epochs(), [EpochStart::at(position(1, 1), History([1; 16]))]);
        assert_eq!(log.truncate_after(OpNumber(2)), None);
    }

    #[test]
    fn a_trimmed_log_still_knows_the_epoch_of_its_base() {
        let mut log = log(&[1, 1, 2, 2]);
        log.trim(Command::Barrier(History::default()).weight(), OpNumber(3));
        assert_eq!(log.base(), position(2, 3));
        assert_eq!(log.position_at(OpNumber(2)), Some(position(1, 2)));
        assert_eq!(log.get(OpNumber(3)), None);
        assert_eq!(log.get(OpNumber(4)).map(|entry| entry.position), Some(position(2, 4)));
        log.trim(0, OpNumber(3));
        assert_eq!(log.base(), position(2, 3), "nothing after the limit goes");
    }

    #[test]
    fn a_batch_closes_at_its_size_but_takes_at_least_one_entry() {
        let log = log(&[1; 10]);
        assert_eq!(log.from(OpNumber(3), 1).len(), 1);
        assert_eq!(
            log.from(OpNumber(3), 3 * Command::Barrier(History::default()).weight() + 1).len(),
            3
        );
        assert_eq!(log.from(OpNumber(3), usize::MAX).len(), 8);
        assert!(log.from(OpNumber(11), usize::MAX).is_empty());
    }
}
