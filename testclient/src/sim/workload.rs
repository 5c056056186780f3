//! Clients of a simulation: a session each, values that are written once, requests repeated under
//! the same number at whichever server, calls given up with an open outcome. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvproto::{
    Action, Change, Command, Expect, NotDone, Outcome, Query, Refusal, Reply, RequestId,
    RequestNumber, SessionId,
};
use kvserver::replica::Reads;
use kvserver::replica::event::{Event, Operation, Request, Token};

use super::network::Node;
use super::servers::Input;
use super::world::{Happening, MS, World};

/// What comes back to a client.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The address refuses connections.
    NobodyThere,
    /// A reply.
    Reply(Box<Reply>),
}

/// One attempt of a call.
#[derive(Clone, Debug)]
pub struct Attempt {
    client: usize,
    call: u64,
    /// Committed by anybody when the attempt began: nothing older may be read.
    pub(super) floor: u64,
    pub(super) operation: Operation,
    pub(super) answered: bool,
}

#[derive(Clone, Debug)]
struct Call {
    operation: Operation,
    number: Option<u64>,
    token: u64,
    attempts: u64,
    began_at: u64,
}

#[derive(Debug, Default)]
struct Client {
    session: Option<SessionId>,
    next_number: u64,
    open: BTreeSet<u64>,
    calls: BTreeMap<u64, Call>,
    target: Node,
    writes: u64,
    idle_until: u64,
}

/// All clients.
#[derive(Debug)]
pub struct Workload {
    clients: Vec<Client>,
    pub(super) attempts: BTreeMap<u64, Attempt>,
    next_token: u64,
    next_call: u64,
    pub(super) reads: Reads,
    /// A write that began after everything healed is done.
    pub(super) serves: bool,
}

impl Workload {
    pub(super) fn new(clients: usize, reads: Reads) -> Workload {
        Workload {
            clients: (0..clients).map(|_| Client::default()).collect(),
            attempts: BTreeMap::new(),
            next_token: 0,
            next_call: 0,
            reads,
            serves: false,
        }
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }
}

fn bytes(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

impl World<'_> {
    pub(super) fn on_client_acts(&mut self, client: usize) {
        let calm = self.healed_at.is_some();
        let at = self.random.between(2, if calm { 300 } else { 60 }) * MS;
        self.later(at, Happening::ClientActs(client));
        let now = self.now;
        let state = &self.workload.clients[client];
        if state.calls.len() >= 2 || state.idle_until > now {
            return;
        }
        if !calm && self.random.chance(3) {
            // Long enough for a short session to expire.
            self.workload.clients[client].idle_until = now + self.random.between(100, 5000) * MS;
            return;
        }
        let Some(session) = state.session else {
            if state.calls.is_empty() {
                self.begin(
                    client,
                    None,
                    Operation::Command { id: None, command: Command::OpenSession },
                );
            }
            return;
        };
        if self.random.chance(350) {
            let keys = ["r0", "r1", "r2", "a0", "a1"];
            let count = self.random.between(1, 3);
            let keys = (0..count).filter_map(|_| self.random.pick(&keys)).map(bytes).collect();
            self.begin(client, None, Operation::Query(Query::Get(keys)));
            return;
        }
        if self.random.chance(40) {
            self.begin(client, None, Operation::KeepAlive(session));
            return;
        }
        if !calm && self.random.chance(6) {
            self.workload.clients[client].session = None;
            let command = Command::CloseSession(session);
            self.begin(client, None, Operation::Command { id: None, command });
            return;
        }
        let command = self.command(client);
        if self.random.chance(60) {
            if let Command::Change(Change { action: Action::Put(_), .. }) = &command {
                self.begin(client, None, Operation::Command { id: None, command });
            }
            return;
        }
        let state = &mut self.workload.clients[client];
        state.next_number += 1;
        let number = state.next_number;
        state.open.insert(number);
        let first_open = state.open.first().copied().unwrap_or(number);
        let id = RequestId {
            session,
            number: RequestNumber(number),
            first_open: RequestNumber(first_open),
        };
        self.begin(client, Some(number), Operation::Command { id: Some(id), command });
    }

    fn command(&mut self, client: usize) -> Command {
        let state = &mut self.workload.clients[client];
        state.writes += 1;
        let value = format!("<{client}.{}>", state.writes);
        let register = self.random.pick(&["r0", "r1", "r2"]).unwrap_or("r0");
        let list = self.random.pick(&["a0", "a1"]).unwrap_or("a0");
        let append = Change { key: bytes(list), action: Action::Append(bytes(&value)) };
        let action = match self.random.below(10) {
            0 => Action::Delete,
            1 => Action::CompareAndSet { expect: Expect::Missing, new_value: Some(bytes(&value)) },
            2..=4 => Action::Put(bytes(&value)),
            5 => {
                let put = Change { key: bytes(register), action: Action::Put(bytes(&value)) };
                return Command::Batch(vec![put, append]);
            }
            _ => return Command::Change(append),
        };
        Command::Change(Change { key: bytes(register), action })
    }

    fn begin(&mut self, client: usize, number: Option<u64>, operation: Operation) {
        self.workload.next_call += 1;
        let call = self.workload.next_call;
        let begun = Call { operation, number, token: 0, attempts: 0, began_at: self.now };
        self.workload.clients[client].calls.insert(call, begun);
        self.attempt(client, call);
    }

    pub(super) fn attempt(&mut self, client: usize, call: u64) {
        let servers = self.machines.len();
        let elsewhere = self.random.below(servers);
        let floor = self.ledger.committed();
        let state = &mut self.workload.clients[client];
        let Some(open) = state.calls.get_mut(&call) else {
            return;
        };
        open.attempts += 1;
        if open.attempts > 1 && self.random.chance(300) {
            state.target = elsewhere;
        }
        let to = state.target.min(servers - 1);
        // The floor moves on while a request is repeated, as the library's does.
        if let Operation::Command { id: Some(id), .. } = &mut open.operation {
            let first = state.open.first().copied().unwrap_or(id.number.0);
            id.first_open = RequestNumber(first.min(id.number.0));
        }
        self.workload.next_token += 1;
        let token = self.workload.next_token;
        open.token = token;
        let attempt =
            Attempt { client, call, floor, operation: open.operation.clone(), answered: false };
        self.workload.attempts.insert(token, attempt.clone());
        if self.workload.attempts.len() > 20_000 {
            self.workload.attempts.pop_first();
        }
        let late = self.random.chance(40);
        let at = self.delay() + if late { self.random.between(0, 1500 * MS) } else { 0 };
        self.later(at, Happening::Asked { to, token });
        if let Operation::Command { id: Some(_), .. } = &attempt.operation
            && self.random.chance(80)
        {
            // The network delivers it twice.
            self.workload.next_token += 1;
            let token = self.workload.next_token;
            self.workload.attempts.insert(token, attempt);
            let at = at + self.random.between(0, 20 * MS);
            let to = if self.random.chance(200) { self.random.below(servers) } else { to };
            self.later(at, Happening::Asked { to, token });
        }
        let patience = self.random.between(150, 700) * MS;
        self.later(patience, Happening::TimedOut { token });
    }

    pub(super) fn on_asked(&mut self, to: Node, token: u64) {
        let Some(attempt) = self.workload.attempts.get(&token) else {
            return;
        };
        let operation = attempt.operation.clone();
        match &self.machines[to].process {
            Some(process) if process.replica.is_some() => {
                let life = process.life;
                let token = Token(token);
                self.machines[to].door.push(Request { token, operation });
                if self.random.chance(350) {
                    let at = self.random.between(0, 30 * MS);
                    self.later(at, Happening::DoorOpens { to, life });
                } else {
                    self.on_door(to, life);
                }
            }
            _ => {
                let answer = Answer::NobodyThere;
                self.later(MS, Happening::Answered { token, answer });
            }
        }
    }

    /// What gathered at a door becomes one event.
    pub(super) fn on_door(&mut self, to: Node, life: u64) {
        if self.machines[to].process.as_ref().is_none_or(|process| process.life != life) {
            return;
        }
        let requests = std::mem::take(&mut self.machines[to].door);
        if requests.is_empty() {
            return;
        }
        if requests.len() > 1 {
            self.visits.note("several requests in one step");
        }
        self.input(to, life, Input::Event(Box::new(Event::Requests(requests))));
    }

    /// A server answers: the reply is checked here, whether or not it reaches its client.
    pub(super) fn on_reply(&mut self, node: Node, token: Token, reply: Reply) {
        let Some(attempt) = self.workload.attempts.get_mut(&token.0) else {
            return;
        };
        assert!(
            !std::mem::replace(&mut attempt.answered, true),
            "OneReply: s{node} answers {token:?} twice"
        );
        let attempt = attempt.clone();
        self.check_reply(node, &attempt, &reply);
        if !self.random.chance(30) {
            let at = self.delay();
            let answer = Answer::Reply(Box::new(reply));
            self.later(at, Happening::Answered { token: token.0, answer });
        }
    }

    pub(super) fn on_answered(&mut self, token: u64, answer: Answer) {
        let Some(attempt) = self.workload.attempts.get(&token) else {
            return;
        };
        let (client, call) = (attempt.client, attempt.call);
        let servers = self.machines.len();
        let elsewhere = self.random.below(servers);
        let hint = match &answer {
            Answer::Reply(reply) => match &**reply {
                Reply::NotDone(NotDone::NotPrimary { primary, .. }) => {
                    let named = primary.as_ref().and_then(|primary| {
                        self.machines.iter().position(|machine| machine.name == *primary)
                    });
                    Some(named.unwrap_or(elsewhere))
                }
                _ => None,
            },
            Answer::NobodyThere => Some(elsewhere),
        };
        let state = &mut self.workload.clients[client];
        let Some(open) = state.calls.get(&call) else {
            return;
        };
        let reply = match answer {
            Answer::Reply(reply) => *reply,
            Answer::NobodyThere => Reply::Unknown,
        };
        match reply {
            Reply::Done { outcome, .. } => {
                let fresh = self.healed_at.is_some_and(|healed| open.began_at > healed);
                let changed = matches!(outcome, Outcome::Changed(_) | Outcome::BatchChanged(_));
                self.workload.serves |= fresh && changed;
                match outcome {
                    Outcome::SessionOpened(session) => {
                        state.session = Some(session);
                        state.next_number = 0;
                        state.open.clear();
                        state.calls.clear();
                    }
                    Outcome::Refused(Refusal::SessionExpired) => {
                        state.session = None;
                        state.calls.clear();
                        self.visits.note("session expired");
                    }
                    _ => self.finish(client, call),
                }
            }
            Reply::Records { .. } | Reply::KeptAlive { .. } => self.finish(client, call),
            Reply::NotDone(_) | Reply::Unknown => {
                if open.token != token {
                    return;
                }
                if let Some(hint) = hint {
                    state.target = hint;
                }
                let at = self.random.between(5, 80) * MS;
                self.later(at, Happening::Again { client, call });
            }
        }
    }

    pub(super) fn on_timed_out(&mut self, token: u64) {
        let Some(attempt) = self.workload.attempts.get(&token) else {
            return;
        };
        let (client, call) = (attempt.client, attempt.call);
        let elsewhere = self.random.below(self.machines.len());
        let state = &mut self.workload.clients[client];
        match state.calls.get(&call) {
            Some(open) if open.token == token => {
                let (attempts, number) = (open.attempts, open.number);
                state.target = elsewhere;
                if attempts > 12 {
                    if number.is_some() {
                        self.visits.note("outcome unknown");
                    }
                    self.finish(client, call);
                } else {
                    self.attempt(client, call);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, client: usize, call: u64) {
        let state = &mut self.workload.clients[client];
        if let Some(number) = state.calls.remove(&call).and_then(|call| call.number) {
            state.open.remove(&number);
        }
    }
}
