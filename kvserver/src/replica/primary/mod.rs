//! The primary's part: its life from appointment to deposition, the commit rule, and activation.
//!
//! Beside this file: `requests` orders what clients ask, `reads` proves that it still leads,
//! `copies` keeps the streams to the others, `membership` says who of them counts, `forced_tail` is
//! what a forced generation keeps.

mod copies;
mod forced_tail;
mod membership;
mod reads;
mod requests;
mod uncommitted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kvproto::command::{Command, Entry, Outcome};
use kvproto::ids::{
    Epoch, Member, Nonce, OpNumber, Position, RequestNumber, SessionId, ViewNumber,
};
use kvproto::registration::Wish;
use kvproto::reply::{LogPoint, NotDone, Reply};
use kvproto::rules::{Rule, keeps};
use kvproto::time::{LogTime, Timestamp};
use kvproto::view::{ViewOrder, ViewStatus};

use super::WISH_AGAIN;
use super::copy::Copy;
use super::divergence::Digests;
use super::effect::{Effect, Notice};
use super::event::Token;
use super::progress::{CopyProgress, Slowness};
use membership::Disagreement;
use reads::WaitingRead;
use uncommitted::Uncommitted;

/// One primaryship: from the record that appoints this server to the newer epoch that ends it.
#[derive(Clone, Hash, Debug)]
pub struct Primary {
    epoch: Epoch,
    /// The op that marks the start of this epoch; nothing is served before it is committed.
    barrier: OpNumber,
    appointed_at: Timestamp,
    /// The newest view that was heard of before it was activated, and since when.
    proposed: (ViewNumber, Timestamp),
    /// Whether commits go by an activated record of this epoch.
    activated: bool,
    /// When this primary began to act.
    acting_since: Option<Timestamp>,
    /// The other eligible members of the activated record that commits go by.
    required: BTreeSet<Member>,
    /// A newer activated record, which is not yet safe wherever it has to be.
    settling: Option<Settling>,
    /// Copies that the view service was asked to count in, with the view of the asking: required
    /// until an activated view of a higher number is known, whatever happens to them (REP-2).
    asked: BTreeMap<Member, ViewNumber>,
    /// The other copies of the view, and any that are still required.
    copies: BTreeMap<Member, CopyProgress>,
    /// Copies that kept commits waiting of late, also those that were left out since.
    slowness: BTreeMap<Member, Slowness>,
    nonce: Nonce,
    heartbeat_at: Option<Timestamp>,
    digests: Digests,
    /// Copies disagree and nobody can tell which is right: writes have stopped.
    disagreement: Option<Disagreement>,
    /// Since when others have acknowledged what this server's own disk lacks.
    outdone_since: Option<Timestamp>,
    yield_wished_at: Option<Timestamp>,
    /// Log time goes on from here with this machine's clock.
    anchor: (Timestamp, LogTime),
    /// Callers by the op that they wait for.
    waiting: BTreeMap<OpNumber, Vec<Token>>,
    /// Requests of sessions that are ordered and not yet committed.
    in_flight: BTreeMap<(SessionId, RequestNumber), OpNumber>,
    uncommitted: Uncommitted,
    /// When a write was last refused for want of memory, until there is room again.
    out_of_memory_at: Option<Timestamp>,
    reads: VecDeque<WaitingRead>,
    /// Last sign of life of each session. Not logged: a new primary gives everybody a full lease.
    sessions: BTreeMap<SessionId, Timestamp>,
    /// Sessions whose expiry is ordered: nothing extends them any more.
    expiring: BTreeSet<SessionId>,
    sessions_looked_at: Timestamp,
    activation_wished_at: Option<(ViewNumber, Timestamp)>,
}

/// What an activated record makes required, once it is safe.
#[derive(Clone, Hash, Debug)]
struct Settling {
    order: ViewOrder,
    /// Its other eligible members.
    eligible: BTreeSet<Member>,
}

impl Primary {
    /// REP-5: keeps the whole log, uncommitted tail included, and appends this epoch's barrier. In a
    /// forced generation the tail is ordered anew after it.
    pub(super) fn appoint(copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) -> Primary {
        let epoch = copy.view.epoch();
        if !copy.complete {
            // Only `force` can name such a copy; half a transfer is no state, so it starts empty.
            copy.become_empty(out);
            copy.complete = true;
        }
        if !keeps(Rule::NewPrimaryKeepsItsTail) {
            copy.drop_after(copy.committed, out);
        }
        copy.led = Some(epoch);
        let tail = forced_tail::take(copy, out);
        let barrier = copy.log.last().op.next();
        let (position, at) = (Position { epoch, op: barrier }, copy.log_time);
        let command = Command::Barrier(copy.view.began);
        let mut batch = vec![Arc::new(Entry { position, at, id: None, command })];
        batch.extend(forced_tail::ordered_anew(&tail, position, at));
        let anchor = (now, copy.log_time);
        copy.append(batch, out);
        let mut in_flight = BTreeMap::new();
        let mut uncommitted = Uncommitted::default();
        for entry in copy.log.from(copy.committed.next(), usize::MAX) {
            let longest = uncommitted.value_length_max();
            let growth = copy.store.growth(entry.id.as_ref(), &entry.command, longest);
            uncommitted.push(entry.weight(), growth, entry.command.new_value_length_max());
            if let Some(id) = entry.id {
                in_flight.entry((id.session, id.number)).or_insert(entry.op());
            }
        }
        Primary {
            epoch,
            barrier,
            appointed_at: now,
            proposed: (copy.view.number, now),
            activated: false,
            acting_since: None,
            required: BTreeSet::new(),
            settling: None,
            asked: BTreeMap::new(),
            copies: BTreeMap::new(),
            slowness: BTreeMap::new(),
            nonce: Nonce(0),
            heartbeat_at: None,
            digests: Digests::default(),
            disagreement: None,
            outdone_since: None,
            yield_wished_at: None,
            anchor,
            waiting: BTreeMap::new(),
            in_flight,
            uncommitted,
            out_of_memory_at: None,
            reads: VecDeque::new(),
            sessions: BTreeMap::new(),
            expiring: BTreeSet::new(),
            sessions_looked_at: now,
            activation_wished_at: None,
        }
    }

    /// Ends the primaryship: whoever waits is told that the outcome is open, or for reads that
    /// nothing was done.
    pub(super) fn depose(mut self, copy: &mut Copy, out: &mut Vec<Effect>) {
        let open = self.waiting.values().map(Vec::len).sum();
        for token in self.waiting.into_values().flatten() {
            out.push(Effect::Reply { token, reply: Reply::Unknown, valid_until: None });
        }
        let primary = copy.view.primary.as_ref().filter(|primary| **primary != copy.me);
        for read in self.reads.drain(..) {
            let reply = NotDone::NotPrimary {
                primary: primary.map(|primary| primary.name.clone()),
                view: copy.view.number,
            };
            let reply = Reply::NotDone(reply);
            out.push(Effect::Reply { token: read.token, reply, valid_until: None });
        }
        for (member, progress) in &mut self.copies {
            if let Some(close) = copies::close(copy, member, progress, self.appointed_at) {
                out.push(close);
            }
        }
        out.push(Effect::Notice(Notice::Deposed { open }));
    }

    /// Takes a newer record that names this server primary of this epoch.
    pub(super) fn on_view(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let view = &copy.view;
        assert_eq!(view.epoch(), self.epoch, "a newer epoch ends the primaryship first");
        let others = view.eligible.iter().filter(|member| **member != copy.me);
        if view.number > self.proposed.0 {
            self.proposed = (view.number, now);
        }
        if view.is_activated() {
            let (order, eligible) = (view.order(), others.cloned().collect());
            self.settling = Some(Settling { order, eligible });
        } else if !keeps(Rule::ShrinkWaits) {
            self.required =
                others.filter(|member| view.backups.contains(*member)).cloned().collect();
        }
        self.know_copies(copy, now, out);
    }

    /// REP-2, VIEW-8: an activated record is what commits go by once it is safe here and with
    /// everybody who is required by it. So whoever holds what is acknowledged without the others can
    /// prove, also after a restart, that there was a newer view than theirs.
    fn settle(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let Some(Settling { order, eligible }) = &self.settling else { return };
        let outlasts = |asked_in: &ViewNumber| {
            keeps(Rule::AskedOutlastsRecords)
                && (*asked_in >= order.number || !keeps(Rule::AskedEnds))
        };
        let asked = self.asked.iter().filter(|(_, asked_in)| outlasts(asked_in));
        let proves = |member: &Member| {
            self.copies.get(member).is_some_and(|copy| copy.recorded >= order.revision)
        };
        // Without its directory nothing is acknowledged any more: it may be read all the same.
        let safe_here =
            copy.recorded >= *order || copy.directory_gone || !keeps(Rule::PrimaryKeepsTheRecord);
        let safe_there = eligible.iter().chain(asked.map(|(member, _)| member)).all(proves)
            || !keeps(Rule::CopiesKeepTheRecord);
        if !safe_here || !safe_there {
            return;
        }
        self.asked.retain(|_, asked_in| outlasts(asked_in));
        self.required = eligible.clone();
        self.settling = None;
        self.activated = true;
        self.settle_disagreement(copy);
        self.know_copies(copy, now, out);
    }

    /// Knows the copies of the view, and those that are required or will be.
    fn know_copies(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let coming = self.settling.iter().flat_map(|settling| &settling.eligible);
        let required = self.required.iter().chain(self.asked.keys()).chain(coming);
        let wanted: BTreeSet<Member> = copy.view.backups.iter().chain(required).cloned().collect();
        for member in &wanted {
            self.copies.entry(member.clone()).or_insert_with(|| CopyProgress::new(now));
        }
        let gone: Vec<_> =
            self.copies.keys().filter(|member| !wanted.contains(*member)).cloned().collect();
        for member in gone {
            if let Some(mut progress) = self.copies.remove(&member) {
                out.extend(copies::close(copy, &member, &mut progress, now));
            }
        }
    }

    /// Does everything that the events so far allow. Called at the end of each step.
    pub(super) fn advance(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        self.settle(copy, now, out);
        self.expire_sessions(copy, now, out);
        self.feed_copies(copy, now, out);
        self.commit(copy, now, out);
        self.wish_activation(copy, now, out);
        self.count_in(copy, now, out);
        self.leave_out(copy, now, out);
        self.give_way(now, out);
        self.yield_to_who_moves(copy, now, out);
        self.heartbeat(copy, now, out);
        self.answer_reads(copy, now, out);
        self.notice_room(copy, now, out);
    }

    /// Activated, and this epoch's barrier committed (BarrierBeforeActing).
    pub(super) fn is_acting(&self, copy: &Copy) -> bool {
        (self.activated || !keeps(Rule::ActsOnceActivated))
            && (copy.committed >= self.barrier || !keeps(Rule::ActsAfterItsBarrier))
    }

    /// Nothing that was ordered becomes safe any more.
    pub(super) fn on_directory_gone(&mut self, out: &mut Vec<Effect>) {
        for token in std::mem::take(&mut self.waiting).into_values().flatten() {
            out.push(Effect::Reply { token, reply: Reply::Unknown, valid_until: None });
        }
    }

    /// Through where this copy's own log counts. Without its directory it can still begin its epoch, in
    /// memory, so that the last copy of the data can be read and saved: that acknowledges nothing.
    fn own(&self, copy: &Copy) -> OpNumber {
        if copy.directory_gone { copy.safe.max(self.barrier) } else { copy.safe }
    }

    /// Everything ordered is answered.
    pub(super) fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The open stream to a copy.
    #[cfg(test)]
    pub(super) fn stream_to(&self, member: &Member) -> Option<kvproto::StreamNumber> {
        let progress = self.copies.get(member)?;
        progress.is_connected().then_some(progress.stream)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.values().map(Vec::len).sum::<usize>() + self.reads.len()
    }

    /// Whether commits wait for this copy.
    fn counts(&self, member: &Member, progress: &CopyProgress) -> bool {
        self.is_required(member) || progress.counted_from.is_some()
    }

    /// Whether the promise rests on this copy (REP-2).
    fn is_required(&self, member: &Member) -> bool {
        self.required.contains(member)
            || self.settling.as_ref().is_some_and(|settling| settling.eligible.contains(member))
            || self.asked.contains_key(member) && keeps(Rule::AskedIsRequired)
    }

    /// Every copy on which the promise rests, this one not counted.
    fn required_members(&self) -> BTreeSet<Member> {
        let coming = self.settling.iter().flat_map(|settling| &settling.eligible);
        self.required.iter().chain(self.asked.keys()).chain(coming).cloned().collect()
    }

    fn log_time(&self, copy: &Copy, now: Timestamp) -> LogTime {
        let (at, log_time) = self.anchor;
        copy.log_time.max(log_time + now.since(at))
    }

    /// REP-2: an op commits when every required copy, this one included, has it in this epoch, and
    /// nothing commits before the barrier does.
    fn commit(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        if !self.activated && keeps(Rule::ActsOnceActivated) {
            return;
        }
        let others = self
            .copies
            .iter()
            .filter(|(member, progress)| self.counts(member, progress))
            .map(|(_, progress)| progress.matched);
        let own = if keeps(Rule::OwnJournalCounts) { self.own(copy) } else { copy.log.last().op };
        let through = if !keeps(Rule::CommitWaitsForCopies) {
            own
        } else if !keeps(Rule::ReplyNeedsEveryCopy) {
            others.max().map_or(own, |most| most.min(own))
        } else {
            others.fold(own, Ord::min)
        };
        if through < self.barrier || through <= copy.committed {
            return;
        }
        let generation = copy.view.generation;
        copy.commit(through, |entry, outcome| {
            self.uncommitted.pop();
            if let Some(id) = entry.id {
                self.in_flight.remove(&(id.session, id.number));
            }
            match (&entry.command, &outcome) {
                (_, Outcome::SessionOpened(session)) => {
                    self.sessions.insert(*session, now);
                }
                (
                    Command::CloseSession(session) | Command::ExpireSession(session),
                    Outcome::SessionClosed { .. },
                ) => {
                    self.sessions.remove(session);
                    self.expiring.remove(session);
                }
                _ => {}
            }
            let at = LogPoint { generation, op: entry.op() };
            self.answer(at, &outcome, out);
        });
        if self.acting_since.is_none() {
            self.begin_to_act(copy, now, out);
        }
    }

    /// Answers everybody who waits for an op.
    fn answer(&mut self, at: LogPoint, outcome: &Outcome, out: &mut Vec<Effect>) {
        for token in self.waiting.remove(&at.op).into_iter().flatten() {
            let reply = Reply::Done { at, outcome: outcome.clone() };
            out.push(Effect::Reply { token, reply, valid_until: None });
        }
    }

    fn begin_to_act(&mut self, copy: &Copy, now: Timestamp, out: &mut Vec<Effect>) {
        self.acting_since = Some(now);
        let alive_at = if keeps(Rule::PromotionRenewsLeases) { now } else { Timestamp::default() };
        self.sessions = copy.store.sessions().map(|session| (session, alive_at)).collect();
        out.push(Effect::Notice(Notice::Serving { took: now.since(self.appointed_at) }));
    }

    /// VIEW-4: asks for activation once every eligible backup of the view holds exactly this log,
    /// and the leases promised to earlier epochs are over.
    fn wish_activation(&mut self, copy: &Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let view = &copy.view;
        if view.status == ViewStatus::Activated || self.own(copy) < self.barrier {
            return;
        }
        let promised = copy.promises.last_before(self.epoch);
        if promised.is_some_and(|until| now < until) && keeps(Rule::PromisesAreKept) {
            return;
        }
        let mut reconciled = Vec::new();
        for backup in view.backups.iter().filter(|backup| view.eligible.contains(backup)) {
            let holds = |copy: &CopyProgress| copy.matched >= self.barrier;
            if !self.copies.get(backup).is_some_and(holds) && keeps(Rule::ReconciledHoldTheBarrier)
            {
                return;
            }
            reconciled.push(backup.clone());
        }
        let repeated = self
            .activation_wished_at
            .is_some_and(|(number, at)| number == view.number && now.since(at) < WISH_AGAIN);
        if !repeated {
            self.activation_wished_at = Some((view.number, now));
            let (generation, number) = (view.generation, view.number);
            out.push(Effect::Wish(Wish::Activate { generation, number, reconciled }));
        }
    }

    pub(super) fn check_invariants(&self, copy: &Copy) {
        assert_eq!(self.epoch, copy.epoch, "OldEpochRefused: a primary of an older epoch is over");
        assert!(self.barrier <= copy.log.last().op, "the barrier stays in the log");
        assert!(
            self.acting_since.is_none() || self.is_acting(copy),
            "BarrierBeforeActing: acting began before the barrier was committed"
        );
        for (member, progress) in &self.copies {
            assert!(progress.matched <= copy.log.last().op, "nobody has what was never ordered");
            let free = !self.is_required(member) && !copy.view.eligible.contains(member);
            assert!(
                free || !matches!(progress.phase, super::progress::Phase::Transferring(_)),
                "FreeBeforeTransfer: {member} is counted on and must not be emptied"
            );
        }
    }
}
