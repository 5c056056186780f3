//! The writers of a drill: each has keys of its own, puts, appends and reads back all the time,
//! and checks on request that its keys hold what was promised.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvclient::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Round;
use crate::calls::{append, connect, end, end_of, get, put};
use crate::ledger::{End, Ledger, shown};

/// How long a call tries before it ends as failed or unknown: longer than any failover, so that an
/// end other than done is a finding.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Pause of a writer after each step. Gaps are measured this finely, and two cores keep enough
/// time for the servers.
pub(super) const PAUSE: Duration = Duration::from_millis(4);

/// Keys that a writer puts in turn.
const REGISTERS: u64 = 20;

/// Appends to one key before the next one is begun, so that reading back stays cheap.
const APPENDS_PER_LOG: u64 = 100;

/// What all writers saw since the last reset.
pub struct Meter {
    state: Mutex<MeterState>,
}

struct MeterState {
    last_write: Instant,
    /// The first one since the last reset.
    first_write: Option<Instant>,
    ever: Ever,
    round: Round,
}

/// How calls ended since the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ever {
    /// Completed writes.
    pub writes: u64,
    /// Calls that were certainly not done.
    pub failed: u64,
    /// Calls whose outcome nobody knows.
    pub unknown: u64,
}

impl Meter {
    /// A meter at zero.
    #[expect(clippy::new_without_default, reason = "it starts a clock")]
    #[must_use]
    pub fn new() -> Meter {
        Meter {
            state: Mutex::new(MeterState {
                last_write: Instant::now(),
                first_write: None,
                ever: Ever::default(),
                round: empty_round(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, MeterState> {
        // Plain numbers: valid whatever happened to another holder.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a round. The gap that is open at this moment counts into it from its beginning.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.round = empty_round();
        state.first_write = None;
    }

    /// What was seen since the last reset. A gap that is still open is not in it.
    #[must_use]
    pub fn read(&self) -> Round {
        self.lock().round.clone()
    }

    /// When the first write since the last reset was completed.
    #[must_use]
    pub fn first_write(&self) -> Option<Instant> {
        self.lock().first_write
    }

    /// What was seen since the beginning.
    #[must_use]
    pub fn ever(&self) -> Ever {
        self.lock().ever
    }

    fn ended(&self, took: Duration, is_write: bool, end: End) {
        let mut state = self.lock();
        let now = Instant::now();
        state.round.longest_call = state.round.longest_call.max(took);
        match end {
            End::Done if is_write => {
                let gap = now - state.last_write;
                state.round.unavailable = state.round.unavailable.max(gap);
                state.last_write = now;
                state.first_write.get_or_insert(now);
                state.round.writes += 1;
                state.ever.writes += 1;
            }
            End::Done => {}
            End::NotDone => {
                state.round.failed += 1;
                state.ever.failed += 1;
            }
            End::Unknown => {
                state.round.unknown += 1;
                state.ever.unknown += 1;
            }
        }
    }
}

fn empty_round() -> Round {
    Round {
        unavailable: Duration::ZERO,
        longest_call: Duration::ZERO,
        writes: 0,
        failed: 0,
        unknown: 0,
        lost: Vec::new(),
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Keys looked at.
    pub keys: usize,
    /// Broken promises, in words.
    pub broken: Vec<String>,
}

enum Order {
    Check { all: bool, done: oneshot::Sender<Checked> },
}

/// All writers.
pub struct Crew {
    writers: Vec<(mpsc::Sender<Order>, JoinHandle<()>)>,
}

impl Crew {
    /// Starts writers, each with a client of its own. What they put has at least this size. They
    /// write until [`Crew::stop`].
    ///
    /// # Errors
    /// When a client cannot connect.
    pub async fn start(
        view_service: &str,
        writers: u32,
        value_size: usize,
        meter: &Arc<Meter>,
    ) -> Result<Crew> {
        let mut crew = Crew { writers: Vec::new() };
        for number in 0..writers {
            let client = connect(view_service, PATIENCE).await.context("connect a writer")?;
            let (orders, inbox) = mpsc::channel(1);
            let writer = Writer {
                client,
                number,
                value_size,
                step: 0,
                ledger: Ledger::default(),
                keys_given_up: 0,
                meter: Arc::clone(meter),
                found: Vec::new(),
            };
            crew.writers.push((orders, tokio::spawn(writer.run(inbox))));
        }
        Ok(crew)
    }

    /// Has every writer check its keys: all, or those written since the last check.
    ///
    /// # Errors
    /// When a writer has ended, which is a mistake of this program.
    pub async fn check(&mut self, all: bool) -> Result<Checked> {
        let mut answers = Vec::new();
        for (orders, _) in &self.writers {
            let (done, answer) = oneshot::channel();
            orders.send(Order::Check { all, done }).await.ok().context("a writer has ended")?;
            answers.push(answer);
        }
        let mut sum = Checked::default();
        for answer in answers {
            let checked = answer.await.context("a writer has ended")?;
            sum.keys += checked.keys;
            sum.broken.extend(checked.broken);
        }
        Ok(sum)
    }

    /// Ends all writers after their present step.
    pub async fn stop(self) {
        for (orders, task) in self.writers {
            drop(orders);
            // It has nothing more to tell.
            let _ = task.await;
        }
    }
}

struct Writer {
    client: Client,
    number: u32,
    value_size: usize,
    step: u64,
    ledger: Ledger,
    /// Rises when a key's content is in doubt; part of every key, so that all new ones are fresh.
    keys_given_up: u64,
    meter: Arc<Meter>,
    found: Vec<String>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        loop {
            match inbox.try_recv() {
                Ok(Order::Check { all, done }) => {
                    // Whoever asked may be gone.
                    let _ = done.send(self.check(all).await);
                }
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
            self.step().await;
            tokio::time::sleep(PAUSE).await;
        }
        end(&self.client).await;
    }

    /// A put or an append, and now and then its key read back.
    async fn step(&mut self) {
        self.step += 1;
        let (writer, step, doubt) = (self.number, self.step, self.keys_given_up);
        let started = Instant::now();
        let (key, end) = if step.is_multiple_of(2) {
            let key = format!("w{writer}/{doubt}/register{}", (step / 2) % REGISTERS);
            let value = format!("{step:0>size$}", size = self.value_size);
            let result = put(&self.client, &key, &value).await;
            self.ledger.put(&key, value, end_of(&result));
            (key, self.ended("put", started, &result))
        } else {
            let key = format!("w{writer}/{doubt}/log{}", step / (2 * APPENDS_PER_LOG));
            let element = format!("{step};");
            let result = append(&self.client, &key, &element).await;
            self.ledger.append(&key, &element, end_of(&result));
            (key, self.ended("append", started, &result))
        };
        if end == End::Unknown {
            self.keys_given_up += 1;
        } else if step % 4 < 2 {
            self.read_back(&key).await;
        }
    }

    fn ended<T>(&self, what: &str, started: Instant, result: &Result<T, kvclient::Error>) -> End {
        let end = end_of(result);
        self.meter.ended(started.elapsed(), true, end);
        if let Err(error) = result {
            eprintln!("writer {}: {what}: {error}", self.number);
        }
        end
    }

    async fn read_back(&mut self, key: &str) {
        let started = Instant::now();
        let result = get(&self.client, key).await;
        self.meter.ended(started.elapsed(), false, end_of(&result));
        match result {
            Ok(value) => {
                let broken = self.compare(key, value.as_deref());
                self.found.extend(broken);
            }
            Err(error) => eprintln!("writer {}: get: {error}", self.number),
        }
    }

    fn compare(&self, key: &str, value: Option<&str>) -> Option<String> {
        let promise = self.ledger.promise(key);
        promise
            .is_broken_by(value)
            .then(|| format!("{key} holds {} but was promised as {promise}", shown(value)))
    }

    async fn check(&mut self, all: bool) -> Checked {
        let keys = self.ledger.to_check(all);
        let mut checked = Checked { keys: keys.len(), broken: std::mem::take(&mut self.found) };
        for key in keys {
            match get(&self.client, &key).await {
                Ok(value) => {
                    checked.broken.extend(self.compare(&key, value.as_deref()));
                    self.ledger.checked(&key);
                }
                Err(error) => checked.broken.push(format!("{key} could not be read: {error}")),
            }
        }
        checked
    }
}
