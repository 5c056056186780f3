//! Everything heals: what is under way arrives, everybody hears the newest record, wishes are
//! granted, time passes in small steps. Pure.
//!
//! With it a model is brought to where it begins, and a state is shown not to be wedged: whichever
//! eligible server is left, alone or with all the others, must commit a new write.

use std::time::Duration;

use kvserver::replica::event::Event;
use viewservice::assignment::law::Command as Law;

use super::explain::brief_view;
use super::model::{Budget, Model, Start};
use super::state::{Seen, State};

/// One small step of time.
const QUANTUM: Duration = Duration::from_millis(20);
/// A healed system must get there within this many of them: several leases and patiences.
const QUANTA_MAX: usize = 100;

/// The state in which a model begins.
///
/// # Panics
/// When that state cannot be reached, which is a violation by itself.
#[must_use]
pub fn beginning(model: &Model) -> State {
    let mut state = State::fresh(model);
    let mut seen = Seen::default();
    match model.start {
        Start::Fresh => {}
        Start::Led { backups } => {
            let all = (1..=backups).fold(0, |all, at| all | 1 << at);
            state.lead(model, all, &mut seen);
            // The backups hear how far it is.
            state.pass_awake(model, model.settings().heartbeat_interval, &mut seen);
            state.settle(model, &mut seen);
        }
        Start::Joining => {
            state.lead(model, 0, &mut seen);
            state.install(model, 0, 0b10, &mut seen);
            for round in 0..2 {
                let view = Box::new(state.law.view().clone());
                state.step(model, 0, Event::View(view), &mut seen);
                if round == 0 {
                    let wish = Law::clone(&state.wishes[0]);
                    state.law(model, wish, &mut seen);
                }
            }
        }
    }
    assert!(seen.broken.is_none(), "the beginning is broken: {seen:?}");
    let current = state.law.view().order();
    state.pasts.clear();
    // The newcomer has still to hear of it.
    let is_open = model.stale || model.start == Start::Joining;
    state.records.retain(|record| is_open && record.order() == current);
    state.wishes.clear();
    state.loose.clear();
    state.budget = model.budget;
    state
}

/// Shows that a state is not wedged.
///
/// # Errors
/// Who could not commit, or which property broke on the way.
pub fn check_progress(model: &Model, state: &State) -> Result<(), String> {
    if state.doubts || state.will_doubt() {
        // Only an operator ends that.
        return Ok(());
    }
    let view = state.law.view();
    let any = !state.law.ever_activated();
    let left: Vec<usize> = (0..state.servers.len())
        .filter(|at| {
            let member = state.server(*at).map(|server| &server.member);
            member.is_some_and(|member| {
                state.law.is_present(member) && (any || view.eligible.contains(member))
            })
        })
        .collect();
    for at in &left {
        prove(model, state, *at, false)?;
    }
    match left.first() {
        Some(at) if state.servers.len() > 1 => prove(model, state, *at, true),
        _ => Ok(()),
    }
}

/// This server commits a write alone; then, if the others are alive, they are all synced again and
/// another one is committed.
fn prove(model: &Model, state: &State, leader: usize, others: bool) -> Result<(), String> {
    let mut state = state.clone();
    let mut seen = Seen::default();
    // Everybody knows what the view service knows, and comes back to it.
    state.strangers.clear();
    for at in 0..state.servers.len() {
        if !others && at != leader {
            state.end_life(at);
        }
    }
    // First of all: a wish under way could leave this server out for good.
    let mut backups = 0;
    state.install(model, leader, backups, &mut seen);
    for at in 0..state.servers.len() {
        state.wake(model, at, &mut seen);
        state.step(model, at, Event::Stay, &mut seen);
    }
    if state.server(leader).is_none() {
        // It had decided to leave already, which is as good as a crash.
        return Ok(());
    }
    let alone = state.commits(model, leader, &mut seen);
    let mut done = alone;
    if alone && others {
        backups = (0..state.servers.len())
            .filter(|at| *at != leader && state.server(*at).is_some())
            .fold(0, |all, at| all | 1 << at);
        state.install(model, leader, backups, &mut seen);
        let members = 1 + backups.count_ones() as usize;
        done = state.run(model, &mut seen, |state, _| state.law.view().eligible.len() == members)
            && state.commits(model, leader, &mut seen);
    }
    if let Some(broken) = seen.broken {
        return Err(format!("{broken} (when everything heals)"));
    }
    if done {
        return Ok(());
    }
    let with = if alone { "with the others" } else { "alone" };
    let knows = state.server(leader).map(|server| brief_view(server.replica.view()));
    let knows = knows.unwrap_or_else(|| "nothing, it has left".to_owned());
    Err(format!("Progress: S{leader} is eligible, but never commits {with}; it knows {knows}"))
}

fn acts(state: &State, at: usize) -> bool {
    state.server(at).is_some_and(|server| server.replica.is_acting())
}

impl State {
    /// S0 leads, with these backups synced.
    fn lead(&mut self, model: &Model, backups: u8, seen: &mut Seen) {
        self.install(model, 0, backups, seen);
        let members = 1 + backups.count_ones() as usize;
        let led = self.run(model, seen, |state, _| {
            state.law.view().eligible.len() == members && acts(state, 0)
        });
        assert!(led, "the beginning is not reached: {seen:?}");
        if model.sessions {
            self.open_session(model, 0, seen);
            self.settle(model, seen);
        }
    }

    /// The policy proposes this configuration, if it is another than the present one.
    fn install(&mut self, model: &Model, leader: usize, backups: u8, seen: &mut Seen) {
        if let Some(proposal) = self.proposal(leader, backups) {
            self.law(model, proposal, seen);
        }
    }

    /// Asks a server to write until it has been done.
    fn commits(&mut self, model: &Model, at: usize, seen: &mut Seen) -> bool {
        seen.proved = false;
        self.run(model, seen, |state, seen| {
            let waiting = state.server(at).map_or(0, |server| server.replica.waiting());
            if !seen.proved && acts(state, at) && waiting == 0 {
                state.ask_for_proof(model, at, seen);
                state.settle(model, seen);
            }
            seen.proved
        })
    }

    /// Lets time pass until something is so; false when it never is.
    fn run(
        &mut self,
        model: &Model,
        seen: &mut Seen,
        mut is_so: impl FnMut(&mut State, &mut Seen) -> bool,
    ) -> bool {
        for _ in 0..QUANTA_MAX {
            self.settle(model, seen);
            if is_so(self, seen) {
                return true;
            }
            self.pass_awake(model, QUANTUM, seen);
        }
        false
    }

    /// Time passes, and nobody oversleeps.
    fn pass_awake(&mut self, model: &Model, time: Duration, seen: &mut Seen) {
        self.pass(model, time, seen);
        for at in 0..self.servers.len() {
            if self.server(at).is_some_and(|server| server.slept) {
                self.tick(model, at, seen);
            }
        }
    }

    /// Delivers everything, grants every wish and spreads the newest record, until all is quiet.
    fn settle(&mut self, model: &Model, seen: &mut Seen) {
        self.budget = Budget::default();
        for _ in 0..10_000 {
            let orphan = |at: &usize| self.streams[*at].open && self.is_orphan(&self.streams[*at]);
            if let Some(stream) = (0..self.streams.len()).find(orphan) {
                self.break_stream(model, stream, seen);
                continue;
            }
            let loaded = |at: &usize| {
                let stream = &self.streams[*at];
                !stream.up.is_empty() || !stream.down.is_empty()
            };
            if let Some(stream) = (0..self.streams.len()).find(loaded) {
                let up = !self.streams[stream].up.is_empty();
                self.deliver(model, stream, up, seen);
                continue;
            }
            if self.settle_views(model, seen) || self.settle_journals(model, seen) {
                continue;
            }
            return;
        }
        seen.broken(|| "Progress: the servers never stop talking".into());
    }

    fn settle_views(&mut self, model: &Model, seen: &mut Seen) -> bool {
        let wishes = std::mem::take(&mut self.wishes);
        let before = self.law.hash();
        for wish in wishes {
            self.law(model, Law::clone(&wish), seen);
        }
        let view = self.law.view().clone();
        let mut heard = false;
        for at in 0..self.servers.len() {
            let known = self.server(at).map(|server| server.replica.view().order());
            if known.is_some_and(|known| known < view.order()) {
                self.step(model, at, Event::View(Box::new(view.clone())), seen);
                heard = true;
            }
        }
        heard || self.law.hash() != before
    }

    fn settle_journals(&mut self, model: &Model, seen: &mut Seen) -> bool {
        let waiting = |at: &usize| self.server(*at).is_some_and(|it| !it.unfinished.is_empty());
        let Some(at) = (0..self.servers.len()).find(waiting) else {
            return false;
        };
        self.finish_journal(model, at, seen);
        true
    }
}
