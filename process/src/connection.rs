//! Connections: who gets a place, which protocol is spoken, and when one is closed that only takes.
//!
//! A server has a bounded number of places. When all are taken, the connection that has been without
//! an open call for the longest time gives its own to the newcomer, those that never made a call
//! first; so silent connections never keep out one that works. A connection is closed when it
//! - has not begun to speak HTTP/2 within [`PREFACE_WITHIN`],
//! - takes nothing of what is written to it for [`TAKE_WITHIN`],
//! - takes no answer for [`ANSWERS_TAKEN_WITHIN`] although there are some, by its flow control.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::debug;

/// Time to say what every HTTP/2 client says first. Many round trips around the earth.
const PREFACE_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// What every HTTP/2 client says first has this many bytes.
const PREFACE_SIZE: usize = 24;
/// The other side must take something of what is written to it within this time. As long as an
/// unanswered sign of life is waited for.
const TAKE_WITHIN: Duration = Duration::from_secs(15);
/// A connection that reads, but opens no window for its answers, has this long.
const ANSWERS_TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// What is known of one connection while it is open.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    cut: CancellationToken,
    /// Bytes that its calls hold.
    pub(crate) held: AtomicUsize,
    calls: AtomicUsize,
    /// When its last call ended, counted in calls of all connections; 0 before the first.
    idle_since: AtomicU64,
    calls_ended: Arc<AtomicU64>,
    /// Answers that wait to be taken, and how many were.
    answers: AtomicUsize,
    answers_taken: AtomicUsize,
}

impl Connection {
    pub(crate) fn call_begins(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    pub(crate) fn call_ends(&self) {
        self.idle_since.store(self.calls_ended.fetch_add(1, Relaxed) + 1, Relaxed);
        self.calls.fetch_sub(1, Relaxed);
    }

    pub(crate) fn answer_waits(&self) {
        self.answers.fetch_add(1, Relaxed);
    }

    pub(crate) fn answer_taken(&self) {
        self.answers_taken.fetch_add(1, Relaxed);
        self.answers.fetch_sub(1, Relaxed);
    }
}

/// The places of a server.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    admitted: AtomicU64,
    calls_ended: Arc<AtomicU64>,
    /// Ends with the server, and all connections with it.
    pub(crate) cut: CancellationToken,
}

/// Whether room had to be made for a newcomer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Made {
    /// There was a place.
    NoRoom,
    /// An idle connection gave its own.
    Room,
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Places> {
        Arc::new(Places {
            max,
            open: Mutex::default(),
            admitted: AtomicU64::new(0),
            calls_ended: Arc::default(),
            cut: CancellationToken::new(),
        })
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// A place for a new connection; `None` when all are taken by connections with open calls.
    pub(crate) fn admit(&self) -> Option<(Arc<Connection>, Made)> {
        let mut open = self.open();
        let mut made = Made::NoRoom;
        if open.len() >= self.max {
            let idle = open.values().filter(|it| it.calls.load(Relaxed) == 0);
            let longest = idle.min_by_key(|it| it.idle_since.load(Relaxed))?.id;
            if let Some(longest) = open.remove(&longest) {
                longest.cut.cancel();
            }
            made = Made::Room;
        }
        let connection = Arc::new(Connection {
            id: self.admitted.fetch_add(1, Relaxed),
            cut: self.cut.child_token(),
            held: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            calls_ended: Arc::clone(&self.calls_ended),
            answers: AtomicUsize::new(0),
            answers_taken: AtomicUsize::new(0),
        });
        open.insert(connection.id, Arc::clone(&connection));
        Some((connection, made))
    }

    fn leave(&self, id: u64) {
        self.open().remove(&id);
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that fails as soon as its connection is cut, or has tried our patience.
pub(crate) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    _place: Place,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until this much was read, and by when.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    /// Something was written that the other side does not take.
    stuck: Option<Pin<Box<Sleep>>>,
    /// How many answers were taken when some were first seen waiting, and when that was.
    waiting: Option<(usize, Instant)>,
}

/// The place of a connection, free again when this is dropped.
struct Place {
    places: Arc<Places>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.leave(self.id);
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>, places: Arc<Places>) -> Self {
        let cut = Box::pin(connection.cut.clone().cancelled_owned());
        let preface = Some((PREFACE_SIZE, Box::pin(sleep(PREFACE_WITHIN))));
        let _place = Place { places, id: connection.id };
        Self { stream, connection, _place, cut, preface, stuck: None, waiting: None }
    }

    /// Whether the other side begins with this byte, which stays to be read.
    pub(crate) async fn begins_with(&mut self, byte: u8) -> io::Result<bool> {
        let mut first = [0];
        let mut first = ReadBuf::new(&mut first);
        poll_fn(|cx| self.socket(cx)?.poll_peek(cx, &mut first).map_ok(drop)).await?;
        Ok(first.filled() == [byte])
    }

    /// The bare socket, which has no place any more.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// The socket, unless it is to be closed; also has the task woken when it is.
    fn socket(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some((_, late)) = &mut self.preface
            && late.as_mut().poll(cx).is_ready()
        {
            return Err(self.given_up("it has not begun to speak HTTP/2"));
        }
        Ok(Pin::new(&mut self.stream))
    }

    fn given_up(&self, why: &str) -> io::Error {
        let peer = self.stream.peer_addr().map_or("?".into(), |address| address.to_string());
        debug!("closing the connection of {peer}: {why}");
        io::ErrorKind::TimedOut.into()
    }

    fn note_read(&mut self, count: usize) {
        if let Some((missing, _)) = &mut self.preface {
            *missing = missing.saturating_sub(count);
            self.preface.take_if(|(missing, _)| *missing == 0);
        }
    }

    /// Whether answers wait of which none has been taken for too long. Signs of life keep coming and
    /// going on a connection that is open, so this is asked often enough.
    fn leaves_answers(&mut self) -> bool {
        if self.connection.answers.load(Relaxed) == 0 {
            self.waiting = None;
            return false;
        }
        let taken = self.connection.answers_taken.load(Relaxed);
        match self.waiting {
            Some((seen, since)) if seen == taken => since.elapsed() >= ANSWERS_TAKEN_WITHIN,
            _ => {
                self.waiting = Some((taken, Instant::now()));
                false
            }
        }
    }

    /// Passes on how a write went, unless nothing has been taken for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(TAKE_WITHIN)));
        if stuck.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.given_up("it takes nothing of what is written to it")));
        }
        Poll::Pending
    }
}

/// What each call finds of its connection among its extensions.
#[derive(Clone)]
pub(crate) struct Via(pub(crate) Arc<Connection>);

impl Connected for Socket {
    type ConnectInfo = Via;
    fn connect_info(&self) -> Via {
        Via(Arc::clone(&self.connection))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.leaves_answers() {
            return Poll::Ready(Err(self.given_up("it takes no answers")));
        }
        let before = buf.filled().len();
        let read = self.socket(cx)?.poll_read(cx, buf);
        self.note_read(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket(cx)?.poll_write(cx, buf);
        self.watched(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket(cx)?.poll_write_vectored(cx, bufs);
        self.watched(cx, written)
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

    fn call(connection: &Connection) {
        connection.call_begins();
        connection.call_ends();
    }

    fn is_open(connection: &Connection) -> bool {
        !connection.cut.is_cancelled()
    }

    fn three(places: &Places) -> [Arc<Connection>; 3] {
        [(); 3].map(|()| places.admit().expect("a place").0)
    }

    #[test]
    fn the_connection_that_is_idle_for_the_longest_time_gives_its_place() {
        let places = Places::new(3);
        let [one, two, three] = three(&places);
        for connection in [&two, &three, &one] {
            call(connection);
        }
        let (newcomer, made) = places.admit().expect("a place");
        assert_eq!(made, Made::Room);
        assert_eq!(
            [&one, &two, &three, &newcomer].map(|it| is_open(it)),
            [true, false, true, true]
        );
    }

    #[test]
    fn those_that_never_made_a_call_give_their_places_first_the_oldest_of_them_before_others() {
        let places = Places::new(3);
        let [worker, silent, later] = three(&places);
        call(&worker);
        places.admit().expect("a place");
        assert_eq!([&worker, &silent, &later].map(|it| is_open(it)), [true, false, true]);
        places.admit().expect("a place");
        assert_eq!([&worker, &later].map(|it| is_open(it)), [true, false]);
    }

    #[test]
    fn a_connection_with_an_open_call_keeps_its_place() {
        let places = Places::new(3);
        let connections = three(&places);
        connections.iter().for_each(|connection| connection.call_begins());
        assert!(places.admit().is_none());
        connections[1].call_ends();
        assert!(places.admit().is_some());
        assert!(!is_open(&connections[1]));
    }

    #[test]
    fn who_leaves_makes_room_without_anybody_being_closed() {
        let places = Places::new(3);
        let [one, two, three] = three(&places);
        places.leave(two.id);
        assert_eq!(places.admit().expect("a place").1, Made::NoRoom);
        assert!(is_open(&one) && is_open(&three));
    }
}
