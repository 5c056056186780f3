//! What goes over a connection between two copies: frames, each behind a head of its kind (1 byte)
//! and length (4 bytes, lowest first). Pure: bytes in, frames out, and the other way round.
//!
//! Either side first says [`GREETING`], which no other protocol begins with. Then come messages of
//! `replication.proto`. Sender, receiver, cluster, epoch and stream hardly ever change on one
//! connection: a message without a sender has those of the one before it.
//!
//! Checks the form alone: the reader bounds the size of a frame. What a message holds are slices of
//! its frame, which has memory of its own: a log that keeps an entry keeps no more than came with it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::convert::{Malformed, required};
use crate::ids::{ClusterId, Epoch, Member, StreamNumber};
use crate::message::{Body, Message};
use crate::pb::replication as pb;

/// What both sides say first: a byte that begins neither HTTP/2 nor anything made of text, and then
/// which protocol this is, with its level.
pub const GREETING: [u8; 8] = *b"\0kvcopy1";

const HEAD_SIZE: usize = 5;
/// The reason of a refusal is cut off after so many bytes.
const REASON_SIZE_MAX: usize = 1 << 10;
/// A frame that is longer than what has arrived of it gets room in steps of this size: nobody sets
/// aside more on a promise alone.
const GROW_BY: usize = 1 << 20;
/// Frames of less are copied out of the room that they were read into, which is used again.
const COPIED_BELOW: usize = 256 << 10;
/// Room to read into.
const READ_SIZE: usize = 64 << 10;
/// With less room than this left, new room is made.
const READ_SIZE_MIN: usize = 4 << 10;

const ALIVE: u8 = 0;
const MESSAGE: u8 = 1;
const REFUSED: u8 = 2;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A sign of life, for want of anything else to say.
    Alive,
    /// A message.
    Message(Message),
    /// Why the sender closes the connection.
    Refused(String),
}

/// Where a message comes from and belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Header {
    cluster: ClusterId,
    epoch: Epoch,
    from: Member,
    to: Member,
    stream: StreamNumber,
}

impl Header {
    fn with(self, body: Body) -> Message {
        let Header { cluster, epoch, from, to, stream } = self;
        Message { cluster, epoch, from, to, stream, body }
    }

    fn split(message: Message) -> (Header, Body) {
        let Message { cluster, epoch, from, to, stream, body } = message;
        (Header { cluster, epoch, from, to, stream }, body)
    }
}

/// Writes the frames of one direction of a connection.
#[derive(Default, Debug)]
pub struct FrameWriter {
    last: Option<Header>,
}

impl FrameWriter {
    /// Adds a message.
    pub fn message(&mut self, message: Message, out: &mut BytesMut) {
        let (header, body) = Header::split(message);
        let message = if self.last.as_ref() == Some(&header) {
            pb::Message { body: Some(body.into()), ..pb::Message::default() }
        } else {
            self.last = Some(header.clone());
            pb::Message::from(header.with(body))
        };
        let size = message.encoded_len();
        head(MESSAGE, size, out);
        out.reserve(size);
        message.encode_raw(out);
    }

    /// Adds a sign of life.
    pub fn alive(&mut self, out: &mut BytesMut) {
        head(ALIVE, 0, out);
    }

    /// Adds the reason why nothing follows.
    pub fn refused(&mut self, reason: &str, out: &mut BytesMut) {
        let mut size = reason.len().min(REASON_SIZE_MAX);
        while !reason.is_char_boundary(size) {
            size -= 1;
        }
        head(REFUSED, size, out);
        out.put_slice(&reason.as_bytes()[..size]);
    }
}

fn head(kind: u8, size: usize, out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u32_le(u32::try_from(size).expect("messages are far smaller than 4 GiB"));
}

/// Reads the frames of one direction of a connection.
#[derive(Default, Debug)]
pub struct FrameReader {
    last: Option<Header>,
    bytes: BytesMut,
}

impl FrameReader {
    /// Room at the end of what has arrived, to read into.
    pub fn room(&mut self) -> &mut BytesMut {
        let missing = self.size().unwrap_or(0).saturating_sub(self.bytes.len());
        if missing > self.bytes.capacity() - self.bytes.len() {
            self.bytes.reserve(missing.min(GROW_BY));
        } else if self.bytes.capacity() - self.bytes.len() < READ_SIZE_MIN {
            self.bytes.reserve(READ_SIZE);
        }
        &mut self.bytes
    }

    /// The next frame that is whole; one of more than `size_max` bytes is refused.
    ///
    /// # Errors
    /// When the bytes are no frame. The connection is then worth nothing.
    pub fn next(&mut self, size_max: usize) -> Result<Option<Frame>, Malformed> {
        let Some(end) = self.size() else {
            return Ok(None);
        };
        if end - HEAD_SIZE > size_max {
            return Err(Malformed { what: "a frame is longer than allowed here" });
        }
        if self.bytes.len() < end {
            return Ok(None);
        }
        let kind = self.bytes[0];
        let frame = if end < COPIED_BELOW {
            let frame = Bytes::copy_from_slice(&self.bytes[HEAD_SIZE..end]);
            self.bytes.advance(end);
            frame
        } else {
            self.bytes.split_to(end).freeze().slice(HEAD_SIZE..)
        };
        Ok(Some(match kind {
            ALIVE => Frame::Alive,
            MESSAGE => Frame::Message(self.message(frame)?),
            REFUSED => Frame::Refused(String::from_utf8_lossy(&frame).into_owned()),
            _ => return Err(Malformed { what: "a frame is of no known kind" }),
        }))
    }

    fn message(&mut self, frame: Bytes) -> Result<Message, Malformed> {
        let message = pb::Message::decode(frame)
            .map_err(|_| Malformed { what: "a frame holds no message" })?;
        if message.from.is_none()
            && let Some(header) = &self.last
        {
            let body = required(message.body, "a message is of no known kind")?;
            return Ok(header.clone().with(body.try_into()?));
        }
        let (header, body) = Header::split(Message::try_from(message)?);
        self.last = Some(header.clone());
        Ok(header.with(body))
    }

    /// Bytes of the frame that begins here, its head included, once that is known.
    fn size(&self) -> Option<usize> {
        let (head, _) = self.bytes.split_first_chunk::<HEAD_SIZE>()?;
        let [_, size @ ..] = *head;
        Some(HEAD_SIZE + u32::from_le_bytes(size) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, Incarnation, OpNumber, Revision, ServerName, ViewNumber};
    use crate::message::Opened;

    fn member(name: &str) -> Member {
        Member { name: ServerName::from(name), incarnation: Incarnation(3) }
    }

    fn message(view: u64, body: Body) -> Message {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
        Message {
            cluster: ClusterId([7; 16]),
            epoch,
            from: member("localhost:1"),
            to: member("localhost:2"),
            stream: StreamNumber(4),
            body,
        }
    }

    fn chunk(number: u64, size: usize) -> Body {
        Body::TransferChunk { number, records: vec![7; size].into() }
    }

    fn opened(last: u64) -> Body {
        let (last, committed) = (OpNumber(last), OpNumber(1));
        let (epochs, complete, recorded) = (Vec::new(), true, Revision(3));
        Body::Opened(Opened { epochs, last, committed, complete, recorded })
    }

    /// Frames of every kind, with headers that stay, change and come back.
    fn frames() -> Vec<Frame> {
        vec![
            Frame::Message(message(1, Body::Open)),
            Frame::Message(message(1, opened(9))),
            Frame::Alive,
            Frame::Message(message(2, opened(10))),
            Frame::Message(message(2, chunk(1, 5000))),
            Frame::Message(message(1, chunk(2, 0))),
            Frame::Message(message(1, Body::Released)),
            Frame::Refused("no".into()),
        ]
    }

    fn written(frames: &[Frame]) -> BytesMut {
        let (mut writer, mut out) = (FrameWriter::default(), BytesMut::new());
        for frame in frames {
            match frame {
                Frame::Alive => writer.alive(&mut out),
                Frame::Message(message) => writer.message(message.clone(), &mut out),
                Frame::Refused(reason) => writer.refused(reason, &mut out),
            }
        }
        out
    }

    #[test]
    fn frames_are_read_as_they_were_written_however_they_arrive() {
        let bytes = written(&frames());
        for step in [1, 2, 3, 7, 100, 4096, bytes.len()] {
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(step) {
                reader.room().extend_from_slice(piece);
                while let Some(frame) = reader.next(1 << 20).expect("well formed") {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames(), "in steps of {step}");
        }
    }

    #[test]
    fn a_message_like_the_one_before_carries_its_body_alone() {
        let first = written(&frames()[..1]).len();
        let both = written(&[frames()[0].clone(), frames()[0].clone()]).len();
        assert!(both - first < 12, "{}", both - first);
    }

    #[test]
    fn a_message_without_a_sender_needs_one_before_it() {
        let first = written(&frames()[..1]).len();
        let mut reader = FrameReader::default();
        reader.room().extend_from_slice(&written(&frames()[..2])[first..]);
        assert!(reader.next(1 << 20).is_err());
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_head() {
        let long = written(&[Frame::Message(message(1, chunk(1, 5000)))]);
        let mut reader = FrameReader::default();
        reader.room().extend_from_slice(&long[..HEAD_SIZE]);
        assert!(reader.next(4096).is_err());
        let mut reader = FrameReader::default();
        reader.room().extend_from_slice(&[MESSAGE, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.next(usize::MAX), Ok(None));
        assert!(reader.room().capacity() <= 4 * GROW_BY, "room on a promise alone");
    }

    #[test]
    fn no_change_of_a_byte_makes_it_panic() {
        let bytes = written(&frames());
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let mut reader = FrameReader::default();
                reader.room().extend_from_slice(&changed);
                while let Ok(Some(_)) = reader.next(1 << 20) {}
            }
        }
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let mut out = BytesMut::new();
        FrameWriter::default().refused(&"\u{e4}".repeat(REASON_SIZE_MAX), &mut out);
        let mut reader = FrameReader::default();
        reader.room().extend_from_slice(&out);
        let reason = Frame::Refused("\u{e4}".repeat(REASON_SIZE_MAX / 2));
        assert_eq!(reader.next(REASON_SIZE_MAX), Ok(Some(reason)));
    }
}
