//! When a copy writes its state to disk, and at which pace. Pure.
//!
//! A snapshot is taken at one op while writes go on: the store scans itself, as for a transfer. It
//! costs the log nothing to grow meanwhile, so it is written in small steps, no faster than the
//! journal takes them, and given up without harm when the copy is replaced.

use kvproto::ids::{OpNumber, Position};

use super::Tuning;
use super::effect::Effect;
use super::log::Log;
use crate::journal::{SnapshotEnd, Work};
use crate::store::{ScanId, Store};

/// Chunks given to the journal and not yet written.
const CHUNKS_UNWRITTEN_MAX: u64 = 2;

/// The snapshots of one log.
#[derive(Clone, Hash, Debug)]
pub struct Snapshots {
    running: Option<Running>,
    /// Weight of the entries that are in no snapshot.
    unsaved_bytes: u64,
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
        Snapshots { running: None, unsaved_bytes }
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
        }
    }

    /// Begins a snapshot when one is due, and moves the one under way on by one chunk.
    pub fn advance(
        &mut self,
        tuning: &Tuning,
        store: &mut Store,
        log: &Log,
        committed: OpNumber,
        out: &mut Vec<Effect>,
    ) {
        let due = tuning.snapshot_after_bytes.max(store.bytes() / 2);
        if self.running.is_none() && self.unsaved_bytes >= due {
            self.running = begin(store, log, committed, self.unsaved_bytes, out);
        }
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

fn begin(
    store: &mut Store,
    log: &Log,
    committed: OpNumber,
    saves_bytes: u64,
    out: &mut Vec<Effect>,
) -> Option<Running> {
    let at = log.position_at(committed).filter(|at| at.op > OpNumber(0))?;
    let end = SnapshotEnd {
        epochs: log.epochs().iter().filter(|start| start.op <= at.op).copied().collect(),
        log_time: store.log_time(),
        digest: store.digest(),
        chunks: 0,
    };
    let keys = store.key_count() as u64;
    out.push(Effect::Journal(Work::BeginSnapshot { at, keys }));
    let scan = store.begin_scan();
    Some(Running { scan, at, end, written: 0, ended: false, saves_bytes })
}
