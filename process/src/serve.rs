//! Serves gRPC until told to stop, and then really stops.
//!
//! Tonic's own graceful shutdown waits for every accepted connection to close, which one that never
//! sent its HTTP/2 preface does not do. So accepted connections are wrapped in a `Cuttable`, and
//! those still open after [`GRACE`] are cut.
//!
//! Connections are counted too: over [`CONNECTIONS_MAX`] a new one is closed at once, so that no
//! caller can make a server hold more memory and descriptors than that many connections need.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes, Service, StdError};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, Router};
use tower_layer::Layer;
use tracing::{info, warn};

use crate::listen::Listeners;

/// Calls open when the server is told to stop have this long to end by themselves.
pub const GRACE: Duration = Duration::from_secs(2);

/// A connection with calls open is asked for a sign of life this often.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Without an answer for this long it is closed.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// One batch of the log fits into a stream's window, so that it travels in one go.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Several streams share a connection; together they may buffer this much.
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls open at once on one connection: above the window of a session, and the least that the
/// HTTP/2 standard recommends. Further calls wait at the caller.
const STREAMS_MAX: u32 = 128;
/// Connections open at once: far above what servers and clients of one cluster need.
pub const CONNECTIONS_MAX: usize = 4096;
/// While connections are refused people are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A server with our limits set, to which services are added.
#[must_use]
pub fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// Serves until the token is cancelled: then no connection is accepted any more, open calls get
/// [`GRACE`], and what is left is cut. Dropping the future cuts everything at once.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve<L, B>(
    router: Router<L>,
    listeners: Listeners,
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
    serve_at_most(CONNECTIONS_MAX, router, listeners, token).await
}

async fn serve_at_most<L, B>(
    connections_max: usize,
    router: Router<L>,
    listeners: Listeners,
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
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    let mut gate = Gate::new(connections_max);
    let incoming = listeners.into_incoming().filter_map({
        let cut = cut.clone();
        move |stream| {
            let admitted = stream.map(|stream| {
                let place = gate.admit()?;
                Some(Cuttable::new(stream, cut.clone(), place))
            });
            admitted.transpose()
        }
    });
    let stop = token.clone().cancelled_owned();
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

/// Counts connections.
struct Gate {
    places: Arc<Semaphore>,
    max: usize,
    told_at: Option<Instant>,
}

impl Gate {
    fn new(max: usize) -> Gate {
        Gate { places: Arc::new(Semaphore::new(max)), max, told_at: None }
    }

    /// A place, to be kept as long as the connection; `None` when all are taken.
    fn admit(&mut self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            warn!("{} connections are open, which is the most: new ones are closed", self.max);
            self.told_at = Some(Instant::now());
        }
        place
    }
}

/// A connection that fails as soon as its token is cancelled.
struct Cuttable {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Cuttable {
    fn new(stream: TcpStream, cut: CancellationToken, place: OwnedSemaphorePermit) -> Self {
        Self { stream, cut: Box::pin(cut.cancelled_owned()), _place: place }
    }

    /// The socket, unless it was cut; also has the task woken when it is.
    fn socket(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl Connected for Cuttable {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket(cx)?.poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket(cx)?.poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dial, listen};
    use tokio::io::AsyncReadExt;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

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
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let listeners = listen::bind("localhost:0", false).unwrap();
        let name = format!("localhost:{}", listeners.port());
        let token = CancellationToken::new();
        let router = builder().add_service(health);
        let task = tokio::spawn(serve_at_most(places, router, listeners, token.clone()));
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

    #[tokio::test]
    async fn a_connection_too_many_is_closed_at_once_and_the_next_finds_the_place_of_one_that_went()
    {
        let running = start_with(2).await;
        let silent = TcpStream::connect(&running.name).await.unwrap();
        let mut client = HealthClient::new(dial::connect(&running.name).await.unwrap());
        client.check(HealthCheckRequest::default()).await.unwrap();
        let mut refused = TcpStream::connect(&running.name).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, refused.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the third connection is closed");
        client.check(HealthCheckRequest::default()).await.expect("the others go on");
        drop(silent);
        let served = async {
            loop {
                // Its place is free as soon as the server has noticed that it went.
                if let Ok(channel) = dial::connect(&running.name).await {
                    let mut client = HealthClient::new(channel);
                    if client.check(HealthCheckRequest::default()).await.is_ok() {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, served).await.expect("there is a place again");
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
