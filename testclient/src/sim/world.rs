//! Everything there is in a simulation, and the loop that takes the next event. Pure.

use std::collections::BTreeMap;

use kvproto::message::Message;
use kvproto::{Member, Settings, View};

use super::clients::Clients;
use super::doors::{Back, Doors};
use super::draw::{self, Plan};
use super::faults::Faults;
use super::ledger::Ledgers;
use super::network::{Link, Network, Node};
use super::servers::{Input, Machine};
use super::storage::Storage;
use super::views::{ToViews, Views};
use super::visits::{Path, Visits};
use super::workload::Workload;
use super::{Kind, Ran};
use crate::random::Random;

/// Virtual time is in microseconds.
pub(super) const MS: u64 = 1000;

/// A cluster that could go on must commit again within this time after everything heals: a few
/// times dead-after, with reconnecting and reconciling.
const PROGRESS_WITHIN: u64 = 20_000 * MS;
/// The operator must first wait until the old generation was silent for long enough.
const FORCED_WITHIN: u64 = 60_000 * MS;
/// All copies must be complete again within this time: the longest back-off that a server can earn
/// within a run, and the time to bring it up.
const REDUNDANCY_WITHIN: u64 = 700_000 * MS;

/// What can happen.
#[derive(Debug)]
pub(super) enum Happening {
    ToServer {
        to: Node,
        life: u64,
        input: Input,
    },
    ToAddress {
        to: Node,
        input: Input,
    },
    /// From a machine over its link, or from the view service to itself.
    ToViews {
        from: Option<Node>,
        what: ToViews,
    },
    Carried {
        channel: u64,
        up: bool,
        message: Box<Message>,
    },
    Broken {
        channel: u64,
    },
    /// More of what the dialler sent has arrived.
    Confirmed {
        channel: u64,
    },
    /// A process stands still for a while, and again when it has gone on for a while, so often.
    Flap(Node, u64),
    Resume(Node, u64),
    ViewsResume,
    ViewsStart,
    Start(Node),
    Fault,
    Operator,
    Mend(Vec<Link>),
    Release(Link),
    JournalHeals(Node),
    DiskEmptied(Node),
    DiskAnswers(Node),
    ClientActs(usize),
    /// Complete copies end, all but this one.
    Strike(Node),
    /// Somebody whose view is out of date asks this server.
    Stray(Node),
    Asked {
        from: Node,
        to: Node,
        token: u64,
    },
    DoorOpens {
        to: Node,
        life: u64,
    },
    Answered {
        from: Node,
        to: Node,
        token: u64,
        back: Back,
    },
    ViewHeard {
        client: usize,
        view: Box<View>,
    },
    Wake {
        client: usize,
        at: u64,
    },
}

/// Takes the lines of a trace.
pub(super) type Trace<'a> = Option<&'a mut dyn FnMut(&str)>;

/// One simulation.
pub struct World<'a> {
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    pub(super) settings: Settings,
    pub(super) machines: Vec<Machine>,
    pub(super) lives: u64,
    pub(super) network: Network,
    pub(super) views: Views,
    pub(super) faults: Faults,
    pub(super) clients: Clients,
    pub(super) doors: Doors,
    pub(super) workload: Workload,
    pub(super) ledgers: Ledgers,
    /// Copies to which a full transfer was begun, and whether it arrived.
    pub(super) transfers: BTreeMap<Member, bool>,
    pub(super) visits: Visits,
    trace: Trace<'a>,
    chaos_until: u64,
    /// Nothing goes wrong but what a story asks for.
    pub(super) is_quiet: bool,
    pub(super) healed_at: Option<u64>,
    /// Servers that began to act as primary, counted by epoch.
    pub(super) primaryships: u64,
}

impl<'a> World<'a> {
    /// The world of a seed.
    pub(super) fn of_seed(kind: Kind, seed: u64, trace: Trace<'a>) -> World<'a> {
        let mut random = Random::new(seed);
        let plan = draw::chaos(kind, &mut random);
        let mut world = World::new(plan, random, trace);
        world.later(500 * MS, Happening::Fault);
        for client in 0..world.clients.count() {
            world.later(10 * MS, Happening::ClientActs(client));
        }
        world.later(1000 * MS, Happening::Operator);
        world
    }

    pub(super) fn new(plan: Plan, random: Random, trace: Trace<'a>) -> World<'a> {
        let machine = |node: Node, twin_of: Option<Node>| Machine {
            name: format!("s{}:1", twin_of.unwrap_or(node)).into(),
            twin_of,
            is_astray: twin_of.is_some() && plan.astray,
            gone: false,
            clock: plan.clocks[node],
            process: None,
            paused: false,
            leaving: false,
            pause_after_step: None,
            held: Vec::new(),
            door: Vec::new(),
            inbox: Default::default(),
            journal_delay: plan.journal_delay,
            hung: None,
            storage: plan.options.durable.then(|| Storage::new(node)),
            options: plan.options.clone(),
        };
        let servers = plan.starts.len();
        let mut machines: Vec<Machine> = (0..servers).map(|node| machine(node, None)).collect();
        for (index, twin) in plan.twins.iter().enumerate() {
            machines.push(machine(servers + index, Some(*twin)));
        }
        let network = Network::new(plan.delay_max, plan.laggards, plan.bytes_per_ms);
        let clock = plan.clocks[machines.len()];
        let mut world = World {
            views: Views::new(plan.settings.clone(), clock),
            ledgers: Ledgers::new(&plan.settings),
            clients: Clients::new(&plan.clocks[machines.len() + 1..]),
            doors: Doors::default(),
            workload: Workload::default(),
            random,
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            settings: plan.settings,
            machines,
            lives: 0,
            network,
            faults: plan.faults,
            transfers: BTreeMap::new(),
            visits: Visits::default(),
            trace,
            chaos_until: plan.chaos_until,
            is_quiet: false,
            healed_at: None,
            primaryships: 0,
        };
        for (node, at) in plan.starts.into_iter().enumerate() {
            let Some(at) = at else {
                continue;
            };
            world.later(at, Happening::Start(node));
            if at > 2000 * MS {
                world.visits.note(Path::AddedLate);
            }
        }
        world.later(0, Happening::ToViews { from: None, what: ToViews::Tick });
        world
    }

    /// Where the view service runs.
    pub(super) fn views_node(&self) -> Node {
        self.machines.len()
    }

    /// Where a client runs.
    pub(super) fn client_node(&self, client: usize) -> Node {
        self.machines.len() + 1 + client
    }

    /// How many machines there are, clients included.
    pub(super) fn nodes(&self) -> usize {
        self.machines.len() + 1 + self.clients.count()
    }

    pub(super) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let micros = self.now;
            trace(&format!("{:4}.{:06} {}", micros / 1_000_000, micros % 1_000_000, line()));
        }
    }

    pub(super) fn later(&mut self, after: u64, what: Happening) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), what);
    }

    /// Chaos, calm, and the proof that the cluster still serves.
    pub(super) fn run(mut self) -> Ran {
        let lasts = format!("{:?} {:?} {:?}", self.settings, self.faults, self.chaos_until);
        self.note(|| lasts);
        self.run_until(self.chaos_until);
        self.heal();
        self.healed_at = Some(self.now);
        self.prove_that_it_serves();
        self.end()
    }

    /// The verdict over everything.
    pub(super) fn end(mut self) -> Ran {
        self.check_calls_end();
        self.judge();
        Ran { visits: self.visits, micros: self.now }
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while self.now < end && self.run_one() {}
    }

    /// Takes the next event, if there is one before this moment.
    pub(super) fn run_one_before(&mut self, end: u64) -> bool {
        self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) && self.run_one()
    }

    /// Takes the next event; false when there is none.
    pub(super) fn run_one(&mut self) -> bool {
        let Some(((at, _), what)) = self.queue.pop_first() else {
            return false;
        };
        self.now = at;
        if let Some(what) = self.hold_back(what) {
            self.happen(what);
        }
        true
    }

    pub(super) fn happen(&mut self, what: Happening) {
        if let Some(time) = self.frozen_for(&what) {
            return self.later(time, what);
        }
        match what {
            Happening::ToServer { to, life, input } => self.input(to, life, input),
            Happening::ToAddress { to, input } => {
                let life = self.machines[to].process.as_ref().map(|process| process.life);
                if let Some(life) = life {
                    self.input(to, life, input);
                }
            }
            Happening::ToViews { what, .. } => self.on_views(what),
            Happening::Carried { channel, up, message } => self.on_carried(channel, up, *message),
            Happening::Broken { channel } => self.on_broken(channel),
            Happening::Confirmed { channel } => self.on_confirmed(channel),
            Happening::Flap(node, times) => self.flap(node, times),
            Happening::Resume(node, life) => self.resume(node, life),
            Happening::ViewsResume => self.resume_views(),
            Happening::ViewsStart => self.start_views(),
            Happening::Start(node) => self.start(node),
            Happening::Fault => self.on_fault(),
            Happening::Operator => self.on_operator(),
            Happening::Mend(links) => self.network.mend(&links),
            Happening::Release(link) => self.release(link),
            Happening::JournalHeals(node) => self.machines[node].journal_delay = 500,
            Happening::DiskEmptied(node) => self.empty_disk(node),
            Happening::DiskAnswers(node) => self.disk_answers(node),
            Happening::ClientActs(client) => self.on_client_acts(client),
            Happening::Strike(but) => self.strike(but),
            Happening::Stray(to) => self.on_stray(to),
            Happening::Asked { from, to, token } => self.on_asked(from, to, token),
            Happening::DoorOpens { to, life } => self.on_door(to, life),
            Happening::Answered { token, back, .. } => self.on_answered(token, back),
            Happening::ViewHeard { client, view } => self.on_view_heard(client, *view),
            Happening::Wake { client, at } => self.on_wake(client, at),
        }
    }

    /// A healed cluster commits a new write, if need be after an operator accepted the loss of every
    /// complete copy, and has all its copies again when there are enough servers.
    fn prove_that_it_serves(&mut self) {
        let mut start = self.now;
        let mut forced = self.visits.count(Path::Forced);
        let within = if self.settings.min_copies > 1 { REDUNDANCY_WITHIN } else { PROGRESS_WITHIN };
        while !self.clients.serves {
            self.run_until(self.now + 20 * MS);
            if self.is_lost() || self.visits.count(Path::Forced) > forced {
                // Only a new generation helps, or one has just begun.
                let waited = self.now - start;
                assert!(
                    waited < FORCED_WITHIN,
                    "Forced: nobody may be forced: {}",
                    self.describe()
                );
                if self.visits.count(Path::Forced) > forced {
                    forced = self.visits.count(Path::Forced);
                    start = self.now;
                }
                continue;
            }
            let waited = self.now - start;
            assert!(waited < within, "Progress: no new write commits: {}", self.describe());
        }
        self.visits.note(Path::Progress);
        let start = self.now;
        // A verdict from before the calm may still cost one more view.
        let mut calm = self.now;
        while self.now <= calm + 500 * MS {
            assert!(
                self.now < start + REDUNDANCY_WITHIN,
                "Redundancy: copies are missing: {}",
                self.describe()
            );
            self.run_until(self.now + 20 * MS);
            if !self.is_fully_redundant() {
                calm = self.now;
            }
        }
        self.visits.note(Path::Redundant);
    }

    fn is_fully_redundant(&self) -> bool {
        let view = self.views.state().view();
        let servers = self.machines.iter().filter(|machine| !machine.gone).count();
        let wanted = servers.min(self.settings.copies as usize);
        view.is_activated()
            && view.eligible.len() == wanted
            && view.members().count() == wanted
            && self.eligible_nodes().len() == wanted
            && !self.machines.iter().any(|machine| machine.leaving)
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}\n", self.views.state().view());
        for (node, machine) in self.machines.iter().enumerate() {
            let process = machine.process.as_ref();
            let member = process.and_then(|process| process.member.clone());
            let replica = self.replica(node);
            text += &format!(
                "s{node} {member:?} {:?} {:?}\n",
                replica.map(|replica| (replica.role(), replica.is_acting(), replica.waiting())),
                replica.map(kvserver::replica::Replica::progress)
            );
        }
        text
    }
}
