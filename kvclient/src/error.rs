//! What can go wrong with a call, sorted by what the caller may conclude and should do next. Pure.

use std::fmt;

use kvproto::Record;

/// How a call that was not done ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// Certainly not done, and would be refused again: fix the argument.
    Invalid,
    /// Certainly not done: the cluster is there but refuses. The message says what it needs.
    Refused,
    /// Certainly not done: the condition of one change of a batch did not hold.
    ConditionFailed {
        /// Which change, from 0.
        change: u32,
        /// What its key holds instead.
        record: Option<Record>,
    },
    /// Certainly not done: no primary answered before the deadline. Try again later.
    Unavailable,
    /// It may have been done, or may still be done shortly. Read the state before repeating
    /// anything that must not happen twice.
    OutcomeUnknown,
}

/// Why a call was not done, or why nobody knows whether it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Whether the call certainly changed nothing and never will.
    #[must_use]
    pub fn is_certainly_not_done(&self) -> bool {
        self.kind != ErrorKind::OutcomeUnknown
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
