//! A view service without law or policy: it says what the test says.

use std::collections::BTreeSet;

use kvprocess::serve::CallLimits;
use kvproto::pb::viewservice as pb;
use kvproto::pb::viewservice::registration_server::{Registration, RegistrationServer};
use kvproto::registration::{FromServer, Progress, RefusedReason, ToServer, Wish};
use kvproto::{
    ClusterId, Generation, Incarnation, Member, Revision, ServerName, Settings, View, ViewNumber,
    ViewStatus,
};
use kvserver::Config;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::common::{PATIENCE, Running, put_eventually};

const LIMITS: CallLimits =
    CallLimits { bytes_max: 1 << 30, connection_bytes_max: 1 << 30, exempt: &["/"] };

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

pub(crate) struct Scripted {
    pub(crate) name: String,
    attending: mpsc::Receiver<Attending>,
    stop: CancellationToken,
}

/// One registration stream, from its first message on.
pub(crate) struct Attending {
    pub(crate) server: ServerName,
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) shown: Option<Box<View>>,
    up: Streaming<pb::FromServer>,
    down: mpsc::Sender<Result<pb::ToServer, Status>>,
}

struct Door(mpsc::Sender<Attending>);

#[tonic::async_trait]
impl Registration for Door {
    type AttendStream = ReceiverStream<Result<pb::ToServer, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::FromServer>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let mut up = request.into_inner();
        let (down, answers) = mpsc::channel(64);
        let attending = self.0.clone();
        tokio::spawn(async move {
            let Ok(Some(first)) = up.message().await else {
                return;
            };
            let first = FromServer::try_from(first).expect("servers are well-formed");
            let FromServer::Register(first) = first else {
                panic!("a stream begins with Register, not {first:?}");
            };
            let (server, incarnation, cluster) = (first.name, first.incarnation, first.cluster);
            let shown = first.shown;
            let first = Attending { server, incarnation, cluster, shown, up, down };
            // The test may be over.
            let _ = attending.send(first).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Scripted {
    pub(crate) fn start() -> Scripted {
        let listeners = kvprocess::listen::bind("localhost:0", false).expect("a free port");
        let name = format!("localhost:{}", listeners.port());
        let (found, attending) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let router =
            kvprocess::serve::builder(LIMITS).add_service(RegistrationServer::new(Door(found)));
        tokio::spawn(kvprocess::serve::serve(router, listeners, 100, None, stop.clone()));
        Scripted { name, attending, stop }
    }

    /// The next stream that a server opens.
    pub(crate) async fn next(&mut self) -> Attending {
        let next = timeout(PATIENCE, self.attending.recv()).await;
        next.expect("a server attends in time").expect("the view service runs")
    }
}

/// A primary without backups, and what keeps it so.
pub(crate) struct Alone {
    pub(crate) server: Running,
    pub(crate) stream: Attending,
    pub(crate) view_service: Scripted,
    /// The view it serves in.
    pub(crate) view: View,
}

/// A primary without backups, for clusters with these settings, that differs from the ordinary one
/// as `change` says. It is life 1 of its server and holds one key, `first`.
pub(crate) async fn alone_with(settings: Settings, change: impl FnOnce(&mut Config)) -> Alone {
    let mut view_service = Scripted::start();
    let server = Running::start_with(&view_service.name, change);
    let mut stream = view_service.next().await;
    stream.register(1, &View { settings: settings.clone(), ..no_view() }).await;
    let me = stream.member(1);
    let view = View { settings, ..proposed(1, &me, &[]) };
    stream.push(&view).await;
    stream.wish_with(|wish| matches!(wish, Wish::Activate { .. })).await;
    let view = activated(&view, &[&me]);
    stream.push(&view).await;
    put_eventually(&server, "first", "put").await;
    Alone { server, stream, view_service, view }
}

/// An ordinary primary without backups.
pub(crate) async fn alone() -> Alone {
    alone_with(Settings::default(), |_| {}).await
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Attending {
    pub(crate) fn member(&self, incarnation: u64) -> Member {
        Member { name: self.server.clone(), incarnation: Incarnation(incarnation) }
    }

    pub(crate) async fn say(&self, message: ToServer) {
        // A server that has gone hears nothing.
        let _ = self.down.send(Ok(message.into())).await;
    }

    pub(crate) async fn register(&self, incarnation: u64, view: &View) {
        let incarnation = Incarnation(incarnation);
        self.say(ToServer::Registered { incarnation, view: Box::new(view.clone()) }).await;
    }

    pub(crate) async fn refuse(&self, reason: RefusedReason, message: &str) {
        self.say(ToServer::Refused { reason, message: message.into() }).await;
    }

    pub(crate) async fn push(&self, view: &View) {
        self.say(ToServer::View(Box::new(view.clone()))).await;
    }

    async fn heard(&mut self) -> FromServer {
        let message = timeout(PATIENCE, self.up.message()).await;
        let message = message.expect("the server says something").expect("the stream stands");
        let message = message.expect("the server keeps the stream");
        FromServer::try_from(message).expect("servers are well-formed")
    }

    pub(crate) async fn ping_with(&mut self, wanted: impl Fn(&Progress) -> bool) -> Progress {
        loop {
            match self.heard().await {
                FromServer::Ping(progress) if wanted(&progress) => return progress,
                _ => {}
            }
        }
    }

    pub(crate) async fn wish_with(&mut self, wanted: impl Fn(&Wish) -> bool) -> Wish {
        loop {
            match self.heard().await {
                FromServer::Wish(wish) if wanted(&wish) => return wish,
                _ => {}
            }
        }
    }
}

/// The record of a cluster that has no view yet.
pub(crate) fn no_view() -> View {
    View::none(CLUSTER, Settings::default())
}

/// A proposed view of generation 1 whose primary was appointed in it.
pub(crate) fn proposed(number: u64, primary: &Member, backups: &[Member]) -> View {
    View {
        generation: Generation(1),
        number: ViewNumber(number),
        revision: Revision(number * 10),
        status: ViewStatus::Proposed,
        primary_since: ViewNumber(number),
        primary: Some(primary.clone()),
        backups: backups.to_vec(),
        ..no_view()
    }
}

/// The same view, activated, with these eligible.
pub(crate) fn activated(view: &View, eligible: &[&Member]) -> View {
    View {
        revision: view.revision.next(),
        status: ViewStatus::Activated,
        eligible: eligible.iter().map(|member| (*member).clone()).collect::<BTreeSet<_>>(),
        ..view.clone()
    }
}
