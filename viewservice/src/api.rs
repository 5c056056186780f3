//! The gRPC services: turns messages into requests to the monitor and back. One implementation
//! serves the package `viewservice` and, for programs of the Go predecessor, the package `proto`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kvproto::convert::Malformed;
use kvproto::pb::legacy::view_service_server::ViewService as LegacyViewService;
use kvproto::pb::viewservice::registration_server::Registration as RegistrationService;
use kvproto::pb::viewservice::view_service_server::ViewService;
use kvproto::pb::viewservice::{
    self as pb, ForceRequest, ForceResponse, GetViewRequest, GetViewResponse, PingRequest,
    PingResponse, StatusRequest, StatusResponse, WatchViewRequest,
};
use kvproto::registration::{FromServer, RefusedReason, ToServer};
use kvproto::{ServerName, View, ViewNumber};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::assignment::door::Knock;
use crate::assignment::law::{Mode, NAME_SIZE_MAX, Shown};
use crate::assignment::leader::{DoubtReport, Report, ServerReport, Stream as Attended};
use crate::calls::Calls;
use crate::monitor::{Handle, Refused, Stopping};

/// A stream that does not begin with `register` by then is closed.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);

/// Messages on their way to one reader. When it does not read, its task waits here, and later goes
/// on with the newest view.
const OUTGOING: usize = 4;

/// A stream of messages to a caller.
type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    monitor: Handle,
    calls: Arc<Calls>,
    token: CancellationToken,
}

impl Api {
    /// The services over this monitor. Streams end when the token is cancelled.
    #[must_use]
    pub fn new(monitor: Handle, calls: Arc<Calls>, token: CancellationToken) -> Api {
        Api { monitor, calls, token }
    }

    async fn pinged(
        &self,
        request: Request<PingRequest>,
    ) -> Result<Response<PingResponse>, Status> {
        let PingRequest { server_name, view_number } = request.into_inner();
        if !(1..=NAME_SIZE_MAX).contains(&server_name.len()) {
            return Err(Status::invalid_argument(format!(
                "server_name has {} bytes; it must have 1 to {NAME_SIZE_MAX}",
                server_name.len()
            )));
        }
        let pinged = self.monitor.ping(server_name.into(), ViewNumber(view_number));
        let view = pinged.await.map_err(stopping)?;
        Ok(Response::new(PingResponse { view: Some(wire(&view)) }))
    }

    fn view(&self) -> Response<GetViewResponse> {
        Response::new(GetViewResponse { view: Some(wire(&self.monitor.view())) })
    }
}

#[tonic::async_trait]
impl ViewService for Api {
    type WatchViewStream = Outgoing<pb::View>;

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.calls.count("/viewservice.ViewService/Ping");
        self.pinged(request).await
    }

    async fn get_view(
        &self,
        _request: Request<GetViewRequest>,
    ) -> Result<Response<GetViewResponse>, Status> {
        self.calls.count("/viewservice.ViewService/GetView");
        Ok(self.view())
    }

    async fn watch_view(
        &self,
        _request: Request<WatchViewRequest>,
    ) -> Result<Response<Self::WatchViewStream>, Status> {
        self.calls.count("/viewservice.ViewService/WatchView");
        let (out, stream) = mpsc::channel(OUTGOING);
        tokio::spawn(push_views(self.monitor.views(), out, self.token.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.calls.count("/viewservice.ViewService/Status");
        let report = self.monitor.report().await.map_err(stopping)?;
        Ok(Response::new(status(report, &self.calls)))
    }

    async fn force(
        &self,
        request: Request<ForceRequest>,
    ) -> Result<Response<ForceResponse>, Status> {
        self.calls.count("/viewservice.ViewService/Force");
        let request = request.into_inner();
        if !request.accept_data_loss {
            return Err(Status::invalid_argument(
                "accept_data_loss must be true: a new generation gives up every op that the named \
                 server does not hold",
            ));
        }
        let forced = self.monitor.force(request.server.into()).await;
        let view = forced.map_err(stopping)?.map_err(Status::failed_precondition)?;
        Ok(Response::new(ForceResponse { view: Some(wire(&view)) }))
    }
}

#[tonic::async_trait]
impl LegacyViewService for Api {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.calls.count("/proto.ViewService/Ping");
        self.pinged(request).await
    }

    async fn get_view(
        &self,
        _request: Request<GetViewRequest>,
    ) -> Result<Response<GetViewResponse>, Status> {
        self.calls.count("/proto.ViewService/GetView");
        Ok(self.view())
    }
}

#[tonic::async_trait]
impl RegistrationService for Api {
    type AttendStream = Outgoing<pb::ToServer>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::FromServer>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        self.calls.count("/viewservice.Registration/Attend");
        let (out, stream) = mpsc::channel(OUTGOING);
        let door = Door { monitor: self.monitor.clone(), incoming: request.into_inner(), out };
        let token = self.token.clone();
        tokio::spawn(async move {
            // Cancelled at a point where it waits: a server that is cut off tries again.
            let _ended = token.run_until_cancelled(door.attend()).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One registration stream.
struct Door {
    monitor: Handle,
    incoming: Streaming<pb::FromServer>,
    out: mpsc::Sender<Result<pb::ToServer, Status>>,
}

/// The stream is over; nobody needs to be told.
struct Over;

impl Door {
    async fn attend(mut self) {
        let mut views = self.monitor.records();
        let (tell, mut told) = mpsc::channel(OUTGOING);
        let Ok((stream, view)) = self.register(tell).await else {
            return;
        };
        let registered = ToServer::Registered {
            incarnation: stream.member.incarnation,
            view: Box::new((*view).clone()),
        };
        if self.say(registered).await.is_ok() {
            let mut sent = view.order();
            while self.exchange(&stream, &mut views, &mut told, &mut sent).await.is_ok() {}
        }
        let _stopping = self.monitor.broken(stream).await;
    }

    async fn register(
        &mut self,
        tell: mpsc::Sender<ToServer>,
    ) -> Result<(Attended, Arc<View>), Over> {
        let first = tokio::time::timeout(REGISTER_WITHIN, self.next()).await;
        let message = match first {
            Ok(Ok(message)) => message?,
            Ok(Err(malformed)) => return self.refuse(&malformed.to_string()).await,
            Err(_late) => return self.refuse("no `register` came in time").await,
        };
        let FromServer::Register(registration) = message else {
            return self.refuse("the first message must be `register`").await;
        };
        match self.monitor.register(registration, tell).await {
            Ok(Ok(attended)) => Ok(attended),
            Ok(Err(Refused { reason, message })) => {
                self.say(ToServer::Refused { reason, message }).await?;
                Err(Over)
            }
            Err(Stopping) => Err(Over),
        }
    }

    /// The next thing that happens on the stream.
    async fn exchange(
        &mut self,
        stream: &Attended,
        views: &mut watch::Receiver<Arc<View>>,
        told: &mut mpsc::Receiver<ToServer>,
        sent: &mut kvproto::ViewOrder,
    ) -> Result<(), Over> {
        tokio::select! {
            message = self.next() => {
                let done = match message {
                    Ok(Ok(FromServer::Ping(progress))) => {
                        self.monitor.progress(stream, progress).await
                    }
                    Ok(Ok(FromServer::Wish(wish))) => self.monitor.wish(stream, wish).await,
                    Ok(Ok(FromServer::Met(process))) => self.monitor.met_by(stream, process).await,
                    Ok(Ok(FromServer::Register(_))) => {
                        return self.refuse("a stream registers once").await;
                    }
                    Ok(Err(Over)) => return Err(Over),
                    Err(malformed) => return self.refuse(&malformed.to_string()).await,
                };
                done.map_err(|Stopping| Over)
            }
            message = told.recv() => {
                let message = message.ok_or(Over)?;
                let last = matches!(message, ToServer::Refused { .. });
                self.say(message).await?;
                if last { Err(Over) } else { Ok(()) }
            }
            changed = views.changed() => {
                changed.map_err(|_| Over)?;
                let view = views.borrow_and_update().clone();
                if view.order() > *sent {
                    *sent = view.order();
                    self.say(ToServer::View(Box::new((*view).clone()))).await?;
                }
                Ok(())
            }
        }
    }

    /// The next message; the inner error says that there will be none.
    async fn next(&mut self) -> Result<Result<FromServer, Over>, Malformed> {
        match self.incoming.message().await {
            Ok(Some(message)) => FromServer::try_from(message).map(Ok),
            Err(status) if matches!(status.code(), Code::Internal | Code::OutOfRange) => {
                Err(Malformed { what: "the bytes are no message of a server" })
            }
            Ok(None) | Err(_) => Ok(Err(Over)),
        }
    }

    async fn refuse<T>(&mut self, message: &str) -> Result<T, Over> {
        let refused =
            ToServer::Refused { reason: RefusedReason::Incompatible, message: message.to_owned() };
        self.say(refused).await?;
        Err(Over)
    }

    async fn say(&mut self, message: ToServer) -> Result<(), Over> {
        self.out.send(Ok(message.into())).await.map_err(|_| Over)
    }
}

async fn push_views(
    mut views: watch::Receiver<Arc<View>>,
    out: mpsc::Sender<Result<pb::View, Status>>,
    token: CancellationToken,
) {
    loop {
        let view = views.borrow_and_update().clone();
        if out.send(Ok(wire(&view))).await.is_err() {
            return;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = out.closed() => return,
            () = token.cancelled() => return,
        }
    }
}

fn status(report: Report, calls: &Calls) -> StatusResponse {
    let view = &report.view;
    let (waiting_for, advice) =
        report.waiting.map(|it| (it.for_servers, it.advice)).unwrap_or_default();
    let servers = report.servers.into_iter();
    StatusResponse {
        servers: servers.map(|server| server_status(view, server)).collect(),
        waiting_for: waiting_for.iter().map(ToString::to_string).collect(),
        advice,
        rpcs_handled: calls.all(),
        version: kvprocess::VERSION.to_owned(),
        storage: storage(report.mode).to_owned(),
        refused: report.refused.into_iter().map(knock).collect(),
        doubt: report.doubt.map(doubt),
        view: Some(wire(view)),
    }
}

fn knock((name, knock, age): (ServerName, Knock, Duration)) -> pb::Knock {
    let shown = knock.shown.unwrap_or_default();
    pb::Knock {
        name: name.to_string(),
        incarnation: knock.incarnation.unwrap_or_default().0,
        cluster_id: knock.cluster.map(|id| id.0.to_vec()).unwrap_or_default().into(),
        reason: pb::refused::Reason::from(knock.reason).into(),
        message: knock.message,
        age_ms: millis(age),
        durable: knock.storage.is_some(),
        generation: shown.generation.0,
        view_number: shown.number.0,
        revision: shown.revision.0,
    }
}

fn doubt(doubt: DoubtReport) -> pb::Doubt {
    let shown = |shown: Shown| pb::Shown {
        name: shown.name.to_string(),
        incarnation: shown.incarnation.unwrap_or_default().0,
        generation: shown.order.generation.0,
        view_number: shown.order.number.0,
        revision: shown.order.revision.0,
        primary: shown
            .record
            .and_then(|record| record.primary_name().map(ToString::to_string))
            .unwrap_or_default(),
    };
    let silence = |(name, silent_for): (ServerName, Duration)| pb::Silence {
        name: name.to_string(),
        silent_ms: millis(silent_for),
    };
    pb::Doubt {
        shown: doubt.shown.into_iter().map(shown).collect(),
        may_serve: doubt.may_serve.into_iter().map(silence).collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn storage(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Durable) => "durable",
        Some(Mode::InMemory) => "in memory",
        None => "",
    }
}

fn server_status(view: &View, server: ServerReport) -> pb::ServerStatus {
    let progress = server.progress;
    let (left_out, after, because) =
        server.left_out.map_or_else(Default::default, |it| (it.times, it.after, it.because));
    let age = server.unheard_for.unwrap_or_default();
    pb::ServerStatus {
        role: view.role_of(&server.member).as_str().to_owned(),
        state: server.state.as_str().to_owned(),
        appended: progress.map_or(0, |progress| progress.appended.0),
        committed: progress.map_or(0, |progress| progress.committed.0),
        applied: progress.map_or(0, |progress| progress.applied.0),
        ping_age_ms: millis(age),
        plain: server.plain,
        memory_used: progress.map_or(0, |progress| progress.memory.used),
        memory_max: progress.map_or(0, |progress| progress.memory.max),
        disk_full: progress.is_some_and(|progress| progress.disk_full),
        disk_waits_ms: progress.map_or(0, |progress| {
            u64::try_from(progress.disk_waits.as_millis()).unwrap_or(u64::MAX)
        }),
        not_met: server.not_met.map(|why| why.to_string()).unwrap_or_default(),
        tried_again_in_ms: millis(after),
        left_out,
        left_out_because: because,
        directory_gone: progress.is_some_and(|progress| progress.directory_gone),
        member: Some(server.member.into()),
    }
}

fn wire(view: &View) -> pb::View {
    view.clone().into()
}

fn stopping(Stopping: Stopping) -> Status {
    Status::unavailable(Stopping.to_string())
}
