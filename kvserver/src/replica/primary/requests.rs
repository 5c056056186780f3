//! What clients ask: admitted, recognised when repeated, ordered as one batch.

use std::sync::Arc;
use std::time::Duration;

use kvproto::command::{Command, Entry, RequestId};
use kvproto::digest;
use kvproto::ids::{Member, OpNumber, Position, SessionId, Version};
use kvproto::registration::Memory;
use kvproto::reply::{LogPoint, NotDone, NotReady, Reply};
use kvproto::rules::{Rule, keeps};
use kvproto::time::Timestamp;

use super::Primary;
use crate::replica::broken;
use crate::replica::copy::Copy;
use crate::replica::effect::{Effect, Notice};
use crate::replica::event::{Operation, Request, Token};

/// Sessions are looked at for expiry this often.
const SESSIONS_LOOKED_AT_EVERY: Duration = Duration::from_millis(200);

/// Writes are said to find room again when none was refused for so long.
const ROOM_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// What only takes away passes without room for the data, though the answer of its condition, which is
/// remembered, may take so many bytes.
const ANSWER_PASSES_MAX: u64 = 4 << 10;

impl Primary {
    pub(in crate::replica) fn on_requests(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        requests: Vec<Request>,
        leaving: bool,
        out: &mut Vec<Effect>,
    ) {
        let mut batch = Vec::new();
        for Request { token, operation } in requests {
            if !self.is_acting(copy) {
                refuse(token, NotDone::NotReady(NotReady::TakingOver), out);
                continue;
            }
            if let Some(wrong) = self.disagreement.as_ref().filter(|wrong| wrong.own) {
                refuse(token, NotDone::Diverged { op: wrong.at }, out);
                continue;
            }
            let Operation::Command { id, command } = operation else {
                self.on_read(copy, now, token, operation, out);
                continue;
            };
            if copy.directory_gone
                && let Some(reply) = self.without_directory(copy, id.as_ref(), &command)
            {
                out.push(Effect::Reply { token, reply, valid_until: None });
                continue;
            }
            if let Some(id) = &id
                && self.is_repetition(copy, now, token, id, &command, &batch, out)
            {
                continue;
            }
            let longest = self.uncommitted.value_length_max();
            let growth = copy.store.growth(id.as_ref(), &command, longest);
            let refusal = self.refuses_writes(copy, leaving);
            let refusal = refusal.or_else(|| self.refuse_growth(copy, now, &command, growth, out));
            if let Some(reason) = refusal {
                refuse(token, reason, out);
                continue;
            }
            let op = self.order(copy, now, id, command, growth, &mut batch);
            self.waiting.entry(op).or_default().push(token);
        }
        copy.append(batch, out);
        if !keeps(Rule::ReplyAfterCommit) {
            let generation = copy.view.generation;
            for (op, outcome) in broken::as_if_committed(copy).1 {
                self.answer(LogPoint { generation, op }, &outcome, out);
            }
        }
    }

    /// What is said of a write while nothing becomes safe: that it is certainly not done, unless it may
    /// have been done before. `None` if it was, and is on every disk.
    fn without_directory(
        &self,
        copy: &Copy,
        id: Option<&RequestId>,
        command: &Command,
    ) -> Option<Reply> {
        let ordered = |id: &RequestId| self.in_flight.contains_key(&(id.session, id.number));
        let applied = |id: &RequestId| copy.store.remembered(id, command).is_some();
        match id {
            Some(id) if ordered(id) => Some(Reply::Unknown),
            Some(id) if applied(id) => (copy.safe < copy.committed).then_some(Reply::Unknown),
            _ => {
                let server = copy.me.name.clone();
                Some(Reply::NotDone(NotDone::DirectoryGone { server }))
            }
        }
    }

    fn refuses_writes(&self, copy: &Copy, leaving: bool) -> Option<NotDone> {
        let synced = u32::try_from(self.required.len()).unwrap_or(u32::MAX).saturating_add(1);
        let min_copies = copy.view.settings.min_copies;
        if leaving {
            Some(NotDone::NotReady(NotReady::HandingOver))
        } else if let Some(disagreement) = &self.disagreement {
            Some(NotDone::Diverged { op: disagreement.at })
        } else if synced < min_copies {
            Some(NotDone::TooFewCopies { synced, min_copies })
        } else if let Some(full) = self.full_disk(copy) {
            Some(NotDone::DiskFull { server: full.name.clone() })
        } else if self.uncommitted.weight() >= copy.options.tuning.uncommitted_bytes_max {
            Some(NotDone::Overloaded)
        } else {
            None
        }
    }

    /// A copy that must have each write and hardly has room for it.
    fn full_disk<'a>(&'a self, copy: &'a Copy) -> Option<&'a Member> {
        let mut others = self.copies.iter().filter(|(member, it)| self.counts(member, it));
        let own = copy.disk_full().then_some(&copy.me);
        own.or_else(|| others.find(|(_, it)| it.disk_full).map(|(member, _)| member))
    }

    /// Whether the data would outgrow the room that this server has for it. What is ordered already
    /// counts: it can no longer be refused. Whatever may make room passes, or only ends something,
    /// unless its answer might have to hold a large value.
    fn refuse_growth(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        command: &Command,
        growth: u64,
        out: &mut Vec<Effect>,
    ) -> Option<NotDone> {
        let Memory { used, max } = copy.memory();
        let used = used.saturating_add(self.uncommitted.growth());
        let small = !command.has_condition() || growth <= ANSWER_PASSES_MAX;
        if used.saturating_add(growth) <= max || (small && !command.may_grow()) {
            return None;
        }
        if self.out_of_memory_at.replace(now).is_none() {
            out.push(Effect::Notice(Notice::OutOfMemory(Memory { used, max })));
        }
        Some(NotDone::OutOfMemory { used, max })
    }

    /// Says once that there is room again: a twentieth of it, and nobody was refused for a while. So
    /// a store that is nearly full, or one large value that never fits, does not fill the log.
    pub(super) fn notice_room(&mut self, copy: &Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let Memory { used, max } = copy.memory();
        if let Some(at) = self.out_of_memory_at
            && now.since(at) >= ROOM_AGAIN_AFTER
            && used <= max / 20 * 19
        {
            self.out_of_memory_at = None;
            out.push(Effect::Notice(Notice::RoomAgain(Memory { used, max })));
        }
    }

    /// Whether a request was seen before: then it waits for its op, whoever ordered it, or is
    /// answered as it was. This is asked before any refusal, since it is done already.
    #[expect(clippy::too_many_arguments, reason = "one request in its parts, and where it goes")]
    fn is_repetition(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        token: Token,
        id: &RequestId,
        command: &Command,
        batch: &[Arc<Entry>],
        out: &mut Vec<Effect>,
    ) -> bool {
        self.note_session_alive(id.session, now);
        if !keeps(Rule::RepeatsAreRecognised) {
            return false;
        }
        if let Some(op) = self.in_flight.get(&(id.session, id.number)).copied() {
            let ordered = match copy.log.get(op) {
                Some(entry) => Some(entry),
                None => batch.iter().find(|entry| entry.op() == op),
            };
            let asked = digest::of_command(command);
            if ordered.is_some_and(|entry| digest::of_command(&entry.command) == asked) {
                self.waiting.entry(op).or_default().push(token);
                return true;
            }
        }
        if let Some(outcome) = copy.store.remembered(id, command) {
            let reply = Reply::Done { at: copy.point(), outcome };
            out.push(Effect::Reply { token, reply, valid_until: None });
            return true;
        }
        false
    }

    /// Gives a command its place and time. Whatever else there is to say about it is said when it
    /// is applied.
    fn order(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        id: Option<RequestId>,
        command: Command,
        growth: u64,
        batch: &mut Vec<Arc<Entry>>,
    ) -> OpNumber {
        let last = batch.last().map_or(copy.log.last().op, |entry| entry.op());
        let position = Position { epoch: self.epoch, op: last.next() };
        let mut command = command.in_own_memory();
        // A version that is not committed here is not known to anybody from here: who names it has it
        // from another primary, where it is that of another op, or from nowhere.
        let known = Version::of_change_at(self.epoch.generation, copy.committed);
        command.rename_versions(|version| {
            (version > known && keeps(Rule::NamesAreGivenFirst)).then(Version::default)
        });
        let entry = Entry { position, at: self.log_time(copy, now), id, command };
        let value_length = entry.command.new_value_length_max();
        self.uncommitted.push(entry.weight(), growth, value_length);
        if let Some(id) = id {
            self.in_flight.entry((id.session, id.number)).or_insert(position.op);
        }
        batch.push(Arc::new(entry));
        position.op
    }

    /// A sign of life of a session, unless its expiry is ordered.
    pub(super) fn note_session_alive(&mut self, session: SessionId, now: Timestamp) {
        if !self.expiring.contains(&session)
            && let Some(at) = self.sessions.get_mut(&session)
        {
            *at = now;
        }
    }

    /// Orders the expiry of sessions whose lease, counted from their last sign of life or from the
    /// promotion, is over.
    pub(super) fn expire_sessions(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        out: &mut Vec<Effect>,
    ) {
        if self.acting_since.is_none()
            || self.disagreement.is_some()
            || copy.directory_gone
            || now.since(self.sessions_looked_at) < SESSIONS_LOOKED_AT_EVERY
        {
            return;
        }
        self.sessions_looked_at = now;
        let lease = copy.view.settings.session_lease;
        let over: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(session, at)| now.since(**at) > lease && !self.expiring.contains(session))
            .map(|(session, _)| *session)
            .collect();
        let mut batch = Vec::new();
        for session in over {
            self.expiring.insert(session);
            self.order(copy, now, None, Command::ExpireSession(session), 0, &mut batch);
        }
        copy.append(batch, out);
    }
}

/// Answers that nothing was done.
pub(super) fn refuse(token: Token, reason: NotDone, out: &mut Vec<Effect>) {
    out.push(Effect::Reply { token, reply: Reply::NotDone(reason), valid_until: None });
}
