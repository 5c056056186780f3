//! The view service of a simulation: its leader as it runs in production, on a clock of its own, and
//! the registration streams that carry records, pings and wishes. It may pause, and it may restart,
//! also in the middle of a step: then it goes on from what its log holds, or from what an older copy of
//! it held. Decides nothing about views. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvproto::registration::{
    Held, NotMet, PROTOCOL_LEVEL, Process as ServerProcess, Progress, RefusedReason, Registration,
    ToServer, Wish,
};
use kvproto::{ClusterId, Incarnation, LifeId, Member, ServerName, Settings, Timestamp, View};
use kvserver::replica::event::Event as ServerEvent;
use viewservice::assignment::law::{Command, ViewState};
use viewservice::assignment::leader::{Effect, Event, Leader, Stream};
use viewservice::assignment::liveness::State;
use viewservice::assignment::notice::Notice;

use super::draw::Clock;
use super::network::Node;
use super::servers::Input;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// Copies of its state that are kept, for whoever puts one in its place.
const OLDER_KEPT: usize = 16;

/// What reaches the view service.
#[derive(Clone, Debug)]
pub enum ToViews {
    /// Time has passed.
    Tick,
    /// A process wants to attend.
    Register {
        /// From which machine.
        node: Node,
        /// Which process.
        life: u64,
        /// The incarnation that it resumes, if any.
        incarnation: Option<Incarnation>,
        /// What it found on its disk, and of which cluster.
        found: Option<(Held, Option<ClusterId>)>,
        /// The newest record that it knows.
        shown: Option<Box<View>>,
    },
    /// A sign of life.
    Ping(u64, Member, Progress),
    /// A wish.
    Wish(u64, Member, Wish),
    /// A registration stream broke.
    Broken(u64, Member),
    /// The address of a server is asked for, until then, by this life of the view service.
    Probe {
        /// The stream that broke.
        stream: Stream,
        /// The moment at which the asking ends.
        until: u64,
        /// Who asks.
        life: u64,
    },
    /// This life of the view service asks the address of a process who answers there.
    Meet {
        /// Which process.
        process: ServerProcess,
        /// Who asks.
        life: u64,
    },
    /// A server met a process at its address.
    MetBy(u64, Member, ServerProcess),
    /// A client asks for the present record.
    Asked {
        /// Which client.
        client: usize,
    },
}

/// The other end of a registration stream.
#[derive(Clone, Debug)]
struct Attendance {
    node: Node,
    life: u64,
    stream: Stream,
    /// How far it was by its last ping, and when a ping last showed that it moves.
    steps: Option<u64>,
    moved: Option<u64>,
}

/// The view service.
#[derive(Debug)]
pub struct Views {
    leader: Leader,
    /// The state that its log leads to. The leader is ahead of it only within a step.
    kept: ViewState,
    /// The states of its log at the latest changes of the record, oldest first.
    older: VecDeque<ViewState>,
    /// What clients were told last.
    public: View,
    clock: Clock,
    /// Which life of its process this is.
    life: u64,
    down: bool,
    /// The open streams, by number.
    attending: BTreeMap<u64, Attendance>,
    /// Streams asked for so far.
    streams: u64,
    pub(super) paused: bool,
    pub(super) inbox: Vec<ToViews>,
    /// The answer to the operator.
    forced: Option<Result<Box<View>, String>>,
    /// Backups left out at their primary's wish.
    evicted: BTreeSet<Member>,
    /// Whom this life of the view service knows to have been met.
    met: BTreeSet<LifeId>,
}

impl Views {
    pub(super) fn new(settings: Settings, clock: Clock) -> Views {
        let state = ViewState::new(ClusterId([7; 16]), settings);
        Views {
            leader: Leader::new(state.clone(), clock.at(0)),
            older: VecDeque::new(),
            public: state.view().clone(),
            kept: state,
            clock,
            life: 1,
            down: false,
            attending: BTreeMap::new(),
            streams: 0,
            paused: false,
            inbox: Vec::new(),
            forced: None,
            evicted: BTreeSet::new(),
            met: BTreeSet::new(),
        }
    }

    /// The truth about views.
    pub(super) fn state(&self) -> &ViewState {
        &self.kept
    }
}

impl World<'_> {
    fn views_clock(&self) -> Timestamp {
        self.views.clock.at(self.now)
    }

    /// Its process ends, with every connection; what its log holds is kept.
    pub(super) fn restart_views(&mut self, down_for: u64) {
        if self.views.down {
            return;
        }
        self.note(|| "views: restarts".into());
        self.visits.note(Path::ViewsRestarted);
        let view = self.views.state().view();
        if view.number.0 > 0 && !view.is_activated() {
            self.visits.note(Path::ViewsRestartedProposed);
        }
        self.views.down = true;
        self.views.paused = false;
        self.views.inbox.clear();
        for (number, Attendance { node, life, .. }) in std::mem::take(&mut self.views.attending) {
            let late = self.random.chance(200);
            let at = self.random.between(1, if late { 1500 } else { 20 }) * MS;
            let input = Input::RegistrationBroken { stream: number };
            self.later(at, Happening::ToServer { to: node, life, input });
        }
        self.later(down_for, Happening::ViewsStart);
    }

    /// It restarts, and meanwhile an older copy of its log takes the place of the log: the one before
    /// so many changes of the record, as far back as there are any.
    pub(super) fn put_back_views(&mut self, changes: usize, down_for: u64) {
        self.restart_views(down_for);
        let kept = self.views.older.len().saturating_sub(changes);
        let discarded = self.views.older.split_off(kept);
        if let Some(older) = discarded.into_iter().next() {
            self.note(|| format!("views: put back to {:?}", older.view()));
            self.views.kept = older;
        }
    }

    pub(super) fn start_views(&mut self) {
        if !std::mem::replace(&mut self.views.down, false) {
            return;
        }
        self.note(|| "views: is back".into());
        self.views.life += 1;
        self.views.met.clear();
        let (state, now) = (self.views.state().clone(), self.views_clock());
        self.views.leader = Leader::new(state, now).listening_first(now);
    }

    pub(super) fn on_views(&mut self, what: ToViews) {
        if matches!(what, ToViews::Tick) {
            self.later(50 * MS, Happening::ToViews { from: None, what: ToViews::Tick });
        }
        if self.views.down {
            // What was sent to a life that is over, or to nobody.
            return;
        }
        if self.views.paused {
            if !matches!(what, ToViews::Tick) {
                self.views.inbox.push(what);
            }
            return;
        }
        match what {
            ToViews::Tick => self.step_views(Event::Tick, None),
            ToViews::Register { node, life, incarnation, found, shown } => {
                self.on_register(node, life, (incarnation, shown), found)
            }
            ToViews::Ping(number, member, progress) => {
                let now = self.now;
                if let Some(attendance) = self.views.attending.get_mut(&number) {
                    if attendance.steps.is_some_and(|before| before < progress.steps) {
                        attendance.moved = Some(now);
                    }
                    attendance.steps = Some(progress.steps);
                }
                self.step_views(Event::Ping(Stream { member, number }, progress), None);
            }
            ToViews::Wish(number, member, wish) => {
                self.step_views(Event::Wish(Stream { member, number }, wish), None);
            }
            ToViews::Broken(number, member) => {
                self.end_attendance(number);
                self.step_views(Event::Broken(Stream { member, number }), None);
            }
            ToViews::Probe { stream, until, life } => self.on_probe(stream, until, life),
            ToViews::Meet { process, life } => self.on_meeting(process, life),
            ToViews::MetBy(number, member, process) => {
                self.visits.note(Path::MetByAPeer);
                self.views.met.insert(process.life);
                self.step_views(Event::MetBy(Stream { member, number }, process), None);
            }
            ToViews::Asked { client } => self.on_view_asked(client),
        }
    }

    /// One step of the leader; `asking` is whoever waits for the answer.
    fn step_views(&mut self, event: Event, asking: Option<(Node, u64)>) {
        let now = self.views_clock();
        let before = self.views.leader.view().clone();
        let former = before.primary.as_ref().and_then(|primary| self.host_of(primary));
        let mut effects = Vec::new();
        let commits = self.views.leader.step(now, event, &mut effects);
        if !self.commit_views(commits) {
            return;
        }
        let mut last = before;
        for effect in effects {
            if let Effect::Publish(view) = &effect {
                if view.number > last.number && !last.is_activated() && last.number.0 > 0 {
                    self.visits.note(Path::SupersededProposal);
                }
                self.check_met(&last, view);
                if let Some(former) = former.filter(|_| view.primary != last.primary) {
                    self.ambush(former);
                }
                last = (**view).clone();
            }
            self.perform_for_views(effect, asking);
        }
        let public = self.views.leader.public_view().clone();
        if public != self.views.public {
            self.push_to_clients(&public);
            self.views.public = public;
        }
    }

    /// Makes the commits of a step durable, unless the process ends before that, or right after it:
    /// then no other effect of the step is performed. True when it lives on.
    fn commit_views(&mut self, commits: Vec<Command>) -> bool {
        if commits.is_empty() {
            return true;
        }
        let dies = self.random.chance(self.faults.views_die);
        if dies && self.random.chance(500) {
            self.visits.note(Path::ViewsLostAStep);
        } else {
            let before = self.views.kept.clone();
            for command in commits {
                let applied = self.views.kept.apply(command);
                assert!(applied.is_ok(), "OneTruth: the log refuses a commit: {applied:?}");
            }
            assert!(
                self.views.kept == *self.views.leader.state(),
                "OneTruth: log and leader differ"
            );
            let view = self.views.kept.view();
            if view.revision != before.view().revision {
                self.views.older.push_back(before);
                let more = self.views.older.len().saturating_sub(OLDER_KEPT);
                self.views.older.drain(..more);
            }
            if let Some(primary) = &view.primary {
                self.ledgers.note_generation(view.generation, primary);
            }
            if dies {
                self.visits.note(Path::ViewsKeptAStepUntold);
            }
        }
        if dies {
            let down_for = self.random.between(5, 2000) * MS;
            self.restart_views(down_for);
        }
        !dies
    }

    /// LiveIsNotReplaced: whoever begins a life under a name that is taken ends nobody who was heard
    /// to move within most of `dead-after` and whose stream stands.
    fn on_register(
        &mut self,
        node: Node,
        life: u64,
        (incarnation, shown): (Option<Incarnation>, Option<Box<View>>),
        found: Option<(Held, Option<ClusterId>)>,
    ) {
        let name = self.machines[node].name.clone();
        let held = self.views.state().present(&name);
        let patience = self.settings.dead_after.as_micros() as u64 * 9 / 10;
        let alive = self.views.attending.values().any(|attendance| {
            Some(&attendance.stream.member) == held.as_ref()
                && (attendance.node, attendance.life) != (node, life)
                && attendance.moved.is_some_and(|at| at + patience > self.now)
        });
        // One that has no part, where another was met, leaves its name to that.
        let state = self.views.state();
        let process = held.as_ref().and_then(|held| state.life(held));
        let has_a_part =
            state.is_needed(&name) || process.is_some_and(|it| self.views.met.contains(&it));
        self.views.streams += 1;
        let stream = self.views.streams;
        let registration = Registration {
            name: name.clone(),
            life: life_id(node, life),
            incarnation,
            cluster: shown
                .as_ref()
                .map(|record| record.cluster)
                .or(found.as_ref().and_then(|(_, cluster)| *cluster)),
            protocol_level: PROTOCOL_LEVEL,
            held: found.map(|(held, _)| held),
            shown,
        };
        self.step_views(Event::Register { stream, registration }, Some((node, life)));
        let holds = self.views.state().present(&name);
        assert!(
            !(alive && has_a_part) || holds == held,
            "LiveIsNotReplaced: {holds:?} took the place of {held:?}, which is heard"
        );
        if held.is_some() && holds != held {
            let lives = |(other, machine): (Node, &super::servers::Machine)| {
                let process = machine.process.as_ref();
                other != node && process.is_some_and(|process| process.member == held)
            };
            if self.machines.iter().enumerate().any(lives) {
                self.visits.note(Path::NameTaken);
            }
        }
    }

    fn perform_for_views(&mut self, effect: Effect, asking: Option<(Node, u64)>) {
        match effect {
            Effect::Publish(view) => self.push(&view),
            Effect::Admitted(stream, view) => {
                if let Some((node, life)) = asking {
                    self.on_admitted(node, life, stream, view);
                }
            }
            Effect::Rejected { reason, .. } => {
                if reason == RefusedReason::NameInUse {
                    self.visits.note(Path::NameInUse);
                }
                if let Some((to, life)) = asking
                    && !self.network.is_cut(self.views_node(), to)
                {
                    let delay = self.delay();
                    let input = Input::Refused { reason };
                    self.later(delay, Happening::ToServer { to, life, input });
                }
            }
            Effect::Tell(stream, message) => self.tell(&stream, message),
            Effect::Close(stream) => self.end_attendance(stream.number),
            Effect::Probe(stream, patience) => {
                let patience = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
                let (until, life) = (self.now + patience, self.views.life);
                let what = ToViews::Probe { stream, until, life };
                self.later(MS, Happening::ToViews { from: None, what });
            }
            Effect::Meet(process) => {
                let (delay, life) = (self.delay(), self.views.life);
                let what = ToViews::Meet { process, life };
                self.later(delay, Happening::ToViews { from: None, what });
            }
            Effect::Forced(verdict) => self.views.forced = Some(verdict),
            Effect::Notice(notice) => self.on_views_notice(&notice),
        }
    }

    fn on_views_notice(&mut self, notice: &Notice) {
        self.note(|| format!("views: {notice}"));
        match notice {
            Notice::Evicted(backup) => {
                self.visits.note(Path::Evicted);
                self.views.evicted.insert(backup.clone());
            }
            Notice::WantsToStop { leads: true, .. } => self.visits.note(Path::HandOver),
            Notice::Yields { .. } => self.visits.note(Path::Yielded),
            Notice::NobodyToTakeOver(_) => self.visits.note(Path::NobodyToTakeOver),
            _ => {}
        }
    }

    /// The other end of a stream hears of its end too, sooner or later.
    fn end_attendance(&mut self, number: u64) {
        if let Some(Attendance { node, life, .. }) = self.views.attending.remove(&number) {
            let at = self.random.between(1, 1500) * MS;
            let input = Input::RegistrationBroken { stream: number };
            self.later(at, Happening::ToServer { to: node, life, input });
        }
    }

    fn on_probe(&mut self, stream: Stream, until: u64, life: u64) {
        let back = self.views.attending.values().any(|it| it.stream.member == stream.member);
        if self.now > until || back || life != self.views.life {
            return;
        }
        let Some(node) = self.resolve(&stream.member.name) else {
            return;
        };
        let views = self.views_node();
        let reachable = !self.network.is_cut(node, views) && !self.network.is_cut(views, node);
        let gone = reachable && self.machines[node].process.is_none();
        let lied = !gone && self.random.chance(self.faults.false_refusals);
        if lied {
            self.visits.note(Path::FalseRefusal);
        }
        if gone || lied {
            self.step_views(Event::Gone(stream), None);
        } else {
            let what = ToViews::Probe { stream, until, life };
            self.later(50 * MS, Happening::ToViews { from: None, what });
        }
    }

    /// The address of a process was dialled.
    fn on_meeting(&mut self, process: ServerProcess, life: u64) {
        if life != self.views.life {
            return;
        }
        match self.who_answers(self.views_node(), &process) {
            Ok(()) => {
                self.views.met.insert(process.life);
                self.step_views(Event::Met(process), None);
            }
            Err(why) => {
                self.visits.note(Path::NotMet);
                self.step_views(Event::NotMet(process, why), None);
            }
        }
    }

    /// Whether this very process answers at its address to somebody who dials from there.
    pub(super) fn who_answers(
        &mut self,
        from: Node,
        process: &ServerProcess,
    ) -> Result<(), NotMet> {
        let nobody = || NotMet::Nobody("no answer".into());
        let node = self.resolve(&process.name).ok_or_else(nobody)?;
        let is_cut = self.network.is_cut(from, node) || self.network.is_cut(node, from);
        let machine = &self.machines[node];
        let answers = machine.process.as_ref().filter(|_| !is_cut && !machine.paused);
        match answers.ok_or_else(nobody)?.life {
            life if life_id(node, life) == process.life => Ok(()),
            _ => Err(NotMet::Another),
        }
    }

    /// MetBeforeItsPart: whoever comes into a view was met at its address, but an eligible server that
    /// leads since no other could.
    fn check_met(&self, before: &View, view: &View) {
        for member in view.members().filter(|member| !before.members().any(|it| it == *member)) {
            let life = self.views.kept.life(member);
            let was_met = life.is_some_and(|life| self.views.met.contains(&life));
            let is_exempt = view.is_primary(member) && view.eligible.contains(member);
            assert!(was_met || is_exempt, "MetBeforeItsPart: {member} in {view:?}");
        }
    }

    fn on_admitted(&mut self, node: Node, life: u64, stream: Stream, view: Box<View>) {
        let number = stream.number;
        let member = stream.member.clone();
        let attendance = Attendance { node, life, stream, steps: None, moved: None };
        self.views.attending.insert(number, attendance);
        let views = self.views_node();
        if self.network.is_cut(views, node) {
            let at = self.random.between(50, 1500) * MS;
            let what = ToViews::Broken(number, member);
            self.later(at, Happening::ToViews { from: None, what });
        } else {
            let delay = self.delay();
            let input = Input::Registered { stream: number, member, view };
            self.later(delay, Happening::ToServer { to: node, life, input });
        }
    }

    fn tell(&mut self, stream: &Stream, message: ToServer) {
        let Some(Attendance { node, life, .. }) = self.views.attending.get(&stream.number) else {
            return;
        };
        let (to, life) = (*node, *life);
        let input = match message {
            ToServer::NobodyToTakeOver => Input::Event(Box::new(ServerEvent::NobodyToTakeOver)),
            ToServer::Refused { reason, .. } => Input::Refused { reason },
            ToServer::Meet(process) => Input::Meet(process),
            // These come as effects of their own, or are for people.
            ToServer::Registered { .. } | ToServer::View(_) | ToServer::NotMet { .. } => return,
        };
        if self.network.is_cut(self.views_node(), to) {
            return;
        }
        let delay = self.delay();
        self.later(delay, Happening::ToServer { to, life, input });
    }

    /// Tells everybody who attends, each at its own pace; a stream that loses a record breaks.
    fn push(&mut self, view: &View) {
        self.note(|| format!("views: {view:?}"));
        self.check_eligible("a change of the record");
        for member in &view.eligible {
            if self.views.evicted.remove(member) {
                self.visits.note(Path::EvictedReturned);
            }
        }
        if view.is_activated() && view.eligible.len() == 1 && self.settings.copies > 1 {
            self.visits.note(Path::SolePrimary);
        }
        let attending: Vec<_> = self.views.attending.values().cloned().collect();
        let views = self.views_node();
        for Attendance { node: to, life, stream, .. } in attending {
            if self.network.is_cut(views, to) || self.random.chance(self.faults.lost_records) {
                let at = self.random.between(20, 1500) * MS;
                let what = ToViews::Broken(stream.number, stream.member);
                self.later(at, Happening::ToViews { from: None, what });
                continue;
            }
            let slow = self.random.chance(self.faults.slow_records);
            let at = self.delay() + if slow { self.random.between(0, 800 * MS) } else { 0 };
            let event = ServerEvent::View(Box::new(view.clone()));
            let input = Input::Event(Box::new(event));
            self.later(at, Happening::ToServer { to, life, input });
        }
        if !self.views.state().ever_activated()
            && let Some(first) = view.primary.as_ref().and_then(|primary| self.host_of(primary))
        {
            self.strike_down_the_first(first);
        }
    }

    /// A client asked for the present record.
    fn on_view_asked(&mut self, client: usize) {
        let to = self.client_node(client);
        if self.network.is_cut(self.views_node(), to) {
            return;
        }
        let view = Box::new(self.views.leader.public_view().clone());
        let at = self.delay();
        self.later(at, Happening::ViewHeard { client, view });
    }

    /// The operator has somebody start a new generation, if the view service lets him.
    pub(super) fn force(&mut self, server: &ServerName) -> Result<Box<View>, String> {
        self.views.forced = None;
        self.step_views(Event::Force { server: server.clone() }, None);
        let ended = || Err("the view service ended before it answered".to_owned());
        let verdict = self.views.forced.take().unwrap_or_else(ended);
        if verdict.is_ok() {
            self.visits.note(Path::Forced);
        }
        verdict
    }

    /// Live servers as the view service sees them, and how much each says that it holds.
    pub(super) fn servers_heard(&self) -> Vec<(ServerName, u64)> {
        let report = self.views.leader.report(self.views_clock());
        let alive = report.servers.into_iter().filter(|server| server.state != State::Dead);
        alive
            .map(|server| (server.member.name, server.progress.map_or(0, |p| p.appended.0)))
            .collect()
    }

    /// Whether some complete copy is heard by the view service.
    pub(super) fn hears_a_complete_copy(&self) -> bool {
        let report = self.views.leader.report(self.views_clock());
        report.servers.iter().any(|server| {
            server.state != State::Dead && report.view.eligible.contains(&server.member)
        })
    }

    pub(super) fn views_answer(&self) -> bool {
        !self.views.down && !self.views.paused
    }
}

/// As a process would have drawn it.
pub(super) fn life_id(node: Node, life: u64) -> LifeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(node as u64 + 1).to_le_bytes());
    id[8..].copy_from_slice(&life.to_le_bytes());
    LifeId(id)
}
