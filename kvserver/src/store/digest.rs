//! Fingerprints: the rolling digest of a store, and the hash that tells a repeated command from
//! another one. Pure.
//!
//! The digest is a wrapping sum of one hash per key, per session and per remembered answer. A sum
//! forgets the order in which things came, so equal states have equal digests whatever their
//! history, and one op costs one op's work. Hashes are taken over an encoding in which every
//! variable part is preceded by its length or count and every choice by a tag, so that no two
//! values share one. Copies compare digests: whoever changes the encoding raises the protocol level.

use kvproto::command::{Action, Change, Changed, Command, Expect, Outcome, Record, Refusal};
use kvproto::ids::{RequestNumber, SessionId};
use kvproto::message::{AnswerRecord, Digest};
use xxhash_rust::xxh3::Xxh3;

/// A sum of hashes to which parts of the state are added and from which they are taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Rolling(u128);

impl Rolling {
    pub(super) fn add(&mut self, part: u128) {
        self.0 = self.0.wrapping_add(part);
    }

    pub(super) fn remove(&mut self, part: u128) {
        self.0 = self.0.wrapping_sub(part);
    }

    pub(super) fn add_all(&mut self, parts: Rolling) {
        self.add(parts.0);
    }

    pub(super) fn remove_all(&mut self, parts: Rolling) {
        self.remove(parts.0);
    }

    /// The digest of this part of the state and that one together.
    pub(super) fn with(self, other: Rolling) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
}

/// The part of a key in the digest.
pub(super) fn of_key(key: &[u8], record: &Record) -> u128 {
    Encoder::new(b'K').bytes(key).record(record).digest()
}

/// The part of a session in the digest, without its answers.
pub(super) fn of_session(id: SessionId, floor: RequestNumber) -> u128 {
    Encoder::new(b'S').number(id.0).number(floor.0).digest()
}

/// The part of a remembered answer in the digest.
pub(super) fn of_answer(id: SessionId, number: RequestNumber, answer: &AnswerRecord) -> u128 {
    Encoder::new(b'A')
        .number(id.0)
        .number(number.0)
        .number(answer.command_hash)
        .outcome(&answer.outcome)
        .digest()
}

/// Tells whether a request number is repeated with the same command.
pub(super) fn of_command(command: &Command) -> u64 {
    Encoder::new(b'C').command(command).0.digest()
}

struct Encoder(Xxh3);

impl Encoder {
    fn new(kind: u8) -> Self {
        Encoder(Xxh3::new()).tag(kind)
    }

    fn digest(&self) -> u128 {
        self.0.digest128()
    }

    fn tag(mut self, tag: u8) -> Self {
        self.0.update(&[tag]);
        self
    }

    fn number(mut self, number: u64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.number(bytes.len() as u64);
        this.0.update(bytes);
        this
    }

    fn record(self, record: &Record) -> Self {
        self.number(record.version.0).bytes(&record.value)
    }

    fn optional<T>(self, value: Option<&T>, encode: impl FnOnce(Self, &T) -> Self) -> Self {
        match value {
            None => self.tag(0),
            Some(value) => encode(self.tag(1), value),
        }
    }

    fn command(self, command: &Command) -> Self {
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

    fn change(self, change: &Change) -> Self {
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
                };
                this.optional(new_value.as_ref(), |this, value| this.bytes(value))
            }
        }
    }

    fn outcome(self, outcome: &Outcome) -> Self {
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

    fn changed(self, changed: &Changed) -> Self {
        self.number(changed.version.0).tag(u8::from(changed.existed)).number(changed.length)
    }

    fn refusal(self, refusal: &Refusal) -> Self {
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
    use kvproto::ids::Version;

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
        let record = |value: &str, version| Record {
            value: Bytes::copy_from_slice(value.as_bytes()),
            version: Version(version),
        };
        assert_ne!(of_key(b"ab", &record("c", 1)), of_key(b"a", &record("bc", 1)));
        assert_ne!(of_key(b"a", &record("b", 1)), of_key(b"a", &record("b", 2)));
        assert_ne!(of_key(b"a", &record("b", 1)), of_key(b"b", &record("a", 1)));
    }
}
