//! Identities and positions. Each number has a type that can only do what makes sense, so that the
//! compiler catches a swapped argument.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::rules::{Rule, keeps};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one. Panics on overflow, which at a million steps a second is
            /// half a million years away.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter never overflows"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// Number of a view. Rises by one with each change of the configuration; 0 is "no view".
    ViewNumber
}
number! {
    /// Counts decisions to accept data loss. `(generation, view number)` orders views.
    Generation
}
number! {
    /// Counts every change of the view service's state; orders records of one view number.
    Revision
}
number! {
    /// Number of one life of a server process, given by the view service, rising per name.
    Incarnation
}
number! {
    /// Number of an op in the log, contiguous from 1; 0 is "before the first".
    OpNumber
}
number! {
    /// Number of a stream that a primary opens to one copy, rising within its epoch.
    StreamNumber
}
number! {
    /// Number of an append within an epoch; an acknowledged one proves what a copy had received.
    Nonce
}
number! {
    /// Number of a request within its session, from 1.
    RequestNumber
}
number! {
    /// A session: `generation << 48 | op number` of its allocation in the log.
    SessionId
}
number! {
    /// Version of a key: `generation << 48 | op number` of its last change. Never reused.
    Version
}

/// `generation << 48 | op number`: rises for ever, also across forced recovery.
fn stamp(generation: Generation, op: OpNumber) -> u64 {
    assert!(
        generation.0 < 1 << 16 && op.0 < 1 << 48,
        "a stamp has 16 bits of generation and 48 of op"
    );
    generation.0 << 48 | op.0
}

impl SessionId {
    /// The id of the session that the op at this position allocates.
    #[must_use]
    pub fn allocated_at(generation: Generation, op: OpNumber) -> Self {
        if !keeps(Rule::SessionsNameTheirGeneration) {
            return Self(op.0);
        }
        Self(stamp(generation, op))
    }
}

impl Version {
    /// The version of a key changed by the op at this position.
    #[must_use]
    pub fn of_change_at(generation: Generation, op: OpNumber) -> Self {
        Self(stamp(generation, op))
    }
}

/// Fences replication: an epoch names one primaryship. Membership-only changes keep it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Epoch {
    /// The generation.
    pub generation: Generation,
    /// The view in which the primary was appointed.
    pub primary_since: ViewNumber,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.primary_since)
    }
}

/// Place of an op in the log. Two ops never share one.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Position {
    /// The epoch in which the op was ordered.
    pub epoch: Epoch,
    /// Its number.
    pub op: OpNumber,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.op)
    }
}

/// Where an epoch begins in a log. Of two pasts both may have an epoch of one name: it is the same
/// one only with the history that began it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct EpochStart {
    /// Which epoch.
    pub epoch: Epoch,
    /// Its first op, the barrier.
    pub op: OpNumber,
    /// The history of the record that appointed its primary.
    pub history: History,
}

impl EpochStart {
    /// The epoch that begins at this position.
    #[must_use]
    pub fn at(position: Position, history: History) -> EpochStart {
        EpochStart { epoch: position.epoch, op: position.op, history }
    }
}

/// Address of a server as it stands in views, `host:port`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ServerName(Arc<str>);

impl ServerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// True for the empty name, which stands for "nobody" in lab-style views.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for ServerName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for ServerName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a server. A server that restarted without its data is another member.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Member {
    /// Its address.
    pub name: ServerName,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.incarnation)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<$name, &'static str> {
                from_hex(&text).map($name).ok_or("an identity has 32 hexadecimal digits")
            }
        }
    };
}

identity! {
    /// Identity of a cluster: random, made once. All zero stands for "none yet".
    ClusterId
}
identity! {
    /// Identity of a data directory: random, made once.
    StorageId
}

identity! {
    /// Names one process of a server: drawn by it at its start, and never given to another. An
    /// incarnation alone does not: a view service that was put back to an older state gives numbers
    /// twice. All zero stands for a process that has not said.
    LifeId
}
identity! {
    /// Everything that made a record what it is: a hash chain over all changes of the view service's
    /// state that raised its revision. Equal only with the same past.
    History
}

impl LifeId {
    /// True for the id that names no process.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl History {
    /// Of a cluster that has just been founded.
    #[must_use]
    pub fn founding(cluster: ClusterId) -> History {
        History::default().after(&cluster.0)
    }

    /// After one more change, in an encoding that no other change has.
    #[must_use]
    pub fn after(self, change: &[u8]) -> History {
        let mut chained = Xxh3::new();
        chained.update(&self.0);
        chained.update(change);
        History(chained.digest128().to_le_bytes())
    }
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 2 * id.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

impl ClusterId {
    /// True for the id that stands for "belongs to no cluster yet".
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }
}
