//! One connection between two copies, as both sides use it. Shell: bytes, patience and signs of
//! life; messages pass through unread.
//!
//! Whatever is queued when the socket takes more goes out in one write. Either side says at least
//! that it lives every five seconds, and gives up on a side that takes nothing for fifteen, or says
//! nothing in a whole period of that length: the replica's own patience is shorter, but lasts only
//! while it waits for something.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use kvprocess::dial;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::message::Message;
use kvproto::wire::{Frame, FrameReader, FrameWriter, GREETING};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// The other side hears this often that we live.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// A connection is given up after so long without progress.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// What says that a connection ends may take so long to go out.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);
/// Messages that are written together.
const MESSAGES_PER_WRITE: usize = 256;
/// A buffer that has grown beyond this size, for a large message, is given back.
const BUFFER_KEPT_MAX: usize = 1 << 20;

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
    let incoming = Incoming {
        stream: reading,
        reader: FrameReader::default(),
        heard: true,
        looks: every(SILENT_FOR),
    };
    let outgoing = Outgoing {
        stream: writing,
        writer: FrameWriter::default(),
        bytes: BytesMut::new(),
        beats: every(ALIVE_EVERY),
    };
    (incoming, outgoing)
}

/// What comes from the other side.
pub struct Incoming {
    stream: OwnedReadHalf,
    reader: FrameReader,
    /// Something has come since the last look.
    heard: bool,
    looks: Interval,
}

impl Incoming {
    /// The next message; `None` when the other side has closed the connection. A first message is
    /// small: `size_max` bounds it before anything is known of who sends it. May be dropped at any
    /// wait, and called again.
    pub async fn next(&mut self, size_max: usize) -> anyhow::Result<Option<Message>> {
        loop {
            match self.reader.next(size_max)? {
                Some(Frame::Message(message)) => return Ok(Some(message)),
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

    /// As [`next`](Self::next), for a side that is known.
    pub async fn next_of_any_size(&mut self) -> anyhow::Result<Option<Message>> {
        self.next(MESSAGE_SIZE_MAX).await
    }
}

/// What goes to the other side.
pub struct Outgoing {
    stream: OwnedWriteHalf,
    writer: FrameWriter,
    /// Encoded, and not yet taken.
    bytes: BytesMut,
    beats: Interval,
}

impl Outgoing {
    /// Sends what is queued until the queue is closed. May be dropped at any wait: no frame is left
    /// half written for who goes on.
    pub async fn carry(&mut self, mut queued: mpsc::Receiver<Message>) -> anyhow::Result<()> {
        let mut messages = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = queued.recv_many(&mut messages, MESSAGES_PER_WRITE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for message in messages.drain(..) {
                        self.writer.message(message, &mut self.bytes);
                    }
                }
                _ = self.beats.tick() => self.writer.alive(&mut self.bytes),
            }
            self.flush().await?;
        }
    }

    /// Says one thing, and then nothing more.
    pub async fn tell(&mut self, message: Message) -> anyhow::Result<()> {
        self.writer.message(message, &mut self.bytes);
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
        if self.bytes.capacity() > BUFFER_KEPT_MAX {
            self.bytes = BytesMut::new();
        }
        Ok(())
    }
}
