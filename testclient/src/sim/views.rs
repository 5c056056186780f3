//! The view service of a simulation: its leader as it runs in production, and the registration
//! streams that carry records, pings and wishes. Decides nothing about views. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use kvproto::registration::{PROTOCOL_LEVEL, Progress, RefusedReason, ToServer, Wish};
use kvproto::{ClusterId, Incarnation, Member, Settings, Timestamp, View};
use kvserver::replica::event::Event as ServerEvent;
use viewservice::assignment::law::ViewState;
use viewservice::assignment::leader::{Effect, Event, Leader, Stream};
use viewservice::assignment::notice::Notice;
use viewservice::assignment::requests::Registration;

use super::network::Node;
use super::servers::Input;
use super::world::{Happening, MS, World};

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
    Probe(Stream, u64),
}

/// The other end of a registration stream.
#[derive(Clone, Debug)]
struct Attendance {
    node: Node,
    life: u64,
    stream: Stream,
}

/// The view service.
#[derive(Debug)]
pub struct Views {
    leader: Leader,
    /// The open streams, by number.
    attending: BTreeMap<u64, Attendance>,
    /// Streams asked for so far.
    streams: u64,
    pub(super) paused: bool,
    pub(super) inbox: Vec<ToViews>,
}

impl Views {
    pub(super) fn new(settings: Settings) -> Views {
        let state = ViewState::new(ClusterId([7; 16]), settings);
        Views {
            leader: Leader::new(state, Timestamp::default()),
            attending: BTreeMap::new(),
            streams: 0,
            paused: false,
            inbox: Vec::new(),
        }
    }

    /// The truth about views.
    pub(super) fn state(&self) -> &ViewState {
        self.leader.state()
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
        match what {
            ToViews::Tick => self.step_views(Event::Tick, None),
            ToViews::Register { node, life, incarnation } => {
                self.views.streams += 1;
                let stream = self.views.streams;
                let registration = Registration {
                    name: self.machines[node].name.clone(),
                    incarnation,
                    cluster: None,
                    protocol_level: PROTOCOL_LEVEL,
                };
                self.step_views(Event::Register { stream, registration }, Some((node, life)));
            }
            ToViews::Ping(number, member, progress) => {
                self.step_views(Event::Ping(Stream { member, number }, progress), None);
            }
            ToViews::Wish(number, member, wish) => {
                self.step_views(Event::Wish(Stream { member, number }, wish), None);
            }
            ToViews::Broken(number, member) => {
                self.end_attendance(number);
                self.step_views(Event::Broken(Stream { member, number }), None);
            }
            ToViews::Probe(stream, until) => self.on_probe(stream, until),
        }
    }

    /// One step of the leader; `asking` is whoever waits for the answer.
    fn step_views(&mut self, event: Event, asking: Option<(Node, u64)>) {
        let now = self.views_clock();
        let mut effects = Vec::new();
        self.views.leader.step(now, event, &mut effects);
        for effect in effects {
            self.perform_for_views(effect, asking);
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
                self.visits.note("registration refused");
                if let Some((to, life)) = asking {
                    let for_good = reason != RefusedReason::NameInUse;
                    let delay = self.delay();
                    let input = Input::Refused { for_good };
                    self.later(delay, Happening::ToServer { to, life, input });
                }
            }
            Effect::Tell(stream, message) => self.tell(&stream, message),
            Effect::Close(stream) => self.end_attendance(stream.number),
            Effect::Probe(stream, patience) => {
                let until = self.now + micros(patience);
                self.later(MS, Happening::ToViews(ToViews::Probe(stream, until)));
            }
            Effect::Forced(_) => {}
            Effect::Notice(notice) => self.on_views_notice(&notice),
        }
    }

    fn on_views_notice(&mut self, notice: &Notice) {
        self.note(|| format!("views: {notice}"));
        match notice {
            Notice::Evicted(_) => self.visits.note("eviction"),
            Notice::WantsToStop { leads: true, .. } => self.visits.note("hand-over"),
            Notice::NobodyToTakeOver(_) => self.visits.note("nobody to take over"),
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

    fn on_probe(&mut self, stream: Stream, until: u64) {
        let back = self.views.attending.values().any(|it| it.stream.member == stream.member);
        if self.now > until || back {
            return;
        }
        let Some(node) = self.node_of(&stream.member) else {
            return;
        };
        let views = self.machines.len();
        let reachable = !self.network.is_cut(node, views) && !self.network.is_cut(views, node);
        if reachable && self.machines[node].process.is_none() {
            self.step_views(Event::Gone(stream), None);
        } else {
            let probe = ToViews::Probe(stream, until);
            self.later(50 * MS, Happening::ToViews(probe));
        }
    }

    fn on_admitted(&mut self, node: Node, life: u64, stream: Stream, view: Box<View>) {
        let number = stream.number;
        let member = stream.member.clone();
        self.views.attending.insert(number, Attendance { node, life, stream });
        let views = self.machines.len();
        if self.network.is_cut(views, node) {
            let at = self.random.between(50, 1500) * MS;
            self.later(at, Happening::ToViews(ToViews::Broken(number, member)));
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
            ToServer::Refused { reason, .. } => {
                Input::Refused { for_good: reason != RefusedReason::NameInUse }
            }
            // These come as effects of their own.
            ToServer::Registered { .. } | ToServer::View(_) => return,
        };
        let delay = self.delay();
        self.later(delay, Happening::ToServer { to, life, input });
    }

    /// Tells everybody who attends, each at its own pace; a stream that loses a record breaks.
    fn push(&mut self, view: &View) {
        self.note(|| format!("views: {view:?}"));
        self.check_eligible("a change of the record");
        let attending: Vec<_> = self.views.attending.values().cloned().collect();
        let views = self.machines.len();
        for Attendance { node: to, life, stream } in attending {
            if self.network.is_cut(views, to) || self.random.chance(self.faults.lost_records) {
                let at = self.random.between(20, 1500) * MS;
                let broken = ToViews::Broken(stream.number, stream.member);
                self.later(at, Happening::ToViews(broken));
                continue;
            }
            let slow = self.random.chance(self.faults.slow_records);
            let at = self.delay() + if slow { self.random.between(0, 800 * MS) } else { 0 };
            let event = ServerEvent::View(Box::new(view.clone()));
            let input = Input::Event(Box::new(event));
            self.later(at, Happening::ToServer { to, life, input });
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
