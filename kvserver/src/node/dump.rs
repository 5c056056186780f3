//! Dumps: this copy as it is at one op, for people and for backups. Shell: they have no part in the
//! protocol.
//!
//! The store scans itself at one op while writes go on. Each tick a dump gets one chunk if its
//! reader has room, so that neither a large store nor a slow reader holds up the loop.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kvproto::Role;
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
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

/// What a reader hears when its dump ends before its end.
pub const GIVEN_UP: &str = "the dump was given up: a state transfer is replacing this copy, too \
                            many dumps are under way, or this one was read too slowly; try again";

/// Part of a dump. One that stops before its end was given up and is worth nothing.
#[derive(Clone, PartialEq, Debug)]
pub enum DumpChunk {
    /// The beginning: what it is of, and the part that the server played.
    Begin(SnapshotHead, Role),
    /// The next sessions, then keys in order, as [`records`](kvproto::convert::records) reads them.
    Records(Bytes),
    /// The end.
    End(SnapshotEnd),
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
    /// What comes before the first records, until it was handed out.
    begin: Option<DumpChunk>,
    end: SnapshotEnd,
    reader: mpsc::Sender<DumpChunk>,
    took_at: Instant,
}

impl Dumps {
    /// Begins a dump, unless the copy is only half there: then the reader hears nothing but the end.
    fn begin(&mut self, replica: &mut Replica, reader: mpsc::Sender<DumpChunk>) {
        if reader.is_closed() || !replica.is_complete() {
            return;
        }
        let (head, end) = replica.snapshot();
        let begin = Some(DumpChunk::Begin(head, replica.role()));
        let scan = replica.store_mut().begin_scan();
        self.running.push(Running { scan, begin, end, reader, took_at: Instant::now() });
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
        if let Some(begin) = self.begin.take() {
            room.send(begin);
            return true;
        }
        match replica.store_mut().next_chunk(self.scan, CHUNK_BYTES) {
            Some(chunk) => {
                self.end.chunks += 1;
                room.send(DumpChunk::Records(chunk));
                true
            }
            None => {
                room.send(DumpChunk::End(self.end.clone()));
                false
            }
        }
    }
}
