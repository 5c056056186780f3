//! Clients that nobody wants: they take places, never read, or send a byte a second. Shell: each is
//! a task that ends when [`Misbehaving`] is dropped, and comes back when it is thrown out.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http2;

const PUT: &str = "/kvserver.KVServer/Put";
const GET: &str = "/kvserver.KVServer/Get";

/// How long one that was thrown out waits before it comes back.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// Calls that one which never reads has open at once: nearly all that a server allows.
const CALLS_AT_ONCE: u32 = 100;

/// The message that a trickling client claims to send.
const TRICKLED_SIZE: usize = 1 << 20;

/// Ways to misbehave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Connects as any client does, and then says nothing.
    Idle,
    /// Asks for a large value, many times at once and then ten times a second, and never reads an
    /// answer.
    NeverReads,
    /// Sends its requests at a byte a second: the first of two from its very first byte, the second
    /// from its first message on.
    Trickles,
}

impl Manner {
    /// In a word or two.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Manner::Idle => "idle",
            Manner::NeverReads => "never reads",
            Manner::Trickles => "a byte a second",
        }
    }
}

/// Clients that misbehave towards one server until this is dropped.
pub struct Misbehaving {
    _tasks: JoinSet<()>,
}

impl Misbehaving {
    /// So many of them, all connected. Those that never read ask for `key`.
    ///
    /// # Errors
    /// When one cannot connect.
    pub async fn start(
        manner: Manner,
        count: usize,
        server: &str,
        key: &[u8],
    ) -> Result<Misbehaving> {
        let mut tasks = JoinSet::new();
        for number in 0..count {
            if manner == Manner::Idle {
                // A real client, which answers when it is asked for a sign of life.
                let channel = kvprocess::dial::connect(server).await?;
                tasks.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(channel);
                });
                continue;
            }
            let mut stream = Some(connect(server).await?);
            let (server, key) = (server.to_owned(), key.to_vec());
            tasks.spawn(async move {
                // However it ends, it tries again: that is what makes it a nuisance.
                loop {
                    if let Some(stream) = stream {
                        let _thrown_out = match manner {
                            Manner::NeverReads => never_read(stream, &key).await,
                            _ => trickle(stream, number % 2 == 0).await,
                        };
                    }
                    tokio::time::sleep(BACK_AFTER).await;
                    stream = connect(&server).await.ok();
                }
            });
        }
        Ok(Misbehaving { _tasks: tasks })
    }
}

async fn connect(server: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(server).await.context("connect")?;
    stream.set_nodelay(true).context("set nodelay")?;
    Ok(stream)
}

async fn never_read(mut stream: TcpStream, key: &[u8]) -> Result<()> {
    stream.write_all(&http2::opening()).await?;
    let get = http2::field(1, key);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for number in 0..1 << 30 {
        if number > CALLS_AT_ONCE {
            ticks.tick().await;
        }
        // Clients open odd streams.
        stream.write_all(&http2::call(2 * number + 1, GET)).await?;
        stream.write_all(&http2::message(2 * number + 1, &get)).await?;
    }
    Ok(())
}

async fn trickle(mut stream: TcpStream, from_the_first_byte: bool) -> Result<()> {
    let mut opening = http2::opening();
    opening.extend(http2::call(1, PUT));
    let mut body = http2::message_head(TRICKLED_SIZE);
    body.extend(http2::field(1, b"trickled"));
    if !from_the_first_byte {
        stream.write_all(&opening).await?;
        opening.clear();
    }
    let frames = body.into_iter().chain(std::iter::repeat(0)).map(|byte| http2::piece(1, &[byte]));
    let mut pieces = opening.into_iter().map(|byte| vec![byte]).chain(frames);
    let mut answers = [0; 4096];
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = second.tick() => {
                let piece = pieces.next().context("a body without end")?;
                stream.write_all(&piece).await?;
            }
            read = stream.read(&mut answers) => anyhow::ensure!(read? > 0, "thrown out"),
        }
    }
}
