//! The answers to `Dump`, a message for each pair and the summary, and to `Snapshot`, the same copy as
//! a file. Shell.
//!
//! Each message is made when the connection asks for it, so that a slow reader holds no more than the
//! chunk that it is reading and the one behind it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
use kvproto::convert::{StateRecord, records};
use kvproto::pb::kvserver as pb;
use kvproto::pb::kvserver::dump_response::Body;
use kvproto::snapshot::{SnapshotHead, Writer};
use kvproto::{Record, Role};
use tokio_stream::Stream;
use tonic::Status;

use crate::node::{Dump, DumpChunk, GIVEN_UP};

/// The messages of a dump.
pub(super) struct Dumped {
    /// The rest of the chunk that is being read.
    pairs: vec::IntoIter<(Bytes, Record)>,
    /// What comes after it. It keeps its place until the whole is dropped, also after its end.
    dump: Dump,
    of: Option<(SnapshotHead, Role)>,
    ended: bool,
}

impl Dumped {
    pub(super) fn new(dump: Dump) -> Dumped {
        Dumped { pairs: Vec::new().into_iter(), dump, of: None, ended: false }
    }
}

impl Stream for Dumped {
    type Item = Result<pb::DumpResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some((key, record)) = self.pairs.next() {
                let record = pb::DumpedRecord { key, record: Some(record.into()) };
                let body = Some(Body::Record(record));
                return Poll::Ready(Some(Ok(pb::DumpResponse { body })));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match (ready!(self.dump.poll_next(cx)), self.of) {
                (Some(DumpChunk::Begin(head, role)), _) => self.of = Some((head, role)),
                (Some(DumpChunk::Records(chunk)), _) => self.pairs = pairs(&chunk).into_iter(),
                (Some(DumpChunk::End(end)), Some((head, role))) => {
                    self.ended = true;
                    let body = Some(Body::Summary(pb::DumpSummary {
                        count: head.keys,
                        digest: end.digest.into(),
                        op_number: head.at.op.0,
                        role: role.to_string(),
                    }));
                    return Poll::Ready(Some(Ok(pb::DumpResponse { body })));
                }
                (Some(DumpChunk::End(_)), None) | (None, _) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(Status::unavailable(GIVEN_UP))));
                }
            }
        }
    }
}

/// The keys of a chunk; keys and values share its memory.
fn pairs(chunk: &Bytes) -> Vec<(Bytes, Record)> {
    let pair = |record| match record {
        StateRecord::Key { key, value, version } => {
            Some((chunk.slice_ref(key), Record { value: chunk.slice_ref(value), version }))
        }
        StateRecord::Session(_) => None,
    };
    records(chunk)
        .filter_map(|record| pair(record.expect("a scan writes what can be read")))
        .collect()
}

/// The pieces of a snapshot file.
pub(super) struct Snapshot {
    /// The chunk that was announced last.
    chunk: Option<Bytes>,
    writer: Option<Writer>,
    /// As in [`Dumped`].
    dump: Dump,
    ended: bool,
}

impl Snapshot {
    pub(super) fn new(dump: Dump) -> Snapshot {
        Snapshot { chunk: None, writer: None, dump, ended: false }
    }
}

impl Stream for Snapshot {
    type Item = Result<pb::SnapshotResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = if let Some(chunk) = self.chunk.take() {
            chunk
        } else if self.ended {
            return Poll::Ready(None);
        } else {
            match (ready!(self.dump.poll_next(cx)), self.writer.take()) {
                (Some(DumpChunk::Begin(head, _)), _) => {
                    let (writer, piece) = Writer::new(&head);
                    self.writer = Some(writer);
                    piece
                }
                (Some(DumpChunk::Records(chunk)), Some(mut writer)) => {
                    let piece = writer.block(&chunk);
                    (self.writer, self.chunk) = (Some(writer), Some(chunk));
                    piece
                }
                (Some(DumpChunk::End(end)), Some(writer)) => {
                    self.ended = true;
                    writer.end(&end)
                }
                (Some(_), None) | (None, _) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(Status::unavailable(GIVEN_UP))));
                }
            }
        };
        Poll::Ready(Some(Ok(pb::SnapshotResponse { piece })))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use kvproto::Version;
    use kvproto::convert::RecordsWriter;
    use tokio::sync::mpsc::error::TrySendError;

    use super::*;

    fn chunk(key: u8) -> DumpChunk {
        let mut chunk = RecordsWriter::new(1 << 10);
        assert!(chunk.key(&[key, 0], b"v", Version(1)) && chunk.key(&[key, 1], b"v", Version(1)));
        DumpChunk::Records(chunk.finish().expect("two records"))
    }

    /// Hundreds of messages waited for a slow reader, each of them up to a whole value.
    #[tokio::test]
    async fn a_reader_of_a_dump_holds_the_chunk_it_reads_and_the_next() {
        let place = std::sync::Arc::new(tokio::sync::Semaphore::new(1)).acquire_owned().await;
        let (node, dump) = Dump::new(place.ok());
        let mut dumped = Dumped::new(dump);
        let mut key = 0;
        for _ in 0..3 {
            // As the node does: a chunk whenever there is room.
            let mut taken = 0;
            while node.try_send(chunk(key)).is_ok() {
                (key, taken) = (key + 1, taken + 1);
            }
            assert!(taken <= 1, "{taken} chunks at once");
            assert!(matches!(node.try_send(chunk(key)), Err(TrySendError::Full(_))));
            // Both messages of a chunk.
            for _ in 0..2 {
                poll_fn(|cx| Pin::new(&mut dumped).poll_next(cx)).await.unwrap().unwrap();
            }
        }
    }
}
