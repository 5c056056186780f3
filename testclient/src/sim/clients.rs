//! The clients of a simulation: the logic that decides the calls of the client library, each on a
//! clock of its own, and the messages between it, the servers and the view service. Pure.
//!
//! What that logic says of a call is held against the ledger: *done* means committed with that
//! answer (`check_reply` looks at every answer), *certainly not done* means never done, at any later
//! time either; *unknown* may be both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvclient::attempts::{Answer, AttemptEnd, Repeat};
use kvclient::caller::{Attempt, CallId, Caller, Effect, Operation};
use kvclient::{Error, ErrorKind};
use kvproto::{
    Command, LogPoint, Outcome, Refusal, Reply, RequestNumber, SessionId, Timestamp, View,
};
use kvserver::replica::event;

use super::doors::{Asked, Back};
use super::draw::Clock;
use super::ledger::value_of;
use super::views::ToViews;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// One call that somebody asked for.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked.
    pub operation: Operation,
    /// When it began, in microseconds.
    pub invoked: u64,
    /// When it must have ended, in microseconds.
    until: u64,
    /// The session and number of its attempts; several if a session expired under it.
    pub(super) names: Vec<(SessionId, RequestNumber)>,
    repeat: Repeat,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct End {
    /// When, in microseconds.
    pub at: u64,
    /// What the client logic said; `None` when the caller did not wait for it.
    pub result: Option<Result<Answer, Error>>,
    /// The op that the answer reflects.
    pub point: Option<LogPoint>,
}

/// Names a call: which client, and which of its calls.
pub type CallKey = (usize, CallId);

/// One client.
#[derive(Debug)]
struct Client {
    caller: Caller,
    clock: Clock,
    /// It stands still until then.
    frozen_until: u64,
    /// The earliest moment for which a wake is queued.
    wake_at: Option<u64>,
    /// By call, the op that the last answer reflects.
    points: BTreeMap<CallId, LogPoint>,
    /// Attempts whose end it waits for.
    open: BTreeMap<(CallId, u32), u64>,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    pub(super) calls: BTreeMap<CallKey, Call>,
    /// A write that began after everything healed is done.
    pub(super) serves: bool,
}

impl Clients {
    pub(super) fn new(clocks: &[Clock]) -> Clients {
        let client = |clock: &Clock| Client {
            caller: Caller::default(),
            clock: *clock,
            frozen_until: 0,
            wake_at: None,
            points: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        Clients {
            clients: clocks.iter().map(client).collect(),
            calls: BTreeMap::new(),
            serves: false,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// Calls of a client that have not ended.
    pub(super) fn open_calls(&self, client: usize) -> Vec<CallId> {
        let of_client = self.calls.range((client, CallId(0))..(client + 1, CallId(0)));
        of_client.filter(|(_, call)| call.end.is_none()).map(|((_, id), _)| *id).collect()
    }

    pub(super) fn is_frozen(&self, client: usize, now: u64) -> bool {
        self.clients[client].frozen_until > now
    }
}

impl Client {
    fn now(&self, now: u64) -> Timestamp {
        self.clock.at(now)
    }
}

impl World<'_> {
    /// A client begins a call.
    pub(super) fn begin(
        &mut self,
        client: usize,
        operation: Operation,
        repeat: Repeat,
        patience: Duration,
    ) -> CallKey {
        let now = self.clients.clients[client].now(self.now);
        let mut effects = Vec::new();
        let caller = &mut self.clients.clients[client].caller;
        let id = caller.begin(now, operation.clone(), repeat, now + patience, &mut effects);
        self.note(|| format!("c{client}: begins {} {operation:?}", id.0));
        self.record(client, id, operation, repeat, now + patience);
        self.obey(client, effects);
        (client, id)
    }

    /// A client closes its session, if it has one.
    pub(super) fn close_session(&mut self, client: usize, patience: Duration) -> Option<CallKey> {
        let state = &mut self.clients.clients[client];
        let (now, session) = (state.now(self.now), state.caller.session()?);
        let mut effects = Vec::new();
        let id = state.caller.close(now, now + patience, &mut effects)?;
        self.note(|| format!("c{client}: closes session {session}"));
        let close = Operation::Command(Command::CloseSession(session));
        self.record(client, id, close, Repeat::Harmless, now + patience);
        self.obey(client, effects);
        Some((client, id))
    }

    fn record(
        &mut self,
        client: usize,
        id: CallId,
        operation: Operation,
        repeat: Repeat,
        deadline: Timestamp,
    ) {
        let until = self.clients.clients[client].clock.when(deadline);
        let (invoked, names) = (self.now, Vec::new());
        let call = Call { operation, invoked, until, names, repeat, end: None };
        self.clients.calls.insert((client, id), call);
    }

    /// Nobody waits for the end of this call any more.
    pub(super) fn cancel(&mut self, (client, id): CallKey) {
        let at = self.now;
        if let Some(call) = self.clients.calls.get_mut(&(client, id))
            && call.end.is_none()
        {
            call.end = Some(End { at, result: None, point: None });
        }
        self.note(|| format!("c{client}: cancels {}", id.0));
        let now = self.clients.clients[client].now(self.now);
        let mut effects = Vec::new();
        self.clients.clients[client].caller.cancel(now, id, &mut effects);
        self.clients.clients[client].open.retain(|(call, _), _| *call != id);
        self.obey(client, effects);
    }

    /// A client stands still, as a stopped process does.
    pub(super) fn freeze(&mut self, client: usize, length: u64) {
        self.note(|| format!("c{client}: stands still"));
        let until = self.now + length;
        let state = &mut self.clients.clients[client];
        state.frozen_until = state.frozen_until.max(until);
    }

    /// How long the client that this is for stands still yet.
    pub(super) fn frozen_for(&self, what: &Happening) -> Option<u64> {
        let client = match what {
            Happening::ViewHeard { client, .. } | Happening::Wake { client, .. } => *client,
            Happening::Answered { token, .. } => self.doors.asked.get(token)?.client,
            _ => return None,
        };
        self.clients.clients[client].frozen_until.checked_sub(self.now).filter(|time| *time > 0)
    }

    /// Does what the client logic wants, and what follows from that.
    fn obey(&mut self, client: usize, effects: Vec<Effect>) {
        let mut todo = std::collections::VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            let mut more = Vec::new();
            match effect {
                Effect::Run(_) => {}
                Effect::Attempt(attempt) => self.attempt(client, attempt),
                Effect::Abandon { call, number, why } => {
                    self.clients.clients[client].open.remove(&(call, number));
                    let end = AttemptEnd::Lost(why.to_owned());
                    self.report(client, (call, number), end, &mut more);
                }
                Effect::Finish { call, result } => self.finished(client, call, result),
                Effect::AskViewService => self.ask_views(client),
            }
            todo.extend(more);
        }
        self.arrange_wake(client);
    }

    fn report(
        &mut self,
        client: usize,
        attempt: (CallId, u32),
        end: AttemptEnd,
        effects: &mut Vec<Effect>,
    ) {
        let random = self.random.below(1000) as f64 / 1000.0;
        let state = &mut self.clients.clients[client];
        let now = state.now(self.now);
        state.caller.ended(now, attempt, end, random, effects);
    }

    /// Has the client woken when it wants to be.
    fn arrange_wake(&mut self, client: usize) {
        let state = &mut self.clients.clients[client];
        let Some((at, _)) = state.caller.first_wake() else {
            return;
        };
        let at = state.clock.when(at).max(self.now + 1);
        if state.wake_at.is_none_or(|queued| at < queued) {
            state.wake_at = Some(at);
            self.later(at - self.now, Happening::Wake { client, at });
        }
    }

    pub(super) fn on_wake(&mut self, client: usize, at: u64) {
        let state = &mut self.clients.clients[client];
        if state.wake_at == Some(at) {
            state.wake_at = None;
        }
        let now = state.now(self.now);
        let mut effects = Vec::new();
        if let Some((due, call)) = state.caller.first_wake()
            && due <= now
        {
            state.caller.woken(now, call, &mut effects);
        }
        self.obey(client, effects);
    }

    fn ask_views(&mut self, client: usize) {
        let from = self.client_node(client);
        if !self.network.is_cut(from, self.views_node()) {
            let at = self.delay();
            self.later_to_views(at, from, ToViews::Asked { client });
        }
    }

    /// Clients hear of a new record each at its own pace, or never.
    pub(super) fn push_to_clients(&mut self, view: &View) {
        for client in 0..self.clients.count() {
            let lost = self.random.chance(self.faults.lost_records * 2);
            if lost || self.network.is_cut(self.views_node(), self.client_node(client)) {
                continue;
            }
            let slow = self.random.chance(self.faults.slow_records);
            let at = self.delay() + if slow { self.random.between(0, 2000 * MS) } else { 0 };
            let view = Box::new(view.clone());
            self.later(at, Happening::ViewHeard { client, view });
        }
    }

    pub(super) fn on_view_heard(&mut self, client: usize, view: View) {
        let state = &mut self.clients.clients[client];
        let now = state.now(self.now);
        let mut effects = Vec::new();
        state.caller.learn(now, &Arc::new(view), &mut effects);
        self.obey(client, effects);
    }

    fn attempt(&mut self, client: usize, attempt: Attempt) {
        let (id, number) = (attempt.call, attempt.number);
        if let (Some(name), Some(call)) = (attempt.id, self.clients.calls.get_mut(&(client, id))) {
            let name = (name.session, name.number);
            if call.names.last() != Some(&name) {
                // What was answered to the former name says nothing of this one.
                let answered = self.clients.clients[client].points.remove(&id);
                if let Some(former) = call.names.last().copied() {
                    // The client logic is sure that nothing came of it, or it would not go on.
                    self.ledgers.never_request(former, answered);
                }
                call.names.push(name);
            }
        }
        let named = attempt.id.is_some();
        let operation = match attempt.operation {
            Operation::Query(query) => event::Operation::Query(query),
            Operation::Command(command) => event::Operation::Command { id: attempt.id, command },
            Operation::KeepAlive(session) => event::Operation::KeepAlive(session),
        };
        // The core may go on for longer; the message does not.
        let deadline = self.clients.clients[client].clock.when(attempt.deadline).max(self.now + 1);
        let waits_for_session = operation_opens(&operation);
        let asked = Asked {
            client,
            call: id,
            attempt: number,
            floor: self.ledgers.point(),
            operation,
            sent_at: self.now,
            deadline,
            at: None,
            answered: false,
            ordered: false,
            copy_of: None,
        };
        let from = self.client_node(client);
        let Some(to) = self.resolve(&attempt.target) else {
            return;
        };
        let token = self.remember(asked.clone());
        self.clients.clients[client].open.insert((id, number), token);
        if waits_for_session {
            let at = deadline - self.now;
            self.later(at, Happening::Answered { from, to: from, token, back: Back::Broken });
        }
        let lost = self.network.is_cut(from, to) || self.random.chance(self.faults.lost_requests);
        if lost {
            self.lose(from, to, token);
            return;
        }
        let late = !self.is_quiet && self.random.chance(40);
        let at = self.delay() + if late { self.random.between(0, 1500 * MS) } else { 0 };
        self.later(at, Happening::Asked { from, to, token });
        if named && !self.is_quiet && self.random.chance(60) {
            // The network delivers it twice.
            let token = self.remember(Asked { copy_of: Some(token), ..asked });
            let at = at + self.random.between(0, 300 * MS);
            let elsewhere = self.random.below(self.machines.len());
            let to = if self.random.chance(200) { elsewhere } else { to };
            self.later(at, Happening::Asked { from, to, token });
        }
    }

    pub(super) fn on_answered(&mut self, token: u64, back: Back) {
        let Some(asked) = self.doors.asked.get(&token) else {
            return;
        };
        let (client, call, number) = (asked.client, asked.call, asked.attempt);
        let state = &mut self.clients.clients[client];
        if state.open.get(&(call, number)) != Some(&token) {
            return;
        }
        state.open.remove(&(call, number));
        let end = match back {
            Back::Reply(reply) => {
                if let Reply::Done { at, .. } | Reply::Records { at, .. } = &*reply {
                    state.points.insert(call, *at);
                }
                if let Reply::Done { outcome: Outcome::Refused(refusal), .. } = &*reply {
                    match refusal {
                        Refusal::SessionExpired => self.visits.note(Path::SessionExpired),
                        Refusal::TooLarge { .. } => self.visits.note(Path::Oversized),
                        _ => {}
                    }
                }
                AttemptEnd::Reply(*reply)
            }
            Back::NobodyThere => AttemptEnd::NotSent("connection refused".to_owned()),
            Back::Broken => AttemptEnd::Lost("the connection broke".to_owned()),
        };
        let mut effects = Vec::new();
        self.report(client, (call, number), end, &mut effects);
        self.obey(client, effects);
    }

    /// The client logic says how a call ended.
    fn finished(&mut self, client: usize, id: CallId, result: Result<Answer, Error>) {
        let (at, now) = (self.now, self.healed_at);
        let state = &mut self.clients.clients[client];
        state.open.retain(|(call, _), _| *call != id);
        let point = state.points.remove(&id);
        // One that keeps a session alive, or opened it, is nobody's call.
        let Some(call) = self.clients.calls.get_mut(&(client, id)) else {
            return;
        };
        assert!(call.end.is_none(), "OneEnd: c{client} hears of call {} twice", id.0);
        let began_in_the_calm = now.is_some_and(|healed| call.invoked > healed);
        call.end = Some(End { at, result: Some(result.clone()), point });
        let call = call.clone();
        self.note(|| format!("c{client}: {} ends: {result:?}", id.0));
        match &result {
            Ok(Answer::Outcome(outcome)) => {
                let changed = matches!(outcome, Outcome::Changed(_) | Outcome::BatchChanged(_));
                self.clients.serves |= began_in_the_calm && changed;
                if let Some(last) = call.names.last() {
                    let known = point.and_then(|at| self.ledgers.of(at.generation));
                    let answer = known.and_then(|ledger| ledger.answer(last.0, last.1));
                    assert_eq!(
                        answer.map(|(_, outcome)| outcome),
                        Some(outcome),
                        "DoneIsDone: c{client} takes call {} for done",
                        id.0
                    );
                }
            }
            Ok(_) => {}
            Err(error) if *error.kind() == ErrorKind::OutcomeUnknown => {
                self.visits.note(Path::OutcomeUnknown);
            }
            Err(_) => {
                self.visits.note(Path::CertainlyNotDone);
                self.never(&call, point);
            }
        }
    }

    /// CallsEnd: no call outlives its deadline, but for a client that stands still.
    pub(super) fn check_calls_end(&self) {
        for ((client, id), call) in &self.clients.calls {
            let until = call.until.max(self.clients.clients[*client].frozen_until) + 10 * MS;
            assert!(
                call.end.is_some() || self.now <= until,
                "CallsEnd: call {} of c{client} is open {} ms after its deadline",
                id.0,
                (self.now - until) / 1000
            );
        }
    }

    /// NotDoneIsNever: the client logic said that this call did nothing and will do nothing. The
    /// point is that of the last answer to its last name; the former ones are known already.
    fn never(&mut self, call: &Call, answered: Option<LogPoint>) {
        let Operation::Command(command) = &call.operation else {
            return;
        };
        if call.repeat == Repeat::Named {
            if let Some(name) = call.names.last() {
                self.ledgers.never_request(*name, answered);
            }
        } else if let Some(value) = value_of(command) {
            self.ledgers.never_value(value.clone());
        }
    }
}

fn operation_opens(operation: &event::Operation) -> bool {
    matches!(operation, event::Operation::Command { command: Command::OpenSession, .. })
}
