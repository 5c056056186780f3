//! Takes a snapshot apart, whatever the pieces in which it comes. Pure.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use crc32c::crc32c_append;

use super::{
    BLOCK, BLOCK_SIZE_MAX, END, END_SIZE, EPOCH_SIZE, EPOCHS_MAX, FORMAT_LEVEL, FRAME_SIZE,
    HEAD_SIZE, Item, MAGIC, Malformed, SnapshotEnd, SnapshotHead,
};
use crate::ids::{
    ClusterId, Epoch, EpochStart, Generation, History, OpNumber, Position, ViewNumber,
};
use crate::message::Digest;
use crate::time::LogTime;

/// Takes pieces of a file in, and gives items out. It holds what was pushed and not yet given out:
/// who asks for [`next`](Self::next) until there is none, before the next push, has it hold one block
/// and one piece at most. A block that lies in one piece is a slice of it.
#[derive(Debug)]
pub struct Reader {
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// Where what is held begins, and where the part that is being read begins.
    offset: u64,
    part_at: u64,
    checksum: u32,
    keys: u64,
    blocks: u64,
    wants: Wants,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wants {
    Head,
    Frame,
    Payload {
        kind: u32,
        length: usize,
        checksum: u32,
    },
    /// Nothing may.
    Nothing,
    /// It was refused before, and stays so.
    Refused(Malformed),
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

impl Reader {
    /// A reader at the beginning of a file.
    #[must_use]
    pub fn new() -> Reader {
        Reader {
            held: VecDeque::new(),
            held_bytes: 0,
            offset: 0,
            part_at: 0,
            checksum: 0,
            keys: 0,
            blocks: 0,
            wants: Wants::Head,
        }
    }

    /// Takes the next piece of the file.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.held_bytes += piece.len();
            self.held.push_back(piece);
        }
    }

    /// The next item; `None` until more is pushed.
    ///
    /// # Errors
    /// If the file is no snapshot of a known format, or not as it was written. It stays so.
    #[expect(clippy::should_implement_trait, reason = "more may come after it gave nothing")]
    pub fn next(&mut self) -> Result<Option<Item>, Malformed> {
        let item = self.read();
        if let Err(error) = item {
            self.wants = Wants::Refused(error);
        }
        item
    }

    /// To be called when everything was pushed and read: is it all there?
    ///
    /// # Errors
    /// If the end is missing, or it was refused before.
    pub fn finish(&self) -> Result<(), Malformed> {
        match self.wants {
            Wants::Nothing if self.held_bytes == 0 => Ok(()),
            Wants::Nothing => self.damaged("something follows the end"),
            Wants::Refused(error) => Err(error),
            _ => Err(Malformed::Incomplete { bytes: self.offset + self.held_bytes as u64 }),
        }
    }

    fn read(&mut self) -> Result<Option<Item>, Malformed> {
        loop {
            match self.wants {
                Wants::Head => {
                    self.refuse_strangers()?;
                    let Some(bytes) = self.take(HEAD_SIZE) else {
                        return Ok(None);
                    };
                    return self.head(bytes).map(Some);
                }
                Wants::Frame => {
                    self.part_at = self.offset;
                    let Some(bytes) = self.take(FRAME_SIZE) else {
                        return Ok(None);
                    };
                    self.wants = self.frame(bytes)?;
                }
                Wants::Payload { kind, length, checksum } => {
                    let Some(payload) = self.take(length) else {
                        return Ok(None);
                    };
                    self.checksum = crc32c_append(self.checksum, &payload);
                    if self.checksum != checksum {
                        return self.damaged("its checksum differs");
                    }
                    self.wants = if kind == END { Wants::Nothing } else { Wants::Frame };
                    if kind == END {
                        return self.end(payload).map(Some);
                    }
                    self.blocks += 1;
                    return Ok(Some(Item::Block(payload)));
                }
                Wants::Nothing if self.held_bytes == 0 => return Ok(None),
                Wants::Nothing => return self.damaged("something follows the end"),
                Wants::Refused(error) => return Err(error),
            }
        }
    }

    /// Another file is told by its first bytes, even one that is shorter than a head.
    fn refuse_strangers(&self) -> Result<(), Malformed> {
        let held = self.held.iter().flatten();
        if held.zip(&MAGIC).any(|(byte, expected)| byte != expected) {
            return Err(Malformed::NotASnapshot);
        }
        Ok(())
    }

    fn head(&mut self, mut bytes: Bytes) -> Result<Item, Malformed> {
        self.checksum = crc32c_append(0, &bytes[..HEAD_SIZE - 4]);
        bytes.advance(MAGIC.len());
        // First, since another level may have a head of another kind.
        let level = bytes.get_u32_le();
        if level > FORMAT_LEVEL {
            return Err(Malformed::Newer { level });
        }
        let mut cluster = ClusterId::default();
        bytes.copy_to_slice(&mut cluster.0);
        let head = SnapshotHead { cluster, at: position(&mut bytes), keys: bytes.get_u64_le() };
        if bytes.get_u32_le() != self.checksum || level == 0 {
            return self.damaged("the checksum of its head differs");
        }
        self.keys = head.keys;
        self.wants = Wants::Frame;
        Ok(Item::Head(head))
    }

    fn frame(&mut self, mut bytes: Bytes) -> Result<Wants, Malformed> {
        self.checksum = crc32c_append(self.checksum, &bytes[..FRAME_SIZE - 4]);
        let kind = bytes.get_u32_le();
        let length = bytes.get_u32_le() as usize;
        let checksum = bytes.get_u32_le();
        let length_max = match kind {
            BLOCK => BLOCK_SIZE_MAX,
            END => END_SIZE + EPOCHS_MAX * EPOCH_SIZE,
            _ => return self.damaged("it is neither a block nor the end"),
        };
        if length > length_max {
            return self.damaged("it is longer than any is");
        }
        Ok(Wants::Payload { kind, length, checksum })
    }

    fn end(&mut self, mut bytes: Bytes) -> Result<Item, Malformed> {
        let epochs = bytes.len().checked_sub(END_SIZE).map(|rest| rest / EPOCH_SIZE);
        let fits = |count| END_SIZE + count * EPOCH_SIZE == bytes.len();
        let Some(epochs) = epochs.filter(|count| fits(*count)) else {
            return self.damaged("an end is never so long");
        };
        let (chunks, keys) = (bytes.get_u64_le(), bytes.get_u64_le());
        let log_time = LogTime::from_millis(bytes.get_u64_le());
        let digest = Digest(bytes.get_u128_le());
        if bytes.get_u32_le() as usize != epochs || chunks != self.blocks || keys != self.keys {
            return self.damaged("its counts differ");
        }
        let epochs = (0..epochs).map(|_| epoch_start(&mut bytes)).collect();
        Ok(Item::End(SnapshotEnd { epochs, log_time, digest, chunks }))
    }

    fn damaged<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed::Damaged { at: self.part_at, what })
    }

    /// The next bytes, once they are all there.
    fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.held_bytes < length {
            return None;
        }
        self.held_bytes -= length;
        self.offset += length as u64;
        let Some(first) = self.held.front_mut() else {
            return Some(Bytes::new());
        };
        if first.len() >= length {
            let taken = first.split_to(length);
            if first.is_empty() {
                self.held.pop_front();
            }
            return Some(taken);
        }
        let mut taken = BytesMut::with_capacity(length);
        while taken.len() < length {
            let first = self.held.front_mut().expect("so many bytes are held");
            taken.extend_from_slice(&first.split_to(first.len().min(length - taken.len())));
            if first.is_empty() {
                self.held.pop_front();
            }
        }
        Some(taken.freeze())
    }
}

fn epoch_start(bytes: &mut Bytes) -> EpochStart {
    let at = position(bytes);
    let mut history = History::default();
    bytes.copy_to_slice(&mut history.0);
    EpochStart::at(at, history)
}

fn position(bytes: &mut Bytes) -> Position {
    let epoch = Epoch {
        generation: Generation(bytes.get_u64_le()),
        primary_since: ViewNumber(bytes.get_u64_le()),
    };
    Position { epoch, op: OpNumber(bytes.get_u64_le()) }
}
