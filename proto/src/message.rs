//! What copies say to each other. Meanings of the fields: `replication.proto`.

use std::time::Duration;

use bytes::Bytes;

use crate::batch::Batch;
use crate::command::{Outcome, Refusal};
use crate::ids::{
    ClusterId, Epoch, EpochStart, History, Member, Nonce, OpNumber, Position, RequestNumber,
    Revision, SessionId, StreamNumber,
};
use crate::snapshot::SnapshotEnd;
use crate::time::{LogTime, Timestamp};

/// A message between two copies.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// Cluster of the sender.
    pub cluster: ClusterId,
    /// Epoch that the message speaks for: that of the stream's primary.
    pub epoch: Epoch,
    /// The sender.
    pub from: Member,
    /// Whom it is for; anybody else drops it.
    pub to: Member,
    /// Stream within the epoch.
    pub stream: StreamNumber,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Primary: first message of a stream.
    Open {
        /// The history that began the epoch.
        began: History,
    },
    /// Copy: what it holds.
    Opened(Opened),
    /// Primary: a batch, or with no entries a heartbeat.
    Append(Append),
    /// Copy: what it has.
    Ack(Ack),
    /// Copy: it knows of the newer epoch that the message speaks for.
    Fenced,
    /// Primary: empty yourself, a full copy follows.
    TransferStart {
        /// The op at which the copy is taken.
        at: Position,
        /// How many keys to expect, for progress.
        keys: u64,
    },
    /// Primary: part of the copy.
    TransferChunk {
        /// From 1, contiguous.
        number: u64,
        /// Sessions, then keys in order, as [`convert::records`](crate::convert::records) reads them.
        records: Bytes,
    },
    /// Primary: the copy is whole.
    TransferEnd(SnapshotEnd),
    /// Former primary, outside any stream: it stopped before this epoch.
    Released,
}

/// What a copy holds when a stream opens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Opened {
    /// Start of each epoch in its log, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Its last op.
    pub last: OpNumber,
    /// Its committed op: nothing at or below may be truncated.
    pub committed: OpNumber,
    /// False in a half transfer.
    pub complete: bool,
    /// The newest record of the view service that is safe there. It is one of this epoch.
    pub recorded: Revision,
}

/// A batch of entries, or with none a heartbeat.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Append {
    /// Position of the op before the first entry.
    pub previous: Position,
    /// Contiguous entries.
    pub entries: Batch,
    /// Everything through here is in every required copy.
    pub committed: OpNumber,
    /// The primary's log time.
    pub log_time: LogTime,
    /// Rises with every append of the epoch.
    pub nonce: Nonce,
    /// The primary's clock at sending; only echoed.
    pub sent_at: Timestamp,
    /// The lease asked for; zero asks for none.
    pub lease: Duration,
    /// Ask for the digest at `committed`.
    pub want_digest: bool,
}

/// What a copy has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ack {
    /// Matched with this epoch's primary, and durable as the mode says.
    pub matched: OpNumber,
    /// Applied.
    pub applied: OpNumber,
    /// Highest nonce received.
    pub nonce: Nonce,
    /// The send time that came with it.
    pub sent_at: Timestamp,
    /// Digest at `applied`, when it was asked for.
    pub digest: Option<Digest>,
    /// Chunks of the running transfer received.
    pub chunks: u64,
    /// Its disk is nearly full.
    pub disk_full: bool,
    /// The newest record of the view service that is safe there. It is one of this epoch.
    pub recorded: Revision,
}

/// Order-free digest of a store: equal states have equal digests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Digest(pub u128);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A session with the answers still remembered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// Requests below are forgotten.
    pub floor: RequestNumber,
    /// By request number.
    pub answers: Vec<(RequestNumber, AnswerRecord)>,
}

/// A remembered answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AnswerRecord {
    /// Hash of the command that was answered.
    pub command_hash: u64,
    /// The answer.
    pub outcome: Outcome,
}

impl AnswerRecord {
    /// Most bytes that the answer takes in a chunk: its data and a constant for the rest.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.outcome {
            Outcome::BatchChanged(changes) => AnswerRecord::weight_max(changes.len(), 0),
            Outcome::Refused(Refusal::ConditionFailed { record: Some(record), .. }) => {
                AnswerRecord::weight_max(0, record.value.len())
            }
            _ => AnswerRecord::weight_max(0, 0),
        }
    }

    /// Most that the answer to a command with so many changes weighs, if its conditions meet no
    /// value of more bytes than `met`.
    #[must_use]
    pub fn weight_max(changes: usize, met: usize) -> usize {
        128 + (changes * 32).max(met)
    }
}

impl Body {
    /// Whether the message is short and goes beside the others of its stream: it may overtake them, so
    /// that a long one delays no lease.
    #[must_use]
    pub fn overtakes(&self) -> bool {
        matches!(self, Body::Append(append) if append.entries.is_empty())
    }

    /// Whether the message belongs to the primary's side of a stream.
    #[must_use]
    pub fn is_from_primary(&self) -> bool {
        match self {
            Body::Open { .. }
            | Body::Append(_)
            | Body::TransferStart { .. }
            | Body::TransferChunk { .. }
            | Body::TransferEnd(_) => true,
            Body::Opened(_) | Body::Ack(_) | Body::Fenced | Body::Released => false,
        }
    }
}
