//! Which session and number a call gets, when a session is opened, and when one is over. Pure.

use std::time::Duration;

use kvproto::{Command, Outcome, RequestNumber, SessionId, Timestamp};

use super::{CallId, Caller, Effect, Operation, Role, State};
use crate::attempts::{Answer, AttemptEnd, Attempts, Repeat, unexpected};
use crate::error::{Error, Result};
use crate::session::Session;

/// Bounds how often a session is kept alive, however short its lease.
const KEEP_ALIVE_MIN: Duration = Duration::from_millis(10);

impl Caller {
    /// Gives numbers to the calls that wait for one, in their order, and has a session opened if
    /// there is none.
    pub(super) fn admit(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        while let Some(id) = self.waiting.first().copied() {
            let Some(session) = self.session else {
                if self.opening.is_none() {
                    self.open(now, effects);
                }
                return;
            };
            let Some(number) = self.sessions.get_mut(&session).and_then(Session::begin) else {
                return;
            };
            self.waiting.remove(&id);
            if let Some(call) = self.calls.get_mut(&id) {
                call.slot = Some((session, number));
            }
            self.proceed(now, id, effects);
        }
    }

    fn open(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let deadlines = self.waiting.iter().filter_map(|id| self.calls.get(id));
        let deadline = deadlines.map(|call| call.deadline).max().unwrap_or(now);
        let open = Operation::Command(Command::OpenSession);
        let id = self.add(Role::Opening, open, Repeat::Harmless, deadline);
        self.opening = Some(id);
        effects.push(Effect::Run(id));
        self.proceed(now, id, effects);
    }

    /// The call that was to open a session has ended. If there is none, that is how all calls end
    /// that wait for one: no attempt of theirs is open.
    pub(super) fn opened(
        &mut self,
        now: Timestamp,
        result: &Result<Answer>,
        effects: &mut Vec<Effect>,
    ) {
        let error = match result {
            Ok(Answer::Outcome(Outcome::SessionOpened(session))) => {
                let session = *session;
                self.session = Some(session);
                self.sessions.insert(session, Session::new(session));
                let settings = self.view.as_ref().map(|view| view.settings.clone());
                let pause = once_per(settings.unwrap_or_default().session_lease);
                let id = self.add(
                    Role::Keeping { session, pause },
                    Operation::KeepAlive(session),
                    Repeat::Harmless,
                    now + pause,
                );
                if let Some(call) = self.calls.get_mut(&id) {
                    call.state = State::Resting { until: now + pause };
                }
                effects.push(Effect::Run(id));
                return;
            }
            Ok(other) => unexpected(other),
            Err(error) => error.clone(),
        };
        for id in std::mem::take(&mut self.waiting) {
            self.finish(now, id, Err(error.clone()), effects);
        }
    }

    /// No further call goes through this session.
    pub(super) fn retire(&mut self, session: SessionId) {
        self.session.take_if(|present| *present == session);
        self.forget_if_idle(session);
    }

    pub(super) fn give_back(&mut self, session: SessionId, number: RequestNumber) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.end(number);
        }
        self.forget_if_idle(session);
    }

    fn forget_if_idle(&mut self, session: SessionId) {
        if self.session != Some(session)
            && self.sessions.get(&session).is_some_and(|session| session.is_idle())
        {
            self.sessions.remove(&session);
        }
    }

    /// Why a call that waits for a number got none in time. One that waits for a session was held
    /// up by whatever holds up the opening of it.
    pub(super) fn out_of_time_waiting(&self, id: CallId) -> Error {
        let held_up = self.opening.and_then(|id| self.calls.get(&id));
        let Some(call) = held_up.or_else(|| self.calls.get(&id)) else {
            return Attempts::new(Repeat::Harmless, self.newest).out_of_time();
        };
        let mut attempts = call.attempts.clone();
        attempts.judge(AttemptEnd::NotSent(match &call.state {
            State::Attempting { target, .. } => format!("{target}: no answer before the deadline"),
            State::Waiting => "earlier writes of this client still wait for their answers".into(),
            _ => return attempts.out_of_time(),
        }));
        attempts.out_of_time()
    }
}

/// Three chances per lease.
pub(super) fn once_per(lease: Duration) -> Duration {
    (lease / 3).max(KEEP_ALIVE_MIN)
}
