//! What the calls of one client do next: under which session and number, whom they ask, how long
//! they wait, and how each of them ends. Pure: no I/O, clock, randomness or async.
//!
//! One value for all calls of a client. Whoever drives it begins calls, performs the effects in
//! their order, and reports: every view record ([`Caller::learn`]), the end of every attempt
//! ([`Caller::ended`]), the moments that it asks for ([`Caller::wakes_at`], [`Caller::woken`]), and
//! calls whose end nobody wants to know any more ([`Caller::cancel`]). Of the effects of one call
//! only the latest counts.
//!
//! Some calls the core begins itself, and asks to have them run like the others: one that opens a
//! session for all writes that wait, and one that keeps it alive.

mod effect;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kvproto::{
    Command, LogPoint, NotDone, Outcome, Refusal, Reply, RequestNumber, ServerName, SessionId,
    Timestamp, View,
};

pub use effect::{Attempt, CallId, Effect, Operation};
use sessions::once_per;

use crate::attempts::{Answer, AttemptEnd, Attempts, Repeat, Step};
use crate::backoff::{Backoff, DELAY_MAX, RetryBudget, jittered};
use crate::error::{Error, ErrorKind, Result};
use crate::route::{REFRESH_INTERVAL, Route, is_news};
use crate::session::Session;

/// Redirections followed without a pause before the ordinary back-off applies.
pub const HOPS_MAX: u32 = 3;

/// An attempt that takes longer than this makes the client ask the view service who is primary.
pub const SLOW_AFTER: Duration = Duration::from_secs(1);

/// All calls of one client.
///
/// Invariants: a call under a name has a number in one session from its first attempt on; every
/// number that is open belongs to one call; at most one session is being opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    view: Option<Arc<View>>,
    route: Route,
    /// The newest point of the log that was seen.
    newest: LogPoint,
    budget: RetryBudget,
    /// The session of new writes.
    session: Option<SessionId>,
    /// That one, and former ones in which calls still have numbers.
    sessions: BTreeMap<SessionId, Session>,
    /// The call that opens the next session.
    opening: Option<CallId>,
    /// Calls that wait for a session, or for a number in it.
    waiting: BTreeSet<CallId>,
    calls: BTreeMap<CallId, Call>,
    begun: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Call {
    role: Role,
    operation: Operation,
    repeat: Repeat,
    deadline: Timestamp,
    attempts: Attempts,
    made: u32,
    backoff: Backoff,
    hops: u32,
    slot: Option<(SessionId, RequestNumber)>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Somebody waits for its end.
    Asked,
    /// Opens a session.
    Opening,
    /// Keeps a session alive, once per `pause`.
    Keeping { session: SessionId, pause: Duration },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// For a session, or for a number in it.
    Waiting,
    /// The last attempt is under way.
    Attempting { target: ServerName, slow_at: Timestamp },
    /// Until the next attempt.
    Pausing { until: Timestamp },
    /// Until it is time to keep the session alive again.
    Resting { until: Timestamp },
}

impl Caller {
    /// Begins a call.
    pub fn begin(
        &mut self,
        now: Timestamp,
        operation: Operation,
        repeat: Repeat,
        deadline: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> CallId {
        let id = self.add(Role::Asked, operation, repeat, deadline);
        self.proceed(now, id, effects);
        self.admit(now, effects);
        id
    }

    /// Begins a call that closes the session, if there is one. Later writes go through another.
    pub fn close(
        &mut self,
        now: Timestamp,
        deadline: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Option<CallId> {
        let session = self.session?;
        self.retire(session);
        let close = Operation::Command(Command::CloseSession(session));
        Some(self.begin(now, close, Repeat::Harmless, deadline, effects))
    }

    /// A view record was heard. An attempt at a server that is no longer the one to ask is
    /// abandoned: one that is stopped, or cut off from its backups, holds nobody.
    pub fn learn(&mut self, now: Timestamp, view: &Arc<View>, effects: &mut Vec<Effect>) {
        if !is_news(self.view.as_deref(), view) {
            return;
        }
        let turned = self.route.learn(view);
        self.view = Some(Arc::clone(view));
        let mut free = Vec::new();
        for (id, call) in &self.calls {
            match &call.state {
                State::Attempting { target, .. } if self.route.target() != Some(target) => {
                    effects.push(replaced(*id, call.made));
                }
                State::Pausing { .. } if turned => free.push(*id),
                _ => {}
            }
        }
        for id in free {
            self.proceed(now, id, effects);
        }
        self.admit(now, effects);
    }

    /// An attempt has ended. `random`, in `0.0..1.0`, decides how long the call waits before the
    /// next. The end of an attempt other than the last one of its call says nothing new.
    pub fn ended(
        &mut self,
        now: Timestamp,
        (id, number): (CallId, u32),
        end: AttemptEnd,
        random: f64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.made == number) else {
            return;
        };
        let State::Attempting { target, .. } = &call.state else {
            return;
        };
        let target = target.clone();
        learn_from(&mut self.route, &mut self.budget, &target, &end);
        match call.attempts.judge(end) {
            Step::Finish(answer, at) => {
                self.newest = self.newest.max(at);
                self.finish(now, id, Ok(answer), effects);
            }
            Step::Fail(error) => self.finish(now, id, Err(error), effects),
            Step::Retry => self.retry(now, id, &target, random, effects),
            Step::NewSession => {
                if let Some((session, number)) = call.slot.take() {
                    self.retire(session);
                    self.give_back(session, number);
                }
                self.retry(now, id, &target, random, effects);
            }
        }
        self.admit(now, effects);
    }

    /// The moment that this call asked for has come; harmless before.
    pub fn woken(&mut self, now: Timestamp, id: CallId, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.wakes_at() <= now) else {
            return;
        };
        match &mut call.state {
            State::Waiting => {
                let error = self.out_of_time_waiting(id);
                self.finish(now, id, Err(error), effects);
            }
            State::Attempting { .. } if call.deadline <= now => effects.push(Effect::Abandon {
                call: id,
                number: call.made,
                why: "no answer before the deadline",
            }),
            State::Attempting { target, slow_at } => {
                *slow_at = now + SLOW_AFTER;
                self.route.slow(target);
                let next = self.route.next(now);
                if next.refresh {
                    effects.push(Effect::AskViewService);
                }
                if next.target.as_ref() != Some(target) {
                    effects.push(replaced(id, call.made));
                }
            }
            State::Pausing { .. } => self.proceed(now, id, effects),
            State::Resting { .. } => match call.role {
                Role::Keeping { session, pause } if self.session == Some(session) => {
                    call.deadline = now + pause;
                    call.attempts = Attempts::new(call.repeat, self.newest);
                    call.backoff = Backoff::default();
                    call.hops = 0;
                    self.proceed(now, id, effects);
                }
                _ => {
                    let over = Error::new(ErrorKind::Refused, "the session was closed or replaced");
                    self.finish(now, id, Err(over), effects);
                }
            },
        }
        self.admit(now, effects);
    }

    /// Nobody wants to know any more how this call ends; it may still be done. Its number is given
    /// back, and never sent again.
    pub fn cancel(&mut self, now: Timestamp, id: CallId, effects: &mut Vec<Effect>) {
        self.remove(id);
        self.admit(now, effects);
    }

    /// When this call wants to be woken, unless something else happens before.
    #[must_use]
    pub fn wakes_at(&self, id: CallId) -> Option<Timestamp> {
        self.calls.get(&id).map(Call::wakes_at)
    }

    /// The call that wants to be woken next, and when.
    #[must_use]
    pub fn first_wake(&self) -> Option<(Timestamp, CallId)> {
        self.calls.iter().map(|(id, call)| (call.wakes_at(), *id)).min()
    }

    /// The session of new writes.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The presumed primary.
    #[must_use]
    pub fn target(&self) -> Option<&ServerName> {
        self.route.target()
    }

    fn add(
        &mut self,
        role: Role,
        operation: Operation,
        repeat: Repeat,
        deadline: Timestamp,
    ) -> CallId {
        self.begun += 1;
        let id = CallId(self.begun);
        let call = Call {
            role,
            operation,
            repeat,
            deadline,
            attempts: Attempts::new(repeat, self.newest),
            made: 0,
            backoff: Backoff::default(),
            hops: 0,
            slot: None,
            state: State::Waiting,
        };
        self.calls.insert(id, call);
        id
    }

    /// Makes the next attempt of a call, or finds out for what it has to wait.
    fn proceed(&mut self, now: Timestamp, id: CallId, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if !call.attempts.worth_another(call.deadline.since(now)) {
            let error = call.attempts.out_of_time();
            return self.finish(now, id, Err(error), effects);
        }
        if call.repeat == Repeat::Named && call.slot.is_none() {
            call.state = State::Waiting;
            let deadline = call.deadline;
            self.waiting.insert(id);
            // A session is opened for as long as anybody wants one.
            if let Some(opening) = self.opening.and_then(|id| self.calls.get_mut(&id)) {
                opening.deadline = opening.deadline.max(deadline);
            }
            return;
        }
        let next = self.route.next(now);
        if next.refresh {
            effects.push(Effect::AskViewService);
        }
        let Some(target) = next.target else {
            // Nothing to ask: the next chance comes with a view, or with the next refresh.
            call.state = State::Pausing { until: (now + REFRESH_INTERVAL).min(call.deadline) };
            return;
        };
        call.made += 1;
        call.state = State::Attempting { target: target.clone(), slow_at: now + SLOW_AFTER };
        let id_sent = call.slot.and_then(|(session, number)| {
            self.sessions.get(&session).map(|session| session.request_id(number))
        });
        effects.push(Effect::Attempt(Attempt {
            call: id,
            number: call.made,
            target,
            operation: call.operation.clone(),
            id: id_sent,
            cluster: self.view.as_ref().map(|view| view.cluster),
            deadline: call.deadline,
        }));
    }

    /// After an attempt at `asked` that decided nothing: a few redirections are followed at once,
    /// everything else waits.
    fn retry(
        &mut self,
        now: Timestamp,
        id: CallId,
        asked: &ServerName,
        random: f64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        if call.hops < HOPS_MAX && self.route.target() != Some(asked) {
            call.hops += 1;
            return self.proceed(now, id, effects);
        }
        call.hops = 0;
        let pause = if self.budget.spend() {
            call.backoff.next_delay(random)
        } else {
            jittered(DELAY_MAX, random)
        };
        let until = (now + pause).min(call.deadline);
        call.state = State::Pausing { until };
        if until <= now {
            self.proceed(now, id, effects);
        }
    }

    /// The call has ended; one that keeps a session alive only rests until the next time.
    fn finish(
        &mut self,
        now: Timestamp,
        id: CallId,
        result: Result<Answer>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        match call.role {
            Role::Asked => {}
            Role::Opening => {
                self.opening = None;
                self.opened(now, &result, effects);
            }
            Role::Keeping { session, pause } if self.session == Some(session) => {
                if matches!(result, Ok(Answer::Outcome(Outcome::Refused(Refusal::SessionExpired))))
                {
                    self.retire(session);
                } else {
                    let pause = match result {
                        Ok(Answer::KeptAlive(lease)) => once_per(lease),
                        _ => pause,
                    };
                    call.role = Role::Keeping { session, pause };
                    call.state = State::Resting { until: now + pause };
                    return;
                }
            }
            Role::Keeping { .. } => {}
        }
        self.remove(id);
        effects.push(Effect::Finish { call: id, result });
    }

    fn remove(&mut self, id: CallId) {
        self.waiting.remove(&id);
        self.opening.take_if(|opening| *opening == id);
        if let Some((session, number)) = self.calls.remove(&id).and_then(|call| call.slot) {
            self.give_back(session, number);
        }
    }
}

impl Call {
    fn wakes_at(&self) -> Timestamp {
        match &self.state {
            State::Waiting => self.deadline,
            State::Attempting { slow_at, .. } => self.deadline.min(*slow_at),
            State::Pausing { until } | State::Resting { until } => *until,
        }
    }
}

fn replaced(call: CallId, number: u32) -> Effect {
    Effect::Abandon { call, number, why: "no answer before another server became primary" }
}

/// What the end of an attempt says of the server that was asked.
fn learn_from(route: &mut Route, budget: &mut RetryBudget, target: &ServerName, end: &AttemptEnd) {
    match end {
        AttemptEnd::Reply(Reply::NotDone(NotDone::NotPrimary { primary, view })) => {
            route.refused(target, primary.clone(), *view);
        }
        AttemptEnd::Reply(Reply::NotDone(NotDone::NotReady(_)) | Reply::Unknown)
        | AttemptEnd::NotSent(_)
        | AttemptEnd::Lost(_) => route.doubt(target),
        AttemptEnd::Reply(_) => {
            route.answered(target);
            budget.earn();
        }
    }
}

#[cfg(test)]
mod tests;
