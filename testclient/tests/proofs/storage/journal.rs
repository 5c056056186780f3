//! The whole journal, calls to completions, with its two workers in turn on a simulated disk.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use kvproto::convert::RecordsWriter;
use kvproto::digest::{self, Rolling};
use kvproto::ids::{ClusterId, Generation, OpNumber, Position, Version};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::time::LogTime;
use kvserver::journal::engine::{Engine, Found};
use kvserver::journal::pending::Ticket;
use kvserver::journal::work::{
    Front, Left, LogJob, LogWorker, Report, SideJob, SideWorker, Workers,
};
use kvserver::journal::{Completion, Journal, Room, Work};
use testclient::sim::disk::{Fault, Loss, SimulatedDisk};

use super::life::{State, entries, epoch, give_snapshot, options, recover};

#[derive(Default)]
struct Queues {
    log: VecDeque<(Ticket, LogJob)>,
    side: VecDeque<SideJob>,
}

impl Workers for Queues {
    fn log(&mut self, ticket: Ticket, job: LogJob) {
        self.log.push_back((ticket, job));
    }

    fn side(&mut self, job: SideJob) {
        self.side.push_back(job);
    }
}

struct Whole {
    disk: SimulatedDisk,
    front: Front<Queues>,
    log: LogWorker<SimulatedDisk>,
    side: SideWorker<SimulatedDisk>,
    /// Whether the journal may fail, and why it has.
    may_fail: bool,
    failure: Option<String>,
}

impl Whole {
    fn new(disk: SimulatedDisk) -> Whole {
        let (engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
        let front = Front::new(&engine, OpNumber(0), Queues::default());
        let side = SideWorker::new(&engine);
        let log = LogWorker::new(engine);
        Whole { disk, front, log, side, may_fail: false, failure: None }
    }

    /// With a log of so many ops of the first view, ten in a write.
    fn with_log(disk: SimulatedDisk, ops: u64) -> Whole {
        let mut journal = Whole::new(disk);
        for first in (1..=ops).step_by(10) {
            journal.front.take(Work::Append(entries(1, first..=ops.min(first + 9))));
            journal.log();
        }
        journal.completions();
        journal
    }

    /// The log's worker hears what was called.
    fn hand_over(&mut self) {
        for (ticket, job) in std::mem::take(&mut self.front.workers().log) {
            self.log.take(ticket, job);
        }
    }

    /// It does that.
    fn log(&mut self) -> Left {
        self.hand_over();
        let (mut reports, mut side) = (Vec::new(), Vec::new());
        let left = self.log.work(&mut reports);
        self.log.rest(&mut reports);
        self.log.prepare(&mut side);
        self.front.workers().side.extend(side);
        self.tell(&reports);
        left
    }

    /// The other one does what it can.
    fn side(&mut self) {
        for job in std::mem::take(&mut self.front.workers().side) {
            self.side.take(job);
        }
        let (mut reports, mut log) = (Vec::new(), Vec::new());
        while self.side.work(&mut reports, &mut log) {}
        log.into_iter().for_each(|job| self.log.take_from_side(job));
        self.tell(&reports);
    }

    fn tell(&mut self, reports: &[Report]) {
        for report in reports {
            if let Report::Failed(failed) = report {
                assert!(self.may_fail, "{failed}");
                self.failure = Some(failed.to_string());
            }
            self.front.hear(report);
        }
    }

    fn completions(&mut self) -> Vec<Completion> {
        std::iter::from_fn(|| self.front.poll()).collect()
    }

    fn snapshot(&mut self, state: &State, op: u64) -> Position {
        give_snapshot(&mut self.front, state.snapshot(op))
    }
}

fn state(view: u64, ops: usize) -> State {
    State { ops: vec![epoch(view); ops], ..State::default() }
}

#[test]
fn a_snapshot_is_taken_while_the_log_goes_on_and_what_it_replaces_goes() {
    let mut journal = Whole::new(SimulatedDisk::default());
    for first in (1..=91).step_by(10) {
        journal.front.take(Work::Append(entries(1, first..=first + 9)));
        journal.log();
    }
    assert_eq!(journal.completions(), [Completion::Safe(state(1, 100).position(100))]);
    let before = journal.disk.files().len();
    let at = journal.snapshot(&state(1, 100), 90);
    journal.front.take(Work::Append(entries(1, 101..=102)));
    journal.log();
    journal.side();
    let chunks = state(1, 100).snapshot(90).1.len() as u64;
    assert_eq!(
        journal.completions(),
        [Completion::Safe(state(1, 102).position(102)), Completion::ChunksWritten(chunks)]
    );
    journal.log();
    assert_eq!(journal.completions(), [Completion::Snapshot(at)]);
    assert!(journal.disk.files().len() < before, "{:?}", journal.disk.files());
    journal.disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&journal.disk, "after it").expect("sound").ops, state(1, 102).ops);
}

#[test]
fn a_snapshot_of_a_log_that_was_reset_meanwhile_comes_to_nothing() {
    let mut journal = Whole::new(SimulatedDisk::default());
    journal.front.take(Work::Append(entries(1, 1..=20)));
    journal.log();
    journal.snapshot(&state(1, 20), 20);
    journal.side();
    journal.front.take(Work::Reset { base: Position::default() });
    let at = journal.snapshot(&state(2, 7), 7);
    journal.front.take(Work::Reset { base: at });
    journal.front.take(Work::Append(entries(2, 8..=9)));
    journal.side();
    journal.log();
    assert_eq!(journal.completions(), [Completion::Safe(state(2, 9).position(9))]);
    assert!(!journal.disk.files().iter().any(|file| file.starts_with("snapshot-")));
    journal.disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&journal.disk, "after it").expect("sound").ops, state(2, 9).ops);
}

#[test]
fn a_state_that_is_received_is_the_log_once_it_is_whole_and_the_old_one_until_then() {
    let mut journal = Whole::new(SimulatedDisk::default());
    journal.front.take(Work::Adopt(epoch(1)));
    journal.front.take(Work::Append(entries(1, 1..=20)));
    journal.log();
    journal.completions();
    journal.front.take(Work::Reset { base: Position::default() });
    journal.front.take(Work::Adopt(epoch(2)));
    let (head, chunks, end) = state(2, 9).snapshot(9);
    journal.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
    journal.front.take(Work::SnapshotChunk(chunks[0].clone()));
    journal.log();
    assert_eq!(
        journal.completions(),
        [
            Completion::Safe(Position::default()),
            Completion::Adopted(epoch(2)),
            Completion::ChunksWritten(1)
        ]
    );
    let halfway = journal.disk.copy();
    halfway.power_cycle(Loss::Nothing);
    assert_eq!(recover(&halfway, "half of it").expect("sound").ops, state(1, 20).ops);
    for chunk in &chunks[1..] {
        journal.front.take(Work::SnapshotChunk(chunk.clone()));
    }
    journal.front.take(Work::EndSnapshot(end));
    journal.front.take(Work::Reset { base: head.at });
    journal.log();
    assert_eq!(journal.completions(), [Completion::Safe(head.at)]);
    journal.disk.power_cycle(Loss::Everything);
    let found = recover(&journal.disk, "all of it").expect("sound");
    assert_eq!((found.ops, found.adopted), (state(2, 9).ops, epoch(2)));
}

/// A copy that catches up applies what is committed elsewhere before its own disk has it. Its snapshot
/// was whole before the log was written so far: taken over first, it ended the journal.
#[test]
fn a_snapshot_waits_for_the_log_that_it_is_of() {
    let mut journal = Whole::new(SimulatedDisk::default());
    journal.front.take(Work::Append(entries(1, 1..=9)));
    journal.log();
    for (view, ops) in [(1, 10..=30), (2, 20..=40)] {
        journal.front.take(Work::Truncate { after: OpNumber(ops.start() - 1) });
        journal.front.take(Work::Append(entries(view, ops)));
    }
    journal.hand_over();
    let mut expected = state(1, 40);
    expected.ops[19..].fill(epoch(2));
    let at = journal.snapshot(&expected, 25);
    journal.side();
    journal.log();
    assert!(journal.completions().contains(&Completion::Snapshot(at)));
    journal.disk.power_cycle(Loss::Everything);
    let found = recover(&journal.disk, "after it").expect("sound");
    assert_eq!(found.ops, expected.ops);
}

/// Nor is it taken over when that log is given up before it was written so far.
#[test]
fn a_snapshot_of_a_log_that_is_given_up_unwritten_comes_to_nothing() {
    for snapshot_first in [true, false] {
        let mut journal = Whole::new(SimulatedDisk::default());
        journal.front.take(Work::Append(entries(1, 1..=9)));
        journal.log();
        journal.front.take(Work::Append(entries(1, 10..=30)));
        journal.hand_over();
        journal.snapshot(&state(1, 30), 25);
        if snapshot_first {
            journal.side();
        }
        journal.front.take(Work::Adopt(epoch(3)));
        journal.hand_over();
        journal.front.take(Work::Reset { base: Position::default() });
        journal.hand_over();
        journal.side();
        journal.log();
        let done = journal.completions();
        assert!(!done.iter().any(|done| matches!(done, Completion::Snapshot(_))), "{done:?}");
        // REP-3: what was adopted while that log waited holds for the next one.
        assert!(done.contains(&Completion::Adopted(epoch(3))), "{done:?}");
        journal.front.take(Work::Append(entries(3, 1..=2)));
        journal.log();
        journal.disk.power_cycle(Loss::Everything);
        let found = recover(&journal.disk, "the next log").expect("sound");
        assert_eq!(found, State { adopted: epoch(3), ..state(3, 2) });
    }
}

/// A copy that was filled again and again, since the log had gone on faster, set aside each time what it
/// had got the last time, until its disk was full.
#[test]
fn of_what_is_replaced_again_and_again_the_first_and_the_last_are_set_aside() {
    let mut journal = Whole::new(SimulatedDisk::default());
    journal.front.take(Work::Append(entries(1, 1..=20)));
    journal.log();
    for op in [9, 11, 13, 15] {
        journal.front.take(Work::Reset { base: Position::default() });
        let at = journal.snapshot(&state(2, 15), op);
        journal.front.take(Work::Reset { base: at });
        journal.log();
    }
    let files = journal.disk.files();
    let kept: BTreeSet<_> = files
        .iter()
        .filter_map(|file| file.strip_prefix("set-aside/")?.split_once('/'))
        .map(|(era, _)| era)
        .collect();
    let expected = ["era-000001.generation-1", "era-000004.generation-1"];
    assert_eq!(kept, expected.into());
    journal.disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&journal.disk, "the newest").expect("sound").ops, state(2, 15).ops);
}

#[test]
fn a_reset_does_not_wait_for_room_that_only_it_can_make() {
    let mut journal = Whole::new(SimulatedDisk::new(8 << 10));
    journal.front.take(Work::Append(entries(1, 1..=10)));
    assert_eq!(journal.log(), Left::Nothing);
    let mut op = 10;
    while journal.log() == Left::Nothing {
        op += 1;
        journal.front.take(Work::Append(entries(1, op..=op)));
    }
    journal.completions();
    journal.front.take(Work::Reset { base: Position::default() });
    assert_eq!(journal.log(), Left::Nothing);
    assert_eq!(journal.completions(), [Completion::Safe(Position::default())]);
}

/// Its data had outgrown the disk: the snapshot took the room to the last byte and waited for more, and
/// nothing could be written any more, not even the epoch of a new primary.
#[test]
fn a_snapshot_that_does_not_fit_is_given_up_before_the_log_has_no_room() {
    // It grows in steps, which end at another place on each of these disks.
    for capacity in (48 << 10..200 << 10).step_by(1 << 10) {
        let mut journal = Whole::with_log(SimulatedDisk::new(capacity), 10);
        let reserve = options(1).reserve.min(capacity / 16);
        let head = SnapshotHead { keys: 1000, ..state(1, 10).snapshot(10).0 };
        journal.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
        for _ in 0..200 {
            journal.front.take(Work::SnapshotChunk(vec![0; 1 << 10].into()));
            journal.side();
            let free = capacity - journal.disk.used();
            assert!(free >= reserve / 2, "{free} of {capacity} bytes are left for the log");
        }
        let said = journal.completions();
        assert_eq!(said.last(), Some(&Completion::SnapshotGivenUp), "{said:?}");
        let files = journal.disk.files();
        assert!(!files.iter().any(|file| file.contains("snapshot")), "it takes no room: {files:?}");
        journal.front.take(Work::Adopt(epoch(2)));
        journal.log();
        assert_eq!(journal.completions(), [Completion::Adopted(epoch(2))]);
    }
}

/// One that holds more than is left unsynced, in few writes.
fn large_snapshot() -> (SnapshotHead, Vec<Bytes>, SnapshotEnd) {
    let at = state(1, 3).position(3);
    let version = Version::of_change_at(Generation(1), OpNumber(1));
    let (mut rolling, mut contents) = (Rolling::default(), Vec::new());
    let mut chunk = |key: &[u8], value: &[u8]| {
        let mut writer = RecordsWriter::new(1);
        assert!(writer.key(key, value, version));
        rolling.add(digest::of_key(key, value, version, &mut contents));
        writer.finish().expect("it holds a key")
    };
    let chunks = vec![chunk(b"a", &vec![b'x'; 8 << 20]), chunk(b"b", b"y")];
    let head = SnapshotHead { cluster: ClusterId::default(), at, keys: 2 };
    let end = SnapshotEnd {
        epochs: vec![kvproto::EpochStart::at(state(1, 3).position(1), Default::default())],
        log_time: LogTime::default(),
        digest: rolling.with(Rolling::default()),
        chunks: 2,
    };
    (head, chunks, end)
}

/// A disk that was full when a snapshot was to be synced had the part before that written a second time,
/// and the sync done again.
#[test]
fn a_snapshot_that_meets_a_full_disk_is_whole_in_the_end_or_ends_the_journal() {
    let large = large_snapshot();
    for is_received in [true, false] {
        let begin = || {
            let mut journal = Whole::with_log(SimulatedDisk::default(), 3);
            journal.may_fail = true;
            if is_received {
                journal.front.take(Work::Reset { base: Position::default() });
                journal.log();
                journal.completions();
            }
            journal
        };
        let write = |journal: &mut Whole| {
            give_snapshot(&mut journal.front, large.clone());
            if journal.log() == Left::WaitsForRoom {
                assert_eq!(journal.log(), Left::Nothing);
            }
            journal.side();
            journal.log();
        };
        let mut undisturbed = begin();
        let first = undisturbed.disk.operations() + 1;
        write(&mut undisturbed);
        let (mut ended, mut failed) = (0, 0);
        for operation in first..=undisturbed.disk.operations() {
            let mut journal = begin();
            journal.disk.go_wrong(operation, Fault::Full);
            write(&mut journal);
            let mut said = journal.completions();
            if said.contains(&Completion::SnapshotGivenUp) {
                write(&mut journal);
                said = journal.completions();
            }
            if let Some(failure) = &journal.failure {
                assert!(failure.contains("no storage space"), "{operation}: {failure}");
                failed += 1;
                continue;
            }
            if is_received {
                journal.front.take(Work::Reset { base: large.0.at });
                journal.log();
                said = journal.completions();
            }
            let done = [Completion::Snapshot(large.0.at), Completion::Safe(large.0.at)];
            assert!(said.iter().any(|said| done.contains(said)), "{operation}: {said:?}");
            journal.disk.power_cycle(Loss::Everything);
            let (_, found) = Engine::open(journal.disk.clone(), options(5)).expect("ours");
            let Found::Sound(found) = found else {
                panic!("{operation}: {found:?}");
            };
            assert_eq!(found.snapshot.map(|snapshot| snapshot.end), Some(large.2.clone()));
            ended += 1;
        }
        // Two syncs and a cut; an own one then takes its place: a change of name, and its sync.
        let final_ones = if is_received { 3 } else { 5 };
        assert_eq!(failed, final_ones, "{ended} ended, {is_received}");
        assert!(ended > 4, "{ended}");
    }
}

/// A store and the digest of its records had parted, or the disk gave back something else.
#[test]
fn a_snapshot_that_does_not_read_back_as_what_it_says_replaces_nothing() {
    let mut journal = Whole::with_log(SimulatedDisk::default(), 100);
    journal.snapshot(&state(1, 100), 50);
    journal.side();
    journal.log();
    let before = journal.disk.files();
    let (head, chunks, mut end) = state(1, 100).snapshot(90);
    end.digest.0 += 1;
    give_snapshot(&mut journal.front, (head, chunks, end));
    journal.may_fail = true;
    journal.side();
    journal.log();
    let failure = journal.failure.as_deref().expect("it is noticed");
    assert!(failure.contains("the digest of its records is another one"), "{failure}");
    let after = journal.disk.files();
    assert!(before.iter().all(|file| after.contains(file)), "{before:?} in {after:?}");
    let said = journal.completions();
    assert!(!said.contains(&Completion::Snapshot(head.at)), "{said:?}");
}

#[test]
fn what_is_kept_for_copies_that_come_back_goes_when_the_disk_is_nearly_full() {
    let mut journal = Whole::with_log(SimulatedDisk::new(1 << 20), 100);
    journal.snapshot(&state(1, 100), 90);
    journal.side();
    journal.log();
    let mut said = Vec::new();
    journal.log.look_for_room(&mut said);
    assert!(said.is_empty(), "{said:?}");
    let before = journal.disk.used();
    journal.disk.set_capacity(before + 100);
    journal.log.look_for_room(&mut said);
    assert!(matches!(said[..], [Report::Room(Room::Full)]), "{said:?}");
    assert!(journal.disk.used() < before, "{:?}", journal.disk.files());
    said.clear();
    journal.disk.set_capacity(2 * before);
    journal.log.look_for_room(&mut said);
    assert!(matches!(said[..], [Report::Room(Room::Enough)]), "{said:?}");
    journal.disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&journal.disk, "after it").expect("sound").ops, state(1, 100).ops);
}

#[test]
fn what_goes_for_a_snapshot_never_takes_an_op_after_it() {
    // Each segment ends at one of these.
    for op in 40..=99 {
        let mut journal = Whole::with_log(SimulatedDisk::new(1 << 20), 100);
        journal.snapshot(&state(1, 100), op);
        journal.side();
        journal.log();
        journal.disk.set_capacity(journal.disk.used() + 100);
        journal.log.look_for_room(&mut Vec::new());
        journal.disk.set_capacity(1 << 20);
        // What was removed is gone.
        journal.disk.power_cycle(Loss::Nothing);
        let found = recover(&journal.disk, "after it").expect("sound");
        assert_eq!(found.ops, state(1, 100).ops, "a snapshot at {op}");
    }
}

/// The damage was told, and the next start gave up all data: a snapshot covers whole segments, and the one
/// that is written is none of them.
#[test]
fn damage_that_is_found_while_the_log_is_written_is_before_the_next_snapshot() {
    for read_again in [false, true] {
        let mut journal = Whole::new(SimulatedDisk::default());
        for first in (1..=21).step_by(10) {
            journal.front.take(Work::Append(entries(1, first..=first + 9)));
            journal.log();
        }
        let files = journal.disk.files();
        let written = files.iter().rfind(|file| file.ends_with(".journal")).expect("it is there");
        journal.disk.tamper(written, |bytes| bytes[200] ^= 1);
        for _ in 0..=usize::from(read_again) {
            journal.front.take(Work::Read { from: OpNumber(30), bytes_max: 1 << 20 });
            journal.log();
        }
        journal.snapshot(&state(1, 30), 30);
        journal.side();
        journal.log();
        journal.disk.power_cycle(Loss::Everything);
        let (_, found) = Engine::open(journal.disk.clone(), options(5)).expect("ours");
        let Found::Sound(found) = found else {
            panic!("{found:?}");
        };
        assert_eq!(found.last, state(1, 30).position(30));
    }
}

/// One rotten byte in a segment that nobody needs any more had ended a healthy primary as soon as a
/// backup came back, and its next start had given up what the snapshot still held.
#[test]
fn damage_before_the_snapshot_is_told_and_ends_nothing() {
    let mut journal = Whole::with_log(SimulatedDisk::default(), 100);
    journal.snapshot(&state(1, 100), 90);
    journal.side();
    journal.log();
    journal.completions();
    let files = journal.disk.files();
    let oldest = files.iter().find(|file| file.ends_with(".journal")).expect("some are kept");
    let (_, after) = oldest.trim_end_matches(".journal").rsplit_once('-').expect("a number");
    let first = OpNumber(after.parse::<u64>().expect("a number") + 1);
    assert!(first < OpNumber(90), "{files:?}");
    journal.disk.tamper(oldest, |bytes| bytes[200] ^= 1);
    journal.front.take(Work::Read { from: first, bytes_max: 1 << 20 });
    journal.log();
    let said = journal.completions();
    let [Completion::Read { from, entries: Err(what) }] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(*from == first && what.contains(oldest), "{what}");

    journal.disk.power_cycle(Loss::Everything);
    let (_, found) = Engine::open(journal.disk.clone(), options(5)).expect("ours");
    let Found::Sound(found) = found else {
        panic!("{found:?}");
    };
    let damage = found.damage_covered.expect("it is told");
    assert!(damage.to_string().contains(oldest.as_str()), "{damage}");
    assert_eq!(recover(&journal.disk, "again").expect("sound").ops, state(1, 100).ops);
}

#[test]
pub(crate) fn in_a_directory_that_is_gone_nothing_becomes_safe() {
    let mut journal = Whole::with_log(SimulatedDisk::default(), 20);
    journal.front.take(Work::Append(entries(1, 21..=21)));
    assert_eq!(journal.log(), Left::Nothing);
    let before = journal.completions();
    assert!(matches!(before[..], [Completion::Safe(_)]), "{before:?}");
    journal.disk.vanish();
    // It is open, so it can still be written to and synced.
    journal.front.take(Work::Append(entries(1, 22..=22)));
    assert_eq!(journal.log(), Left::Nothing);
    assert_eq!(journal.completions(), [Completion::DirectoryGone]);
    // Everything that comes later comes to nothing, and nothing fails.
    journal.snapshot(&state(1, 22), 22);
    journal.front.take(Work::Append(entries(1, 23..=23)));
    journal.front.take(Work::Read { from: OpNumber(3), bytes_max: 1 });
    journal.log();
    journal.side();
    journal.log();
    let read = Completion::Read { from: OpNumber(3), entries: Ok(Vec::new()) };
    let said = journal.completions();
    assert!(said.contains(&read), "{said:?}");
    let safe = |done: &Completion| matches!(done, Completion::Safe(_) | Completion::Snapshot(_));
    assert!(!said.iter().any(safe), "{said:?}");
}

#[test]
fn a_directory_that_goes_while_nothing_is_written_is_missed_when_somebody_looks() {
    let mut journal = Whole::with_log(SimulatedDisk::default(), 3);
    journal.disk.vanish();
    let mut reports = Vec::new();
    journal.log.look_for_room(&mut reports);
    journal.log.look_for_room(&mut reports);
    assert!(matches!(reports[..], [Report::DirectoryGone]), "{reports:?}");
}

/// A file that cannot be opened now says nothing about what is in it: no snapshot takes its place.
#[test]
fn what_cannot_be_read_now_for_a_copy_that_comes_back_is_read_later() {
    let mut journal = Whole::with_log(SimulatedDisk::default(), 200);
    let first = journal.disk.files().into_iter().find(|path| path.ends_with(".journal"));
    let first = first.expect("segments");
    journal.disk.deny(Some(&first));
    journal.front.take(Work::Read { from: OpNumber(1), bytes_max: 1 });
    journal.front.take(Work::Append(entries(1, 201..=201)));
    journal.log();
    let said = journal.completions();
    let read = |done: &Completion| matches!(done, Completion::Read { .. });
    assert!(!said.iter().any(read), "{said:?}");
    assert!(said.iter().any(|done| matches!(done, Completion::Safe(_))), "writes go on: {said:?}");
    journal.disk.deny(None);
    let mut reports = Vec::new();
    journal.log.look_for_room(&mut reports);
    journal.tell(&reports);
    let said = journal.completions();
    let whole = |done: &Completion| matches!(done, Completion::Read { entries: Ok(entries), .. } if !entries.is_empty());
    assert!(said.iter().any(whole), "{said:?}");
}
