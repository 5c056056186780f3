//! Stories about views, on law, liveness and planner together, with a hand-wound clock.
//!
//! `v…` and `d…` are the view server tests of MIT 6.824 lab 2 and of dslabs lab 2 under their
//! numbers; each is told twice, with the pings as the lab wrote them and with full servers. `h…` are
//! holes that earlier wordings of the protocol had, `s2_…` defects of the Go predecessor.

mod disks;
mod doubt;
mod holes;
mod lab;
mod meeting;
#[cfg(debug_assertions)]
mod mutants;
mod rules;
mod scars;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::registration::{
    Held, Memory, NotMet, PROTOCOL_LEVEL, Progress, RefusedReason, Registration, Wish,
};
use kvproto::{
    ClusterId, EpochStart, LifeId, Member, OpNumber, Position, Role, ServerName, Settings,
    StorageId, Timestamp, View, ViewNumber,
};

use super::law::{Applied, Command, Kind, Refusal, ViewId, ViewState};
use super::leader::{Effect, Event, Leader, Stream};
use super::notice::Notice;
use super::planner;
use super::requests::{self, Admission, Granted};

const PING_INTERVAL: Duration = Duration::from_millis(100);
const DEAD_AFTER: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(50);

/// What a server does when its time to ping comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Habit {
    /// Adopts every view, and acts in it: activates, declares synced.
    Follows,
    /// Pings, but never adopts a view newer than the one it has.
    Stays,
    /// Says that it has no view at all.
    Zero,
    /// Nothing.
    Silent,
}

struct Process {
    life: LifeId,
    /// Of which cluster it is, if it says so.
    cluster: Option<ClusterId>,
    /// Its directory, from the first registration on, if it has one.
    disk: Option<Held>,
    /// The newest record that it has.
    record: Option<View>,
    member: Option<Member>,
    stream: Option<Stream>,
    habit: Habit,
    number: ViewNumber,
    steps: u64,
    stuck: bool,
    appended: OpNumber,
    committed: OpNumber,
    /// How long its disk has stood still with something to do.
    disk_waits: Duration,
}

/// A view service and the servers around it.
struct World {
    kind: Kind,
    /// Servers keep what they hold on disk; each starts with an empty one.
    on_disk: bool,
    leader: Leader,
    /// What the log holds.
    kept: ViewState,
    /// Streams asked for so far.
    streams: u64,
    now: Timestamp,
    steps: u64,
    servers: BTreeMap<&'static str, Process>,
    /// Processes started so far.
    lives: u128,
    /// Where nobody answers, or somebody else; everybody else is met at once.
    misled: BTreeMap<&'static str, NotMet>,
    /// What a process left behind on its disk: the directory, and the newest record.
    disks: BTreeMap<&'static str, (Held, Option<View>)>,
    /// How the last registration was refused, if it was.
    refusal: Option<(RefusedReason, String)>,
}

impl Process {
    fn new(life: LifeId, habit: Habit) -> Process {
        Process {
            life,
            cluster: None,
            disk: None,
            record: None,
            member: None,
            stream: None,
            habit,
            number: ViewNumber(0),
            steps: 0,
            stuck: false,
            appended: OpNumber(0),
            committed: OpNumber(0),
            disk_waits: Duration::ZERO,
        }
    }
}

impl Process {
    /// A record comes down its stream. What it holds has then what the record says that it has.
    fn hears(&mut self, view: &View) {
        self.record = Some(view.clone());
        let is_copy = self.member.as_ref().is_some_and(|me| view.eligible.contains(me));
        if let Some(held) = self.disk.as_mut().filter(|_| is_copy && view.is_activated()) {
            held.last = Position { epoch: view.epoch(), op: self.appended };
            if held.epochs.last().is_none_or(|start| start.epoch != view.epoch()) {
                held.epochs.push(EpochStart::at(held.last, view.began));
            }
        }
    }
}

fn member(name: &str, incarnation: u64) -> Member {
    Member { name: name.into(), incarnation: kvproto::Incarnation(incarnation) }
}

fn settings(copies: u32) -> Settings {
    Settings { ping_interval: PING_INTERVAL, dead_after: DEAD_AFTER, copies, ..Settings::default() }
}

impl World {
    fn new(kind: Kind, copies: u32) -> World {
        World::with(kind, settings(copies))
    }

    fn with(kind: Kind, settings: Settings) -> World {
        let now = Timestamp::from_nanos(1_000_000_000);
        let state = ViewState::new(ClusterId([7; 16]), settings);
        World {
            kind,
            on_disk: false,
            leader: Leader::new(state.clone(), now),
            kept: state,
            streams: 0,
            now,
            steps: 0,
            servers: BTreeMap::new(),
            lives: 0,
            misled: BTreeMap::new(),
            disks: BTreeMap::new(),
            refusal: None,
        }
    }

    /// The same, which listens first.
    fn listening(mut self) -> World {
        self.leader = self.leader.listening_first(self.now);
        self
    }

    /// A settled view: the first of `names` is its primary, the next ones its backups, all of them
    /// complete; the rest are spares.
    fn setup(kind: Kind, copies: u32, names: &[&'static str]) -> World {
        World::new(kind, copies).settled(names)
    }

    /// The same with servers that keep their data on disk.
    fn on_disk(copies: u32, names: &[&'static str]) -> World {
        World { on_disk: true, ..World::new(Kind::Full, copies) }.settled(names)
    }

    fn settled(self, names: &[&'static str]) -> World {
        let mut world = self;
        let copies = world.view().settings.copies;
        for name in names {
            world.start(name);
            world.pass(PING_INTERVAL * 4);
        }
        let view = world.view();
        assert!(view.is_activated());
        assert_eq!(view.primary.as_ref().unwrap().name.as_str(), names[0]);
        assert_eq!(view.eligible.len(), names.len().min(copies as usize));
        world
    }

    fn view(&self) -> View {
        self.leader.state.view().clone()
    }

    fn number(&self) -> u64 {
        self.leader.state.view().number.0
    }

    #[track_caller]
    fn check(&self, primary: &str, backup: &str, number: u64) {
        let view = self.leader.state.view();
        let name = |member: Option<&Member>| member.map_or("", |m| m.name.as_str()).to_owned();
        assert_eq!(
            (name(view.primary.as_ref()), name(view.backups.first()), view.number.0),
            (primary.to_owned(), backup.to_owned(), number)
        );
    }

    fn present(&self, name: &str) -> Member {
        self.leader.state.present(&name.into()).unwrap()
    }

    fn id(&self) -> ViewId {
        self.leader.state.view_id()
    }

    /// A process starts at this address, as if there never was another.
    fn start(&mut self, name: &'static str) {
        self.begin(name, Habit::Follows);
        self.ping(name);
    }

    fn begin(&mut self, name: &'static str, habit: Habit) {
        self.lives += 1;
        let life = LifeId(self.lives.to_be_bytes());
        self.servers.insert(name, Process::new(life, habit));
    }

    /// From now on whoever is asked for at this address is not met there, for this reason.
    fn mislead(&mut self, name: &'static str, why: NotMet) {
        self.misled.insert(name, why);
    }

    /// A process comes with these data, and so far does nothing else. False if it is refused.
    fn brings(&mut self, name: &'static str, held: Held) -> bool {
        self.begin(name, Habit::Zero);
        self.attend(name, Registration { held: Some(held), ..newcomer(name) });
        let admitted = self.servers[name].member.is_some();
        if !admitted {
            self.servers.remove(name);
        }
        admitted
    }

    /// The view service ends and starts again: streams break, and what the log holds is there.
    fn restart_views(&mut self) {
        self.leader = Leader::new(self.kept.clone(), self.now);
        self.servers.values_mut().for_each(|process| process.stream = None);
    }

    /// One step of the view service, and those that follow since it asks addresses who answers.
    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.step_once(event);
        let mut at = 0;
        while let Some(effect) = effects.get(at) {
            if let Effect::Meet(process) = effect.clone() {
                let more = self.step_once(match self.misled.get(process.name.as_str()) {
                    None => Event::Met(process),
                    Some(why) => Event::NotMet(process, why.clone()),
                });
                effects.extend(more);
            }
            at += 1;
        }
        effects
    }

    /// Whatever the planner wants the law allows, and it comes to rest. What the view service commits
    /// makes of what the log held what the leader holds.
    fn step_once(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        for command in self.leader.step(self.now, event, &mut effects) {
            self.kept.apply(command).expect("a commit is allowed");
        }
        assert_eq!(self.kept, self.leader.state);
        for effect in &effects {
            if let Effect::Notice(Notice::Refused(command, refusal)) = effect {
                let planned = matches!(command, Command::Propose { .. } | Command::Forget { .. });
                assert!(!planned, "{command:?} refused: {refusal}");
            }
        }
        let (state, liveness) = (&self.leader.state, &self.leader.liveness);
        let more = planner::next(state, liveness, self.now);
        assert_eq!(more, None, "the planner never comes to rest: {:?}", self.view());
        effects
    }

    /// The process ends. The operating system tells the view service, unless it is a lab's.
    fn kill(&mut self, name: &'static str) {
        if let Some(stream) = self.cut(name) {
            self.step(Event::Gone(stream));
        }
        self.servers.remove(name);
        self.settle();
    }

    /// The stream of the server breaks, if it has one.
    fn cut(&mut self, name: &'static str) -> Option<Stream> {
        let stream = self.servers.get_mut(name).unwrap().stream.take()?;
        let effects = self.step(Event::Broken(stream.clone()));
        assert!(effects.contains(&Effect::Probe(stream.clone(), DEAD_AFTER)));
        Some(stream)
    }

    /// The process ends and another one starts so fast that its address never refuses.
    fn restart_fast(&mut self, name: &'static str) {
        self.cut(name);
        self.servers.remove(name);
        self.start(name);
    }

    fn habit(&mut self, name: &'static str, habit: Habit) {
        self.servers.get_mut(name).unwrap().habit = habit;
    }

    fn appended(&mut self, name: &'static str, op: u64) {
        self.servers.get_mut(name).unwrap().appended = OpNumber(op);
    }

    /// Time passes and everybody follows its habit.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + STEP;
            self.steps += 1;
            self.settle();
            if self.steps.is_multiple_of(2) {
                let names: Vec<_> = self.servers.keys().copied().collect();
                for name in names {
                    self.ping(name);
                }
            }
        }
    }

    /// Applies a command behind the leader's back; the law may refuse.
    fn propose(&mut self, command: Command) -> Result<Applied, Refusal> {
        let _as_the_leader = self.kept.apply(command.clone());
        self.leader.state.apply(command)
    }

    /// Everything that the planner wants.
    fn settle(&mut self) {
        self.step(Event::Tick);
    }

    fn ping(&mut self, name: &'static str) {
        let process = &self.servers[name];
        if process.habit == Habit::Silent {
            return;
        }
        match self.kind {
            Kind::Plain => self.ping_plain(name),
            Kind::Full => self.ping_full(name),
        }
        self.settle();
        let view = self.view();
        let process = self.servers.get_mut(name).unwrap();
        if process.habit == Habit::Follows {
            process.number = view.number;
        }
    }

    fn ping_plain(&mut self, name: &'static str) {
        let process = &self.servers[name];
        let number = if process.habit == Habit::Zero { ViewNumber(0) } else { process.number };
        let member = self.lab_ping(name, number.0);
        self.servers.get_mut(name).unwrap().member = member;
    }

    /// One ping of the lab. Whom it was taken for, unless it was inert.
    fn lab_ping(&mut self, name: &str, number: u64) -> Option<Member> {
        self.step(Event::PlainPing { server: name.into(), number: ViewNumber(number) });
        let plain = self.leader.state.kind() == Some(Kind::Plain);
        plain.then(|| self.present(name))
    }

    fn ping_full(&mut self, name: &'static str) {
        let view = self.view();
        let process = self.servers.get_mut(name).unwrap();
        let Some(member) = process.member.clone() else {
            self.register(name);
            return;
        };
        if process.stream.is_some() {
            process.hears(&view);
            let left = process.disk.clone().map(|held| (held, process.record.clone()));
            self.disks.extend(left.map(|left| (name, left)));
        }
        let process = self.servers.get_mut(name).unwrap();
        let view = process.record.clone().unwrap_or(view);
        process.steps += u64::from(!process.stuck);
        let progress = Progress {
            view: view.order(),
            history: view.history,
            appended: process.appended,
            committed: process.committed,
            applied: OpNumber(0),
            steps: process.steps,
            role: Role::Spare,
            memory: Memory::default(),
            disk_full: false,
            disk_waits: process.disk_waits,
        };
        let habit = process.habit;
        if process.stream.is_none() {
            self.resume(name);
        }
        if let Some(stream) = self.servers[name].stream.clone() {
            self.step(Event::Ping(stream, progress));
        }
        if habit != Habit::Follows || !self.view().is_primary(&member) {
            return;
        }
        let view = self.view();
        if view.is_activated() {
            for server in view.backups.clone() {
                let running = self.servers.values().any(|p| p.member.as_ref() == Some(&server));
                if running && !view.eligible.contains(&server) {
                    self.wish(&member, synced(&view, &server));
                }
            }
        } else {
            let running = |backup: &Member| {
                let mut all = self.servers.values();
                all.any(|p| p.member.as_ref() == Some(backup) && p.habit != Habit::Silent)
            };
            let eligible = view.backups.iter().filter(|b| view.eligible.contains(b));
            let reconciled: Vec<_> = eligible.cloned().collect();
            if reconciled.iter().all(running) {
                self.wish(&member, activate(&view, &reconciled));
            }
        }
    }

    fn register(&mut self, name: &'static str) {
        let number = u128::from(self.streams) + 1;
        let on_disk = self.on_disk;
        let process = self.servers.get_mut(name).unwrap();
        if on_disk && process.disk.is_none() {
            process.disk = Some(Held::nothing(StorageId(number.to_be_bytes())));
        }
        self.attend(name, self.asks(name));
    }

    /// A life whose stream broke opens another.
    fn resume(&mut self, name: &'static str) {
        let incarnation = self.servers[name].member.as_ref().map(|member| member.incarnation);
        self.attend(name, Registration { incarnation, ..self.asks(name) });
    }

    fn asks(&self, name: &'static str) -> Registration {
        let process = &self.servers[name];
        Registration {
            life: process.life,
            cluster: process.cluster.or(process.record.as_ref().map(|record| record.cluster)),
            held: process.disk.clone(),
            shown: process.record.clone().map(Box::new),
            ..newcomer(name)
        }
    }

    /// Like a server, it knocks again soon: it may be met meanwhile.
    fn attend(&mut self, name: &'static str, registration: Registration) {
        let registration = Registration { life: self.servers[name].life, ..registration };
        self.refusal = None;
        for _ in 0..2 {
            self.streams += 1;
            let (stream, registration) = (self.streams, registration.clone());
            for effect in self.step(Event::Register { stream, registration }) {
                match effect {
                    Effect::Admitted(stream, view) => {
                        let process = self.servers.get_mut(name).unwrap();
                        process.member = Some(stream.member.clone());
                        process.stream = Some(stream);
                        process.record = Some(*view);
                        self.refusal = None;
                        return;
                    }
                    Effect::Rejected { reason, message, .. } => {
                        self.refusal = Some((reason, message));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A wish on the present stream of a server, and what became of it.
    fn wish(&mut self, by: &Member, wish: Wish) -> Granted {
        let (state, liveness) = (&self.leader.state, &self.leader.liveness);
        let granted = requests::wish(state, liveness, by, wish.clone(), self.now);
        let stream = self.leader.attending[&by.name].clone();
        assert_eq!(stream.member, *by);
        self.step(Event::Wish(stream, wish));
        granted
    }
}

fn newcomer(name: &str) -> Registration {
    Registration {
        name: ServerName::from(name),
        life: LifeId::default(),
        incarnation: None,
        cluster: None,
        protocol_level: PROTOCOL_LEVEL,
        held: None,
        shown: None,
    }
}

fn activate(view: &View, reconciled: &[Member]) -> Wish {
    Wish::Activate {
        generation: view.generation,
        number: view.number,
        reconciled: reconciled.to_vec(),
    }
}

fn synced(view: &View, server: &Member) -> Wish {
    Wish::Synced { generation: view.generation, number: view.number, server: server.clone() }
}

fn evict(view: &View, server: &Member) -> Wish {
    Wish::Evict {
        generation: view.generation,
        number: view.number,
        server: server.clone(),
        reason: "it does not answer".into(),
    }
}
