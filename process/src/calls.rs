//! Every call of a server, from its first byte until its answer has left: its [`Room`] grows as the
//! request arrives, lies among the request's extensions for whoever keeps bytes of it for longer,
//! and leaves with the answer.
//!
//! A request that finds no room is refused at once, one that trickles in is given up. A message is
//! held back until it is whole: the decoder sets aside as much as a message says it will have, and
//! nobody shall make it do so by a promise alone. Calls on exempt paths are only counted as open.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use kvproto::limits::MESSAGE_SIZE_MAX;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes, Service};
use tower_layer::Layer;

use crate::budget::{Budget, CALL_COST, CallLimits, Room};
use crate::connection::{Connection, Via};

/// A request must be complete within this time, and a second more for each MiB that has arrived:
/// far slower than any network between programs that share a store, and far faster than a caller
/// that only wants to occupy the server.
const REQUEST_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const MORE_PER_MIB: Duration = Duration::from_secs(1);
/// Answers below this size count as taken once they are handed to the connection, whose own buffers
/// bound them; larger ones when they have left it.
const FRAME_HELD_MIN: usize = 4 << 10;
/// What a piece that is held back costs beside its bytes.
const FRAME_COST: usize = 128;
/// A piece below this size is copied when it is held back: it would keep the whole buffer into which
/// the connection read it.
const PIECE_COPIED_MAX: usize = 4 << 10;

/// Measures all calls of a server.
#[derive(Clone, Debug)]
pub struct MeterCalls {
    budget: Arc<Budget>,
}

impl MeterCalls {
    pub(crate) fn new(limits: CallLimits) -> MeterCalls {
        MeterCalls { budget: Budget::new(limits) }
    }
}

impl<S> Layer<S> for MeterCalls {
    type Service = Metered<S>;
    fn layer(&self, service: S) -> Metered<S> {
        Metered { service, budget: Arc::clone(&self.budget) }
    }
}

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub struct Metered<S> {
    service: S,
    budget: Arc<Budget>,
}

impl<S> Service<Request<Body>> for Metered<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Via(connection) =
            request.extensions_mut().remove().expect("every call comes through a `Socket`");
        let room = Room::open(&self.budget, &connection);
        if self.budget.exempts(request.uri().path()) {
            return Answering::Asked { asked: self.service.call(request), room, exempt: true };
        }
        if let Err(no_room) = room.grow(CALL_COST) {
            return Answering::Refused(Some(Status::from(no_room).into_http()));
        }
        let mut request = request.map(|body| {
            let room = room.clone();
            let (framing, held) = (Framing::default(), VecDeque::new());
            Body::new(Arriving { body, room, arrived: 0, framing, held, patience: None })
        });
        request.extensions_mut().insert(room.clone());
        Answering::Asked { asked: self.service.call(request), room, exempt: false }
    }
}

/// The answer to come.
pub enum Answering<F> {
    /// There was no room.
    Refused(Option<Response<Body>>),
    /// The service works on it.
    Asked {
        /// Its future.
        asked: F,
        /// What the call holds.
        room: Room,
        /// Whether the answer is left to limits of its own.
        exempt: bool,
    },
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            Answering::Refused(response) => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after its end")))
            }
            Answering::Asked { asked, room, exempt } => {
                Pin::new(asked).poll(cx).map_ok(|response| {
                    let (room, exempt) = (room.clone(), *exempt);
                    response.map(|body| Body::new(Answer { body, room, exempt, leaving: None }))
                })
            }
        }
    }
}

/// The body of a request on its way in.
struct Arriving {
    body: Body,
    room: Room,
    arrived: usize,
    framing: Framing,
    /// Pieces of a message that is not whole yet, and what follows it.
    held: VecDeque<Frame<Bytes>>,
    /// Only for a body that has let itself be waited for: since when, and until when.
    patience: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Arriving {
    fn too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let more = MORE_PER_MIB.mul_f64(self.arrived as f64 / f64::from(1 << 20));
        let (since, patience) = self.patience.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + REQUEST_WITHIN)))
        });
        while patience.as_mut().poll(cx).is_ready() {
            let end = *since + REQUEST_WITHIN + more;
            if end <= Instant::now() {
                return true;
            }
            patience.as_mut().reset(end);
        }
        false
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.framing.is_whole()
                && let Some(frame) = self.held.pop_front()
            {
                return Poll::Ready(Some(Ok(frame)));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
                    self.framing.pass(bytes);
                    let hold = !self.framing.is_whole() || !self.held.is_empty();
                    let cost = bytes.len() + if hold { FRAME_COST } else { 0 };
                    if let Err(no_room) = self.room.grow(cost) {
                        self.held.clear();
                        return Poll::Ready(Some(Err(no_room.into())));
                    }
                    self.arrived += bytes.len();
                    if !hold {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    self.held.push_back(frame.map_data(|bytes| match bytes.len() {
                        ..PIECE_COPIED_MAX => Bytes::copy_from_slice(&bytes),
                        _ => bytes,
                    }));
                }
                // It ends in the middle of a message, of which the decoder never hears.
                Poll::Ready(None) if !self.held.is_empty() => {
                    self.held.clear();
                    let why = "the request ends in the middle of a message";
                    return Poll::Ready(Some(Err(Status::invalid_argument(why))));
                }
                Poll::Pending if self.too_slow(cx) => {
                    let why = "the request was given up: it arrives too slowly";
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(why))));
                }
                other => return other,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Where in the sequence of messages a body is: each begins with a byte for its compression and four
/// for its length.
#[derive(Clone, Copy, Default)]
struct Framing {
    head: [u8; 5],
    /// Bytes of the head that have come.
    known: usize,
    /// Bytes of the message after the head that have yet to come.
    missing: usize,
}

impl Framing {
    /// Whether no message has begun whose end has yet to come. One that nobody would decode counts as
    /// whole, so that the decoder refuses it by its head.
    fn is_whole(&self) -> bool {
        self.missing == 0 || self.missing > MESSAGE_SIZE_MAX
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let count = self.missing.min(bytes.len());
                self.missing -= count;
                bytes = &bytes[count..];
                continue;
            }
            self.head[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if self.known == self.head.len() {
                let [_, length @ ..] = self.head;
                self.missing = u32::from_be_bytes(length) as usize;
                self.known = 0;
            }
        }
    }
}

/// The body of an answer. The call is open as long as it lives.
struct Answer {
    body: Body,
    room: Room,
    exempt: bool,
    /// The last piece, which the connection takes before it asks for the next.
    leaving: Option<Leaving>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.leaving = None;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.exempt {
            return polled;
        }
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                let leaving = Leaving::new(self.room.clone());
                if bytes.len() < FRAME_HELD_MIN {
                    self.leaving = Some(leaving);
                    return bytes;
                }
                Bytes::from_owner(Held { bytes, _leaving: leaving })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer that the other side has yet to take.
struct Leaving(Room);

impl Leaving {
    fn new(room: Room) -> Leaving {
        room.connection().answer_waits();
        Leaving(room)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let connection: &Connection = self.0.connection();
        connection.answer_taken();
    }
}

/// Bytes of an answer that keep its room until the connection has sent them.
struct Held {
    bytes: Bytes,
    _leaving: Leaving,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use tokio::sync::mpsc;
    use tonic::Code;

    use super::*;
    use crate::connection::Places;

    const CONNECTION_BYTES_MAX: usize = CALL_COST * 3;

    /// A body whose pieces come when the test sends them.
    struct Sent(mpsc::UnboundedReceiver<usize>);

    impl HttpBody for Sent {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let piece = |size| Ok(Frame::data(Bytes::from(vec![0; size])));
            self.0.poll_recv(cx).map(|sent| sent.map(piece))
        }
    }

    /// The same, with what the pieces hold.
    struct Messages(mpsc::UnboundedReceiver<Bytes>);

    impl HttpBody for Messages {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|sent| sent.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// A request on its way in, and how to send its pieces.
    fn arriving(world: &World) -> (mpsc::UnboundedSender<Bytes>, Body) {
        let Via(connection) = world.connection();
        let room = Room::open(&world.echo.budget, &connection);
        let (send, sent) = mpsc::unbounded_channel();
        let (framing, held) = (Framing::default(), VecDeque::new());
        let body = Body::new(Messages(sent));
        (send, Body::new(Arriving { body, room, arrived: 0, framing, held, patience: None }))
    }

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let bytes =
            [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        let ends = [0, 8, 13, 18 + 256];
        for size in 1..bytes.len() {
            let (mut framing, mut passed) = (Framing::default(), 0);
            for piece in bytes.chunks(size) {
                framing.pass(piece);
                passed += piece.len();
                let in_head = ends.iter().any(|end| (*end..end + 5).contains(&passed));
                assert_eq!(
                    framing.is_whole(),
                    in_head || passed == bytes.len(),
                    "{passed} of {size}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_message_reaches_the_decoder_when_it_is_whole() {
        let world = World::new();
        let (send, mut arriving) = arriving(&world);
        let send = |piece| send.send(Bytes::from_static(piece)).unwrap();
        send(&[0, 0, 0, 0, 4, 1]);
        send(&[2, 3]);
        let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut arriving).poll_frame(cx))).await;
        assert!(early.is_pending(), "half of it is nothing yet");
        send(&[4, 0, 0]);
        for piece in [&[0, 0, 0, 0, 4, 1][..], &[2, 3], &[4, 0, 0]] {
            let frame = next(&mut arriving).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
    }

    /// Each byte of a message that came one by one held a hundred more, and counted as one.
    #[tokio::test]
    async fn a_message_in_tiny_pieces_takes_the_room_that_they_need() {
        let world = World::new();
        let size = u16::try_from(CONNECTION_BYTES_MAX / FRAME_COST).unwrap();
        let [high, low] = size.to_be_bytes();
        for (piece, fits) in [(1, false), (1024, true)] {
            let (send, mut arriving) = arriving(&world);
            send.send(Bytes::copy_from_slice(&[0, 0, 0, high, low])).unwrap();
            for bytes in vec![7; usize::from(size)].chunks(piece) {
                send.send(Bytes::copy_from_slice(bytes)).unwrap();
            }
            drop(send);
            let mut end = None;
            while let Some(frame) = next(&mut arriving).await {
                end = frame.err();
                if end.is_some() {
                    break;
                }
            }
            assert_eq!(end.is_none(), fits, "{size} bytes, {piece} at a time: {end:?}");
        }
    }

    #[tokio::test]
    async fn a_small_piece_lets_go_of_the_buffer_that_it_was_read_into() {
        let world = World::new();
        let (send, mut arriving) = arriving(&world);
        let buffer = Bytes::from(vec![0, 0, 0, 0, 9, 1, 2, 3]);
        send.send(buffer.slice(..6)).unwrap();
        let early = poll_fn(|cx| Poll::Ready(Pin::new(&mut arriving).poll_frame(cx))).await;
        assert!(early.is_pending());
        assert!(buffer.is_unique(), "only the test holds the buffer");
    }

    /// Gathers the whole request and answers with as many bytes.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: Request<Body>) -> Self::Future {
            Box::pin(async move {
                let mut body = request.into_body();
                let mut size = 0;
                while let Some(piece) = next(&mut body).await {
                    match piece {
                        Ok(frame) => size += frame.data_ref().map_or(0, Bytes::len),
                        Err(status) => return Ok(status.into_http()),
                    }
                }
                let (answer, sent) = mpsc::unbounded_channel();
                answer.send(size).unwrap();
                Ok(Response::new(Body::new(Sent(sent))))
            })
        }
    }

    struct World {
        echo: Metered<Echo>,
        places: Arc<Places>,
    }

    impl World {
        fn new() -> World {
            let (bytes_max, connection_bytes_max) = (CALL_COST * 9, CONNECTION_BYTES_MAX);
            let exempt: &[_] = &["/own."];
            let limits = CallLimits { bytes_max, connection_bytes_max, exempt };
            World { echo: MeterCalls::new(limits).layer(Echo), places: Places::new(9) }
        }

        fn connection(&self) -> Via {
            Via(self.places.admit().expect("a place").0)
        }

        /// Begins a call.
        fn call(
            &mut self,
            path: &str,
            via: &Via,
        ) -> (mpsc::UnboundedSender<usize>, impl Future<Output = Response<Body>> + use<>) {
            let (send, sent) = mpsc::unbounded_channel();
            let mut request = Request::new(Body::new(Sent(sent)));
            *request.uri_mut() = path.parse().unwrap();
            request.extensions_mut().insert(via.clone());
            let answer = self.echo.call(request);
            (send, async { answer.await.unwrap() })
        }
    }

    fn code(response: &Response<Body>) -> Code {
        Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn a_request_that_finds_no_room_is_refused_at_once_and_holds_nothing() {
        let mut world = World::new();
        let via = world.connection();
        let (first, answer) = world.call("/kv/put", &via);
        first.send(CALL_COST).unwrap();
        let answer = tokio::spawn(answer);
        let (second, refused) = world.call("/kv/put", &via);
        tokio::task::yield_now().await;
        second.send(CALL_COST).unwrap();
        let refused = refused.await;
        assert_eq!(code(&refused), Code::ResourceExhausted, "{refused:?}");
        drop(refused);
        let (third, answered) = world.call("/kv/put", &via);
        drop(third);
        assert_eq!(code(&answered.await), Code::Ok, "the refused one gave its room back");
        drop(first);
        assert_eq!(code(&answer.await.unwrap()), Code::Ok);
    }

    #[tokio::test]
    async fn a_call_is_refused_before_its_request_when_others_hold_the_room() {
        let mut world = World::new();
        let (one, other) = (world.connection(), world.connection());
        let held: Vec<_> = [&one, &one, &one, &other, &other]
            .map(|via| world.call("/kv/put", via))
            .into_iter()
            .collect();
        let (_, refused) = world.call("/kv/put", &other);
        assert_eq!(code(&refused.await), Code::ResourceExhausted);
        drop(held);
        let (last, answered) = world.call("/kv/put", &other);
        drop(last);
        assert_eq!(code(&answered.await), Code::Ok);
    }

    #[tokio::test]
    async fn a_large_answer_holds_its_room_until_it_has_left() {
        let mut world = World::new();
        let via = world.connection();
        let (send, answer) = world.call("/kv/get", &via);
        send.send(CALL_COST * 2).unwrap();
        drop(send);
        let mut answer = answer.await.into_body();
        let piece = next(&mut answer).await.unwrap().unwrap().into_data().unwrap();
        drop(answer);
        let (_, refused) = world.call("/kv/get", &via);
        assert_eq!(code(&refused.await), Code::ResourceExhausted, "its answer lies unsent");
        drop(piece);
        let (last, answered) = world.call("/kv/get", &via);
        drop(last);
        assert_eq!(code(&answered.await), Code::Ok);
    }

    #[tokio::test]
    async fn a_request_that_trickles_in_is_given_up() {
        let mut world = World::new();
        let via = world.connection();
        let (send, answer) = world.call("/kv/put", &via);
        let trickle = tokio::spawn(async move {
            while send.send(1).is_ok() {
                tokio::time::sleep(REQUEST_WITHIN / 10).await;
            }
        });
        assert_eq!(code(&answer.await), Code::DeadlineExceeded);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn streams_on_exempt_paths_take_the_time_and_room_that_they_need() {
        let mut world = World::new();
        let via = world.connection();
        let (send, answer) = world.call("/own.Registration/Attend", &via);
        let answer = tokio::spawn(answer);
        for _ in 0..6 {
            send.send(CALL_COST).unwrap();
            tokio::time::sleep(REQUEST_WITHIN / 3).await;
        }
        drop(send);
        assert_eq!(code(&answer.await.unwrap()), Code::Ok);
    }
}
