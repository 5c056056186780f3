//! When a copy writes its state to disk, and at which pace. Pure.
//!
//! A snapshot is taken at one op while writes go on: the store scans itself, as for a transfer. It
//! costs the log nothing to grow meanwhile, so it is written in small steps, no faster than the
//! journal takes them, and given up without harm when the copy is replaced.

use kvproto::ids::{ClusterId, OpNumber, Position};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::time::LogTime;

use super::Tuning;
use super::effect::Effect;
use super::log::Log;
use crate::journal::{Room, Work};
use crate::store::{ScanId, Store};

/// Chunks given to the journal and not yet written.
const CHUNKS_UNWRITTEN_MAX: u64 = 2;

/// A log is kept so many times shorter where room is scarce.
const SHORTER: u64 = 32;

/// What a copy of this store is of, and what it ends with, but for its chunks. The store reflects
/// the log through this op.
pub(super) fn describe(
    cluster: ClusterId,
    log: &Log,
    through: OpNumber,
    log_time: LogTime,
    store: &Store,
) -> (SnapshotHead, SnapshotEnd) {
    let at = log.position_at(through).expect("the epoch of what is committed is remembered");
    let (epochs, digest) = (log.epochs_through(through), store.digest());
    let head = SnapshotHead { cluster, at, keys: store.key_count() as u64 };
    (head, SnapshotEnd { epochs, log_time, digest, chunks: 0 })
}

/// The snapshots of one log.
#[derive(Clone, Hash, Debug)]
pub struct Snapshots {
    running: Option<Running>,
    /// Weight of the entries that are in no snapshot.
    unsaved_bytes: u64,
    /// One was given up for want of room; the next is not begun before so much is unsaved.
    not_before_bytes: u64,
    /// Of the log something through here cannot be read from the disk.
    unreadable: Option<OpNumber>,
}

/// A snapshot under way.
#[derive(Clone, Hash, Debug)]
struct Running {
    scan: ScanId,
    at: Position,
    /// What is to be said at its end; counts the chunks so far.
    end: SnapshotEnd,
    written: u64,
    ended: bool,
    /// Weight of the entries that it will save.
    saves_bytes: u64,
}

impl Snapshots {
    /// None yet, of a log with so much in it after its beginning.
    #[must_use]
    pub fn new(unsaved_bytes: u64) -> Snapshots {
        Snapshots { running: None, unsaved_bytes, not_before_bytes: 0, unreadable: None }
    }

    /// An entry was added to the log.
    pub fn note_appended(&mut self, bytes: usize) {
        self.unsaved_bytes += bytes as u64;
    }

    /// The journal has taken so many chunks.
    pub fn note_written(&mut self, chunks: u64) {
        if let Some(running) = &mut self.running {
            running.written = chunks;
        }
    }

    /// The snapshot at this op is whole and verified.
    pub fn note_done(&mut self, at: Position) {
        if let Some(running) = self.running.take_if(|running| running.at == at) {
            self.unsaved_bytes = self.unsaved_bytes.saturating_sub(running.saves_bytes);
            self.not_before_bytes = 0;
            self.unreadable = self.unreadable.filter(|through| *through > at.op);
        }
    }

    /// The snapshot under way did not fit on the disk. The log grows on; there may be more room when
    /// there is half as much more to save.
    pub fn note_given_up(&mut self, store: &mut Store) {
        if let Some(running) = self.running.take() {
            store.end_scan(running.scan);
            self.not_before_bytes = self.unsaved_bytes + (self.unsaved_bytes / 2).max(1);
        }
    }

    /// Some of the log, which ends with this op, turned out unreadable: the next start needs a snapshot
    /// in the place of all of it.
    pub fn note_unreadable(&mut self, last: OpNumber) {
        self.unreadable = Some(last);
    }

    /// The disk has room again.
    pub fn note_room(&mut self) {
        self.not_before_bytes = 0;
    }

    /// Whether there is enough to save, or a log that cannot be read to be replaced. Where room is
    /// scarce the log is kept shorter, and when the disk is nearly full half of what the data takes is
    /// enough, however little it is.
    #[must_use]
    pub fn is_due(&self, tuning: &Tuning, store: &Store, committed: OpNumber, room: Room) -> bool {
        let least = match room {
            Room::Enough => tuning.snapshot_after_bytes,
            Room::Scarce => tuning.snapshot_after_bytes / SHORTER,
            Room::Full => 1,
        };
        let enough = least.max(store.bytes() / 2);
        let due = match self.unreadable {
            Some(through) if through <= committed => 0,
            _ => enough,
        };
        self.running.is_none() && self.unsaved_bytes >= due.max(self.not_before_bytes)
    }

    /// Begins a snapshot, which this scan of the store yields.
    pub fn begin(
        &mut self,
        head: &SnapshotHead,
        end: SnapshotEnd,
        scan: ScanId,
        out: &mut Vec<Effect>,
    ) {
        let SnapshotHead { at, keys, .. } = *head;
        let saves_bytes = self.unsaved_bytes;
        self.running = Some(Running { scan, at, end, written: 0, ended: false, saves_bytes });
        out.push(Effect::Journal(Work::BeginSnapshot { at, keys }));
    }

    /// Moves the snapshot under way on by one chunk, if the journal has room.
    pub fn advance(&mut self, tuning: &Tuning, store: &mut Store, out: &mut Vec<Effect>) {
        let Some(running) = self.running.as_mut().filter(|running| !running.ended) else {
            return;
        };
        if running.end.chunks >= running.written + CHUNKS_UNWRITTEN_MAX {
            return;
        }
        match store.next_chunk(running.scan, tuning.chunk_bytes) {
            Some(records) => {
                running.end.chunks += 1;
                out.push(Effect::Journal(Work::SnapshotChunk(records)));
            }
            None => {
                running.ended = true;
                out.push(Effect::Journal(Work::EndSnapshot(running.end.clone())));
            }
        }
    }
}
