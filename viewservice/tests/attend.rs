//! The view service as its callers see it, over real connections.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kvprocess::{dial, listen};
use kvproto::convert::Malformed;
use kvproto::pb::legacy::view_service_client::ViewServiceClient as LegacyClient;
use kvproto::pb::replication::meeting_server::{Meeting, MeetingServer};
use kvproto::pb::replication::{MeetRequest, MeetResponse};
use kvproto::pb::viewservice as pb;
use kvproto::pb::viewservice::registration_client::RegistrationClient;
use kvproto::pb::viewservice::view_service_client::ViewServiceClient;
use kvproto::registration::{
    FromServer, Memory, PROTOCOL_LEVEL, Process, Progress, RefusedReason, Registration, ToServer,
    Wish,
};
use kvproto::{ClusterId, History, Incarnation, LifeId, Member, OpNumber, Role, Settings, View};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use viewservice::config::SettingFlags;
use viewservice::home::Home;

/// Nobody dies of silence in these tests, so whatever is noticed was noticed by other means.
const NEVER: Duration = Duration::from_secs(600);

/// A view service of its own on a free port; it stops with the test.
struct Service {
    channel: Channel,
    token: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    /// Where it keeps its state.
    directory: Arc<TempDir>,
}

impl Service {
    async fn start() -> Service {
        Service::with(Settings {
            dead_after: NEVER,
            session_lease: NEVER * 3,
            ..Settings::default()
        })
        .await
    }

    async fn with(settings: Settings) -> Service {
        let directory = tempfile::tempdir().unwrap();
        Service::at(Arc::new(directory), settings.into(), true).await
    }

    async fn at(directory: Arc<TempDir>, settings: SettingFlags, new: bool) -> Service {
        let home = Home::open(directory.path(), &settings, new).await.unwrap();
        let listeners = listen::bind("127.0.0.1:0", false).unwrap();
        let address = listeners.addresses()[0].to_string();
        let token = CancellationToken::new();
        let running = tokio::spawn(viewservice::run(home, listeners, token.clone()));
        let channel = dial::connect(&address).await.unwrap();
        Service { channel, token, running, directory }
    }

    /// It stops, and a new one goes on with its directory.
    async fn restart(mut self) -> Service {
        self.token.cancel();
        soon("the service to stop", &mut self.running).await.unwrap().unwrap();
        Service::at(self.directory.clone(), SettingFlags::default(), false).await
    }

    fn views(&self) -> ViewServiceClient<Channel> {
        ViewServiceClient::new(self.channel.clone())
    }

    async fn view(&self) -> View {
        let answer = self.views().get_view(pb::GetViewRequest {}).await.unwrap();
        answer.into_inner().view.unwrap().try_into().unwrap()
    }

    async fn status(&self) -> pb::StatusResponse {
        let answer = self.views().status(pb::StatusRequest {}).await.unwrap();
        answer.into_inner()
    }

    async fn ping(&self, server: &str, view_number: u64) -> pb::View {
        let request = pb::PingRequest { server_name: server.into(), view_number };
        let answer = self.views().ping(request).await.unwrap();
        answer.into_inner().view.unwrap()
    }

    /// A stream whose first message is this one.
    async fn open(&self, first: pb::FromServer) -> Attending {
        let (up, messages) = mpsc::channel(16);
        up.send(first).await.unwrap();
        let mut client = RegistrationClient::new(self.channel.clone());
        let answer = client.attend(ReceiverStream::new(messages)).await.unwrap();
        Attending { up, down: answer.into_inner() }
    }

    async fn register(&self, register: FromServer) -> (Attending, ToServer) {
        let mut attending = self.open(register.into()).await;
        let answer = attending.next().await;
        (attending, answer)
    }

    /// A server that is met at its address starts and attends.
    async fn server(&self) -> Server {
        let address = listen("127.0.0.1:0", None).await;
        let name = address.name.clone();
        let (attending, answer) = self.register(process(&name, life_at(&name))).await;
        let ToServer::Registered { incarnation, view } = answer else {
            panic!("{name} was not registered: {answer:?}");
        };
        let member = Member { name: name.into(), incarnation };
        Server { member, attending, view: *view, address }
    }

    /// Waits until somebody is in this state.
    async fn until_somebody_is(&self, state: &str) {
        let wait = async {
            while !self.status().await.servers.iter().any(|server| server.state == state) {}
        };
        soon(&format!("somebody to be {state}"), wait).await;
    }

    async fn refusal(&self, register: FromServer) -> RefusedReason {
        match self.register(register).await.1 {
            ToServer::Refused { reason, message } => {
                assert!(!message.is_empty());
                reason
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.token.cancel();
        self.running.abort();
    }
}

struct Attending {
    up: mpsc::Sender<pb::FromServer>,
    down: Streaming<pb::ToServer>,
}

impl Attending {
    async fn next(&mut self) -> ToServer {
        let message = soon("a message from the view service", self.down.message()).await;
        let message = message.unwrap().expect("the stream has ended");
        let message: Result<_, Malformed> = message.try_into();
        message.unwrap()
    }

    async fn end(&mut self) {
        let end = soon("the end of the stream", self.down.message()).await;
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    }
}

struct Server {
    member: Member,
    attending: Attending,
    view: View,
    address: Address,
}

/// Answers at an address, as one process, until it is dropped.
struct Address {
    name: String,
    serving: JoinHandle<()>,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Answers(LifeId);

#[tonic::async_trait]
impl Meeting for Answers {
    async fn meet(&self, _: Request<MeetRequest>) -> Result<Response<MeetResponse>, Status> {
        Ok(Response::new(MeetResponse { life: self.0.0.to_vec().into() }))
    }
}

/// Answers as this process, or as the first one at the address.
async fn listen(at: &str, life: Option<LifeId>) -> Address {
    let listener = TcpListener::bind(at).await.unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let door = MeetingServer::new(Answers(life.unwrap_or_else(|| life_at(&name))));
    let serving = tokio::spawn(async move {
        let router = tonic::transport::Server::builder().add_service(door);
        router.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
    });
    Address { name, serving }
}

/// The first process at an address.
fn life_at(name: &str) -> LifeId {
    let mut life = [0; 16];
    let bytes = name.bytes().rev();
    life.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    LifeId(life)
}

impl Server {
    async fn wish(&self, wish: Wish) {
        self.attending.up.send(FromServer::Wish(wish).into()).await.unwrap();
    }

    /// Waits for a pushed view.
    async fn until(&mut self, what: &str, wanted: impl Fn(&View) -> bool) {
        while !wanted(&self.view) {
            match self.attending.next().await {
                ToServer::View(view) => self.view = *view,
                ToServer::Meet(_) => {}
                other => panic!("waiting for {what}: {other:?}"),
            }
        }
    }

    async fn activate(&mut self, reconciled: Vec<Member>) {
        let number = self.view.number;
        self.wish(Wish::Activate { generation: self.view.generation, number, reconciled }).await;
        self.until("the activation", |view| view.number == number && view.is_activated()).await;
    }

    async fn synced(&mut self, server: &Member) {
        self.wish(Wish::Synced {
            generation: self.view.generation,
            number: self.view.number,
            server: server.clone(),
        })
        .await;
        self.until("the newcomer to be complete", |view| view.eligible.contains(server)).await;
    }

    /// Its process ends: the kernel closes its connections and its listener.
    fn kill(self) -> Member {
        self.member
    }

    /// Its connection breaks; the process lives on.
    fn cut_off(self) -> (Member, Address) {
        (self.member, self.address)
    }
}

/// Another process than the first one at this address.
fn newcomer(name: &str) -> FromServer {
    process(name, LifeId([0xff; 16]))
}

fn process(name: &str, life: LifeId) -> FromServer {
    FromServer::Register(Registration {
        name: name.into(),
        life,
        incarnation: None,
        cluster: None,
        protocol_level: PROTOCOL_LEVEL,
        held: None,
        shown: None,
    })
}

/// A life that goes on, and has this record.
fn again(member: &Member, record: &View) -> FromServer {
    FromServer::Register(Registration {
        name: member.name.clone(),
        life: life_at(member.name.as_str()),
        incarnation: Some(member.incarnation),
        cluster: Some(record.cluster),
        protocol_level: PROTOCOL_LEVEL,
        held: None,
        shown: Some(Box::new(record.clone())),
    })
}

/// A deadline far beyond anything that happens, so that a failure says what it waited for.
async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// A primary and a complete backup.
async fn pair(service: &Service) -> (Server, Server) {
    let mut primary = service.server().await;
    primary.until("its own view", |view| view.primary.is_some()).await;
    primary.activate(Vec::new()).await;
    let mut backup = service.server().await;
    let member = backup.member.clone();
    primary.until("the recruit", |view| view.backups.contains(&member)).await;
    primary.activate(Vec::new()).await;
    primary.synced(&member).await;
    backup.until("its own standing", |view| view.eligible.contains(&member)).await;
    (primary, backup)
}

#[tokio::test]
async fn servers_attend_and_every_change_is_pushed_to_all() {
    let service = Service::start().await;
    let request = pb::WatchViewRequest {};
    let mut watch = service.views().watch_view(request).await.unwrap().into_inner();
    let first = soon("the first view", watch.message()).await.unwrap().unwrap();
    assert_eq!((first.view_number, first.primary.as_str()), (0, ""));

    let (primary, backup) = pair(&service).await;
    assert!(primary.view.is_primary(&primary.member));
    assert_eq!(primary.view.role_of(&backup.member), Role::Backup);
    assert_eq!(backup.view.number, primary.view.number);
    loop {
        let seen = soon("the newest view", watch.message()).await.unwrap().unwrap();
        if seen.revision == primary.view.revision.0 {
            break;
        }
    }
}

#[tokio::test]
async fn a_killed_primary_is_noticed_by_its_broken_stream_and_replaced() {
    let service = Service::start().await;
    let (primary, mut backup) = pair(&service).await;
    let number = backup.view.number;
    let killed = primary.kill();
    let me = backup.member.clone();
    backup.until("its promotion", |view| view.is_primary(&me)).await;
    assert_eq!(backup.view.number, number.next());
    assert!(!backup.view.members().any(|member| *member == killed));
}

#[tokio::test]
async fn a_server_that_is_only_cut_off_resumes_its_life() {
    let service = Service::start().await;
    let (primary, backup) = pair(&service).await;
    let before = backup.view.clone();
    let (member, _still_listening) = primary.cut_off();
    service.until_somebody_is("suspected").await;
    let (_attending, answer) = service.register(again(&member, &before)).await;
    let ToServer::Registered { incarnation, view } = answer else {
        panic!("it was not resumed: {answer:?}");
    };
    assert_eq!(incarnation, member.incarnation);
    assert_eq!(*view, before);
    assert!(service.status().await.servers.iter().all(|server| server.state == "alive"));
}

#[tokio::test]
async fn a_second_start_is_refused_while_the_first_lives_and_then_makes_the_first_stale() {
    let service = Service::start().await;
    let first = service.server().await;
    let name = first.member.name.as_str().to_owned();
    let record = first.view.clone();
    assert_eq!(service.refusal(newcomer(&name)).await, RefusedReason::NameInUse);

    let killed = first.kill();
    service.until_somebody_is("dead").await;
    let _newer = listen(&name, Some(LifeId([0xff; 16]))).await;
    let admitted = async {
        loop {
            let (attending, answer) = service.register(newcomer(&name)).await;
            if let ToServer::Registered { incarnation, .. } = answer {
                return (attending, incarnation);
            }
        }
    };
    let (_attending, incarnation) = soon("the new life to be admitted", admitted).await;
    assert!(incarnation > killed.incarnation);
    let stale = service.refusal(again(&killed, &record)).await;
    assert_eq!(stale, RefusedReason::StaleIncarnation);
}

#[tokio::test]
async fn a_newer_stream_of_the_same_life_replaces_the_older_one() {
    let service = Service::start().await;
    let mut server = service.server().await;
    let (mut newer, answer) = service.register(again(&server.member, &server.view)).await;
    assert!(matches!(answer, ToServer::Registered { .. }));
    while let ToServer::View(_) = match server.attending.down.message().await {
        Ok(Some(message)) => message.try_into().unwrap(),
        _ => ToServer::NobodyToTakeOver,
    } {}
    let wish = FromServer::Wish(Wish::Leave);
    newer.up.send(wish.into()).await.unwrap();
    assert_eq!(newer.next().await, ToServer::NobodyToTakeOver);
}

#[tokio::test]
async fn a_first_message_that_is_no_registration_is_refused() {
    let service = Service::start().await;
    let ping = FromServer::Ping(Progress {
        view: View::none(ClusterId::default(), Settings::default()).order(),
        history: History::default(),
        appended: OpNumber(0),
        committed: OpNumber(0),
        applied: OpNumber(0),
        steps: 1,
        role: Role::Spare,
        memory: Memory::default(),
        disk_full: false,
        disk_waits: Duration::ZERO,
        directory_gone: false,
    });
    let nameless = pb::Register::default();
    let garbage = [
        pb::FromServer { body: None },
        ping.into(),
        pb::FromServer { body: Some(pb::from_server::Body::Register(nameless)) },
    ];
    for first in garbage {
        let mut attending = service.open(first).await;
        let answer = attending.next().await;
        assert!(
            matches!(&answer, ToServer::Refused { reason: RefusedReason::Incompatible, .. }),
            "{answer:?}"
        );
        attending.end().await;
    }
    assert_eq!(service.view().await.number.0, 0);
}

#[tokio::test]
async fn garbage_on_an_open_stream_ends_the_stream() {
    let service = Service::start().await;
    let server = service.server().await;
    let mut attending = server.attending;
    attending.up.send(pb::FromServer { body: None }).await.unwrap();
    while let ToServer::View(_) = attending.next().await {}
    attending.end().await;
}

#[tokio::test]
async fn a_server_of_another_cluster_or_an_old_program_is_refused() {
    let service = Service::start().await;
    let stranger = Member { name: "localhost:1".into(), incarnation: Incarnation(7) };
    let other = again(&stranger, &View::none(ClusterId([9; 16]), Settings::default()));
    assert_eq!(service.refusal(other).await, RefusedReason::WrongCluster);
    let old = FromServer::Register(Registration {
        name: stranger.name,
        life: LifeId::default(),
        incarnation: None,
        cluster: None,
        protocol_level: 0,
        held: None,
        shown: None,
    });
    assert_eq!(service.refusal(old).await, RefusedReason::Incompatible);
}

#[tokio::test]
async fn a_plain_ping_for_a_registered_name_changes_nothing() {
    let service = Service::start().await;
    let (primary, _backup) = pair(&service).await;
    let before = service.view().await;
    let name = primary.member.name.as_str();
    for number in [0, 1, before.number.0] {
        let view = service.ping(name, number).await;
        assert_eq!(view.primary, name);
    }
    service.ping("somebody else", 0).await;
    assert_eq!(service.view().await, before);
    let status = service.status().await;
    assert_eq!(status.servers.len(), 2);
    assert!(status.servers.iter().all(|server| server.state == "alive" && !server.plain));
}

#[tokio::test]
async fn lab_style_servers_are_driven_by_pings_under_both_package_names() {
    let service = Service::start().await;
    assert_eq!(service.ping("s1", 0).await.view_number, 1);
    service.ping("s1", 1).await;
    let mut legacy = LegacyClient::new(service.channel.clone());
    let request = pb::PingRequest { server_name: "s2".into(), view_number: 0 };
    let view = legacy.ping(request).await.unwrap().into_inner().view.unwrap();
    assert_eq!((view.view_number, &*view.primary, &*view.backup), (2, "s1", "s2"));
    let answer = legacy.get_view(pb::GetViewRequest {}).await.unwrap();
    assert_eq!(answer.into_inner().view.unwrap(), view);
    assert_eq!(service.refusal(newcomer("s3:1")).await, RefusedReason::WrongKind);

    for name in [String::new(), "x".repeat(1000)] {
        let request = pb::PingRequest { server_name: name, view_number: 0 };
        let error = service.views().ping(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_primary_that_wants_to_leave_hands_over_or_hears_that_nobody_could() {
    let service = Service::start().await;
    let mut alone = service.server().await;
    alone.until("its own view", |view| view.primary.is_some()).await;
    alone.activate(Vec::new()).await;
    alone.wish(Wish::Leave).await;
    assert_eq!(alone.attending.next().await, ToServer::NobodyToTakeOver);

    let service = Service::start().await;
    let (mut primary, backup) = pair(&service).await;
    primary.wish(Wish::Leave).await;
    primary.until("the hand-over", |view| view.is_primary(&backup.member)).await;
    assert_eq!(primary.view.role_of(&primary.member), Role::Spare);
}

#[tokio::test]
async fn status_says_for_whom_the_cluster_waits_and_force_is_the_way_out() {
    let service = Service::start().await;
    let mut sole = service.server().await;
    sole.until("its own view", |view| view.primary.is_some()).await;
    sole.activate(Vec::new()).await;
    let status = service.status().await;
    assert_eq!((status.waiting_for.len(), status.advice.as_str()), (0, ""));

    let force = |server: &Member, accept_data_loss| pb::ForceRequest {
        server: server.name.as_str().to_owned(),
        accept_data_loss,
    };
    let mut empty = service.server().await;
    let mut views = service.views();
    let error = views.force(force(&empty.member, false)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = views.force(force(&empty.member, true)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("is heard"), "{}", error.message());

    let killed = sole.kill();
    let waiting = async {
        loop {
            let status = service.status().await;
            if !status.waiting_for.is_empty() {
                return status;
            }
        }
    };
    let status = soon("the loss to be noticed", waiting).await;
    assert_eq!(status.waiting_for, [killed.name.as_str()]);
    assert!(status.advice.contains("--accept-data-loss"));
    assert!(service.view().await.is_primary(&killed), "nobody empty takes over");

    views.force(force(&empty.member, true)).await.unwrap();
    let me = empty.member.clone();
    empty.until("the new generation", |view| view.is_primary(&me)).await;
    assert_eq!(empty.view.generation.0, 2);
}

#[tokio::test]
async fn after_a_restart_the_same_views_go_on_and_servers_resume_their_lives() {
    let service = Service::start().await;
    let (primary, backup) = pair(&service).await;
    let before = service.view().await;
    let stale = Member { incarnation: backup.member.incarnation, ..primary.member.clone() };
    let service = service.restart().await;
    assert_eq!(service.view().await, before, "whoever only asks sees the same");

    let mut streams = Vec::new();
    for member in [&primary.member, &backup.member] {
        let (attending, answer) = service.register(again(member, &before)).await;
        let ToServer::Registered { incarnation, view } = answer else {
            panic!("{member} was not resumed: {answer:?}");
        };
        assert_eq!((incarnation, *view), (member.incarnation, before.clone()));
        streams.push(attending);
    }
    let refused = service.refusal(again(&stale, &before)).await;
    assert_eq!(refused, RefusedReason::StaleIncarnation);

    // Lives are numbered on from where they were, and nobody joins twice.
    let mut newcomer = service.server().await;
    assert!(newcomer.member.incarnation > backup.member.incarnation);
    drop(streams.remove(0));
    let killed = primary.kill();
    let me = backup.member.clone();
    newcomer.until("the promotion of the backup", |view| view.is_primary(&me)).await;
    assert!(!newcomer.view.members().any(|member| *member == killed));
}

#[tokio::test]
async fn status_counts_calls_by_method() {
    let service = Service::start().await;
    for _ in 0..3 {
        service.view().await;
    }
    let _server = service.server().await;
    let status = service.status().await;
    assert_eq!(status.rpcs_handled["/viewservice.ViewService/GetView"], 3);
    assert_eq!(status.rpcs_handled["/viewservice.Registration/Attend"], 1);
    assert_eq!(status.version, kvprocess::VERSION);
}

#[tokio::test]
async fn health_is_served_and_a_stop_ends_open_streams() {
    let mut service = Service::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(service.channel.clone());
    let request =
        tonic_health::pb::HealthCheckRequest { service: "viewservice.ViewService".into() };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);

    let mut server = service.server().await;
    service.token.cancel();
    while let Ok(Some(_)) = soon("the stream to end", server.attending.down.message()).await {}
    soon("the service to stop", &mut service.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_silent_server_is_dead_after_the_time_set_for_it() {
    let service = Service::with(Settings {
        ping_interval: Duration::from_millis(100),
        dead_after: Duration::from_millis(500),
        ..Settings::default()
    })
    .await;
    let silent = service.server().await;
    let dead = async {
        while service.status().await.servers.iter().any(|server| server.state != "dead") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the silent server to be dead", dead).await;
    drop(silent);
}

/// Trial 27: a wrong --advertise.
#[tokio::test]
async fn a_server_that_nobody_meets_has_no_part_and_hears_why() {
    let service = Service::start().await;
    let mut primary = service.server().await;
    primary.until("its own view", |view| view.primary.is_some()).await;
    primary.activate(Vec::new()).await;
    let number = primary.view.number;
    // Somebody else answers at the address that it announces.
    let taken = listen("127.0.0.1:0", None).await;
    let (mut astray, answer) = service.register(newcomer(&taken.name)).await;
    let ToServer::Registered { incarnation, .. } = answer else {
        panic!("it was not registered: {answer:?}");
    };
    let message = loop {
        match astray.next().await {
            ToServer::NotMet { message } => break message,
            ToServer::View(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(message.contains("another server answers: check --advertise"), "{message}");
    let status = service.status().await;
    let member = Member { name: taken.name.as_str().into(), incarnation };
    let row = status.servers.iter().find(|row| row.member == Some(member.clone().into())).unwrap();
    assert_eq!((row.role.as_str(), row.not_met.as_str()), ("spare", "another server answers"));
    assert_eq!(service.view().await.number, number);
    // Its address is put right: it answers there itself.
    let name = taken.name.clone();
    drop(taken);
    let _right = async {
        while TcpListener::bind(&name).await.is_err() {
            tokio::task::yield_now().await;
        }
        listen(&name, Some(LifeId([0xff; 16]))).await
    };
    let _right = soon("its address to be free", _right).await;
    primary.until("the recruit", |view| view.backups.contains(&member)).await;
}

/// A wall that lets nothing through from the view service to a server.
#[tokio::test]
async fn a_server_that_only_another_server_meets_has_a_part() {
    let service = Service::start().await;
    let mut primary = service.server().await;
    primary.until("its own view", |view| view.primary.is_some()).await;
    primary.activate(Vec::new()).await;
    // Nobody answers the view service here.
    let name = {
        let gone = listen("127.0.0.1:0", None).await;
        gone.name.clone()
    };
    let (_attending, answer) = service.register(newcomer(&name)).await;
    assert!(matches!(answer, ToServer::Registered { .. }), "{answer:?}");
    let process = loop {
        match primary.attending.next().await {
            ToServer::Meet(process) => break process,
            ToServer::View(view) => primary.view = *view,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(process, Process { name: name.into(), life: LifeId([0xff; 16]) });
    let met = FromServer::Met(process.clone());
    primary.attending.up.send(met.into()).await.unwrap();
    primary
        .until("the recruit", |view| view.backups.iter().any(|it| it.name == process.name))
        .await;
}
