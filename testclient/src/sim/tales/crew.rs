//! Clients that work through a story, each with one call open at a time. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::SOON;
use crate::random::Random;
use crate::sim::clients::CallKey;
use crate::sim::story::Story;

/// How often it is looked whether a call has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Append to this many keys that all share.
    Append(u64),
    /// Put into this many keys that all share.
    Put(u64),
    /// Put into, append to and read back keys of one's own.
    OwnKeys(u64),
}

/// The clients.
pub(super) struct Crew {
    seed: u64,
    work: Work,
    random: Random,
    workers: Vec<Worker>,
    /// Longest pause of a client between two calls, in milliseconds.
    pause_max: u64,
    /// The longest that a client has waited for a call.
    longest: Duration,
}

#[derive(Default)]
struct Worker {
    open: Option<Open>,
    rests_until: Duration,
    made: u64,
    /// By key, what this client put or appended last, or all of it for keys of its own.
    own: BTreeMap<String, String>,
    /// By key, what it appended, in order.
    appended: BTreeMap<String, Vec<String>>,
}

struct Open {
    call: CallKey,
    began: Duration,
    key: String,
    change: Option<Change>,
}

enum Change {
    Put(String),
    Append(String),
}

impl Crew {
    pub(super) fn new(seed: u64, clients: u64, work: Work, pause_max: u64) -> Crew {
        Crew {
            seed,
            work,
            random: Random::new(seed ^ 0xc4e3),
            workers: (0..clients).map(|_| Worker::default()).collect(),
            pause_max,
            longest: Duration::ZERO,
        }
    }

    /// Works for so long.
    pub(super) fn work_for(&mut self, story: &mut Story<'_>, time: Duration) {
        let end = story.now() + time;
        while story.now() < end {
            self.look(story, true);
            story.run_for(LOOK_EVERY);
        }
    }

    /// Works until something holds.
    pub(super) fn work_until(
        &mut self,
        story: &mut Story<'_>,
        what: &str,
        holds: impl Fn(&Story<'_>) -> bool,
    ) {
        let end = story.now() + SOON;
        while !holds(story) {
            assert!(story.now() < end, "seed {}: waited in vain until {what}", self.seed);
            self.look(story, true);
            story.run_for(LOOK_EVERY);
        }
    }

    /// Waits for the calls that are open. No client may have waited longer than `wait_max` for any.
    pub(super) fn finish(&mut self, story: &mut Story<'_>, wait_max: Option<Duration>) {
        while self.workers.iter().any(|worker| worker.open.is_some()) {
            self.look(story, false);
            story.run_for(LOOK_EVERY);
        }
        let (seed, longest) = (self.seed, self.longest);
        let in_time = wait_max.is_none_or(|most| longest < most);
        assert!(in_time, "seed {seed}: a client waited {longest:?} for a call");
    }

    /// Ends calls that have ended, and begins others.
    fn look(&mut self, story: &mut Story<'_>, begin: bool) {
        for client in 0..self.workers.len() {
            if let Some(open) = self.workers[client].open.take() {
                self.longest = self.longest.max(story.now() - open.began);
                match story.result(open.call) {
                    None => self.workers[client].open = Some(open),
                    Some(Err(error)) => panic!("seed {}: a call failed: {error}", self.seed),
                    Some(Ok(_)) => self.ended(story, client, open),
                }
            }
            let worker = &self.workers[client];
            if begin && worker.open.is_none() && worker.rests_until <= story.now() {
                self.begin(story, client);
            }
        }
    }

    fn ended(&mut self, story: &Story<'_>, client: usize, open: Open) {
        let rest = Duration::from_millis(self.random.between(0, self.pause_max));
        let worker = &mut self.workers[client];
        worker.rests_until = story.now() + rest;
        let Open { call, key, change, .. } = open;
        match change {
            Some(Change::Put(value)) => {
                worker.own.insert(key, value);
            }
            Some(Change::Append(element)) => {
                worker.own.entry(key.clone()).or_default().push_str(&element);
                worker.appended.entry(key).or_default().push(element);
            }
            None => {
                let expected = worker.own.get(&key).cloned();
                let found = story.value(call).expect("a read that is done has found something");
                assert_eq!(found, expected, "seed {}: client {client} reads {key}", self.seed);
            }
        }
    }

    fn begin(&mut self, story: &mut Story<'_>, client: usize) {
        self.workers[client].made += 1;
        let made = self.workers[client].made;
        let element = format!("{client}.{made};");
        let (key, change) = match self.work {
            Work::Append(keys) => (format!("shared{}", made % keys), Some(Change::Append(element))),
            Work::Put(keys) => (format!("shared{}", made % keys), Some(Change::Put(element))),
            Work::OwnKeys(keys) => {
                let key = format!("own{client}.{}", self.random.draw() % keys);
                let change = match self.random.below(3) {
                    0 => Some(Change::Put(element)),
                    1 => Some(Change::Append(element)),
                    _ => None,
                };
                (key, change)
            }
        };
        let call = match &change {
            Some(Change::Put(value)) => story.put(client, &key, value),
            Some(Change::Append(element)) => story.append(client, &key, element),
            None => story.get(client, &key),
        };
        self.workers[client].open = Some(Open { call, began: story.now(), key, change });
    }

    /// The values of all keys that were written, as one client reads them now.
    pub(super) fn read_all(&self, story: &mut Story<'_>) -> BTreeMap<String, Option<String>> {
        let mut keys: Vec<&String> = self.workers.iter().flat_map(|w| w.own.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().map(|key| (key.clone(), story.get_now(0, key))).collect()
    }

    /// Every value is what it must be: of shared keys, that every appended element is there exactly
    /// once, each client's in its order; that a put was made last by somebody; of own keys, all.
    pub(super) fn check(&self, values: &BTreeMap<String, Option<String>>) {
        let seed = self.seed;
        for (key, value) in values {
            let value = value.as_deref().unwrap_or_default();
            match self.work {
                Work::Append(_) => self.check_appends(key, value),
                Work::Put(_) => {
                    let last = self.workers.iter().filter_map(|worker| worker.own.get(key));
                    assert!(last.into_iter().any(|v| v == value), "seed {seed}: {key} = {value:?}");
                }
                Work::OwnKeys(_) => {
                    let own = self.workers.iter().find_map(|worker| worker.own.get(key));
                    assert_eq!(own.map(String::as_str), Some(value), "seed {seed}: {key}");
                }
            }
        }
    }

    fn check_appends(&self, key: &str, value: &str) {
        let seed = self.seed;
        let found: Vec<&str> = value.split_inclusive(';').collect();
        let made = |worker: &Worker| worker.appended.get(key).cloned().unwrap_or_default();
        let all: usize = self.workers.iter().map(|worker| made(worker).len()).sum();
        assert_eq!(found.len(), all, "seed {seed}: {key} has {} elements", found.len());
        for (client, worker) in self.workers.iter().enumerate() {
            let prefix = format!("{client}.");
            let its: Vec<&str> =
                found.iter().copied().filter(|element| element.starts_with(&prefix)).collect();
            assert_eq!(its, made(worker), "seed {seed}: {key}, appends of client {client}");
        }
    }
}
