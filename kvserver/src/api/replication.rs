//! The door for other copies. Shell: streams that primaries open to this server become events in
//! their order; answers find their way back through
//! [`InboundStreams`](crate::peers::InboundStreams).
//!
//! Sense is the replica's business; here only the form counts. A stream that breaks the form is
//! closed with a warning and hurts no other.

use std::sync::Arc;

use kvproto::message::{Body, Message};
use kvproto::pb::replication::replication_server::Replication;
use kvproto::pb::replication::{self as pb, Told};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::warn;

use crate::node::NodeHandle;
use crate::peers::{InboundStreams, STREAM_QUEUED_MAX, WayBack};
use crate::replica::event::Event;

/// The service behind the door.
#[derive(Clone)]
pub(super) struct ReplicationDoor {
    pub(super) node: NodeHandle,
    pub(super) inbound: Arc<InboundStreams>,
    pub(super) halt: CancellationToken,
}

#[tonic::async_trait]
impl Replication for ReplicationDoor {
    type StreamStream = ReceiverStream<Result<pb::Message, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<pb::Message>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.registered()?;
        let (way_back, answers) = mpsc::channel(STREAM_QUEUED_MAX);
        let door = self.clone();
        tokio::spawn(async move {
            let halt = door.halt.clone();
            halt.run_until_cancelled(door.receive(request.into_inner(), way_back)).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn tell(&self, request: Request<pb::Message>) -> Result<Response<Told>, Status> {
        self.registered()?;
        let message = form(request.into_inner())?;
        if message.body != Body::Released {
            return Err(Status::invalid_argument("this message belongs to a stream"));
        }
        self.node.event(Event::Message(message)).await;
        Ok(Response::new(Told {}))
    }
}

impl ReplicationDoor {
    /// Before the view service has given this life a number nobody can mean it.
    fn registered(&self) -> Result<(), Status> {
        match self.node.standing().me {
            Some(_) => Ok(()),
            None => Err(Status::unavailable("this server is not registered yet; try again")),
        }
    }

    /// Receives one stream to its end, and tells the other side when that was its fault.
    async fn receive(self, mut incoming: Streaming<pb::Message>, way_back: WayBack) {
        if let Err(refusal) = self.forward(&mut incoming, &way_back).await {
            warn!("closed a replication stream: {}", refusal.message());
            // Without room the other side hears only that the stream has ended.
            let _ = way_back.try_send(Err(refusal));
        }
    }

    async fn forward(
        &self,
        incoming: &mut Streaming<pb::Message>,
        way_back: &WayBack,
    ) -> Result<(), Status> {
        let Some(first) = next(incoming.message().await)? else {
            return Ok(());
        };
        let opening = form(first)?;
        if opening.body != Body::Open {
            return Err(Status::invalid_argument("a stream begins with its opening"));
        }
        let loan = self
            .inbound
            .lend(&opening, way_back.clone())
            .ok_or_else(|| Status::already_exists("a stream is opened once"))?;
        self.node.event(Event::Message(opening)).await;
        loop {
            let frame = tokio::select! {
                frame = incoming.message() => frame,
                () = loan.overflowed() => {
                    return Err(Status::resource_exhausted("answers are taken too slowly"));
                }
            };
            let Some(frame) = next(frame)? else {
                return Ok(());
            };
            let message = form(frame)?;
            if !loan.covers(&message) {
                return Err(Status::invalid_argument("a message came on another's stream"));
            }
            self.node.event(Event::Message(message)).await;
        }
    }
}

/// The end and a broken connection are the same here, since whoever opened the stream opens another.
/// Bytes that are no message are the other side's fault, and it is told.
fn next(frame: Result<Option<pb::Message>, Status>) -> Result<Option<pb::Message>, Status> {
    match frame {
        Err(status) if matches!(status.code(), Code::Internal | Code::OutOfRange) => Err(status),
        frame => Ok(frame.unwrap_or_default()),
    }
}

fn form(frame: pb::Message) -> Result<Message, Status> {
    Message::try_from(frame).map_err(|malformed| Status::invalid_argument(malformed.to_string()))
}
