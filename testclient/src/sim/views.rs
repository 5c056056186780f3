//! The view service of a simulation: law, liveness and planner, and the registration streams that
//! carry records, pings and wishes. Pure.

use std::collections::BTreeMap;

use kvproto::registration::{PROTOCOL_LEVEL, Progress, RefusedReason, Wish};
use kvproto::{ClusterId, Incarnation, Member, ServerName, Settings, Timestamp, View};
use viewservice::assignment::law::{Applied, Command, ViewState};
use viewservice::assignment::liveness::Liveness;
use viewservice::assignment::planner;
use viewservice::assignment::requests::{self, Admission, Granted, Registration};

use super::network::Node;
use super::servers::Input;
use super::world::{Happening, MS, World};

/// Changes of view that one event may lead to.
const CHANGES_PER_EVENT: usize = 8;

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
    },
    /// A sign of life.
    Ping(u64, Member, Progress),
    /// A wish.
    Wish(u64, Member, Wish),
    /// A registration stream broke.
    Broken(u64, Member),
    /// The address of a server is asked for, until then.
    Probe(u64, Member, u64),
}

/// The view service.
#[derive(Debug)]
pub struct Views {
    pub(super) state: ViewState,
    pub(super) liveness: Liveness,
    /// Open streams by name: which one, and of whom.
    pub(super) attending: BTreeMap<ServerName, (u64, Member, u64)>,
    streams: u64,
    pub(super) paused: bool,
    pub(super) inbox: Vec<ToViews>,
}

impl Views {
    pub(super) fn new(settings: Settings) -> Views {
        let cluster = ClusterId([7; 16]);
        Views {
            liveness: Liveness::new(&settings, [], Timestamp::default()),
            state: ViewState::new(cluster, settings),
            attending: BTreeMap::new(),
            streams: 0,
            paused: false,
            inbox: Vec::new(),
        }
    }
}

impl World<'_> {
    fn views_clock(&self) -> Timestamp {
        Timestamp::from_nanos(self.now * 1000 + 77_000_000_000)
    }

    pub(super) fn on_views(&mut self, what: ToViews) {
        if matches!(what, ToViews::Tick) {
            self.later(50 * MS, Happening::ToViews(ToViews::Tick));
        }
        if self.views.paused {
            if !matches!(what, ToViews::Tick) {
                self.views.inbox.push(what);
            }
            return;
        }
        let now = self.views_clock();
        match what {
            ToViews::Tick => {}
            ToViews::Register { node, life, incarnation } => {
                self.on_register(node, life, incarnation, now)
            }
            ToViews::Ping(stream, member, progress) => {
                if self.is_attending(stream, &member) {
                    self.views.liveness.observe(&member, Some(progress), now);
                    let view = self.views.state.view();
                    if view.is_primary(&member)
                        && view.is_activated()
                        && progress.committed > self.views.state.committed_heard()
                    {
                        self.propose(Command::Heard {
                            by: member,
                            view: self.views.state.view_id(),
                            committed: progress.committed,
                        });
                    }
                }
            }
            ToViews::Wish(stream, member, wish) => {
                if self.is_attending(stream, &member) {
                    self.on_wish(&member, wish, now);
                }
            }
            ToViews::Broken(stream, member) => {
                if self.is_attending(stream, &member) {
                    self.end_attendance(&member.name);
                    self.views.liveness.suspect(&member);
                    let until = self.now + self.settings.dead_after.as_micros() as u64;
                    let probe = ToViews::Probe(stream, member, until);
                    self.later(MS, Happening::ToViews(probe));
                }
            }
            ToViews::Probe(stream, member, until) => self.on_probe(stream, member, until, now),
        }
        self.settle(now);
    }

    fn is_attending(&self, stream: u64, member: &Member) -> bool {
        let open = self.views.attending.get(&member.name);
        open.is_some_and(|(open, of, _)| *open == stream && of == member)
    }

    /// The other end of a stream hears of its end too, sooner or later.
    fn end_attendance(&mut self, name: &ServerName) {
        if let Some((stream, member, life)) = self.views.attending.remove(name)
            && let Some(to) = self.node_of(&member)
        {
            let at = self.random.between(1, 1500) * MS;
            let input = Input::RegistrationBroken { stream };
            self.later(at, Happening::ToServer { to, life, input });
        }
    }

    fn on_probe(&mut self, stream: u64, member: Member, until: u64, now: Timestamp) {
        if self.now > until || self.views.attending.contains_key(&member.name) {
            return;
        }
        let Some(node) = self.node_of(&member) else {
            return;
        };
        let views = self.machines.len();
        let reachable = !self.network.is_cut(node, views) && !self.network.is_cut(views, node);
        if reachable && self.machines[node].process.is_none() {
            if self.views.state.is_present(&member) {
                self.views.liveness.refused(&member, now);
            }
        } else {
            let probe = ToViews::Probe(stream, member, until);
            self.later(50 * MS, Happening::ToViews(probe));
        }
    }

    fn on_register(
        &mut self,
        node: Node,
        life: u64,
        incarnation: Option<Incarnation>,
        now: Timestamp,
    ) {
        self.views.liveness.tick(now);
        let asked = Registration {
            name: self.machines[node].name.clone(),
            incarnation,
            cluster: None,
            protocol_level: PROTOCOL_LEVEL,
        };
        let member = match requests::register(&self.views.state, &self.views.liveness, &asked) {
            Admission::Resumes(member) => member,
            Admission::Refused(reason, _) => {
                self.visits.note("registration refused");
                let for_good = reason != RefusedReason::NameInUse;
                let delay = self.delay();
                let input = Input::Refused { for_good };
                self.later(delay, Happening::ToServer { to: node, life, input });
                return;
            }
            Admission::Begins { former, command } => {
                let Some(Applied::Registered(member)) = self.propose(command) else {
                    return;
                };
                if let Some(former) = former {
                    self.views.liveness.ended(&former, now);
                }
                member
            }
        };
        self.views.liveness.attend(&member, now);
        self.views.streams += 1;
        let stream = self.views.streams;
        let attendance = (stream, member.clone(), life);
        self.end_attendance(&member.name);
        self.views.attending.insert(member.name.clone(), attendance);
        let view = Box::new(self.views.state.view().clone());
        let input = Input::Registered { stream, member: member.clone(), view };
        let views = self.machines.len();
        if self.network.is_cut(views, node) {
            let at = self.random.between(50, 1500) * MS;
            self.later(at, Happening::ToViews(ToViews::Broken(stream, member)));
        } else {
            let delay = self.delay();
            self.later(delay, Happening::ToServer { to: node, life, input });
        }
    }

    fn on_wish(&mut self, member: &Member, wish: Wish, now: Timestamp) {
        match requests::wish(&self.views.state, &self.views.liveness, member, wish, now) {
            Granted::Propose(command) => drop(self.propose(command)),
            Granted::Evict(command, backup) => {
                if self.propose(command).is_some() {
                    self.visits.note("eviction");
                    self.views.liveness.evicted(&backup, now);
                }
            }
            Granted::Leaving => {
                if self.views.state.view().is_primary(member) {
                    self.visits.note("hand-over");
                }
                self.views.liveness.leaving(member);
            }
            Granted::NobodyToTakeOver => {
                self.visits.note("nobody to take over");
                if let Some((_, _, life)) = self.views.attending.get(&member.name)
                    && let Some(to) = self.node_of(member)
                {
                    let (life, delay) = (*life, self.delay());
                    let event = kvserver::replica::event::Event::NobodyToTakeOver;
                    let input = Input::Event(Box::new(event));
                    self.later(delay, Happening::ToServer { to, life, input });
                }
            }
            Granted::Nothing => {}
        }
    }

    fn settle(&mut self, now: Timestamp) {
        self.views.liveness.tick(now);
        for _ in 0..CHANGES_PER_EVENT {
            let Some(command) = planner::next(&self.views.state, &self.views.liveness, now) else {
                break;
            };
            if let Command::Forget { server } = &command {
                self.views.liveness.forget(server);
            }
            if self.propose(command).is_none() {
                break;
            }
        }
    }

    fn propose(&mut self, command: Command) -> Option<Applied> {
        let before = self.views.state.view().clone();
        let applied = self.views.state.apply(command.clone()).ok()?;
        let view = self.views.state.view().clone();
        if view.revision != before.revision {
            self.note(|| format!("views: {command:?} -> {view:?}"));
            self.check_eligible("a change of the record");
            self.push(&view);
        }
        Some(applied)
    }

    /// Tells everybody who attends, each at its own pace; a stream that loses a record breaks.
    fn push(&mut self, view: &View) {
        let attending: Vec<_> = self.views.attending.values().cloned().collect();
        let views = self.machines.len();
        for (stream, member, life) in attending {
            let Some(to) = self.node_of(&member) else {
                continue;
            };
            if self.network.is_cut(views, to) || self.random.chance(self.faults.lost_records) {
                let at = self.random.between(20, 1500) * MS;
                self.later(at, Happening::ToViews(ToViews::Broken(stream, member)));
                continue;
            }
            let slow = self.random.chance(self.faults.slow_records);
            let at = self.delay() + if slow { self.random.between(0, 800 * MS) } else { 0 };
            let event = kvserver::replica::event::Event::View(Box::new(view.clone()));
            let input = Input::Event(Box::new(event));
            self.later(at, Happening::ToServer { to, life, input });
        }
    }
}
