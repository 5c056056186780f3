//! Everything there is in a simulation, and the loop that takes the next event. Pure.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvproto::message::Message;
use kvproto::{Member, Settings};
use kvserver::replica::{Reads, ReplicaOptions, Tuning};

use super::Visits;
use super::faults::Faults;
use super::invariants::Ledger;
use super::network::{Network, Node};
use super::random::Random;
use super::servers::{Input, Machine};
use super::views::{ToViews, Views};
use super::workload::{Answer, Workload};

/// Virtual time is in microseconds.
pub(super) const MS: u64 = 1000;

/// A cluster that could go on must commit again within this time after everything heals: a few
/// times dead-after, with reconnecting and reconciling.
const PROGRESS_WITHIN: u64 = 20_000 * MS;
/// All copies must be complete again within this time: the longest back-off that a server can earn
/// within a run, and the time to bring it up.
const REDUNDANCY_WITHIN: u64 = 700_000 * MS;

/// What can happen.
#[derive(Debug)]
pub(super) enum Happening {
    ToServer { to: Node, life: u64, input: Input },
    ToAddress { to: Node, input: Input },
    ToViews(ToViews),
    Carried { channel: u64, up: bool, message: Box<Message> },
    Broken { channel: u64 },
    Resume(Node, u64),
    ViewsResume,
    Start(Node),
    Fault,
    Mend(Vec<(Node, Node)>),
    JournalHeals(Node),
    ClientActs(usize),
    Asked { to: Node, token: u64 },
    DoorOpens { to: Node, life: u64 },
    Answered { token: u64, answer: Answer },
    TimedOut { token: u64 },
    Again { client: usize, call: u64 },
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
    pub(super) workload: Workload,
    pub(super) ledger: Ledger,
    /// Copies to which a full transfer was begun.
    pub(super) transfers: BTreeSet<Member>,
    pub(super) visits: Visits,
    trace: Trace<'a>,
    chaos_until: u64,
    pub(super) healed_at: Option<u64>,
    /// Servers that began to act as primary, counted by epoch.
    pub(super) primaryships: u64,
}

impl<'a> World<'a> {
    /// The world of a seed.
    pub(super) fn new(seed: u64, trace: Trace<'a>) -> World<'a> {
        let mut random = Random::new(seed);
        let settings = settings(&mut random);
        let servers = random.between(2, 6) as usize;
        let tuning = tuning(&mut random);
        let reads = if random.chance(700) { Reads::Lease } else { Reads::Confirm };
        let options = ReplicaOptions { reads, tuning };
        let journal_delay = random.pick(&[1, 500, 5 * MS, 60 * MS]).unwrap_or(1);
        let machines = (0..servers)
            .map(|node| Machine {
                name: format!("s{node}:1").into(),
                clock_offset: random.between(1, 1_000_000) * 1_000_000,
                clock_ppm: random.between(991_000, 1_009_000),
                process: None,
                paused: false,
                leaving: false,
                pause_after_step: None,
                held: Vec::new(),
                door: Vec::new(),
                inbox: Default::default(),
                journal_delay,
                options: options.clone(),
            })
            .collect();
        let network = Network {
            delay_max: random.pick(&[500, 2 * MS, 2 * MS, 30 * MS]).unwrap_or(500),
            laggards: random.pick(&[0, 50, 300]).unwrap_or(0),
            ..Network::default()
        };
        let faults = faults(&mut random);
        let clients = random.between(2, 4) as usize;
        let chaos_until = random.between(4000, 14_000) * MS;
        let ledger = Ledger::new(&settings);
        World {
            views: Views::new(settings.clone()),
            ledger,
            workload: Workload::new(clients, reads),
            random,
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            settings,
            machines,
            lives: 0,
            network,
            faults,
            transfers: BTreeSet::new(),
            visits: Visits::default(),
            trace,
            chaos_until,
            healed_at: None,
            primaryships: 0,
        }
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
    pub(super) fn run(mut self) -> Visits {
        let lasts = format!("{:?} {:?} {:?}", self.settings, self.faults, self.chaos_until);
        self.note(|| lasts);
        for node in 0..self.machines.len() {
            let at = self.random.between(0, 400) * MS;
            self.later(at, Happening::Start(node));
        }
        self.later(0, Happening::ToViews(ToViews::Tick));
        self.later(500 * MS, Happening::Fault);
        for client in 0..self.workload.clients() {
            self.later(10 * MS, Happening::ClientActs(client));
        }
        self.run_until(self.chaos_until);
        self.heal();
        self.healed_at = Some(self.now);
        self.prove_that_it_serves();
        self.visits
    }

    fn run_until(&mut self, end: u64) {
        while self.now < end {
            let Some(((at, _), what)) = self.queue.pop_first() else {
                return;
            };
            self.now = at;
            self.happen(what);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::ToServer { to, life, input } => self.input(to, life, input),
            Happening::ToAddress { to, input } => {
                let life = self.machines[to].process.as_ref().map(|process| process.life);
                if let Some(life) = life {
                    self.input(to, life, input);
                }
            }
            Happening::ToViews(what) => self.on_views(what),
            Happening::Carried { channel, up, message } => self.on_carried(channel, up, *message),
            Happening::Broken { channel } => self.on_broken(channel),
            Happening::Resume(node, life) => self.resume(node, life),
            Happening::ViewsResume => self.resume_views(),
            Happening::Start(node) => self.start(node),
            Happening::Fault => self.on_fault(),
            Happening::Mend(links) => self.network.mend(&links),
            Happening::JournalHeals(node) => self.machines[node].journal_delay = 500,
            Happening::ClientActs(client) => self.on_client_acts(client),
            Happening::Asked { to, token } => self.on_asked(to, token),
            Happening::DoorOpens { to, life } => self.on_door(to, life),
            Happening::Answered { token, answer } => self.on_answered(token, answer),
            Happening::TimedOut { token } => self.on_timed_out(token),
            Happening::Again { client, call } => self.attempt(client, call),
        }
    }

    /// A healed cluster commits a new write when some complete copy is left, and has all its copies
    /// again when there are enough servers.
    fn prove_that_it_serves(&mut self) {
        let start = self.now;
        if self.views.state().ever_activated() && self.eligible_nodes().is_empty() {
            self.run_until(start + 3000 * MS);
            self.visits.note("every complete copy lost");
            return;
        }
        let wait = |world: &mut Self, within: u64, done: &dyn Fn(&Self) -> bool| {
            while world.now < start + within && !done(world) {
                world.run_until(world.now + 20 * MS);
            }
            done(world)
        };
        let lost = |world: &Self| {
            world.views.state().ever_activated() && world.eligible_nodes().is_empty()
        };
        let within = if self.settings.min_copies > 1 { REDUNDANCY_WITHIN } else { PROGRESS_WITHIN };
        let served = wait(self, within, &|world| world.workload.serves || lost(world));
        if lost(self) {
            self.visits.note("every complete copy left");
            return;
        }
        assert!(served, "Progress: no new write commits: {}", self.describe());
        self.visits.note("progress after healing");
        // A verdict from before the calm may still cost one more view.
        let calm = Cell::new(self.now);
        let full = wait(self, REDUNDANCY_WITHIN, &|world| {
            if !world.is_fully_redundant() {
                calm.set(world.now);
            }
            world.now > calm.get() + 500 * MS
        });
        assert!(full, "Redundancy: copies are missing: {}", self.describe());
        self.visits.note("full redundancy after healing");
    }

    fn is_fully_redundant(&self) -> bool {
        let view = self.views.state().view();
        let wanted = self.machines.len().min(self.settings.copies as usize);
        view.is_activated()
            && view.eligible.len() == wanted
            && view.members().count() == wanted
            && self.eligible_nodes().len() == wanted
            && !self.machines.iter().any(|machine| machine.leaving)
    }

    fn describe(&self) -> String {
        let mut text = format!("{:?}\n", self.views.state().view());
        for (node, machine) in self.machines.iter().enumerate() {
            let process = machine.process.as_ref();
            let member = process.and_then(|process| process.member.clone());
            let replica = process.and_then(|process| process.replica.as_ref());
            text += &format!(
                "s{node} {member:?} {:?} {:?}\n",
                replica.map(|replica| (replica.role(), replica.is_acting(), replica.waiting())),
                replica.map(kvserver::replica::Replica::progress)
            );
        }
        text
    }
}

fn settings(random: &mut Random) -> Settings {
    let copies = u32::try_from(random.pick(&[1, 2, 2, 2, 3, 3, 4, 5]).unwrap_or(2)).unwrap_or(2);
    let mut settings = Settings {
        copies,
        min_copies: if copies > 1 && random.chance(100) { 2 } else { 1 },
        ..Settings::default()
    };
    if random.chance(500) {
        settings.session_lease = Duration::from_millis(3200);
        if random.chance(300) {
            settings.sessions_max = random.between(3, 5);
        }
    }
    if random.chance(200) {
        settings.value_size_max = random.between(20, 200);
    }
    if random.chance(400) {
        let ms = Duration::from_millis;
        settings.heartbeat_interval = ms(random.pick(&[20, 50, 100]).unwrap_or(100));
        settings.lease = settings.heartbeat_interval * random.between(3, 6) as u32;
        settings.stall_after = settings.lease + ms(random.between(1, 500));
        settings.ping_interval = ms(random.pick(&[100, 300, 500]).unwrap_or(500));
        settings.dead_after = (settings.ping_interval * 3).max(settings.lease + ms(1));
    }
    settings.validate().expect("settings that make sense");
    settings
}

fn tuning(random: &mut Random) -> Tuning {
    let mut tuning = Tuning::default();
    if random.chance(600) {
        tuning.window_bytes = random.between(100, 2000) as usize;
        tuning.window_appends = random.between(1, 4) as usize;
        tuning.batch_bytes = random.between(100, 600) as usize;
    }
    if random.chance(600) {
        tuning.chunk_bytes = random.between(1, 400) as usize;
        tuning.chunks_in_flight = random.between(1, 3);
    }
    if random.chance(500) {
        tuning.retain_bytes = random.between(0, 3000) as usize;
        tuning.retain_bytes_max = tuning.retain_bytes + random.between(0, 4000) as usize;
    }
    if random.chance(100) {
        tuning.uncommitted_bytes_max = 2000;
        tuning.waiting_reads_max = 4;
    }
    tuning
}

fn faults(random: &mut Random) -> Faults {
    let mut weights = [0; 8];
    for weight in &mut weights {
        *weight = if random.chance(650) { random.between(1, 10) } else { 0 };
    }
    Faults {
        weights,
        every_max: random.pick(&[150, 500, 1000, 2500]).unwrap_or(500),
        merciless: random.chance(120),
        lost_records: random.pick(&[0, 0, 100]).unwrap_or(0),
        slow_records: random.pick(&[0, 200, 500]).unwrap_or(0),
        over: false,
    }
}
