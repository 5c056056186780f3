//! Fingerprints: the rolling digest of a store, and the hash that tells a repeated command from
//! another one. Pure.
//!
//! The digest is a wrapping sum of one hash per key, per session and per remembered answer. A sum
//! forgets the order in which things came, so equal states have equal digests whatever their
//! history, and one op costs one op's work. Hashes are taken over an encoding in which every
//! variable part but the last is preceded by its length or count and every choice by a tag, and each
//! kind of part has a seed of its own, so that no two parts share both. Within it a long run of bytes
//! stands as its length and a hash of 128 bits. Copies compare digests: whoever changes the encoding
//! of a release raises the protocol level.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_seed};

use crate::command::{Action, Change, Changed, Command, Expect, Outcome, Record, Refusal, Renamed};
use crate::ids::{RequestNumber, SessionId, Version};
use crate::message::{AnswerRecord, Digest};
use crate::rules::{Rule, keeps};

/// Seeds of the parts. Items have that of the plain hash, for which nothing is derived.
const SEED_OF_SESSIONS: u64 = 1;
const SEED_OF_ANSWERS: u64 = 2;

/// A sum of hashes to which parts of the state are added and from which they are taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Rolling(u128);

impl Rolling {
    /// Adds a part.
    pub fn add(&mut self, part: u128) {
        self.0 = self.0.wrapping_add(part);
    }

    /// Takes a part away.
    pub fn remove(&mut self, part: u128) {
        self.0 = self.0.wrapping_sub(part);
    }

    /// Adds all parts of another sum.
    pub fn add_all(&mut self, parts: Rolling) {
        self.add(parts.0);
    }

    /// Takes all parts of another sum away.
    pub fn remove_all(&mut self, parts: Rolling) {
        self.remove(parts.0);
    }

    /// The digest of this part of the state and that one together.
    #[must_use]
    pub fn with(self, other: Rolling) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
}

/// The part of a key in the digest, from its contents: the version (8 bytes), the length of the key
/// (4 bytes), both lowest byte first, the key, and the value to the end.
#[must_use]
pub fn of_contents(contents: &[u8]) -> u128 {
    xxh3_128(contents)
}

/// The part of a key in the digest. The room is for its contents, and is used again.
#[must_use]
pub fn of_key(key: &[u8], value: &[u8], version: Version, room: &mut Vec<u8>) -> u128 {
    let length = u32::try_from(key.len()).expect("messages are far smaller than 4 GiB");
    room.clear();
    room.extend_from_slice(&version.0.to_le_bytes());
    room.extend_from_slice(&length.to_le_bytes());
    room.extend_from_slice(key);
    room.extend_from_slice(value);
    of_contents(room)
}

/// The part of a session in the digest, without its answers.
#[must_use]
pub fn of_session(id: SessionId, floor: RequestNumber) -> u128 {
    let mut encoder = Encoder::new();
    encoder.number(id.0).number(floor.0);
    xxh3_128_with_seed(encoder.bytes_so_far(), SEED_OF_SESSIONS)
}

/// The part of a remembered answer in the digest.
#[must_use]
pub fn of_answer(id: SessionId, number: RequestNumber, answer: &AnswerRecord) -> u128 {
    let mut encoder = Encoder::new();
    encoder.number(id.0).number(number.0).number(answer.command_hash).outcome(&answer.outcome);
    xxh3_128_with_seed(encoder.bytes_so_far(), SEED_OF_ANSWERS)
}

/// Tells whether a request number is repeated with the same command: as its client asked for it,
/// whatever the versions that it expects are called by now.
#[must_use]
pub fn of_command(command: &Command) -> u64 {
    let mut encoder = Encoder::new();
    encoder.command(command);
    xxh3_64(encoder.bytes_so_far())
}

fn asked(renamed: &Renamed) -> Version {
    if keeps(Rule::RecognisedAsAsked) { renamed.asked } else { renamed.now }
}

/// Collects what is hashed, so that one call hashes it. Nearly everything fits on the stack.
struct Encoder {
    head: [u8; 192],
    used: usize,
    /// All of it, once it no longer fits.
    spilt: Vec<u8>,
}

/// A longer run of bytes is represented by its hash: hashing it costs less than copying it.
const RUN_MAX: usize = 1024;

impl Encoder {
    fn new() -> Self {
        Encoder { head: [0; 192], used: 0, spilt: Vec::new() }
    }

    fn bytes_so_far(&self) -> &[u8] {
        if self.spilt.is_empty() { &self.head[..self.used] } else { &self.spilt }
    }

    fn push(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.used + bytes.len();
        if self.spilt.is_empty() && end <= self.head.len() {
            self.head[self.used..end].copy_from_slice(bytes);
            self.used = end;
        } else {
            if self.spilt.is_empty() {
                self.spilt.extend_from_slice(&self.head[..self.used]);
            }
            self.spilt.extend_from_slice(bytes);
        }
        self
    }

    fn tag(&mut self, tag: u8) -> &mut Self {
        self.push(&[tag])
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.push(&number.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        if bytes.len() > RUN_MAX {
            self.push(&xxh3_128(bytes).to_le_bytes())
        } else {
            self.push(bytes)
        }
    }

    fn record(&mut self, record: &Record) -> &mut Self {
        self.number(record.version.0).bytes(&record.value)
    }

    fn optional<T>(
        &mut self,
        value: Option<&T>,
        encode: impl for<'a> FnOnce(&'a mut Self, &T) -> &'a mut Self,
    ) -> &mut Self {
        match value {
            None => self.tag(0),
            Some(value) => encode(self.tag(1), value),
        }
    }

    fn command(&mut self, command: &Command) -> &mut Self {
        match command {
            Command::Barrier => self.tag(1),
            Command::Change(change) => self.tag(2).change(change),
            Command::Batch(changes) => {
                changes.iter().fold(self.tag(3).number(changes.len() as u64), Encoder::change)
            }
            Command::OpenSession => self.tag(4),
            Command::CloseSession(id) => self.tag(5).number(id.0),
            Command::ExpireSession(id) => self.tag(6).number(id.0),
        }
    }

    fn change(&mut self, change: &Change) -> &mut Self {
        let this = self.bytes(&change.key);
        match &change.action {
            Action::Put(value) => this.tag(1).bytes(value),
            Action::Delete => this.tag(2),
            Action::Append(suffix) => this.tag(3).bytes(suffix),
            Action::CompareAndSet { expect, new_value } => {
                let this = match expect {
                    Expect::Missing => this.tag(4),
                    Expect::Value(value) => this.tag(5).bytes(value),
                    Expect::Version(version) => this.tag(6).number(version.0),
                    Expect::Renamed(renamed) => this.tag(6).number(asked(renamed).0),
                };
                this.optional(new_value.as_ref(), |this, value| this.bytes(value))
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> &mut Self {
        match outcome {
            Outcome::Barrier => self.tag(1),
            Outcome::Changed(changed) => self.tag(2).changed(changed),
            Outcome::BatchChanged(changes) => {
                changes.iter().fold(self.tag(3).number(changes.len() as u64), Encoder::changed)
            }
            Outcome::SessionOpened(id) => self.tag(4).number(id.0),
            Outcome::SessionClosed { existed } => self.tag(5).tag(u8::from(*existed)),
            Outcome::Refused(refusal) => self.tag(6).refusal(refusal),
        }
    }

    fn changed(&mut self, changed: &Changed) -> &mut Self {
        self.number(changed.version.0).tag(u8::from(changed.existed)).number(changed.length)
    }

    fn refusal(&mut self, refusal: &Refusal) -> &mut Self {
        match refusal {
            Refusal::ConditionFailed { record, change } => {
                self.tag(1).number(u64::from(*change)).optional(record.as_ref(), Encoder::record)
            }
            Refusal::TooLarge { size, size_max, change } => {
                self.tag(2).number(*size).number(*size_max).number(u64::from(*change))
            }
            Refusal::SessionExpired => self.tag(3),
            Refusal::StaleRequest { floor } => self.tag(4).number(floor.0),
            Refusal::RequestReused => self.tag(5),
            Refusal::WindowFull => self.tag(6),
            Refusal::TooManySessions { sessions_max } => self.tag(7).number(*sessions_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(key: &str, value: &str) -> Change {
        Change {
            key: Bytes::copy_from_slice(key.as_bytes()),
            action: Action::Put(Bytes::copy_from_slice(value.as_bytes())),
        }
    }

    #[test]
    fn commands_whose_bytes_run_together_have_different_hashes() {
        let swapped = Change { action: Action::Append(Bytes::from("b")), ..put("a", "") };
        let commands = [
            Command::Change(put("ab", "c")),
            Command::Change(put("a", "bc")),
            Command::Change(put("a", "b")),
            Command::Change(swapped),
            Command::Change(Change { action: Action::Delete, ..put("a", "") }),
            Command::Batch(vec![put("a", "b")]),
            Command::Batch(vec![put("a", "b"), put("", "")]),
            Command::OpenSession,
            Command::CloseSession(SessionId(1)),
            Command::CloseSession(SessionId(2)),
            Command::ExpireSession(SessionId(1)),
            Command::Barrier,
        ];
        for (i, one) in commands.iter().enumerate() {
            for other in &commands[i + 1..] {
                assert_ne!(of_command(one), of_command(other), "{one:?} and {other:?}");
            }
            assert_eq!(of_command(one), of_command(&one.clone()));
        }
    }

    #[test]
    fn a_value_moved_between_key_value_and_version_changes_the_digest() {
        let of = |key: &str, value: &str, version| {
            of_key(key.as_bytes(), value.as_bytes(), Version(version), &mut Vec::new())
        };
        assert_ne!(of("ab", "c", 1), of("a", "bc", 1));
        assert_ne!(of("a", "b", 1), of("a", "b", 2));
        assert_ne!(of("a", "b", 1), of("b", "a", 1));
    }
}
