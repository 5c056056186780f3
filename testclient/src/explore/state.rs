//! One state of a bounded world: the law of views, the servers, what is under way between them, and
//! what was promised. Pure.
//!
//! Owns the parts and their lives. How a step of a server is performed is said by
//! [`step`](super::step) and [`network`](super::network), what may happen next by
//! [`action`](super::action), what must hold by [`properties`](super::properties).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::message::Message;
use kvproto::view::Role;
use kvproto::{
    ClusterId, Incarnation, LifeId, Member, OpNumber, ServerName, SessionId, StreamNumber,
    Timestamp, View,
};
use kvserver::journal::Work;
use kvserver::replica::Replica;
use kvserver::replica::effect::Effect;
use kvserver::replica::event::{Event, Token};
use kvserver::replica::recovery::Recovered;
use kvserver::store::Items;
use viewservice::assignment::law::{Applied, Command as Law, Kind, ViewState};

use super::disk::{Disk, storage};
use super::explain::{brief_outcome, brief_view};
use super::goals::{Goal, Goals};
use super::model::{Budget, Model};
use super::shared::{Shared, hash_of};

/// The one key of all clients; writes append to it, so that its value tells their order.
pub const KEY: &[u8] = b"k";

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
    /// Time passed while the server was paused, or overslept.
    pub slept: bool,
    /// What the journal has still to finish.
    pub unfinished: VecDeque<Work>,
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
    /// States of the view service to which it may be put back.
    pub pasts: Vec<Shared<ViewState>>,
    /// Who has a stream to a view service that was put back since; empty while it never was. The others
    /// may still hear what came on their old ones.
    pub strangers: BTreeMap<usize, Vec<Shared<View>>>,
    /// The view service was shown what it does not know: it decides nothing any more.
    pub doubts: bool,
    /// Wishes that may reach the view service at any time, in order.
    pub wishes: Vec<Shared<Law>>,
    /// By index; `None` for one that has left.
    pub servers: Vec<Option<Shared<Server>>>,
    /// What is on each server's disk, if the model has disks.
    pub disks: Vec<Shared<Disk>>,
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

    pub(super) fn line(&mut self, what: impl FnOnce() -> String) {
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
pub(super) fn index(name: &ServerName) -> usize {
    name.as_str()[1..].parse().expect("servers are named S and their index")
}

impl State {
    /// All servers registered and started, no view.
    pub(super) fn fresh(model: &Model) -> State {
        let law = ViewState::new(ClusterId([7; 16]), model.settings());
        let mut state = State {
            now: Timestamp::from_nanos(1_000_000_000),
            law: Shared::new(law),
            records: Vec::new(),
            pasts: Vec::new(),
            strangers: BTreeMap::new(),
            doubts: false,
            wishes: Vec::new(),
            servers: vec![None; model.servers],
            disks: match model.durable {
                true => (0..model.servers).map(|_| Shared::new(Disk::default())).collect(),
                false => Vec::new(),
            },
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
        let State { session, reads, budget, disks, .. } = self;
        let State { pasts, strangers, doubts, .. } = self;
        let clients = (session, reads, budget, disks);
        let views = (pasts, strangers, doubts);
        hash_of(&(now, law, records, wishes, servers, streams, loose, committed, clients, views))
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

    /// A new life registers and starts, with what its disk holds if it has one.
    pub(super) fn begin_life(
        &mut self,
        model: &Model,
        server: usize,
        replaces: Option<Incarnation>,
        seen: &mut Seen,
    ) {
        let (mut recovered, mut held) = (Recovered::nothing(Items::default()), None);
        let shown = self.disks.get(server).and_then(|disk| disk.record().cloned());
        if !self.is_shown(shown.as_ref(), seen) {
            return;
        }
        self.strangers.remove(&server);
        if let Some(left) = self.disks.get_mut(server) {
            let mut disk = Disk::clone(left);
            disk.is_left();
            recovered = disk.recovered(&model.settings(), model.options().tuning.retain_bytes);
            held = Some(recovered.held(storage(server)));
            *left = Shared::new(disk);
        }
        // In one past, incarnations tell lives apart.
        let life = LifeId([self.put_backs(model); 16]);
        let register = Law::Register { name: name(server), kind: Kind::Full, replaces, life, held };
        let Some(Applied::Registered(member)) = self.law(model, register, seen) else {
            return;
        };
        let view = self.law.view().clone();
        let (me, options) = (member.clone(), model.options());
        let replica = Replica::resume(me, view.clone(), options, recovered, self.now);
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
        let registers = matches!(command, Law::Register { .. });
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
        let returned = |member: &Member| !old_eligible.contains(member);
        if registers && after.eligible.iter().any(returned) {
            seen.goals.reach(Goal::CameBack);
        }
        if !proposes && !activates && after.eligible.len() > old_eligible.len() {
            seen.goals.reach(Goal::NewcomerSynced);
        }
        let incomplete = self.law.ever_activated()
            && proposes
            && after.primary.as_ref().is_some_and(|primary| !old_eligible.contains(primary));
        if incomplete {
            seen.broken(|| format!("PrimaryIsEligible: {}", brief_view(after)));
        }
        self.records.push(Shared::new(after.clone()));
        if self.budget.put_backs > 0 {
            self.pasts.push(self.law.clone());
        }
        self.law = Shared::new(law);
        self.forget_wishes(model);
        Some(outcome)
    }

    fn put_backs(&self, model: &Model) -> u8 {
        model.budget.put_backs.saturating_sub(self.budget.put_backs)
    }

    /// VIEW-8: the view service is put back to one of its former states. All streams to it are broken.
    /// This server, which was counted on, is the first to come, as it is or after a restart.
    pub(super) fn put_back(
        &mut self,
        model: &Model,
        to: usize,
        (by, restarts): (usize, bool),
        seen: &mut Seen,
    ) {
        self.budget.put_backs -= 1;
        self.law = self.pasts[to].clone();
        self.pasts.clear();
        self.wishes.clear();
        let late = std::mem::take(&mut self.records);
        self.strangers = (0..self.servers.len()).map(|server| (server, late.clone())).collect();
        if restarts {
            self.restart(model, by, seen);
        } else {
            self.show(model, by, seen);
        }
        if !self.doubts {
            seen.goals.reach(Goal::PutBackUnharmed);
        }
    }

    /// A server whose stream was broken shows what it knows, and hears of the present record.
    pub(super) fn show(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = self.server(at) else {
            return;
        };
        let (shown, me) = (server.replica.view().clone(), server.member.clone());
        if !self.is_shown(Some(&shown), seen) {
            return;
        }
        if !self.law.is_present(&me) {
            // A life of which this state knows nothing, and which knows nothing that is not in it.
            return self.end_life(at);
        }
        self.strangers.remove(&at);
        let view = self.law.view().clone();
        self.step(model, at, Event::View(Box::new(view)), seen);
        self.forget_records(model);
    }

    /// Whether somebody knows what the view service does not, and has not shown it yet.
    pub(super) fn will_doubt(&self) -> bool {
        let living = self.servers.iter().flatten().map(|server| server.replica.view());
        let kept = self.disks.iter().filter_map(|disk| disk.record());
        !self.strangers.is_empty() && living.chain(kept).any(|view| !self.knows(view))
    }

    fn knows(&self, view: &View) -> bool {
        view.generation < self.law.view().generation
            || self.law.went_through(view.revision, view.history)
    }

    /// The view service is shown a record; false if it does not know it.
    fn is_shown(&mut self, shown: Option<&View>, seen: &mut Seen) -> bool {
        let known = shown.is_none_or(|view| self.knows(view));
        if !known {
            self.doubts = true;
            seen.goals.reach(Goal::Doubted);
        }
        known
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
