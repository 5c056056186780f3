//! The door for clients: the lab's two calls, `Execute`, `Dump` and `Snapshot`. Shell: it checks form
//! and limits, hands the operation to the node, and words the answer.
//!
//! One implementation serves the package `kvserver` and the older name `proto`.

use bytes::Bytes;
use kvprocess::serve::{NoRoom, Room};
use kvproto::convert::{Execute, ExecuteOperation, Malformed};
use kvproto::limits::{self, MESSAGE_SIZE_MAX};
use kvproto::pb::kvserver as pb;
use kvproto::pb::kvserver::kv_server_server::KvServer;
use kvproto::pb::legacy::kv_server_server::KvServer as LegacyKvServer;
use kvproto::{
    Action, Change, ClusterId, Command, NotDone, Outcome, Query, Record, Refusal, Reply, Settings,
    status,
};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::error;

use super::deadline;
use super::dumped::{Dumped, Snapshot};
use crate::node::NodeHandle;
use crate::replica::event::Operation;

/// The lab's word for a key that does not exist.
const ERR_NO_KEY: &str = "ErrNoKey";
/// The lab's word for a server that is not the primary: the call certainly did nothing.
const ERR_NOT_PRIMARY: &str = "ErrNotPrimary";
/// Records of one answer: as much as a message may carry, with room for the framing.
const RECORDS_SIZE_MAX: usize = MESSAGE_SIZE_MAX - (1 << 20);

/// The services for clients.
#[derive(Clone)]
pub(super) struct ClientDoor {
    node: NodeHandle,
    settings_unregistered: Settings,
}

impl ClientDoor {
    pub(super) fn new(node: NodeHandle) -> ClientDoor {
        ClientDoor { node, settings_unregistered: Settings::default() }
    }

    /// Has the node carry out an operation that passes the limits of the current view.
    async fn execute(&self, operation: Operation, asked: &Asked) -> Reply {
        let checked = self.node.look(|standing| {
            let settings =
                standing.view.as_ref().map_or(&self.settings_unregistered, |view| &view.settings);
            match &operation {
                Operation::Query(query) => limits::check_query(query, settings),
                Operation::Command { command, .. } => limits::check_command(command, settings),
                Operation::KeepAlive(_) => Ok(()),
            }
        });
        if let Err(refusal) = checked {
            return Reply::NotDone(refusal);
        }
        let parts = cost_of_parts(&operation);
        if asked.room.as_ref().is_some_and(|room| parts > 0 && room.grow(parts).is_err()) {
            return Reply::NotDone(NotDone::Overloaded);
        }
        let several = matches!(&operation, Operation::Query(Query::Get(keys)) if keys.len() > 1);
        let deadline = deadline_of(&asked.metadata);
        let reply = self.node.execute(operation, asked.room.clone(), deadline).await;
        let size = size_of_values(&reply);
        let room = match &asked.room {
            Some(room) if size > 0 && several => room.grow(size),
            Some(room) if size > 0 => room.grow_by_answer(size),
            _ => Ok(()),
        };
        match (room, &reply) {
            (_, Reply::Records { .. }) if size > RECORDS_SIZE_MAX => too_large(size),
            (Ok(()), _) => reply,
            (Err(NoRoom::Ever { .. }), Reply::Records { .. }) => too_large(size),
            (Err(NoRoom::Now), Reply::Records { .. }) => Reply::NotDone(NotDone::Overloaded),
            // A command was done, whatever its answer weighs: it is kept for when it is asked again.
            (Err(_), _) => Reply::Unknown,
        }
    }

    fn check_cluster(&self, meant: Option<ClusterId>) -> Result<(), NotDone> {
        let own = self.node.look(|standing| standing.view.as_ref().map(|view| view.cluster));
        match (meant, own) {
            (Some(meant), Some(own)) if meant != own => Err(NotDone::WrongCluster(own)),
            _ => Ok(()),
        }
    }

    async fn lab_get(&self, request: Request<pb::GetRequest>) -> Answer<pb::GetResponse> {
        let (asked, get) = parts(request);
        let query = Operation::Query(Query::Get(vec![get.key]));
        let failed = |error: &str| pb::GetResponse { error: error.into(), ..Default::default() };
        let answer = match self.execute(query, &asked).await {
            Reply::Records { records, .. } => match records.into_iter().next().flatten() {
                Some(record) => pb::GetResponse { value: record.value, ok: true, error: "".into() },
                None => failed(ERR_NO_KEY),
            },
            Reply::NotDone(NotDone::NotPrimary { .. }) => failed(ERR_NOT_PRIMARY),
            other => return Err(failure(&other)),
        };
        Ok(Response::new(answer))
    }

    async fn lab_put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let (asked, put) = parts(request);
        let change = Change { key: put.key, action: Action::Put(put.value) };
        let command = Operation::Command { id: None, command: Command::Change(change) };
        let answer = match self.execute(command, &asked).await {
            Reply::Done { .. } => pb::PutResponse { ok: true, error: "".into() },
            Reply::NotDone(NotDone::NotPrimary { .. }) => {
                pb::PutResponse { ok: false, error: ERR_NOT_PRIMARY.into() }
            }
            other => return Err(failure(&other)),
        };
        Ok(Response::new(answer))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl KvServer for ClientDoor {
    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::GetResponse> {
        self.lab_get(request).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.lab_put(request).await
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Answer<pb::ExecuteResponse> {
        let (asked, message) = parts(request);
        let execute = Execute::try_from(message)?;
        self.check_cluster(execute.cluster).map_err(|refusal| status::not_done_status(&refusal))?;
        let operation = match execute.operation {
            ExecuteOperation::Query(query) => Operation::Query(query),
            ExecuteOperation::Command { id, command } => Operation::Command { id, command },
            ExecuteOperation::KeepAlive(session) => Operation::KeepAlive(session),
        };
        answer_of(self.execute(operation, &asked).await)
    }

    type DumpStream = Dumped;

    async fn dump(&self, _: Request<pb::DumpRequest>) -> Answer<Self::DumpStream> {
        Ok(Response::new(Dumped::new(self.node.dump().await)))
    }

    type SnapshotStream = Snapshot;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        Ok(Response::new(Snapshot::new(self.node.dump().await)))
    }
}

#[tonic::async_trait]
impl LegacyKvServer for ClientDoor {
    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::GetResponse> {
        self.lab_get(request).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.lab_put(request).await
    }
}

/// What came with a message.
struct Asked {
    metadata: MetadataMap,
    room: Option<Room>,
}

fn parts<T>(request: Request<T>) -> (Asked, T) {
    let (metadata, mut extensions, message) = request.into_parts();
    (Asked { metadata, room: extensions.remove() }, message)
}

fn deadline_of(metadata: &MetadataMap) -> Instant {
    let header = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok());
    Instant::now() + header.and_then(deadline::parse).unwrap_or(deadline::TIMEOUT_DEFAULT)
}

/// Bytes of the values that an answer carries. What a write answers is small, unless it is the value
/// that a condition met.
fn size_of_values(reply: &Reply) -> usize {
    let of = |record: &Record| record.value.len() + 16;
    match reply {
        Reply::Records { records, .. } => {
            records.iter().flatten().map(of).sum::<usize>() + records.len() * 8
        }
        Reply::Done {
            outcome: Outcome::Refused(Refusal::ConditionFailed { record, .. }), ..
        } => record.as_ref().map_or(0, of),
        _ => 0,
    }
}

/// Memory that the parts of a large request take beside their bytes on the wire.
fn cost_of_parts(operation: &Operation) -> usize {
    match operation {
        Operation::Query(Query::Get(keys)) => keys.len() * size_of::<Bytes>(),
        Operation::Command { command, .. } => size_of_val(command.changes()),
        Operation::KeepAlive(_) => 0,
    }
}

fn too_large(size: usize) -> Reply {
    Reply::NotDone(NotDone::Invalid(format!(
        "the records asked for have {size} bytes, more than one answer or connection may carry; ask \
         for fewer keys at once, or give the server more with --max-memory"
    )))
}

/// What `Execute` answers.
fn answer_of(reply: Reply) -> Answer<pb::ExecuteResponse> {
    match status::to_status(&reply) {
        Some(status) => Err(status),
        None => worded(reply.try_into()),
    }
}

/// The op of an answer that cannot be worded was done all the same: this is no refusal.
fn worded<T>(answer: Result<T, Malformed>) -> Answer<T> {
    answer.map(Response::new).map_err(|malformed| {
        error!("an answer could not be worded: {malformed}");
        status::unknown_status()
    })
}

/// The status of a reply that has no place in the answer of its call.
fn failure(reply: &Reply) -> Status {
    status::to_status(reply).unwrap_or_else(|| Status::internal("an answer to another question"))
}

#[cfg(test)]
mod tests {
    use kvproto::status::{Attempt, from_status};

    use super::*;

    /// A slip in the wording of an answer was reported as a refusal, although the op was done.
    #[test]
    fn an_answer_that_cannot_be_worded_is_no_refusal() {
        let status = worded::<Reply>(Err(Malformed { what: "an answer" })).unwrap_err();
        assert_eq!(from_status(&status), Attempt::Unknown);
    }
}
