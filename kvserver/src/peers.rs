//! The ways to other copies. Shell: dials, queues and delivers; never looks at what a message means.
//!
//! The primary's side of a stream is a task here, one per stream: it dials, sends what is queued,
//! and turns what comes back into events. The copy's side came in through a door
//! (`api/replication.rs`), which lends its way back to [`InboundStreams`].
//! The node calls [`Peers`] and is never made to wait: a queue that is full ends its stream.

pub mod link;
mod pace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::message::{Body, Message};
use kvproto::{Member, StreamNumber};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::node::NodeHandle;
use crate::replica::event::Event;
use link::Came;

/// A copy that takes longer to answer a connection is as good as unreachable.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// A `Released` that takes longer is not worth it: the new primary has waited out the lease.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// The node hears at most this often that bytes have arrived: far more often than its patience lasts.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);
/// Messages queued for one stream, in either direction. The replica's own window is what bounds
/// their bytes; this many messages unsent means that the connection has stopped.
pub const STREAM_QUEUED_MAX: usize = 1024;
/// Messages outside streams that may be under way at once; one is sent per hand-over.
const TELLS_MAX: usize = 8;

/// The node's side of all streams.
pub struct Peers {
    runtime: Handle,
    node: NodeHandle,
    outbound: BTreeMap<(Member, StreamNumber), Outbound>,
    inbound: Arc<InboundStreams>,
    tells: Arc<Semaphore>,
    halt: CancellationToken,
}

/// One stream that this server opened. Its task says once that the stream is broken, unless it was
/// closed first.
struct Outbound {
    queue: mpsc::Sender<Message>,
    /// The node wants to hear nothing more of the stream.
    closed: CancellationToken,
    /// The queue was full.
    overflowed: CancellationToken,
}

impl Peers {
    /// With no streams. Tasks run on `runtime` until `halt`; what comes back goes to `node`.
    #[must_use]
    pub fn new(
        runtime: Handle,
        node: NodeHandle,
        inbound: Arc<InboundStreams>,
        halt: CancellationToken,
    ) -> Peers {
        Peers {
            runtime,
            node,
            outbound: BTreeMap::new(),
            inbound,
            tells: Arc::new(Semaphore::new(TELLS_MAX)),
            halt,
        }
    }

    /// Begins to dial a copy. Messages sent from now on wait until the stream stands.
    pub fn open(&mut self, to: Member, stream: StreamNumber) {
        self.outbound.retain(|_, outbound| !outbound.queue.is_closed());
        let (queue, queued) = mpsc::channel(STREAM_QUEUED_MAX);
        let outbound = Outbound {
            queue,
            closed: self.halt.child_token(),
            overflowed: CancellationToken::new(),
        };
        let carrier = Carrier {
            to: to.clone(),
            stream,
            node: self.node.clone(),
            overflowed: outbound.overflowed.clone(),
        };
        let closed = outbound.closed.clone();
        self.runtime.spawn(async move {
            closed.run_until_cancelled(carrier.carry(queued)).await;
        });
        self.outbound.insert((to, stream), outbound);
    }

    /// Ends a stream; no event of it comes after this but those already queued.
    pub fn close(&mut self, to: &Member, stream: StreamNumber) {
        if let Some(outbound) = self.outbound.remove(&(to.clone(), stream)) {
            outbound.closed.cancel();
        }
    }

    /// Sends a message where its body belongs. What cannot be sent is dropped: the stream it
    /// belongs to has ended, or ends now.
    pub fn send(&mut self, message: Message) {
        match &message.body {
            Body::Open { .. }
            | Body::Append(_)
            | Body::TransferStart { .. }
            | Body::TransferChunk { .. }
            | Body::TransferEnd(_) => self.send_outbound(message),
            Body::Opened(_) | Body::Ack(_) | Body::Fenced => self.inbound.answer(message),
            Body::Released => self.tell(message),
        }
    }

    fn send_outbound(&mut self, message: Message) {
        let key = (message.to.clone(), message.stream);
        let Some(outbound) = self.outbound.get(&key) else {
            return;
        };
        if outbound.queue.try_send(message).is_err() {
            // Full, or its task has ended already and says so itself.
            outbound.overflowed.cancel();
            self.outbound.remove(&key);
        }
    }

    /// Sends a message outside any stream, once: its receiver can do without it.
    fn tell(&self, message: Message) {
        let Ok(room) = Arc::clone(&self.tells).try_acquire_owned() else {
            return;
        };
        let halt = self.halt.clone();
        self.runtime.spawn(async move {
            let to = message.to.clone();
            let told = halt.run_until_cancelled(timeout(TELL_WITHIN, tell(message))).await;
            if let Some(Ok(Err(cause))) = told {
                debug!("{to} could not be told that this server has stopped: {cause:#}");
            }
            drop(room);
        });
    }
}

async fn tell(message: Message) -> anyhow::Result<()> {
    let (mut incoming, mut outgoing) = link::connect(message.to.name.as_str()).await?;
    outgoing.tell(message).await?;
    // It closes the connection once it has taken the message.
    incoming.next_message(MESSAGE_SIZE_MAX).await?;
    Ok(())
}

/// The task of one outbound stream.
struct Carrier {
    to: Member,
    stream: StreamNumber,
    node: NodeHandle,
    overflowed: CancellationToken,
}

impl Carrier {
    /// Carries messages until something breaks, and then says so.
    async fn carry(self, queued: mpsc::Receiver<Message>) {
        let overflowed = self.overflowed.clone();
        let cause = tokio::select! {
            () = overflowed.cancelled() => anyhow::anyhow!("it takes messages too slowly"),
            ended = self.exchange(queued) => match ended {
                Ok(()) => anyhow::anyhow!("it closed the stream"),
                Err(cause) => cause,
            },
        };
        debug!("the stream {} to {} is broken: {cause:#}", self.stream, self.to);
        let broken = Event::StreamBroken { peer: self.to, stream: self.stream };
        self.node.event(broken).await;
    }

    fn expects(&self, message: &Message) -> bool {
        (&message.from, message.stream) == (&self.to, self.stream)
            && !message.body.is_from_primary()
    }

    async fn exchange(&self, queued: mpsc::Receiver<Message>) -> anyhow::Result<()> {
        let connecting = link::connect(self.to.name.as_str());
        let (mut incoming, mut outgoing) = timeout(CONNECT_WITHIN, connecting).await??;
        let listen = async {
            let mut told_at: Option<Instant> = None;
            while let Some(came) = incoming.next(MESSAGE_SIZE_MAX).await? {
                match came {
                    Came::Message(message) => {
                        ensure!(self.expects(&message), "it sent what is no answer on this stream");
                        self.node.event(Event::Message(message)).await;
                    }
                    Came::Confirmed => {
                        if told_at.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                            told_at = Some(Instant::now());
                            let (peer, stream) = (self.to.clone(), self.stream);
                            self.node.event(Event::Confirmed { peer, stream }).await;
                        }
                    }
                }
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = listen => ended,
            ended = outgoing.carry(queued) => ended,
        }
    }
}

/// What tells one inbound stream from all others: who opened it, and which of those it opened in its
/// life. The epoch is no part of it: who is fenced is answered in a newer one.
type InboundKey = (Member, StreamNumber);
/// The way back on an inbound stream.
pub type WayBack = mpsc::Sender<Message>;

/// The streams that other copies have opened to this one: the way back for answers. Doors add and
/// remove, the node looks up; no entry is held while another is touched.
#[derive(Default)]
pub struct InboundStreams {
    streams: DashMap<InboundKey, Inbound>,
}

#[derive(Clone)]
struct Inbound {
    way_back: WayBack,
    /// The other side takes no answers: its door closes the stream.
    overflowed: CancellationToken,
}

impl InboundStreams {
    /// Lends the way back of the stream whose opening this is, for as long as the loan lives.
    /// `None` when that stream is open already: a stream is opened once.
    pub fn lend(self: &Arc<Self>, opening: &Message, way_back: WayBack) -> Option<Loan> {
        let key = (opening.from.clone(), opening.stream);
        let overflowed = CancellationToken::new();
        let inbound = Inbound { way_back, overflowed: overflowed.clone() };
        match self.streams.entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(inbound);
                Some(Loan { lender: Arc::clone(self), key, overflowed })
            }
        }
    }

    /// Sends an answer on the stream it names. When the other side takes nothing more the stream is
    /// ended, and the other side opens the next one.
    fn answer(&self, message: Message) {
        let key = (message.to.clone(), message.stream);
        let Some(inbound) = self.streams.get(&key).map(|found| found.clone()) else {
            return;
        };
        if inbound.way_back.try_send(message).is_err() {
            inbound.overflowed.cancel();
        }
    }
}

/// A way back that is in use; it is taken back when this is dropped.
pub struct Loan {
    lender: Arc<InboundStreams>,
    key: InboundKey,
    overflowed: CancellationToken,
}

impl Loan {
    /// Whether a message came on the stream it belongs to.
    #[must_use]
    pub fn covers(&self, message: &Message) -> bool {
        let (from, stream) = &self.key;
        (&message.from, &message.stream) == (from, stream)
    }

    /// Waits until an answer found no room.
    pub async fn overflowed(&self) {
        self.overflowed.cancelled().await;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.lender.streams.remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
