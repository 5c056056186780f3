//! One state of a bounded world: the law of views, the servers, what is under way between them, and
//! what was promised. Pure.
//!
//! Owns how a step of a server is performed: which streams carry what it sends, when its journal
//! finishes, what its replies are worth. What may happen next is said by [`action`](super::action),
//! what must hold by [`properties`](super::properties).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvproto::command::{Action, Change, Command, Entry, Outcome, Query, RequestId};
use kvproto::message::{Body, Message};
use kvproto::registration::Wish;
use kvproto::view::Role;
use kvproto::{
    ClusterId, Incarnation, Member, OpNumber, Position, Reply, RequestNumber, ServerName,
    SessionId, StreamNumber, Timestamp, View,
};
use kvserver::replica::Replica;
use kvserver::replica::effect::{Effect, Notice};
use kvserver::replica::event::{Event, Operation, Request, Token};
use viewservice::assignment::law::{Applied, Command as Law, Kind, ViewId, ViewState};

use super::goals::{Goal, Goals};
use super::model::{Budget, Model};
use super::properties;
use super::shared::{Shared, hash_of};

/// The one key of all clients; writes append to it, so that its value tells their order.
pub const KEY: &[u8] = b"k";
/// Tokens from here on are writes: of a hundred, those of one attempt.
const WRITES_FROM: u64 = 100;
/// The token of the write that proves progress.
const PROOF: Token = Token(1_000_000);
/// The token of the request that opens the clients' session.
const SESSION: Token = Token(1_000_001);

/// A live server.
#[derive(Clone, Hash, Debug)]
pub struct Server {
    /// Which life it is.
    pub member: Member,
    /// The production code.
    pub replica: Replica,
    /// Decided and not yet done: the server is paused in the middle of a step.
    pub held: Vec<Effect>,
    /// The next step that sends or answers something is followed by a pause.
    pub pausing: bool,
    /// Time passed while the server was paused.
    pub slept: bool,
    /// Positions that the journal has still to finish.
    pub unfinished: VecDeque<Position>,
}

/// One stream of a primary to a copy. Each direction keeps its order. When it is over, what was
/// under way may still arrive, however late.
#[derive(Clone, Hash, Debug)]
pub struct Stream {
    /// The primary.
    pub from: Member,
    /// The copy it was meant for.
    pub to: Member,
    /// Which stream.
    pub number: StreamNumber,
    /// The life of the copy's server that took it, once something has arrived.
    pub callee: Option<Member>,
    /// Neither broken nor closed: both ends may send.
    pub open: bool,
    /// On the way to the copy.
    pub up: VecDeque<Shared<Message>>,
    /// On the way to the primary.
    pub down: VecDeque<Shared<Message>>,
}

/// A read that was begun and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpenRead {
    /// Names it.
    pub token: Token,
    /// The server that was asked.
    pub server: usize,
    /// Committed anywhere when it began: it must return nothing older.
    pub floor: OpNumber,
}

/// Everything there is.
#[derive(Clone, Debug)]
pub struct State {
    /// The clock of all servers.
    pub now: Timestamp,
    /// The view service: one register.
    pub law: Shared<ViewState>,
    /// Records that somebody may still hear of, oldest first.
    pub records: Vec<Shared<View>>,
    /// Wishes that may reach the view service at any time, in order.
    pub wishes: Vec<Shared<Law>>,
    /// By index; `None` for one that has left.
    pub servers: Vec<Option<Shared<Server>>>,
    /// By who opened them, to whom, and number.
    pub streams: Vec<Shared<Stream>>,
    /// Messages outside streams, which may arrive any number of times.
    pub loose: Vec<Shared<Message>>,
    /// What was ever committed anywhere, from op 1.
    pub committed: Shared<Vec<Arc<Entry>>>,
    /// The session of all clients, if the model has one.
    pub session: Option<SessionId>,
    /// Reads under way.
    pub reads: Vec<OpenRead>,
    /// What may still happen.
    pub budget: Budget,
}

/// What one transition showed.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Goals that were reached.
    pub goals: Goals,
    /// A property that was broken.
    pub broken: Option<String>,
    /// What was done, for people; filled only when `explain` is set.
    pub lines: Vec<String>,
    /// Whether to fill `lines`.
    pub explain: bool,
    /// The write that proves progress was answered.
    pub proved: bool,
    /// Servers that wished to leave.
    pub leaving: Vec<usize>,
}

impl Seen {
    /// Notes a broken property; the first one counts.
    pub fn broken(&mut self, what: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(what);
    }

    fn line(&mut self, what: impl FnOnce() -> String) {
        if self.explain {
            self.lines.push(what());
        }
    }
}

/// The name of a server.
#[must_use]
pub fn name(server: usize) -> ServerName {
    format!("S{server}").into()
}

/// The index of a server.
fn index(name: &ServerName) -> usize {
    name.as_str()[1..].parse().expect("servers are named S and their index")
}

/// What the client of the write with this many writes still to come appends.
fn suffix(left: u8) -> Command {
    let key = bytes::Bytes::from_static(KEY);
    let action = Action::Append(bytes::Bytes::from(format!("{left},")));
    Command::Change(Change { key, action })
}

impl State {
    /// All servers registered and started, no view.
    pub(super) fn fresh(model: &Model) -> State {
        let law = ViewState::new(ClusterId([7; 16]), model.settings());
        let mut state = State {
            now: Timestamp::from_nanos(1_000_000_000),
            law: Shared::new(law),
            records: Vec::new(),
            wishes: Vec::new(),
            servers: vec![None; model.servers],
            streams: Vec::new(),
            loose: Vec::new(),
            committed: Shared::new(Vec::new()),
            session: None,
            reads: Vec::new(),
            budget: Budget::default(),
        };
        for server in 0..model.servers {
            state.begin_life(model, server, None, &mut Seen::default());
        }
        state
    }

    /// Stands for the state among those visited.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let State { now, law, records, wishes, servers, streams, loose, committed, .. } = self;
        let State { session, reads, budget, .. } = self;
        let clients = (session, reads, budget);
        hash_of(&(now, law, records, wishes, servers, streams, loose, committed, clients))
    }

    /// A server that is alive, paused or not.
    #[must_use]
    pub fn server(&self, index: usize) -> Option<&Server> {
        self.servers.get(index)?.as_deref()
    }

    /// The index of the server of this life, if it is alive.
    #[must_use]
    pub fn alive(&self, member: &Member) -> Option<usize> {
        let at = index(&member.name);
        self.server(at).is_some_and(|server| server.member == *member).then_some(at)
    }

    /// A new life registers and starts, empty.
    pub(super) fn begin_life(
        &mut self,
        model: &Model,
        server: usize,
        replaces: Option<Incarnation>,
        seen: &mut Seen,
    ) {
        let register = Law::Register { name: name(server), kind: Kind::Full, replaces };
        let Some(Applied::Registered(member)) = self.law(model, register, seen) else {
            return;
        };
        let view = self.law.view().clone();
        let replica = Replica::new(member.clone(), view.clone(), model.options(), self.now);
        let unfinished = VecDeque::new();
        let life =
            Server { member, replica, held: vec![], pausing: false, slept: false, unfinished };
        self.servers[server] = Some(Shared::new(life));
        self.step(model, server, Event::View(Box::new(view)), seen);
        self.forget_records(model);
    }

    /// A life ends. What it sent on its way to others may still arrive; what was on its way to it
    /// finds nobody.
    pub(super) fn end_life(&mut self, server: usize) {
        let Some(life) = self.servers[server].take() else {
            return;
        };
        self.reads.retain(|read| read.server != server);
        for stream in &mut self.streams {
            if stream.from == life.member || stream.callee.as_ref() == Some(&life.member) {
                let mut ended = Stream::clone(stream);
                if ended.from == life.member {
                    ended.open = false;
                    ended.down.clear();
                } else {
                    ended.up.clear();
                }
                *stream = Shared::new(ended);
            }
        }
        self.tidy_streams();
    }

    /// Gives the law a command, and notes the record that comes of it.
    pub(super) fn law(&mut self, model: &Model, command: Law, seen: &mut Seen) -> Option<Applied> {
        let mut law = ViewState::clone(&self.law);
        let before = self.law.view();
        let (was_activated, old_eligible) = (before.is_activated(), before.eligible.clone());
        let proposes = matches!(command, Law::Propose { .. });
        let activates = matches!(command, Law::Activate { .. });
        let outcome = law.apply(command);
        seen.line(|| format!("the law: {}", brief_outcome(&outcome)));
        let outcome = outcome.ok()?;
        if outcome == Applied::Unchanged {
            return Some(outcome);
        }
        let after = law.view();
        if proposes && before.number.0 > 0 && !was_activated {
            seen.goals.reach(Goal::ProposedSuperseded);
        }
        if activates && old_eligible.iter().any(|member| !after.eligible.contains(member)) {
            seen.goals.reach(Goal::ShrinkConfirmed);
        }
        if !proposes && !activates && after.eligible.len() > old_eligible.len() {
            seen.goals.reach(Goal::NewcomerSynced);
        }
        let incomplete = self.law.ever_activated()
            && proposes
            && after.primary.as_ref().is_some_and(|primary| !old_eligible.contains(primary));
        if incomplete {
            seen.broken(|| format!("PrimaryIsComplete: {after:?}"));
        }
        self.records.push(Shared::new(after.clone()));
        self.law = Shared::new(law);
        self.forget_wishes(model);
        Some(outcome)
    }

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
        let mut written = VecDeque::new();
        for effect in effects {
            match effect {
                Effect::Append(entries) => {
                    written.extend(entries.last().map(|entry| entry.position));
                }
                Effect::Reset { base } => written.push_back(base),
                Effect::Truncate { .. } | Effect::Trim { .. } => {}
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
        if model.slow_journal {
            if let Some(server) = self.servers[at].as_ref().filter(|_| !written.is_empty()) {
                let mut server = Server::clone(server);
                server.unfinished.append(&mut written);
                self.servers[at] = Some(Shared::new(server));
            }
        } else {
            for position in written {
                self.step(model, at, Event::Appended(position), seen);
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
        let reset = effects.iter().any(|effect| matches!(effect, Effect::Reset { .. }));
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
                    Effect::Append(entries) => Some(entries),
                    _ => None,
                });
                entries.flatten().find(|entry| entry.op() == op)
            };
            let entry = after.replica.log().get(op).or_else(|| before.replica.log().get(op));
            let Some(entry) = entry.or_else(appended) else {
                seen.broken(|| format!("{} took op {op} for committed; nobody had", after.member));
                return;
            };
            log.push(Arc::clone(entry));
        }
        self.committed = Shared::new(log);
    }

    fn open_stream(&mut self, from: usize, to: Member, number: StreamNumber) {
        let Some(server) = self.server(from) else {
            return;
        };
        let from = server.member.clone();
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let stream = Stream { from, to, number, callee: None, open: true, up, down };
        let key = |stream: &Stream| (stream.from.clone(), stream.to.clone(), stream.number);
        let place = self.streams.partition_point(|other| key(other) < key(&stream));
        self.streams.insert(place, Shared::new(stream));
    }

    fn close_stream(&mut self, from: usize, to: &Member, number: StreamNumber) {
        let Some(from) = self.server(from).map(|server| server.member.clone()) else {
            return;
        };
        for stream in &mut self.streams {
            if stream.from == from && stream.to == *to && stream.number == number {
                *stream = Shared::new(Stream { open: false, ..Stream::clone(stream) });
            }
        }
        self.tidy_streams();
    }

    /// Drops what was addressed to a life that is over, and that nobody there now would take.
    pub(super) fn forget_mail(&mut self, model: &Model) {
        if model.stale {
            return;
        }
        for at in 0..self.streams.len() {
            let stream = &self.streams[at];
            if !stream.up.is_empty() && self.alive(&stream.to).is_none() {
                let up = VecDeque::new();
                self.streams[at] = Shared::new(Stream { up, ..Stream::clone(stream) });
            }
        }
        self.tidy_streams();
    }

    /// Forgets streams that can carry nothing any more.
    pub(super) fn tidy_streams(&mut self) {
        self.streams
            .retain(|stream| stream.open || !stream.up.is_empty() || !stream.down.is_empty());
    }

    fn send(&mut self, message: Message, seen: &mut Seen) {
        seen.line(|| brief(&message));
        if matches!(message.body, Body::Fenced(_)) {
            seen.goals.reach(Goal::Fenced);
        }
        if matches!(message.body, Body::Released) {
            let message = Shared::new(message);
            if !self.loose.iter().any(|other| **other == *message) {
                self.loose.push(message);
            }
            return;
        }
        let up = message.body.is_from_primary();
        let carries = |stream: &Stream| {
            stream.open
                && stream.number == message.stream
                && if up {
                    stream.from == message.from && stream.to == message.to
                } else {
                    stream.from == message.to && stream.callee.as_ref() == Some(&message.from)
                }
        };
        if let Some(stream) = self.streams.iter_mut().find(|stream| carries(stream)) {
            let mut longer = Stream::clone(stream);
            if up { &mut longer.up } else { &mut longer.down }.push_back(Shared::new(message));
            *stream = Shared::new(longer);
        }
    }

    fn take_wish(&mut self, at: usize, wish: Wish, seen: &mut Seen) {
        let Some(by) = self.server(at).map(|server| server.member.clone()) else {
            return;
        };
        let command = match wish {
            Wish::Activate { generation, number, reconciled } => {
                Law::Activate { by, view: ViewId { generation, number }, reconciled }
            }
            Wish::Synced { generation, number, server } => {
                Law::Synced { by, view: ViewId { generation, number }, server }
            }
            // The policy may propose anything at any time, whoever wishes for it.
            Wish::Evict { .. } => return,
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

    /// The head of one direction of a stream arrives.
    pub(super) fn deliver(&mut self, model: &Model, stream: usize, up: bool, seen: &mut Seen) {
        let mut shorter = Stream::clone(&self.streams[stream]);
        let queue = if up { &mut shorter.up } else { &mut shorter.down };
        let Some(message) = queue.pop_front() else {
            return;
        };
        if !shorter.open {
            seen.goals.reach(Goal::LateMessage);
        }
        let to = index(if up { &shorter.to.name } else { &shorter.from.name });
        if up && shorter.callee.is_none() {
            shorter.callee = self.server(to).map(|server| server.member.clone());
        }
        self.streams[stream] = Shared::new(shorter);
        self.tidy_streams();
        self.step(model, to, Event::Message(Message::clone(&message)), seen);
    }

    /// A stream breaks, and its primary hears of it.
    pub(super) fn break_stream(&mut self, model: &Model, stream: usize, seen: &mut Seen) {
        let broken = Stream { open: false, ..Stream::clone(&self.streams[stream]) };
        let (from, peer, number) = (broken.from.clone(), broken.to.clone(), broken.number);
        self.streams[stream] = Shared::new(broken);
        self.tidy_streams();
        if let Some(at) = self.alive(&from) {
            self.step(model, at, Event::StreamBroken { peer, stream: number }, seen);
        }
    }

    /// Whether the copy's end of a stream is dead, so that the stream breaks sooner or later.
    #[must_use]
    pub fn is_orphan(&self, stream: &Stream) -> bool {
        self.alive(stream.callee.as_ref().unwrap_or(&stream.to)).is_none()
    }

    /// The journal of a server finishes its next piece of work.
    pub(super) fn finish_journal(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = &self.servers[at] else {
            return;
        };
        let mut server = Server::clone(server);
        if let Some(position) = server.unfinished.pop_front() {
            self.servers[at] = Some(Shared::new(server));
            self.step(model, at, Event::Appended(position), seen);
        }
    }

    /// A paused server does what it had decided.
    pub(super) fn resume(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = &self.servers[at] else {
            return;
        };
        let mut server = Server::clone(server);
        let held = std::mem::take(&mut server.held);
        if std::mem::take(&mut server.slept) {
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

    /// Time passes: every server that is not paused hears of it.
    pub(super) fn pass(&mut self, model: &Model, time: Duration, seen: &mut Seen) {
        self.now = self.now + time;
        for at in 0..self.servers.len() {
            match self.server(at) {
                Some(server) if server.held.is_empty() => self.step(model, at, Event::Tick, seen),
                Some(server) if !server.slept => {
                    let slept = Server { slept: true, ..server.clone() };
                    self.servers[at] = Some(Shared::new(slept));
                }
                _ => {}
            }
        }
    }

    /// Drops records that would change nothing for anybody.
    pub(super) fn forget_records(&mut self, model: &Model) {
        if model.stale {
            return;
        }
        let known = self.servers.iter().flatten().map(|server| server.replica.view().order());
        let oldest = known.min().unwrap_or_default();
        self.records.retain(|record| record.order() > oldest);
    }

    /// Drops wishes that the law will refuse for ever: once granted or refused, a wish for a view
    /// never comes true again, because numbers only rise.
    pub(super) fn forget_wishes(&mut self, model: &Model) {
        if model.stale {
            return;
        }
        let law = &self.law;
        self.wishes.retain(|wish| {
            let mut law = ViewState::clone(law);
            law.apply(Law::clone(wish)) == Ok(Applied::Changed)
        });
    }

    /// Whether a server takes itself for a primary.
    #[must_use]
    pub fn leads(&self, at: usize) -> bool {
        self.server(at).is_some_and(|server| server.replica.role() == Role::Primary)
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

fn brief(message: &Message) -> String {
    let Message { from, to, stream, epoch, .. } = message;
    let what = match &message.body {
        Body::Open => "open".to_owned(),
        Body::Opened(opened) => format!("opened, holding through op {}", opened.last),
        Body::Append(append) => format!(
            "after {}: {} entries, committed {}, nonce {}",
            append.previous,
            append.entries.len(),
            append.committed,
            append.nonce
        ),
        Body::Ack(ack) => format!("has matched {}, nonce {}", ack.matched, ack.nonce),
        Body::Fenced(view) => format!("knows view {}", view.number),
        Body::TransferStart { at, .. } => format!("a full transfer as of {at} begins"),
        Body::TransferChunk { number, .. } => format!("chunk {number}"),
        Body::TransferEnd(_) => "the transfer ends".to_owned(),
        Body::Released => "stopped before this epoch".to_owned(),
    };
    format!("{from} to {to}, epoch {epoch}, stream {stream}: {what}")
}

/// A wish in a few words.
pub(super) fn brief_law(command: &Law) -> String {
    match command {
        Law::Activate { by, view, reconciled } => {
            format!("Activate view {} by {by} with {reconciled:?} reconciled", view.number)
        }
        Law::Synced { by, view, server } => {
            format!("Synced {server} in view {} by {by}", view.number)
        }
        other => format!("{other:?}"),
    }
}

fn brief_outcome(outcome: &Result<Applied, viewservice::assignment::law::Refusal>) -> String {
    match outcome {
        Ok(applied) => format!("{applied:?}"),
        Err(refusal) => format!("refused, {refusal}"),
    }
}

fn brief_reply(reply: &Reply) -> String {
    match reply {
        Reply::Done { at, .. } => format!("done at op {}", at.op),
        Reply::Records { at, records } => match records.first().and_then(Option::as_ref) {
            Some(record) => format!("{:?} as of op {}", record.value, at.op),
            None => format!("nothing there as of op {}", at.op),
        },
        other => format!("{other:?}"),
    }
}
