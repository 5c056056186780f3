//! How a disk does the work of a journal. Pure: on any [`Disk`], without threads; servers
//! run the two workers on a thread each, simulations as they like.
//!
//! [`Front`] takes the work on and knows what to report. [`LogWorker`] does what the log needs, in the
//! order in which it came; everything that waits goes into one write and one sync. [`SideWorker`] does
//! what takes long: snapshots of a log that goes on meanwhile, and files for segments to come.
//! Where there is no log, a snapshot is the beginning of the next one, and the log's own work.

mod side;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::ids::{ClusterId, Epoch, OpNumber, Position};
use kvproto::rules::{Rule, keeps};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};
use kvproto::view::View;

use super::disk::{Disk, Trouble};
use super::engine::{Engine, Failed};
use super::layout;
use super::log::Spare;
use super::pending::{Pending, SnapshotNumber, Ticket};
use super::snapshots::SnapshotFile;
use super::{Completion, EntriesRead, Journal, Room, Work};
pub use side::SideWorker;

/// Work of the log.
#[derive(Debug)]
pub enum LogJob {
    /// See [`Work::Adopt`].
    Adopt(Epoch),
    /// See [`Work::Record`].
    Record(Box<View>),
    /// See [`Work::Append`].
    Append(Vec<Arc<Entry>>),
    /// See [`Work::Reset`], to op 0. Snapshots through this one are of the log before it.
    Reset(SnapshotNumber),
    /// See [`Work::Reset`], to the state received.
    BeginWith(Position),
    /// See [`Work::Committed`].
    Committed(OpNumber),
    /// Entries are wanted, from this op on, about so many bytes.
    Read(OpNumber, u64),
    /// A state for the log to begin with.
    Receive(SnapshotJob),
    /// A snapshot of this log is whole.
    Install(SnapshotNumber, Box<SnapshotFile>),
    /// A file for a segment to come, or none for want of room.
    Spare(Option<Spare>),
    /// Work elsewhere failed.
    Failed(&'static str, io::Error),
}

/// A step of a snapshot.
#[derive(Clone, Debug)]
pub enum SnapshotJob {
    /// It begins, and the one before it ends.
    Begin(SnapshotNumber, SnapshotHead),
    /// Some of it.
    Chunk(SnapshotNumber, Bytes),
    /// It is whole.
    End(SnapshotNumber, SnapshotEnd),
    /// It is given up.
    Abandon,
}

/// Work beside the log.
#[derive(Clone, Debug)]
pub enum SideJob {
    /// For a snapshot of this log.
    Snapshot(SnapshotJob),
    /// A file for a segment of this size is wanted.
    Prepare {
        /// Where to make it.
        path: String,
        /// Its length.
        size: u64,
    },
}

/// What a worker has to say.
#[derive(Debug)]
pub enum Report {
    /// All calls through this one are done.
    Finished(Ticket),
    /// So many chunks of a snapshot are written.
    Chunks(SnapshotNumber, u64),
    /// A snapshot is what the log begins with now.
    Snapshot(SnapshotNumber, Position),
    /// A snapshot of the log was given up for want of room or of access.
    GivenUp(SnapshotNumber),
    /// Entries that were asked for, from this op on, or what is wrong with them.
    Read(OpNumber, EntriesRead),
    /// How much room there is.
    Room(Room),
    /// The directory is gone. Nothing is safe from now on, and nothing more will be done.
    DirectoryGone,
    /// The journal has failed and will do nothing more.
    Failed(Failed),
}

/// Where work goes.
pub trait Workers {
    /// To the log.
    fn log(&mut self, ticket: Ticket, job: LogJob);
    /// Beside it.
    fn side(&mut self, job: SideJob);
}

/// Under load a fraction of a millisecond; at rest, when only the clock asks, a third of a second.
const IDLE_POLLS: u32 = 64;

/// Turns calls into work, and reports into completions.
#[derive(Debug)]
pub struct Front<W> {
    workers: W,
    pending: Pending,
    cluster: ClusterId,
    /// Snapshots are of a log; otherwise they are received.
    has_log: bool,
    /// What is committed and was not told yet: it goes with the next work for the log, since it alone
    /// is not worth waking anybody. When there is none for so many polls it goes by itself.
    committed: Option<OpNumber>,
    idle_polls: u32,
    /// Not reported yet.
    room: Option<Room>,
    directory_gone: bool,
    read: VecDeque<(OpNumber, EntriesRead)>,
}

impl<W: Workers> Front<W> {
    /// In front of an engine whose log ends with this op, 0 if it has none, and that has nothing to do.
    pub fn new<D: Disk>(engine: &Engine<D>, last: OpNumber, workers: W) -> Front<W> {
        let cluster = engine.identity().cluster;
        Front {
            workers,
            pending: Pending::after(last),
            cluster,
            has_log: engine.has_log(),
            committed: None,
            idle_polls: 0,
            room: None,
            directory_gone: false,
            read: VecDeque::new(),
        }
    }

    /// Where work goes.
    pub fn workers(&mut self) -> &mut W {
        &mut self.workers
    }

    /// Hears what a worker has to say.
    pub fn hear(&mut self, report: &Report) {
        match report {
            Report::Finished(ticket) => self.pending.finished(*ticket),
            Report::Chunks(number, chunks) => self.pending.chunks_written(*number, *chunks),
            Report::Snapshot(number, at) => self.pending.snapshot_done(*number, *at),
            Report::GivenUp(number) => self.pending.snapshot_given_up(*number),
            Report::Read(from, entries) => self.read.push_back((*from, entries.clone())),
            Report::Room(room) => self.room = Some(*room),
            Report::DirectoryGone => self.directory_gone = true,
            Report::Failed(_) => {}
        }
    }

    /// Gives the log something to do.
    fn log(&mut self, ticket: Ticket, job: LogJob) {
        self.tell_committed();
        self.workers.log(ticket, job);
    }

    /// Tells what was kept back; to be called before nothing more is.
    pub(super) fn tell_committed(&mut self) {
        self.idle_polls = 0;
        if let Some(through) = self.committed.take() {
            // Nobody waits for it.
            self.workers.log(Ticket::default(), LogJob::Committed(through));
        }
    }

    fn abandon_snapshot(&mut self) {
        if self.pending.snapshot().is_some() {
            self.pending.abandon_snapshot();
            self.snapshot(SnapshotJob::Abandon);
        }
    }

    fn snapshot(&mut self, job: SnapshotJob) {
        if self.has_log {
            self.workers.side(SideJob::Snapshot(job));
        } else {
            let ticket = self.pending.silent();
            self.log(ticket, LogJob::Receive(job));
        }
    }
}

impl<W: Workers> Journal for Front<W> {
    fn take(&mut self, work: Work) {
        match work {
            Work::Adopt(epoch) => {
                let ticket = self.pending.adopt(epoch);
                self.log(ticket, LogJob::Adopt(epoch));
            }
            Work::Record(record) => {
                let ticket = self.pending.record(record.order());
                self.log(ticket, LogJob::Record(record));
            }
            Work::Append(entries) if entries.is_empty() => {}
            Work::Append(entries) => {
                self.has_log = true;
                let ticket = self.pending.append(&entries);
                self.log(ticket, LogJob::Append(entries));
            }
            Work::Truncate { after } => {
                // The disk hears of it with the entries that take their place.
                self.pending.truncate(after);
            }
            Work::Reset { base } if base.op == OpNumber(0) => {
                self.abandon_snapshot();
                self.has_log = false;
                let void = self.pending.last_snapshot();
                let ticket = self.pending.reset(base);
                self.log(ticket, LogJob::Reset(void));
            }
            Work::Reset { base } => {
                assert!(!self.has_log, "a log begins with a state that was received after a reset");
                self.has_log = true;
                let ticket = self.pending.reset(base);
                self.log(ticket, LogJob::BeginWith(base));
            }
            Work::Committed { through } => self.committed = Some(through),
            Work::BeginSnapshot { at, keys } => {
                let number = self.pending.begin_snapshot();
                let head = SnapshotHead { cluster: self.cluster, at, keys };
                self.snapshot(SnapshotJob::Begin(number, head));
            }
            Work::SnapshotChunk(records) => {
                if let Some(number) = self.pending.snapshot() {
                    self.snapshot(SnapshotJob::Chunk(number, records));
                }
            }
            Work::EndSnapshot(end) => {
                if let Some(number) = self.pending.snapshot() {
                    self.snapshot(SnapshotJob::End(number, end));
                }
            }
            Work::Read { from, bytes_max } => {
                let ticket = self.pending.silent();
                self.log(ticket, LogJob::Read(from, bytes_max));
            }
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        self.idle_polls += 1;
        if self.idle_polls >= IDLE_POLLS {
            self.tell_committed();
        }
        if std::mem::take(&mut self.directory_gone) {
            return Some(Completion::DirectoryGone);
        }
        if let Some((from, entries)) = self.read.pop_front() {
            return Some(Completion::Read { from, entries });
        }
        let room = self.room.take().map(Completion::Room);
        room.or_else(|| self.pending.poll())
    }
}

/// How a worker left its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing is left.
    Nothing,
    /// The rest waits for room on the disk, or for access to it.
    WaitsForRoom,
}

/// Does the work of the log.
#[derive(Debug)]
pub struct LogWorker<D: Disk> {
    engine: Engine<D>,
    waiting: VecDeque<(Ticket, LogJob)>,
    /// The last call that was taken to the engine, and the last that was reported.
    called: Ticket,
    finished: Ticket,
    /// Snapshots through this one are of a log that is gone.
    void: SnapshotNumber,
    spares: u64,
    spare_wanted: bool,
    room: Room,
    /// Entries that could not be read now, and how often that was tried.
    unread: VecDeque<(OpNumber, u64, u32)>,
    /// Failed, or without its directory: nothing is done any more.
    is_over: bool,
}

/// Entries that cannot be read are tried again as often as somebody looks for room, and then taken for
/// gone: the copy that lacks them needs a full transfer.
const READS_TRIED: u32 = 20;

impl<D: Disk> LogWorker<D> {
    /// Works for this engine.
    #[must_use]
    pub fn new(engine: Engine<D>) -> LogWorker<D> {
        LogWorker {
            engine,
            waiting: VecDeque::new(),
            called: Ticket::default(),
            finished: Ticket::default(),
            void: SnapshotNumber::default(),
            spares: 0,
            spare_wanted: false,
            room: Room::Enough,
            unread: VecDeque::new(),
            is_over: false,
        }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine<D> {
        &self.engine
    }

    /// Takes a call.
    pub fn take(&mut self, ticket: Ticket, job: LogJob) {
        if let LogJob::Reset(void) = job {
            // Nobody needs what was to be done for the log before it, nor snapshots of that.
            self.waiting.retain(|(_, job)| !job.is_of_the_log());
            self.void = void;
        }
        self.waiting.push_back((ticket, job));
    }

    /// Takes what another worker has done. It comes before the calls that wait, since it may make room;
    /// a snapshot comes after those that lead to it.
    pub fn take_from_side(&mut self, job: LogJob) {
        let after = match &job {
            LogJob::Install(_, verified) => {
                let op = verified.head.at.op;
                self.waiting.iter().rposition(|(_, waiting)| waiting.leads_to(op))
            }
            _ => None,
        };
        let place = after.map_or(0, |last| last + 1);
        self.waiting.insert(place, (Ticket::default(), job));
    }

    /// Does everything that waits.
    pub fn work(&mut self, reports: &mut Vec<Report>) -> Left {
        if self.is_over {
            self.end_waiting(reports);
            return Left::Nothing;
        }
        match self.try_work(reports) {
            Ok(left) => left,
            Err(failed) => {
                self.fail(failed, reports);
                Left::Nothing
            }
        }
    }

    /// What waits for a journal that is over is never done; of what it has nobody reads any more.
    fn end_waiting(&mut self, reports: &mut Vec<Report>) {
        let waiting = self.waiting.drain(..).filter_map(|(_, job)| match job {
            LogJob::Read(from, _) => Some(from),
            _ => None,
        });
        let unread = self.unread.drain(..).map(|(from, ..)| from);
        reports.extend(waiting.chain(unread).map(|from| Report::Read(from, Ok(Vec::new()))));
    }

    /// What fails in a directory that is gone says nothing of the disk.
    fn fail(&mut self, failed: Failed, reports: &mut Vec<Report>) {
        if self.is_over {
            return;
        }
        if self.engine.is_there() {
            self.is_over = true;
            reports.push(Report::Failed(failed));
        } else {
            self.lose_directory(reports);
        }
    }

    fn lose_directory(&mut self, reports: &mut Vec<Report>) {
        self.is_over = true;
        reports.push(Report::DirectoryGone);
        self.end_waiting(reports);
    }

    fn try_work(&mut self, reports: &mut Vec<Report>) -> Result<Left, Failed> {
        while let Some((ticket, job)) = self.waiting.pop_front() {
            if !self.perform(&job, reports)? {
                self.waiting.push_front((ticket, job));
                return Ok(Left::WaitsForRoom);
            }
            self.called = self.called.max(ticket);
        }
        let flushed = self.engine.flush()?;
        // What was put off there would wait for ever.
        let unsafe_or_waiting = !flushed || self.finished < self.called;
        if unsafe_or_waiting && !self.engine.is_there() && keeps(Rule::GoneIsNotSafe) {
            self.lose_directory(reports);
            return Ok(Left::Nothing);
        }
        if !flushed {
            return Ok(Left::WaitsForRoom);
        }
        if self.finished < self.called {
            self.finished = self.called;
            reports.push(Report::Finished(self.finished));
        }
        Ok(Left::Nothing)
    }

    /// To be called when nothing has waited for some milliseconds: a mark costs a write, and what
    /// comes soon says the same.
    pub fn rest(&mut self, reports: &mut Vec<Report>) {
        if self.is_over {
            return;
        }
        if let Err(failed) = self.engine.mark() {
            self.fail(failed, reports);
        }
    }

    /// Has the next segment made in time.
    pub fn prepare(&mut self, side: &mut Vec<SideJob>) {
        if self.is_over || self.spare_wanted || self.room == Room::Full {
            return;
        }
        if let Some(size) = self.engine.wants_spare() {
            self.spare_wanted = true;
            self.spares += 1;
            let path = layout::spare_segment(self.spares);
            side.push(SideJob::Prepare { path, size });
        }
    }

    /// To be called after work, and now and then: looks whether the directory is there, and how much room
    /// it has, and tries again to read what could not be read.
    pub fn look_for_room(&mut self, reports: &mut Vec<Report>) {
        if self.is_over {
            return;
        }
        if !self.engine.is_there() {
            return self.lose_directory(reports);
        }
        if let Some((from, bytes_max, tries)) = self.unread.pop_front()
            && let Err(failed) = self.read(from, bytes_max, tries, reports)
        {
            return self.fail(failed, reports);
        }
        // A disk that does not say how full it is will say so when it is.
        let room = self.engine.room(self.room).unwrap_or_default();
        if room != Room::Enough
            && let Err(failed) = self.engine.make_room()
        {
            return self.fail(failed, reports);
        }
        if room != self.room {
            self.room = room;
            reports.push(Report::Room(room));
        }
    }

    /// False if it waits for room.
    fn perform(&mut self, job: &LogJob, reports: &mut Vec<Report>) -> Result<bool, Failed> {
        let engine = &mut self.engine;
        match job {
            LogJob::Adopt(epoch) => engine.adopt(*epoch),
            LogJob::Record(record) => engine.record(record.clone()),
            LogJob::Append(entries) => engine.append(entries),
            LogJob::Committed(through) => engine.committed(*through),
            LogJob::Read(from, bytes_max) => {
                let (from, bytes_max) = (*from, *bytes_max);
                return self.read(from, bytes_max, 0, reports).map(|()| true);
            }
            LogJob::Reset(_) => engine.reset(),
            LogJob::BeginWith(at) => return engine.begin_with_received(*at),
            LogJob::Receive(SnapshotJob::Begin(_, head)) => {
                return engine.receive(head.at, head.keys);
            }
            LogJob::Receive(SnapshotJob::Chunk(number, records)) => {
                let Some(chunks) = engine.receive_chunk(records)? else {
                    return Ok(false);
                };
                reports.push(Report::Chunks(*number, chunks));
            }
            LogJob::Receive(SnapshotJob::End(_, end)) => return engine.receive_end(end.clone()),
            LogJob::Receive(SnapshotJob::Abandon) => engine.receive_nothing(),
            LogJob::Install(number, verified) if *number <= self.void => {
                engine.discard(verified)?;
            }
            LogJob::Install(number, verified) => {
                if !engine.install(verified)? {
                    return Ok(false);
                }
                reports.push(Report::Snapshot(*number, verified.head.at));
            }
            LogJob::Spare(spare) => {
                self.spare_wanted = false;
                if let Some(spare) = spare {
                    engine.give_spare(spare.clone());
                }
            }
            LogJob::Failed(doing, error) => {
                let error = io::Error::new(error.kind(), error.to_string());
                return Err(engine.fail(doing, error));
            }
        }
        Ok(true)
    }
}

impl<D: Disk> LogWorker<D> {
    /// What is not to be read is no reason to go: this may be the last complete copy, and all of what it
    /// has is in memory.
    fn read(
        &mut self,
        from: OpNumber,
        bytes_max: u64,
        tries: u32,
        reports: &mut Vec<Report>,
    ) -> Result<(), Failed> {
        let entries = match self.engine.read(from, bytes_max) {
            Ok(entries) => Ok(entries),
            // Nobody else waits for it: what is written goes on meanwhile.
            Err(error) if Trouble::of(&error).may_pass() => {
                if tries < READS_TRIED {
                    self.unread.push_back((from, bytes_max, tries + 1));
                    return Ok(());
                }
                Ok(Vec::new())
            }
            Err(error) => {
                // A start does without the segments before the last one that a snapshot reaches.
                self.engine.begin_segment()?;
                Err(error.to_string())
            }
        };
        reports.push(Report::Read(from, entries));
        Ok(())
    }
}

impl LogJob {
    /// Whether a lone write is all that it asks for, as of one client's call.
    #[must_use]
    pub fn is_small(&self) -> bool {
        match self {
            LogJob::Append(entries) => entries.len() == 1,
            LogJob::Committed(_) => true,
            _ => false,
        }
    }

    /// Whether it was called before a snapshot at this op began. That op was committed then: no later
    /// truncation drops it.
    fn leads_to(&self, op: OpNumber) -> bool {
        match self {
            LogJob::Append(entries) => entries.first().is_some_and(|first| first.op() <= op),
            _ => false,
        }
    }

    fn is_of_the_log(&self) -> bool {
        // An adoption holds for whatever log comes next, and so does a record.
        !matches!(
            self,
            LogJob::Adopt(_)
                | LogJob::Record(_)
                | LogJob::Install(..)
                | LogJob::Spare(_)
                | LogJob::Failed(..)
        )
    }
}
