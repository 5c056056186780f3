//! What one op costs the store, by how many keys it holds. `make bench-inprocess` runs it.

#![expect(missing_docs, reason = "what criterion's macro makes is public")]

mod load;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvproto::time::LogTime;
use kvproto::{
    Action, Change, Command, Entry, Epoch, Generation, OpNumber, Outcome, Position, Query,
    RequestId, RequestNumber, SessionId, ViewNumber,
};
use kvserver::store::{Items, Store, StoreLimits};
use load::{key, put};

const KEY_COUNTS: [u64; 2] = [10_000, 1_000_000];
/// As a transfer writes them.
const CHUNK_BYTES: usize = 512 << 10;

const LIMITS: StoreLimits = StoreLimits { value_size_max: 8 << 20, sessions_max: 1000 };

fn empty() -> Store {
    Store::new(LIMITS, Items::of_a_server())
}

struct Log {
    store: Store,
    op: OpNumber,
}

impl Log {
    fn with_keys(count: u64) -> Log {
        let mut log = Log { store: empty(), op: OpNumber(0) };
        (0..count).for_each(|number| drop(log.apply(None, &put(number))));
        log
    }

    fn apply(&mut self, id: Option<RequestId>, command: &Command) -> Outcome {
        self.op = self.op.next();
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
        let position = Position { epoch, op: self.op };
        let entry = Entry { position, at: LogTime::default(), id, command: command.clone() };
        self.store.apply(&entry)
    }

    fn open_session(&mut self) -> SessionId {
        match self.apply(None, &Command::OpenSession) {
            Outcome::SessionOpened(id) => id,
            other => panic!("no session: {other:?}"),
        }
    }
}

/// Commands on keys of the store, in no order.
fn commands(count: u64, of: impl Fn(u64) -> Command) -> Vec<Command> {
    let step = 1 + count * 61 / 100;
    (0..count.min(100_000)).map(|index| of(index * step % count)).collect()
}

fn change(number: u64, action: Action) -> Command {
    Command::Change(Change { key: key(number), action })
}

fn ops(c: &mut Criterion) {
    for count in KEY_COUNTS {
        let mut log = Log::with_keys(count);
        let mut group = c.benchmark_group("store");
        group.throughput(Throughput::Elements(1));

        let overwrites = commands(count, put);
        let mut next = overwrites.iter().cycle();
        group.bench_function(BenchmarkId::new("overwrite", count), |b| {
            b.iter(|| log.apply(None, next.next().expect("a cycle")));
        });

        let new: Vec<_> = (count..count + count / 10).map(put).collect();
        group.bench_function(BenchmarkId::new("put a new key", count), |b| {
            b.iter_custom(|iterations| only_new(&mut log, &new, iterations));
        });

        let queries: Vec<_> =
            (0..count.min(100_000)).map(|index| Query::Get(vec![key(index * 7 % count)])).collect();
        let mut next = queries.iter().cycle();
        group.bench_function(BenchmarkId::new("get", count), |b| {
            b.iter(|| log.store.query(next.next().expect("a cycle")));
        });

        let session = log.open_session();
        let mut number = RequestNumber(0);
        let mut next = overwrites.iter().cycle();
        group.bench_function(BenchmarkId::new("overwrite in a session", count), |b| {
            b.iter(|| {
                number = number.next();
                let first_open = RequestNumber(number.0.saturating_sub(8).max(1));
                let id = RequestId { session, number, first_open };
                log.apply(Some(id), next.next().expect("a cycle"))
            });
        });

        // Last, and in turn with puts, so that values stay small.
        let appends =
            commands(count, |number| change(number, Action::Append(Bytes::from_static(&[7; 100]))));
        let mut pairs = appends.iter().zip(&overwrites).cycle();
        group.bench_function(BenchmarkId::new("append and overwrite", count), |b| {
            b.iter(|| {
                let (append, overwrite) = pairs.next().expect("a cycle");
                log.apply(None, append);
                log.apply(None, overwrite)
            });
        });
        group.finish();
    }
}

/// Puts these keys, and takes them out again off the clock.
fn only_new(log: &mut Log, new: &[Command], iterations: u64) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
    while left > 0 {
        let some = &new[..left.min(new.len())];
        left -= some.len();
        let began = Instant::now();
        for command in some {
            black_box(log.apply(None, command));
        }
        took += began.elapsed();
        for change in some.iter().flat_map(Command::changes) {
            let key = change.key.clone();
            log.apply(None, &Command::Change(Change { key, action: Action::Delete }));
        }
    }
    took
}

fn transfer(c: &mut Criterion) {
    let count = 1_000_000;
    let mut log = Log::with_keys(count);
    let scan = |store: &mut Store| {
        let scan = store.begin_scan();
        let chunks = || store.next_chunk(scan, CHUNK_BYTES);
        std::iter::from_fn(chunks).collect::<Vec<Bytes>>()
    };
    let mut group = c.benchmark_group("transfer");
    group.sample_size(10).throughput(Throughput::Elements(count));
    group.bench_function("scan and write", |b| b.iter(|| scan(&mut log.store)));
    let chunks = scan(&mut log.store);
    group.bench_function("read and install", |b| {
        b.iter_with_large_drop(|| {
            let mut store = empty();
            for chunk in &chunks {
                store.install(chunk).expect("sound chunks");
            }
            assert_eq!(store.digest(), log.store.digest());
            store
        });
    });
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
}

criterion_group! { name = store; config = quick(); targets = ops, transfer }
criterion_main!(store);
