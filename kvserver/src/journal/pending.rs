//! Work that a journal has taken on and not yet reported. Pure.
//!
//! Whoever does the work needs to know nothing of truncations: it says how far in the order of the
//! calls it has come, and this queue says what that means for the caller. It also holds the callers
//! to their part: ops are contiguous.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::ids::{Epoch, OpNumber, Position};
use kvproto::view::ViewOrder;

use super::Completion;

/// Place of a call in the order of all calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ticket(u64);

/// Names one snapshot of a journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SnapshotNumber(u64);

impl fmt::Display for SnapshotNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Calls that wait to be done, and what is done and waits to be asked for.
#[derive(Clone, Default, Debug)]
pub struct Pending {
    /// The last op taken on.
    last: OpNumber,
    issued: Ticket,
    finished: Ticket,
    /// What will be reported, in the order of the calls.
    promises: VecDeque<Promise>,
    /// The snapshot under way; `None` when there is none.
    snapshot: Option<SnapshotNumber>,
    snapshots: SnapshotNumber,
    chunks_written: Option<u64>,
    snapshot_at: Option<Position>,
    snapshot_given_up: bool,
}

#[derive(Clone, Debug)]
struct Promise {
    ticket: Ticket,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Contiguous ops of one epoch. A truncation may cut them short, and may fall back into an older
    /// epoch, whose last position must then be named.
    Safe {
        first: OpNumber,
        last: Position,
    },
    Adopted(Epoch),
    Recorded(ViewOrder),
}

impl Pending {
    /// Nothing waits; the last op of the log is this one.
    #[must_use]
    pub fn after(last: OpNumber) -> Pending {
        Pending { last, ..Pending::default() }
    }

    /// The last op taken on.
    #[must_use]
    pub fn last(&self) -> OpNumber {
        self.last
    }

    /// A call of which nothing will be reported.
    pub fn silent(&mut self) -> Ticket {
        self.issued = Ticket(self.issued.0 + 1);
        self.issued
    }

    /// An epoch was adopted.
    pub fn adopt(&mut self, epoch: Epoch) -> Ticket {
        let ticket = self.silent();
        self.promises.push_back(Promise { ticket, what: What::Adopted(epoch) });
        ticket
    }

    /// A record of the view service takes the place of an older one.
    pub fn record(&mut self, order: ViewOrder) -> Ticket {
        let ticket = self.silent();
        self.promises.push_back(Promise { ticket, what: What::Recorded(order) });
        ticket
    }

    /// Entries were appended.
    pub fn append(&mut self, entries: &[Arc<Entry>]) -> Ticket {
        let ticket = self.silent();
        for entry in entries {
            assert_eq!(entry.op(), self.last.next(), "OneOrder: ops are contiguous");
            self.last = entry.op();
            if let Some(Promise { ticket: of, what: What::Safe { last, .. } }) =
                self.promises.back_mut()
                && *of == ticket
                && last.epoch == entry.position.epoch
            {
                *last = entry.position;
                continue;
            }
            let what = What::Safe { first: entry.op(), last: entry.position };
            self.promises.push_back(Promise { ticket, what });
        }
        ticket
    }

    /// Everything after this op was dropped.
    pub fn truncate(&mut self, after: OpNumber) -> Ticket {
        self.last = self.last.min(after);
        self.promises.retain_mut(|promise| match &mut promise.what {
            What::Safe { first, last } => {
                last.op = last.op.min(after);
                *first <= after
            }
            What::Adopted(_) | What::Recorded(_) => true,
        });
        self.silent()
    }

    /// The log begins anew, after this position.
    pub fn reset(&mut self, base: Position) -> Ticket {
        self.abandon_snapshot();
        self.last = base.op;
        self.promises.retain(|promise| !matches!(promise.what, What::Safe { .. }));
        let ticket = self.silent();
        let what = What::Safe { first: base.op, last: base };
        self.promises.push_back(Promise { ticket, what });
        ticket
    }

    /// A snapshot begins. Nothing is reported of older ones any more.
    pub fn begin_snapshot(&mut self) -> SnapshotNumber {
        self.abandon_snapshot();
        self.snapshots = SnapshotNumber(self.snapshots.0 + 1);
        self.snapshot = Some(self.snapshots);
        self.snapshots
    }

    /// The snapshot under way, if there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotNumber> {
        self.snapshot
    }

    /// The last snapshot begun.
    #[must_use]
    pub fn last_snapshot(&self) -> SnapshotNumber {
        self.snapshots
    }

    /// Nothing is reported of the snapshot under way any more.
    pub fn abandon_snapshot(&mut self) {
        self.snapshot = None;
        self.chunks_written = None;
        self.snapshot_at = None;
        self.snapshot_given_up = false;
    }

    /// All calls through this one have been done.
    pub fn finished(&mut self, through: Ticket) {
        assert!(through <= self.issued, "only what was asked for is done");
        self.finished = self.finished.max(through);
    }

    /// All calls have been done.
    pub fn all_finished(&mut self) {
        self.finished = self.issued;
    }

    /// So many chunks of a snapshot have been written.
    pub fn chunks_written(&mut self, snapshot: SnapshotNumber, chunks: u64) {
        if self.snapshot == Some(snapshot) {
            self.chunks_written = Some(chunks);
        }
    }

    /// A snapshot has been verified.
    pub fn snapshot_done(&mut self, snapshot: SnapshotNumber, at: Position) {
        if self.snapshot == Some(snapshot) {
            self.snapshot_at = Some(at);
        }
    }

    /// A snapshot did not fit on the disk.
    pub fn snapshot_given_up(&mut self, snapshot: SnapshotNumber) {
        if self.snapshot == Some(snapshot) {
            self.abandon_snapshot();
            self.snapshot_given_up = true;
        }
    }

    /// The next thing to report.
    pub fn poll(&mut self) -> Option<Completion> {
        let mut safe = None;
        while let Some(promise) = self.promises.front()
            && promise.ticket <= self.finished
        {
            match promise.what {
                What::Safe { last, .. } => safe = Some(last),
                // In the order of the calls: what came before the adoption is reported first.
                What::Adopted(_) | What::Recorded(_) if safe.is_some() => break,
                What::Recorded(order) => {
                    self.promises.pop_front();
                    return Some(Completion::Recorded(order));
                }
                What::Adopted(epoch) => {
                    self.promises.pop_front();
                    return Some(Completion::Adopted(epoch));
                }
            }
            self.promises.pop_front();
        }
        if let Some(position) = safe {
            return Some(Completion::Safe(position));
        }
        if let Some(chunks) = self.chunks_written.take() {
            return Some(Completion::ChunksWritten(chunks));
        }
        if std::mem::take(&mut self.snapshot_given_up) {
            return Some(Completion::SnapshotGivenUp);
        }
        let at = self.snapshot_at.take()?;
        self.abandon_snapshot();
        Some(Completion::Snapshot(at))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use kvproto::command::Command;
    use kvproto::ids::{Generation, ViewNumber};
    use kvproto::time::LogTime;

    use super::Completion::{Adopted, ChunksWritten, Safe, Snapshot};
    use super::*;

    pub(in crate::journal) fn position(view: u64, op: u64) -> Position {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
        Position { epoch, op: OpNumber(op) }
    }

    pub(in crate::journal) fn entries(
        view: u64,
        ops: std::ops::RangeInclusive<u64>,
    ) -> Vec<Arc<Entry>> {
        let entry = |op| Entry {
            position: position(view, op),
            at: LogTime::default(),
            id: None,
            command: Command::Barrier(Default::default()),
        };
        ops.map(|op| Arc::new(entry(op))).collect()
    }

    fn all(pending: &mut Pending) -> Vec<Completion> {
        std::iter::from_fn(|| pending.poll()).collect()
    }

    #[test]
    fn what_is_done_is_reported_once_and_only_then() {
        let mut pending = Pending::default();
        let first = pending.append(&entries(1, 1..=3));
        let second = pending.append(&entries(1, 4..=4));
        assert_eq!(all(&mut pending), []);
        pending.finished(first);
        assert_eq!(all(&mut pending), [Safe(position(1, 3))]);
        pending.finished(first);
        assert_eq!(all(&mut pending), []);
        let third = pending.append(&entries(1, 5..=5));
        pending.finished(second);
        pending.finished(third);
        assert_eq!(all(&mut pending), [Safe(position(1, 5))], "the newest says all");
    }

    #[test]
    fn a_truncated_position_is_not_reported() {
        let mut pending = Pending::default();
        pending.append(&entries(1, 1..=3));
        let second = pending.append(&entries(2, 4..=6));
        pending.truncate(OpNumber(2));
        pending.finished(second);
        assert_eq!(all(&mut pending), [Safe(position(1, 2))], "named in its own epoch");
        let third = pending.append(&entries(3, 3..=4));
        pending.truncate(OpNumber(2));
        pending.finished(third);
        assert_eq!(all(&mut pending), [], "what is left was reported before");
        pending.append(&entries(4, 3..=3));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(position(4, 3))]);
    }

    #[test]
    fn a_truncation_beyond_the_end_changes_nothing() {
        let mut pending = Pending::default();
        pending.append(&entries(1, 1..=3));
        pending.truncate(OpNumber(9));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(position(1, 3))]);
        assert_eq!(pending.last(), OpNumber(3));
    }

    #[test]
    fn a_late_completion_from_before_a_reset_says_nothing() {
        let mut pending = Pending::default();
        let before = pending.append(&entries(1, 1..=3));
        let reset = pending.reset(Position::default());
        let after = pending.append(&entries(2, 1..=2));
        pending.finished(before);
        assert_eq!(all(&mut pending), [], "ops 1 to 3 were others");
        pending.finished(reset);
        assert_eq!(all(&mut pending), [Safe(Position::default())]);
        pending.finished(after);
        assert_eq!(all(&mut pending), [Safe(position(2, 2))]);
    }

    #[test]
    fn a_reset_reports_its_base_and_the_log_goes_on_after_it() {
        let mut pending = Pending::default();
        pending.append(&entries(1, 1..=3));
        pending.reset(position(2, 40));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(position(2, 40))]);
        pending.append(&entries(2, 41..=42));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(position(2, 42))]);
    }

    #[test]
    fn an_adoption_is_reported_in_its_place() {
        let mut pending = Pending::default();
        pending.append(&entries(1, 1..=2));
        pending.adopt(position(2, 0).epoch);
        pending.append(&entries(2, 3..=3));
        pending.truncate(OpNumber(1));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(position(1, 1)), Adopted(position(2, 0).epoch)]);
    }

    #[test]
    fn nothing_is_heard_of_a_snapshot_that_was_given_up() {
        let mut pending = Pending::default();
        let first = pending.begin_snapshot();
        pending.chunks_written(first, 1);
        pending.chunks_written(first, 2);
        assert_eq!(all(&mut pending), [ChunksWritten(2)]);
        let second = pending.begin_snapshot();
        pending.chunks_written(first, 3);
        pending.snapshot_done(first, position(1, 7));
        assert_eq!(all(&mut pending), []);
        pending.chunks_written(second, 1);
        pending.snapshot_done(second, position(1, 9));
        assert_eq!(all(&mut pending), [ChunksWritten(1), Snapshot(position(1, 9))]);
        let third = pending.begin_snapshot();
        pending.reset(Position::default());
        pending.snapshot_done(third, position(1, 11));
        pending.all_finished();
        assert_eq!(all(&mut pending), [Safe(Position::default())]);
    }
}
