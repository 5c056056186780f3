//! Dumps: every pair of this copy at one op, for people. Shell: they have no part in the protocol.
//!
//! The store scans itself at one op while writes go on. Each tick a dump gets one chunk if its
//! reader has room, so that neither a large store nor a slow reader holds up the loop.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kvproto::convert::{StateRecord, records};
use kvproto::{Digest, OpNumber, Record, Role};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::replica::Replica;
use crate::store::ScanId;

/// One step's worth: at one step every few milliseconds about 50 MiB per second.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for their reader. A chunk may be as large as the largest value.
const CHUNKS_QUEUED_MAX: usize = 1;
/// Dumps at once: each keeps the old state of what is written meanwhile, and chunks for its reader.
pub(super) const DUMPS_MAX: usize = 4;
/// A reader that takes nothing for this long has given up.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Part of a dump. One that ends without its summary was given up and is worth nothing.
#[derive(Clone, PartialEq, Debug)]
pub enum DumpChunk {
    /// The next pairs in key order.
    Records(Vec<(Bytes, Record)>),
    /// The end: what the pairs were taken from.
    Summary(DumpSummary),
}

/// What the pairs of a dump were taken from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DumpSummary {
    /// How many pairs there are.
    pub count: u64,
    /// Digest of the store, its sessions included.
    pub digest: Digest,
    /// The op at which it was taken.
    pub op: OpNumber,
    /// The part that the server played.
    pub role: Role,
}

/// What a reader has of its dump. It holds a place among those that there may be at once until it is
/// dropped, since a reader that takes nothing keeps its chunks also when its dump was given up.
#[derive(Debug)]
pub struct Dump {
    chunks: mpsc::Receiver<DumpChunk>,
    // After the chunks, so that they are gone when the place is free.
    _place: Option<OwnedSemaphorePermit>,
}

impl Dump {
    /// A dump, and the node's end of it. Without a place it has ended already.
    pub(crate) fn new(place: Option<OwnedSemaphorePermit>) -> (mpsc::Sender<DumpChunk>, Dump) {
        let (reader, mut chunks) = mpsc::channel(CHUNKS_QUEUED_MAX);
        if place.is_none() {
            chunks.close();
        }
        (reader, Dump { chunks, _place: place })
    }

    /// The next part; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<DumpChunk>> {
        self.chunks.poll_recv(cx)
    }
}

/// The dumps under way.
#[derive(Default)]
pub(super) struct Dumps {
    running: Vec<Running>,
}

struct Running {
    scan: ScanId,
    summary: DumpSummary,
    sent: u64,
    reader: mpsc::Sender<DumpChunk>,
    took_at: Instant,
}

impl Dumps {
    /// Begins a dump, unless the copy is only half there: then the reader hears nothing but the end.
    fn begin(&mut self, replica: &mut Replica, reader: mpsc::Sender<DumpChunk>) {
        if reader.is_closed() || !replica.is_complete() {
            return;
        }
        let summary = DumpSummary {
            count: replica.store().key_count() as u64,
            digest: replica.store().digest(),
            op: replica.committed(),
            role: replica.role(),
        };
        let scan = replica.store_mut().begin_scan();
        self.running.push(Running { scan, summary, sent: 0, reader, took_at: Instant::now() });
    }

    /// Moves every dump on by one chunk at most, and begins those that wait: in this order, so that
    /// those whose readers are gone have ended before others take their places.
    pub(super) fn advance(
        &mut self,
        replica: &mut Replica,
        waiting: &mut mpsc::Receiver<mpsc::Sender<DumpChunk>>,
    ) {
        self.running.retain_mut(|dump| {
            let goes_on = dump.advance(replica);
            if !goes_on {
                replica.store_mut().end_scan(dump.scan);
            }
            goes_on
        });
        while let Ok(reader) = waiting.try_recv() {
            self.begin(replica, reader);
        }
    }

    /// Gives all dumps up: the store that they scan is gone.
    pub(super) fn abandon(&mut self) {
        self.running.clear();
    }
}

impl Running {
    /// Whether there is more to come.
    fn advance(&mut self, replica: &mut Replica) -> bool {
        let room = match self.reader.try_reserve() {
            Ok(room) => room,
            Err(TrySendError::Full(())) => return self.took_at.elapsed() < STALLED_AFTER,
            Err(TrySendError::Closed(())) => return false,
        };
        self.took_at = Instant::now();
        match replica.store_mut().next_chunk(self.scan, CHUNK_BYTES) {
            Some(chunk) => {
                let pairs: Vec<_> = pairs(&chunk).collect();
                self.sent += pairs.len() as u64;
                room.send(DumpChunk::Records(pairs));
                true
            }
            None => {
                if self.sent == self.summary.count {
                    room.send(DumpChunk::Summary(self.summary));
                }
                false
            }
        }
    }
}

/// The keys of a chunk; keys and values share its memory.
fn pairs(chunk: &Bytes) -> impl Iterator<Item = (Bytes, Record)> {
    records(chunk).filter_map(|record| match record.expect("a scan writes what can be read") {
        StateRecord::Key { key, value, version } => {
            Some((chunk.slice_ref(key), Record { value: chunk.slice_ref(value), version }))
        }
        StateRecord::Session(_) => None,
    })
}
