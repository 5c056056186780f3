//! Holds the contents of a snapshot against what its head and its end say of them. Pure.

use bytes::Bytes;

use super::{Item, Malformed, Reader, SnapshotEnd, SnapshotHead};
use crate::convert::{StateRecord, records};
use crate::digest::{self, Rolling};
use crate::ids::{EpochStart, OpNumber, Position, SessionId};
use crate::message::SessionRecord;

/// Takes the pieces of a whole file, for those who only want to know whether it is sound.
#[derive(Default, Debug)]
pub struct Verifier {
    reader: Reader,
    check: Check,
    head: Option<SnapshotHead>,
    end: Option<SnapshotEnd>,
    bytes: u64,
}

/// What a sound file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// How it begins.
    pub head: SnapshotHead,
    /// How it ends.
    pub end: SnapshotEnd,
    /// How much is in between.
    pub counts: Counts,
    /// The size of the file.
    pub bytes: u64,
}

impl Verifier {
    /// Takes the next piece.
    ///
    /// # Errors
    /// If the file is not sound.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Malformed> {
        self.bytes += piece.len() as u64;
        self.reader.push(piece);
        while let Some(item) = self.reader.next()? {
            self.check.take(&item)?;
            match item {
                Item::Head(head) => self.head = Some(head),
                Item::Block(_) => {}
                Item::End(end) => self.end = Some(end),
            }
        }
        Ok(())
    }

    /// How it begins, once that was read.
    #[must_use]
    pub fn head(&self) -> Option<&SnapshotHead> {
        self.head.as_ref()
    }

    /// How much was read.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.check.counts()
    }

    /// To be called after the last piece.
    ///
    /// # Errors
    /// If there should be more.
    pub fn finish(self) -> Result<Verified, Malformed> {
        self.reader.finish()?;
        match (self.head, self.end) {
            (Some(head), Some(end)) => {
                Ok(Verified { head, end, counts: self.check.counts(), bytes: self.bytes })
            }
            _ => Err(Malformed::Incomplete { bytes: self.bytes }),
        }
    }
}

/// Takes the items of one snapshot in order. A snapshot is sound once its end was taken: then its
/// records are in order, as many as they should be, and have the digest of the state that they were
/// read from.
#[derive(Default, Debug)]
pub struct Check {
    at: Position,
    keys_expected: u64,
    counts: Counts,
    rolling: Rolling,
    last_session: Option<SessionId>,
    last_key: Vec<u8>,
    contents: Vec<u8>,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Keys.
    pub keys: u64,
    /// Sessions.
    pub sessions: u64,
    /// Answers that sessions remember.
    pub answers: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Check {
    /// Takes the next item.
    ///
    /// # Errors
    /// If the records are none, out of order, or not what the head or the end says.
    pub fn take(&mut self, item: &Item) -> Result<(), Malformed> {
        let taken = match item {
            Item::Head(head) => {
                (self.at, self.keys_expected) = (head.at, head.keys);
                Ok(())
            }
            Item::Block(chunk) => self.chunk(chunk),
            Item::End(end) => self.end(end),
        };
        taken.map_err(|what| Malformed::Contents { what })
    }

    /// How much there was in what was taken.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), &'static str> {
        let mut last: Option<&[u8]> = None;
        for record in records(chunk) {
            match record.map_err(|error| error.what)? {
                StateRecord::Session(session) => {
                    if last.is_some() || self.counts.keys > 0 {
                        return Err("a session stands behind a key");
                    }
                    self.session(&session)?;
                }
                StateRecord::Key { key, value, version } => {
                    if self.counts.keys > 0 && key <= last.unwrap_or(&self.last_key) {
                        return Err("keys are out of order");
                    }
                    self.rolling.add(digest::of_key(key, value, version, &mut self.contents));
                    self.counts.keys += 1;
                    self.counts.bytes += (key.len() + value.len()) as u64;
                    last = Some(key);
                }
            }
        }
        if let Some(last) = last {
            self.last_key.clear();
            self.last_key.extend_from_slice(last);
        }
        Ok(())
    }

    /// A session, or the next piece of the one before.
    fn session(&mut self, session: &SessionRecord) -> Result<(), &'static str> {
        if Some(session.id) < self.last_session {
            return Err("sessions are out of order");
        }
        if self.last_session.replace(session.id) != Some(session.id) {
            self.counts.sessions += 1;
            self.rolling.add(digest::of_session(session.id, session.floor));
        }
        for (number, answer) in &session.answers {
            self.counts.answers += 1;
            self.rolling.add(digest::of_answer(session.id, *number, answer));
        }
        Ok(())
    }

    fn end(&mut self, end: &SnapshotEnd) -> Result<(), &'static str> {
        if self.counts.keys != self.keys_expected {
            return Err("the number of keys is another one than the head says");
        }
        if self.rolling.with(Rolling::default()) != end.digest {
            return Err("the digest of its records is another one than its end says");
        }
        let rise =
            |one: &EpochStart, next: &EpochStart| one.epoch <= next.epoch && one.op < next.op;
        let last = end.epochs.last().copied().unwrap_or_default();
        let reach = last.epoch == self.at.epoch && last.op <= self.at.op;
        // Op 0 stands before the first epoch.
        if !end.epochs.is_sorted_by(rise) || !(reach || self.at.op == OpNumber(0)) {
            return Err("its epochs do not lead to its op");
        }
        Ok(())
    }
}
