//! Links that lose calls, as in the lab: a tenth of all calls never reaches the server, and of the
//! rest a fifth is executed but not answered. A proxy in front of each server, which reads just
//! enough of HTTP/2 to tell one call from another; everything else passes.
//!
//! A seed decides the fate of each call in the order in which they begin. A call that is a stream
//! meets its fate as a whole: the server hears nothing in it, or nothing is heard of the server. So
//! does a connection between copies, which is a single stream.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use kvproto::wire::GREETING;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::random::Random;

const UNHEARD_PERMILLE: u64 = 100;
const UNANSWERED_PERMILLE: u64 = 200;

/// What every HTTP/2 connection begins with.
const PREFACE_LEN: usize = 24;
const FRAME_HEADER_LEN: usize = 9;
/// More than the largest frame that our servers and clients agree to.
const FRAME_LEN_MAX: usize = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const CANCEL: u32 = 8;

/// All unreliable links of a cluster; they end when it is dropped.
pub struct Unreliable {
    chance: Arc<Chance>,
    token: CancellationToken,
    _links: DropGuard,
}

struct Chance {
    random: Mutex<Random>,
    unheard: AtomicU64,
    unanswered: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Unheard,
    Unanswered,
}

impl Unreliable {
    /// Links whose losses a seed decides.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let token = CancellationToken::new();
        Self {
            chance: Arc::new(Chance {
                random: Mutex::new(Random::new(seed)),
                unheard: AtomicU64::new(0),
                unanswered: AtomicU64::new(0),
            }),
            token: token.clone(),
            _links: token.drop_guard(),
        }
    }

    /// Makes a link, and returns the address at which it begins.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn link(&self, to: String) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for a link")?;
        let address = listener.local_addr().context("address of a link")?.to_string();
        let (chance, token) = (Arc::clone(&self.chance), self.token.clone());
        tokio::spawn(self.token.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let carried = carry(client, to.clone(), Arc::clone(&chance));
                tokio::spawn(token.clone().run_until_cancelled_owned(carried));
            }
        }));
        Ok(address)
    }

    /// Calls so far that were not heard, and that were not answered.
    #[must_use]
    pub fn lost(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.chance.unheard), count(&self.chance.unanswered))
    }
}

impl Chance {
    fn decide(&self) -> Fate {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if random.chance(UNHEARD_PERMILLE) {
            self.unheard.fetch_add(1, Ordering::Relaxed);
            Fate::Unheard
        } else if random.chance(UNANSWERED_PERMILLE) {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            Fate::Unanswered
        } else {
            Fate::Kept
        }
    }
}

/// One connection through a link: its fates by stream, and both ends to write to.
struct Connection {
    chance: Arc<Chance>,
    fates: Mutex<BTreeMap<u32, Fate>>,
    to_client: tokio::sync::Mutex<OwnedWriteHalf>,
    to_server: tokio::sync::Mutex<OwnedWriteHalf>,
}

/// Carries one connection until either end closes it.
async fn carry(client: TcpStream, to: String, chance: Arc<Chance>) {
    let Ok(server) = TcpStream::connect(to).await else {
        return;
    };
    // Nobody's delays but our own: whoever wrote a frame meant it to go.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut first = [0];
    if client.peek(&mut first).await.is_ok() && first == GREETING[..1] {
        return carry_copies(client, server, chance.decide()).await;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let connection = Connection {
        chance,
        fates: Mutex::default(),
        to_client: to_client.into(),
        to_server: to_server.into(),
    };
    tokio::select! {
        _ = connection.requests(from_client) => {}
        _ = connection.answers(from_server) => {}
    }
}

/// Carries a connection between copies, or one direction of it.
async fn carry_copies(mut client: TcpStream, mut server: TcpStream, fate: Fate) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut nowhere = sink();
    // Either side sees the end of the connection when this returns.
    let _ended = match fate {
        Fate::Kept => tokio::select! {
            ended = copy(&mut from_client, &mut to_server) => ended,
            ended = copy(&mut from_server, &mut to_client) => ended,
        },
        Fate::Unheard => copy(&mut from_client, &mut nowhere).await,
        Fate::Unanswered => tokio::select! {
            ended = copy(&mut from_client, &mut to_server) => ended,
            ended = copy(&mut from_server, &mut nowhere) => ended,
        },
    };
}

impl Connection {
    async fn requests(&self, mut client: OwnedReadHalf) -> io::Result<()> {
        let mut preface = [0; PREFACE_LEN];
        client.read_exact(&mut preface).await?;
        self.to_server.lock().await.write_all(&preface).await?;
        loop {
            let frame = Frame::read(&mut client).await?;
            let known = self.fate(frame.stream());
            let fate = match known {
                None if frame.kind() == HEADERS => self.begin(frame.stream()),
                known => known.unwrap_or(Fate::Kept),
            };
            if fate == Fate::Unheard && frame.kind() == DATA {
                continue;
            }
            // Headers always travel: both ends compress them by what went before.
            self.to_server.lock().await.write_all(&frame.0).await?;
            if known.is_none() && fate == Fate::Unheard {
                let reset = Frame::reset(frame.stream());
                self.to_server.lock().await.write_all(&reset.0).await?;
                self.to_client.lock().await.write_all(&reset.0).await?;
            }
        }
    }

    async fn answers(&self, mut server: OwnedReadHalf) -> io::Result<()> {
        loop {
            let frame = Frame::read(&mut server).await?;
            let lost = frame.kind() == DATA && self.fate(frame.stream()) == Some(Fate::Unanswered);
            let frame = if lost { frame.emptied() } else { frame };
            self.to_client.lock().await.write_all(&frame.0).await?;
        }
    }

    fn fate(&self, stream: u32) -> Option<Fate> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).get(&stream).copied()
    }

    fn begin(&self, stream: u32) -> Fate {
        let fate = self.chance.decide();
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, fate);
        fate
    }
}

/// A frame as it travels: length (3 bytes), kind, flags, stream (4 bytes), payload.
struct Frame(Vec<u8>);

impl Frame {
    async fn read(from: &mut OwnedReadHalf) -> io::Result<Frame> {
        let mut bytes = vec![0; FRAME_HEADER_LEN];
        from.read_exact(&mut bytes).await?;
        let len = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        if len > FRAME_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        bytes.resize(FRAME_HEADER_LEN + len, 0);
        from.read_exact(&mut bytes[FRAME_HEADER_LEN..]).await?;
        Ok(Frame(bytes))
    }

    /// Ends a call without an answer.
    fn reset(stream: u32) -> Frame {
        let mut bytes = vec![0, 0, 4, RST_STREAM, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(CANCEL.to_be_bytes());
        Frame(bytes)
    }

    fn kind(&self) -> u8 {
        self.0[3]
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]])
    }

    /// The same without what it carried.
    fn emptied(mut self) -> Frame {
        self.0.truncate(FRAME_HEADER_LEN);
        self.0[..3].fill(0);
        self.0[4] &= END_STREAM;
        self
    }
}
