//! Everything that can be asked of the store, and every answer it gives.

use bytes::Bytes;

use crate::ids::{OpNumber, Position, RequestNumber, SessionId, Version};
use crate::memory::{allocated, shared};
use crate::time::LogTime;

/// Requests of one session that may be in flight at once.
pub const SESSION_WINDOW: u64 = 64;

/// What [`Bytes`] that share a buffer keep beside it.
const SHARED_BUFFER: usize = 32;

/// A network buffer has at least this size; commands of less are copied out of theirs.
const OWN_BUFFER_FROM: usize = 8 << 10;

/// What the log holds. Commands, not results, are logged; a command is deterministic given the
/// store, its position and its log time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Marks the start of an epoch.
    Barrier,
    /// One change of one key.
    Change(Change),
    /// Several changes at once: all or none.
    Batch(Vec<Change>),
    /// Allocates a session named after this op's position.
    OpenSession,
    /// Ends a session at its client's wish.
    CloseSession(SessionId),
    /// Ends a session whose lease is over; only a primary orders it.
    ExpireSession(SessionId),
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// Which key.
    pub key: Bytes,
    /// What happens to it.
    pub action: Action,
}

/// What happens to a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// It gets this value.
    Put(Bytes),
    /// It goes.
    Delete,
    /// Its value grows by these bytes; a missing key counts as empty.
    Append(Bytes),
    /// It gets the new value (`None` deletes it) if the expectation holds, else nothing changes.
    CompareAndSet {
        /// What must hold.
        expect: Expect,
        /// The new value; `None` deletes the key.
        new_value: Option<Bytes>,
    },
}

/// What a compare-and-set expects of its key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Expect {
    /// It does not exist.
    Missing,
    /// It holds this value. In a box, because it is rare and every entry has room for the largest.
    Value(Box<Bytes>),
    /// It was changed last at this version.
    Version(Version),
    /// It was changed last at a version that has another name now. In a box, as it is rare too.
    Renamed(Box<Renamed>),
}

/// A version that a client asked for by a name that means nothing in this log, or something else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Renamed {
    /// What the client asked for: by this a repetition of its request is recognised.
    pub asked: Version,
    /// What it is called here; 0, the version of nothing, if this log never gave that name.
    pub now: Version,
}

/// A question about the committed state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Query {
    /// The records of these keys, all at one op.
    Get(Vec<Bytes>),
}

/// A value and the version of its last change.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// When it was changed last.
    pub version: Version,
}

/// What an op did.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The barrier is in place.
    Barrier,
    /// The change was made.
    Changed(Changed),
    /// All changes of the batch were made; one entry each.
    BatchChanged(Vec<Changed>),
    /// The session exists.
    SessionOpened(SessionId),
    /// The session is gone.
    SessionClosed {
        /// Whether it was there.
        existed: bool,
    },
    /// Nothing changed, and this is why.
    Refused(Refusal),
}

/// One change that was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Changed {
    /// Version of the key after the op; for a delete, of the delete itself.
    pub version: Version,
    /// Whether the key existed before.
    pub existed: bool,
    /// Length of the value after the op in bytes; 0 after a delete.
    pub length: u64,
}

/// Why an op, although ordered and committed, changed nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The expectation of a compare-and-set did not hold.
    ConditionFailed {
        /// What is there instead.
        record: Option<Record>,
        /// Which change of a batch, from 0.
        change: u32,
    },
    /// The resulting value would be larger than allowed.
    TooLarge {
        /// Bytes it would have.
        size: u64,
        /// Bytes it may have.
        size_max: u64,
        /// Which change of a batch, from 0.
        change: u32,
    },
    /// The session is unknown, hence expired or closed.
    SessionExpired,
    /// The request is below its session's floor: its answer was already given up.
    StaleRequest {
        /// The smallest number still open.
        floor: RequestNumber,
    },
    /// The same request number was used for another command.
    RequestReused,
    /// The request is further ahead of the floor than [`SESSION_WINDOW`] allows.
    WindowFull,
    /// There is no room for another session until one ends.
    TooManySessions {
        /// Most sessions open at once.
        sessions_max: u64,
    },
}

/// Names one request of one session for exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// Whose request.
    pub session: SessionId,
    /// Which one.
    pub number: RequestNumber,
    /// The smallest number whose answer the client still waits for.
    pub first_open: RequestNumber,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// The clock of the log at this op.
    pub at: LogTime,
    /// The request it carries, if it came through a session.
    pub id: Option<RequestId>,
    /// What to do.
    pub command: Command,
}

impl Entry {
    /// Number of the op.
    #[must_use]
    pub fn op(&self) -> OpNumber {
        self.position.op
    }

    /// What the entry takes in memory, and so in windows and budgets.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.command.weight()
    }
}

impl Command {
    /// Bytes of all keys and values.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.changes().iter().map(Change::payload).sum()
    }

    /// What an entry with this command takes in memory, by estimate: itself, its changes if there are
    /// several, and one buffer with all keys and values.
    #[must_use]
    pub fn weight(&self) -> usize {
        let parts = match self {
            Command::Batch(changes) => allocated(size_of_val(changes.as_slice())),
            _ => 0,
        };
        let data = match self.payload() {
            0 => 0,
            bytes => allocated(bytes) + SHARED_BUFFER,
        };
        shared::<Entry>() + parts + data
    }

    /// Whether the command may leave more keys and values behind than there were: a put does so even
    /// where it replaces something larger. Sessions have a limit of their own, and whoever wants to
    /// delete needs one.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        let grows = |change: &Change| match &change.action {
            Action::Put(_) | Action::Append(_) => true,
            Action::CompareAndSet { new_value, .. } => new_value.is_some(),
            Action::Delete => false,
        };
        self.changes().iter().any(grows)
    }

    /// Whether the command answers with what it finds if a condition does not hold.
    #[must_use]
    pub fn has_condition(&self) -> bool {
        let is_conditional =
            |change: &Change| matches!(change.action, Action::CompareAndSet { .. });
        self.changes().iter().any(is_conditional)
    }

    /// Bytes of the longest value that the command may leave, as far as it is known before.
    #[must_use]
    pub fn new_value_length_max(&self) -> usize {
        self.changes().iter().map(Change::new_value_len).max().unwrap_or(0)
    }

    /// The same command in memory of its own. What a door decodes are slices of a network buffer,
    /// which a small command would keep alive as long as the log keeps the command; a large one
    /// about fills its buffer, and stays there.
    #[must_use]
    pub fn in_own_memory(mut self) -> Command {
        let size = self.payload();
        if size >= OWN_BUFFER_FROM {
            return self;
        }
        let mut memory = Vec::with_capacity(size);
        self.each_bytes(|bytes| memory.extend_from_slice(bytes));
        let mut memory = Bytes::from(memory);
        self.each_bytes(|bytes| *bytes = memory.split_to(bytes.len()));
        self
    }

    /// Every key and value, always in the same order.
    fn each_bytes(&mut self, mut take: impl FnMut(&mut Bytes)) {
        match self {
            Command::Change(change) => change.each_bytes(&mut take),
            Command::Batch(changes) => {
                changes.iter_mut().for_each(|change| change.each_bytes(&mut take));
            }
            Command::Barrier
            | Command::OpenSession
            | Command::CloseSession(_)
            | Command::ExpireSession(_) => {}
        }
    }

    /// Gives the versions that the command expects the names that they have here: `name` returns that
    /// of a version with another name. What the client asked for stays known.
    pub fn rename_versions(&mut self, name: impl Fn(Version) -> Option<Version>) {
        let changes = match self {
            Command::Change(change) => std::slice::from_mut(change),
            Command::Batch(changes) => changes,
            _ => &mut [],
        };
        for change in changes {
            if let Action::CompareAndSet { expect, .. } = &mut change.action
                && let Some((asked, now)) = expect.version()
                && let Some(now) = name(now)
            {
                *expect = Expect::Renamed(Box::new(Renamed { asked, now }));
            }
        }
    }

    /// The changes of the command, in order; empty for commands that change no key.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match self {
            Command::Change(change) => std::slice::from_ref(change),
            Command::Batch(changes) => changes,
            _ => &[],
        }
    }
}

impl Expect {
    /// The version that is expected: as the client asked for it, and as it is called here.
    #[must_use]
    pub fn version(&self) -> Option<(Version, Version)> {
        match self {
            Expect::Version(version) => Some((*version, *version)),
            Expect::Renamed(renamed) => Some((renamed.asked, renamed.now)),
            Expect::Missing | Expect::Value(_) => None,
        }
    }
}

impl Change {
    fn each_bytes(&mut self, take: &mut impl FnMut(&mut Bytes)) {
        take(&mut self.key);
        match &mut self.action {
            Action::Put(bytes) | Action::Append(bytes) => take(bytes),
            Action::Delete => {}
            Action::CompareAndSet { expect, new_value } => {
                if let Expect::Value(value) = expect {
                    take(value);
                }
                new_value.iter_mut().for_each(take);
            }
        }
    }

    /// Bytes of key and values.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.key.len()
            + match &self.action {
                Action::Put(bytes) | Action::Append(bytes) => bytes.len(),
                Action::Delete => 0,
                Action::CompareAndSet { expect, new_value } => {
                    let expected = match expect {
                        Expect::Value(value) => value.len(),
                        Expect::Missing | Expect::Version(_) | Expect::Renamed(_) => 0,
                    };
                    expected + new_value.as_ref().map_or(0, Bytes::len)
                }
            }
    }

    /// Bytes of the value that the change may leave in the store, as far as it is known before.
    #[must_use]
    pub fn new_value_len(&self) -> usize {
        match &self.action {
            Action::Put(bytes) | Action::Append(bytes) => bytes.len(),
            Action::CompareAndSet { new_value, .. } => new_value.as_ref().map_or(0, Bytes::len),
            Action::Delete => 0,
        }
    }
}
