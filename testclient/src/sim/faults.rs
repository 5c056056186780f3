//! What goes wrong in a simulation, and how everything heals. Pure.

use kvserver::replica::event::Event;

use super::network::Node;
use super::servers::Input;
use super::world::{Happening, MS, World};

/// How often what goes wrong: weights, and chances in a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Weights of crash, pause, pause in a step, cut, leave, slow journal, broken stream, pause of
    /// the view service.
    pub(super) weights: [u64; 8],
    /// Milliseconds between two faults, at most.
    pub(super) every_max: u64,
    /// Whether the last eligible copy may be crashed.
    pub(super) merciless: bool,
    pub(super) lost_records: u64,
    pub(super) slow_records: u64,
    pub(super) over: bool,
}

impl World<'_> {
    pub(super) fn on_fault(&mut self) {
        if self.faults.over {
            return;
        }
        let at = self.random.between(20, self.faults.every_max) * MS;
        self.later(at, Happening::Fault);
        let total: u64 = self.faults.weights.iter().sum();
        let mut draw = self.random.between(0, total.max(1) - 1);
        let mut kind = 0;
        for (index, weight) in self.faults.weights.iter().enumerate() {
            if draw < *weight {
                kind = index;
                break;
            }
            draw -= weight;
        }
        let node = self.random.below(self.machines.len());
        // What matters most happens to the primary.
        let node = match self.primary_node() {
            Some(primary) if self.random.chance(400) => primary,
            _ => node,
        };
        match kind {
            0 => self.fault_crash(node),
            1 => self.fault_pause(node),
            2 => {
                let pause = self.random.between(50, 2500) * MS;
                self.machines[node].pause_after_step = Some(pause);
            }
            3 => self.fault_cut(node),
            4 => self.fault_leave(node),
            5 => {
                let slow = self.random.between(10, 900) * MS;
                self.machines[node].journal_delay = slow;
                let at = self.random.between(100, 2000) * MS;
                self.later(at, Happening::JournalHeals(node));
            }
            6 => {
                let open = self.network.channels.iter().filter(|(_, c)| !c.broken && !c.closed);
                let open: Vec<u64> = open.map(|(id, _)| *id).collect();
                if let Some(id) = self.random.pick(&open) {
                    self.break_channel(id, 1, 500);
                }
            }
            _ => {
                self.note(|| "views: pauses".into());
                self.views.paused = true;
                let at = self.random.between(50, 2500) * MS;
                self.later(at, Happening::ViewsResume);
            }
        }
    }

    fn primary_node(&self) -> Option<Node> {
        self.node_of(self.views.state().view().primary.as_ref()?)
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

    fn fault_crash(&mut self, node: Node) {
        let last = self.eligible_nodes() == [node];
        if last && !self.faults.merciless {
            return;
        }
        self.crash(node);
        let at = self.random.between(1, 3000) * MS;
        self.later(at, Happening::Start(node));
    }

    fn fault_pause(&mut self, node: Node) {
        let Some(process) = &self.machines[node].process else {
            return;
        };
        if self.machines[node].paused {
            return;
        }
        let life = process.life;
        self.note(|| format!("s{node}: pauses"));
        self.machines[node].paused = true;
        let at = self.random.between(20, 3000) * MS;
        self.later(at, Happening::Resume(node, life));
    }

    fn fault_cut(&mut self, node: Node) {
        let views = self.machines.len();
        let other = self.random.below(views + 1);
        let mut links = Vec::new();
        match self.random.below(6) {
            0 => links.push((node, other)),
            1 => links.push((other, node)),
            2 => links.extend([(node, other), (other, node)]),
            3 => links.extend([(node, views), (views, node)]),
            4 => links.extend((0..views).flat_map(|peer| [(node, peer), (peer, node)])),
            _ => links.extend((0..=views).flat_map(|peer| [(node, peer), (peer, node)])),
        }
        links.retain(|(from, to)| from != to);
        self.note(|| format!("cut {links:?}"));
        self.network.cut(&links);
        let at = self.random.between(50, 4000) * MS;
        self.later(at, Happening::Mend(links));
    }

    fn fault_leave(&mut self, node: Node) {
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

    /// Everything works from now on.
    pub(super) fn heal(&mut self) {
        self.note(|| "everything heals".into());
        self.faults.over = true;
        self.faults.lost_records = 0;
        self.faults.slow_records = 0;
        self.network.mend_all();
        self.network.delay_max = 1000;
        for node in 0..self.machines.len() {
            self.machines[node].journal_delay = 200;
            self.machines[node].pause_after_step = None;
            let process = self.machines[node].process.as_ref();
            match process.map(|process| process.life) {
                Some(life) => self.resume(node, life),
                None => self.later(100 * MS, Happening::Start(node)),
            }
        }
        self.resume_views();
    }

    pub(super) fn resume_views(&mut self) {
        if std::mem::replace(&mut self.views.paused, false) {
            for what in std::mem::take(&mut self.views.inbox) {
                self.on_views(what);
            }
        }
    }
}
