//! What a call may conclude from its attempts. Pure: no I/O, clock, randomness or async.
//!
//! A call ends in one of three ways: done, certainly not done, or outcome unknown. It is certainly
//! not done only if *every* attempt of it ended so. Once one attempt was lost, the answer of
//! another does not close it, except a real outcome under the same (session, number): that is the
//! outcome of them all. The caller judges every end of an attempt here, in order, and does as told.

use kvproto::{LogPoint, NotDone, Outcome, Record, Refusal, Reply};
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// Time that an attempt should have: a round trip and the commit of a batch, on a busy machine.
const ATTEMPT_MIN: Duration = Duration::from_millis(50);

/// What repeating a call may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// No harm: a read, or the opening, keeping and closing of a session.
    Harmless,
    /// No harm, because all attempts carry one (session, number).
    Named,
    /// It might be done twice: a write outside any session. It is repeated only after attempts that
    /// were certainly not done.
    Twice,
}

/// How one attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttemptEnd {
    /// The server answered.
    Reply(Reply),
    /// No connection could be made: the server never heard of it.
    NotSent(String),
    /// It was sent, and no answer came: anything may have happened.
    Lost(String),
}

/// The answer that a call was made for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The op is committed, and this is what it did.
    Outcome(Outcome),
    /// The records asked for.
    Records(Vec<Option<Record>>),
    /// The session's lease was extended by this, from the moment of sending.
    KeptAlive(Duration),
}

/// What the call does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is done: this is the answer, as of this point of the log.
    Finish(Answer, LogPoint),
    /// Try again, with the same (session, number).
    Retry,
    /// The session is over and no attempt is open: take a number in a new session and try again.
    NewSession,
    /// It has failed.
    Fail(Error),
}

/// The attempts of one call so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempts {
    repeat: Repeat,
    /// The newest point of the log that this client had seen when the call began: an answer from
    /// before it comes from a server that was left behind.
    not_before: LogPoint,
    /// How the first lost attempt was lost, if one was.
    open: Option<String>,
    /// Why the last attempt that was certainly not done was not.
    obstacle: Option<Obstacle>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Obstacle {
    NotDone(NotDone),
    Other(String),
}

impl Attempts {
    /// A call that begins now.
    #[must_use]
    pub fn new(repeat: Repeat, not_before: LogPoint) -> Self {
        Self { repeat, not_before, open: None, obstacle: None }
    }

    /// Concludes from the end of one attempt.
    pub fn judge(&mut self, end: AttemptEnd) -> Step {
        match end {
            AttemptEnd::Reply(Reply::Done { at, outcome }) => self.outcome(at, outcome),
            AttemptEnd::Reply(Reply::Records { at, records }) => {
                self.finish(at, Answer::Records(records))
            }
            AttemptEnd::Reply(Reply::KeptAlive { at, lease }) => {
                self.finish(at, Answer::KeptAlive(lease))
            }
            AttemptEnd::Reply(Reply::NotDone(why)) => self.not_done(why),
            AttemptEnd::Reply(Reply::Unknown) => self.lost(
                "the server lost its role before it could say whether the op was committed".into(),
            ),
            AttemptEnd::NotSent(why) => {
                self.obstacle = Some(Obstacle::Other(why));
                Step::Retry
            }
            AttemptEnd::Lost(why) => self.lost(why),
        }
    }

    /// Whether another attempt may still improve the end of the call. One that the deadline cuts off
    /// proves nothing: it would only turn "certainly not done" into "unknown".
    #[must_use]
    pub fn worth_another(&self, remaining: Duration) -> bool {
        let undecided = self.obstacle.is_none() || self.open.is_some();
        !remaining.is_zero() && (undecided || remaining >= ATTEMPT_MIN)
    }

    /// The deadline has passed between two attempts.
    #[must_use]
    pub fn out_of_time(&self) -> Error {
        if self.open.is_some() {
            return self.unknown("the deadline has passed");
        }
        match &self.obstacle {
            Some(Obstacle::NotDone(
                why @ (NotDone::TooFewCopies { .. }
                | NotDone::Overloaded
                | NotDone::Diverged { .. }
                | NotDone::Invalid(_)
                | NotDone::WrongCluster(_)),
            )) => Error::new(
                ErrorKind::Refused,
                format!("refused until the deadline, nothing was changed: {why}"),
            ),
            Some(Obstacle::NotDone(why)) => unavailable(&why.to_string()),
            Some(Obstacle::Other(why)) => unavailable(why),
            None => unavailable("the view service names none, or does not answer"),
        }
    }

    fn outcome(&mut self, at: LogPoint, outcome: Outcome) -> Step {
        if at < self.not_before {
            return self.left_behind(at);
        }
        let Outcome::Refused(refusal) = &outcome else {
            return Step::Finish(Answer::Outcome(outcome), at);
        };
        match refusal {
            // Real outcomes: they hold for every attempt under this name.
            Refusal::ConditionFailed { .. } => Step::Finish(Answer::Outcome(outcome), at),
            Refusal::TooLarge { size, size_max, .. } => Step::Fail(Error::invalid(format!(
                "the value would grow to {size} bytes, over the limit of {size_max}; nothing was \
                 changed"
            ))),
            // The rest says only that this attempt did nothing.
            Refusal::WindowFull => {
                self.obstacle = Some(Obstacle::NotDone(NotDone::Overloaded));
                Step::Retry
            }
            Refusal::SessionExpired if self.repeat == Repeat::Harmless => {
                Step::Finish(Answer::Outcome(outcome), at)
            }
            Refusal::SessionExpired if self.open.is_none() && self.repeat == Repeat::Named => {
                Step::NewSession
            }
            Refusal::SessionExpired => {
                self.end(ErrorKind::Refused, "the session has expired or was closed".into())
            }
            Refusal::StaleRequest { floor } => self.end(
                ErrorKind::Refused,
                format!("the request is below the floor {floor} of its session"),
            ),
            Refusal::RequestReused => self.end(
                ErrorKind::Refused,
                "another command was sent under this session and number: one session must not be \
                 used by two clients"
                    .into(),
            ),
            Refusal::TooManySessions { sessions_max } => self.end(
                ErrorKind::Refused,
                format!(
                    "the cluster has {sessions_max} sessions open, its limit: close some, wait \
                     until idle ones expire, or use a client without sessions"
                ),
            ),
        }
    }

    fn finish(&mut self, at: LogPoint, answer: Answer) -> Step {
        if at < self.not_before {
            return self.left_behind(at);
        }
        Step::Finish(answer, at)
    }

    /// The answer comes from a server that does not know what this client knows: a former primary,
    /// perhaps of a generation that was given up. It proves nothing.
    fn left_behind(&mut self, at: LogPoint) -> Step {
        let seen = self.not_before;
        self.lost(format!(
            "the answer reflects op {} of generation {}, but op {} of generation {} was seen \
             before: it comes from a server that was left behind",
            at.op, at.generation, seen.op, seen.generation
        ))
    }

    fn not_done(&mut self, why: NotDone) -> Step {
        match why {
            NotDone::Invalid(message) => self.end(ErrorKind::Invalid, message),
            NotDone::WrongCluster(_) => self.end(ErrorKind::Invalid, why.to_string()),
            // It lasts until somebody deletes something: the caller should know now.
            NotDone::OutOfMemory { .. } | NotDone::DiskFull { .. } => {
                self.end(ErrorKind::Refused, why.to_string())
            }
            why => {
                self.obstacle = Some(Obstacle::NotDone(why));
                Step::Retry
            }
        }
    }

    fn lost(&mut self, why: String) -> Step {
        match self.repeat {
            Repeat::Harmless => {
                self.obstacle = Some(Obstacle::Other(why));
                Step::Retry
            }
            Repeat::Named => {
                self.open.get_or_insert(why);
                Step::Retry
            }
            Repeat::Twice => {
                self.open = Some(why);
                Step::Fail(
                    self.unknown(
                        "the call carries no session, so repeating it might apply it twice",
                    ),
                )
            }
        }
    }

    /// No further attempt would change anything; but a lost one keeps the outcome open.
    fn end(&self, kind: ErrorKind, message: String) -> Step {
        Step::Fail(if self.open.is_some() {
            self.unknown(&message)
        } else {
            Error::new(kind, message)
        })
    }

    fn unknown(&self, now: &str) -> Error {
        let lost = self.open.as_deref().unwrap_or("an attempt was lost");
        Error::new(
            ErrorKind::OutcomeUnknown,
            format!(
                "outcome unknown: the change may or may not have been made ({lost}; {now}); read \
                 the key before you repeat the call"
            ),
        )
    }
}

/// An answer to another question than the one asked: a fault of the server.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        format!(
            "outcome unknown: the server answered another question than was asked ({answer:?}); \
             check that client and servers are of the same version"
        ),
    )
}

fn unavailable(why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "no primary answered before the deadline, nothing was changed ({why}); check that the \
             cluster runs with `kvctl status`, then try again"
        ),
    )
}

#[cfg(test)]
#[path = "attempts/tests.rs"]
mod tests;
