//! What goes over a connection between two copies: frames, each behind a head of its kind (1 byte)
//! and length (4 bytes, lowest first). Pure: bytes in, frames out, and the other way round.
//!
//! Either side first says [`GREETING`], which no other protocol begins with. Then come messages of
//! `replication.proto`. Sender, receiver, cluster, epoch and stream hardly ever change on one
//! connection: a message without a sender has those of the one before it of its kind.
//!
//! Messages keep their order, and a long one goes in pieces, whose bytes the other side confirms as
//! they arrive. A message that is written *beside* them goes between two pieces: it overtakes, and its
//! bytes are not counted.
//!
//! Checks the form alone: the reader bounds the size of a message. What a message holds are slices of
//! memory of its own: a log that keeps an entry keeps no more than came with it.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::convert::{Malformed, required};
use crate::ids::{ClusterId, Epoch, Member, StreamNumber};
use crate::message::{Body, Message};
use crate::pb::replication as pb;

/// What both sides say first: a byte that begins neither HTTP/2 nor anything made of text, and then
/// which protocol this is, with its level.
pub const GREETING: [u8; 8] = *b"\0kvcopy1";

/// A piece holds so much of a message; no frame is longer. At 8 Mbit/s one takes 16 ms.
pub const PIECE_SIZE: usize = 16 << 10;

const HEAD_SIZE: usize = 5;
/// The reason of a refusal is cut off after so many bytes.
const REASON_SIZE_MAX: usize = 1 << 10;
/// Room to read into.
const READ_SIZE: usize = 64 << 10;
/// With less room than this left, new room is made.
const READ_SIZE_MIN: usize = 4 << 10;
/// A buffer that has grown beyond this size, for a large message, is given back.
const BUFFER_KEPT_MAX: usize = 1 << 20;

const ALIVE: u8 = 0;
/// A message, or what is left of it after its pieces.
const MESSAGE: u8 = 1;
const REFUSED: u8 = 2;
/// A piece of a message of which more follows.
const PIECE: u8 = 3;
/// A whole message, which may come between two pieces of another.
const BESIDE: u8 = 4;
const CONFIRMED: u8 = 5;

/// One frame, or all frames of one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A sign of life, for want of anything else to say.
    Alive,
    /// A message.
    Message(Message),
    /// Why the sender closes the connection.
    Refused(String),
    /// So many bytes of messages in order have arrived since the connection began.
    Confirmed(u64),
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

    /// The message as it is written after one with the header `last`, which becomes this one's.
    fn brief(last: &mut Option<Header>, message: Message) -> pb::Message {
        let (header, body) = Header::split(message);
        if last.as_ref() == Some(&header) {
            return pb::Message { body: Some(body.into()), ..pb::Message::default() };
        }
        *last = Some(header.clone());
        header.with(body).into()
    }

    /// The other way round.
    fn complete(last: &mut Option<Header>, frame: Bytes) -> Result<Message, Malformed> {
        let message = pb::Message::decode(frame)
            .map_err(|_| Malformed { what: "a frame holds no message" })?;
        if message.from.is_none()
            && let Some(header) = last
        {
            let body = required(message.body, "a message is of no known kind")?;
            return Ok(header.clone().with(body.try_into()?));
        }
        let (header, body) = Header::split(Message::try_from(message)?);
        *last = Some(header.clone());
        Ok(header.with(body))
    }
}

/// Writes the frames of one direction of a connection.
#[derive(Default, Debug)]
pub struct FrameWriter {
    last: Option<Header>,
    last_beside: Option<Header>,
    /// Messages in order that are not on their way, and how much is left of each.
    waiting: BytesMut,
    left: VecDeque<usize>,
}

impl FrameWriter {
    /// Queues a message, to be taken after those before it.
    pub fn message(&mut self, message: Message) {
        let message = Header::brief(&mut self.last, message);
        let size = message.encoded_len();
        self.left.push_back(size);
        self.waiting.reserve(size);
        message.encode_raw(&mut self.waiting);
    }

    /// How many messages are queued, the rest of one included.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.left.len()
    }

    /// The size of the next frame of what is queued.
    #[must_use]
    pub fn next_size(&self) -> Option<usize> {
        self.left.front().map(|left| HEAD_SIZE + (*left).min(PIECE_SIZE))
    }

    /// Adds frames of what is queued as long as they take no more than `room`. Returns what they take.
    pub fn take(&mut self, room: usize, out: &mut BytesMut) -> usize {
        let mut taken = 0;
        while let Some(size) = self.next_size().filter(|size| taken + size <= room)
            && let Some(left) = self.left.front_mut()
        {
            let piece = size - HEAD_SIZE;
            *left -= piece;
            let whole = *left == 0;
            head(if whole { MESSAGE } else { PIECE }, piece, out);
            out.extend_from_slice(&self.waiting[..piece]);
            self.waiting.advance(piece);
            if whole {
                self.left.pop_front();
            }
            taken += size;
        }
        if self.waiting.is_empty() && self.waiting.capacity() > BUFFER_KEPT_MAX {
            self.waiting = BytesMut::new();
        }
        taken
    }

    /// Adds a short message that overtakes what is queued.
    ///
    /// # Panics
    /// If it is longer than a piece.
    pub fn beside(&mut self, message: Message, out: &mut BytesMut) {
        let message = Header::brief(&mut self.last_beside, message);
        let size = message.encoded_len();
        assert!(size <= PIECE_SIZE, "what overtakes is short");
        head(BESIDE, size, out);
        out.reserve(size);
        message.encode_raw(out);
    }

    /// Adds a sign of life.
    pub fn alive(&mut self, out: &mut BytesMut) {
        head(ALIVE, 0, out);
    }

    /// Adds how much has arrived, by [`FrameReader::received`].
    pub fn confirmed(&mut self, received: u64, out: &mut BytesMut) {
        head(CONFIRMED, size_of::<u64>(), out);
        out.put_u64_le(received);
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
    out.put_u32_le(u32::try_from(size).expect("a frame is no longer than a piece"));
}

/// Reads the frames of one direction of a connection.
#[derive(Default, Debug)]
pub struct FrameReader {
    last: Option<Header>,
    last_beside: Option<Header>,
    bytes: BytesMut,
    /// The pieces of a message whose end has not come yet.
    pieces: BytesMut,
    received: u64,
}

impl FrameReader {
    /// Room at the end of what has arrived, to read into.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() - self.bytes.len() < READ_SIZE_MIN {
            self.bytes.reserve(READ_SIZE);
        }
        &mut self.bytes
    }

    /// Bytes of messages in order that have arrived, pieces included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next frame that is whole; a message of more than `size_max` bytes is refused.
    ///
    /// # Errors
    /// When the bytes are no frame. The connection is then worth nothing.
    pub fn next(&mut self, size_max: usize) -> Result<Option<Frame>, Malformed> {
        loop {
            let Some((head, _)) = self.bytes.split_first_chunk::<HEAD_SIZE>() else {
                return Ok(None);
            };
            let [kind, size @ ..] = *head;
            let size = u32::from_le_bytes(size) as usize;
            let before = if matches!(kind, MESSAGE | PIECE) { self.pieces.len() } else { 0 };
            if size > PIECE_SIZE || before + size > size_max {
                return Err(Malformed { what: "a frame is longer than allowed here" });
            }
            let Some(frame) = self.bytes.get(HEAD_SIZE..HEAD_SIZE + size) else {
                return Ok(None);
            };
            let frame = match kind {
                PIECE => {
                    self.pieces.extend_from_slice(frame);
                    None
                }
                MESSAGE if before > 0 => {
                    self.pieces.extend_from_slice(frame);
                    Some(own(std::mem::take(&mut self.pieces)))
                }
                _ => Some(Bytes::copy_from_slice(frame)),
            };
            self.bytes.advance(HEAD_SIZE + size);
            if matches!(kind, MESSAGE | PIECE) {
                self.received += (HEAD_SIZE + size) as u64;
            }
            let Some(frame) = frame else { continue };
            return Ok(Some(match kind {
                ALIVE => Frame::Alive,
                MESSAGE => Frame::Message(Header::complete(&mut self.last, frame)?),
                BESIDE => Frame::Message(Header::complete(&mut self.last_beside, frame)?),
                REFUSED => Frame::Refused(String::from_utf8_lossy(&frame).into_owned()),
                CONFIRMED => {
                    let received = frame.as_ref().try_into().map(u64::from_le_bytes);
                    let what = "a confirmation is no number";
                    Frame::Confirmed(received.map_err(|_| Malformed { what })?)
                }
                _ => return Err(Malformed { what: "a frame is of no known kind" }),
            }));
        }
    }
}

/// What was put together piece by piece, without room that it no longer needs.
fn own(pieces: BytesMut) -> Bytes {
    let wasted = pieces.capacity() - pieces.len();
    if wasted > pieces.len() / 8 { Bytes::copy_from_slice(&pieces) } else { pieces.freeze() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{
        Generation, History, Incarnation, OpNumber, Revision, ServerName, ViewNumber,
    };
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
            Frame::Message(message(1, Body::Open { began: History::default() })),
            Frame::Message(message(1, opened(9))),
            Frame::Alive,
            Frame::Message(message(2, opened(10))),
            Frame::Message(message(2, chunk(1, 5000))),
            Frame::Confirmed(7 << 40),
            Frame::Message(message(2, chunk(2, 3 * PIECE_SIZE))),
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
                Frame::Message(message) => {
                    writer.message(message.clone());
                    writer.take(usize::MAX, &mut out);
                }
                Frame::Refused(reason) => writer.refused(reason, &mut out),
                Frame::Confirmed(received) => writer.confirmed(*received, &mut out),
            }
        }
        out
    }

    fn read(bytes: &[u8]) -> Vec<Frame> {
        let (mut reader, mut read) = (FrameReader::default(), Vec::new());
        reader.room().extend_from_slice(bytes);
        while let Some(frame) = reader.next(1 << 30).expect("well formed") {
            read.push(frame);
        }
        read
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
        let alike = || Frame::Message(message(1, chunk(1, 1)));
        let (first, both) = (written(&[alike()]).len(), written(&[alike(), alike()]).len());
        assert!(both - first < 20, "{}", both - first);
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
        assert!(reader.next(usize::MAX).is_err());
        assert!(reader.room().capacity() <= 2 * READ_SIZE, "room on a promise alone");
    }

    #[test]
    fn a_message_in_pieces_is_refused_by_the_piece_that_makes_it_too_long() {
        let long = written(&[Frame::Message(message(1, chunk(1, 3 * PIECE_SIZE)))]);
        let mut reader = FrameReader::default();
        reader.room().extend_from_slice(&long[..2 * (HEAD_SIZE + PIECE_SIZE)]);
        assert_eq!(reader.next(2 * PIECE_SIZE), Ok(None));
        reader.room().extend_from_slice(&long[2 * (HEAD_SIZE + PIECE_SIZE)..]);
        assert!(reader.next(2 * PIECE_SIZE).is_err());
    }

    #[test]
    fn a_short_message_passes_between_the_pieces_of_a_long_one() {
        let (mut writer, mut out) = (FrameWriter::default(), BytesMut::new());
        let (long, short, third) = (chunk(1, 8 << 20), opened(9), opened(10));
        writer.message(message(1, long.clone()));
        writer.message(message(1, third.clone()));
        let taken = writer.take(100_000, &mut out);
        assert_eq!((taken, taken), (out.len(), 6 * (HEAD_SIZE + PIECE_SIZE)));
        writer.beside(message(1, short.clone()), &mut out);
        writer.take(usize::MAX, &mut out);
        let order = [short, long, third].map(|body| Frame::Message(message(1, body)));
        assert_eq!(read(&out), order);
    }

    #[test]
    fn what_is_confirmed_is_what_was_taken() {
        let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
        let mut sent = 0;
        for size in [0, 10, PIECE_SIZE, 5 * PIECE_SIZE + 1] {
            let mut out = BytesMut::new();
            writer.message(message(1, chunk(1, size)));
            sent += writer.take(usize::MAX, &mut out);
            writer.alive(&mut out);
            writer.beside(message(1, opened(1)), &mut out);
            reader.room().extend_from_slice(&out);
            while reader.next(1 << 20).expect("well formed").is_some() {}
            assert_eq!(reader.received(), sent as u64);
        }
        assert_eq!(writer.queued(), 0);
    }

    #[test]
    fn a_message_keeps_no_more_memory_than_it_fills() {
        let pieces = BytesMut::with_capacity(1 << 20);
        assert!(own(pieces).is_empty());
        let mut pieces = BytesMut::with_capacity(1 << 20);
        pieces.extend_from_slice(&[7; 1000]);
        let kept = own(pieces).try_into_mut().expect("nobody else has it");
        assert!(kept.capacity() < 2000, "{}", kept.capacity());
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
