//! The one task that owns the [`Leader`]. Requests come in through a bounded mailbox, views go out
//! through a watch channel, which shows slow readers the newest record rather than each.
//!
//! It decides nothing: it turns requests into events, and performs effects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvprocess::clock;
use kvprocess::dial::{self, Probe};
use kvproto::registration::{Progress, RefusedReason, ToServer, Wish};
use kvproto::{ClusterId, ServerName, Settings, Timestamp, View, ViewNumber};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::assignment::law::ViewState;
use crate::assignment::leader::{Effect, Event, Leader, Report, Stream};
use crate::assignment::notice::{Level, Notice};
use crate::assignment::requests::Registration;

/// Every server pings twice a second and requests are answered in microseconds, so a full mailbox
/// means a flood; senders then wait.
const MAILBOX: usize = 1024;

const TICK: Duration = Duration::from_millis(50);

/// Time for one probe, and between two, of the address of a server whose stream broke.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

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
    views: watch::Receiver<Arc<View>>,
}

/// The monitor has stopped, because the process is about to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the view service is stopping")]
pub struct Stopping;

impl Handle {
    /// The current record.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The current record and every later one.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
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
    /// Ends when the token is cancelled; any other end is an error of ours.
    pub task: JoinHandle<()>,
}

/// Starts the monitor of a new cluster. Must be called within a tokio runtime.
#[must_use]
pub fn start(
    cluster: ClusterId,
    settings: Settings,
    now: Timestamp,
    token: CancellationToken,
) -> Running {
    let leader = Leader::new(ViewState::new(cluster, settings), now);
    let (views, seen) = watch::channel(Arc::new(leader.view().clone()));
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let monitor = Monitor {
        leader,
        views,
        attending: BTreeMap::new(),
        probing: BTreeMap::new(),
        streams: 0,
        asking: Asking::Nobody,
        mailbox: mailbox.clone(),
    };
    Running {
        handle: Handle { mailbox, views: seen },
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
    views: watch::Sender<Arc<View>>,
    /// How to reach the server on each open stream, by the number of the stream.
    attending: BTreeMap<u64, mpsc::Sender<ToServer>>,
    probing: BTreeMap<ServerName, AbortHandle>,
    /// Streams asked for so far.
    streams: u64,
    asking: Asking,
    mailbox: mpsc::Sender<Request>,
}

impl Monitor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, token: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                _ = ticks.tick() => self.step(Event::Tick),
                Some(request) = requests.recv() => self.handle(request),
            }
        }
        self.probing.values().for_each(AbortHandle::abort);
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Ping { server, number, answer } => {
                self.step(Event::PlainPing { server, number });
                let _caller_gone = answer.send(self.view());
            }
            Request::Register { registration, tell, answer } => {
                self.streams += 1;
                self.asking = Asking::Server { tell, answer };
                self.step(Event::Register { stream: self.streams, registration });
            }
            Request::Progress(stream, progress) => self.step(Event::Ping(stream, progress)),
            Request::Wish(stream, wish) => self.step(Event::Wish(stream, wish)),
            Request::Broken(stream) => self.broken(stream),
            Request::Gone(stream) => self.step(Event::Gone(stream)),
            Request::Report(answer) => {
                let _caller_gone = answer.send(self.leader.report(clock::now()));
            }
            Request::Force { server, answer } => {
                self.asking = Asking::Operator(answer);
                self.step(Event::Force { server });
            }
        }
    }

    fn broken(&mut self, stream: Stream) {
        self.attending.remove(&stream.number);
        self.step(Event::Broken(stream));
    }

    fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.leader.step(clock::now(), event, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(view) => drop(self.views.send_replace(Arc::new(*view))),
            Effect::Admitted(stream, view) => self.admitted(stream, *view),
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
            Effect::Forced(verdict) => {
                if let Asking::Operator(answer) = self.take_asking() {
                    let _caller_gone = answer.send(verdict.map(|view| Arc::new(*view)));
                }
            }
            Effect::Notice(notice) => log(&notice),
        }
    }

    fn admitted(&mut self, stream: Stream, view: View) {
        self.stop_probing(&stream.member.name);
        if let Asking::Server { tell, answer } = self.take_asking() {
            self.attending.insert(stream.number, tell);
            if answer.send(Ok((stream.clone(), Arc::new(view)))).is_err() {
                self.broken(stream);
            }
        }
    }

    fn stop_probing(&mut self, name: &ServerName) {
        if let Some(probe) = self.probing.remove(name) {
            probe.abort();
        }
    }

    fn take_asking(&mut self) -> Asking {
        std::mem::replace(&mut self.asking, Asking::Nobody)
    }

    fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
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
