//! The doors of the servers: requests that are under way, gather into batches, and are answered. Pure.
//!
//! Every answer is held against the ledger here, whether or not it reaches its client.

use std::collections::BTreeMap;

use kvclient::caller::CallId;
use kvproto::limits::{check_command, check_query};
use kvproto::{LogPoint, NotDone, Query, Reply};
use kvserver::replica::event::{self, Event, Request, Token};

use super::network::Node;
use super::servers::Input;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// Requests that are remembered: a server may answer one long after its client has given it up.
const REMEMBERED: usize = 20_000;

/// One message with a request, as the network and the servers see it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: usize,
    pub(super) call: CallId,
    pub(super) attempt: u32,
    /// Committed by anybody when it was sent: nothing older may be read.
    pub(super) floor: LogPoint,
    pub(super) operation: event::Operation,
    /// When it was sent, in microseconds: a lease that its answer grants counts from here.
    pub(super) sent_at: u64,
    /// When its connection gives it up, in microseconds.
    pub(super) deadline: u64,
    /// The process that took it in.
    pub(super) at: Option<(Node, u64)>,
    pub(super) answered: bool,
    /// It was ordered, for all that its answer says.
    pub(super) ordered: bool,
    /// The network delivers that one twice.
    pub(super) copy_of: Option<u64>,
}

/// What comes back to a client.
#[derive(Clone, Debug)]
pub enum Back {
    /// A reply.
    Reply(Box<Reply>),
    /// The address refuses connections.
    NobodyThere,
    /// The connection broke.
    Broken,
}

/// All requests.
#[derive(Debug, Default)]
pub struct Doors {
    pub(super) asked: BTreeMap<u64, Asked>,
    next_token: u64,
    /// Requests past the client logic, and what they were answered.
    pub(super) direct: BTreeMap<u64, Option<Reply>>,
}

impl World<'_> {
    /// Sends one request to one server, past the client logic.
    pub(super) fn ask_directly(
        &mut self,
        client: usize,
        to: Node,
        operation: event::Operation,
    ) -> u64 {
        let token = self.remember(Asked {
            client,
            call: CallId(0),
            attempt: 0,
            floor: self.ledgers.point(),
            operation,
            sent_at: self.now,
            deadline: u64::MAX,
            at: None,
            answered: false,
            ordered: false,
            copy_of: None,
        });
        self.doors.direct.insert(token, None);
        let (from, at) = (self.client_node(client), self.delay());
        self.later(at, Happening::Asked { from, to, token });
        token
    }

    pub(super) fn remember(&mut self, asked: Asked) -> u64 {
        self.doors.next_token += 1;
        self.doors.asked.insert(self.doors.next_token, asked);
        if self.doors.asked.len() > REMEMBERED {
            self.doors.asked.pop_first();
        }
        self.doors.next_token
    }

    /// A message of this attempt is lost: its connection breaks sooner or later.
    pub(super) fn lose(&mut self, from: Node, to: Node, token: u64) {
        let Some(asked) = self.doors.asked.get(&token) else {
            return;
        };
        let patience = asked.deadline.saturating_sub(self.now);
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        let at = match self.random.chance(500) {
            // No link swallows a single message and stands: the connection broke over it.
            _ if self.is_quiet && !cut => self.random.between(1, 300) * MS,
            true => (self.random.between(200, 3000) * MS).min(patience),
            false => patience,
        };
        self.later(at, Happening::Answered { from: to, to: from, token, back: Back::Broken });
    }

    pub(super) fn on_asked(&mut self, from: Node, to: Node, token: u64) {
        if self.network.is_cut(from, to) {
            return self.lose(from, to, token);
        }
        let copy_of = self.doors.asked.get(&token).and_then(|asked| asked.copy_of);
        let ordered = |first: u64| self.doors.asked.get(&first).is_some_and(|it| it.ordered);
        if copy_of.is_some_and(|first| !ordered(first)) {
            // No connection delivers a request again that was refused: a client may rely on that.
            return;
        }
        let Some(asked) = self.doors.asked.get_mut(&token) else {
            return;
        };
        let process = self.machines[to].process.as_ref();
        let life = process.filter(|process| process.replica.is_some()).map(|process| process.life);
        let Some(life) = life else {
            let back = Back::NobodyThere;
            self.later(MS, Happening::Answered { from: to, to: from, token, back });
            return;
        };
        asked.at = Some((to, life));
        let operation = asked.operation.clone();
        if let Err(refusal) = self.check_limits(&operation) {
            return self.on_reply(to, Token(token), Reply::NotDone(refusal));
        }
        if let event::Operation::Query(query) = &operation
            && let Some(reply) = self.read_table(to, query)
        {
            return self.on_reply(to, Token(token), reply);
        }
        self.machines[to].door.push(Request { token: Token(token), operation });
        if self.random.chance(350) {
            let at = self.random.between(0, 30 * MS);
            self.later(at, Happening::DoorOpens { to, life });
        } else {
            self.on_door(to, life);
        }
    }

    /// What a door answers without asking the replica. Only sometimes, so that the replica is asked
    /// enough.
    fn read_table(&mut self, at: Node, query: &Query) -> Option<Reply> {
        if self.machines[at].paused || self.random.chance(500) {
            return None;
        }
        let reply = self.shown(at, query)?;
        self.visits.note(Path::ReadFromTable);
        Some(reply)
    }

    /// What a door finds at this moment.
    fn shown(&self, at: Node, query: &Query) -> Option<Reply> {
        let now = self.machines[at].clock.at(self.now);
        self.machines[at].process.as_ref()?.table.read(query, || now)
    }

    /// Whoever hears that an op is done may read what it wrote at once, and so between two effects of
    /// the step that answered.
    pub(super) fn check_shows(&mut self, node: Node, token: Token, done: LogPoint) {
        let Some(asked) = self.doors.asked.get(&token.0) else {
            return;
        };
        let event::Operation::Command { command, .. } = &asked.operation else {
            return;
        };
        let keys = command.changes().iter().map(|change| change.key.clone());
        let query = Query::Get(keys.collect());
        if let Some(reply) = self.shown(node, &query) {
            let operation = event::Operation::Query(query);
            let reader = Asked { operation, floor: done, ..asked.clone() };
            self.check_reply(node, &reader, &reply);
        }
    }

    /// Once a server says that it has stopped another one may serve.
    pub(super) fn check_shows_nothing(&self, node: Node) {
        let shown = self.shown(node, &Query::Get(Vec::new()));
        assert_eq!(shown, None, "PublishedFirst: s{node} has stopped and is read from");
    }

    /// As every door does.
    fn check_limits(&self, operation: &event::Operation) -> Result<(), NotDone> {
        match operation {
            event::Operation::Command { command, .. } => check_command(command, &self.settings),
            event::Operation::Query(query) => check_query(query, &self.settings),
            event::Operation::KeepAlive(_) => Ok(()),
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
            self.visits.note(Path::SeveralInStep);
        }
        self.input(to, life, Input::Event(Box::new(Event::Requests(requests))));
    }

    /// A server answers: the reply is checked here, whether or not it reaches its client.
    pub(super) fn on_reply(&mut self, node: Node, token: Token, reply: Reply) {
        let Some(asked) = self.doors.asked.get_mut(&token.0) else {
            return;
        };
        assert!(
            !std::mem::replace(&mut asked.answered, true),
            "OneReply: s{node} answers {token:?} twice"
        );
        asked.ordered = !matches!(reply, Reply::NotDone(_));
        let (client, asked) = (asked.client, asked.clone());
        self.check_reply(node, &asked, &reply);
        if let Some(answer) = self.doors.direct.get_mut(&token.0) {
            *answer = Some(reply);
            return;
        }
        let (from, to) = (node, self.client_node(client));
        if self.network.is_cut(from, to) || self.random.chance(self.faults.lost_requests) {
            self.lose(to, from, token.0);
            return;
        }
        let at = self.delay();
        let back = Back::Reply(Box::new(reply));
        self.later(at, Happening::Answered { from, to, token: token.0, back });
    }

    /// A process has ended: so have its connections from clients.
    pub(super) fn break_requests_at(&mut self, node: Node, life: u64) {
        let theirs = |asked: &Asked| asked.at == Some((node, life)) && !asked.answered;
        let broken: Vec<(u64, usize)> = self
            .doors
            .asked
            .iter()
            .filter(|(_, asked)| theirs(asked))
            .map(|(token, asked)| (*token, asked.client))
            .collect();
        for (token, client) in broken {
            let to = self.client_node(client);
            if !self.network.is_cut(node, to) {
                let at = self.random.between(1, 5) * MS;
                self.later(at, Happening::Answered { from: node, to, token, back: Back::Broken });
            }
        }
    }
}
