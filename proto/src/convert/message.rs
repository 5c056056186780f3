//! What copies say to each other, log entries and sessions.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Malformed, cluster, cluster_bytes, digest, generation, history, history_bytes, into_list, list,
    millis_rounded_up, op, required,
};
use crate::batch::Batch;
use crate::command::Entry;
use crate::ids::{
    Epoch, EpochStart, Nonce, Position, RequestNumber, Revision, SessionId, StreamNumber,
    ViewNumber,
};
use crate::message::{Ack, AnswerRecord, Append, Body, Message, Opened, SessionRecord};
use crate::pb::{replication as pb, viewservice};
use crate::snapshot::SnapshotEnd;
use crate::time::{LogTime, Timestamp};

impl From<Message> for pb::Message {
    fn from(message: Message) -> Self {
        Self {
            cluster_id: cluster_bytes(message.cluster),
            generation: message.epoch.generation.0,
            primary_since: message.epoch.primary_since.0,
            from: Some(message.from.into()),
            to: Some(message.to.into()),
            stream: message.stream.0,
            body: Some(message.body.into()),
        }
    }
}

impl TryFrom<pb::Message> for Message {
    type Error = Malformed;
    fn try_from(message: pb::Message) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: cluster(&message.cluster_id)?.unwrap_or_default(),
            epoch: epoch(message.generation, message.primary_since)?,
            from: required(message.from, "a message has no sender")?.try_into()?,
            to: required(message.to, "a message has no receiver")?.try_into()?,
            stream: StreamNumber(message.stream),
            body: required(message.body, "a message is of no known kind")?.try_into()?,
        })
    }
}

fn epoch(number: u64, primary_since: u64) -> Result<Epoch, Malformed> {
    Ok(Epoch { generation: generation(number)?, primary_since: ViewNumber(primary_since) })
}

impl From<Body> for pb::message::Body {
    fn from(body: Body) -> Self {
        match body {
            Body::Open { began } => Self::Open(pb::Open { began: history_bytes(began) }),
            Body::Opened(opened) => Self::Opened(opened.into()),
            Body::Append(append) => Self::Append(append.into()),
            Body::Ack(ack) => Self::Ack(ack.into()),
            Body::Fenced => Self::Fenced(pb::Fenced {}),
            Body::TransferStart { at, keys } => {
                Self::TransferStart(pb::TransferStart { at: Some(at.into()), keys })
            }
            Body::TransferChunk { number, records } => {
                Self::TransferChunk(pb::TransferChunk { number, records })
            }
            Body::TransferEnd(end) => Self::TransferEnd(end.into()),
            Body::Released => Self::Released(pb::Released {}),
        }
    }
}

impl TryFrom<pb::message::Body> for Body {
    type Error = Malformed;
    fn try_from(body: pb::message::Body) -> Result<Self, Malformed> {
        use pb::message::Body as Kind;
        Ok(match body {
            Kind::Open(open) => Body::Open { began: history(&open.began)? },
            Kind::Opened(opened) => Body::Opened(opened.try_into()?),
            Kind::Append(append) => Body::Append(append.try_into()?),
            Kind::Ack(ack) => Body::Ack(ack.try_into()?),
            Kind::Fenced(_) => Body::Fenced,
            Kind::TransferStart(start) => Body::TransferStart {
                at: required(start.at, "a transfer names no position")?.try_into()?,
                keys: start.keys,
            },
            Kind::TransferChunk(chunk) => {
                Body::TransferChunk { number: chunk.number, records: chunk.records }
            }
            Kind::TransferEnd(end) => Body::TransferEnd(end.try_into()?),
            Kind::Released(_) => Body::Released,
        })
    }
}

impl From<Position> for pb::Position {
    fn from(position: Position) -> Self {
        Self {
            generation: position.epoch.generation.0,
            primary_since: position.epoch.primary_since.0,
            op_number: position.op.0,
        }
    }
}

impl TryFrom<pb::Position> for Position {
    type Error = Malformed;
    fn try_from(position: pb::Position) -> Result<Self, Malformed> {
        Ok(Self {
            epoch: epoch(position.generation, position.primary_since)?,
            op: op(position.op_number)?,
        })
    }
}

impl From<EpochStart> for viewservice::EpochStart {
    fn from(start: EpochStart) -> Self {
        Self {
            generation: start.epoch.generation.0,
            primary_since: start.epoch.primary_since.0,
            op_number: start.op.0,
            history: history_bytes(start.history),
        }
    }
}

impl TryFrom<viewservice::EpochStart> for EpochStart {
    type Error = Malformed;
    fn try_from(start: viewservice::EpochStart) -> Result<Self, Malformed> {
        Ok(Self {
            epoch: epoch(start.generation, start.primary_since)?,
            op: op(start.op_number)?,
            history: history(&start.history)?,
        })
    }
}

impl From<Opened> for pb::Opened {
    fn from(opened: Opened) -> Self {
        Self {
            epochs: into_list(opened.epochs),
            last: opened.last.0,
            committed: opened.committed.0,
            complete: opened.complete,
            recorded: opened.recorded.0,
        }
    }
}

impl TryFrom<pb::Opened> for Opened {
    type Error = Malformed;
    fn try_from(opened: pb::Opened) -> Result<Self, Malformed> {
        Ok(Self {
            epochs: list(opened.epochs)?,
            last: op(opened.last)?,
            committed: op(opened.committed)?,
            complete: opened.complete,
            recorded: Revision(opened.recorded),
        })
    }
}

impl From<Append> for pb::Append {
    fn from(append: Append) -> Self {
        Self {
            previous: Some(append.previous.into()),
            entries: append.entries.encoded(),
            committed: append.committed.0,
            log_time_ms: append.log_time.millis,
            nonce: append.nonce.0,
            sent_at_ns: append.sent_at.as_nanos(),
            lease_ms: millis_rounded_up(append.lease),
            want_digest: append.want_digest,
        }
    }
}

impl TryFrom<pb::Append> for Append {
    type Error = Malformed;
    fn try_from(append: pb::Append) -> Result<Self, Malformed> {
        Ok(Self {
            previous: required(append.previous, "an append has no position")?.try_into()?,
            entries: Batch::decode(append.entries)?,
            committed: op(append.committed)?,
            log_time: LogTime::from_millis(append.log_time_ms),
            nonce: Nonce(append.nonce),
            sent_at: Timestamp::from_nanos(append.sent_at_ns),
            lease: Duration::from_millis(append.lease_ms),
            want_digest: append.want_digest,
        })
    }
}

impl From<Entry> for pb::Entry {
    fn from(entry: Entry) -> Self {
        Self {
            op_number: entry.position.op.0,
            generation: entry.position.epoch.generation.0,
            primary_since: entry.position.epoch.primary_since.0,
            log_time_ms: entry.at.millis,
            id: entry.id.map(Into::into),
            command: Some(entry.command.into()),
        }
    }
}

impl TryFrom<pb::Entry> for Entry {
    type Error = Malformed;
    fn try_from(entry: pb::Entry) -> Result<Self, Malformed> {
        Ok(Self {
            position: Position {
                epoch: epoch(entry.generation, entry.primary_since)?,
                op: op(entry.op_number)?,
            },
            at: LogTime::from_millis(entry.log_time_ms),
            id: entry.id.map(TryInto::try_into).transpose()?,
            command: required(entry.command, "an entry has no command")?.try_into()?,
        })
    }
}

impl From<Ack> for pb::Ack {
    fn from(ack: Ack) -> Self {
        Self {
            matched: ack.matched.0,
            applied: ack.applied.0,
            nonce: ack.nonce.0,
            sent_at_ns: ack.sent_at.as_nanos(),
            digest: ack.digest.map_or_else(Bytes::new, Into::into),
            chunks: ack.chunks,
            disk_full: ack.disk_full,
            recorded: ack.recorded.0,
        }
    }
}

impl TryFrom<pb::Ack> for Ack {
    type Error = Malformed;
    fn try_from(ack: pb::Ack) -> Result<Self, Malformed> {
        Ok(Self {
            matched: op(ack.matched)?,
            applied: op(ack.applied)?,
            nonce: Nonce(ack.nonce),
            sent_at: Timestamp::from_nanos(ack.sent_at_ns),
            digest: digest(&ack.digest)?,
            chunks: ack.chunks,
            disk_full: ack.disk_full,
            recorded: Revision(ack.recorded),
        })
    }
}

impl From<SnapshotEnd> for pb::TransferEnd {
    fn from(end: SnapshotEnd) -> Self {
        Self {
            epochs: into_list(end.epochs),
            log_time_ms: end.log_time.millis,
            digest: end.digest.into(),
            chunks: end.chunks,
        }
    }
}

impl TryFrom<pb::TransferEnd> for SnapshotEnd {
    type Error = Malformed;
    fn try_from(end: pb::TransferEnd) -> Result<Self, Malformed> {
        Ok(Self {
            epochs: list(end.epochs)?,
            log_time: LogTime::from_millis(end.log_time_ms),
            digest: end.digest.try_into()?,
            chunks: end.chunks,
        })
    }
}

impl From<SessionRecord> for pb::SessionRecord {
    fn from(session: SessionRecord) -> Self {
        let answers = session.answers.into_iter();
        Self {
            session: session.id.0,
            floor: session.floor.0,
            answers: answers
                .map(|(number, answer)| pb::AnswerRecord {
                    number: number.0,
                    command_hash: answer.command_hash,
                    outcome: Some(answer.outcome.into()),
                })
                .collect(),
        }
    }
}

impl TryFrom<pb::SessionRecord> for SessionRecord {
    type Error = Malformed;
    fn try_from(session: pb::SessionRecord) -> Result<Self, Malformed> {
        let answers = session.answers.into_iter().map(|answer| {
            let record = AnswerRecord {
                command_hash: answer.command_hash,
                outcome: required(answer.outcome, "an answer has no outcome")?.try_into()?,
            };
            Ok((RequestNumber(answer.number), record))
        });
        Ok(Self {
            id: SessionId(session.session),
            floor: RequestNumber(session.floor),
            answers: answers.collect::<Result<_, Malformed>>()?,
        })
    }
}
