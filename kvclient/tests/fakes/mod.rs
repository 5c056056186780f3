//! A view service and servers within the test process, whose misbehaviour is scripted. The servers
//! share one store, as copies of a committed log would.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kvproto::convert::{Execute, ExecuteOperation, RecordsWriter};
use kvproto::digest::{self, Rolling};
use kvproto::pb::kvserver as kv;
use kvproto::pb::kvserver::kv_server_server::{KvServer, KvServerServer};
use kvproto::pb::viewservice as vs;
use kvproto::pb::viewservice::view_service_server::{ViewService, ViewServiceServer};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead, Writer};
use kvproto::status::not_done_status;
use kvproto::{
    Action, Change, Changed, ClusterId, Command, Digest, Epoch, Expect, Generation, Incarnation,
    LogPoint, LogTime, Member, NotDone, OpNumber, Outcome, Position, Query, Record, Refusal, Reply,
    RequestId, Revision, ServerName, SessionId, Settings, Version, View, ViewNumber, ViewStatus,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// How long a test waits for anything before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a server does with its next request, instead of answering it.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Refuses.
    Refuse(NotDone),
    /// Executes, but the answer is lost.
    LoseAnswer,
    /// Executes, and never answers.
    ExecuteAndHang,
    /// Never answers, and never executes.
    Hang,
    /// The op is refused in the log.
    RefuseInLog(Refusal),
    /// Answers a read as of this point.
    AnswerAsOf(LogPoint),
    /// Ends a snapshot in the middle, as if that were all.
    CutShort,
}

/// What all fake servers share.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) op: u64,
    pub(crate) data: BTreeMap<Bytes, Record>,
    pub(crate) answers: BTreeMap<RequestId, (LogPoint, Outcome)>,
    pub(crate) sessions: Vec<SessionId>,
    pub(crate) closed: Vec<SessionId>,
    pub(crate) keep_alives: u64,
}

impl Store {
    fn point(&self) -> LogPoint {
        LogPoint { generation: Generation(1), op: OpNumber(self.op) }
    }

    /// The data as a snapshot file.
    fn snapshot(&self) -> Vec<u8> {
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
        let position = |op| Position { epoch, op: OpNumber(op) };
        let keys = self.data.len() as u64;
        let head = SnapshotHead { cluster: ClusterId([7; 16]), at: position(self.op), keys };
        let (mut rolling, mut room) = (Rolling::default(), Vec::new());
        let mut chunk = RecordsWriter::new(1 << 20);
        for (key, Record { value, version }) in &self.data {
            rolling.add(digest::of_key(key, value, *version, &mut room));
            assert!(chunk.key(key, value, *version), "the fakes hold little");
        }
        let (mut writer, mut file) = {
            let (writer, head) = Writer::new(&head);
            (writer, head.to_vec())
        };
        let chunk = chunk.finish();
        if let Some(chunk) = &chunk {
            file.extend_from_slice(&writer.block(chunk));
            file.extend_from_slice(chunk);
        }
        file.extend_from_slice(&writer.end(&SnapshotEnd {
            epochs: vec![kvproto::EpochStart::at(position(1), Default::default())],
            log_time: LogTime::default(),
            digest: rolling.with(Rolling::default()),
            chunks: chunk.iter().count() as u64,
        }));
        file
    }

    fn execute(&mut self, operation: ExecuteOperation) -> Reply {
        match operation {
            ExecuteOperation::Query(Query::Get(keys)) => Reply::Records {
                at: self.point(),
                records: keys.iter().map(|key| self.data.get(key).cloned()).collect(),
            },
            ExecuteOperation::KeepAlive(_) => {
                self.keep_alives += 1;
                Reply::KeptAlive { at: self.point(), lease: Duration::from_millis(60) }
            }
            ExecuteOperation::Command { id, command } => {
                // A name without its floor, which differs between attempts.
                let name = id.map(|id| RequestId { first_open: id.number, ..id });
                if let Some((at, outcome)) = name.and_then(|name| self.answers.get(&name)) {
                    return Reply::Done { at: *at, outcome: outcome.clone() };
                }
                self.op += 1;
                let at = self.point();
                let outcome = self.apply(command);
                if let Some(name) = name {
                    self.answers.insert(name, (at, outcome.clone()));
                }
                Reply::Done { at, outcome }
            }
        }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        match command {
            Command::OpenSession => {
                let id = SessionId::allocated_at(Generation(1), OpNumber(self.op));
                self.sessions.push(id);
                Outcome::SessionOpened(id)
            }
            Command::CloseSession(id) => {
                self.closed.push(id);
                Outcome::SessionClosed { existed: true }
            }
            Command::Change(change) => match self.change(change) {
                Ok(changed) => Outcome::Changed(changed),
                Err(refusal) => Outcome::Refused(refusal),
            },
            other => panic!("the fakes do not know {other:?}"),
        }
    }

    fn change(&mut self, change: Change) -> Result<Changed, Refusal> {
        let version = Version::of_change_at(Generation(1), OpNumber(self.op));
        let before = self.data.get(&change.key).cloned();
        let value = match change.action {
            Action::Put(value) => Some(value),
            Action::Delete => None,
            Action::Append(suffix) => {
                let mut value = before.as_ref().map_or(vec![], |it| it.value.to_vec());
                value.extend_from_slice(&suffix);
                Some(value.into())
            }
            Action::CompareAndSet { expect, new_value } => {
                let holds = match (&expect, &before) {
                    (Expect::Missing, None) => true,
                    (Expect::Value(value), Some(record)) => record.value == **value,
                    (Expect::Version(version), Some(record)) => record.version == *version,
                    _ => false,
                };
                if !holds {
                    return Err(Refusal::ConditionFailed { record: before, change: 0 });
                }
                new_value
            }
        };
        let length = value.as_ref().map_or(0, |value| value.len() as u64);
        match value {
            Some(value) => self.data.insert(change.key, Record { value, version }),
            None => self.data.remove(&change.key),
        };
        Ok(Changed { version, existed: before.is_some(), length })
    }
}

/// One fake server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) name: ServerName,
    store: Arc<Mutex<Store>>,
    script: Arc<Mutex<VecDeque<Act>>>,
    /// Everything it was asked, in order.
    asked: Arc<Mutex<Vec<Execute>>>,
    /// While closed, requests for changes wait before they are executed.
    gate: watch::Sender<bool>,
}

impl Server {
    /// The next requests that are not session openings get these acts, one each.
    pub(crate) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().expect("nobody panics under it").extend(acts);
    }

    pub(crate) fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Execute> {
        self.asked.lock().expect("nobody panics under it").clone()
    }

    /// Identities of the requests for changes so far.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        self.asked()
            .into_iter()
            .filter_map(|asked| match asked.operation {
                ExecuteOperation::Command { id, .. } => id,
                _ => None,
            })
            .collect()
    }

    pub(crate) fn not_primary(&self, hint: &Server, view: u64) -> Act {
        Act::Refuse(NotDone::NotPrimary {
            primary: Some(hint.name.clone()),
            view: ViewNumber(view),
        })
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn is_change(operation: &ExecuteOperation) -> bool {
    matches!(operation, ExecuteOperation::Command { command: Command::Change(_), .. })
}

#[tonic::async_trait]
impl KvServer for Server {
    type DumpStream = Streamed<kv::DumpResponse>;
    type SnapshotStream = Streamed<kv::SnapshotResponse>;

    async fn get(&self, _: Request<kv::GetRequest>) -> Result<Response<kv::GetResponse>, Status> {
        Err(Status::unimplemented("not part of the fakes"))
    }

    async fn put(&self, _: Request<kv::PutRequest>) -> Result<Response<kv::PutResponse>, Status> {
        Err(Status::unimplemented("not part of the fakes"))
    }

    async fn execute(
        &self,
        request: Request<kv::ExecuteRequest>,
    ) -> Result<Response<kv::ExecuteResponse>, Status> {
        let execute = Execute::try_from(request.into_inner())?;
        self.asked.lock().expect("nobody panics under it").push(execute.clone());
        let operation = execute.operation;
        let scripted = is_change(&operation) || matches!(operation, ExecuteOperation::Query(_));
        let act = scripted.then(|| self.script.lock().expect("nobody panics under it").pop_front());
        if is_change(&operation) {
            let mut gate = self.gate.subscribe();
            gate.wait_for(|open| *open).await.expect("the gate exists");
        }
        let execute = || self.store.lock().expect("nobody panics under it").execute(operation);
        let reply = match act.flatten() {
            None => execute(),
            Some(Act::Refuse(why)) => return Err(not_done_status(&why)),
            Some(Act::LoseAnswer) => {
                execute();
                return Err(Status::unavailable("connection reset"));
            }
            Some(Act::ExecuteAndHang) => {
                execute();
                std::future::pending().await
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::CutShort) => panic!("only a snapshot is cut short"),
            Some(Act::RefuseInLog(refusal)) => Reply::Done {
                at: self.store.lock().expect("nobody panics under it").point(),
                outcome: Outcome::Refused(refusal),
            },
            Some(Act::AnswerAsOf(at)) => match execute() {
                Reply::Records { .. } => Reply::Records { at, records: vec![None] },
                other => other,
            },
        };
        let response = kv::ExecuteResponse::try_from(reply).expect("an answer");
        Ok(Response::new(response))
    }

    async fn dump(
        &self,
        _: Request<kv::DumpRequest>,
    ) -> Result<Response<Self::DumpStream>, Status> {
        use kv::dump_response::Body;
        let store = self.store.lock().expect("nobody panics under it");
        let mut bodies: Vec<Body> = store
            .data
            .iter()
            .map(|(key, record)| {
                Body::Record(kv::DumpedRecord {
                    key: key.clone(),
                    record: Some(record.clone().into()),
                })
            })
            .collect();
        bodies.push(Body::Summary(kv::DumpSummary {
            count: store.data.len() as u64,
            digest: Digest(0xabcd).into(),
            op_number: store.op,
            role: "primary".into(),
        }));
        let messages = bodies.into_iter().map(|body| Ok(kv::DumpResponse { body: Some(body) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.collect::<Vec<_>>()))))
    }

    async fn snapshot(
        &self,
        _: Request<kv::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut bytes = self.store.lock().expect("nobody panics under it").snapshot();
        let act = self.script.lock().expect("nobody panics under it").pop_front();
        if let Some(Act::CutShort) = act {
            bytes.truncate(bytes.len() / 2);
        }
        let pieces = bytes
            .chunks(100)
            .map(|piece| Ok(kv::SnapshotResponse { piece: Bytes::copy_from_slice(piece) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces.collect::<Vec<_>>()))))
    }
}

/// A fake view service.
#[derive(Clone)]
pub(crate) struct Views {
    pub(crate) address: String,
    pub(crate) newest: watch::Sender<View>,
    asked: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    stop: watch::Sender<bool>,
}

impl Views {
    fn count(&self, call: &'static str) -> Result<(), Status> {
        *self.asked.lock().expect("nobody panics under it").entry(call).or_default() += 1;
        if *self.stop.borrow() {
            return Err(Status::unavailable("the view service has stopped"));
        }
        Ok(())
    }

    /// Calls of any kind so far.
    pub(crate) fn calls(&self) -> u64 {
        self.asked.lock().expect("nobody panics under it").values().sum()
    }

    /// Whether somebody watches.
    pub(crate) fn watched(&self) -> bool {
        self.newest.receiver_count() > 0
    }

    /// Makes a server the primary of a new view, and pushes it.
    pub(crate) fn appoint(&self, primary: &ServerName) {
        self.newest.send_modify(|view| {
            view.number = view.number.next();
            view.revision = view.revision.next();
            view.status = ViewStatus::Activated;
            view.primary_since = view.number;
            view.primary = Some(Member { name: primary.clone(), incarnation: Incarnation(1) });
        });
    }

    /// Number of the present view.
    pub(crate) fn number(&self) -> u64 {
        self.newest.borrow().number.0
    }

    /// Changes the settings, as from the next view on.
    pub(crate) fn settings(&self, change: impl FnOnce(&mut Settings)) {
        self.newest.send_modify(|view| {
            view.revision = Revision(view.revision.0 + 1);
            change(&mut view.settings);
        });
    }

    /// The view service stops: it accepts nobody, and answers nothing on open connections.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

#[tonic::async_trait]
impl ViewService for Views {
    type WatchViewStream = Streamed<vs::View>;

    async fn ping(
        &self,
        _: Request<vs::PingRequest>,
    ) -> Result<Response<vs::PingResponse>, Status> {
        Err(Status::unimplemented("not part of the fakes"))
    }

    async fn get_view(
        &self,
        _: Request<vs::GetViewRequest>,
    ) -> Result<Response<vs::GetViewResponse>, Status> {
        self.count("GetView")?;
        let view = self.newest.borrow().clone();
        Ok(Response::new(vs::GetViewResponse { view: Some(view.into()) }))
    }

    async fn watch_view(
        &self,
        _: Request<vs::WatchViewRequest>,
    ) -> Result<Response<Self::WatchViewStream>, Status> {
        self.count("WatchView")?;
        let views = tokio_stream::wrappers::WatchStream::new(self.newest.subscribe());
        Ok(Response::new(Box::pin(views.map(|view| Ok(view.into())))))
    }

    async fn status(
        &self,
        _: Request<vs::StatusRequest>,
    ) -> Result<Response<vs::StatusResponse>, Status> {
        let view = self.newest.borrow().clone();
        let primary = view.primary.clone().map(|member| vs::ServerStatus {
            member: Some(member.into()),
            role: "primary".into(),
            state: "alive".into(),
            appended: 12,
            committed: 12,
            applied: 12,
            ping_age_ms: 80,
            plain: false,
            memory_used: 3 << 20,
            memory_max: 1 << 30,
            disk_full: false,
            ..vs::ServerStatus::default()
        });
        let backup = vs::ServerStatus {
            member: Some(vs::Member { name: "localhost:7".into(), incarnation: 2 }),
            role: "joining".into(),
            state: "alive".into(),
            appended: 9,
            committed: 9,
            applied: 9,
            ping_age_ms: 90,
            plain: false,
            memory_used: 3 << 20,
            memory_max: 1 << 30,
            disk_full: false,
            ..vs::ServerStatus::default()
        };
        Ok(Response::new(vs::StatusResponse {
            view: Some(view.into()),
            servers: primary.into_iter().chain([backup]).collect(),
            waiting_for: vec![],
            advice: "Wait until localhost:7 has caught up.".into(),
            rpcs_handled: Default::default(),
            version: "test".into(),
            storage: "durable".into(),
            doubt: None,
            refused: vec![],
        }))
    }

    async fn force(
        &self,
        request: Request<vs::ForceRequest>,
    ) -> Result<Response<vs::ForceResponse>, Status> {
        self.count("Force")?;
        if request.into_inner().server.is_empty() {
            return Err(Status::invalid_argument("name a server"));
        }
        Err(Status::failed_precondition("an eligible server is alive: hand over instead"))
    }
}

/// The whole fake cluster.
pub(crate) struct Cluster {
    pub(crate) views: Views,
    pub(crate) store: Arc<Mutex<Store>>,
}

impl Cluster {
    /// A view service that names nobody yet.
    pub(crate) async fn start() -> Self {
        let (listener, address) = listen().await;
        let views = Views {
            address: format!("localhost:{}", address.port()),
            newest: watch::Sender::new(View::none(ClusterId([7; 16]), Settings::default())),
            asked: Arc::default(),
            stop: watch::Sender::new(false),
        };
        let mut stop = views.stop.subscribe();
        let router =
            tonic::transport::Server::builder().add_service(ViewServiceServer::new(views.clone()));
        tokio::spawn(async move {
            // Dropping the serving future closes the listener; open connections go on.
            tokio::select! {
                served = router.serve_with_incoming(TcpListenerStream::new(listener)) => {
                    served.expect("the fake view service serves");
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        Self { views, store: Arc::default() }
    }

    /// A fake cluster whose first server is primary of view 1.
    pub(crate) async fn with_primary() -> (Self, Server) {
        let cluster = Self::start().await;
        let server = cluster.server().await;
        cluster.views.appoint(&server.name);
        (cluster, server)
    }

    /// One more server.
    pub(crate) async fn server(&self) -> Server {
        let (listener, address) = listen().await;
        let server = Server {
            name: format!("127.0.0.1:{}", address.port()).into(),
            store: self.store.clone(),
            script: Arc::default(),
            asked: Arc::default(),
            gate: watch::Sender::new(true),
        };
        let router =
            tonic::transport::Server::builder().add_service(KvServerServer::new(server.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        server
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> ServerName {
    let (listener, address) = listen().await;
    drop(listener);
    format!("127.0.0.1:{}", address.port()).into()
}

/// Waits until a condition holds.
pub(crate) async fn until(reason: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {reason}"));
}
