//! The journal of a server with a disk. Shell: the workers on a thread each, queues to and from
//! them; decides nothing.
//!
//! The queues have no bound of their own: what waits in them is bounded by whoever calls, which
//! holds back what is not safe yet, and chunks of snapshots that are not written.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle, panicking};
use std::time::Duration;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::ids::{Epoch, OpNumber, Position};
use kvproto::snapshot::SnapshotEnd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::disk::Disk;
use super::engine::{self, Engine, Failed, Found, Options};
use super::files::Files;
use super::log::Sizes;
use super::pending::Ticket;
use super::survey::Refused;
use super::work::{Front, Left, LogJob, LogWorker, Report, SideJob, SideWorker, Workers};
use super::{Completion, Journal};

/// How often somebody looks how much room the disk has when nothing is written.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);
/// After so long without work the log rests.
const REST_AFTER: Duration = Duration::from_millis(10);
/// How often what waits for room is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);

const SIZES: Sizes = Sizes { min: 1 << 20, max: 64 << 20 };
/// Kept for copies that come back.
const RETAIN: u64 = 256 << 20;
/// Lets snapshots end on a disk that is nearly full.
const RESERVE: u64 = 256 << 20;

/// Opens the directory of a server, which the caller has for itself. What it holds is read from the
/// engine, before that is given to [`DiskJournal::start`].
///
/// # Errors
/// When it is not to be used, with what to do.
pub fn open(root: &Path) -> Result<(Engine<Files>, Found), Refused> {
    let storage = kvproto::StorageId(rand::random());
    let options =
        Options { storage, seed: rand::random(), sizes: SIZES, retain: RETAIN, reserve: RESERVE };
    Engine::open(Files::new(root), options)
}

/// What is free on the disk of a directory, and below which it is nearly full.
///
/// # Errors
/// When nobody knows.
pub fn room(root: &Path) -> io::Result<(u64, u64)> {
    let space = Files::new(root).space()?;
    Ok((space.free, engine::reserve(&space, RESERVE)))
}

/// Writes to a disk, on threads of its own.
#[derive(Debug)]
pub struct DiskJournal {
    front: Front<Queues>,
    reports: UnboundedReceiver<Report>,
    failed: Option<Failed>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queues {
    /// Called, and not handed over yet.
    called: Vec<ToLog>,
    log: Sender<ToLog>,
    /// Gone when nothing more will be called: the thread ends when nobody can send to it any more.
    side: Option<Sender<SideJob>>,
}

#[derive(Debug)]
enum ToLog {
    Call(Ticket, LogJob),
    FromSide(LogJob),
    /// Nothing more will be called.
    Stop,
}

impl Workers for Queues {
    fn log(&mut self, ticket: Ticket, job: LogJob) {
        self.called.push(ToLog::Call(ticket, job));
    }

    fn side(&mut self, job: SideJob) {
        if let Some(side) = &self.side {
            let _ = side.send(job);
        }
    }
}

impl DiskJournal {
    /// Starts the threads. `last` is the last op of the log that was found, 0 if there is none.
    ///
    /// # Errors
    /// When there is no room for threads.
    pub fn start(engine: Engine<Files>, last: OpNumber) -> io::Result<DiskJournal> {
        let (log, log_in) = channel();
        let (side, side_in) = channel();
        let (reports_out, reports) = unbounded_channel();
        let queues = Queues { called: Vec::new(), log: log.clone(), side: Some(side.clone()) };
        let front = Front::new(&engine, last, queues);
        let side_worker = SideWorker::new(&engine);
        let log_worker = LogWorker::new(engine);
        let side_reports = reports_out.clone();
        let threads = vec![
            Builder::new()
                .name("journal".into())
                .spawn(move || run_log(log_worker, &log_in, &side, &reports_out))?,
            Builder::new()
                .name("snapshots".into())
                .spawn(move || run_side(side_worker, &side_in, &log, &side_reports))?,
        ];
        Ok(DiskJournal { front, reports, failed: None, threads })
    }

    /// Whether something was called that the disk does not know of yet.
    #[must_use]
    pub fn has_called(&self) -> bool {
        !self.front.workers().called.is_empty()
    }

    /// Has the disk do what was called. Apart from the calls, since it wakes another thread: what they
    /// let leave this server should have left before.
    pub fn hand_over(&mut self) {
        let queues = self.front.workers_mut();
        for job in queues.called.drain(..) {
            // A thread that has ended has said why.
            let _ = queues.log.send(job);
        }
    }

    /// Waits until there may be something to [`poll`](Journal::poll), or the journal has failed.
    pub async fn changed(&mut self) {
        match self.reports.recv().await {
            Some(report) => self.take(report),
            // The threads have ended, and have said why.
            None => std::future::pending().await,
        }
    }

    /// Why nothing is safe any more, if that is so: this server must leave at once.
    #[must_use]
    pub fn failed(&self) -> Option<&Failed> {
        self.failed.as_ref()
    }

    fn take(&mut self, report: Report) {
        self.front.take(&report);
        if let Report::Failed(failed) = report {
            self.failed = Some(failed);
        }
    }
}

impl Journal for DiskJournal {
    fn adopt(&mut self, epoch: Epoch) {
        self.front.adopt(epoch);
    }

    fn append(&mut self, entries: &[Arc<Entry>]) {
        self.front.append(entries);
    }

    fn truncate(&mut self, after: OpNumber) {
        self.front.truncate(after);
    }

    fn reset(&mut self, base: Position) {
        self.front.reset(base);
    }

    fn trim(&mut self, through: OpNumber) {
        self.front.trim(through);
    }

    fn committed(&mut self, through: OpNumber) {
        self.front.committed(through);
    }

    fn begin_snapshot(&mut self, at: Position, keys: u64) {
        self.front.begin_snapshot(at, keys);
    }

    fn snapshot_chunk(&mut self, records: Bytes) {
        self.front.snapshot_chunk(records);
    }

    fn end_snapshot(&mut self, end: SnapshotEnd) {
        self.front.end_snapshot(end);
    }

    fn abandon_snapshot(&mut self) {
        self.front.abandon_snapshot();
    }

    fn read(&mut self, from: OpNumber, bytes_max: u64) {
        self.front.read(from, bytes_max);
    }

    fn poll(&mut self) -> Option<Completion> {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
        if self.failed.is_some() {
            return None;
        }
        self.front.poll()
    }
}

/// Ends when everything called has been done.
impl Drop for DiskJournal {
    fn drop(&mut self) {
        self.front.tell_committed();
        self.hand_over();
        let queues = self.front.workers_mut();
        let _ = queues.log.send(ToLog::Stop);
        queues.side = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Says so when its thread panics: nothing would ever be safe any more.
struct Witness<'a>(&'a UnboundedSender<Report>);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if panicking() {
            let _ = self.0.send(Report::Failed(Failed::thread_gone()));
        }
    }
}

fn run_log(
    mut worker: LogWorker<Files>,
    jobs: &Receiver<ToLog>,
    side: &Sender<SideJob>,
    reports: &UnboundedSender<Report>,
) {
    /// False when it is the last.
    fn take(worker: &mut LogWorker<Files>, job: ToLog) -> bool {
        match job {
            ToLog::Call(ticket, job) => worker.take(ticket, job),
            ToLog::FromSide(job) => worker.take_from_side(job),
            ToLog::Stop => return false,
        }
        true
    }
    let _witness = Witness(reports);
    let (mut left, mut goes_on, mut rests) = (Left::Nothing, true, true);
    let (mut said, mut wanted) = (Vec::new(), Vec::new());
    while goes_on {
        let wait = match left {
            Left::Nothing if !rests => REST_AFTER,
            Left::Nothing => LOOK_FOR_ROOM_EVERY,
            Left::WaitsForRoom => TRY_AGAIN_AFTER,
        };
        match jobs.recv_timeout(wait) {
            Ok(job) => {
                rests = false;
                goes_on = take(&mut worker, job);
            }
            Err(RecvTimeoutError::Timeout) => {
                if !std::mem::replace(&mut rests, true) {
                    worker.rest(&mut said);
                }
            }
            Err(RecvTimeoutError::Disconnected) => goes_on = false,
        }
        // Everything that waits goes into one write.
        for job in jobs.try_iter() {
            goes_on &= take(&mut worker, job);
        }
        left = worker.work(&mut said);
        said.drain(..).for_each(|report| drop(reports.send(report)));
        worker.prepare(&mut wanted);
        worker.look_for_room(&mut said);
        said.drain(..).for_each(|report| drop(reports.send(report)));
        wanted.drain(..).for_each(|job| drop(side.send(job)));
    }
    worker.rest(&mut said);
}

fn run_side(
    mut worker: SideWorker<Files>,
    jobs: &Receiver<SideJob>,
    log: &Sender<ToLog>,
    reports: &UnboundedSender<Report>,
) {
    let _witness = Witness(reports);
    let (mut said, mut done) = (Vec::new(), Vec::new());
    // The log's thread ends first, and lets go of the queue.
    while let Ok(job) = jobs.recv() {
        worker.take(job);
        loop {
            // What is called meanwhile may make needless what waits.
            jobs.try_iter().for_each(|job| worker.take(job));
            let more = worker.work(&mut said, &mut done);
            said.drain(..).for_each(|report| drop(reports.send(report)));
            done.drain(..).for_each(|job| drop(log.send(ToLog::FromSide(job))));
            if !more {
                break;
            }
        }
    }
}
