//! Puts a load on a cluster, or on the echo, and counts what comes of it.
//!
//! A [`Generator`] is a thread with a runtime of its own, on which connections and callers live: one
//! thread is the fastest generator there is on a small machine, and nothing else of the program gets
//! into its way. Callers share one tally, which their thread alone touches while they run.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use testclient::bench::{door::Door, load::{Generator, Load}};
//! # use testclient::workload::Keys;
//! # async fn example() -> anyhow::Result<()> {
//! let generator = Generator::start()?;
//! let door = Door::Grpc { primary: "localhost:8001".into(), deadline: None };
//! let target = generator.connect(&door, 8).await?;
//! let keys = Arc::new(Keys::new(100_000));
//! let load = Load { callers: 200, length: Some(Duration::from_secs(2)), ..Load::new(keys, 100) };
//! let tally = generator.begin(&target, load).until_end().await?;
//! println!("{:.0} writes/s", tally.per_second(tally.writes.count()));
//! # Ok(()) }
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use indicatif::ProgressBar;
use kvproto::{Action, Change};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::door::{Connection, Door};
use super::pace::Pace;
use super::tally::Tally;
use crate::calls::connect;
use crate::ledger::End;
use crate::random::Random;
use crate::workload::{KEY_SIZE, Keys, Mix, Step};

/// Calls that are open when a load ends may take this long; then they are dropped, outcome unknown.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Calls of an open loop that may wait for a free caller. Beyond, the cluster is hopelessly behind.
const BACKLOG_MAX: usize = 100_000;

/// Pause of a caller of a closed loop whose call failed, so that a server that refuses is not asked
/// again as fast as it can refuse.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// How often it is looked, at least, whether an open loop is over.
const PACER_SLEEP_MAX: Duration = Duration::from_millis(20);

/// Concurrent calls that a connection carries well, and that a session has room for.
const CALLERS_PER_CONNECTION: u32 = 25;

/// How many batches are open at once while a cluster is being filled.
const FILLERS: usize = 8;
/// Keys of one batch, and about how many bytes it may have.
const FILL_KEYS: usize = 500;
const FILL_BYTES: usize = 1 << 20;

/// Connections for so many concurrent callers, where nobody says otherwise.
#[must_use]
pub fn connections_for(callers: u32) -> u32 {
    callers.div_ceil(CALLERS_PER_CONNECTION).max(1)
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Load {
    /// The keys, all equally likely.
    pub keys: Arc<Keys>,
    /// What is written.
    pub value: Bytes,
    /// Share of reads, 0 to 1.
    pub read_ratio: f64,
    /// Callers, each with one call open at a time, spread evenly over the connections.
    pub callers: u32,
    /// Open loop: calls that start per second. Without it each caller calls again as soon as it is
    /// answered.
    pub rate: Option<u64>,
    /// How long; `None`: until it is stopped.
    pub length: Option<Duration>,
    /// Seed of keys and kinds of calls.
    pub seed: u64,
}

impl Load {
    /// Writes to these keys by one caller until it is stopped.
    #[must_use]
    pub fn new(keys: Arc<Keys>, value_size: usize) -> Load {
        Load {
            keys,
            value: Bytes::from(vec![b'v'; value_size]),
            read_ratio: 0.0,
            callers: 1,
            rate: None,
            length: None,
            seed: 1,
        }
    }
}

/// Connections of a generator to one door.
pub struct Target {
    connections: Vec<Connection>,
}

impl Target {
    /// Ends sessions; the connections close when this is dropped.
    pub async fn close(self) {
        for connection in &self.connections {
            connection.close().await;
        }
    }
}

/// A thread that makes calls. Everything on it ends when this is dropped.
pub struct Generator {
    runtime: Handle,
    _stop: DropGuard,
}

impl Generator {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has none.
    pub fn start() -> Result<Generator> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("make a runtime for the load")?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        std::thread::Builder::new()
            .name("load".into())
            .spawn(move || {
                runtime.block_on(stopped);
                // Blocking work, if any, ends by itself soon.
                runtime.shutdown_background();
            })
            .context("start a thread for the load")?;
        Ok(Generator { runtime: handle, _stop: stop.drop_guard() })
    }

    /// Opens so many connections.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(&self, door: &Door, connections: u32) -> Result<Target> {
        let mut opening = JoinSet::new();
        for _ in 0..connections {
            let door = door.clone();
            opening.spawn_on(async move { Connection::open(&door).await }, &self.runtime);
        }
        let mut connections = Vec::new();
        while let Some(opened) = opening.join_next().await {
            connections.push(opened.context("connect")??);
        }
        Ok(Target { connections })
    }

    /// Writes each of these keys once, in large batches through the library, so that reads find
    /// something.
    /// The bar advances with it.
    ///
    /// # Errors
    /// When the cluster does not take a batch.
    pub async fn fill(
        &self,
        view_service: &str,
        keys: &Arc<Keys>,
        numbers: Range<u64>,
        value: &Bytes,
        bar: &ProgressBar,
    ) -> Result<()> {
        let batch = (FILL_BYTES / (KEY_SIZE + value.len())).clamp(1, FILL_KEYS) as u64;
        let next = Arc::new(AtomicU64::new(numbers.start));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (view_service, value, bar) = (view_service.to_owned(), value.clone(), bar.clone());
            let (keys, next) = (Arc::clone(keys), Arc::clone(&next));
            let numbers = numbers.clone();
            let filler = async move {
                let client = connect(&view_service, PATIENCE).await?;
                loop {
                    let first = next.fetch_add(batch, Ordering::Relaxed);
                    let numbers = first..numbers.end.min(first + batch);
                    if numbers.is_empty() {
                        return client.close().await;
                    }
                    let count = numbers.end - numbers.start;
                    let put = |number| Change {
                        key: keys.name(number),
                        action: Action::Put(value.clone()),
                    };
                    client.batch(numbers.map(put).collect()).await?;
                    bar.inc(count);
                }
            };
            fillers.spawn_on(filler, &self.runtime);
        }
        while let Some(filled) = fillers.join_next().await {
            filled.context("fill")?.context("write the keys that will be read")?;
        }
        Ok(())
    }

    /// Begins to load a target.
    #[must_use]
    pub fn begin(&self, target: &Target, load: Load) -> Running {
        let shared = Arc::new(Shared {
            mix: Mix { keys: load.keys.count(), read_ratio: load.read_ratio },
            tally: Mutex::default(),
            begun: Instant::now(),
            over: AtomicBool::new(false),
            ended: OnceLock::new(),
            pace: load.rate.map(|rate| Mutex::new(Pace::new(rate, BACKLOG_MAX))),
            ready: Semaphore::new(0),
            load,
        });
        let stop = CancellationToken::new();
        let connections = target.connections.clone();
        let driver = drive(Arc::clone(&shared), connections, stop.clone());
        let driver = self.runtime.spawn(driver);
        let lap_begun = shared.begun;
        Running { shared, driver, lap_begun, stop: stop.clone(), _stop: stop.drop_guard() }
    }
}

/// A load that is being put. Dropping it ends the load.
pub struct Running {
    shared: Arc<Shared>,
    driver: JoinHandle<Result<()>>,
    lap_begun: Instant,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Running {
    /// What came of it since it began, or since the last lap.
    #[must_use]
    pub fn lap(&mut self) -> Tally {
        let now = self.shared.ended.get().copied().unwrap_or_else(Instant::now);
        let mut tally = std::mem::take(&mut *self.shared.tally());
        tally.took = now - self.lap_begun;
        self.lap_begun = now;
        tally
    }

    /// Waits until its length is over, and returns what came of it since the last lap.
    ///
    /// # Errors
    /// When a caller failed in a way that is no end of a call.
    pub async fn until_end(mut self) -> Result<Tally> {
        (&mut self.driver).await.context("put the load")??;
        Ok(self.lap())
    }

    /// Ends it now: no call starts any more, those that are open get their time to end.
    ///
    /// # Errors
    /// As [`Running::until_end`].
    pub async fn stop(self) -> Result<Tally> {
        self.stop.cancel();
        self.until_end().await
    }
}

struct Shared {
    load: Load,
    mix: Mix,
    // Std mutexes: held for one entry each, never across an await.
    tally: Mutex<Tally>,
    begun: Instant,
    /// No call starts any more.
    over: AtomicBool,
    /// The last call has ended.
    ended: OnceLock<Instant>,
    /// Of an open loop.
    pace: Option<Mutex<Pace>>,
    /// One permit for each call of an open loop that waits for a caller.
    ready: Semaphore,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn call(&self, connection: &mut Connection, step: Step) -> (bool, End) {
        let Load { keys, value, .. } = &self.load;
        match step {
            Step::Read(number) => (true, connection.read(keys.name(number), value).await),
            Step::Write(number) => (false, connection.write(keys.name(number), value).await),
        }
    }
}

fn lock(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From the first call of a load to the end of its last.
async fn drive(
    shared: Arc<Shared>,
    connections: Vec<Connection>,
    stop: CancellationToken,
) -> Result<()> {
    let mut callers = JoinSet::new();
    let spread = connections.iter().cycle().cloned();
    for (number, connection) in (0..shared.load.callers).zip(spread) {
        let random = Random::new(shared.load.seed.wrapping_add(u64::from(number)));
        let shared = Arc::clone(&shared);
        if shared.pace.is_some() {
            callers.spawn(take_turns(shared, connection, random));
        } else {
            callers.spawn(call_again(shared, connection, random));
        }
    }
    let pacer = tokio::task::spawn_blocking({
        let shared = Arc::clone(&shared);
        move || keep_pace(&shared)
    });
    let length = async {
        match shared.load.length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = length => {}
        () = stop.cancelled() => {}
    }
    shared.over.store(true, Ordering::Relaxed);
    shared.ready.close();
    let all = async {
        while let Some(ended) = callers.join_next().await {
            ended.context("call")?;
        }
        anyhow::Ok(())
    };
    if let Ok(ended) = tokio::time::timeout(PATIENCE, all).await {
        ended?;
    }
    shared.ended.get_or_init(Instant::now);
    // Each caller that is left has one call open.
    shared.tally().unknown += callers.len() as u64;
    callers.shutdown().await;
    pacer.await.context("keep the pace")?;
    if let Some(pace) = &shared.pace {
        shared.tally().not_started += lock(pace).give_up();
    }
    Ok(())
}

/// A caller of a closed loop.
async fn call_again(shared: Arc<Shared>, mut connection: Connection, mut random: Random) {
    let mut started = Instant::now();
    while !shared.is_over() {
        let step = shared.mix.next(&mut random);
        let (read, end) = shared.call(&mut connection, step).await;
        let ended = Instant::now();
        shared.tally().record(read, ended - started, end);
        started = ended;
        if end != End::Done {
            tokio::time::sleep(FAILED_PAUSE).await;
            started = Instant::now();
        }
    }
}

/// A caller of an open loop: takes the call that has waited longest.
async fn take_turns(shared: Arc<Shared>, mut connection: Connection, mut random: Random) {
    let pace = shared.pace.as_ref().expect("an open loop has a pace");
    while let Ok(permit) = shared.ready.acquire().await {
        permit.forget();
        let Some(intended) = lock(pace).take() else {
            continue;
        };
        let step = shared.mix.next(&mut random);
        let (read, end) = shared.call(&mut connection, step).await;
        shared.tally().record(read, shared.begun.elapsed().saturating_sub(intended), end);
    }
}

/// Makes calls of an open loop due at their moments. On a thread of its own, because the timers of
/// the runtime are only good to a millisecond.
fn keep_pace(shared: &Shared) {
    let Some(pace) = &shared.pace else {
        return;
    };
    while !shared.is_over() {
        let released = lock(pace).release(shared.begun.elapsed());
        shared.ready.add_permits(released);
        let wait = lock(pace).next_due().saturating_sub(shared.begun.elapsed());
        std::thread::sleep(wait.min(PACER_SLEEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_below_what_a_server_lets_one_carry() {
        assert_eq!([1, 25, 26, 200].map(connections_for), [1, 1, 2, 8]);
    }
}
