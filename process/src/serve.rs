//! Serves gRPC until told to stop, and then really stops.
//!
//! Tonic's own graceful shutdown waits for every accepted connection to close, which one that never
//! sent its HTTP/2 preface does not do. So connections can be cut, and those still open after
//! [`GRACE`] are.
//!
//! No caller can make a server hold more than its limits say: so many connections, on each of
//! them so many calls, and [`CallLimits`] for the bytes of those. Connections of another protocol, as
//! their first byte says, go to whoever speaks it ([`Diversion`]).

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes, Service, StdError};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower_layer::{Identity, Layer, Stack};
use tracing::{info, warn};

pub use crate::budget::{CallLimits, NoRoom, Room};
use crate::calls::MeterCalls;
use crate::connection::{Made, Places, Socket};
use crate::listen::Listeners;

/// Calls open when the server is told to stop have this long to end by themselves.
pub const GRACE: Duration = Duration::from_secs(2);

/// A connection with calls open is asked for a sign of life this often.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Without an answer for this long it is closed.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A large value fits into a stream's window, so that it travels in one go.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Several streams share a connection; together they may buffer this much.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls open at once on one connection: above the window of a session, and the least that the
/// HTTP/2 standard recommends. Further calls wait at the caller.
const STREAMS_MAX: u32 = 128;
/// Connections open at once, given plenty of memory: far above what servers and clients of one
/// cluster need.
pub const CONNECTIONS_MAX: usize = 4096;
/// What a connection costs that does nothing, as measured: its task and its buffers.
pub const CONNECTION_COST: usize = 32 << 10;
/// While connections are refused people are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What our limits put around every service.
pub type Metering = Stack<MeterCalls, Identity>;

/// A server with our limits set, to which services are added. Only [`serve`] can run it.
#[must_use]
pub fn builder(limits: CallLimits) -> Server<Metering> {
    Server::builder()
        .layer(MeterCalls::new(limits))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// Connections that are not gRPC.
#[derive(Clone, Debug)]
pub struct Diversion {
    /// What such a connection begins with; HTTP/2 begins with `P`.
    pub first_byte: u8,
    /// Takes them, untouched, once their first byte has come; from then on they have no place among
    /// the others. One that finds the queue full is closed.
    pub to: mpsc::Sender<TcpStream>,
}

/// Serves, on at most so many connections, until the token is cancelled: then no connection is
/// accepted any more, open calls get [`GRACE`], and what is left is cut. Dropping the future cuts
/// everything at once.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve<L, B>(
    router: Router<L>,
    listeners: Listeners,
    connections_max: usize,
    diversion: Option<Diversion>,
    token: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    L: Layer<Routes>,
    L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send,
    <L::Service as Service<Request<Body>>>::Error: Into<StdError> + Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let places = Places::new(connections_max);
    let cut = places.cut.clone();
    let _cut_when_dropped = cut.clone().drop_guard();
    let (admitted, incoming) = mpsc::channel(1);
    let gate = Gate { places, told_at: None, diversion, admitted };
    let admission = token.clone().run_until_cancelled_owned(gate.admit_all(listeners));
    let _ends_with_us = AbortOnDropHandle::new(tokio::spawn(admission));
    let stop = token.clone().cancelled_owned();
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, io::Error>);
    let mut serving = pin!(router.serve_with_incoming_shutdown(incoming, stop));
    tokio::select! {
        ended = &mut serving => return ended,
        () = token.cancelled() => {}
    }
    if let Ok(ended) = tokio::time::timeout(GRACE, &mut serving).await {
        return ended;
    }
    info!("connections still open {GRACE:?} after the stop are cut");
    cut.cancel();
    // Cut connections end at once; a call that does not yield must not hold up the exit.
    tokio::time::timeout(GRACE, &mut serving).await.unwrap_or(Ok(()))
}

/// Lets connections in, and tells people when that has its price.
struct Gate {
    places: Arc<Places>,
    told_at: Option<Instant>,
    diversion: Option<Diversion>,
    admitted: mpsc::Sender<Socket>,
}

impl Gate {
    async fn admit_all(mut self, listeners: Listeners) {
        let mut incoming = listeners.into_incoming();
        while let Some(Ok(stream)) = incoming.next().await {
            if let Some(socket) = self.admit(stream) {
                tokio::spawn(direct(socket, self.diversion.clone(), self.admitted.clone()));
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Option<Socket> {
        let admitted = self.places.admit();
        let trouble = match &admitted {
            Some((_, Made::NoRoom)) => None,
            Some((_, Made::Room)) => Some("the one that was idle for the longest time is closed"),
            None => Some("all of them have calls open, so the new one is closed"),
        };
        if let Some(what) = trouble
            && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY)
        {
            warn!("{} connections are open, which is the most: {what}", self.places.max());
            self.told_at = Some(Instant::now());
        }
        let (connection, _) = admitted?;
        Some(Socket::new(stream, connection, Arc::clone(&self.places)))
    }
}

/// Brings a connection to where its protocol is spoken. One that says nothing is closed in time.
async fn direct(mut socket: Socket, diversion: Option<Diversion>, admitted: mpsc::Sender<Socket>) {
    if let Some(Diversion { first_byte, to }) = diversion {
        match socket.begins_with(first_byte).await {
            Ok(false) => {}
            // Without room it is closed, and whoever opened it tries again.
            Ok(true) => return drop(to.try_send(socket.into_stream())),
            Err(_gone) => return,
        }
    }
    // Nobody takes it when the server stops.
    let _ = admitted.send(socket).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dial, listen};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    const LIMITS: CallLimits =
        CallLimits { bytes_max: 1 << 20, connection_bytes_max: 1 << 20, exempt: &[] };

    /// Generous: reached only when something hangs.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Running {
        name: String,
        token: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    }

    async fn start() -> Running {
        start_with(CONNECTIONS_MAX).await
    }

    async fn start_with(places: usize) -> Running {
        start_diverting(places, None).await
    }

    async fn start_diverting(places: usize, diversion: Option<Diversion>) -> Running {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let listeners = listen::bind("localhost:0", false).unwrap();
        let name = format!("localhost:{}", listeners.port());
        let token = CancellationToken::new();
        let router = builder(LIMITS).add_service(health);
        let task = tokio::spawn(serve(router, listeners, places, diversion, token.clone()));
        Running { name, token, task }
    }

    async fn ends(running: Running) {
        running.token.cancel();
        tokio::time::timeout(PATIENCE, running.task)
            .await
            .expect("the server stops within its grace")
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn calls_are_answered_through_both_ways_of_dialling() {
        let running = start().await;
        for channel in
            [dial::channel(&running.name).unwrap(), dial::connect(&running.name).await.unwrap()]
        {
            let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
            assert!(answer.is_ok(), "{answer:?}");
        }
        ends(running).await;
    }

    #[tokio::test]
    async fn a_connection_that_never_speaks_does_not_keep_the_server_from_stopping() {
        let running = start().await;
        let mut silent = TcpStream::connect(&running.name).await.unwrap();
        // A call on a later connection proves that the silent one was accepted.
        let channel = dial::connect(&running.name).await.unwrap();
        let mut client = HealthClient::new(channel);
        client.check(HealthCheckRequest::default()).await.unwrap();
        ends(running).await;
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the server closes the silent connection");
    }

    #[tokio::test]
    async fn a_stream_that_never_ends_is_cut_after_the_grace() {
        let running = start().await;
        let mut client = HealthClient::new(dial::connect(&running.name).await.unwrap());
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        ends(running).await;
        let after = tokio::time::timeout(PATIENCE, watch.message()).await;
        assert!(after.is_ok(), "the watcher hears that the server is gone");
    }

    async fn is_closed(connection: &mut TcpStream) {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the server closes the connection");
    }

    #[tokio::test]
    async fn when_all_places_are_taken_a_silent_connection_gives_its_own_to_one_that_works() {
        let running = start_with(2).await;
        let mut silent = TcpStream::connect(&running.name).await.unwrap();
        let mut first = HealthClient::new(dial::connect(&running.name).await.unwrap());
        first.check(HealthCheckRequest::default()).await.unwrap();
        let mut second = HealthClient::new(dial::connect(&running.name).await.unwrap());
        second.check(HealthCheckRequest::default()).await.unwrap();
        is_closed(&mut silent).await;
        first.check(HealthCheckRequest::default()).await.expect("the others go on");
        ends(running).await;
    }

    #[tokio::test]
    async fn a_connection_too_many_is_closed_while_all_others_have_calls_open() {
        let running = start_with(1).await;
        let mut client = HealthClient::new(dial::connect(&running.name).await.unwrap());
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        is_closed(&mut TcpStream::connect(&running.name).await.unwrap()).await;
        client.check(HealthCheckRequest::default()).await.expect("the watcher goes on");
        ends(running).await;
    }

    #[tokio::test]
    async fn a_connection_that_never_begins_to_speak_is_closed() {
        let running = start().await;
        is_closed(&mut TcpStream::connect(&running.name).await.unwrap()).await;
        ends(running).await;
    }

    #[tokio::test]
    async fn connections_of_another_protocol_go_elsewhere_whole_and_take_no_place() {
        let (to, mut diverted) = mpsc::channel(2);
        let running = start_diverting(1, Some(Diversion { first_byte: b'!', to })).await;
        for _ in 0..2 {
            let mut strange = TcpStream::connect(&running.name).await.unwrap();
            strange.write_all(b"!hello").await.unwrap();
            let taken = tokio::time::timeout(PATIENCE, diverted.recv()).await;
            let mut taken = taken.expect("handed over in time").unwrap();
            let mut said = [0; 6];
            taken.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"!hello");
        }
        let mut client = HealthClient::new(dial::connect(&running.name).await.unwrap());
        client.check(HealthCheckRequest::default()).await.expect("gRPC goes on");
        ends(running).await;
    }

    #[tokio::test]
    async fn a_stopped_server_frees_its_port() {
        let running = start().await;
        let name = running.name.clone();
        ends(running).await;
        assert_eq!(dial::probe(&name, PATIENCE).await, dial::Probe::Refused);
        assert!(listen::bind(&name, false).is_ok());
    }

    #[tokio::test]
    async fn dropping_the_server_cuts_its_connections() {
        let running = start().await;
        let mut silent = TcpStream::connect(&running.name).await.unwrap();
        let channel = dial::connect(&running.name).await.unwrap();
        let mut client = HealthClient::new(channel);
        client.check(HealthCheckRequest::default()).await.unwrap();
        running.task.abort();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the server closes the silent connection");
    }
}
