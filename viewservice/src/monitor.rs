//! The one task that owns the [`Leader`]. Requests come in through a bounded mailbox, views go out
//! through watch channels, which show slow readers the newest record rather than each: one for the
//! servers, who get the records of this view service and no others, one for the rest of the world.
//!
//! It decides nothing: it turns requests into events, hands what must be kept to the [`ViewLog`], and
//! performs the other effects of a step when that is done. When the log fails the monitor ends, and
//! what was not kept has no effect.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kvprocess::clock;
use kvprocess::dial::{self, Probe};
use kvprocess::meeting;
use kvproto::registration::{
    NotMet, Process, Progress, RefusedReason, Registration, ToServer, Wish,
};
use kvproto::{ServerName, Timestamp, View, ViewNumber};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::assignment::law::{Command, ViewState};
use crate::assignment::leader::{Effect, Event, Leader, Report, Stream};
use crate::assignment::notice::{Level, Notice};
use crate::raft::{Change, Leading, LogFailed, ViewLog};

/// Every server pings twice a second and requests are answered in microseconds, so a full mailbox
/// means a flood; senders then wait.
const MAILBOX: usize = 1024;

const TICK: Duration = Duration::from_millis(50);

/// Time for one probe, and between two, of the address of a server whose stream broke.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// At the end the disk has this long to do what it was given. What waits for that longer was told to
/// nobody.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// A refused registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
    /// What happened and what to do.
    pub message: String,
}

/// Answers a registration.
type Admission = oneshot::Sender<Result<(Stream, Arc<View>), Refused>>;

/// Answers an operator.
type Verdict = oneshot::Sender<Result<Arc<View>, String>>;

enum Request {
    Ping {
        server: ServerName,
        number: ViewNumber,
        answer: oneshot::Sender<Arc<View>>,
    },
    Register {
        registration: Registration,
        tell: mpsc::Sender<ToServer>,
        answer: Admission,
    },
    Progress(Stream, Progress),
    Wish(Stream, Wish),
    Broken(Stream),
    /// The address of the server refuses connections.
    Gone(Stream),
    /// What became of an attempt to meet a process.
    Meeting(Process, Result<(), NotMet>),
    /// The server on this stream met a process.
    MetBy(Stream, Process),
    Report(oneshot::Sender<Report>),
    Force {
        server: ServerName,
        answer: Verdict,
    },
}

/// How the rest of the process talks to the monitor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Request>,
    records: watch::Receiver<Arc<View>>,
    public: watch::Receiver<Arc<View>>,
}

/// The monitor has stopped, because the process is about to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the view service is stopping")]
pub struct Stopping;

impl Handle {
    /// What the world is shown.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.public.borrow().clone()
    }

    /// What the world is shown, now and later.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.public.clone()
    }

    /// For servers that attend: the current record and every later one.
    #[must_use]
    pub fn records(&self) -> watch::Receiver<Arc<View>> {
        self.records.clone()
    }

    /// A ping of the lab.
    ///
    /// # Errors
    /// [`Stopping`], as with all calls of the handle.
    pub async fn ping(
        &self,
        server: ServerName,
        number: ViewNumber,
    ) -> Result<Arc<View>, Stopping> {
        self.ask(|answer| Request::Ping { server, number, answer }).await
    }

    /// A full server wants to attend; `tell` reaches it while it does.
    ///
    /// # Errors
    /// The inner error says why it must not.
    pub async fn register(
        &self,
        registration: Registration,
        tell: mpsc::Sender<ToServer>,
    ) -> Result<Result<(Stream, Arc<View>), Refused>, Stopping> {
        self.ask(|answer| Request::Register { registration, tell, answer }).await
    }

    /// A sign of life on a stream.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn progress(&self, stream: &Stream, progress: Progress) -> Result<(), Stopping> {
        self.send(Request::Progress(stream.clone(), progress)).await
    }

    /// A wish on a stream. What comes of it is seen in the views.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn wish(&self, stream: &Stream, wish: Wish) -> Result<(), Stopping> {
        self.send(Request::Wish(stream.clone(), wish)).await
    }

    /// The server on this stream met this process at its address.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn met_by(&self, stream: &Stream, process: Process) -> Result<(), Stopping> {
        self.send(Request::MetBy(stream.clone(), process)).await
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn broken(&self, stream: Stream) -> Result<(), Stopping> {
        self.send(Request::Broken(stream)).await
    }

    /// Everything that an operator wants to know.
    ///
    /// # Errors
    /// [`Stopping`].
    pub async fn report(&self) -> Result<Report, Stopping> {
        self.ask(Request::Report).await
    }

    /// Starts a new generation from this server's data.
    ///
    /// # Errors
    /// The inner error says what the operator must do first.
    pub async fn force(&self, server: ServerName) -> Result<Result<Arc<View>, String>, Stopping> {
        self.ask(|answer| Request::Force { server, answer }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopping> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer)).await?;
        answered.await.map_err(|_| Stopping)
    }

    async fn send(&self, request: Request) -> Result<(), Stopping> {
        self.mailbox.send(request).await.map_err(|_| Stopping)
    }
}

/// A running monitor.
pub struct Running {
    /// How to talk to it.
    pub handle: Handle,
    /// Ends when the token is cancelled, and then the log is closed; or when the log fails.
    pub task: JoinHandle<Result<(), LogFailed>>,
}

/// Starts the monitor, which leads from this state, the last one in the log; with `new` it founds a
/// cluster at once if nobody ever came. Must be called within a tokio runtime.
#[must_use]
pub fn start(
    log: ViewLog,
    state: ViewState,
    new: bool,
    now: Timestamp,
    token: CancellationToken,
) -> Running {
    let leader = Leader::new(state, now);
    let leader = if new { leader } else { leader.listening_first(now) };
    let (records, seen_by_servers) = watch::channel(Arc::new(leader.view().clone()));
    let (public, seen) = watch::channel(Arc::new(leader.public_view().clone()));
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let monitor = Monitor {
        leader,
        log,
        records,
        public,
        attending: BTreeMap::new(),
        probing: BTreeMap::new(),
        streams: 0,
        asking: Asking::Nobody,
        mailbox: mailbox.clone(),
    };
    Running {
        handle: Handle { mailbox, records: seen_by_servers, public: seen },
        task: tokio::spawn(monitor.run(requests, token)),
    }
}

/// Who waits for the answer to the event that is being stepped.
enum Asking {
    Nobody,
    Server { tell: mpsc::Sender<ToServer>, answer: Admission },
    Operator(Verdict),
}

struct Monitor {
    leader: Leader,
    log: ViewLog,
    records: watch::Sender<Arc<View>>,
    public: watch::Sender<Arc<View>>,
    /// How to reach the server on each open stream, by the number of the stream.
    attending: BTreeMap<u64, mpsc::Sender<ToServer>>,
    probing: BTreeMap<ServerName, AbortHandle>,
    /// Streams asked for so far.
    streams: u64,
    asking: Asking,
    mailbox: mpsc::Sender<Request>,
}

impl Monitor {
    /// May be cut short wherever it waits: a step whose commit was not awaited has had no effect, and
    /// whoever leads next goes on from what the log holds.
    async fn run(
        mut self,
        requests: mpsc::Receiver<Request>,
        token: CancellationToken,
    ) -> Result<(), LogFailed> {
        let served = token.run_until_cancelled(self.serve(requests)).await;
        self.probing.values().for_each(AbortHandle::abort);
        let closed = timeout(CLOSED_WITHIN, self.log.close()).await;
        served.unwrap_or(Ok(())).and(closed.map_err(|_| LogFailed::disk_hangs()))
    }

    async fn serve(&mut self, mut requests: mpsc::Receiver<Request>) -> Result<(), LogFailed> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading = self.log.watch_leader();
        loop {
            tokio::select! {
                _ = leading.changed() => return Err(no_longer(&leading.borrow())),
                _ = ticks.tick() => {
                    self.log.must_be_there()?;
                    self.step(Event::Tick).await?;
                }
                Some(request) = requests.recv() => self.handle(request).await?,
            }
        }
    }

    async fn handle(&mut self, request: Request) -> Result<(), LogFailed> {
        match request {
            Request::Ping { server, number, answer } => {
                self.step(Event::PlainPing { server, number }).await?;
                let _caller_gone = answer.send(self.public.borrow().clone());
            }
            Request::Register { registration, tell, answer } => {
                self.streams += 1;
                self.asking = Asking::Server { tell, answer };
                self.step(Event::Register { stream: self.streams, registration }).await?;
            }
            Request::Progress(stream, progress) => self.step(Event::Ping(stream, progress)).await?,
            Request::Wish(stream, wish) => self.step(Event::Wish(stream, wish)).await?,
            Request::Broken(stream) => {
                self.attending.remove(&stream.number);
                self.step(Event::Broken(stream)).await?;
            }
            Request::Gone(stream) => self.step(Event::Gone(stream)).await?,
            Request::Meeting(process, Ok(())) => self.step(Event::Met(process)).await?,
            Request::Meeting(process, Err(why)) => self.step(Event::NotMet(process, why)).await?,
            Request::MetBy(stream, process) => self.step(Event::MetBy(stream, process)).await?,
            Request::Report(answer) => {
                let _caller_gone = answer.send(self.leader.report(clock::now()));
            }
            Request::Force { server, answer } => {
                self.asking = Asking::Operator(answer);
                self.step(Event::Force { server }).await?;
            }
        }
        Ok(())
    }

    /// One event, and what follows from performing its effects.
    async fn step(&mut self, event: Event) -> Result<(), LogFailed> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            let commits = self.leader.step(clock::now(), event, &mut effects);
            self.commit(commits).await?;
            self.show();
            events.extend(effects.into_iter().filter_map(|effect| self.perform(effect)));
        }
        Ok(())
    }

    /// What the world is shown changes with the commits, before anybody is answered.
    fn show(&self) {
        let view = self.leader.public_view();
        self.public.send_if_modified(|shown| {
            let changed = **shown != *view;
            if changed {
                *shown = Arc::new(view.clone());
            }
            changed
        });
    }

    /// Returns when the commits of a step are durable.
    async fn commit(&mut self, commands: Vec<Command>) -> Result<(), LogFailed> {
        if commands.is_empty() {
            return Ok(());
        }
        let kept = self.log.propose(Change::Apply(commands)).await?;
        assert!(
            kept == *self.leader.state(),
            "the log and its leader disagree, which a deterministic law cannot: {kept:?} {:?}",
            self.leader.state()
        );
        Ok(())
    }

    /// What happens at once because of it, if anything.
    fn perform(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Publish(view) => drop(self.records.send_replace(Arc::new(*view))),
            Effect::Admitted(stream, view) => return self.admitted(stream, *view),
            Effect::Rejected { reason, message, .. } => {
                if let Asking::Server { answer, .. } = self.take_asking() {
                    let _caller_gone = answer.send(Err(Refused { reason, message }));
                }
            }
            Effect::Tell(stream, message) => {
                if let Some(tell) = self.attending.get(&stream.number) {
                    let _full_or_gone = tell.try_send(message);
                }
            }
            // Its task ends when it has sent what it was told.
            Effect::Close(stream) => drop(self.attending.remove(&stream.number)),
            Effect::Probe(stream, patience) => {
                let name = stream.member.name.clone();
                let probe = tokio::spawn(probe(stream, patience, self.mailbox.clone()));
                self.stop_probing(&name);
                self.probing.insert(name, probe.abort_handle());
            }
            Effect::Meet(process) => {
                let mailbox = self.mailbox.clone();
                // Ends by itself, soon: the next attempt waits for its answer.
                tokio::spawn(async move {
                    let met = meeting::meet(&process).await;
                    let _stopping = mailbox.send(Request::Meeting(process, met)).await;
                });
            }
            Effect::Forced(verdict) => {
                if let Asking::Operator(answer) = self.take_asking() {
                    let _caller_gone = answer.send(verdict.map(|view| Arc::new(*view)));
                }
            }
            Effect::Notice(notice) => log(&notice),
        }
        None
    }

    fn admitted(&mut self, stream: Stream, view: View) -> Option<Event> {
        self.stop_probing(&stream.member.name);
        if let Asking::Server { tell, answer } = self.take_asking() {
            if answer.send(Ok((stream.clone(), Arc::new(view)))).is_err() {
                return Some(Event::Broken(stream));
            }
            self.attending.insert(stream.number, tell);
        }
        None
    }

    fn stop_probing(&mut self, name: &ServerName) {
        if let Some(probe) = self.probing.remove(name) {
            probe.abort();
        }
    }

    fn take_asking(&mut self) -> Asking {
        std::mem::replace(&mut self.asking, Asking::Nobody)
    }
}

/// With one voter nobody else can lead, so this process cannot come to lead again.
fn no_longer(leading: &Leading) -> LogFailed {
    match leading {
        Leading::Failed(why) => why.clone(),
        Leading::No | Leading::Yes => LogFailed::new("this process does not lead it any more"),
    }
}

fn log(notice: &Notice) {
    match notice.level() {
        Level::Debug => debug!("{notice}"),
        Level::Info => info!("{notice}"),
        Level::Warn => warn!("{notice}"),
    }
}

/// Asks the address of a server whose stream broke until it refuses; after `patience` its silence
/// has decided.
async fn probe(stream: Stream, patience: Duration, mailbox: mpsc::Sender<Request>) {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if dial::probe(stream.member.name.as_str(), PROBE_TIMEOUT).await == Probe::Refused {
            let _stopping = mailbox.send(Request::Gone(stream)).await;
            return;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}
