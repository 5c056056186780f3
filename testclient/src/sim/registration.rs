//! The registration of a process with the view service, on its own side: attempts to attend, pings
//! and wishes. Pure.

use kvproto::registration::{Process as ServerProcess, Progress, Wish};
use kvproto::{Member, View};
use kvserver::replica::Replica;
use kvserver::replica::event::Event;
use kvserver::replica::recovery::Recovered;

use super::invariants::Shadow;
use super::network::Node;
use super::servers::{Input, Journal};
use super::views::ToViews;
use super::visits::Path;
use super::world::{Happening, MS, World};

/// What a server has to say to the view service.
pub(super) enum Say {
    Ping(Progress),
    Wish(Wish),
    Met(ServerProcess),
}

impl World<'_> {
    pub(super) fn is_registered(&self, node: Node) -> bool {
        let process = self.machines[node].process.as_ref();
        process.is_some_and(|process| process.replica.is_some())
    }

    pub(super) fn attend(&mut self, node: Node, life: u64) {
        let Some(process) = &self.machines[node].process else {
            return;
        };
        if process.registration.is_some() {
            return;
        }
        let incarnation = process.member.as_ref().map(|member| member.incarnation);
        let process_found = process.found.clone();
        let shown = process.replica.as_ref().map(|replica| Box::new(replica.view().clone()));
        let again = self.random.between(200, 1000) * MS;
        let input = Input::Attend;
        self.later(again, Happening::ToServer { to: node, life, input });
        if !self.network.is_cut(node, self.views_node()) {
            let delay = self.delay();
            let found = process_found;
            let register = ToViews::Register { node, life, incarnation, found, shown };
            self.later_to_views(delay, node, register);
        }
    }

    pub(super) fn on_registered(&mut self, node: Node, stream: u64, member: Member, view: View) {
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        if process.member.as_ref().is_some_and(|me| *me != member) {
            return;
        }
        // Of a stream that is over, or that a later one has replaced.
        if stream <= process.ended || process.registration.is_some_and(|known| known > stream) {
            return;
        }
        process.registration = Some(stream);
        if process.replica.is_none() && !self.take_part(node, member, &view) {
            return;
        }
        self.step(node, Event::View(Box::new(view)));
    }

    /// A process that was just registered begins to take part. False if it cannot.
    fn take_part(&mut self, node: Node, member: Member, view: &View) -> bool {
        let now = self.machines[node].clock.at(self.now);
        let options = self.machines[node].options.clone();
        let Some(process) = &mut self.machines[node].process else {
            return false;
        };
        process.member = Some(member.clone());
        let items = process.table.items().clone();
        let (mut recovered, mut journal) = (None, None);
        if let Some(opened) = process.opened.take() {
            let Some(taken) = self.take_up(node, opened, view, &member) else {
                self.crash_process(node);
                self.after_a_failure(node);
                return false;
            };
            recovered = Some(taken.0);
            journal = Some(taken.1);
        }
        if recovered.as_ref().is_some_and(|held| !held.is_nothing())
            && view.eligible.contains(&member)
        {
            self.visits.note(Path::CameBackEligible);
        }
        let recovered = recovered.unwrap_or_else(|| Recovered::nothing(items));
        let replica = Replica::resume(member, view.clone(), options, recovered, now);
        let Some(process) = &mut self.machines[node].process else {
            return false;
        };
        process.shadow = Shadow::of(&replica);
        process.replica = Some(replica);
        if let Some(journal) = journal {
            process.journal = Journal::Disk(Box::new(journal));
        }
        true
    }

    /// A ping or wish; a link that loses one breaks the registration stream sooner or later.
    pub(super) fn tell_views(&mut self, node: Node, life: u64, say: Say) {
        let views = self.views_node();
        let Some(process) = &self.machines[node].process else {
            return;
        };
        let (Some(stream), Some(member)) = (process.registration, process.member.clone()) else {
            return;
        };
        if self.network.is_cut(node, views) || self.network.is_cut(views, node) {
            if self.random.chance(500) {
                let at = self.random.between(1, 1500) * MS;
                self.later_to_views(at, node, ToViews::Broken(stream, member.clone()));
                let at = self.random.between(1, 1500) * MS;
                let input = Input::RegistrationBroken { stream };
                self.later(at, Happening::ToServer { to: node, life, input });
            }
            if self.network.is_cut(node, views) {
                return;
            }
        }
        let told = match say {
            Say::Ping(progress) => ToViews::Ping(stream, member, progress),
            Say::Wish(wish) => ToViews::Wish(stream, member, wish),
            Say::Met(process) => ToViews::MetBy(stream, member, process),
        };
        let slow = self.random.chance(self.faults.slow_records);
        let at = self.delay() + if slow { self.random.between(0, 600 * MS) } else { 0 };
        self.later_to_views(at, node, told);
    }

    pub(super) fn later_to_views(&mut self, after: u64, from: Node, what: ToViews) {
        self.later(after, Happening::ToViews { from: Some(from), what });
    }
}
