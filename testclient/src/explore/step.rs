//! How a step of a server is performed: its effects in order, its journal, what its replies are
//! worth. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvproto::command::{Action, Change, Command, Outcome, Query, RequestId};
use kvproto::registration::Wish;
use kvproto::{OpNumber, Reply, RequestNumber};
use kvserver::journal::Work;
use kvserver::replica::effect::{Effect, Notice};
use kvserver::replica::event::{Event, Operation, Request, Token};
use viewservice::assignment::law::{Command as Law, ViewId};

use super::disk::{Disk, completion};
use super::explain::{brief_law, brief_reply};
use super::goals::Goal;
use super::model::{Budget, Model};
use super::properties;
use super::shared::Shared;
use super::state::{KEY, OpenRead, Seen, Server, State};

/// Tokens from here on are writes: of a hundred, those of one attempt.
const WRITES_FROM: u64 = 100;
/// The token of the write that proves progress.
const PROOF: Token = Token(1_000_000);
/// The token of the request that opens the clients' session.
const SESSION: Token = Token(1_000_001);

/// What the client of the write with this many writes still to come appends.
fn suffix(left: u8) -> Command {
    let key = bytes::Bytes::from_static(KEY);
    let action = Action::Append(bytes::Bytes::from(format!("{left},")));
    Command::Change(Change { key, action })
}

impl State {
    /// A server takes an event, and what it wants is done, or held if it pauses here.
    pub(super) fn step(&mut self, model: &Model, at: usize, event: Event, seen: &mut Seen) {
        let Some(shared) = &self.servers[at] else {
            return;
        };
        let mut server = Server::clone(shared);
        let before = Shared::clone(shared);
        let mut effects = Vec::new();
        server.replica.step(self.now, event, &mut effects);
        self.note_committed(&before, &server, &effects, seen);
        let acts = |effect: &Effect| matches!(effect, Effect::Send(_) | Effect::Reply { .. });
        if server.pausing && effects.iter().any(acts) {
            server.pausing = false;
            server.held = effects;
            seen.line(|| "pauses before it acts".into());
            self.servers[at] = Some(Shared::new(server));
            return;
        }
        self.servers[at] = Some(Shared::new(server));
        self.perform(model, at, effects, seen);
    }

    /// Does what a server wants, in order, and lets its journal finish at once unless it is slow.
    pub(super) fn perform(
        &mut self,
        model: &Model,
        at: usize,
        effects: Vec<Effect>,
        seen: &mut Seen,
    ) {
        let (mut written, mut at_once) = (VecDeque::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Journal(work) => match work {
                    Work::Append(_) | Work::Reset { .. } => written.push_back(work),
                    // A pause before it matters only to whoever gives a past up.
                    Work::Record(_) | Work::Adopt(_) if model.budget.put_backs > 0 => {
                        written.push_back(work)
                    }
                    // Their place among the appends makes no difference here.
                    Work::Adopt(_)
                    | Work::Record(_)
                    | Work::SnapshotChunk(_)
                    | Work::Committed { .. }
                    | Work::Read { .. } => {
                        at_once.push(work);
                    }
                    _ if model.durable => written.push_back(work),
                    _ => {}
                },
                // Readers ask the replica here.
                Effect::Publish(_) => {}
                Effect::OpenStream { to, stream } => self.open_stream(at, to, stream),
                Effect::CloseStream { to, stream } => self.close_stream(at, &to, stream),
                Effect::Send(message) => self.send(message, seen),
                Effect::Reply { token, reply, valid_until } => {
                    let held = valid_until.is_none_or(|until| self.now < until);
                    self.take_reply(at, token, held.then_some(reply), valid_until.is_some(), seen);
                }
                Effect::Wish(wish) => self.take_wish(at, wish, seen),
                Effect::Notice(notice) => note(&notice, seen),
                Effect::Left => {
                    seen.line(|| format!("S{at} has left"));
                    seen.goals.reach(Goal::HandedOver);
                    self.end_life(at);
                    return;
                }
            }
        }
        for work in at_once {
            self.finish(model, at, &work, seen);
        }
        if model.slow_journal {
            if let Some(server) = self.servers[at].as_ref().filter(|_| !written.is_empty()) {
                let mut server = Server::clone(server);
                server.unfinished.append(&mut written);
                self.servers[at] = Some(Shared::new(server));
            }
        } else {
            for work in written {
                self.finish(model, at, &work, seen);
            }
        }
    }

    /// Adds to what was ever committed what this step committed.
    fn note_committed(
        &mut self,
        before: &Server,
        after: &Server,
        effects: &[Effect],
        seen: &mut Seen,
    ) {
        let committed = after.replica.committed();
        let reset =
            effects.iter().any(|effect| matches!(effect, Effect::Journal(Work::Reset { .. })));
        if committed < before.replica.committed() && !reset {
            seen.broken(|| format!("CommittedIsKept: {} forgot", after.member));
        }
        if committed.0 as usize <= self.committed.len() {
            return;
        }
        let mut log = Vec::clone(&self.committed);
        for op in (log.len() as u64 + 1..=committed.0).map(OpNumber) {
            let appended = || {
                let entries = effects.iter().filter_map(|effect| match effect {
                    Effect::Journal(Work::Append(entries)) => Some(entries),
                    _ => None,
                });
                entries.flatten().find(|entry| entry.op() == op)
            };
            let entry = after.replica.log().get(op).or_else(|| before.replica.log().get(op));
            let Some(entry) = entry.or_else(appended) else {
                seen.broken(|| {
                    format!(
                        "PrimaryCommitsFirst: {} took op {op} for committed; nobody had",
                        after.member
                    )
                });
                return;
            };
            log.push(Arc::clone(entry));
        }
        self.committed = Shared::new(log);
    }

    fn take_wish(&mut self, at: usize, wish: Wish, seen: &mut Seen) {
        let Some(by) = self.server(at).map(|server| server.member.clone()) else {
            return;
        };
        if self.strangers.contains_key(&at) {
            return;
        }
        let command = match wish {
            Wish::Activate { generation, number, reconciled } => {
                Law::Activate { by, view: ViewId { generation, number }, reconciled }
            }
            Wish::Synced { generation, number, server } => {
                Law::Synced { by, view: ViewId { generation, number }, server }
            }
            // The policy may propose anything at any time, whoever wishes for it.
            Wish::Evict { .. } | Wish::Yield { .. } => return,
            Wish::Leave => return seen.leaving.push(at),
        };
        seen.line(|| format!("S{at} wishes {}", brief_law(&command)));
        if let Err(place) = self.wishes.binary_search_by(|other| (**other).cmp(&command)) {
            self.wishes.insert(place, Shared::new(command));
        }
    }

    /// A reply is performed. `None` when what it rested on had run out.
    fn take_reply(
        &mut self,
        at: usize,
        token: Token,
        reply: Option<Reply>,
        leased: bool,
        seen: &mut Seen,
    ) {
        seen.line(|| match &reply {
            None => format!("S{at} answers nothing: its lease has run out"),
            Some(reply) => format!("S{at} answers request {}: {}", token.0, brief_reply(reply)),
        });
        let later = |state: &State| {
            let server = state.server(at);
            server.is_some_and(|server| server.replica.epoch().primary_since.0 > 1)
        };
        if token == PROOF {
            seen.proved |= matches!(reply, Some(Reply::Done { .. }));
            return;
        }
        if token == SESSION {
            if let Some(Reply::Done { outcome: Outcome::SessionOpened(session), .. }) = reply {
                self.session = Some(session);
            }
            return;
        }
        if token.0 >= WRITES_FROM {
            let left = u8::try_from(token.0 % 100).unwrap_or(0);
            if let Some(Reply::Done { at: point, .. }) = &reply {
                seen.goals.reach(Goal::WriteDone);
                if later(self) {
                    seen.goals.reach(Goal::WriteAfterFailover);
                }
                if self.session.is_some() && token.0 < WRITES_FROM * 90 {
                    seen.goals.reach(Goal::RepeatAnswered);
                }
                properties::check_acknowledged(self, point.op, &suffix(left), seen);
            }
            return;
        }
        let Some(place) = self.reads.iter().position(|read| read.token == token) else {
            return;
        };
        let read = self.reads.remove(place);
        match &reply {
            Some(Reply::Records { records, .. }) => {
                if later(self) {
                    seen.goals.reach(Goal::ReadAfterFailover);
                }
                seen.goals.reach(if leased { Goal::LeaseRead } else { Goal::ConfirmedRead });
                properties::check_read(self, &read, records.first().and_then(Option::as_ref), seen);
            }
            None => seen.goals.reach(Goal::LeaseRanOut),
            _ => {}
        }
    }

    /// A client asks a server to append what it appends at this point, maybe not for the first time.
    pub(super) fn ask_to_write(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Budget { writes, repeats, .. } = self.budget;
        let id = self.session.map(|session| RequestId {
            session,
            number: RequestNumber(u64::from(model.budget.writes - writes)),
            first_open: RequestNumber(1),
        });
        let attempt = 90 - u64::from(model.budget.repeats - repeats);
        let token = Token(WRITES_FROM * attempt + u64::from(writes));
        let operation = Operation::Command { id, command: suffix(writes) };
        self.step(model, at, Event::Requests(vec![Request { token, operation }]), seen);
    }

    /// A client asks a server to read.
    pub(super) fn ask_to_read(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        self.budget.reads -= 1;
        let token = Token(u64::from(self.budget.reads));
        let floor = OpNumber(self.committed.len() as u64);
        self.reads.push(OpenRead { token, server: at, floor });
        let keys = vec![bytes::Bytes::from_static(KEY)];
        let operation = Operation::Query(Query::Get(keys));
        self.step(model, at, Event::Requests(vec![Request { token, operation }]), seen);
    }

    /// The clients open their session.
    pub(super) fn open_session(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let operation = Operation::Command { id: None, command: Command::OpenSession };
        let request = Request { token: SESSION, operation };
        self.step(model, at, Event::Requests(vec![request]), seen);
    }

    /// A client asks for the write that proves progress.
    pub(super) fn ask_for_proof(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let operation = Operation::Command { id: None, command: suffix(u8::MAX) };
        let request = Request { token: PROOF, operation };
        self.step(model, at, Event::Requests(vec![request]), seen);
    }

    /// The journal of a server finishes its next piece of work.
    pub(super) fn finish_journal(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = &self.servers[at] else {
            return;
        };
        let mut server = Server::clone(server);
        if let Some(work) = server.unfinished.pop_front() {
            self.servers[at] = Some(Shared::new(server));
            self.finish(model, at, &work, seen);
        }
    }

    /// The journal of a server has done this.
    fn finish(&mut self, model: &Model, at: usize, work: &Work, seen: &mut Seen) {
        if let Some(disk) = self.disks.get_mut(at) {
            let mut written = Disk::clone(disk);
            written.take(work);
            *disk = Shared::new(written);
        }
        let read = match (work, self.disks.get(at)) {
            (Work::Read { from, .. }, Some(disk)) => Some(disk.read(*from)),
            _ => None,
        };
        if let Some(done) = read.or_else(|| completion(work)) {
            self.step(model, at, Event::Journal(done), seen);
        }
    }

    /// A paused server does what it had decided.
    pub(super) fn resume(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = &self.servers[at] else {
            return;
        };
        let mut server = Server::clone(server);
        let held = std::mem::take(&mut server.held);
        if server.slept {
            seen.goals.reach(Goal::ActedAfterPause);
        }
        self.servers[at] = Some(Shared::new(server));
        self.perform(model, at, held, seen);
    }

    /// A server that is paused, or is about to be, goes on without a pause.
    pub(super) fn wake(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        if let Some(server) = self.server(at).filter(|server| server.pausing) {
            let awake = Server { pausing: false, ..server.clone() };
            self.servers[at] = Some(Shared::new(awake));
        }
        self.resume(model, at, seen);
    }

    /// Time passes. Every server that is awake hears of it, unless the model lets them oversleep.
    pub(super) fn pass(&mut self, model: &Model, time: Duration, seen: &mut Seen) {
        self.now = self.now + time;
        for at in 0..self.servers.len() {
            match self.server(at) {
                Some(server) if server.held.is_empty() && !model.sleepy => {
                    self.step(model, at, Event::Tick, seen);
                }
                Some(server) if !server.slept => {
                    let slept = Server { slept: true, ..server.clone() };
                    self.servers[at] = Some(Shared::new(slept));
                }
                _ => {}
            }
        }
    }

    /// A server that overslept hears that time has passed.
    pub(super) fn tick(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        if let Some(server) = self.server(at).filter(|server| server.held.is_empty()) {
            let awake = Server { slept: false, ..server.clone() };
            self.servers[at] = Some(Shared::new(awake));
            self.step(model, at, Event::Tick, seen);
        }
    }
}

fn note(notice: &Notice, seen: &mut Seen) {
    match notice {
        Notice::TailDropped { first, last } => {
            seen.goals.reach(Goal::TailDropped);
            seen.line(|| format!("drops its tail, {first} to {last}"));
        }
        Notice::TransferReceived { at, .. } => {
            seen.goals.reach(Goal::Transferred);
            seen.line(|| format!("holds a whole transfer as of op {at}"));
        }
        Notice::Diverged { copy, at } => {
            seen.broken(|| format!("CopiesAgree: {copy} is said to differ at op {at}"));
        }
        Notice::Serving { .. } => seen.line(|| "may serve".into()),
        Notice::Deposed { .. } => seen.line(|| "is deposed".into()),
        Notice::Nonsense { from, what } => seen.line(|| format!("drops {what}, from {from}")),
        _ => {}
    }
}
