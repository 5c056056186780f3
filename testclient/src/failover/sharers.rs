//! Clients that all write and read the same few keys while the primary fails, so that the recorded
//! history has something to contradict itself with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use kvclient::Client;
use kvproto::{Action, Change, Expect};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::writer::{PATIENCE, PAUSE};
use crate::calls::{connect, end};
use crate::random::Random;
use crate::recorder::Recorder;

/// Enough for calls to overlap all the time.
const CLIENTS: u32 = 4;

/// Keys in use at a time.
const KEYS: u64 = 4;

/// Calls until all go on with new keys, so that appended values stay small and each key can be
/// checked.
const CALLS_PER_KEYS: u64 = 2_000;

/// The clients at work.
pub struct Sharers {
    stop: CancellationToken,
    calls: Arc<AtomicU64>,
    recorder: Arc<Recorder>,
    tasks: Vec<JoinHandle<Client>>,
}

impl Sharers {
    /// Starts them. They work until [`Sharers::finish`].
    ///
    /// # Errors
    /// When a client cannot connect.
    pub async fn start(view_service: &str, recorder: Recorder) -> Result<Sharers> {
        let mut sharers = Sharers {
            stop: CancellationToken::new(),
            calls: Arc::default(),
            recorder: Arc::new(recorder),
            tasks: Vec::new(),
        };
        for process in 0..CLIENTS {
            let client = connect(view_service, PATIENCE).await.context("connect a client")?;
            let sharer = Sharer {
                process,
                client,
                random: Random::new(u64::from(process)),
                calls: Arc::clone(&sharers.calls),
                recorder: Arc::clone(&sharers.recorder),
            };
            sharers.tasks.push(tokio::spawn(sharer.run(sharers.stop.clone())));
        }
        Ok(sharers)
    }

    /// Calls begun so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Ends the clients after their present calls, reads every key once more and writes out the
    /// history.
    ///
    /// # Errors
    /// When a client has panicked or the file cannot be written.
    pub async fn finish(mut self) -> Result<()> {
        self.stop.cancel();
        let mut clients = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            clients.push(task.await.context("a client has ended")?);
        }
        let calls = self.calls();
        if let Some(client) = clients.first() {
            for number in 0..=calls / CALLS_PER_KEYS {
                for key in 0..KEYS {
                    // How it ended stands in the history.
                    let _ = self.recorder.read(0, client, vec![name(number, key)]).await;
                }
            }
        }
        for client in &clients {
            end(client).await;
        }
        self.recorder.finish()
    }
}

fn name(number: u64, key: u64) -> Bytes {
    format!("shared{number}/{key}").into()
}

struct Sharer {
    process: u32,
    client: Client,
    random: Random,
    /// Calls of all clients together.
    calls: Arc<AtomicU64>,
    recorder: Arc<Recorder>,
}

impl Sharer {
    async fn run(mut self, stop: CancellationToken) -> Client {
        while !stop.is_cancelled() {
            self.call().await;
            tokio::time::sleep(PAUSE).await;
        }
        self.client
    }

    /// One call. Every value written is one of a kind. How it ended stands in the history.
    async fn call(&mut self) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let keys = number / CALLS_PER_KEYS;
        let mut key = || name(keys, self.random.between(0, KEYS - 1));
        let (one, other) = (key(), key());
        let value = Bytes::from(format!("{number};"));
        let change = |key: &Bytes, action| Change { key: key.clone(), action };
        let changes = match self.random.between(0, 9) {
            0..=3 => return self.read(vec![one]).await,
            4 => return self.read(vec![one, other]).await,
            5 => vec![change(&one, Action::Put(value))],
            6 | 7 => vec![change(&one, Action::Append(value))],
            8 if one != other => vec![
                change(&one, Action::Append(value.clone())),
                change(&other, Action::Append(value)),
            ],
            _ => {
                let Ok(records) =
                    self.recorder.read(self.process, &self.client, vec![one.clone()]).await
                else {
                    return;
                };
                let expect = match records.into_iter().flatten().next() {
                    None => Expect::Missing,
                    Some(record) => Expect::Value(record.value.into()),
                };
                let new_value = (!number.is_multiple_of(5)).then_some(value);
                vec![change(&one, Action::CompareAndSet { expect, new_value })]
            }
        };
        let _ = self.recorder.write(self.process, &self.client, changes).await;
    }

    async fn read(&self, keys: Vec<Bytes>) {
        let _ = self.recorder.read(self.process, &self.client, keys).await;
    }
}
