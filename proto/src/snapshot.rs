//! The one file format of a state at one op: snapshots of a journal, backups, what is restored.
//! Pure: bytes in, items out, and the other way round; whoever reads or writes files owns them.
//!
//! A file is a head, blocks, and an end. All numbers are written lowest byte first.
//!
//! | part | bytes |
//! |---|---|
//! | head | [`MAGIC`] (8), format level (4), cluster (16), generation, primary since, op, keys (8 each), checksum (4) |
//! | block | 1 (4), length (4), checksum (4), records as a chunk of a transfer has them |
//! | end | 2 (4), length (4), checksum (4), blocks, keys, log time (8 each), digest (16), epochs (4), and for each of them generation, primary since, op (8 each), history (16) |
//!
//! A checksum is the CRC32C of everything from the start of the file to the end of its part, but for
//! the checksums themselves: so a block that is missing, doubled or from another file shows. What
//! lacks its end is incomplete, and nothing follows the end. The reader knows the form; [`Check`]
//! holds the contents against the head and the end.
//!
//! Keys of a head and blocks of an end are exact: whoever makes a snapshot knows them.

mod check;
mod read;
mod write;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use check::{Check, Counts, Verified, Verifier};
pub use read::Reader;
pub use write::Writer;

use bytes::Bytes;

use crate::ids::{ClusterId, EpochStart, Position};
use crate::limits::MESSAGE_SIZE_MAX;
use crate::message::Digest;
use crate::time::LogTime;

/// How a file begins. Its line ends do not survive a transfer as text.
pub const MAGIC: [u8; 8] = *b"KVSTATE\n";

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_LEVEL: u32 = 1;

/// The name under which a snapshot lies in the data directory of a server that is to begin with it.
pub const RESTORE_FILE: &str = "restore.snapshot";

/// Most bytes of one block: a record is never larger than a message that brings it.
pub const BLOCK_SIZE_MAX: usize = MESSAGE_SIZE_MAX;

/// Most epochs of a file: one for each time that a primary was appointed.
const EPOCHS_MAX: usize = 1 << 20;

const HEAD_SIZE: usize = 8 + 4 + 16 + 4 * 8 + 4;
/// Bytes that announce a block.
pub const FRAME_SIZE: usize = 3 * 4;
const END_SIZE: usize = 3 * 8 + 16 + 4;
const EPOCH_SIZE: usize = 3 * 8 + 16;

const BLOCK: u32 = 1;
const END: u32 = 2;

/// What a snapshot is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHead {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The op after which the state was so.
    pub at: Position,
    /// How many keys there are.
    pub keys: u64,
}

/// What is known of a snapshot only at its end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotEnd {
    /// First position of each epoch through the op of the snapshot, oldest first.
    pub epochs: Vec<EpochStart>,
    /// The newest log time known; not before that of the op.
    pub log_time: LogTime,
    /// Digest of the state.
    pub digest: Digest,
    /// How many chunks of records there were.
    pub chunks: u64,
}

/// A part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// Comes first.
    Head(SnapshotHead),
    /// A chunk, as [`convert::records`](crate::convert::records) reads it.
    Block(Bytes),
    /// Comes last.
    End(SnapshotEnd),
}

/// Why bytes are no whole and sound snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// Some other file.
    #[error("this is no snapshot of a kvserver")]
    NotASnapshot,
    /// A format that this program does not know.
    #[error(
        "it has format level {level}, this program knows level {FORMAT_LEVEL}: read it with the \
         release that wrote it, or a newer one"
    )]
    Newer {
        /// Its level.
        level: u32,
    },
    /// What was written is not what is read.
    #[error("it is damaged in the part that begins at byte {at}: {what}")]
    Damaged {
        /// Where the damaged part begins.
        at: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// It is as it was written, but what was written is no state.
    #[error("its contents make no sense: {what}")]
    Contents {
        /// What does not hold.
        what: &'static str,
    },
    /// The end is missing.
    #[error("it is incomplete: {bytes} bytes, and no end")]
    Incomplete {
        /// How many bytes there are.
        bytes: u64,
    },
}
