//! The door for other copies. Shell: streams that primaries open to this server become events in
//! their order; answers find their way back through
//! [`InboundStreams`].
//!
//! Sense is the replica's business; here only the form counts. A stream that breaks the form is
//! closed with a warning and hurts no other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::message::{Body, Message};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::node::NodeHandle;
use crate::peers::link::{self, Incoming};
use crate::peers::{InboundStreams, STREAM_QUEUED_MAX, WayBack};
use crate::replica::event::Event;

/// Connections of copies open at once, beside those of clients: far more than there are copies.
const CONNECTIONS_MAX: usize = 64;
/// What opens a stream names a cluster and two servers.
const OPENING_SIZE_MAX: usize = 4 << 10;
/// It comes right after the greeting. Who says only that it lives keeps no place.
const OPENING_WITHIN: Duration = Duration::from_secs(5);
/// While connections are refused people are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What the door leads to.
#[derive(Clone)]
pub struct ReplicationDoor {
    /// The node.
    pub node: NodeHandle,
    /// The ways back to those who come in.
    pub inbound: Arc<InboundStreams>,
    /// Closes every stream.
    pub halt: CancellationToken,
}

impl ReplicationDoor {
    /// Lets in the connections that come through this queue, for as long as there is one.
    pub async fn attend(self, mut connections: mpsc::Receiver<TcpStream>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut told_at: Option<Instant> = None;
        while let Some(connection) = connections.recv().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                if told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    warn!("{CONNECTIONS_MAX} connections of copies are open: a new one is closed");
                    told_at = Some(Instant::now());
                }
                continue;
            };
            let door = self.clone();
            tokio::spawn(async move {
                let halt = door.halt.clone();
                halt.run_until_cancelled(door.receive(connection)).await;
                drop(place);
            });
        }
    }

    /// Receives one stream to its end, and tells the other side when that was its fault.
    async fn receive(self, connection: TcpStream) {
        let (mut incoming, mut outgoing) = match link::accept(connection).await {
            Ok(halves) => halves,
            Err(cause) => return debug!("closed a connection of a copy: {cause:#}"),
        };
        let (way_back, answers) = mpsc::channel(STREAM_QUEUED_MAX);
        let ended = tokio::select! {
            ended = self.forward(&mut incoming, way_back) => ended,
            ended = outgoing.carry(answers) => ended,
        };
        if let Err(refusal) = ended {
            warn!("closed a replication stream: {refusal:#}");
            outgoing.refuse(&format!("{refusal:#}")).await;
        }
    }

    async fn forward(&self, incoming: &mut Incoming, way_back: WayBack) -> anyhow::Result<()> {
        let opening = timeout(OPENING_WITHIN, incoming.next_message(OPENING_SIZE_MAX)).await;
        let Some(opening) = opening.context("nothing was opened in time")?? else {
            return Ok(());
        };
        // Before the view service has given this life a number nobody can mean it.
        let registered = self.node.standing().me.is_some();
        ensure!(registered, "this server is not registered yet; try again");
        match opening.body {
            Body::Open { .. } => {}
            Body::Released => {
                self.node.event(Event::Message(opening)).await;
                return Ok(());
            }
            _ => bail!("a stream begins with its opening"),
        }
        let loan = self.inbound.lend(&opening, way_back).context("a stream is opened once")?;
        self.node.event(Event::Message(opening)).await;
        loop {
            let message: Option<Message> = tokio::select! {
                message = incoming.next_message(MESSAGE_SIZE_MAX) => message?,
                () = loan.overflowed() => bail!("answers are taken too slowly"),
            };
            let Some(message) = message else {
                return Ok(());
            };
            ensure!(loan.covers(&message), "a message came on another's stream");
            self.node.event(Event::Message(message)).await;
        }
    }
}
