//! What stands between the chunks of a snapshot. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use crc32c::crc32c_append;

use super::{
    BLOCK, END, END_SIZE, EPOCH_SIZE, FORMAT_LEVEL, FRAME_SIZE, HEAD_SIZE, MAGIC, SnapshotEnd,
    SnapshotHead,
};
use crate::ids::{EpochStart, Position};

/// Makes of chunks a snapshot. What its methods return is to be written at once, and each chunk
/// after what announces it; chunks themselves are not copied.
#[derive(Clone, Debug)]
pub struct Writer {
    keys: u64,
    checksum: u32,
}

impl Writer {
    /// Begins a snapshot.
    #[must_use]
    pub fn new(head: &SnapshotHead) -> (Writer, Bytes) {
        let mut bytes = BytesMut::with_capacity(HEAD_SIZE);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(FORMAT_LEVEL);
        bytes.put_slice(&head.cluster.0);
        put_position(&mut bytes, head.at);
        bytes.put_u64_le(head.keys);
        let checksum = crc32c_append(0, &bytes);
        bytes.put_u32_le(checksum);
        (Writer { keys: head.keys, checksum }, bytes.freeze())
    }

    /// What announces this chunk.
    pub fn block(&mut self, chunk: &[u8]) -> Bytes {
        self.frame(BLOCK, chunk).freeze()
    }

    /// Ends the snapshot.
    #[must_use]
    pub fn end(mut self, end: &SnapshotEnd) -> Bytes {
        let mut payload = BytesMut::with_capacity(END_SIZE + end.epochs.len() * EPOCH_SIZE);
        payload.put_u64_le(end.chunks);
        payload.put_u64_le(self.keys);
        payload.put_u64_le(end.log_time.millis);
        payload.put_u128_le(end.digest.0);
        payload.put_u32_le(u32::try_from(end.epochs.len()).expect("epochs fit into memory"));
        for EpochStart { epoch, op, history } in &end.epochs {
            put_position(&mut payload, Position { epoch: *epoch, op: *op });
            payload.put_slice(&history.0);
        }
        let mut bytes = self.frame(END, &payload);
        bytes.unsplit(payload);
        bytes.freeze()
    }

    fn frame(&mut self, kind: u32, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(FRAME_SIZE);
        bytes.put_u32_le(kind);
        bytes.put_u32_le(u32::try_from(payload.len()).expect("a chunk is far smaller than 4 GiB"));
        self.checksum = crc32c_append(crc32c_append(self.checksum, &bytes), payload);
        bytes.put_u32_le(self.checksum);
        bytes
    }
}

fn put_position(bytes: &mut BytesMut, position: Position) {
    bytes.put_u64_le(position.epoch.generation.0);
    bytes.put_u64_le(position.epoch.primary_since.0);
    bytes.put_u64_le(position.op.0);
}
