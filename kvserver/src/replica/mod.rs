//! The replication protocol as one pure value: [`Replica::step`] takes what happened and says what
//! to do. It knows no socket, file, task or clock; time is an argument, and everything it wants
//! done is an [`Effect`].
//!
//! In reading order:
//! - [`event`], [`effect`]: what goes in, what comes out, and the contract between them
//! - [`log`]: the retained entries and which epoch ordered each
//! - [`copy`]: what every copy holds, whatever part it plays
//! - [`own_disk`]: whether its disk moves
//! - [`promise`]: the leases this copy granted
//! - [`following`]: a copy under a primary: fenced, matched, acknowledged, filled by a transfer
//! - [`progress`]: what a primary knows of one other copy
//! - [`primary`]: ordering, commit, promotion, reads, who is counted in and who is left out
//! - [`divergence`]: comparing digests, and who leaves when they differ
//! - [`snapshots`]: when a copy writes its state to disk, and at which pace
//! - [`recovery`]: a copy rebuilt from what its journal holds
//! - `broken`: what breaking a rule would do, for tests that drop one
//!
//! The invariants, named here and told in `docs/protocol.md`; [`Replica::check_invariants`] looks
//! at them after every step:
//! - **OneOrder**: two ops never share a position, and positions grow along the log.
//! - **CommittedIsKept**: nothing at or below the committed op is ever truncated.
//! - **ReplyNeedsEveryCopy**: an op commits only when every required copy has it.
//! - **OldEpochRefused**: a message of an older epoch changes nothing.
//! - **OnlyMatchedCounts**: a copy acknowledges and applies only what it matched with this epoch's
//!   primary.
//! - **BarrierBeforeActing**: a primary acts only when its view is activated and its barrier
//!   committed.
//! - **FreeBeforeTransfer**: a full copy goes only to a copy that nobody counts on.

pub mod effect;
pub mod event;

mod broken;
pub mod copy;
pub mod divergence;
pub mod following;
pub mod log;
pub mod own_disk;
pub mod primary;
pub mod progress;
pub mod promise;
pub mod recovery;
pub mod snapshots;
#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};

use kvproto::ids::{Epoch, Member, OpNumber, StreamNumber};
use kvproto::message::{Body, Message};
use kvproto::registration::{Progress, Wish};
use kvproto::reply::{LogPoint, NotDone, Reply};
use kvproto::rules::{Rule, keeps};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::time::Timestamp;
use kvproto::view::{Role, View};

use crate::journal::{Completion, Room};
use crate::store::{Items, Store};
use copy::Copy;
use effect::{Effect, Notice, Published, Serves};
use event::{Event, Request};
use following::Following;
use log::Log;
use primary::Primary;
use recovery::Recovered;

/// How a primary proves that it still leads before it answers a read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reads {
    /// By a lease that its backups granted; falls back to confirming.
    Lease,
    /// By asking every required backup anew. Depends on no clock.
    Confirm,
}

/// What this server may decide for itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaOptions {
    /// How reads are proven.
    pub reads: Reads,
    /// Windows and budgets.
    pub tuning: Tuning,
    /// What the journal says is safe survives this process.
    pub durable: bool,
}

/// Windows and budgets in bytes and counts. The defaults suit production; simulations shrink them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tuning {
    /// Entries sent to one copy and not yet acknowledged.
    pub window_bytes: usize,
    /// Appends sent to one copy and not yet acknowledged. Below the queue of a stream, so that a
    /// full queue always means a stuck connection.
    pub window_appends: usize,
    /// One append closes at this size, but takes at least one entry.
    pub batch_bytes: usize,
    /// Most committed entries kept for copies that come back, once there is enough data.
    pub retain_bytes: usize,
    /// Entries kept for copies that are being brought up; beyond it their transfer starts anew.
    pub retain_bytes_max: usize,
    /// One chunk of a transfer.
    pub chunk_bytes: usize,
    /// Chunks sent and not yet acknowledged.
    pub chunks_in_flight: u64,
    /// Entries ordered and not yet committed; beyond it requests are refused.
    pub uncommitted_bytes_max: usize,
    /// Reads that wait for a confirmation; beyond it they are refused.
    pub waiting_reads_max: usize,
    /// Memory that there is for the data; a primary refuses writes that grow it beyond.
    pub data_max: u64,
    /// A copy with a disk writes its state to disk when so much was appended since it did so last, or half of
    /// what its data takes if that is more.
    pub snapshot_after_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            window_bytes: 16 << 20,
            window_appends: 256,
            batch_bytes: kvproto::limits::BATCH_SIZE_MAX,
            retain_bytes: 32 << 20,
            retain_bytes_max: 1 << 30,
            chunk_bytes: 128 << 10,
            chunks_in_flight: 32,
            uncommitted_bytes_max: 64 << 20,
            waiting_reads_max: 16_384,
            data_max: u64::MAX,
            // Some half as much on disk, which is read again in a fraction of a second.
            snapshot_after_bytes: 128 << 20,
        }
    }
}

/// One copy of the data for one life of a server process.
#[derive(Clone, Debug)]
pub struct Replica {
    copy: Copy,
    following: Following,
    primary: Option<Primary>,
    /// This life has no part any more, whatever it hears.
    estranged: bool,
    /// The newest opening of a stream to this copy, until it is answered.
    knocking: Option<Message>,
    /// The operator wants this server to stop.
    leaving: bool,
    /// This server led an older epoch and owes the present primary the word that it stopped.
    release_due: bool,
    role: Role,
    wished_to_leave_at: Option<Timestamp>,
    /// Without its directory, and not counted on by anybody: said once.
    left: bool,
    stepped_at: Timestamp,
    /// What was published last.
    shown: Published,
    steps: u64,
}

/// Everything that decides what the replica will do. The count of its steps is left out, so that
/// states that differ in nothing else are one to whoever explores them, and what was published,
/// which follows from the rest.
impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Replica {
            copy,
            following,
            primary,
            estranged,
            knocking,
            leaving,
            release_due,
            role,
            wished_to_leave_at,
            left,
            stepped_at,
            shown: _,
            steps: _,
        } = self;
        (copy, following, primary, knocking, leaving, release_due).hash(state);
        (estranged, role, wished_to_leave_at, left, stepped_at).hash(state);
    }
}

/// A wish that the view service has not granted is repeated this often.
const WISH_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

impl Replica {
    /// A new, empty copy. `view` is the record that came with the registration; the first
    /// [`Event::View`] with it, or a newer one, gives the replica its part. Its items will be in this
    /// table, which nobody may read during a step.
    #[must_use]
    pub fn new(
        me: Member,
        view: View,
        options: ReplicaOptions,
        items: Items,
        now: Timestamp,
    ) -> Replica {
        Replica::resume(me, view, options, Recovered::nothing(items), now)
    }

    /// A copy that goes on from what its journal held when this life began. Of leases it granted it
    /// knows nothing any more, so it waits as long as one granted at this moment would last.
    #[must_use]
    pub fn resume(
        me: Member,
        view: View,
        options: ReplicaOptions,
        recovered: Recovered,
        now: Timestamp,
    ) -> Replica {
        let held_nothing = recovered.is_nothing();
        let mut copy = Copy::new(me, view, options, recovered);
        if !held_nothing && keeps(Rule::RestartPromises) {
            let until = now + copy.view.settings.lease;
            copy.promises.promise(&Member::default(), Epoch::default(), until);
        }
        let mut replica = Replica {
            copy,
            following: Following::default(),
            primary: None,
            estranged: false,
            knocking: None,
            leaving: false,
            release_due: false,
            role: Role::Spare,
            wished_to_leave_at: None,
            left: false,
            stepped_at: now,
            shown: Published { at: LogPoint::default(), serves: Serves::No },
            steps: 0,
        };
        replica.role = replica.present_role();
        replica
    }

    /// Takes one event and appends what has to be done to `effects`, to be performed in order.
    /// `now` must be read after the event was taken from its queue.
    pub fn step(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        self.steps += 1;
        let first = effects.len();
        let filled = (self.copy.committed, self.following.chunks());
        self.notice_pause(now);
        match event {
            Event::Message(_) | Event::View(_) if self.estranged => {}
            Event::Requests(requests) => self.on_requests(now, requests, effects),
            Event::Message(message) => self.on_message(now, message, effects),
            Event::StreamBroken { peer, stream } => {
                if let Some(primary) = &mut self.primary {
                    primary.on_stream_broken(&mut self.copy, now, &peer, stream);
                }
            }
            Event::Confirmed { peer, stream } => {
                if let Some(primary) = &mut self.primary {
                    primary.on_confirmed(now, &peer, stream);
                }
            }
            Event::View(view) => self.learn(now, *view, effects),
            Event::Journal(completion) => self.on_journal(now, completion, effects),
            Event::Tick => self.copy.promises.forget_past(now),
            Event::Leave => self.leaving = true,
            Event::Stay => self.stay(),
            Event::Estranged if !keeps(Rule::OtherPastStandsStill) => {}
            Event::Estranged => self.stand_still(effects),
            Event::NobodyToTakeOver => self.on_nobody_to_take_over(effects),
        }
        self.let_in(now, effects);
        if let Some(primary) = &mut self.primary {
            primary.advance(&mut self.copy, now, effects);
        }
        self.advance_leaving(now, effects);
        self.look_at_disk(now, effects);
        let keep_from = self.primary.as_ref().and_then(Primary::keep_from);
        self.copy.trim(keep_from);
        self.copy.keep_up_journal(effects);
        let owes = self.copy.owes_journal() || self.following.owes_chunks();
        self.copy.own_disk.note_owes(now, owes);
        let role = self.present_role();
        if role != self.role {
            effects.push(Effect::Notice(Notice::RoleChanged { from: self.role, to: role }));
            self.role = role;
        }
        let published = self.publish();
        let place = if keeps(Rule::PublishedFirst) { first } else { effects.len() };
        effects.splice(place..place, published.map(Effect::Publish));
        self.check_invariants();
        // Checking the store may walk all of it: only when ops or chunks went into it. Not by its
        // digest, which is what the check doubts.
        if (self.copy.committed, self.following.chunks()) != filled {
            self.copy.store.check_invariants();
        }
    }

    /// What readers may know that they do not know yet.
    fn publish(&mut self) -> Option<Published> {
        let at = self.copy.point();
        let serves = self.primary.as_ref().map_or(Serves::No, |primary| primary.serves(&self.copy));
        let published = Published { at, serves };
        let news = self.shown != published;
        self.shown = published;
        news.then_some(published)
    }

    /// Progress for pings.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            view: self.copy.view.order(),
            history: self.copy.view.history,
            appended: self.copy.log.last().op,
            committed: self.copy.committed,
            // What is committed is applied in the same step.
            applied: self.copy.committed,
            steps: self.steps,
            role: self.role,
            memory: self.copy.memory(),
            disk_full: self.copy.disk_full(),
            disk_waits: self.copy.own_disk.waits(self.stepped_at),
            directory_gone: self.copy.directory_gone,
        }
    }

    /// The part that this server plays.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this server acts as primary: activated, and its barrier committed.
    #[must_use]
    pub fn is_acting(&self) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.is_acting(&self.copy))
    }

    /// Whether this copy holds a usable state: not between the start of a transfer and its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.copy.complete
    }

    /// The newest record known.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.copy.view
    }

    /// The data, as committed.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.copy.store
    }

    /// The data, for scans.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.copy.store
    }

    /// The log, uncommitted tail included.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.copy.log
    }

    /// The newest epoch this server has heard of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.copy.epoch
    }

    /// What a copy of the store that is taken now is of, and what it ends with, but for its chunks.
    ///
    /// # Panics
    /// If this copy is only half there.
    #[must_use]
    pub fn snapshot(&self) -> (SnapshotHead, SnapshotEnd) {
        self.copy.snapshot()
    }

    /// The last op committed and applied.
    #[must_use]
    pub fn committed(&self) -> OpNumber {
        self.copy.committed
    }

    fn present_role(&self) -> Role {
        match (&self.primary, self.copy.view.role_of(&self.copy.me)) {
            (Some(_), _) => Role::Primary,
            (None, _) if self.estranged => Role::Spare,
            // Named by a record, but a newer epoch is known: no longer.
            (None, Role::Primary) => Role::Spare,
            (None, role) => role,
        }
    }

    fn on_requests(&mut self, now: Timestamp, requests: Vec<Request>, out: &mut Vec<Effect>) {
        if let Some(primary) = &mut self.primary {
            primary.on_requests(&mut self.copy, now, requests, self.leaving, out);
            return;
        }
        let view = &self.copy.view;
        let primary = view.primary.as_ref().filter(|primary| **primary != self.copy.me);
        for request in requests {
            let reply = NotDone::NotPrimary {
                primary: primary.map(|primary| primary.name.clone()),
                view: view.number,
            };
            out.push(Effect::Reply {
                token: request.token,
                reply: Reply::NotDone(reply),
                valid_until: None,
            });
        }
    }

    /// Tells people when this server's disk begins to hang, and when it moves again.
    fn look_at_disk(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let hangs = self.copy.disk_hangs(now);
        let news = self.copy.own_disk.news(hangs);
        out.extend(news.map(|hangs| Effect::Notice(Notice::DiskHangs(hangs))));
    }

    fn on_journal(&mut self, now: Timestamp, completion: Completion, out: &mut Vec<Effect>) {
        let of_the_log = match &completion {
            Completion::Safe(_)
            | Completion::Adopted(_)
            | Completion::Recorded(_)
            | Completion::Read { .. } => true,
            Completion::ChunksWritten(_) => !self.copy.complete,
            // Another thread of the journal said so, or nothing was written for it.
            Completion::Snapshot(_)
            | Completion::SnapshotGivenUp
            | Completion::Room(_)
            | Completion::DirectoryGone => false,
        };
        if of_the_log {
            self.copy.own_disk.note_done(now);
        }
        match completion {
            Completion::Safe(position) => {
                self.copy.note_safe(position);
                self.following.acknowledge_safe(&self.copy, out);
            }
            Completion::Adopted(epoch) => {
                self.copy.adopted = self.copy.adopted.max(epoch);
                self.following.acknowledge_safe(&self.copy, out);
            }
            Completion::Recorded(order) => {
                self.copy.recorded = self.copy.recorded.max(order);
                self.following.acknowledge_record(&self.copy, out);
            }
            Completion::ChunksWritten(chunks) if self.copy.complete => {
                self.copy.snapshots.note_written(chunks);
            }
            Completion::ChunksWritten(chunks) => {
                self.following.acknowledge_chunks(&self.copy, chunks, out);
            }
            Completion::Read { from, entries } => {
                let entries = entries.unwrap_or_else(|what| {
                    self.copy.snapshots.note_unreadable(self.copy.log.last().op);
                    out.push(Effect::Notice(Notice::LogUnreadable { from, what }));
                    Vec::new()
                });
                if let Some(primary) = &mut self.primary {
                    primary.on_entries_read(&mut self.copy, now, from, entries, out);
                }
            }
            Completion::Snapshot(at) => {
                self.copy.snapshots.note_done(at);
                out.push(Effect::Notice(Notice::SnapshotSaved { at: at.op }));
            }
            Completion::SnapshotGivenUp => {
                self.copy.snapshots.note_given_up(&mut self.copy.store);
                out.push(Effect::Notice(Notice::SnapshotGivenUp));
            }
            Completion::DirectoryGone => {
                self.copy.directory_gone = true;
                self.copy.snapshots.note_given_up(&mut self.copy.store);
                let me = self.copy.me.name.clone();
                out.push(Effect::Notice(Notice::DirectoryGone { me }));
                if let Some(primary) = &mut self.primary {
                    primary.on_directory_gone(out);
                }
            }
            Completion::Room(room) => {
                if room == Room::Enough {
                    self.copy.snapshots.note_room();
                }
                let was_full = self.copy.disk_full();
                self.copy.room = room;
                let full = self.copy.disk_full();
                out.extend((full != was_full).then_some(Effect::Notice(Notice::DiskFull(full))));
            }
        }
    }

    fn on_message(&mut self, now: Timestamp, message: Message, out: &mut Vec<Effect>) {
        let for_me = message.to == self.copy.me || !keeps(Rule::TargetIncarnation);
        if message.cluster != self.copy.view.cluster || !for_me {
            return;
        }
        match message.body {
            // Speaks of promises only, and may arrive before the record that makes us primary.
            Body::Released => {
                self.copy.promises.release(&message.from, message.epoch);
                return;
            }
            Body::Fenced => {
                self.hear_of(message.epoch, out);
                return;
            }
            _ => {}
        }
        if message.epoch < self.copy.epoch && keeps(Rule::OldEpochRefused) {
            // Nobody is ended by what cannot be proven afterwards.
            if message.body.is_from_primary() && self.copy.has_record_of_epoch() {
                out.push(self.fence(&message));
            }
            return;
        }
        self.hear_of(message.epoch, out);
        match (&mut self.primary, message.body.is_from_primary()) {
            (None, true) if matches!(message.body, Body::Open { .. }) => {
                let newest = self.knocking.as_ref().map(|known| (known.epoch, known.stream));
                if newest < Some((message.epoch, message.stream))
                    || !keeps(Rule::NewestStreamCounts)
                {
                    self.knocking = Some(message);
                }
            }
            (None, true) if message.epoch <= self.copy.epoch => {
                self.following.on_message(&mut self.copy, now, message, out);
            }
            (Some(primary), false) => primary.on_message(&mut self.copy, now, message, out),
            // An answer to a primaryship that is over, or another primary of our own epoch, which
            // cannot be.
            _ => {}
        }
    }

    /// VIEW-8: an opening is answered once a record of its epoch is safe here. Whoever matches with a
    /// primary knows from the view service itself that it is one, and can prove afterwards that it was.
    fn let_in(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let copy = &self.copy;
        let is_over = |epoch| epoch < copy.epoch && keeps(Rule::OldEpochRefused);
        let may = copy.has_record_of_epoch() || !keeps(Rule::RecordBeforeMatching);
        let due = |knock: &mut Message| is_over(knock.epoch) || knock.epoch == copy.epoch && may;
        let Some(knock) = self.knocking.take_if(due) else {
            return;
        };
        if knock.epoch < copy.epoch {
            // Its primary will try again.
            return;
        }
        if knock.body != (Body::Open { began: copy.view.began })
            && keeps(Rule::EpochsHaveTheirHistory)
        {
            // An epoch of this name, but of another past.
            return;
        }
        // Counted on as a backup again, whatever it led before.
        self.copy.led = None;
        self.following.on_message(&mut self.copy, now, knock, out);
    }

    fn fence(&self, message: &Message) -> Effect {
        self.copy.send(self.copy.epoch, message.from.clone(), message.stream, Body::Fenced)
    }

    /// A peer knows of this epoch. A primary stops at once when it is a newer one; but which epochs
    /// there are a copy learns from the view service alone (VIEW-8).
    fn hear_of(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if self.primary.is_some() || !keeps(Rule::RecordBeforeMatching) {
            self.adopt(epoch, out);
        }
    }

    /// Takes a view record. Older ones, and repetitions, change nothing (REP-2).
    fn learn(&mut self, now: Timestamp, view: View, out: &mut Vec<Effect>) {
        if view.cluster != self.copy.view.cluster && keeps(Rule::RecordsOfOwnCluster) {
            return;
        }
        // The record that came with the registration is given again as the first event.
        let first = self.primary.is_none() && view == self.copy.view;
        let known = &self.copy.view;
        let older = if keeps(Rule::RecordsByRevision) {
            view.order() <= known.order()
        } else {
            (view.generation, view.number) < (known.generation, known.number) || view == *known
        };
        if older && !first {
            return;
        }
        let changed = view.number != self.copy.view.number;
        let epoch = view.epoch();
        self.copy.view = view;
        self.copy.keep_record(out);
        if changed {
            out.push(Effect::Notice(Notice::ViewChanged));
        }
        if epoch < self.copy.epoch {
            return;
        }
        self.adopt(epoch, out);
        if self.copy.view.is_primary(&self.copy.me) {
            if self.primary.is_none() {
                self.following = Following::default();
                self.primary = Some(Primary::appoint(&mut self.copy, now, out));
            }
        } else if self.release_due {
            self.release_due = false;
            if let Some(primary) = self.copy.view.primary.clone() {
                out.push(self.copy.send(epoch, primary, StreamNumber(0), Body::Released));
            }
        }
        if let Some(primary) = &mut self.primary {
            primary.on_view(&mut self.copy, now, out);
        }
    }

    /// Takes a newer epoch: what was matched with the old primary no longer counts, and a primary
    /// of an older epoch stops at once (REP-3).
    fn adopt(&mut self, epoch: Epoch, out: &mut Vec<Effect>) {
        if epoch <= self.copy.epoch {
            return;
        }
        self.copy.epoch = epoch;
        self.following = Following::default();
        if let Some(primary) = self.primary.take_if(|_| keeps(Rule::DeposedStops)) {
            primary.depose(&mut self.copy, out);
            self.release_due = true;
        }
    }

    /// A server that was paused itself must not blame the others for its own silence. Ticks come
    /// every few milliseconds, so a long gap between two steps was a pause, whatever ends it.
    fn notice_pause(&mut self, now: Timestamp) {
        let gap = now.since(self.stepped_at);
        self.stepped_at = now;
        if gap < self.copy.view.settings.heartbeat_interval * 2 {
            return;
        }
        self.copy.own_disk.forgive(now);
        if let Some(primary) = &mut self.primary {
            primary.forgive(now);
        }
    }

    fn stay(&mut self) {
        self.leaving &= !keeps(Rule::LeavingMayResume);
        self.wished_to_leave_at = None;
    }

    fn stand_still(&mut self, out: &mut Vec<Effect>) {
        self.estranged = true;
        self.following = Following::default();
        self.knocking = None;
        if let Some(primary) = self.primary.take() {
            primary.depose(&mut self.copy, out);
        }
    }

    fn on_nobody_to_take_over(&mut self, out: &mut Vec<Effect>) {
        if !self.leaving {
            return;
        }
        if self.copy.is_durable() {
            // Everything acknowledged is on disk, and waits there for the next start.
            out.push(Effect::Left);
            return;
        }
        self.stay();
        let keys = self.copy.store.key_count() as u64;
        if keys == 0 && self.copy.store.session_count() == 0 {
            out.push(Effect::Left);
        } else {
            out.push(Effect::Notice(Notice::OnlyCopy { keys }));
        }
    }

    /// REP-10: drain, ask for a view without this server, and leave once it is known. What waits for a
    /// disk that hangs is not drained. A copy without its directory asks for nothing: the view service
    /// hears it with each ping, and knows whether anybody is better. It goes when nobody counts on it any
    /// more.
    fn advance_leaving(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let gone = self.copy.directory_gone;
        if self.left || !(self.leaving || gone) {
            return;
        }
        if self.estranged {
            // Nobody takes over what nobody else knows.
            return self.on_nobody_to_take_over(out);
        }
        let view = &self.copy.view;
        let out_of_view = view.role_of(&self.copy.me) == Role::Spare && self.primary.is_none();
        // A backup is counted on until the view without it is activated. A former primary is not:
        // it can never serve again in the epoch that it left.
        let handed_over = self.copy.led.is_some_and(|led| led < view.epoch())
            && view.primary_since == view.number;
        // The successor may lose its directory before it can begin: what this one holds in memory must
        // still be there then.
        let waits_for_another = gone && keeps(Rule::GoneWaitsForAnother);
        let handed_over = handed_over && (view.is_activated() || !waits_for_another);
        let counted_on =
            view.eligible.contains(&self.copy.me) && (waits_for_another || !view.is_activated());
        if out_of_view && (handed_over || !counted_on) {
            self.leaving = false;
            self.left = gone;
            out.push(Effect::Left);
            return;
        }
        if !self.leaving {
            return;
        }
        let hangs = self.copy.disk_hangs(now) && keeps(Rule::LeavingNeedsNoDisk);
        let drained = gone || hangs || self.primary.as_ref().is_none_or(Primary::is_drained);
        let due = self.wished_to_leave_at.is_none_or(|at| now.since(at) >= WISH_AGAIN);
        if drained && due && !out_of_view {
            if self.wished_to_leave_at.is_none() {
                out.push(Effect::Notice(Notice::HandingOver));
            }
            self.wished_to_leave_at = Some(now);
            out.push(Effect::Wish(Wish::Leave));
        }
    }

    /// Checks the named invariants of the module header that one copy alone can see. Called after
    /// every step; panics when the protocol is broken, because going on would break promises.
    pub fn check_invariants(&self) {
        self.copy.check_invariants();
        if let Some(primary) = &self.primary {
            primary.check_invariants(&self.copy);
        }
    }

    /// Requests that wait to be committed or confirmed. A simulation sees by it that nobody is
    /// forgotten.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.primary.as_ref().map_or(0, Primary::waiting)
    }
}
