//! What a server answers to a request, and what the caller may conclude from it.

use thiserror::Error;

use crate::command::{Outcome, Record};
use crate::ids::{Generation, OpNumber, ServerName, ViewNumber};
use std::time::Duration;

/// The answer to one attempt of a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// The op is committed, and this is what it did.
    Done {
        /// Where the op stands in the log.
        at: LogPoint,
        /// What it did.
        outcome: Outcome,
    },
    /// The records asked for, one per key, as of one op.
    Records {
        /// The op they reflect.
        at: LogPoint,
        /// One per key; `None` where there is none.
        records: Vec<Option<Record>>,
    },
    /// The session's lease was extended.
    KeptAlive {
        /// The op that the server had applied.
        at: LogPoint,
        /// Runs from the moment the client sent the request.
        lease: Duration,
    },
    /// This attempt certainly did nothing and will do nothing.
    NotDone(NotDone),
    /// The op was ordered, but this server can no longer say what became of it.
    Unknown,
}

/// How far the answering server was. Clients refuse answers older than the newest they have seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LogPoint {
    /// The generation.
    pub generation: Generation,
    /// The last op reflected.
    pub op: OpNumber,
}

/// Why an attempt certainly did nothing, and what to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Error)]
pub enum NotDone {
    /// This server is not the primary: ask the one named, or the view service.
    #[error("this server is not the primary{}", .primary.as_ref().map_or(String::new(), |p| format!("; ask {p}")))]
    NotPrimary {
        /// Who is, as far as this server knows.
        primary: Option<ServerName>,
        /// The view that says so.
        view: ViewNumber,
    },
    /// This server is the primary but cannot serve at this moment: try again shortly.
    #[error("the primary is not ready: {0}; try again shortly")]
    NotReady(NotReady),
    /// Too much is waiting already: try again later.
    #[error("too many requests are waiting; try again later")]
    Overloaded,
    /// A write that grows the data, while the room that the primary has for data is used up. Reads and
    /// deletes go on.
    #[error(
        "the data takes {used} of the {max} bytes that the primary has for it: delete keys, or start \
         all servers with a larger --max-memory, one after the other; reads and deletes go on"
    )]
    OutOfMemory {
        /// By the data, in bytes.
        used: u64,
        /// What there is for it, in bytes.
        max: u64,
    },
    /// A write, while the disk of a copy that must have it is nearly full. Reads go on.
    #[error(
        "the disk of {server} is nearly full: make room on it and writes go on by themselves, or stop \
         that server to go on without it; reads go on"
    )]
    DiskFull {
        /// Whose.
        server: ServerName,
    },
    /// A write, while the primary has lost its data directory. Reads go on.
    #[error(
        "the data directory of {server} was deleted or replaced, so it takes no writes; if no other copy \
         takes over, save what it holds: `kvctl snapshot save FILE --server {server}`"
    )]
    DirectoryGone {
        /// Whose.
        server: ServerName,
    },
    /// Fewer synced copies than `--min-copies`: reads go on, writes wait for a copy.
    #[error(
        "only {synced} of the {min_copies} copies that --min-copies asks for are in sync; \
         start another kvserver or wait for one to catch up"
    )]
    TooFewCopies {
        /// Copies in sync, the primary included.
        synced: u32,
        /// The setting.
        min_copies: u32,
    },
    /// Copies disagree about the data: writes have stopped until an operator decides.
    #[error(
        "two copies disagree about the data at op {op}; writes have stopped: see the servers' logs"
    )]
    Diverged {
        /// The op at which they differ.
        op: OpNumber,
    },
    /// The request itself is wrong; it would be refused everywhere.
    #[error("{0}")]
    Invalid(String),
    /// The caller names another cluster.
    #[error("this server belongs to cluster {0}: check the addresses given to the client")]
    WrongCluster(crate::ids::ClusterId),
}

/// What a primary that cannot serve waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum NotReady {
    /// The view is proposed but not activated, or its barrier not committed.
    #[error("it is taking over")]
    TakingOver,
    /// The read lease has run out and not yet been renewed.
    #[error("it waits for its backups to confirm that it still leads")]
    Unconfirmed,
    /// It is about to stop and hands over.
    #[error("it is handing over")]
    HandingOver,
}
