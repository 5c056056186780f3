//! What happens to a replica.

use kvproto::command::{Command, Query, RequestId};
use kvproto::ids::{Member, SessionId, StreamNumber};
use kvproto::message::Message;
use kvproto::view::View;

use crate::journal::Completion;

/// Something that happened. Its caller passes the clock read *after* the event was taken from its
/// queue, so that no request is judged by a moment before its arrival.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Event {
    /// What the doors admitted since the last step, in order of arrival. All of it becomes one
    /// batch. Commands and queries were checked against the limits.
    Requests(Vec<Request>),
    /// A message from another copy.
    Message(Message),
    /// More of the bytes sent on a stream has arrived at its other end, pieces of messages included.
    /// What overtakes the others does not count.
    Confirmed {
        /// The other end.
        peer: Member,
        /// Which stream.
        stream: StreamNumber,
    },
    /// A stream is gone: the connection broke, or could not be made.
    StreamBroken {
        /// The other end.
        peer: Member,
        /// Which stream.
        stream: StreamNumber,
    },
    /// A view record, pushed or answered by the view service. Old ones do no harm.
    View(Box<View>),
    /// The journal has done something.
    Journal(Completion),
    /// Time has passed. Expected every few milliseconds.
    Tick,
    /// The operator wants this server to stop: hand over or leave the view first.
    Leave,
    /// The operator's wish to stop is off: admit again. Harmless when there was none.
    Stay,
    /// VIEW-8: the view service has gone on without what this life knows, at an operator's word. It serves
    /// nothing any more, and keeps what it holds.
    Estranged,
    /// The view service has nobody to take over from this server.
    NobodyToTakeOver,
}

/// One request at a door.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Request {
    /// Names the waiting caller; unique among those that wait.
    pub token: Token,
    /// What is wanted.
    pub operation: Operation,
}

/// Names a waiting caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What a caller wants.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Operation {
    /// Read committed state.
    Query(Query),
    /// Change the state through the log.
    Command {
        /// For exactly-once; `None` for plain calls.
        id: Option<RequestId>,
        /// What to do.
        command: Command,
    },
    /// Extend a session's lease.
    KeepAlive(SessionId),
}
