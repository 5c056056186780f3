//! The whole journal, calls to completions, with its two workers in turn on a simulated disk.

use std::collections::{BTreeSet, VecDeque};

use kvproto::ids::OpNumber;
use kvserver::journal::engine::{Engine, Found};
use kvserver::journal::pending::Ticket;
use kvserver::journal::work::{
    Front, Left, LogJob, LogWorker, Report, SideJob, SideWorker, Workers,
};
use kvserver::journal::{Completion, Journal, Room, Work};
use testclient::sim::disk::{Loss, SimulatedDisk};

use super::life::{State, entries, epoch, options, recover};

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
}

impl Whole {
    fn new(disk: SimulatedDisk) -> Whole {
        let (engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
        let front = Front::new(&engine, OpNumber(0), Queues::default());
        let side = SideWorker::new(&engine);
        let log = LogWorker::new(engine);
        Whole { disk, front, log, side }
    }

    /// The log's worker does what was called.
    fn log(&mut self) -> Left {
        for (ticket, job) in std::mem::take(&mut self.front.workers().log) {
            self.log.take(ticket, job);
        }
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
            assert!(!matches!(report, Report::Failed(_)), "{report:?}");
            self.front.hear(report);
        }
    }

    fn completions(&mut self) -> Vec<Completion> {
        std::iter::from_fn(|| self.front.poll()).collect()
    }

    fn snapshot(&mut self, state: &State, op: u64) -> kvproto::ids::Position {
        let (head, chunks, end) = state.snapshot(op);
        self.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
        chunks.into_iter().for_each(|chunk| self.front.take(Work::SnapshotChunk(chunk)));
        self.front.take(Work::EndSnapshot(end));
        head.at
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
    journal.front.take(Work::Reset { base: kvproto::ids::Position::default() });
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
    journal.front.take(Work::Reset { base: kvproto::ids::Position::default() });
    journal.front.take(Work::Adopt(epoch(2)));
    let (head, chunks, end) = state(2, 9).snapshot(9);
    journal.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
    journal.front.take(Work::SnapshotChunk(chunks[0].clone()));
    journal.log();
    assert_eq!(
        journal.completions(),
        [
            Completion::Safe(kvproto::ids::Position::default()),
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
    for (ticket, job) in std::mem::take(&mut journal.front.workers().log) {
        journal.log.take(ticket, job);
    }
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
        for (ticket, job) in std::mem::take(&mut journal.front.workers().log) {
            journal.log.take(ticket, job);
        }
        journal.snapshot(&state(1, 30), 25);
        if snapshot_first {
            journal.side();
        }
        journal.front.take(Work::Reset { base: kvproto::ids::Position::default() });
        for (ticket, job) in std::mem::take(&mut journal.front.workers().log) {
            journal.log.take(ticket, job);
        }
        journal.side();
        journal.log();
        let done = journal.completions();
        assert!(!done.iter().any(|done| matches!(done, Completion::Snapshot(_))), "{done:?}");
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
        journal.front.take(Work::Reset { base: kvproto::ids::Position::default() });
        let (head, chunks, end) = state(2, 15).snapshot(op);
        journal.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
        chunks.into_iter().for_each(|chunk| journal.front.take(Work::SnapshotChunk(chunk)));
        journal.front.take(Work::EndSnapshot(end));
        journal.front.take(Work::Reset { base: head.at });
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
    journal.front.take(Work::Reset { base: kvproto::ids::Position::default() });
    assert_eq!(journal.log(), Left::Nothing);
    assert_eq!(journal.completions(), [Completion::Safe(kvproto::ids::Position::default())]);
}

/// Its data had outgrown the disk: the snapshot took the room to the last byte and waited for more, and
/// nothing could be written any more, not even the epoch of a new primary.
#[test]
fn a_snapshot_that_does_not_fit_is_given_up_before_the_log_has_no_room() {
    let mut journal = Whole::new(SimulatedDisk::new(48 << 10));
    journal.front.take(Work::Append(entries(1, 1..=10)));
    journal.log();
    journal.completions();
    let head = kvproto::snapshot::SnapshotHead { keys: 1000, ..state(1, 10).snapshot(10).0 };
    journal.front.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
    for _ in 0..100 {
        journal.front.take(Work::SnapshotChunk(vec![0; 1 << 10].into()));
        journal.side();
    }
    let said = journal.completions();
    assert_eq!(said.last(), Some(&Completion::SnapshotGivenUp), "{said:?}");
    let files = journal.disk.files();
    assert!(!files.iter().any(|file| file.contains("snapshot")), "it takes no room: {files:?}");
    journal.front.take(Work::Adopt(epoch(2)));
    journal.log();
    assert_eq!(journal.completions(), [Completion::Adopted(epoch(2))]);
}

#[test]
fn what_is_kept_for_copies_that_come_back_goes_when_the_disk_is_nearly_full() {
    let mut journal = Whole::new(SimulatedDisk::new(1 << 20));
    for first in (1..=91).step_by(10) {
        journal.front.take(Work::Append(entries(1, first..=first + 9)));
        journal.log();
    }
    journal.snapshot(&state(1, 100), 100);
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

/// One rotten byte in a segment that nobody needs any more had ended a healthy primary as soon as a
/// backup came back, and its next start had given up what the snapshot still held.
#[test]
fn damage_before_the_snapshot_is_told_and_ends_nothing() {
    let mut journal = Whole::new(SimulatedDisk::default());
    for first in (1..=91).step_by(10) {
        journal.front.take(Work::Append(entries(1, first..=first + 9)));
        journal.log();
    }
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
