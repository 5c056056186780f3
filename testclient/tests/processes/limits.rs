//! What a server does when it is given too much: of data, of requests, of connections. Meanwhile a
//! well-behaved client goes on.

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Running, check, get, put, running};
use kvclient::{Action, Change, Client, ErrorKind};
use kvserver::memory::Shares;
use testclient::calls;
use testclient::cluster::{Options, wait_for};
use testclient::scenes::stage::{memory_of, peak_memory_of};
use tokio::task::JoinHandle;

/// The least that a server can be given, and half as much again.
const MAX_MEMORY: usize = 96 << 20;

async fn small(servers: usize) -> Running {
    let server_flags = vec!["--max-memory".into(), MAX_MEMORY.to_string()];
    running(Options { server_flags, ..Options::default() }, servers).await
}

/// A server has never used more than it was given.
fn stays_within_memory(cluster: &Running, server: usize) {
    let most = peak_memory_of(cluster, server).expect("it runs");
    let now = memory_of(cluster, server).expect("it runs");
    eprintln!("server {server} uses {} MiB and has used {}", now >> 20, most >> 20);
    assert!(most <= MAX_MEMORY as u64, "server {server} has used {most} of {MAX_MEMORY} bytes");
}

/// A client that writes and reads all the time, and of whose calls none may fail.
struct WellBehaved {
    task: JoinHandle<u64>,
    stop: tokio_util::sync::CancellationToken,
}

impl WellBehaved {
    async fn start(cluster: &Running) -> WellBehaved {
        let client = cluster.client().await;
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut calls = 0;
            loop {
                // Looked at first, so that a whole round follows whatever the test has done.
                let last = stopped.is_cancelled();
                put(&client, "good", &calls.to_string()).await;
                check(&client, "good", &calls.to_string()).await;
                calls += 1;
                if last {
                    return calls;
                }
            }
        });
        WellBehaved { task, stop }
    }

    async fn has_gone_on(self) {
        self.stop.cancel();
        let calls = self.task.await.expect("no call has failed");
        eprintln!("the well-behaved client made {calls} rounds");
    }
}

/// Puts batches of small keys until the first is refused. Returns how many keys there are.
async fn fill(client: &Client, first: usize) -> usize {
    let mut keys = first;
    for batch in [1000, 1] {
        loop {
            let puts =
                (keys..keys + batch).map(|key| change(key, Action::Put(vec![b'v'; 100].into())));
            match client.batch(puts.collect::<Vec<_>>()).await {
                Ok(_) => keys += batch,
                Err(error) => {
                    assert_eq!(*error.kind(), ErrorKind::Refused, "{error}");
                    assert!(error.to_string().contains("--max-memory"), "{error}");
                    break;
                }
            }
        }
    }
    keys
}

fn name(key: usize) -> String {
    format!("key-{key:012}")
}

fn change(key: usize, action: Action) -> Change {
    Change { key: name(key).into(), action }
}

#[tokio::test]
async fn a_full_store_stays_within_its_memory_refuses_growth_and_takes_everything_else() {
    let mut cluster = small(2).await;
    let client = cluster.client().await;
    let keys = fill(&client, 0).await;
    eprintln!("{keys} keys");
    assert!(keys > 10_000, "only {keys} keys found room in {MAX_MEMORY} bytes");
    for server in 0..2 {
        stays_within_memory(&cluster, server);
    }
    // Reads go on, and a newcomer is brought up without more memory.
    assert_eq!(get(&client, &name(keys - 1)).await, Some("v".repeat(100)));
    // More than the key for which there was no room.
    let more = "v".repeat(1000);
    let refused = calls::append(&client, &name(0), &more).await.expect_err("it grows the data");
    assert_eq!(*refused.kind(), ErrorKind::Refused, "{refused}");
    cluster.kill(1);
    cluster.start_server(2).expect("start the newcomer");
    let took_over = |layout: &testclient::cluster::Layout| layout.synced == [2];
    cluster.wait_for_view("the newcomer to hold everything", took_over).await.expect("it does");
    for server in [0, 2] {
        stays_within_memory(&cluster, server);
    }
    // Deletes make room, also those of a client that came too late for anything else, and it is used
    // again within the same memory.
    let late = cluster.client().await;
    for first in (0..keys).step_by(1000) {
        let deletes = (first..(first + 1000).min(keys)).map(|key| change(key, Action::Delete));
        late.batch(deletes.collect::<Vec<_>>()).await.expect("deletes always pass");
    }
    let again = fill(&client, keys).await - keys;
    assert!(again * 10 > keys * 9, "{again} keys found room where {keys} had been");
    for server in [0, 2] {
        stays_within_memory(&cluster, server);
    }
}

#[tokio::test]
async fn status_says_how_much_of_its_room_for_data_each_server_uses() {
    let mut cluster = small(2).await;
    put(&cluster.client().await, "k", &"v".repeat(1 << 20)).await;
    let room = Shares::of(MAX_MEMORY as u64).tuning.data_max;
    let told = |status: &kvclient::ClusterStatus, _: &testclient::cluster::Layout| {
        let told = |server: &kvclient::ServerStatus| {
            server.memory.max == room && server.memory.used > 1 << 20
        };
        status.servers.len() == 2 && status.servers.iter().all(told)
    };
    cluster.wait_for_status("both to have told", told).await.expect("they tell");
}

/// A connection that speaks HTTP/2 as badly as a test wants.
struct Rude(TcpStream);

const END_OF_HEADERS: u8 = 4;
const END_OF_STREAM: u8 = 1;

impl Rude {
    /// Connects and says that any amount may be sent to it.
    fn connect(address: &str) -> Rude {
        let mut rude = Rude(TcpStream::connect(address).expect("connect"));
        rude.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a server that listens");
        let window = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
        rude.frame(4, 0, 0, &window).expect("settings");
        rude.frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()).expect("a window");
        rude
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat())
    }

    /// Begins a call on this stream, an odd number.
    fn begin(&mut self, stream: u32, path: &str) -> std::io::Result<()> {
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "rude"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(0); // a literal that is not remembered
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend(text.as_bytes());
            }
        }
        self.frame(1, END_OF_HEADERS, stream, &block)
    }

    /// Sends a piece of a message of this many bytes.
    fn begin_message(&mut self, stream: u32, size: u32, piece: &[u8]) -> std::io::Result<()> {
        let message = [&[0][..], &size.to_be_bytes(), piece].concat();
        self.frame(0, 0, stream, &message)
    }

    /// Sends a whole message.
    fn send_message(&mut self, stream: u32, message: &[u8]) -> std::io::Result<()> {
        let size = u32::try_from(message.len()).expect("short");
        let message = [&[0][..], &size.to_be_bytes(), message].concat();
        self.frame(0, END_OF_STREAM, stream, &message)
    }

    /// Whether the server has closed the connection, without reading what it sent.
    fn is_closed(&mut self) -> bool {
        // A frame of no kind there is, to be ignored.
        let gone = self.frame(0xfa, 0, 0, &[0]).err();
        gone.is_some_and(|error| error.kind() != IoErrorKind::WouldBlock)
    }
}

#[tokio::test]
async fn requests_that_are_half_sent_or_trickle_in_do_not_hold_up_others() {
    let cluster = small(2).await;
    let well_behaved = WellBehaved::start(&cluster).await;
    let address = cluster.server_name(0).to_owned();
    // Ten connections, each with 120 messages of 8 MiB of which 16 KiB come.
    let half_sent = std::thread::spawn({
        let address = address.clone();
        move || {
            let mut rude: Vec<Rude> = (0..10).map(|_| Rude::connect(&address)).collect();
            for rude in &mut rude {
                for stream in (0..120).map(|call| 2 * call + 1) {
                    // The server may close on those who ask for too much.
                    let begun = rude.begin(stream, "/kvserver.KVServer/Put");
                    let _ = begun.and_then(|()| rude.begin_message(stream, 8 << 20, &[0; 16_000]));
                }
            }
            rude
        }
    });
    // One byte a second, until the server has had enough.
    let trickle = std::thread::spawn(move || {
        let mut rude = Rude::connect(&address);
        rude.begin(1, "/kvserver.KVServer/Put").expect("begin");
        rude.begin_message(1, 8 << 20, &[]).expect("begin");
        rude.0.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        let (mut heard, begun) = (Vec::new(), Instant::now());
        loop {
            assert!(begun.elapsed() < PATIENCE, "the server never gave up");
            let mut buffer = [0; 1024];
            match rude.0.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => heard.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == IoErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            // The status of the answer, as it stands in its headers.
            if heard.windows(8).any(|window| window == b"too slow") {
                return;
            }
            if rude.frame(0, 0, 1, &[0]).is_err() {
                return;
            }
        }
    });
    let rude = tokio::task::spawn_blocking(move || half_sent.join().expect("sent")).await;
    tokio::task::spawn_blocking(move || trickle.join().expect("given up")).await.expect("waited");
    drop(rude.expect("sent"));
    well_behaved.has_gone_on().await;
    stays_within_memory(&cluster, 0);
}

#[tokio::test]
async fn a_client_that_never_reads_starves_only_itself_and_is_closed() {
    let cluster = small(2).await;
    let client = cluster.client().await;
    put(&client, "large", &"v".repeat(2 << 20)).await;
    let well_behaved = WellBehaved::start(&cluster).await;
    let address = cluster.server_name(0).to_owned();
    let rude = std::thread::spawn(move || {
        let mut rude: Vec<Rude> = (0..10).map(|_| Rude::connect(&address)).collect();
        // The lab's request for the key "large".
        let get = b"\x0a\x05large";
        for rude in &mut rude {
            rude.0.set_nonblocking(true).expect("a socket");
            for stream in (0..120).map(|call| 2 * call + 1) {
                let begun = rude.begin(stream, "/kvserver.KVServer/Get");
                let _ = begun.and_then(|()| rude.send_message(stream, get));
            }
        }
        let begun = Instant::now();
        while !rude.iter_mut().all(Rude::is_closed) {
            assert!(begun.elapsed() < PATIENCE * 2, "the server never closed them");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    tokio::task::spawn_blocking(move || rude.join().expect("closed")).await.expect("waited");
    well_behaved.has_gone_on().await;
    stays_within_memory(&cluster, 0);
}

/// Connections of which half have begun to speak, and the others say nothing.
async fn idle(cluster: &Running, count: usize) -> (Vec<Rude>, Vec<TcpStream>) {
    let address = cluster.server_name(0).to_owned();
    let connect = move || {
        let speaking = (0..count / 2).map(|_| Rude::connect(&address)).collect();
        let silent = (0..count / 2).map(|_| TcpStream::connect(&address).expect("connect"));
        (speaking, silent.collect())
    };
    let idle = tokio::task::spawn_blocking(connect).await.expect("connected");
    // A client that comes after them all proves that they were accepted.
    assert_eq!(get(&cluster.client().await, "none").await, None);
    idle
}

#[tokio::test]
async fn idle_connections_cost_little_memory_and_nobody_else_anything() {
    const IDLE: usize = 600;
    let cluster = running(Options::default(), 1).await;
    // Nothing else goes on while memory is looked at: a log that grows would count as theirs.
    let before = memory_of(&cluster, 0).expect("it runs");
    let idle = idle(&cluster, IDLE).await;
    let after = memory_of(&cluster, 0).expect("it runs");
    let well_behaved = WellBehaved::start(&cluster).await;
    let each = after.saturating_sub(before) / IDLE as u64;
    eprintln!("{each} bytes for each idle connection");
    assert!(each < 64 << 10, "{each} bytes for each idle connection");
    well_behaved.has_gone_on().await;
    drop(idle);
}

#[tokio::test]
async fn more_idle_connections_than_places_take_each_others() {
    let cluster = small(1).await;
    let well_behaved = WellBehaved::start(&cluster).await;
    let (mut speaking, silent) = idle(&cluster, 1000).await;
    let first = speaking.first_mut().expect("there are many");
    let closed = wait_for("the first of them to be closed", PATIENCE, async || {
        first.is_closed().then_some(()).ok_or_else(|| "it is open".to_owned())
    });
    closed.await.expect("it gives its place to others");
    well_behaved.has_gone_on().await;
    stays_within_memory(&cluster, 0);
    drop(silent);
}
