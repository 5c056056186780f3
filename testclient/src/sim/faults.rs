//! What goes wrong in a simulation, and how everything heals. Pure.

use kvproto::ServerName;
use kvserver::replica::event::Event;

use super::network::{Link, Node};
use super::servers::{Decides, Input};
use super::visits::Path;
use super::world::{Happening, MS, World};

/// Something that goes wrong. To add one: name it here and in `ALL`, do it in `on_fault`, undo it in
/// `heal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process ends and comes back, empty or with what its disk holds.
    Crash,
    /// A process ends for good.
    Vanish,
    /// A process stands still.
    Pause,
    /// A process stands still after it has decided and before it acts.
    PauseInStep,
    /// Links of one machine lose everything, in one direction or both.
    Cut,
    /// The machines fall into two groups that do not hear each other, or only one way.
    Part,
    /// What goes over one link waits, and arrives late.
    Hold,
    /// A server is asked to stop.
    Leave,
    /// A journal is slow for a while.
    SlowJournal,
    /// A stream between two servers breaks.
    BreakStream,
    /// The view service stands still.
    PauseViews,
    /// The view service loses everything but its log.
    RestartViews,
    /// A second process is started at an address.
    Twin,
    /// An operator tries to force a server although nothing is lost.
    CarelessForce,
    /// The power goes everywhere at once.
    PowerCut,
    /// An operation of a disk fails, or the power goes in the middle of it.
    StrikeDisk,
    /// A disk is nearly full for a while.
    FillDisk,
    /// A disk does nothing for a while, and tells no error.
    HangDisk,
    /// A process stands still again and again.
    Flap,
}

impl Fault {
    /// Those of worlds with disks only.
    pub const OF_DISKS: [Fault; 4] =
        [Fault::PowerCut, Fault::StrikeDisk, Fault::FillDisk, Fault::HangDisk];
    /// All others, but [`Fault::Flap`], which is drawn last.
    pub const ALL: [Fault; 14] = [
        Fault::Crash,
        Fault::Vanish,
        Fault::Pause,
        Fault::PauseInStep,
        Fault::Cut,
        Fault::Part,
        Fault::Hold,
        Fault::Leave,
        Fault::SlowJournal,
        Fault::BreakStream,
        Fault::PauseViews,
        Fault::RestartViews,
        Fault::Twin,
        Fault::CarelessForce,
    ];
}

/// How often what goes wrong: weights, and chances in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub(super) weights: Vec<(Fault, u64)>,
    /// Milliseconds between two faults, at most.
    pub(super) every_max: u64,
    /// Whether the last eligible copy may be lost, and an operator stands by.
    pub(super) merciless: bool,
    pub(super) lost_records: u64,
    pub(super) slow_records: u64,
    /// How often the view service ends between a step and its effects, when there is something to keep.
    pub(super) views_die: u64,
    /// Answers of a middlebox that speaks for a server which it cannot reach.
    pub(super) false_refusals: u64,
    /// Requests and replies of clients.
    pub(super) lost_requests: u64,
    /// Messages between servers that arrive once more, later.
    pub(super) doubled: u64,
    /// How often a primary that was just replaced is cut off from the other servers, but not from
    /// clients.
    pub(super) ambush: u64,
    pub(super) over: bool,
}

impl World<'_> {
    pub(super) fn on_fault(&mut self) {
        if self.faults.over {
            return;
        }
        let at = self.random.between(20, self.faults.every_max) * MS;
        self.later(at, Happening::Fault);
        let total: u64 = self.faults.weights.iter().map(|(_, weight)| weight).sum();
        let mut draw = self.random.between(0, total.max(1) - 1);
        let chosen = self.faults.weights.iter().find(|(_, weight)| {
            let hit = draw < *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        let Some((fault, _)) = chosen.copied() else {
            return;
        };
        let node = self.random.below(self.machines.len());
        // What matters most happens to the primary.
        let node = match self.primary_node() {
            Some(primary) if self.random.chance(400) => primary,
            _ => node,
        };
        match fault {
            Fault::Crash => self.fault_crash(node, false),
            Fault::Vanish => self.fault_crash(node, true),
            Fault::Pause => {
                let length = self.random.between(20, 3000) * MS;
                self.pause(node, length);
            }
            Fault::PauseInStep => {
                let after = if self.random.chance(500) {
                    (self.random.between(50, 2500) * MS, Decides::Anything)
                } else {
                    (self.random.between(500, 4000) * MS, Decides::LeaseRead)
                };
                self.machines[node].pause_after_step = Some(after);
            }
            Fault::Cut => self.fault_cut(node),
            Fault::Part => self.fault_part(),
            Fault::Hold => self.fault_hold(node),
            Fault::Leave => self.fault_leave(node),
            Fault::SlowJournal => {
                let slow = self.random.between(10, 900) * MS;
                self.machines[node].journal_delay = slow;
                let at = self.random.between(100, 2000) * MS;
                self.later(at, Happening::JournalHeals(node));
            }
            Fault::BreakStream => {
                let open = self.network.channels.iter().filter(|(_, c)| !c.broken && !c.closed);
                let open: Vec<u64> = open.map(|(id, _)| *id).collect();
                if let Some(id) = self.random.pick(&open) {
                    self.break_channel(id, 1, 500);
                }
            }
            Fault::PauseViews => {
                self.note(|| "views: pauses".into());
                self.views.paused = true;
                let at = self.random.between(50, 2500) * MS;
                self.later(at, Happening::ViewsResume);
            }
            Fault::RestartViews => {
                let down_for = self.random.between(5, 2000) * MS;
                self.restart_views(down_for);
            }
            Fault::Twin => self.fault_twin(),
            Fault::CarelessForce => self.fault_careless_force(node),
            Fault::PowerCut => self.cut_all_power(),
            Fault::StrikeDisk => self.strike_disk(node),
            Fault::FillDisk => self.fill_disk(node),
            Fault::HangDisk => {
                self.hang_disk(node);
                let at = self.random.between(100, 6000) * MS;
                self.later(at, Happening::DiskAnswers(node));
            }
            Fault::Flap => self.flap(node, 8),
        }
    }

    pub(super) fn primary_node(&self) -> Option<Node> {
        self.host_of(self.views.state().view().primary.as_ref()?)
    }

    /// Machines whose present process is eligible.
    pub(super) fn eligible_nodes(&self) -> Vec<Node> {
        let eligible = &self.views.state().view().eligible;
        let alive = |node: &Node| {
            let process = self.machines[*node].process.as_ref();
            process
                .and_then(|process| process.member.as_ref())
                .is_some_and(|member| eligible.contains(member))
        };
        (0..self.machines.len()).filter(alive).collect()
    }

    fn fault_crash(&mut self, node: Node, for_good: bool) {
        let last = self.eligible_nodes() == [node];
        let returns = !for_good && self.machines[node].storage.is_some();
        let lost = last && !returns;
        if (lost && !self.faults.merciless) || self.machines[node].process.is_none() {
            return;
        }
        let is_twin = self.machines[node].twin_of.is_some();
        let staying = self.machines.iter().filter(|m| !m.gone && m.twin_of.is_none()).count();
        if for_good && !is_twin {
            if staying <= 2 {
                return;
            }
            self.visits.note(Path::NeverBack);
            self.machines[node].gone = true;
        }
        self.crash(node);
        if !for_good && !is_twin {
            let at = self.random.between(1, 3000) * MS;
            self.later(at, Happening::Start(node));
        }
    }

    /// Stops a process as it stands; it goes on after so long.
    pub(super) fn pause(&mut self, node: Node, length: u64) {
        let Some(process) = &self.machines[node].process else {
            return;
        };
        if self.machines[node].paused {
            return;
        }
        let life = process.life;
        self.note(|| format!("s{node}: pauses"));
        self.machines[node].paused = true;
        self.later(length, Happening::Resume(node, life));
    }

    /// Stands still for seven tenths of every second, more or less.
    pub(super) fn flap(&mut self, node: Node, times: u64) {
        if self.faults.over || times == 0 {
            return;
        }
        self.visits.note(Path::Flapped);
        let still = self.random.between(300, 1000) * MS;
        let running = self.random.between(100, 600) * MS;
        self.pause(node, still);
        self.later(still + running, Happening::Flap(node, times - 1));
    }

    fn cut_for(&mut self, mut links: Vec<Link>) {
        links.retain(|(from, to)| from != to);
        self.note(|| format!("cut {links:?}"));
        self.network.cut(&links);
        let at = self.random.between(50, 4000) * MS;
        self.later(at, Happening::Mend(links));
    }

    fn fault_cut(&mut self, node: Node) {
        let views = self.views_node();
        let all = self.nodes();
        let other = self.random.below(all);
        let mut links = Vec::new();
        match self.random.below(8) {
            0 => links.push((node, other)),
            1 => links.push((other, node)),
            2 => links.extend([(node, other), (other, node)]),
            3 => links.extend([(node, views), (views, node)]),
            // Given up by the view service, it still hears some of the others.
            4 | 5 => {
                let peers = [views, other];
                links.extend(peers.into_iter().flat_map(|peer| [(node, peer), (peer, node)]));
            }
            6 => links.extend((0..views).flat_map(|peer| [(node, peer), (peer, node)])),
            _ => links.extend((0..all).flat_map(|peer| [(node, peer), (peer, node)])),
        }
        self.cut_for(links);
    }

    fn fault_part(&mut self) {
        let all = self.nodes();
        let sides: Vec<bool> = (0..all).map(|_| self.random.chance(500)).collect();
        let (there, back) = match self.random.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let mut links = Vec::new();
        for from in 0..all {
            for to in 0..all {
                match (sides[from], sides[to]) {
                    (true, false) if there => links.push((from, to)),
                    (false, true) if back => links.push((from, to)),
                    _ => {}
                }
            }
        }
        if !links.is_empty() {
            self.visits.note(Path::GroupsParted);
            self.cut_for(links);
        }
    }

    /// There is another primary. Its predecessor, if it lives, hears nothing of that for a while, and
    /// is asked all the more: nothing but leases and rounds keeps it from old answers.
    pub(super) fn ambush(&mut self, former: Node) {
        if self.faults.over || !self.random.chance(self.faults.ambush) {
            return;
        }
        let others = (0..=self.views_node()).filter(|other| *other != former);
        let links: Vec<Link> =
            others.flat_map(|other| [(former, other), (other, former)]).collect();
        self.note(|| format!("ambush of s{former}"));
        self.network.cut(&links);
        let length = self.random.between(200, 2000) * MS;
        self.later(length, Happening::Mend(links));
        if self.faults.merciless && self.random.chance(300) {
            self.later(length, Happening::Strike(former));
        }
        for _ in 0..self.random.between(3, 20) {
            let at = self.random.between(0, length);
            self.later(at, Happening::Stray(former));
        }
    }

    /// Everybody who holds everything ends, but for a former primary.
    pub(super) fn strike(&mut self, but: Node) {
        if self.faults.over {
            return;
        }
        for node in self.eligible_nodes().into_iter().filter(|node| *node != but) {
            self.crash(node);
            let at = self.random.between(1000, 3000) * MS;
            self.later(at, Happening::Start(node));
        }
    }

    fn fault_hold(&mut self, node: Node) {
        let all = self.nodes();
        let other = self.random.below(all);
        let link = if self.random.chance(500) { (node, other) } else { (other, node) };
        if node == other || self.network.is_held(link) {
            return;
        }
        self.note(|| format!("hold {link:?}"));
        self.network.hold(link);
        let at = self.random.between(20, 3000) * MS;
        self.later(at, Happening::Release(link));
    }

    pub(super) fn fault_leave(&mut self, node: Node) {
        let Some(process) = &self.machines[node].process else {
            return;
        };
        if process.replica.is_some() {
            let life = process.life;
            // The only copy of one has nobody to hand over to, ever.
            self.machines[node].leaving = self.settings.copies > 1;
            self.note(|| format!("s{node}: is asked to leave"));
            self.input(node, life, Input::Event(Box::new(Event::Leave)));
        }
    }

    /// Somebody starts a second process at an address, on another machine; often while the first
    /// stands still.
    fn fault_twin(&mut self) {
        let twin = self.machines.iter().position(|machine| {
            machine.twin_of.is_some() && !machine.gone && machine.process.is_none()
        });
        let Some(twin) = twin else {
            return;
        };
        if let Some(first) = self.machines[twin].twin_of
            && self.random.chance(500)
        {
            let length = self.random.between(1000, 4000) * MS;
            self.pause(first, length);
        }
        self.start(twin);
    }

    fn fault_careless_force(&mut self, node: Node) {
        let name = self.machines[node].name.clone();
        if !self.views_answer() || !self.hears_a_complete_copy() {
            return;
        }
        let verdict = self.force(&name);
        assert!(verdict.is_err(), "VIEW-7: {name} was forced although a complete copy is heard");
        self.visits.note(Path::ForceRefused);
    }

    /// The operator: when every complete copy is lost, starts over from what some server holds, as
    /// soon as the view service lets him.
    pub(super) fn on_operator(&mut self) {
        self.later(500 * MS, Happening::Operator);
        let may = self.healed_at.is_some() || self.faults.merciless;
        if !may || !self.is_lost() || !self.views_answer() {
            return;
        }
        let servers = self.servers_heard();
        // Mostly the one that holds most, as the advice of the view service says.
        let most = servers.iter().max_by_key(|(_, appended)| *appended).cloned();
        let with_tail: Vec<_> =
            servers.iter().filter(|(name, _)| self.has_tail(name)).cloned().collect();
        let chosen = match self.random.below(10) {
            0..=3 if !with_tail.is_empty() => self.random.pick(&with_tail),
            0..=6 => most,
            _ => self.random.pick(&servers),
        };
        if let Some((name, _)) = chosen {
            let verdict = self.force(&name);
            self.note(|| format!("operator: force {name}: {verdict:?}"));
        }
    }

    /// Whether a server holds entries that it does not know to be committed.
    fn has_tail(&self, name: &ServerName) -> bool {
        let here = self.machines.iter().enumerate().filter(|(_, machine)| machine.name == *name);
        here.filter_map(|(node, _)| self.replica(node))
            .any(|replica| replica.progress().appended > replica.committed())
    }

    /// The first primary ends between its appointment and its activation.
    pub(super) fn strike_down_the_first(&mut self, node: Node) {
        if !self.faults.over && self.random.chance(80) {
            self.visits.note(Path::FirstDiedEarly);
            self.crash(node);
            let at = self.random.between(1, 3000) * MS;
            self.later(at, Happening::Start(node));
        }
    }

    /// Every complete copy is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.views.state().ever_activated()
            && self.eligible_nodes().is_empty()
            && self.disks_are_lost()
    }

    /// Everything works from now on.
    pub(super) fn heal(&mut self) {
        self.note(|| "everything heals".into());
        self.faults.over = true;
        self.faults.views_die = 0;
        self.faults.false_refusals = 0;
        self.faults.lost_records = 0;
        self.faults.slow_records = 0;
        self.faults.lost_requests = 0;
        self.faults.ambush = 0;
        self.faults.doubled = 0;
        self.network.mend_all();
        self.network.delay_max = 1000;
        for link in self.network.held_links() {
            self.release(link);
        }
        self.start_views();
        self.stop_doubles();
        for node in 0..self.machines.len() {
            self.machines[node].journal_delay = 200;
            self.empty_disk(node);
            self.calm_disk(node);
            self.disk_answers(node);
            self.machines[node].pause_after_step = None;
            let process = self.machines[node].process.as_ref();
            match process.map(|process| process.life) {
                Some(life) => self.resume(node, life),
                None => self.later(100 * MS, Happening::Start(node)),
            }
        }
        self.resume_views();
    }

    /// Of two processes at one address the one that is not registered is stopped for good.
    fn stop_doubles(&mut self) {
        for twin in 0..self.machines.len() {
            let Some(first) = self.machines[twin].twin_of else {
                continue;
            };
            let registered = |world: &Self, node: Node| {
                let process = world.machines[node].process.as_ref();
                process.is_some_and(|process| {
                    process.member.as_ref().is_some_and(|m| world.views.state().is_present(m))
                })
            };
            let twin_stays = registered(self, twin)
                && !registered(self, first)
                && !self.machines[twin].is_astray;
            let stop = if twin_stays { first } else { twin };
            self.crash(stop);
            self.machines[stop].gone = true;
            if stop == first {
                self.machines[twin].twin_of = None;
            }
        }
    }

    pub(super) fn resume_views(&mut self) {
        if std::mem::replace(&mut self.views.paused, false) {
            for what in std::mem::take(&mut self.views.inbox) {
                self.on_views(what);
            }
        }
    }
}
