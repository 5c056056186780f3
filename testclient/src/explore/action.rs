//! What may happen next, and its happening. Pure.
//!
//! The policy may propose whatever the law permits; a server may hear of any record, late; a wish
//! may be granted late; every stream delivers in order or breaks, and what was under way when it
//! ended may arrive later than anything. Nothing is forced, so whatever may be lost is lost in some
//! run.

use std::time::Duration;

use kvproto::Member;
use kvproto::view::View;
use kvserver::replica::event::Event;
use viewservice::assignment::law::Command as Law;

use super::explain::{brief_law, brief_view};
use super::goals::Goal;
use super::model::{Model, Start};
use super::state::{Seen, Server, State, index, name};

/// One thing that may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The policy proposes this primary, and as backups the servers of this set of bits.
    Propose(u8, u8),
    /// A wish reaches the view service.
    Wish(u8),
    /// A server hears of a record.
    Hear(u8, u8),
    /// A server hears of what was on its way when the view service was put back.
    HearLate(u8, u8),
    /// The view service is put back to this of its states, and this server comes first: restarted or not.
    PutBack(u8, u8, bool),
    /// A server comes back to a view service that was put back.
    Show(u8),
    /// The head of a stream reaches the copy.
    DeliverUp(u8),
    /// The head of a stream reaches the primary.
    DeliverDown(u8),
    /// A stream breaks.
    Break(u8),
    /// A message outside streams reaches a server.
    DeliverLoose(u8),
    /// A server's journal finishes a piece of work.
    Finish(u8),
    /// A client asks a server to write.
    Write(u8),
    /// A client asks a server again for its last write.
    Again(u8),
    /// A client asks a server to read.
    Read(u8),
    /// A server restarts, empty or with its data.
    Restart(u8),
    /// A server will pause between deciding and acting.
    Pause(u8),
    /// A paused server goes on.
    Resume(u8),
    /// A server is asked to stop.
    Leave(u8),
    /// A server that was asked to stop is asked to stay.
    Stay(u8),
    /// The view service has nobody to take over from a server.
    Nobody(u8),
    /// A server that overslept wakes up.
    Tick(u8),
    /// This quantum of time passes.
    Pass(u8),
}

impl State {
    /// Everything that may happen next.
    #[must_use]
    pub fn actions(&self, model: &Model) -> Vec<Action> {
        let mut actions = Vec::with_capacity(32);
        if self.doubts {
            return actions;
        }
        let budget = &self.budget;
        for stream in 0..count(self.streams.len()) {
            let it = &self.streams[usize::from(stream)];
            if !it.up.is_empty() && self.takes_up(it) {
                actions.push(Action::DeliverUp(stream));
            }
            if !it.down.is_empty() && self.alive(&it.from).is_some_and(|at| !self.is_held(at)) {
                actions.push(Action::DeliverDown(stream));
            }
            let dialler = self.alive(&it.from).is_some_and(|at| !self.is_held(at));
            if it.open && dialler && (budget.breaks > 0 || self.is_orphan(it)) {
                actions.push(Action::Break(stream));
            }
        }
        for at in 0..count(self.servers.len()) {
            self.actions_of(at, model, &mut actions);
        }
        actions.extend((0..count(self.wishes.len())).map(Action::Wish));
        let reaches = |to: &Member| self.alive(to).is_some_and(|at| !self.is_held(at));
        let loose = (0..count(self.loose.len()))
            .filter(|message| reaches(&self.loose[usize::from(*message)].to));
        actions.extend(loose.map(Action::DeliverLoose));
        if budget.passes > 0 {
            actions.extend((0..count(model.quanta.len())).map(Action::Pass));
        }
        if budget.proposals > 0 {
            self.proposals(&mut actions);
        }
        for past in 0..count(self.pasts.len()) {
            for at in (0..count(self.servers.len())).filter(|at| self.is_counted_on(*at)) {
                actions.push(Action::PutBack(past, at, false));
                if budget.restarts > 0 {
                    actions.push(Action::PutBack(past, at, true));
                }
            }
        }
        actions
    }

    fn actions_of(&self, at: u8, model: &Model, actions: &mut Vec<Action>) {
        let budget = &self.budget;
        if budget.restarts > 0 && (!model.walked || self.can_spare(usize::from(at))) {
            actions.push(Action::Restart(at));
        }
        let Some(server) = self.server(usize::from(at)) else {
            return;
        };
        if !server.held.is_empty() {
            actions.push(Action::Resume(at));
            return;
        }
        let known = server.replica.view().order();
        if let Some(late) = self.strangers.get(&usize::from(at)) {
            actions.push(Action::Show(at));
            let newer = |record: &u8| late[usize::from(*record)].order() > known;
            let late = (0..count(late.len())).filter(newer);
            actions.extend(late.map(|record| Action::HearLate(at, record)));
        }
        let hears = !self.strangers.contains_key(&usize::from(at));
        for record in (0..count(self.records.len())).filter(|_| hears) {
            if model.stale || self.records[usize::from(record)].order() > known {
                actions.push(Action::Hear(at, record));
            }
        }
        if server.slept {
            actions.push(Action::Tick(at));
        }
        if !server.unfinished.is_empty() {
            actions.push(Action::Finish(at));
        }
        if self.leads(usize::from(at)) {
            if budget.writes > 0 {
                actions.push(Action::Write(at));
            }
            if budget.repeats > 0 && budget.writes < model.budget.writes {
                actions.push(Action::Again(at));
            }
            if budget.reads > 0 {
                actions.push(Action::Read(at));
            }
            if budget.pauses > 0 && !server.pausing {
                actions.push(Action::Pause(at));
            }
        }
        if budget.leaves > 0 {
            actions.push(Action::Leave(at));
        }
        if model.budget.leaves > 0 {
            actions.extend([Action::Stay(at), Action::Nobody(at)]);
        }
    }

    /// Every configuration of present servers. The law refuses what is not allowed.
    fn proposals(&self, actions: &mut Vec<Action>) {
        let servers = count(self.servers.len());
        for primary in 0..servers {
            for backups in 0..1_u8 << servers {
                if backups & 1 << primary == 0 {
                    actions.push(Action::Propose(primary, backups));
                }
            }
        }
    }

    /// Whether another eligible server is alive.
    fn can_spare(&self, at: usize) -> bool {
        let eligible = &self.law.view().eligible;
        let others = (0..self.servers.len()).filter(|other| *other != at);
        others.filter_map(|other| self.server(other)).any(|it| eligible.contains(&it.member))
    }

    /// Whether what this server has is what the promise rests on.
    fn is_counted_on(&self, at: u8) -> bool {
        let server = self.server(usize::from(at));
        server.is_some_and(|server| self.law.view().eligible.contains(&server.member))
    }

    fn is_held(&self, at: usize) -> bool {
        self.server(at).is_some_and(|server| !server.held.is_empty())
    }

    /// Whether the copy's end of a stream can take something: the life that took it before, or
    /// whoever lives there now if nobody did.
    fn takes_up(&self, stream: &super::state::Stream) -> bool {
        let to = match &stream.callee {
            Some(callee) => self.alive(callee),
            None => self
                .servers
                .iter()
                .position(|it| it.as_ref().is_some_and(|it| it.member.name == stream.to.name)),
        };
        to.is_some_and(|at| !self.is_held(at))
    }

    /// The configuration of a proposal, as the law takes it.
    pub(super) fn proposal(&self, primary: usize, backups: u8) -> Option<Law> {
        let chosen = (0..self.servers.len()).filter(|at| backups & 1 << at != 0);
        Some(Law::Propose {
            after: self.law.view_id(),
            primary: self.law.present(&name(primary))?,
            backups: chosen.map(|at| self.law.present(&name(at))).collect::<Option<_>>()?,
        })
    }

    /// What is so after something has happened.
    #[must_use]
    pub fn after(&self, model: &Model, action: Action, seen: &mut Seen) -> State {
        let mut next = self.clone();
        next.happen(model, action, seen);
        for at in 0..next.servers.len() {
            next.note_goals(model, at, seen);
        }
        next
    }

    fn happen(&mut self, model: &Model, action: Action, seen: &mut Seen) {
        match action {
            Action::Propose(primary, backups) => {
                if let Some(proposal) = self.proposal(usize::from(primary), backups)
                    && self.law(model, proposal, seen).is_some()
                {
                    self.budget.proposals -= 1;
                }
            }
            Action::Wish(wish) => {
                let command = Law::clone(&self.wishes[usize::from(wish)]);
                self.law(model, command, seen);
            }
            Action::Hear(at, record) => {
                let view = View::clone(&self.records[usize::from(record)]);
                self.step(model, usize::from(at), Event::View(Box::new(view)), seen);
                self.forget_records(model);
            }
            Action::HearLate(at, record) => {
                let late = &self.strangers[&usize::from(at)];
                let view = View::clone(&late[usize::from(record)]);
                self.step(model, usize::from(at), Event::View(Box::new(view)), seen);
            }
            Action::PutBack(past, by, restarts) => {
                self.put_back(model, usize::from(past), (usize::from(by), restarts), seen);
            }
            Action::Show(at) => self.show(model, usize::from(at), seen),
            Action::DeliverUp(stream) => self.deliver(model, usize::from(stream), true, seen),
            Action::DeliverDown(stream) => self.deliver(model, usize::from(stream), false, seen),
            Action::Break(stream) => {
                if !self.is_orphan(&self.streams[usize::from(stream)]) {
                    self.budget.breaks -= 1;
                }
                self.break_stream(model, usize::from(stream), seen);
            }
            Action::DeliverLoose(message) => {
                let message = self.loose[usize::from(message)].clone();
                if let Some(at) = self.alive(&message.to) {
                    seen.goals.reach(Goal::Released);
                    self.step(model, at, Event::Message((*message).clone()), seen);
                }
            }
            Action::Finish(at) => self.finish_journal(model, usize::from(at), seen),
            Action::Write(at) => {
                self.budget.writes -= 1;
                self.ask_to_write(model, usize::from(at), seen);
            }
            Action::Again(at) => {
                self.budget.repeats -= 1;
                self.ask_to_write(model, usize::from(at), seen);
            }
            Action::Read(at) => self.ask_to_read(model, usize::from(at), seen),
            Action::Restart(at) => self.restart(model, usize::from(at), seen),
            Action::Pause(at) => {
                self.budget.pauses -= 1;
                if let Some(server) = self.server(usize::from(at)) {
                    let server = Server { pausing: true, ..server.clone() };
                    self.servers[usize::from(at)] = Some(super::shared::Shared::new(server));
                }
            }
            Action::Resume(at) => self.resume(model, usize::from(at), seen),
            Action::Leave(at) => {
                self.budget.leaves -= 1;
                self.step(model, usize::from(at), Event::Leave, seen);
            }
            Action::Stay(at) => self.step(model, usize::from(at), Event::Stay, seen),
            Action::Nobody(at) => self.step(model, usize::from(at), Event::NobodyToTakeOver, seen),
            Action::Tick(at) => self.tick(model, usize::from(at), seen),
            Action::Pass(quantum) => {
                self.budget.passes -= 1;
                let time = Duration::from_millis(model.quanta[usize::from(quantum)]);
                self.pass(model, time, seen);
            }
        }
    }

    pub(super) fn restart(&mut self, model: &Model, at: usize, seen: &mut Seen) {
        self.budget.restarts -= 1;
        if let Some(server) = self.server(at)
            && self.law.view().eligible.contains(&server.member)
        {
            seen.goals.reach(Goal::CountedOnRestarted);
        }
        let replaces = self.law.present(&name(at)).map(|member| member.incarnation);
        let counted_on = self.law.view().eligible.clone();
        self.end_life(at);
        self.begin_life(model, at, replaces, seen);
        let eligible = &self.law.view().eligible;
        if model.durable
            && counted_on
                .iter()
                .any(|member| !eligible.contains(member) && index(&member.name) == at)
        {
            let is_back = eligible.iter().any(|member| index(&member.name) == at);
            if !is_back && !self.doubts {
                seen.broken(|| {
                    format!("ReturnIsComplete: S{at} was counted on, and its data is not")
                });
            }
        }
        self.forget_wishes(model);
        self.forget_mail(model);
        self.loose.retain(|message| self.law.is_present(&message.to));
    }

    fn note_goals(&self, model: &Model, at: usize, seen: &mut Seen) {
        let Some(server) = self.server(at) else {
            return;
        };
        let replica = &server.replica;
        let epoch = self.law.view().epoch();
        if self.leads(at)
            && replica.epoch() < epoch
            && self.law.view().is_activated()
            && self.reads.iter().any(|read| read.server == at)
        {
            seen.goals.reach(Goal::DeposedHoldsRead);
        }
        if replica.is_acting() && replica.epoch().primary_since.0 > 1 {
            if server.member == first_primary() {
                seen.goals.reach(Goal::OldPrimaryReappointed);
            }
            let at_first = match model.start {
                Start::Fresh => self.servers.len(),
                Start::Led { backups } => backups + 1,
                Start::Joining => 1,
            };
            if server.member.incarnation.0 > at_first as u64 {
                seen.goals.reach(Goal::NewcomerPromoted);
            }
        }
    }

    /// What is about to happen, for people.
    #[must_use]
    pub fn describe(&self, model: &Model, action: Action) -> String {
        let stream = |at: u8, what: &str| {
            let it = &self.streams[usize::from(at)];
            format!("stream {} of {} to {} {what}", it.number, it.from, it.to)
        };
        match action {
            Action::Propose(primary, backups) => {
                let all = 0..self.servers.len();
                let names: Vec<_> = all.filter(|at| backups & 1 << at != 0).map(name).collect();
                format!("the policy proposes primary S{primary}, backups {names:?}")
            }
            Action::Wish(wish) => {
                format!("the view service hears: {}", brief_law(&self.wishes[usize::from(wish)]))
            }
            Action::Hear(at, record) => {
                format!("S{at} hears of {}", brief_view(&self.records[usize::from(record)]))
            }
            Action::HearLate(at, record) => {
                let late = &self.strangers[&usize::from(at)];
                format!("S{at} hears late of {}", brief_view(&late[usize::from(record)]))
            }
            Action::PutBack(past, by, restarts) => {
                let how = if restarts { " after a restart" } else { "" };
                let to = brief_view(self.pasts[usize::from(past)].view());
                format!("the view service is put back to {to}; S{by} comes first{how}")
            }
            Action::Show(at) => format!("S{at} comes back to the view service"),
            Action::DeliverUp(at) => stream(at, "delivers to the copy"),
            Action::DeliverDown(at) => stream(at, "delivers to the primary"),
            Action::Break(at) => stream(at, "breaks"),
            Action::DeliverLoose(at) => {
                let message = &self.loose[usize::from(at)];
                format!("{} hears that {} has stopped", message.to, message.from)
            }
            Action::Finish(at) => format!("S{at}'s journal finishes"),
            Action::Write(at) => format!("a client asks S{at} to write"),
            Action::Again(at) => format!("a client asks S{at} again for its last write"),
            Action::Read(at) => format!("a client asks S{at} to read"),
            Action::Restart(at) if model.durable => format!("S{at} restarts with its data"),
            Action::Restart(at) => format!("S{at} restarts empty"),
            Action::Pause(at) => format!("S{at} will pause before it acts"),
            Action::Resume(at) => format!("S{at} goes on"),
            Action::Leave(at) => format!("S{at} is asked to stop"),
            Action::Stay(at) => format!("S{at} is asked to stay"),
            Action::Nobody(at) => format!("S{at} hears that nobody can take over"),
            Action::Tick(at) => format!("S{at} notices that time has passed"),
            Action::Pass(quantum) => {
                format!("{} ms pass", model.quanta[usize::from(quantum)])
            }
        }
    }
}

/// Who leads at the start of every model that begins with a view.
fn first_primary() -> Member {
    Member { name: name(0), incarnation: kvproto::Incarnation(1) }
}

fn count(len: usize) -> u8 {
    u8::try_from(len).expect("a bounded world holds few things of a kind")
}
