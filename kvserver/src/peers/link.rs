//! One connection between two copies, as both sides use it. Shell: bytes, patience and signs of
//! life; messages pass through unread.
//!
//! Whatever is queued when the socket takes more goes out in one write. Either side confirms what has
//! arrived, so that no more is under way than `pace` allows, and what overtakes never waits long behind
//! the rest. Either side says at least that it lives every five seconds, and gives up on a side that
//! takes nothing for fifteen, or says nothing in a whole period of that length: the replica's own
//! patience is shorter, but lasts only while it waits for something. Whoever sends much must listen at
//! the same time: what was confirmed comes in by the other half.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::{Buf, BytesMut};
use kvprocess::{clock, dial};
use kvproto::message::Message;
use kvproto::wire::{Frame, FrameReader, FrameWriter, GREETING};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::STREAM_QUEUED_MAX;
use super::pace::{CONFIRM_EVERY, Pace};

/// The other side hears this often that we live.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// A connection is given up after so long without progress.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// What says that a connection ends may take so long to go out.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);
/// Messages that are taken from the queue together.
const MESSAGES_PER_TURN: usize = 256;
/// Bytes in order that go out in one write: what overtakes waits for no more.
const WRITE_SIZE: usize = 128 << 10;

/// What one half of a connection learns and the other has to know.
#[derive(Default)]
struct Shared {
    /// Bytes of messages in order that have come from the other side.
    received: AtomicU64,
    /// What the other side has said of ours.
    confirmed: AtomicU64,
    /// One of the two has grown.
    news: Notify,
}

/// Connects to another copy. Ends well only when that speaks our protocol and is ready to listen.
pub async fn connect(name: &str) -> anyhow::Result<(Incoming, Outgoing)> {
    let mut stream = dial::stream(name).await?;
    stream.write_all(&GREETING).await?;
    let mut answer = [0; GREETING.len()];
    stream.read_exact(&mut answer).await.context("it does not greet us")?;
    ensure!(answer == GREETING, "it speaks another protocol than copies of this release");
    Ok(halves(stream))
}

/// Takes a connection that another copy has opened, and greets it.
pub async fn accept(mut stream: TcpStream) -> anyhow::Result<(Incoming, Outgoing)> {
    let mut greeting = [0; GREETING.len()];
    timeout(SILENT_FOR, stream.read_exact(&mut greeting)).await??;
    ensure!(greeting == GREETING, "it speaks another protocol than copies of this release");
    stream.write_all(&GREETING).await?;
    Ok(halves(stream))
}

fn halves(stream: TcpStream) -> (Incoming, Outgoing) {
    let (reading, writing) = stream.into_split();
    let every = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let shared = Arc::new(Shared::default());
    let incoming = Incoming {
        stream: reading,
        reader: FrameReader::default(),
        shared: Arc::clone(&shared),
        told: 0,
        heard: true,
        looks: every(SILENT_FOR),
    };
    let outgoing = Outgoing {
        stream: writing,
        writer: FrameWriter::default(),
        shared,
        told: 0,
        pace: Pace::default(),
        bytes: BytesMut::new(),
        beats: every(ALIVE_EVERY),
    };
    (incoming, outgoing)
}

/// What the other side has sent.
#[expect(clippy::large_enum_variant, reason = "a message is what comes nearly always")]
#[derive(Debug)]
pub enum Came {
    /// A message.
    Message(Message),
    /// More of what we sent has arrived there.
    Confirmed,
}

/// What comes from the other side.
pub struct Incoming {
    stream: OwnedReadHalf,
    reader: FrameReader,
    shared: Arc<Shared>,
    /// So much received was told to the other half.
    told: u64,
    /// Something has come since the last look.
    heard: bool,
    looks: Interval,
}

impl Incoming {
    /// What comes next; `None` when the other side has closed the connection. A first message is
    /// small: `size_max` bounds it before anything is known of who sends it. May be dropped at any
    /// wait, and called again.
    pub async fn next(&mut self, size_max: usize) -> anyhow::Result<Option<Came>> {
        loop {
            let frame = self.reader.next(size_max)?;
            let received = self.reader.received();
            if received - self.told >= CONFIRM_EVERY {
                self.told = received;
                self.shared.received.store(received, Ordering::Relaxed);
                self.shared.news.notify_one();
            }
            match frame {
                Some(Frame::Message(message)) => return Ok(Some(Came::Message(message))),
                Some(Frame::Confirmed(through)) => {
                    self.shared.confirmed.store(through, Ordering::Relaxed);
                    self.shared.news.notify_one();
                    return Ok(Some(Came::Confirmed));
                }
                Some(Frame::Refused(reason)) => bail!("it says: {reason}"),
                Some(Frame::Alive) => continue,
                None => {}
            }
            tokio::select! {
                biased;
                read = self.stream.read_buf(self.reader.room()) => {
                    if read? == 0 {
                        return Ok(None);
                    }
                    self.heard = true;
                }
                _ = self.looks.tick() => {
                    ensure!(self.heard, "it has said nothing for {SILENT_FOR:?}");
                    self.heard = false;
                }
            }
        }
    }

    /// The next message.
    pub async fn next_message(&mut self, size_max: usize) -> anyhow::Result<Option<Message>> {
        loop {
            match self.next(size_max).await? {
                Some(Came::Message(message)) => return Ok(Some(message)),
                Some(Came::Confirmed) => {}
                None => return Ok(None),
            }
        }
    }
}

/// What goes to the other side.
pub struct Outgoing {
    stream: OwnedWriteHalf,
    writer: FrameWriter,
    shared: Arc<Shared>,
    /// So much received was told to the other side.
    told: u64,
    pace: Pace,
    /// Whole frames, and not yet taken.
    bytes: BytesMut,
    beats: Interval,
}

impl Outgoing {
    /// Sends what is queued until the queue is closed. May be dropped at any wait: no frame is left
    /// half written for who goes on.
    pub async fn carry(&mut self, mut queued: mpsc::Receiver<Message>) -> anyhow::Result<()> {
        let mut messages = Vec::new();
        let mut is_over = false;
        loop {
            let next = self.writer.next_size();
            if is_over && next.is_none() {
                return Ok(());
            }
            let takes_more = !is_over && self.writer.queued() < STREAM_QUEUED_MAX;
            let goes_on = next.is_some_and(|size| size <= self.pace.room());
            tokio::select! {
                biased;
                () = self.shared.news.notified() => {}
                count = queued.recv_many(&mut messages, MESSAGES_PER_TURN), if takes_more => {
                    is_over = count == 0;
                    self.queue(messages.drain(..));
                }
                _ = self.beats.tick() => self.writer.alive(&mut self.bytes),
                () = std::future::ready(()), if goes_on => {}
            }
            self.take_news()?;
            self.take_messages();
            self.flush().await?;
        }
    }

    fn queue(&mut self, messages: impl Iterator<Item = Message>) {
        for message in messages {
            if message.body.overtakes() {
                self.writer.beside(message, &mut self.bytes);
            } else {
                self.writer.message(message);
            }
        }
    }

    /// Confirms what has arrived, and hears what was confirmed.
    fn take_news(&mut self) -> anyhow::Result<()> {
        let received = self.shared.received.load(Ordering::Relaxed);
        if received > self.told {
            self.told = received;
            self.writer.confirmed(received, &mut self.bytes);
        }
        let confirmed = self.shared.confirmed.load(Ordering::Relaxed);
        let known = self.pace.confirmed(confirmed, clock::now());
        known.map_err(|_| anyhow!("it confirms what was never sent"))
    }

    /// Puts on their way what the window allows of the messages in order.
    fn take_messages(&mut self) {
        let room = self.pace.room().min(WRITE_SIZE);
        self.pace.sent(self.writer.take(room, &mut self.bytes));
        if self.writer.next_size().is_some_and(|size| size > self.pace.room()) {
            self.pace.held_back(clock::now());
        }
    }

    /// Says one thing, and then nothing more.
    pub async fn tell(&mut self, message: Message) -> anyhow::Result<()> {
        self.writer.message(message);
        self.take_messages();
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }

    /// Says why the connection ends, if the other side takes it in time.
    pub async fn refuse(&mut self, reason: &str) {
        self.writer.refused(reason, &mut self.bytes);
        // It closes all the same.
        let _ = timeout(REFUSE_WITHIN, self.flush()).await;
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        while !self.bytes.is_empty() {
            match self.stream.try_write(&self.bytes) {
                Ok(count) => self.bytes.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    timeout(SILENT_FOR, self.stream.writable())
                        .await
                        .with_context(|| format!("it takes nothing for {SILENT_FOR:?}"))??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
