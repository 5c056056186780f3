//! The answer to `Dump`: a message for each pair, and the summary. Shell.
//!
//! Each message is made when the connection asks for it, so that a slow reader holds no more than the
//! chunk that it is reading and the one behind it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use bytes::Bytes;
use kvproto::Record;
use kvproto::pb::kvserver as pb;
use kvproto::pb::kvserver::dump_response::Body;
use tokio_stream::Stream;
use tonic::Status;

use crate::node::{Dump, DumpChunk};

/// The messages of a dump.
pub(super) struct Dumped {
    /// The rest of the chunk that is being read.
    pairs: vec::IntoIter<(Bytes, Record)>,
    /// What comes after it. It keeps its place until the whole is dropped, also after its end.
    dump: Dump,
    ended: bool,
}

impl Dumped {
    pub(super) fn new(dump: Dump) -> Dumped {
        Dumped { pairs: Vec::new().into_iter(), dump, ended: false }
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
            match ready!(self.dump.poll_next(cx)) {
                Some(DumpChunk::Records(pairs)) => self.pairs = pairs.into_iter(),
                Some(DumpChunk::Summary(summary)) => {
                    self.ended = true;
                    let body = Some(Body::Summary(pb::DumpSummary {
                        count: summary.count,
                        digest: summary.digest.into(),
                        op_number: summary.op.0,
                        role: summary.role.to_string(),
                    }));
                    return Poll::Ready(Some(Ok(pb::DumpResponse { body })));
                }
                None => {
                    self.ended = true;
                    let given_up = "the dump was given up: a state transfer is replacing this copy, \
                                    too many dumps are under way, or this one was read too slowly; \
                                    try again";
                    return Poll::Ready(Some(Err(Status::unavailable(given_up))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use kvproto::Version;
    use tokio::sync::mpsc::error::TrySendError;

    use super::*;

    fn chunk(key: u8) -> DumpChunk {
        let record = Record { value: Bytes::from_static(b"v"), version: Version(1) };
        DumpChunk::Records(
            vec![([key, 0], record.clone()), ([key, 1], record)]
                .into_iter()
                .map(|(key, record)| (Bytes::copy_from_slice(&key), record))
                .collect(),
        )
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
