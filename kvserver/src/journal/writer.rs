//! The journal of a server with a disk. Shell: the workers on a thread each, queues to and from
//! them, and a short way past the thread for a lone write.
//!
//! The queues have no bound of their own: what waits in them is bounded by whoever calls, which
//! holds back what is not safe yet, and chunks of snapshots that are not written.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle, panicking};
use std::time::{Duration, Instant};

use kvproto::ids::OpNumber;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tracing::warn;

use super::disk::Disk;
use super::engine::{self, Engine, Failed, Found, Options};
use super::files::Files;
use super::log::Sizes;
use super::pending::Ticket;
use super::survey::Refused;
use super::work::{Front, Left, LogJob, LogWorker, Report, SideJob, SideWorker, Workers};
use super::{Completion, Journal, Work};

/// How often somebody looks whether the directory is there, and how much room the disk has, when nothing
/// is written.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_millis(250);
/// Why something waits is told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// After so long without work the log rests. Lone writes that others do themselves wake nobody: they
/// are followed by the rest when the thread looks for room the next time.
const REST_AFTER: Duration = Duration::from_millis(10);
/// When a write took less, the next one may be waited for.
const QUICK: Duration = Duration::from_millis(1);
/// How often what waits for room is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);

const SIZES: Sizes = Sizes { min: 1 << 20, max: 64 << 20 };
/// Kept for copies that come back.
const RETAIN: u64 = 256 << 20;
/// Lets snapshots end on a disk that is nearly full.
const RESERVE: u64 = 256 << 20;

/// Finds out what the directory of a server holds, which the caller has for itself, and changes nothing.
/// The engine is settled before it is given to [`DiskJournal::start`].
///
/// # Errors
/// When it is not to be used, with what to do.
pub fn find(root: &Path) -> Result<(Engine<Files>, Found), Refused> {
    let storage = kvproto::StorageId(rand::random());
    let options =
        Options { storage, seed: rand::random(), sizes: SIZES, retain: RETAIN, reserve: RESERVE };
    Engine::find(Files::new(root), options)
}

/// What is free on the disk of a directory, and below which it is nearly full.
///
/// # Errors
/// When nobody knows.
pub fn room(root: &Path) -> io::Result<(u64, u64)> {
    let space = Files::new(root).space()?;
    Ok((space.free, engine::reserve(&space, RESERVE)))
}

/// Writes to a disk, on threads of its own; what is small and quick also on that of the caller.
#[derive(Debug)]
pub struct DiskJournal {
    front: Front<Queues>,
    reports: UnboundedReceiver<Report>,
    failed: Option<Failed>,
    threads: Vec<JoinHandle<()>>,
    /// Closed when all threads have ended.
    ended: mpsc::Receiver<Infallible>,
}

#[derive(Debug)]
struct Queues {
    /// Called, and not handed over yet.
    called: Vec<ToLog>,
    log: Arc<Log>,
    /// Gone when nothing more will be called: the thread ends when nobody can send to it any more.
    side: Option<Sender<SideJob>>,
}

/// The log's worker, which whoever has it lets do everything that waits, in the order of the queue.
#[derive(Debug)]
struct Log {
    queue: Mutex<VecDeque<ToLog>>,
    /// There is something in the queue, for the thread.
    called: Condvar,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    worker: LogWorker<Files>,
    /// Gone when nothing more will be called.
    side: Option<Sender<SideJob>>,
    reports: UnboundedSender<Report>,
    left: Left,
    /// Nothing has been done since the log was said to rest.
    rests: bool,
    /// How long the last write took.
    took: Duration,
    /// When it was last told why something waits.
    told: Option<Instant>,
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
    /// Starts the threads. `last` is the last op of the log of the engine, 0 if it has none.
    ///
    /// # Errors
    /// When there is no room for threads.
    pub fn start(engine: Engine<Files>, last: OpNumber) -> io::Result<DiskJournal> {
        let (side, side_in) = channel();
        let (reports_out, reports) = unbounded_channel();
        let side_worker = SideWorker::new(&engine);
        let turns = Turns {
            worker: LogWorker::new(engine),
            side: Some(side.clone()),
            reports: reports_out.clone(),
            left: Left::Nothing,
            rests: true,
            took: Duration::MAX,
            told: None,
        };
        let log = Arc::new(Log {
            queue: Mutex::default(),
            called: Condvar::new(),
            turns: Mutex::new(turns),
        });
        let queues = Queues { called: Vec::new(), log: Arc::clone(&log), side: Some(side) };
        let front = Front::new(log.turns().worker.engine(), last, queues);
        let (side_log, side_reports) = (Arc::clone(&log), reports_out.clone());
        let (runs, ended) = mpsc::channel(1);
        let side_runs = runs.clone();
        let threads = vec![
            Builder::new().name("journal".into()).spawn(move || {
                let _runs = runs;
                run_log(&log, &reports_out);
            })?,
            Builder::new().name("snapshots".into()).spawn(move || {
                let _runs = side_runs;
                run_side(side_worker, &side_in, &side_log, &side_reports);
            })?,
        ];
        Ok(DiskJournal { front, reports, failed: None, threads, ended })
    }

    /// Ends when everything called has been done; false if the disk has not done it within `patience`.
    /// Then the threads go on waiting for it, and the directory is theirs until the process ends.
    pub async fn close(mut self, patience: Duration) -> bool {
        self.call_the_last();
        if let Err(TryLockError::Poisoned(turns)) = self.front.workers().log.turns.try_lock() {
            // The log's thread panicked, and the other would wait for its work.
            turns.into_inner().side = None;
        }
        let done = timeout(patience, self.ended.recv()).await.is_ok();
        if !done {
            self.threads.clear();
        }
        done
    }

    /// Nothing more will be called.
    fn call_the_last(&mut self) {
        self.front.tell_committed();
        let queues = self.front.workers();
        queues.called.push(ToLog::Stop);
        queues.side = None;
        self.hand_over(false);
    }

    /// Has the disk do what was called. With `may_wait` the caller itself does a lone write to a disk
    /// that is quick: to wake a thread and be woken by it takes half as long as the write.
    pub fn hand_over(&mut self, may_wait: bool) {
        let queues = self.front.workers();
        if queues.called.is_empty() {
            return;
        }
        let is_small = |job: &ToLog| matches!(job, ToLog::Call(_, job) if job.is_small());
        let is_small = may_wait && queues.called.iter().all(is_small);
        let log = &queues.log;
        log.queue().extend(queues.called.drain(..));
        if is_small
            && let Ok(mut turns) = log.turns.try_lock()
            && turns.took < QUICK
        {
            // The thread is the one to stop, and nothing small says so.
            let _goes_on = turns.take(log);
            return;
        }
        log.called.notify_one();
    }

    /// Waits until there may be something to [`poll`](Journal::poll), or the journal has failed.
    pub async fn changed(&mut self) {
        match self.reports.recv().await {
            Some(report) => self.hear(report),
            // The threads have ended, and have said why.
            None => std::future::pending().await,
        }
    }

    /// Why nothing is safe any more, if that is so: this server must leave at once.
    #[must_use]
    pub fn failed(&self) -> Option<&Failed> {
        self.failed.as_ref()
    }

    fn hear(&mut self, report: Report) {
        self.front.hear(&report);
        if let Report::Failed(failed) = report {
            self.failed = Some(failed);
        }
    }
}

impl Journal for DiskJournal {
    fn take(&mut self, work: Work) {
        self.front.take(work);
    }

    fn poll(&mut self) -> Option<Completion> {
        while let Ok(report) = self.reports.try_recv() {
            self.hear(report);
        }
        if self.failed.is_some() {
            return None;
        }
        self.front.poll()
    }
}

/// Ends when everything called has been done, or was waited for in vain before.
impl Drop for DiskJournal {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.call_the_last();
        let log = Arc::clone(&self.front.workers().log);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
            // The log's thread comes first. If it panicked, the other would wait for its work for ever.
            log.turns.lock().unwrap_or_else(PoisonError::into_inner).side = None;
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

impl Log {
    fn queue(&self) -> MutexGuard<'_, VecDeque<ToLog>> {
        // Whoever panicked has left a queue of whole jobs.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().expect("a worker that panicked is not used any more")
    }
}

impl Turns {
    /// Does everything that is in the queue. Everything that waits goes into one write. False when
    /// nothing more will be called.
    fn take(&mut self, log: &Log) -> bool {
        let jobs = std::mem::take(&mut *log.queue());
        let mut goes_on = true;
        for job in jobs {
            self.rests = false;
            match job {
                ToLog::Call(ticket, job) => self.worker.take(ticket, job),
                ToLog::FromSide(job) => self.worker.take_from_side(job),
                ToLog::Stop => {
                    self.side = None;
                    goes_on = false;
                }
            }
        }
        let (mut said, mut wanted) = (Vec::new(), Vec::new());
        let began = Instant::now();
        self.left = self.worker.work(&mut said);
        if !said.is_empty() {
            self.took = began.elapsed();
        }
        self.tell_obstacle();
        said.drain(..).for_each(|report| drop(self.reports.send(report)));
        self.worker.prepare(&mut wanted);
        self.worker.look_for_room(&mut said);
        said.drain(..).for_each(|report| drop(self.reports.send(report)));
        if let Some(side) = &self.side {
            wanted.drain(..).for_each(|job| drop(side.send(job)));
        }
        goes_on
    }

    /// Want of room is told by others.
    fn tell_obstacle(&mut self) {
        let obstacle = self.worker.engine().obstacle().filter(|_| self.left == Left::WaitsForRoom);
        let Some(obstacle) = obstacle else {
            self.told = None;
            return;
        };
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            warn!(
                "the journal cannot get at its directory: {obstacle}. Nothing is acknowledged until it can; \
                 it is tried again, and nothing is lost"
            );
            self.told = Some(Instant::now());
        }
    }

    fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            let mut said = Vec::new();
            self.worker.rest(&mut said);
            said.drain(..).for_each(|report| drop(self.reports.send(report)));
        }
    }
}

fn run_log(log: &Log, reports: &UnboundedSender<Report>) {
    let _witness = Witness(reports);
    let mut goes_on = true;
    while goes_on {
        let mut turns = log.turns();
        goes_on = turns.take(log);
        let wait = match turns.left {
            Left::Nothing if !turns.rests => REST_AFTER,
            Left::Nothing => LOOK_FOR_ROOM_EVERY,
            Left::WaitsForRoom => TRY_AGAIN_AFTER,
        };
        drop(turns);
        if !goes_on {
            break;
        }
        let queue = log.queue();
        let waited = log.called.wait_timeout_while(queue, wait, |queue| queue.is_empty());
        let has_rested = waited.is_ok_and(|(_queue, waited)| waited.timed_out());
        if has_rested {
            log.turns().rest();
        }
    }
    log.turns().rest();
}

fn run_side(
    mut worker: SideWorker<Files>,
    jobs: &Receiver<SideJob>,
    log: &Log,
    reports: &UnboundedSender<Report>,
) {
    let _witness = Witness(reports);
    let (mut said, mut done) = (Vec::new(), Vec::new());
    while let Ok(job) = jobs.recv() {
        worker.take(job);
        loop {
            // What is called meanwhile may make needless what waits.
            jobs.try_iter().for_each(|job| worker.take(job));
            let more = worker.work(&mut said, &mut done);
            said.drain(..).for_each(|report| drop(reports.send(report)));
            if !done.is_empty() {
                log.queue().extend(done.drain(..).map(ToLog::FromSide));
                log.called.notify_one();
            }
            if !more {
                break;
            }
        }
    }
}
