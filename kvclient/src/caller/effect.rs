//! What comes out of the core of a client: what is to be done, and for which call. Pure.

use kvproto::{ClusterId, Command, Query, RequestId, ServerName, SessionId, Timestamp};

use crate::attempts::Answer;
use crate::error::Result;

/// One call, from its first attempt to its end. Never used twice within a client; calls that wait
/// for a number get one in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// What a call asks for, the same in all its attempts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A read.
    Query(Query),
    /// A write, or the opening or closing of a session.
    Command(Command),
    /// Extends the lease of a session.
    KeepAlive(SessionId),
}

/// One attempt of a call: a message to one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Of which call.
    pub call: CallId,
    /// Which of its attempts, from 1.
    pub number: u32,
    /// Whom to ask.
    pub target: ServerName,
    /// What to ask for.
    pub operation: Operation,
    /// Its name, if the call goes through a session.
    pub id: Option<RequestId>,
    /// The cluster that is meant, once it is known.
    pub cluster: Option<ClusterId>,
    /// When the call ends in any case.
    pub deadline: Timestamp,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The core began this call itself: drive it too.
    Run(CallId),
    /// Make this attempt, and report how it ended.
    Attempt(Attempt),
    /// Wait no longer for this attempt, and report it at once: as [`AttemptEnd::Lost`], or as
    /// [`AttemptEnd::NotSent`] if that is certain.
    ///
    /// [`AttemptEnd::Lost`]: crate::attempts::AttemptEnd::Lost
    /// [`AttemptEnd::NotSent`]: crate::attempts::AttemptEnd::NotSent
    Abandon {
        /// Of which call.
        call: CallId,
        /// Which of its attempts.
        number: u32,
        /// For people.
        why: &'static str,
    },
    /// The call has ended; nothing more will be heard of it.
    Finish {
        /// Which call.
        call: CallId,
        /// How.
        result: Result<Answer>,
    },
    /// Ask the view service for its present record.
    AskViewService,
}
