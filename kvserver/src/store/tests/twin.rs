//! The store against a plain model of it: maps, copies and ifs, no hashes, no digest, no planning.
//! Both get the same random log, and every outcome must agree; running scans are compared with the
//! model as it was when they began. `STORE_TWIN_SEED=… cargo test -p kvserver twin` replays one.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use super::*;

const OPS: usize = 60_000;
const LIMITS: StoreLimits = StoreLimits { value_size_max: 12, sessions_max: 4 };

/// Splitmix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len() as u64) as usize].clone())
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Twin {
    keys: BTreeMap<Vec<u8>, (Vec<u8>, Version)>,
    sessions: BTreeMap<SessionId, TwinSession>,
}

#[derive(Clone, PartialEq, Debug)]
struct TwinSession {
    floor: u64,
    answers: BTreeMap<u64, (Command, Outcome)>,
}

impl Twin {
    fn apply(&mut self, entry: &Entry) -> Outcome {
        let Some(id) = entry.id else {
            return self.perform(entry);
        };
        let Some(session) = self.sessions.get(&id.session) else {
            return Outcome::Refused(Refusal::SessionExpired);
        };
        let number = id.number.0;
        if number < session.floor {
            let floor = RequestNumber(session.floor);
            return Outcome::Refused(Refusal::StaleRequest { floor });
        }
        if let Some((command, outcome)) = session.answers.get(&number) {
            if *command == entry.command {
                return outcome.clone();
            }
            return Outcome::Refused(Refusal::RequestReused);
        }
        let floor = session.floor.max(id.first_open.0.min(number));
        if u128::from(number) >= u128::from(floor) + u128::from(SESSION_WINDOW) {
            return Outcome::Refused(Refusal::WindowFull);
        }
        let outcome = self.perform(entry);
        if let Some(session) = self.sessions.get_mut(&id.session) {
            session.floor = floor;
            session.answers.retain(|number, _| *number >= floor);
            session.answers.insert(number, (entry.command.clone(), outcome.clone()));
        }
        outcome
    }

    fn perform(&mut self, entry: &Entry) -> Outcome {
        let version = Version::of_change_at(entry.position.epoch.generation, entry.op());
        match &entry.command {
            Command::Barrier => Outcome::Barrier,
            Command::Change(change) => match self.change(change, version, 0) {
                Ok(changed) => Outcome::Changed(changed),
                Err(refusal) => Outcome::Refused(refusal),
            },
            Command::Batch(changes) => {
                let before = self.clone();
                let mut changed = Vec::new();
                for (index, change) in changes.iter().enumerate() {
                    match self.change(change, version, index as u32) {
                        Ok(one) => changed.push(one),
                        Err(mut refusal) => {
                            *self = before;
                            if let Refusal::ConditionFailed { record, .. } = &mut refusal {
                                *record = self.record(&change.key);
                            }
                            return Outcome::Refused(refusal);
                        }
                    }
                }
                Outcome::BatchChanged(changed)
            }
            Command::OpenSession if self.sessions.len() as u64 >= LIMITS.sessions_max => {
                Outcome::Refused(Refusal::TooManySessions { sessions_max: LIMITS.sessions_max })
            }
            Command::OpenSession => {
                let id = SessionId(version.0);
                self.sessions.insert(id, TwinSession { floor: 1, answers: BTreeMap::new() });
                Outcome::SessionOpened(id)
            }
            Command::CloseSession(id) | Command::ExpireSession(id) => {
                Outcome::SessionClosed { existed: self.sessions.remove(id).is_some() }
            }
        }
    }

    fn change(&mut self, wanted: &Change, version: Version, n: u32) -> Result<Changed, Refusal> {
        let present = self.keys.get(&wanted.key[..]).cloned();
        let new = match &wanted.action {
            Action::Put(value) => Some(value.to_vec()),
            Action::Delete => None,
            Action::Append(suffix) => {
                let mut value = present.clone().map_or(vec![], |(value, _)| value);
                value.extend_from_slice(suffix);
                Some(value)
            }
            Action::CompareAndSet { expect, new_value } => {
                let holds = match expect {
                    Expect::Missing => present.is_none(),
                    Expect::Value(value) => present.as_ref().is_some_and(|p| p.0 == **value),
                    Expect::Version(version) => present.as_ref().is_some_and(|p| p.1 == *version),
                    Expect::Renamed(renamed) => {
                        present.as_ref().is_some_and(|p| p.1 == renamed.now)
                    }
                };
                if !holds {
                    let record = self.record(&wanted.key);
                    return Err(Refusal::ConditionFailed { record, change: n });
                }
                new_value.as_ref().map(|value| value.to_vec())
            }
        };
        let length = new.as_ref().map_or(0, |value| value.len() as u64);
        if length > LIMITS.value_size_max {
            let size_max = LIMITS.value_size_max;
            return Err(Refusal::TooLarge { size: length, size_max, change: n });
        }
        self.keys.remove(&wanted.key[..]);
        if let Some(value) = new {
            self.keys.insert(wanted.key.to_vec(), (value, version));
        }
        Ok(Changed { version, existed: present.is_some(), length })
    }

    fn record(&self, key: &[u8]) -> Option<Record> {
        let (value, version) = self.keys.get(key)?;
        Some(Record { value: Bytes::copy_from_slice(value), version: *version })
    }
}

/// Compares everything that can be seen of a store.
fn assert_twins(store: &Store, twin: &Twin) {
    store.check_invariants();
    let keys: BTreeMap<_, _> = store
        .items()
        .map(|item| (item.key().to_vec(), (item.value().to_vec(), item.version())))
        .collect();
    assert_eq!(keys, twin.keys);
    assert!(store.sessions().eq(twin.sessions.keys().copied()));
    for (session, twin) in &twin.sessions {
        for number in twin.floor.saturating_sub(2)..twin.floor.saturating_add(SESSION_WINDOW + 2) {
            let (number, first_open) = (RequestNumber(number), RequestNumber(1));
            let id = RequestId { session: *session, number, first_open };
            let known = twin.answers.get(&number.0);
            let command = known.map_or(Command::Barrier, |(command, _)| command.clone());
            let expected = known.map(|(_, outcome)| outcome.clone());
            assert_eq!(store.remembered(&id, &command), expected, "{id:?}");
        }
    }
}

/// A random log that depends on what became of it, as real clients do.
struct Clients {
    random: Random,
    sessions: Vec<SessionId>,
    sent: Vec<(RequestId, Command)>,
    versions: Vec<Version>,
}

impl Clients {
    fn request(&mut self) -> (Option<RequestId>, Command) {
        match self.random.below(100) {
            0 => return (None, Command::Barrier),
            1..4 => return (None, Command::OpenSession),
            4 if self.random.below(3) == 0 => {
                let id = self.random.pick(&self.sessions).unwrap_or_default();
                return (None, Command::ExpireSession(id));
            }
            4..30 => return (None, self.changes()),
            30..50 => {
                if let Some((id, command)) = self.random.pick(&self.sent) {
                    let another = self.random.below(4) == 0;
                    return (Some(id), if another { self.changes() } else { command });
                }
            }
            _ => {}
        }
        let Some(session) = self.random.pick(&self.sessions) else {
            return (None, Command::OpenSession);
        };
        let newest = self.sent.iter().filter(|(id, _)| id.session == session);
        let newest = newest.map(|(id, _)| id.number.0).max().unwrap_or(0);
        let number = match self.random.below(100) {
            0 => self.random.below(newest + 3 * SESSION_WINDOW),
            1 => u64::MAX - self.random.below(2),
            _ => newest.saturating_add(1),
        };
        let first_open = match self.random.below(10) {
            0 => number.saturating_add(self.random.below(3)),
            1..4 => number.saturating_sub(self.random.below(8)),
            _ => 1,
        };
        let (number, first_open) = (RequestNumber(number), RequestNumber(first_open));
        let id = RequestId { session, number, first_open };
        let command = match self.random.below(200) {
            0 => Command::CloseSession(session),
            1 => Command::CloseSession(self.random.pick(&self.sessions).unwrap_or_default()),
            2 => Command::OpenSession,
            _ => self.changes(),
        };
        if self.sent.len() > 200 {
            self.sent.drain(..50);
        }
        if number.0 < 1 << 62 {
            self.sent.push((id, command.clone()));
        }
        (Some(id), command)
    }

    fn changes(&mut self) -> Command {
        if self.random.below(3) > 0 {
            return Command::Change(self.change());
        }
        let count = self.random.below(5);
        Command::Batch((0..count).map(|_| self.change()).collect())
    }

    fn change(&mut self) -> Change {
        let number = self.random.below(24);
        // Names hold keys of up to 16 bytes in place.
        let width = [1, 15, 16, 17][number as usize % 4];
        let key = Bytes::from(format!("{number:0width$x}"));
        let action = match self.random.below(10) {
            0..3 => Action::Put(self.value()),
            3 | 4 => Action::Delete,
            5..8 => Action::Append(self.value()),
            _ => Action::CompareAndSet {
                expect: match self.random.below(3) {
                    0 => Expect::Missing,
                    1 => Expect::Value(self.value().into()),
                    _ => Expect::Version(self.random.pick(&self.versions).unwrap_or_default()),
                },
                new_value: (self.random.below(3) > 0).then(|| self.value()),
            },
        };
        Change { key, action }
    }

    fn value(&mut self) -> Bytes {
        let length = match self.random.below(20) {
            0 => LIMITS.value_size_max + self.random.below(3),
            _ => self.random.below(4),
        };
        Bytes::from(vec![b'a' + (length % 3) as u8; length as usize])
    }

    fn heard(&mut self, outcome: &Outcome, store: &Store) {
        // Sessions that are gone are still tried, through the requests sent before.
        self.sessions = store.sessions().collect();
        if let Outcome::Changed(changed) = outcome {
            self.versions.push(changed.version);
        }
        if self.versions.len() > 30 {
            self.versions.remove(0);
        }
    }
}

struct RunningScan {
    id: ScanId,
    /// Entries applied when it began.
    began: usize,
    twin: Twin,
    digest: Digest,
    chunks: Vec<Bytes>,
}

#[test]
fn the_store_does_what_its_dumb_twin_does() {
    let seed = match std::env::var("STORE_TWIN_SEED") {
        Ok(seed) => seed.parse().expect("STORE_TWIN_SEED is a number"),
        Err(_) => std::collections::hash_map::RandomState::new().hash_one(0),
    };
    println!("replay with STORE_TWIN_SEED={seed}");
    let mut clients = Clients {
        random: Random(seed),
        sessions: Vec::new(),
        sent: Vec::new(),
        versions: Vec::new(),
    };
    let (mut store, mut twin) = (Store::new(LIMITS, Items::default()), Twin::default());
    let mut log: Vec<(Entry, Outcome)> = Vec::new();
    let mut scans: Vec<RunningScan> = Vec::new();
    let mut seen = BTreeMap::new();
    let (mut generation, mut at) = (1, 0);
    for op in 1..=OPS {
        generation += u64::from(clients.random.below(1000) == 0);
        at += clients.random.below(3);
        let epoch = Epoch { generation: Generation(generation), primary_since: ViewNumber(1) };
        let (id, command) = clients.request();
        let entry = Entry {
            position: Position { epoch, op: OpNumber(op as u64) },
            at: LogTime::from_millis(at),
            id,
            command,
        };
        let (before, outcome) = (store.digest(), store.apply(&entry));
        assert_eq!(outcome, twin.apply(&entry), "op {op}: {entry:?}");
        if id.is_none() && matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(store.digest(), before, "a refusal changes nothing");
        }
        *seen.entry(kind(&outcome)).or_insert(0) += 1;
        clients.heard(&outcome, &store);
        log.push((entry, outcome));
        if op % 16 == 0 {
            assert_twins(&store, &twin);
        }

        if scans.len() < 3 && clients.random.below(40) == 0 {
            let (id, digest) = (store.begin_scan(), store.digest());
            let (began, twin) = (log.len(), twin.clone());
            scans.push(RunningScan { id, began, twin, digest, chunks: Vec::new() });
        }
        if let Some(index) = (!scans.is_empty()).then(|| op % scans.len()) {
            let bytes_max = clients.random.below(300) as usize;
            match store.next_chunk(scans[index].id, bytes_max) {
                Some(chunk) => {
                    assert!(!chunk.is_empty());
                    scans[index].chunks.push(chunk);
                    if clients.random.below(300) == 0 {
                        store.end_scan(scans.swap_remove(index).id);
                    }
                }
                None => {
                    let scan = scans.swap_remove(index);
                    *seen.entry("scan finished").or_insert(0) += 1;
                    assert_copy_goes_on(scan, &log, &store);
                }
            }
        }
    }
    println!("{seen:?}");
    for outcome in [
        "changed",
        "batch",
        "opened",
        "closed",
        "condition",
        "too large",
        "expired",
        "stale",
        "reused",
        "window full",
        "too many",
        "scan finished",
    ] {
        assert!(seen.contains_key(outcome), "never happened: {outcome}");
    }
}

/// The copy equals the state at the op at which its scan began, and from there does the same.
fn assert_copy_goes_on(scan: RunningScan, log: &[(Entry, Outcome)], original: &Store) {
    let keys: Vec<&[u8]> = scan
        .chunks
        .iter()
        .flat_map(|chunk| records(chunk))
        .filter_map(|record| match record.unwrap() {
            StateRecord::Key { key, .. } => Some(key),
            StateRecord::Session(_) => None,
        })
        .collect();
    assert!(keys.is_sorted() && keys.len() == scan.twin.keys.len(), "each key once, in order");
    let mut copy = Store::new(LIMITS, Items::default());
    for chunk in &scan.chunks {
        copy.install(chunk).unwrap();
    }
    assert_eq!(copy.digest(), scan.digest);
    assert_twins(&copy, &scan.twin);
    for (entry, outcome) in &log[scan.began..] {
        let answer = copy.apply(entry);
        assert_eq!(answer, *outcome, "a copy answers like the original: {entry:?}");
    }
    assert_eq!(copy.digest(), original.digest());
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Barrier => "barrier",
        Outcome::Changed(_) => "changed",
        Outcome::BatchChanged(_) => "batch",
        Outcome::SessionOpened(_) => "opened",
        Outcome::SessionClosed { .. } => "closed",
        Outcome::Refused(Refusal::ConditionFailed { .. }) => "condition",
        Outcome::Refused(Refusal::TooLarge { .. }) => "too large",
        Outcome::Refused(Refusal::SessionExpired) => "expired",
        Outcome::Refused(Refusal::StaleRequest { .. }) => "stale",
        Outcome::Refused(Refusal::RequestReused) => "reused",
        Outcome::Refused(Refusal::WindowFull) => "window full",
        Outcome::Refused(Refusal::TooManySessions { .. }) => "too many",
    }
}
