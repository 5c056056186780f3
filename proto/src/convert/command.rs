//! Commands, queries, outcomes, and the `Execute` call.

use std::time::Duration;

use super::{
    Malformed, cluster, cluster_bytes, generation, into_list, list, malformed, millis, op, required,
};
use crate::command::{
    Action, Change, Changed, Command, Expect, Outcome, Query, Record, Refusal, Renamed, RequestId,
    SESSION_WINDOW,
};
use crate::ids::{ClusterId, RequestNumber, SessionId, Version};
use crate::pb::kvserver as pb;
use crate::reply::{LogPoint, Reply};

/// What a client asks in one `Execute` call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Execute {
    /// The cluster that the client means; a server of another one refuses.
    pub cluster: Option<ClusterId>,
    /// What is wanted.
    pub operation: ExecuteOperation,
}

/// What is wanted of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecuteOperation {
    /// Read committed state.
    Query(Query),
    /// Change the state through the log.
    Command {
        /// For exactly-once; `None` for plain calls. Its number is at least 1 and its `first_open`
        /// at most its number.
        id: Option<RequestId>,
        /// What to do.
        command: Command,
    },
    /// Extend a session's lease.
    KeepAlive(SessionId),
}

impl From<Execute> for pb::ExecuteRequest {
    fn from(execute: Execute) -> Self {
        use pb::execute_request::Operation;
        let (id, operation) = match execute.operation {
            ExecuteOperation::Query(query) => (None, Operation::Query(query.into())),
            ExecuteOperation::Command { id, command } => (id, Operation::Command(command.into())),
            ExecuteOperation::KeepAlive(session) => {
                let session = session.0;
                (None, Operation::KeepAlive(pb::KeepAlive { session }))
            }
        };
        Self {
            id: id.map(Into::into),
            cluster_id: cluster_bytes(execute.cluster.unwrap_or_default()),
            operation: Some(operation),
        }
    }
}

impl TryFrom<pb::ExecuteRequest> for Execute {
    type Error = Malformed;
    fn try_from(request: pb::ExecuteRequest) -> Result<Self, Malformed> {
        use pb::execute_request::Operation;
        let operation = match required(request.operation, "a request has no operation")? {
            Operation::Query(query) => ExecuteOperation::Query(query.try_into()?),
            Operation::Command(command) => ExecuteOperation::Command {
                id: request.id.map(client_id).transpose()?,
                command: command.try_into()?,
            },
            Operation::KeepAlive(alive) => ExecuteOperation::KeepAlive(SessionId(alive.session)),
        };
        Ok(Self { cluster: cluster(&request.cluster_id)?, operation })
    }
}

/// A request id as a client may choose it: far enough from the end of the numbers for a window to
/// be added. Ids in the log passed a door already and are taken as they are.
fn client_id(id: pb::RequestId) -> Result<RequestId, Malformed> {
    if id.number == 0 || id.number > u64::MAX - SESSION_WINDOW {
        return malformed("a request number is out of range");
    }
    if id.first_open > id.number {
        return malformed("the first open request is above the request itself");
    }
    id.try_into()
}

impl From<RequestId> for pb::RequestId {
    fn from(id: RequestId) -> Self {
        Self { session: id.session.0, number: id.number.0, first_open: id.first_open.0 }
    }
}

impl TryFrom<pb::RequestId> for RequestId {
    type Error = Malformed;
    fn try_from(id: pb::RequestId) -> Result<Self, Malformed> {
        Ok(Self {
            session: SessionId(id.session),
            number: RequestNumber(id.number),
            first_open: RequestNumber(id.first_open),
        })
    }
}

impl From<Query> for pb::Query {
    fn from(query: Query) -> Self {
        let Query::Get(keys) = query;
        Self { query: Some(pb::query::Query::Get(pb::KeyList { keys })) }
    }
}

impl TryFrom<pb::Query> for Query {
    type Error = Malformed;
    fn try_from(query: pb::Query) -> Result<Self, Malformed> {
        let pb::query::Query::Get(list) = required(query.query, "a query is of no known kind")?;
        Ok(Query::Get(list.keys))
    }
}

impl From<Command> for pb::Command {
    fn from(command: Command) -> Self {
        use pb::command::Command as Kind;
        let close = |session: SessionId| pb::CloseSession { session: session.0 };
        let kind = match command {
            Command::Barrier => Kind::Barrier(pb::Barrier {}),
            Command::Change(change) => Kind::Change(change.into()),
            Command::Batch(changes) => Kind::Batch(pb::Batch { changes: into_list(changes) }),
            Command::OpenSession => Kind::OpenSession(pb::OpenSession {}),
            Command::CloseSession(session) => Kind::CloseSession(close(session)),
            Command::ExpireSession(session) => Kind::ExpireSession(close(session)),
        };
        Self { command: Some(kind) }
    }
}

impl TryFrom<pb::Command> for Command {
    type Error = Malformed;
    fn try_from(command: pb::Command) -> Result<Self, Malformed> {
        use pb::command::Command as Kind;
        Ok(match required(command.command, "a command is of no known kind")? {
            Kind::Barrier(_) => Command::Barrier,
            Kind::Change(change) => Command::Change(change.try_into()?),
            Kind::Batch(batch) => Command::Batch(list(batch.changes)?),
            Kind::OpenSession(_) => Command::OpenSession,
            Kind::CloseSession(close) => Command::CloseSession(SessionId(close.session)),
            Kind::ExpireSession(close) => Command::ExpireSession(SessionId(close.session)),
        })
    }
}

impl From<Change> for pb::Change {
    fn from(change: Change) -> Self {
        use pb::change::Action as Kind;
        let action = match change.action {
            Action::Put(value) => Kind::Put(value),
            Action::Delete => Kind::Delete(pb::Delete {}),
            Action::Append(bytes) => Kind::Append(bytes),
            Action::CompareAndSet { expect, new_value } => {
                Kind::CompareAndSet(pb::CompareAndSet { expect: Some(expect.into()), new_value })
            }
        };
        Self { key: change.key, action: Some(action) }
    }
}

impl TryFrom<pb::Change> for Change {
    type Error = Malformed;
    fn try_from(change: pb::Change) -> Result<Self, Malformed> {
        use pb::change::Action as Kind;
        let action = match required(change.action, "a change is of no known kind")? {
            Kind::Put(value) => Action::Put(value),
            Kind::Delete(_) => Action::Delete,
            Kind::Append(bytes) => Action::Append(bytes),
            Kind::CompareAndSet(cas) => Action::CompareAndSet {
                expect: required(cas.expect, "an expectation is of no known kind")?.try_into()?,
                new_value: cas.new_value,
            },
        };
        Ok(Self { key: change.key, action })
    }
}

impl From<Expect> for pb::compare_and_set::Expect {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Missing => Self::Missing(pb::Missing {}),
            Expect::Value(value) => Self::Value(*value),
            Expect::Version(version) => Self::Version(version.0),
            Expect::Renamed(renamed) => {
                let Renamed { asked, now } = *renamed;
                Self::Renamed(pb::RenamedVersion { asked: asked.0, now: now.0 })
            }
        }
    }
}

impl TryFrom<pb::compare_and_set::Expect> for Expect {
    type Error = Malformed;
    fn try_from(expect: pb::compare_and_set::Expect) -> Result<Self, Malformed> {
        use pb::compare_and_set::Expect as Kind;
        Ok(match expect {
            Kind::Missing(_) => Expect::Missing,
            Kind::Value(value) => Expect::Value(value.into()),
            Kind::Version(version) => Expect::Version(Version(version)),
            Kind::Renamed(renamed) => {
                let (asked, now) = (Version(renamed.asked), Version(renamed.now));
                Expect::Renamed(Box::new(Renamed { asked, now }))
            }
        })
    }
}

impl From<Record> for pb::Record {
    fn from(record: Record) -> Self {
        Self { value: record.value, version: record.version.0 }
    }
}

impl TryFrom<pb::Record> for Record {
    type Error = Malformed;
    fn try_from(record: pb::Record) -> Result<Self, Malformed> {
        Ok(Self { value: record.value, version: Version(record.version) })
    }
}

impl From<Changed> for pb::Changed {
    fn from(changed: Changed) -> Self {
        Self { version: changed.version.0, existed: changed.existed, length: changed.length }
    }
}

impl TryFrom<pb::Changed> for Changed {
    type Error = Malformed;
    fn try_from(changed: pb::Changed) -> Result<Self, Malformed> {
        Ok(Self {
            version: Version(changed.version),
            existed: changed.existed,
            length: changed.length,
        })
    }
}

impl From<Outcome> for pb::Outcome {
    fn from(outcome: Outcome) -> Self {
        use pb::outcome::Outcome as Kind;
        let kind = match outcome {
            Outcome::Barrier => Kind::Barrier(pb::Barrier {}),
            Outcome::Changed(changed) => Kind::Changed(changed.into()),
            Outcome::BatchChanged(changes) => {
                Kind::Batch(pb::BatchChanged { changes: into_list(changes) })
            }
            Outcome::SessionOpened(session) => {
                Kind::SessionOpened(pb::SessionOpened { session: session.0 })
            }
            Outcome::SessionClosed { existed } => {
                Kind::SessionClosed(pb::SessionClosed { existed })
            }
            Outcome::Refused(refusal) => Kind::Refused(refusal.into()),
        };
        Self { outcome: Some(kind) }
    }
}

impl TryFrom<pb::Outcome> for Outcome {
    type Error = Malformed;
    fn try_from(outcome: pb::Outcome) -> Result<Self, Malformed> {
        use pb::outcome::Outcome as Kind;
        Ok(match required(outcome.outcome, "an outcome is of no known kind")? {
            Kind::Barrier(_) => Outcome::Barrier,
            Kind::Changed(changed) => Outcome::Changed(changed.try_into()?),
            Kind::Batch(batch) => Outcome::BatchChanged(list(batch.changes)?),
            Kind::SessionOpened(opened) => Outcome::SessionOpened(SessionId(opened.session)),
            Kind::SessionClosed(closed) => Outcome::SessionClosed { existed: closed.existed },
            Kind::Refused(refusal) => Outcome::Refused(refusal.try_into()?),
        })
    }
}

impl From<Refusal> for pb::Refusal {
    fn from(refusal: Refusal) -> Self {
        use pb::refusal::Refusal as Kind;
        let kind = match refusal {
            Refusal::ConditionFailed { record, change } => {
                Kind::ConditionFailed(pb::ConditionFailed {
                    record: record.map(Into::into),
                    change,
                })
            }
            Refusal::TooLarge { size, size_max, change } => {
                Kind::TooLarge(pb::TooLarge { size, size_max, change })
            }
            Refusal::SessionExpired => Kind::SessionExpired(pb::SessionExpired {}),
            Refusal::StaleRequest { floor } => {
                Kind::StaleRequest(pb::StaleRequest { floor: floor.0 })
            }
            Refusal::RequestReused => Kind::RequestReused(pb::RequestReused {}),
            Refusal::WindowFull => {
                Kind::WindowFull(pb::WindowFull { window: SESSION_WINDOW as u32 })
            }
            Refusal::TooManySessions { sessions_max } => {
                Kind::TooManySessions(pb::TooManySessions { sessions_max })
            }
        };
        Self { refusal: Some(kind) }
    }
}

impl TryFrom<pb::Refusal> for Refusal {
    type Error = Malformed;
    fn try_from(refusal: pb::Refusal) -> Result<Self, Malformed> {
        use pb::refusal::Refusal as Kind;
        Ok(match required(refusal.refusal, "a refusal is of no known kind")? {
            Kind::ConditionFailed(failed) => Refusal::ConditionFailed {
                record: failed.record.map(Record::try_from).transpose()?,
                change: failed.change,
            },
            Kind::TooLarge(large) => Refusal::TooLarge {
                size: large.size,
                size_max: large.size_max,
                change: large.change,
            },
            Kind::SessionExpired(_) => Refusal::SessionExpired,
            Kind::StaleRequest(stale) => {
                Refusal::StaleRequest { floor: RequestNumber(stale.floor) }
            }
            Kind::RequestReused(_) => Refusal::RequestReused,
            Kind::WindowFull(_) => Refusal::WindowFull,
            Kind::TooManySessions(many) => {
                Refusal::TooManySessions { sessions_max: many.sessions_max }
            }
        })
    }
}

/// Only answers travel as messages; [`status::to_status`](crate::status::to_status) says
/// everything else, and here it is an error.
impl TryFrom<Reply> for pb::ExecuteResponse {
    type Error = Malformed;
    fn try_from(reply: Reply) -> Result<Self, Malformed> {
        use pb::execute_response::Result as Kind;
        let (at, result) = match reply {
            Reply::Done { at, outcome } => (at, Kind::Outcome(outcome.into())),
            Reply::Records { at, records } => {
                let records = records
                    .into_iter()
                    .map(|record| pb::MaybeRecord { record: record.map(Into::into) });
                let records = records.collect();
                (at, Kind::Records(pb::Records { records }))
            }
            Reply::KeptAlive { at, lease } => {
                let lease_ms = millis(lease);
                (at, Kind::KeptAlive(pb::KeptAlive { lease_ms }))
            }
            Reply::NotDone(_) | Reply::Unknown => {
                return malformed("only an answer travels as a message, the rest as a status");
            }
        };
        Ok(Self { generation: at.generation.0, op_number: at.op.0, result: Some(result) })
    }
}

impl TryFrom<pb::ExecuteResponse> for Reply {
    type Error = Malformed;
    fn try_from(response: pb::ExecuteResponse) -> Result<Self, Malformed> {
        use pb::execute_response::Result as Kind;
        let at =
            LogPoint { generation: generation(response.generation)?, op: op(response.op_number)? };
        Ok(match required(response.result, "an answer is of no known kind")? {
            Kind::Outcome(outcome) => Reply::Done { at, outcome: outcome.try_into()? },
            Kind::Records(records) => Reply::Records {
                at,
                records: records
                    .records
                    .into_iter()
                    .map(|maybe| maybe.record.map(Record::try_from).transpose())
                    .collect::<Result<_, _>>()?,
            },
            Kind::KeptAlive(kept) => {
                Reply::KeptAlive { at, lease: Duration::from_millis(kept.lease_ms) }
            }
        })
    }
}
