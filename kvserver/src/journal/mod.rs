//! Where log entries are kept so that they survive what the mode of the cluster promises. Pure:
//! this file is the contract, [`memory`] keeps it for clusters without disks.
//!
//! The contract is *take on, then completion*: [`Journal::take`] only takes work on, and nothing that
//! depends on that work being safe may happen before [`Journal::poll`] has said so. What comes out late,
//! from before a truncation or a reset, is sorted out in [`pending`], in one place for every
//! journal.
//!
//! On disk, in reading order: [`record`] and [`layout`], the bytes and the names; [`disk`], what is
//! asked of a disk; [`index`] and [`log`], the live log of an era; [`snapshots`], states as files;
//! [`survey`], what a directory holds; [`engine`], the life of a directory; [`work`], who does
//! which work in which order; and two shells, [`files`] and [`writer`]. What all of it looks like from
//! outside: `docs/storage.md`.

pub mod disk;
pub mod engine;
pub mod files;
pub mod index;
pub mod layout;
pub mod log;
pub mod memory;
pub mod pending;
pub mod record;
pub mod snapshots;
pub mod survey;
pub mod work;
pub mod writer;

use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::ids::{Epoch, OpNumber, Position};
use kvproto::snapshot::SnapshotEnd;
use kvproto::view::{View, ViewOrder};

pub use memory::MemoryJournal;

/// How much room the disk has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Room {
    /// More than matters.
    #[default]
    Enough,
    /// So little that the log should be short.
    Scarce,
    /// Too little for more data: the disk is nearly full.
    Full,
}

/// Entries of the log in order, none if they are no longer there; or what was found in their place: a
/// start would not get over it, unless a snapshot covers it by then.
pub type EntriesRead = Result<Vec<Arc<Entry>>, String>;

/// Work that is done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Completion {
    /// Everything through this position is safe, and so is everything called before its append,
    /// truncations included. After a reset its base is named: the state that reflects it is safe,
    /// and what was there before is gone.
    Safe(Position),
    /// The adoption of this epoch is safe. Where there is no log yet it is only in memory, which is
    /// enough: a new incarnation learns the view when it registers.
    Adopted(Epoch),
    /// The newest record of the view service that is safe is the one of this order.
    Recorded(ViewOrder),
    /// This many chunks of the snapshot under way have been written. For pacing only.
    ChunksWritten(u64),
    /// The snapshot at this op has been written and verified. Not said of one that a reset made
    /// the beginning of the log: there the base is reported instead.
    Snapshot(Position),
    /// The snapshot of this log that was under way was given up: it did not fit on the disk.
    SnapshotGivenUp,
    /// How much room the disk has from now on; enough, as long as nothing is said.
    Room(Room),
    /// The directory is no longer found where it was: nothing is safe any more that was not called safe
    /// before, and nothing will be.
    DirectoryGone,
    /// Entries that were asked for.
    Read {
        /// The op from which on they were.
        from: OpNumber,
        /// Them.
        entries: EntriesRead,
    },
}

/// What a [`Journal`] is asked to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Work {
    /// This server helps no older epoch from now on.
    Adopt(Epoch),
    /// The newest record of the view service, in the place of the one before it. It outlives every
    /// log.
    Record(Box<View>),
    /// Entries, which follow everything taken on before.
    Append(Vec<Arc<Entry>>),
    /// Forgets every entry after an op; the next append goes on from there, in the same step. The
    /// caller drops only entries of older epochs. A crash leaves either them or all of that append.
    Truncate {
        /// Last op kept.
        after: OpNumber,
    },
    /// Forgets everything: the log now begins anew. With op 0 it is empty; with any other a snapshot
    /// at `base` must have been ended since the last reset to op 0, and the log now begins with it.
    /// What was there before stays until the new log begins.
    Reset {
        /// The op that the new log begins after.
        base: Position,
    },
    /// Everything through an op is in every required copy. A hint, for whoever looks at the log
    /// later; written with the next record.
    Committed {
        /// Last op that is.
        through: OpNumber,
    },
    /// Begins a snapshot of a state; ends one that was under way. After a reset to op 0 it is the
    /// state that is received, otherwise that of this log.
    BeginSnapshot {
        /// The op whose state it is.
        at: Position,
        /// How many keys there will be.
        keys: u64,
    },
    /// The next records of the snapshot under way. The caller keeps few of them unwritten.
    SnapshotChunk(Bytes),
    /// The snapshot under way is whole.
    EndSnapshot(SnapshotEnd),
    /// Asks for safe entries, for a copy that lacks more than is kept in memory: at least one if
    /// there is any.
    Read {
        /// The first op wanted.
        from: OpNumber,
        /// About how much at a time.
        bytes_max: u64,
    },
}

/// Takes the journal effects of a replica in the order in which they were emitted, and says when
/// they are safe. Safe means what the mode asks: synced to disk, or in memory simply taken on.
pub trait Journal {
    /// Takes work on.
    fn take(&mut self, work: Work);

    /// What has been done since the last call, the newest of its kind where one says all. A
    /// position that was truncated away, or an op of a log that was reset, is never reported
    /// afterwards.
    fn poll(&mut self) -> Option<Completion>;
}
