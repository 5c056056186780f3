//! One life of a storage engine that a seed decides, beside a plain model of what it must hold.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::{Action, Change, Command, Entry};
use kvproto::convert::RecordsWriter;
use kvproto::digest::{self, Rolling};
use kvproto::ids::{Epoch, Generation, OpNumber, Position, StorageId, Version, ViewNumber};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::time::LogTime;
use kvserver::journal::disk::{Disk, DiskFile};
use kvserver::journal::engine::{Engine, Failed, Found, Options};
use kvserver::journal::log::{Sizes, prepare};
use kvserver::journal::snapshots::{SnapshotFile, SnapshotWriter};
use kvserver::journal::survey::survey;
use kvserver::journal::{Journal, Work};
use kvserver::replica::recovery;
use kvserver::store::Items;
use testclient::random::Random;
use testclient::sim::disk::{SimulatedDisk, SimulatedFile};

const STEPS: usize = 40;

pub(crate) fn options(seed: u64) -> Options {
    Options {
        storage: StorageId([7; 16]),
        seed,
        sizes: Sizes { min: 1 << 10, max: 4 << 10 },
        retain: 2 << 10,
        reserve: 8 << 10,
    }
}

pub(crate) fn epoch(view: u64) -> Epoch {
    Epoch { generation: Generation(1), primary_since: ViewNumber(view) }
}

pub(crate) fn size(file: &SimulatedFile) -> usize {
    usize::try_from(file.size().expect("the power is on")).expect("small")
}

/// Where the last byte of a file stands that is not zero.
pub(crate) fn last_nonzero(disk: &SimulatedDisk, path: &str) -> usize {
    let file = disk.open(path).expect("it is there");
    let mut bytes = vec![0; size(&file)];
    file.read_at(0, &mut bytes).expect("the power is on");
    bytes.iter().rposition(|byte| *byte != 0).expect("it holds something")
}

/// What an op puts; it depends on everything that tells ops apart.
fn value(position: Position) -> Bytes {
    let length = usize::try_from(position.op.0 * 7 % 60).expect("small");
    format!("{position} {}", "x".repeat(length)).into()
}

fn entry(position: Position) -> Arc<Entry> {
    let key = format!("key {:06}", position.op.0).into();
    let command = Command::Change(Change { key, action: Action::Put(value(position)) });
    Arc::new(Entry { position, at: LogTime::default(), id: None, command })
}

pub(crate) fn entries(view: u64, ops: RangeInclusive<u64>) -> Vec<Arc<Entry>> {
    ops.map(|op| entry(Position { epoch: epoch(view), op: OpNumber(op) })).collect()
}

/// What an engine must hold: the epoch that ordered each op, and what was adopted.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) ops: Vec<Epoch>,
    pub(crate) adopted: Epoch,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let starts = self.epochs(self.last());
        write!(f, "{} ops, epochs from {starts:?}, adopted {}", self.ops.len(), self.adopted)
    }
}

impl State {
    fn last(&self) -> u64 {
        self.ops.len() as u64
    }

    pub(crate) fn position(&self, op: u64) -> Position {
        let epoch = usize::try_from(op).ok().and_then(|op| self.ops.get(op.checked_sub(1)?));
        epoch.map_or(Position::default(), |epoch| Position { epoch: *epoch, op: OpNumber(op) })
    }

    fn epochs(&self, through: u64) -> Vec<Position> {
        let mut epochs: Vec<Position> = Vec::new();
        for op in 1..=through {
            let position = self.position(op);
            if epochs.last().is_none_or(|last| last.epoch != position.epoch) {
                epochs.push(position);
            }
        }
        epochs
    }

    /// The state that the ops through this one leave, as a snapshot: head, chunks and end.
    pub(crate) fn snapshot(&self, op: u64) -> (SnapshotHead, Vec<Bytes>, SnapshotEnd) {
        let (mut chunks, mut rolling, mut contents) = (Vec::new(), Rolling::default(), Vec::new());
        let mut writer = RecordsWriter::new(300);
        for op in 1..=op {
            let position = self.position(op);
            let (key, value) = (format!("key {op:06}"), value(position));
            let version = Version::of_change_at(Generation(1), OpNumber(op));
            if !writer.key(key.as_bytes(), &value, version) {
                chunks.extend(std::mem::replace(&mut writer, RecordsWriter::new(300)).finish());
                assert!(writer.key(key.as_bytes(), &value, version));
            }
            rolling.add(digest::of_key(key.as_bytes(), &value, version, &mut contents));
        }
        chunks.extend(writer.finish());
        let head = SnapshotHead { cluster: Default::default(), at: self.position(op), keys: op };
        let end = SnapshotEnd {
            epochs: self.epochs(op),
            log_time: LogTime::default(),
            digest: rolling.with(Rolling::default()),
            chunks: chunks.len() as u64,
        };
        (head, chunks, end)
    }
}

/// Gives a snapshot, in its parts, to a journal. Says which position it shows.
pub(crate) fn give_snapshot(
    journal: &mut impl Journal,
    (head, chunks, end): (SnapshotHead, Vec<Bytes>, SnapshotEnd),
) -> Position {
    journal.take(Work::BeginSnapshot { at: head.at, keys: head.keys });
    chunks.into_iter().for_each(|chunk| journal.take(Work::SnapshotChunk(chunk)));
    journal.take(Work::EndSnapshot(end));
    head.at
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Everything was done.
    Whole,
    /// The disk failed on the way.
    Short,
}

/// Writes a snapshot of this state at an op, beside the log.
pub(crate) fn write_snapshot(
    disk: &SimulatedDisk,
    state: &State,
    op: u64,
) -> Result<SnapshotFile, Box<dyn std::error::Error>> {
    let (head, chunks, end) = state.snapshot(op);
    let mut writer = SnapshotWriter::begin(disk, "snapshot.new".to_owned(), head)?;
    for chunk in &chunks {
        writer.chunk(chunk)?;
    }
    Ok(writer.end(end)?)
}

/// An engine that is used at random, and the states in which it may be found.
pub(crate) struct Life {
    seed: u64,
    random: Random,
    disk: SimulatedDisk,
    now: State,
    committed: u64,
    /// The last state acknowledged, and those that were under way since.
    possible: Vec<State>,
    /// The old log is still on the disk, until a new one begins; and what was committed in it.
    is_reset: bool,
    committed_before: u64,
    spares: u64,
}

impl Life {
    pub(crate) fn new(seed: u64, disk: &SimulatedDisk) -> Life {
        Life {
            seed,
            random: Random::new(seed),
            disk: disk.clone(),
            now: State::default(),
            committed: 0,
            possible: vec![State::default()],
            is_reset: false,
            committed_before: 0,
            spares: 0,
        }
    }

    /// Lives to the end, or until the disk fails.
    pub(crate) fn run(&mut self) -> Ended {
        match self.live() {
            Ok(()) => Ended::Whole,
            Err(_) => Ended::Short,
        }
    }

    fn live(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let (mut engine, _) = Engine::open(self.disk.clone(), options(self.seed))?;
        let mut view = 1;
        for _ in 0..STEPS {
            match self.random.below(16) {
                0 => {
                    view += 1;
                    engine.adopt(epoch(view));
                    self.changed(|now| now.adopted = epoch(view));
                }
                1 => self.replace(&mut engine, &mut view),
                2 | 3 => self.take_snapshot(&mut engine)?,
                4 => self.begin_anew(&mut engine, &mut view)?,
                5 => engine.mark()?,
                6 => {
                    if let Some(size) = engine.wants_spare() {
                        self.spares += 1;
                        let path = format!("spare-{}.new", self.spares);
                        engine.give_spare(prepare(&self.disk, path, size)?);
                    }
                }
                7 => {
                    self.flush(&mut engine)?;
                    // A restart without a crash.
                    let (again, found) = Engine::open(self.disk.clone(), options(view))?;
                    engine = again;
                    let expected = if self.is_reset { &self.possible[0] } else { &self.now };
                    if let Found::Sound(recovered) = found {
                        let mut last = expected.position(expected.last());
                        last.epoch = last.epoch.max(recovered.last.epoch.min(last.epoch));
                        assert_eq!(recovered.last, last);
                    } else {
                        assert_eq!(
                            *expected,
                            State { adopted: expected.adopted, ..State::default() }
                        );
                    }
                    if self.is_reset {
                        self.now = self.possible[0].clone();
                        self.committed = self.committed_before;
                        self.is_reset = false;
                    }
                    // Where there is no log, what was adopted is told to nobody.
                    if !engine.has_log() {
                        self.now.adopted = Epoch::default();
                        self.possible = vec![self.now.clone()];
                    }
                }
                8..=10 => self.flush(&mut engine)?,
                _ => {
                    let first = self.now.last() + 1;
                    let last = first + self.random.between(0, 5);
                    engine.append(&entries(view, first..=last));
                    self.changed(|now| now.ops.extend((first..=last).map(|_| epoch(view))));
                }
            }
        }
        self.flush(&mut engine)?;
        engine.mark()?;
        Ok(())
    }

    /// Something was called that is not safe yet.
    fn changed(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.now);
        self.possible.push(self.now.clone());
    }

    fn flush(&mut self, engine: &mut Engine<SimulatedDisk>) -> Result<(), Failed> {
        if !engine.has_log() && engine.has_work() {
            // It begins with an empty log.
            let adopted = self.now.adopted;
            self.possible.push(State { adopted, ..State::default() });
        }
        let has_work = engine.has_work();
        assert!(engine.flush()?, "there is room");
        if has_work || !self.is_reset {
            self.is_reset = self.is_reset && !has_work;
            // What is adopted where there is no log is not kept: it stands for nothing.
            let kept = if engine.has_log() { self.now.clone() } else { State::default() };
            self.possible = vec![kept];
            let last = self.now.last();
            self.committed = self.random.between(self.committed.min(last), last);
            engine.committed(OpNumber(self.committed));
        }
        Ok(())
    }

    /// Entries of a new epoch take the place of others, as one: there is no state between.
    fn replace(&mut self, engine: &mut Engine<SimulatedDisk>, view: &mut u64) {
        if !engine.has_log() && !engine.has_work() {
            return;
        }
        let after = self.random.between(self.committed, self.now.last());
        *view += 1;
        let last = after + self.random.between(1, 12);
        engine.append(&entries(*view, after + 1..=last));
        self.changed(|now| {
            now.ops.truncate(usize::try_from(after).expect("small"));
            now.ops.extend((after + 1..=last).map(|_| epoch(*view)));
        });
    }

    /// A snapshot of what is committed, while nothing else happens.
    fn take_snapshot(
        &mut self,
        engine: &mut Engine<SimulatedDisk>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if !engine.has_log() || self.committed == 0 {
            return Ok(());
        }
        let verified = write_snapshot(&self.disk, &self.now, self.committed)?;
        if engine.has_work() {
            self.flush(engine)?;
        }
        assert!(engine.install(&verified)?, "there is room");
        Ok(())
    }

    /// A reset, and then a log that begins empty or with a state that is received.
    fn begin_anew(
        &mut self,
        engine: &mut Engine<SimulatedDisk>,
        view: &mut u64,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if self.random.chance(500) {
            return Ok(());
        }
        self.flush(engine)?;
        if self.is_reset {
            return Ok(());
        }
        engine.mark()?;
        engine.reset();
        *view += 1;
        self.is_reset = true;
        let adopted = self.now.adopted;
        self.now = State { adopted, ..State::default() };
        self.committed_before = std::mem::take(&mut self.committed);
        if self.random.chance(400) {
            return Ok(());
        }
        let op = self.random.between(1, 30);
        let received =
            State { ops: vec![epoch(*view); usize::try_from(op).expect("small")], adopted };
        let (head, chunks, end) = received.snapshot(op);
        assert!(engine.receive(head.at, head.keys)?);
        for chunk in &chunks {
            assert!(engine.receive_chunk(chunk)?.is_some());
            if self.random.chance(20) {
                // Given up: another one begins some time.
                return Ok(());
            }
        }
        assert!(engine.receive_end(end)?);
        self.possible.push(received.clone());
        assert!(engine.begin_with_received(head.at)?);
        (self.now, self.committed, self.is_reset) = (received, op, false);
        self.possible = vec![self.now.clone()];
        Ok(())
    }

    /// After a crash: one of the states that were possible, and it can be gone on with.
    pub(crate) fn check_recovery(&self, disk: &SimulatedDisk, story: &str) {
        let after_failure = story.starts_with("Fails");
        // An adoption may be on disk before what was called before it.
        let is_possible = |found: &State| {
            let adopted =
                |state: &State| (state.adopted..=self.now.adopted).contains(&found.adopted);
            self.possible.iter().any(|state| state.ops == found.ops && adopted(state))
        };
        match recover(disk, story) {
            Ok(found) => assert!(
                is_possible(&found),
                "seed {} {story}: {found:?}\nnot in {:?}",
                self.seed,
                self.possible
            ),
            // A failed disk may leave its mark, a power cut never.
            Err(refused) => assert!(after_failure, "seed {} {story}: {refused}", self.seed),
        }
        if after_failure {
            return;
        }
        let (mut engine, found) = Engine::open(disk.clone(), options(99)).expect("sound");
        let last = if let Found::Sound(found) = found { found.last.op.0 } else { 0 };
        engine.append(&entries(1000, last + 1..=last + 2));
        assert!(engine.flush().expect("nothing fails any more"));
        drop(engine);
        let found = recover(disk, story).expect("sound");
        assert_eq!(found.last(), last + 2, "{story}");
    }

    /// After something was changed on a disk at rest: the same state, or a refusal. True if it is
    /// the same state.
    pub(crate) fn check_tampered(&self, disk: &SimulatedDisk, story: &str) -> bool {
        let expected = if self.is_reset { &self.possible[0] } else { &self.now };
        match recover(disk, story) {
            Ok(found) => {
                assert_eq!(found, *expected, "seed {} {story}", self.seed);
                true
            }
            Err(_) => false,
        }
    }
}

/// Opens a directory and reads everything in it; the reason, if that is refused.
pub(crate) fn recover(disk: &SimulatedDisk, story: &str) -> Result<State, String> {
    let (engine, found) =
        Engine::open(disk.clone(), options(5)).map_err(|refused| refused.to_string())?;
    let mut found = match found {
        Found::Nothing => return Ok(State::default()),
        Found::Damaged(damage) => return Err(damage.to_string()),
        Found::Sound(found) => found,
    };
    let mut state = State { adopted: found.adopted, ..State::default() };
    let era = survey(disk).expect("it was opened").era.expect("it has a log");
    let epochs = era.epochs();
    let rise = |one: &Position, next: &Position| one.epoch < next.epoch && one.op < next.op;
    assert!(epochs.is_sorted_by(rise), "{story}: {epochs:?}");
    let mut starts = epochs.iter().peekable();
    let mut current = Epoch::default();
    for op in 1..=found.last.op.0 {
        while let Some(start) = starts.next_if(|start| start.op.0 <= op) {
            current = start.epoch;
        }
        state.ops.push(current);
    }
    // By the page, as who catches up reads it.
    let mut next = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.head.at.op.0) + 1;
    while next <= found.last.op.0 {
        let page = engine.read(OpNumber(next), 500).expect("it was checked");
        assert!(!page.is_empty(), "{story}: op {next} is missing");
        for read in page {
            assert_eq!(*read, *entry(state.position(next)), "{story}");
            next += 1;
        }
    }
    // As if all of it were known to be committed.
    found.committed = found.last.op;
    let read = recovery::read(&engine, &found, Items::default(), 0);
    let (head, _, end) = state.snapshot(state.last());
    let mut recovered = read.expect("it was checked");
    let rebuilt = recovered.snapshot(head.cluster);
    let expected = (head, SnapshotEnd { chunks: 0, ..end });
    assert_eq!((rebuilt.0, rebuilt.1), expected, "{story}");
    Ok(state)
}
