//! What every copy holds, whatever part it plays: the log, the store, and how far each is.
//!
//! Never decides about other copies. Positions are named by promise: `safe` (in the journal as the
//! mode asks) may trail the last op; `committed` (in every required copy) is applied at once.

use std::sync::Arc;

use kvproto::command::{Entry, Outcome};
use kvproto::ids::{Epoch, EpochStart, Member, OpNumber, Position, Revision, StreamNumber};
use kvproto::message::{Body, Message};
use kvproto::registration::Memory;
use kvproto::reply::LogPoint;
use kvproto::rules::{Rule, keeps};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::time::{LogTime, Timestamp};
use kvproto::view::{View, ViewOrder};

use super::ReplicaOptions;
use super::effect::Effect;
use super::log::Log;
use super::own_disk::OwnDisk;
use super::promise::Promises;
use super::recovery::Recovered;
use super::snapshots::{self, Snapshots};
use crate::journal::{Room, Work};
use crate::store::{Store, StoreLimits};

/// Committed entries are kept up to this part of the data, or what suits a little of it: they save
/// a copy that comes back a full transfer, which costs the less the less there is.
const RETAIN_OF_DATA: u64 = 16;
const RETAIN_MIN: usize = 4 << 20;

/// The state of one copy.
#[derive(Clone, Hash, Debug)]
pub struct Copy {
    /// This life of this server.
    pub(super) me: Member,
    /// The newest record known.
    pub(super) view: View,
    pub(super) options: ReplicaOptions,
    /// The newest epoch heard of; older ones are refused.
    pub(super) epoch: Epoch,
    /// The newest epoch given to the journal, and the newest one that is safe there. Nothing is
    /// acknowledged in an epoch that is not (REP-3).
    adopting: Epoch,
    pub(super) adopted: Epoch,
    /// The newest record given to the journal, and the newest one that is safe there.
    recording: ViewOrder,
    pub(super) recorded: ViewOrder,
    pub(super) log: Log,
    pub(super) store: Store,
    /// Everything through here is in the journal, as safe as the mode asks.
    pub(super) safe: OpNumber,
    /// Everything through here is in every required copy, and in the store.
    pub(super) committed: OpNumber,
    /// The highest log time heard; a new primary goes on from here.
    pub(super) log_time: LogTime,
    /// False from the start of a transfer to its end: what the store holds is no state.
    pub(super) complete: bool,
    pub(super) promises: Promises,
    /// The last epoch in which this server was primary.
    pub(super) led: Option<Epoch>,
    /// On the disk.
    pub(super) room: Room,
    /// Whether it moves.
    pub(super) own_disk: OwnDisk,
    /// The directory of the journal is gone: nothing becomes safe any more, so nothing is acknowledged,
    /// and what this copy holds goes with its process.
    pub(super) directory_gone: bool,
    /// What this copy writes of itself to disk.
    pub(super) snapshots: Snapshots,
    /// Through here the journal knows that all is committed.
    told_committed: OpNumber,
    /// Rises over the whole life, so that a stream number names one stream of this server.
    pub(super) last_stream: StreamNumber,
}

impl Copy {
    /// A copy that goes on from what its journal held.
    pub(super) fn new(
        me: Member,
        view: View,
        options: ReplicaOptions,
        recovered: Recovered,
    ) -> Copy {
        let Recovered { mut store, log, committed, adopted, recorded, log_time, .. } = recovered;
        let unsaved_bytes = recovered.unsaved_bytes;
        store.set_limits(StoreLimits::from(&view.settings));
        Copy {
            me,
            epoch: view.epoch().max(adopted),
            adopting: adopted,
            adopted,
            recording: recorded,
            recorded,
            view,
            options,
            safe: log.last().op,
            log,
            store,
            committed,
            log_time,
            complete: true,
            promises: Promises::default(),
            led: None,
            room: Room::Enough,
            own_disk: OwnDisk::default(),
            directory_gone: false,
            snapshots: Snapshots::new(unsaved_bytes),
            told_committed: committed,
            last_stream: StreamNumber(0),
        }
    }

    /// Drops everything, and has the journal begin after nothing.
    pub(super) fn become_empty(&mut self, out: &mut Vec<Effect>) {
        self.store.clear(StoreLimits::from(&self.view.settings));
        self.begin_at(Position::default(), Vec::new(), out);
    }

    /// Has log and journal begin after `base`, which the store reflects. The journal says when the
    /// base is safe.
    pub(super) fn begin_at(
        &mut self,
        base: Position,
        epochs: Vec<EpochStart>,
        out: &mut Vec<Effect>,
    ) {
        self.log.reset(base, epochs);
        self.safe = OpNumber(0);
        self.committed = base.op;
        self.told_committed = base.op;
        self.snapshots = Snapshots::new(0);
        out.push(Effect::Journal(Work::Reset { base }));
    }

    /// Adds entries to the log and gives them to the journal.
    pub(super) fn append(&mut self, entries: Vec<Arc<Entry>>, out: &mut Vec<Effect>) {
        for entry in &entries {
            self.log_time = self.log_time.max(entry.at);
            self.snapshots.note_appended(entry.weight());
            self.log.append(Arc::clone(entry));
        }
        if !entries.is_empty() {
            out.push(Effect::Journal(Work::Append(entries)));
        }
    }

    /// Drops the uncommitted entries after this op. Returns the first and last position dropped.
    pub(super) fn drop_after(
        &mut self,
        after: OpNumber,
        out: &mut Vec<Effect>,
    ) -> Option<(Position, Position)> {
        let dropped = self.log.truncate_after(after)?;
        self.safe = self.safe.min(after);
        out.push(Effect::Journal(Work::Truncate { after }));
        Some(dropped)
    }

    /// Whether a record of the present epoch is safe here: who restarts shows it, or a newer one.
    pub(super) fn has_record_of_epoch(&self) -> bool {
        let Epoch { generation, primary_since } = self.epoch;
        let since = ViewOrder { generation, number: primary_since, revision: Revision(0) };
        self.view.epoch() == self.epoch && self.recorded >= since
    }

    /// Whether the disk is nearly full.
    pub(super) fn disk_full(&self) -> bool {
        self.room == Room::Full
    }

    /// Whether the journal was given something of the log that it has not said to be safe, but may.
    pub(super) fn owes_journal(&self) -> bool {
        !self.directory_gone && (self.safe < self.log.last().op || self.adopted < self.adopting)
    }

    /// Whether this copy's own disk has stood still for `stall-after` with something to do.
    pub(super) fn disk_hangs(&self, now: Timestamp) -> bool {
        self.own_disk.waits(now) >= self.view.settings.stall_after
    }

    /// Whether what is safe outlives this process.
    pub(super) fn is_durable(&self) -> bool {
        self.options.durable && !self.directory_gone
    }

    /// The journal holds everything through this position. A completion for an entry that was
    /// truncated meanwhile says nothing.
    pub(super) fn note_safe(&mut self, position: Position) {
        if self.log.position_at(position.op) == Some(position) {
            self.safe = self.safe.max(position.op);
        }
    }

    /// Gives the journal the newest record, before anything that follows from it: no epoch is on disk
    /// without a record of it, which the next life shows.
    pub(super) fn keep_record(&mut self, out: &mut Vec<Effect>) {
        let newest = self.view.order();
        if self.recording < newest {
            self.recording = newest;
            out.push(Effect::Journal(Work::Record(Box::new(self.view.clone()))));
        }
    }

    /// Gives the journal what it should know besides: record and epoch, what is committed, and a snapshot
    /// when one is due. Called at the end of each step.
    pub(super) fn keep_up_journal(&mut self, out: &mut Vec<Effect>) {
        self.keep_record(out);
        let named = self.view.epoch() == self.epoch || !keeps(Rule::RecordBeforeMatching);
        if self.adopting < self.epoch && named {
            self.adopting = self.epoch;
            out.push(Effect::Journal(Work::Adopt(self.epoch)));
        }
        // Of what is committed no more than is on this disk too: there its place may still be taken
        // by an old tail.
        let committed = self.committed.min(self.safe);
        if self.told_committed < committed {
            self.told_committed = committed;
            out.push(Effect::Journal(Work::Committed { through: committed }));
        }
        if !self.complete || !self.is_durable() {
            return;
        }
        let tuning = &self.options.tuning;
        let is_due = self.snapshots.is_due(tuning, &self.store, self.committed, self.room);
        if is_due && self.committed > OpNumber(0) {
            let (head, end) = self.snapshot();
            self.snapshots.begin(&head, end, self.store.begin_scan(), out);
        }
        self.snapshots.advance(&self.options.tuning, &mut self.store, out);
    }

    /// What a copy of the store that is taken now is of, and what it ends with, but for its chunks.
    pub(super) fn snapshot(&self) -> (SnapshotHead, SnapshotEnd) {
        assert!(self.complete, "half a copy is no state");
        let (cluster, time) = (self.view.cluster, self.log_time);
        snapshots::describe(cluster, &self.log, self.committed, time, &self.store)
    }

    /// Commits and applies everything through `op`, telling `done` what each entry did.
    pub(super) fn commit(&mut self, op: OpNumber, mut done: impl FnMut(&Entry, Outcome)) {
        while self.committed < op {
            let next = self.committed.next();
            let entry = self.log.get(next).expect("uncommitted entries are retained");
            let outcome = self.store.apply(entry);
            done(entry, outcome);
            self.committed = next;
        }
    }

    /// What the data takes of the room that this server has for it.
    pub(super) fn memory(&self) -> Memory {
        Memory { used: self.store.bytes(), max: self.options.tuning.data_max }
    }

    /// Where an answer given now stands.
    pub(super) fn point(&self) -> LogPoint {
        LogPoint { generation: self.view.generation, op: self.committed }
    }

    /// A message from this copy, ready to be sent.
    pub(super) fn send(
        &self,
        epoch: Epoch,
        to: Member,
        stream: StreamNumber,
        body: Body,
    ) -> Effect {
        let (cluster, from) = (self.view.cluster, self.me.clone());
        Effect::Send(Message { cluster, epoch, from, to, stream, body })
    }

    /// Forgets entries that nobody needs: `keep_from` is the first op that another copy still has
    /// to be sent, which a hard limit overrules.
    pub(super) fn trim(&mut self, keep_from: Option<OpNumber>) {
        let tuning = &self.options.tuning;
        let needed = keep_from.map_or(self.committed, |op| OpNumber(op.0.saturating_sub(1)));
        let worth = usize::try_from(self.store.bytes() / RETAIN_OF_DATA).unwrap_or(usize::MAX);
        let retain = tuning.retain_bytes.min(worth.max(RETAIN_MIN));
        self.log.trim(retain, needed.min(self.committed));
        self.log.trim(tuning.retain_bytes_max, self.committed);
    }

    pub(super) fn check_invariants(&self) {
        let last = self.log.last().op;
        assert!(self.committed <= last, "CommittedIsKept: committed {} of {last}", self.committed);
        assert!(self.safe <= last, "what is safe is in the log");
        assert!(self.log.base().op <= self.committed, "only committed entries are forgotten");
    }
}
