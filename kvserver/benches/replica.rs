//! What a batch costs the replicas, without network or disk: the primary orders it, the backup
//! appends and acknowledges it, the primary commits and answers. `make bench-inprocess` runs it.

#![expect(missing_docs, reason = "what criterion's macro makes is public")]

mod load;

use std::collections::VecDeque;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvproto::message::{Ack, Body, Message};
use kvproto::registration::Wish;
use kvproto::{
    ClusterId, Command, Incarnation, Member, Settings, Timestamp, View, ViewNumber, ViewStatus,
};
use kvserver::journal::{Journal, MemoryJournal};
use kvserver::replica::effect::Effect;
use kvserver::replica::event::{Event, Operation, Request, Token};
use kvserver::replica::{Reads, Replica, ReplicaOptions, Tuning};
use kvserver::store::Items;
use load::put;

const KEYS: u64 = 100_000;
const BATCHES: [usize; 3] = [1, 64, 512];

#[derive(Clone, Copy, PartialEq)]
enum Who {
    Primary,
    Backup,
}

/// A primary and its synced backup, with journals that are always done.
struct Pair {
    now: Timestamp,
    view: View,
    primary: Replica,
    backup: Replica,
    journals: [MemoryJournal; 2],
    replies: usize,
}

impl Pair {
    fn new() -> Pair {
        let [a, b] =
            ["a", "b"].map(|name| Member { name: name.into(), incarnation: Incarnation(1) });
        let now = Timestamp::from_nanos(1_000_000_000);
        let view = View::none(ClusterId([7; 16]), Settings::default());
        let (reads, tuning) = (Reads::Lease, Tuning::default());
        let options = ReplicaOptions { reads, tuning, durable: false };
        let start = |me: &Member| {
            Replica::new(me.clone(), view.clone(), options.clone(), Items::of_a_server(), now)
        };
        let (primary, backup) = (start(&a), start(&b));
        let mut pair =
            Pair { now, view, primary, backup, journals: Default::default(), replies: 0 };
        pair.view.primary = Some(a);
        pair.view.primary_since = ViewNumber(1);
        for backups in [vec![], vec![b]] {
            pair.view.backups = backups;
            pair.view.number = pair.view.number.next();
            pair.view.status = ViewStatus::Proposed;
            pair.publish();
        }
        while pair.view.eligible.len() < 2 {
            pair.now = pair.now + Duration::from_millis(5);
            pair.settle([(Who::Primary, Event::Tick), (Who::Backup, Event::Tick)].into());
        }
        let numbers: Vec<_> = (0..KEYS).collect();
        for numbers in numbers.chunks(500) {
            pair.settle([(Who::Primary, requests(numbers.iter().map(|n| put(*n))))].into());
        }
        pair
    }

    fn publish(&mut self) {
        self.view.revision.0 += 1;
        let record = || Event::View(Box::new(self.view.clone()));
        self.settle([(Who::Primary, record()), (Who::Backup, record())].into());
    }

    /// Steps through events and through what comes of them.
    fn settle(&mut self, mut events: VecDeque<(Who, Event)>) {
        let mut granted = false;
        while let Some((who, event)) = events.pop_front() {
            self.step(who, event, |view, effect| match effect {
                Effect::Send(message) if who == Who::Primary => {
                    events.push_back((Who::Backup, Event::Message(message)));
                }
                Effect::Send(message) => {
                    events.push_back((Who::Primary, Event::Message(message)));
                }
                Effect::Wish(wish) => granted |= grant(view, wish),
                _ => {}
            });
        }
        if granted {
            self.publish();
        }
    }

    /// One step, and the one that its appends lead to.
    fn step(&mut self, who: Who, event: Event, mut perform: impl FnMut(&mut View, Effect)) {
        let mut next = Some(event);
        let mut effects = Vec::new();
        let (replica, journal) = match who {
            Who::Primary => (&mut self.primary, &mut self.journals[0]),
            Who::Backup => (&mut self.backup, &mut self.journals[1]),
        };
        while let Some(event) = next.take() {
            replica.step(self.now, event, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Journal(work) => journal.take(work),
                    Effect::Reply { .. } => self.replies += 1,
                    other => perform(&mut self.view, other),
                }
            }
            next = journal.poll().map(Event::Journal);
        }
    }

    /// A batch through the primary alone: the acknowledgement is made up.
    fn primary_alone(&mut self, batch: Event) {
        let mut sent = None;
        self.step(Who::Primary, batch, |_, effect| {
            if let Effect::Send(message) = effect {
                sent = Some(message);
            }
        });
        let Some(Message { cluster, epoch, from, to, stream, body: Body::Append(append) }) = sent
        else {
            panic!("a batch goes out as one append");
        };
        let matched = self.primary.log().last().op;
        let (applied, nonce, sent_at) = (append.committed, append.nonce, append.sent_at);
        let (digest, chunks, disk_full, recorded) = (None, 0, false, self.view.revision);
        let ack = Ack { matched, applied, nonce, sent_at, digest, chunks, disk_full, recorded };
        let (from, to, body) = (to, from, Body::Ack(ack));
        let message = Message { cluster, epoch, from, to, stream, body };
        self.step(Who::Primary, Event::Message(message), |_, _| {});
    }
}

/// The view service grants what is asked, as far as a pair needs it.
fn grant(view: &mut View, wish: Wish) -> bool {
    match wish {
        Wish::Activate { number, reconciled, .. } if number == view.number => {
            view.status = ViewStatus::Activated;
            view.eligible = reconciled.into_iter().chain(view.primary.clone()).collect();
            true
        }
        Wish::Synced { number, server, .. } if number == view.number => {
            view.eligible.insert(server)
        }
        _ => false,
    }
}

fn requests(commands: impl Iterator<Item = Command>) -> Event {
    let request = |(token, command)| Request {
        token: Token(token),
        operation: Operation::Command { id: None, command },
    };
    Event::Requests((0..).zip(commands).map(request).collect())
}

fn batches(c: &mut Criterion) {
    let mut pair = Pair::new();
    let commands: Vec<_> = (0..KEYS).map(|number| put(number * 61 % KEYS)).collect();
    let mut next = commands.iter().cycle();
    let mut group = c.benchmark_group("replica");
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("primary and backup", size), |b| {
            b.iter(|| {
                let batch = requests(next.by_ref().take(size).cloned());
                pair.replies = 0;
                pair.settle([(Who::Primary, batch)].into());
                assert_eq!(pair.replies, size);
            });
        });
    }
    // From here on the backup is left behind.
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("primary", size), |b| {
            b.iter(|| {
                let batch = requests(next.by_ref().take(size).cloned());
                pair.replies = 0;
                pair.primary_alone(batch);
                assert_eq!(pair.replies, size);
            });
        });
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
}

criterion_group! { name = replica; config = quick(); targets = batches }
criterion_main!(replica);
