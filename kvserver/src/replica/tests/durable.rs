//! Copies that come back with what their journals held.

use kvproto::ids::{Generation, OpNumber, Position, StorageId};
use kvproto::registration::Wish;
use kvproto::snapshot::SnapshotEnd;
use kvproto::time::LogTime;
use kvproto::view::ViewStatus;

use super::*;

use crate::journal::{Completion, Room};
use crate::replica::recovery::Recovered;
use crate::store::StoreLimits;

/// Reads back what a journal was given, as one that begins with the newest log does.
fn recovered(work: &[Work], items: Items) -> Recovered {
    let mut recovered = Recovered::new(StoreLimits::from(&Settings::default()), items, usize::MAX);
    let begins = work.iter().rposition(|work| matches!(work, Work::Reset { .. }));
    let (before, log) = work.split_at(begins.map_or(0, |at| at + 1));
    if let Some(Work::Reset { base }) = before.last()
        && base.op.0 > 0
    {
        let snapshot = before.iter().rposition(|work| matches!(work, Work::BeginSnapshot { .. }));
        for work in &before[snapshot.expect("a log begins after a snapshot")..] {
            match work {
                Work::SnapshotChunk(records) => recovered.install(records).unwrap(),
                Work::EndSnapshot(end) => recovered.end_snapshot(*base, end).unwrap(),
                _ => {}
            }
        }
    }
    for work in log {
        match work {
            Work::Adopt(epoch) => recovered.adopt(*epoch),
            Work::Append(entries) => recovered.append(entries.iter().cloned()).unwrap(),
            Work::Truncate { after } => {
                recovered.log.truncate_after(*after);
            }
            Work::Committed { through } => recovered.commit(*through),
            _ => {}
        }
    }
    recovered
}

impl World {
    pub(super) fn durable() -> World {
        World { durable: true, ..World::new() }
    }

    /// VIEW-6: the process is started again and finds what its journal was given.
    pub(super) fn come_back(&mut self, old: &Member, new: &Member) {
        self.kill(old);
        if self.view.eligible.remove(old) {
            self.view.eligible.insert(new.clone());
        }
        let table = Table::new(Items::default());
        let work = self.kept[old].clone();
        let recovered = recovered(&work, table.items().clone());
        let (reads, tuning) = (self.reads, self.tuning.clone());
        let options = ReplicaOptions { reads, tuning, durable: true };
        let (view, me) = (self.view.clone(), new.clone());
        self.journals.insert(me.clone(), MemoryJournal::after(recovered.last().0.op));
        let replica = Replica::resume(me.clone(), view, options, recovered, self.now);
        self.tables.insert(me.clone(), table);
        self.kept.insert(me.clone(), work);
        self.replicas.insert(me, replica);
        self.publish();
    }
}

fn entries_in(message: &Message) -> usize {
    match &message.body {
        Body::Append(append) => append.entries.len(),
        _ => 0,
    }
}

/// A backup was away for a few writes of many: those are what it is sent.
#[test]
fn a_backup_that_comes_back_is_sent_what_it_missed_and_no_more() {
    let mut world = World::durable().formed(a(), &[b()]);
    for n in 0..50 {
        world.put(&a(), &format!("k{n}"), "v");
    }
    world.run(ms(200));
    world.kill(&b());
    world.wire.clear();
    let missed: Vec<_> = (0..3).map(|n| world.put(&a(), &format!("m{n}"), "v")).collect();
    assert!(missed.iter().all(|write| !world.answered(*write)), "its copy is required");
    world.run_ticking(ms(20), |_| false);
    world.wire.clear();
    world.break_streams(&a(), &b());
    world.come_back(&b(), &member("b", 2));
    world.propose(a(), &[member("b", 2)]);
    let mut sent = 0;
    for _ in 0..100 {
        world.now = world.now + ms(5);
        for who in [a(), member("b", 2)] {
            world.step(&who, Event::Tick);
        }
        while let Some(message) = world.wire.pop_front() {
            sent += entries_in(&message);
            world.deliver(message);
        }
    }
    assert_eq!(sent, 3, "the three writes and nothing else");
    assert!(missed.iter().all(|write| world.is_done(*write)));
    assert_eq!(world.held(&member("b", 2), "m2").as_deref(), Some("v"));
    let emptied = |notice: &Notice| matches!(notice, Notice::TransferStarted { to, .. } if to.incarnation.0 == 2);
    assert!(!world.noticed(emptied));
}

/// All processes die at once, and the disks have everything that was acknowledged.
#[test]
fn after_a_power_cut_of_all_any_eligible_disk_brings_everything_back() {
    for returns in [a(), b()] {
        let mut world = World::durable().formed(a(), &[b()]);
        let session = world.open_session(&a());
        let id = RequestId { session, number: RequestNumber(1), first_open: RequestNumber(1) };
        let write = world.append_once(&a(), id, "k", "x");
        world.settle();
        assert!(world.is_done(write));
        world.kill(&a());
        world.kill(&b());
        world.wire.clear();
        let again = Member { incarnation: Incarnation(2), ..returns.clone() };
        world.come_back(&returns, &again);
        world.propose(again.clone(), &[]);
        world.run(ms(600));
        assert!(world.acting(&again));
        let retry = world.append_once(&again, id, "k", "x");
        world.settle();
        assert!(world.is_done(retry));
        assert_eq!(world.held(&again, "k").as_deref(), Some("x"), "once, as its session says");
    }
}

/// What it promised before it died is forgotten, and the holder may still answer by it.
#[test]
pub(super) fn a_copy_that_comes_back_waits_as_if_it_had_just_granted_a_lease() {
    let mut world = World::durable().formed(a(), &[b()]);
    world.run(ms(100));
    world.cut(&a(), &b());
    let again = member("b", 2);
    world.cut(&a(), &again);
    world.come_back(&b(), &again);
    world.propose(again.clone(), &[]);
    world.run_ticking(ms(300), |who| *who == again);
    assert!(!world.acting(&again), "a may still answer reads");
    world.run_ticking(ms(200), |who| *who == again);
    assert!(world.acting(&again));
}

/// REP-3: otherwise a copy that restarts could be counted on by a primary that is over.
#[test]
fn nothing_is_acknowledged_in_an_epoch_that_is_not_on_disk() {
    let mut world = World::durable().formed(a(), &[b()]);
    world.run(ms(100));
    world.slow_journal.insert(a());
    world.propose(b(), &[a()]);
    world.run(ms(30));
    let acks = |world: &World| {
        let last = world.replicas[&a()].log().last();
        (last.epoch.primary_since.0, world.acting(&b()))
    };
    assert_eq!(acks(&world), (world.view.primary_since.0, false), "a has it, and says nothing");
    world.finish_journal(&a());
    world.run(ms(50));
    assert!(world.acting(&b()));
}

/// REP-2: acknowledged is what would survive this very moment.
#[test]
pub(super) fn a_backup_acknowledges_what_its_journal_has_and_no_more() {
    let mut world = World::durable().formed(a(), &[b()]);
    world.run(ms(50));
    world.slow_journal.insert(b());
    let write = world.put(&a(), "k", "v");
    world.run(ms(300));
    assert!(!world.answered(write));
    world.finish_journal(&b());
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn chunks_are_sent_no_faster_than_the_newcomer_writes_them() {
    let mut world = World::durable();
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 4;
    world.tuning.retain_bytes = 0;
    let mut world = world.formed(a(), &[]);
    for n in 0..200 {
        world.put(&a(), &format!("key number {n}"), "some value or other");
    }
    world.settle();
    world.start(b());
    world.slow_journal.insert(b());
    world.propose(a(), &[b()]);
    world.run(ms(200));
    let written = |world: &World| {
        let chunks = world.kept.get(&b()).into_iter().flatten();
        chunks.filter(|work| matches!(work, Work::SnapshotChunk(_))).count()
    };
    assert!((1..=4).contains(&written(&world)), "{}", written(&world));
    world.finish_journal(&b());
    world.run(ms(500));
    assert!(written(&world) > 20);
    assert!(world.view.eligible.contains(&b()));
}

/// A snapshot is taken at one op while writes go on, with the sessions; the log goes on after it.
#[test]
pub(super) fn a_copy_is_rebuilt_from_its_snapshot_and_the_log_after_it() {
    let mut world = World::durable();
    world.tuning.snapshot_after_bytes = 20_000;
    world.tuning.chunk_bytes = 256;
    let mut world = world.formed(a(), &[b()]);
    let session = world.open_session(&a());
    let id =
        |number| RequestId { session, number: RequestNumber(number), first_open: RequestNumber(1) };
    world.append_once(&a(), id(1), "once", "x");
    for n in 0..100 {
        world.put(&a(), &format!("k{}", n % 40), &format!("v{n}"));
        world.run(ms(5));
    }
    world.run(ms(300));
    let kept = &world.kept[&a()];
    let end = kept.iter().rposition(|work| matches!(work, Work::EndSnapshot(_)));
    let end = end.expect("so much was appended that a snapshot was due");
    let begin = kept[..end].iter().rposition(|work| matches!(work, Work::BeginSnapshot { .. }));
    let begin = begin.expect("it began");
    let Work::BeginSnapshot { at, .. } = kept[begin] else { unreachable!() };
    let items = Items::default();
    let limits = StoreLimits::from(&Settings::default());
    let mut rebuilt = Recovered::new(limits, items, usize::MAX);
    for work in &kept[begin..=end] {
        match work {
            Work::SnapshotChunk(records) => rebuilt.install(records).unwrap(),
            Work::EndSnapshot(end) => rebuilt.end_snapshot(at, end).unwrap(),
            _ => {}
        }
    }
    assert!(at.op > OpNumber(10));
    // No older epoch is helped, and no time comes twice, also where nothing follows the snapshot.
    let Work::EndSnapshot(end) = &kept[end] else { unreachable!() };
    assert!(end.log_time > LogTime::default());
    assert_eq!((rebuilt.adopted, rebuilt.log_time), (at.epoch, end.log_time));
    let appended = kept.iter().filter_map(|work| match work {
        Work::Append(entries) => Some(entries),
        _ => None,
    });
    let after: Vec<_> = appended.flatten().filter(|e| e.op() > at.op).cloned().collect();
    rebuilt.append(after).unwrap();
    rebuilt.commit(world.replicas[&a()].committed());
    assert_eq!(rebuilt.digest(), world.replicas[&a()].store().digest(), "sessions included");
}

/// Memory holds next to nothing of the log; the journal has the rest, and what it has no longer is
/// known by its empty answer.
#[test]
fn a_backup_that_was_away_for_long_is_sent_what_only_the_journal_has() {
    for journal_has_it in [true, false] {
        let mut world = World::durable();
        world.tuning.retain_bytes = 0;
        world.tuning.retain_bytes_max = 0;
        world.tuning.batch_bytes = 2000;
        let mut world = world.formed(a(), &[b()]);
        world.kill(&b());
        world.propose(a(), &[]);
        for n in 0..50 {
            world.put(&a(), &format!("k{n}"), "v");
            world.run(ms(5));
        }
        assert!(world.replicas[&a()].log().base().op.0 > 40, "memory has hardly any of it");
        world.journal_reads = journal_has_it;
        let again = member("b", 2);
        world.come_back(&b(), &again);
        world.propose(a(), std::slice::from_ref(&again));
        world.run(ms(500));
        assert!(world.view.eligible.contains(&again));
        assert_eq!(world.held(&again, "k49").as_deref(), Some("v"));
        let transferred = world
            .noticed(|notice| matches!(notice, Notice::TransferStarted { to, .. } if *to == again));
        assert_eq!(transferred, !journal_has_it);
    }
}

/// The log had outrun a transfer, and the disk had no more of what came after it either: the next
/// transfer came on the same stream, where a copy takes it for nonsense.
#[test]
fn a_copy_that_the_log_has_outrun_is_filled_again_on_another_stream() {
    let mut world = World::durable();
    world.tuning.retain_bytes = 0;
    world.tuning.retain_bytes_max = 0;
    let mut world = world.formed(a(), &[]);
    world.put(&a(), "k", "v");
    world.settle();
    world.start(b());
    world.propose(a(), &[b()]);
    let begun =
        |world: &World| world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. }));
    while !begun(&world) {
        world.step(&a(), Event::Tick);
        let message = world.wire.pop_front().expect("they talk until it begins");
        world.deliver(message);
    }
    for n in 0..3 {
        world.put(&a(), &format!("k{n}"), "v");
    }
    world.run(ms(500));
    assert!(!world.noticed(|notice| matches!(notice, Notice::Nonsense { .. })));
    assert!(world.view.eligible.contains(&b()));
    assert_eq!(world.held(&b(), "k2").as_deref(), Some("v"));
}

/// As long as writes went on like that, the primary sent all of its data over and over, with hardly a
/// pause and without a word; and each time the newcomer set aside what it had got the last time.
#[test]
fn a_newcomer_that_the_log_outruns_again_and_again_is_left_out_until_later() {
    for durable in [true, false] {
        let mut world = if durable { World::durable() } else { World::new() };
        world.tuning.retain_bytes = 0;
        world.tuning.retain_bytes_max = 300;
        world.tuning.chunk_bytes = 64;
        world.tuning.chunks_in_flight = 1;
        let mut world = world.formed(a(), &[]);
        for n in 0..20 {
            world.put(&a(), &format!("k{n}"), "old");
        }
        world.settle();
        world.start(b());
        world.propose(a(), &[b()]);
        let left_out = |world: &World| {
            world.wished(|wish| matches!(wish, Wish::Evict { server, .. } if *server == b()))
        };
        // A write whenever a message arrives, for as long as it takes.
        for n in 0..10_000 {
            if !left_out(&world) {
                world.put(&a(), &format!("k{}", n % 20), "new");
                world.now = world.now + ms(1);
                world.step(&a(), Event::Tick);
                world.wire.pop_front().into_iter().for_each(|message| world.deliver(message));
            }
        }
        assert!(left_out(&world), "durable: {durable}");
        let told = world.notices.iter().filter(|said| matches!(said, (_, Notice::Outrun { .. })));
        assert_eq!(told.count(), 2, "durable: {durable}");
    }
}

#[test]
fn the_only_copy_stops_at_once_when_its_disk_has_everything() {
    let mut world = World::durable().formed(a(), &[]);
    world.put(&a(), "k", "v");
    world.settle();
    world.step(&a(), Event::Leave);
    world.run(ms(20));
    world.step(&a(), Event::NobodyToTakeOver);
    assert!(world.left.contains(&a()));
}

/// Whichever of the copies it is: what is acknowledged must fit on all of them.
#[test]
fn writes_are_refused_while_a_disk_is_nearly_full_and_go_on_by_themselves() {
    for full in [a(), b()] {
        let mut world = World::durable().formed(a(), &[b()]);
        world.run(ms(150));
        let say = |world: &mut World, is_full| {
            world.step(
                &full,
                Event::Journal(Completion::Room(if is_full { Room::Full } else { Room::Enough })),
            );
            world.run(ms(150));
        };
        say(&mut world, true);
        let write = world.put(&a(), "k", "v");
        let read = world.get(&a(), "k");
        world.settle();
        let refusal = NotDone::DiskFull { server: full.name.clone() };
        assert_eq!(world.replies.get(&write), Some(&Reply::NotDone(refusal)));
        assert_eq!(world.value(read), None, "reads go on");
        say(&mut world, false);
        let write = world.put(&a(), "k", "v");
        world.settle();
        assert!(world.is_done(write));
    }
}

/// Snapshots that the journal of `a` was given to write.
fn snapshots_begun(world: &World) -> usize {
    let begins = |work: &&Work| matches!(work, Work::BeginSnapshot { .. });
    world.kept[&a()].iter().filter(begins).count()
}

/// On a small disk the log alone made it full, and nothing ever made room.
#[test]
fn a_copy_whose_disk_is_nearly_full_saves_its_state_so_that_its_log_can_go() {
    let mut world = World::durable().formed(a(), &[b()]);
    for n in 0..20 {
        world.put(&a(), "k", &format!("v{n}"));
        world.run(ms(5));
    }
    let say = |world: &mut World, completion| {
        world.step(&a(), Event::Journal(completion));
        world.run(ms(20));
    };
    assert_eq!(snapshots_begun(&world), 0);
    world.slow_journal.insert(a());
    say(&mut world, Completion::Room(Room::Full));
    assert_eq!(snapshots_begun(&world), 1);
    say(&mut world, Completion::SnapshotGivenUp);
    assert_eq!(
        snapshots_begun(&world),
        1,
        "there was no room for it, and there is no more than before"
    );
    say(&mut world, Completion::Room(Room::Enough));
    say(&mut world, Completion::Room(Room::Full));
    assert_eq!(snapshots_begun(&world), 2);
}

/// The server knew of the damage and did nothing about it: its next start gave up all of its data.
#[test]
fn a_log_that_cannot_be_read_is_replaced_by_a_snapshot_at_once() {
    let mut world = World::durable().formed(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert_eq!(snapshots_begun(&world), 0);
    let entries = Err("a record does not check out".into());
    world.step(&a(), Event::Journal(Completion::Read { from: OpNumber(2), entries }));
    world.settle();
    assert_eq!(snapshots_begun(&world), 1, "one, however long it takes");
    assert!(world.is_done(write));
}

#[test]
fn data_of_a_generation_that_was_given_up_is_no_beginning_of_the_next() {
    let mut world = World::durable().formed(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    let held = || recovered(&world.kept[&b()], Items::default());
    assert!(!held().was_given_up(&world.view, &member("b", 2)), "a spare of this generation");
    let mut forced = world.view.clone();
    forced.generation = Generation(2);
    forced.eligible = BTreeSet::from([member("a", 2)]);
    forced.primary = Some(member("a", 2));
    forced.status = ViewStatus::Proposed;
    assert!(!held().was_given_up(&forced, &member("a", 3)), "it may be all that there is");
    forced.status = ViewStatus::Activated;
    assert!(held().was_given_up(&forced, &member("b", 2)));
    assert!(!held().was_given_up(&forced, &member("a", 2)), "the one that it begins from");
    let nothing = Recovered::nothing(Items::default());
    assert!(!nothing.was_given_up(&forced, &member("b", 2)));
}

/// VIEW-7: a live copy of the old generation had its tail, perhaps acknowledged, dropped in its place.
#[test]
fn a_tail_of_a_generation_that_was_given_up_is_set_aside_with_all_of_its_log() {
    let mut world = World::durable().formed(a(), &[b()]);
    let write = world.put(&a(), "k", "in common");
    world.settle();
    assert!(world.is_done(write));
    world.run(ms(100));
    world.cut(&a(), &b());
    world.put(&a(), "k", "given up");
    world.run(ms(100));
    world.force(b());
    world.run(ms(500));
    world.heal();
    world.propose(b(), &[a()]);
    world.run(ms(500));
    world.settle();
    assert!(world.view.eligible.contains(&a()), "{:?}", world.view);
    let dropped = |work: &Work| matches!(work, Work::Truncate { .. });
    let begun_anew = |work: &Work| matches!(work, Work::Reset { base } if base.op > OpNumber(0));
    assert!(world.kept[&a()].iter().any(begun_anew) && !world.kept[&a()].iter().any(dropped));
}

#[test]
fn what_contradicts_itself_is_not_taken_for_a_log() {
    let world = World::durable().formed(a(), &[b()]);
    let appended = world.kept[&a()].iter().find_map(|work| match work {
        Work::Append(entries) => Some(entries.clone()),
        _ => None,
    });
    let entries = appended.expect("a barrier at least");
    let new = || Recovered::nothing(Items::default());
    let mut twice = new();
    twice.append(entries.clone()).unwrap();
    assert!(twice.append(entries.clone()).is_err());
    twice.commit(OpNumber(1));
    assert!(twice.install(&[]).is_err(), "a snapshot comes first");
    let at = Position { op: OpNumber(9), ..entries[0].position };
    let digest = new().digest();
    let end =
        |digest, epochs| SnapshotEnd { epochs, log_time: Default::default(), digest, chunks: 0 };
    let wrong = kvproto::Digest(digest.0 ^ 1);
    assert!(new().end_snapshot(at, &end(wrong, vec![entries[0].position])).is_err());
    assert!(new().end_snapshot(at, &end(digest, vec![])).is_err());
    assert!(new().end_snapshot(at, &end(digest, vec![entries[0].position])).is_ok());
    let held = twice.held(StorageId([1; 16]));
    assert_eq!((held.last, held.epochs.len()), (entries[0].position, 1));
}
