//! The yardstick: a gRPC server that answers with what it was sent, as a process of its own with
//! one thread, and nothing between it and tonic. What it reaches is what the machine allows a store
//! behind gRPC.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::cluster::{Process, wait_for};
use crate::report::say;

/// Generated from `proto/echo.proto`.
#[expect(
    missing_docs,
    unused_qualifications,
    reason = "generated code; the .proto file carries the docs"
)]
pub mod pb {
    tonic::include_proto!("echo");
}

/// How long the server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// The line that it writes then, up to the address.
const READY: &str = "echo server listens on ";

struct Door;

#[tonic::async_trait]
impl pb::echo_server::Echo for Door {
    async fn echo(&self, request: Request<pb::Message>) -> Result<Response<pb::Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// Serves on a free port, which it writes to stdout, until `stop`.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(stop: CancellationToken) -> Result<()> {
    let listening = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).context("listen")?;
    say(format!("{READY}{}", listening.local_addr().context("learn the port")?))?;
    // Of the listener, since the server's own setting does not reach connections that it is handed.
    let connections = listening.with_nodelay(Some(true));
    Server::builder()
        .add_service(pb::echo_server::EchoServer::new(Door))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
        .context("serve")
}

/// An echo server in a process of its own, which ends when this is dropped.
pub struct EchoProcess {
    process: Process,
    addr: SocketAddr,
    _logs: tempfile::TempDir,
}

impl EchoProcess {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start() -> Result<EchoProcess> {
        let logs = tempfile::tempdir().context("make a folder for the log")?;
        let flags = vec!["echo-server".to_owned()];
        let mut process = Process::new("testclient", "echo", flags, logs.path())?;
        process.start()?;
        let addr = wait_for("the echo server to listen", PATIENCE, async || {
            let log = process.log().map_err(|error| format!("{error:#}"))?;
            let ready = log.lines().find_map(|line| line.strip_prefix(READY));
            let addr = ready.and_then(|addr| addr.parse().ok());
            addr.ok_or_else(|| format!("its log says {log:?}"))
        })
        .await?;
        Ok(EchoProcess { process, addr, _logs: logs })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id().expect("it was started")
    }
}
