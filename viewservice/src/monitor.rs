//! The one task that owns the state of the views. Requests come in through a bounded mailbox, views
//! go out through a watch channel, which shows slow readers the newest record rather than each.
//!
//! It decides nothing: what a request means is in [`assignment`](crate::assignment). Every change of
//! the state goes through [`Monitor::propose`], which is the place where a replicated log would
//! stand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvprocess::clock;
use kvprocess::dial::{self, Probe};
use kvproto::registration::{Progress, RefusedReason, ToServer, Wish};
use kvproto::{ClusterId, Member, ServerName, Settings, Timestamp, View, ViewNumber};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::assignment::law::{Applied, Command, Kind, Refusal, ViewState};
use crate::assignment::liveness::{Liveness, State};
use crate::assignment::plain::{self, Meaning};
use crate::assignment::planner::{self, Waiting};
use crate::assignment::requests::{self, Admission, Granted, Registration};

/// Every server pings twice a second and requests are answered in microseconds, so a full mailbox
/// means a flood; senders then wait.
const MAILBOX: usize = 1024;

const TICK: Duration = Duration::from_millis(50);

/// Time for one probe, and between two, of the address of a server whose stream broke.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// Changes of view that one event may lead to. One death leads to one; the bound is for a planner
/// that contradicts itself.
const CHANGES_PER_EVENT: usize = 8;

/// One registration stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Whose.
    pub member: Member,
    /// Which one; a life may need several, one after the other.
    number: u64,
}

/// A refused registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub reason: RefusedReason,
    /// What happened and what to do.
    pub message: String,
}

/// Everything that an operator wants to know.
#[derive(Clone, Debug)]
pub struct Report {
    /// The current record.
    pub view: Arc<View>,
    /// The registered servers, by name.
    pub servers: Vec<ServerReport>,
    /// For whom the cluster waits.
    pub waiting: Option<Waiting>,
}

/// One server.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// Its present life.
    pub member: Member,
    /// How it seems to be.
    pub state: State,
    /// What it said last.
    pub progress: Option<Progress>,
    /// Age of the last sign of life, if it was ever heard.
    pub unheard_for: Option<Duration>,
    /// Whether it is driven by plain pings.
    pub plain: bool,
}

enum Request {
    Ping {
        server: ServerName,
        number: ViewNumber,
        answer: oneshot::Sender<Arc<View>>,
    },
    Register {
        registration: Registration,
        tell: mpsc::Sender<ToServer>,
        answer: oneshot::Sender<Result<(Stream, Arc<View>), Refused>>,
    },
    Progress(Stream, Progress),
    Wish(Stream, Wish),
    Broken(Stream),
    /// The address of the server refuses connections.
    Gone(Stream),
    Report(oneshot::Sender<Report>),
    Force {
        server: ServerName,
        answer: oneshot::Sender<Result<Arc<View>, String>>,
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
    let liveness = Liveness::new(&settings, [], now);
    let state = ViewState::new(cluster, settings);
    let (views, seen) = watch::channel(Arc::new(state.view().clone()));
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let monitor = Monitor {
        state,
        liveness,
        views,
        attending: BTreeMap::new(),
        probing: BTreeMap::new(),
        streams: 0,
        mailbox: mailbox.clone(),
        waiting: None,
        mixing_reported: false,
    };
    Running {
        handle: Handle { mailbox, views: seen },
        task: tokio::spawn(monitor.run(requests, token)),
    }
}

struct Attendance {
    stream: Stream,
    tell: mpsc::Sender<ToServer>,
}

struct Monitor {
    state: ViewState,
    liveness: Liveness,
    views: watch::Sender<Arc<View>>,
    /// The open stream of each server that has one.
    attending: BTreeMap<ServerName, Attendance>,
    probing: BTreeMap<ServerName, AbortHandle>,
    /// Streams opened so far.
    streams: u64,
    mailbox: mpsc::Sender<Request>,
    /// As it was last reported.
    waiting: Option<Waiting>,
    mixing_reported: bool,
}

impl Monitor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, token: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                _ = ticks.tick() => self.settle(clock::now()),
                Some(request) = requests.recv() => self.handle(request, clock::now()),
            }
        }
        self.probing.values().for_each(AbortHandle::abort);
    }

    fn handle(&mut self, request: Request, now: Timestamp) {
        match request {
            Request::Ping { server, number, answer } => {
                self.ping(&server, number, now);
                self.settle(now);
                let _caller_gone = answer.send(self.view());
            }
            Request::Register { registration, tell, answer } => {
                let admitted = self.register(&registration, tell, now);
                self.settle(now);
                let answered = admitted.map(|stream| (stream, self.view()));
                if let Err(Ok((stream, _))) = answer.send(answered) {
                    self.broken(&stream);
                }
            }
            Request::Progress(stream, progress) if self.is_open(&stream) => {
                self.progress(&stream.member, progress, now);
                self.settle(now);
            }
            Request::Wish(stream, wish) if self.is_open(&stream) => {
                self.wish(&stream.member, wish, now);
                self.settle(now);
            }
            // From a stream that was replaced.
            Request::Progress(..) | Request::Wish(..) => {}
            Request::Broken(stream) => self.broken(&stream),
            Request::Gone(stream) => {
                let back = self.attending.contains_key(&stream.member.name);
                if !back && self.state.is_present(&stream.member) {
                    self.liveness.refused(&stream.member, now);
                    info!("Server {} declared dead: its address refuses", stream.member);
                    self.settle(now);
                }
            }
            Request::Report(answer) => {
                let _caller_gone = answer.send(self.report(now));
            }
            Request::Force { server, answer } => {
                let forced = self.force(&server, now);
                let _caller_gone = answer.send(forced.map(|()| self.view()));
            }
        }
    }

    fn ping(&mut self, server: &ServerName, number: ViewNumber, now: Timestamp) {
        match plain::ping(&self.state, server, number) {
            Meaning::Inert => self.report_mixing(format_args!(
                "a plain ping for {server}: the cluster is made of full servers, so plain pings \
                 are answered and change nothing"
            )),
            Meaning::Begins { former, command } => {
                if let Some(former) = former {
                    info!("{former} restarted empty");
                    self.liveness.ended(&former, now);
                }
                if let Ok(Applied::Registered(member)) = self.propose(command) {
                    self.liveness.observe(&member, None, now);
                }
            }
            Meaning::Lives { member, commands } => {
                self.liveness.observe(&member, None, now);
                for command in commands {
                    let _logged = self.propose(command);
                }
            }
        }
    }

    fn register(
        &mut self,
        registration: &Registration,
        tell: mpsc::Sender<ToServer>,
        now: Timestamp,
    ) -> Result<Stream, Refused> {
        self.liveness.tick(now);
        let member = match requests::register(&self.state, &self.liveness, registration) {
            Admission::Resumes(member) => member,
            Admission::Refused(reason, message) => {
                if reason == RefusedReason::WrongKind {
                    self.report_mixing(format_args!("{message}"));
                }
                return Err(Refused { reason, message });
            }
            Admission::Begins { former, command } => {
                let member = match self.propose(command) {
                    Ok(Applied::Registered(member)) => member,
                    Ok(_) => unreachable!("a registration that was applied names the member"),
                    Err(refusal) => {
                        return Err(Refused {
                            reason: RefusedReason::Incompatible,
                            message: format!("{}: {refusal}", registration.name),
                        });
                    }
                };
                if let Some(former) = former {
                    self.end(&former, now);
                }
                info!("Server {member} registered");
                member
            }
        };
        self.liveness.attend(&member, now);
        self.streams += 1;
        let stream = Stream { member, number: self.streams };
        let name = stream.member.name.clone();
        if let Some(probe) = self.probing.remove(&name) {
            probe.abort();
        }
        let attendance = Attendance { stream: stream.clone(), tell };
        // Dropping the older attendance, if any, ends its stream.
        self.attending.insert(name, attendance);
        Ok(stream)
    }

    /// A life is over because a newer one is registered.
    fn end(&mut self, former: &Member, now: Timestamp) {
        self.liveness.ended(former, now);
        if let Some(attendance) = self.attending.remove(&former.name) {
            let _full_or_gone = attendance.tell.try_send(ToServer::Refused {
                reason: RefusedReason::StaleIncarnation,
                message: format!(
                    "{former} was silent, and a newer process stands under this name: stop this one"
                ),
            });
        }
    }

    fn progress(&mut self, member: &Member, progress: Progress, now: Timestamp) {
        self.liveness.observe(member, Some(progress), now);
        let view = self.state.view();
        if view.is_primary(member)
            && view.is_activated()
            && progress.committed > self.state.committed_heard()
        {
            let _logged = self.propose(Command::Heard {
                by: member.clone(),
                view: self.state.view_id(),
                committed: progress.committed,
            });
        }
    }

    fn wish(&mut self, member: &Member, wish: Wish, now: Timestamp) {
        if let Wish::Evict { server, reason, .. } = &wish {
            info!("{member} asks for a view without {server}: {reason:?}");
        }
        match requests::wish(&self.state, &self.liveness, member, wish, now) {
            Granted::Propose(command) => {
                let _logged = self.propose(command);
            }
            Granted::Evict(command, backup) => {
                if self.propose(command).is_ok() {
                    self.liveness.evicted(&backup, now);
                }
            }
            Granted::Leaving => {
                info!("Server {member} wants to stop");
                self.liveness.leaving(member);
            }
            Granted::NobodyToTakeOver => {
                warn!("{member} wants to stop, but nobody could take over from it");
                if let Some(attendance) = self.attending.get(&member.name) {
                    let _full_or_gone = attendance.tell.try_send(ToServer::NobodyToTakeOver);
                }
            }
            Granted::Nothing => {}
        }
    }

    /// A suspicion, which becomes death when the address of the server refuses a connection.
    fn broken(&mut self, stream: &Stream) {
        if !self.is_open(stream) {
            return;
        }
        let member = &stream.member;
        self.attending.remove(&member.name);
        self.liveness.suspect(member);
        info!("the stream of server {member} broke: asking whether it lives");
        let probe = tokio::spawn(probe(
            stream.clone(),
            self.state.view().settings.dead_after,
            self.mailbox.clone(),
        ));
        let replaced = self.probing.insert(member.name.clone(), probe.abort_handle());
        if let Some(older) = replaced {
            older.abort();
        }
    }

    fn force(&mut self, server: &ServerName, now: Timestamp) -> Result<(), String> {
        self.liveness.tick(now);
        let command = requests::force(&self.state, &self.liveness, server, now)?;
        let (lost, heard) = (self.view(), self.state.committed_heard());
        self.propose(command).map_err(|refusal| refusal.to_string())?;
        warn!(
            "the operator starts generation {} from {server}'s copy; what only {:?} held is given \
             up, the highest committed op heard of was {heard}",
            self.state.view().generation,
            lost.eligible
        );
        self.settle(now);
        Ok(())
    }

    fn report(&self, now: Timestamp) -> Report {
        let server = |member: Member| ServerReport {
            state: self.liveness.state(&member),
            progress: self.liveness.progress(&member),
            unheard_for: self.liveness.unheard_for(&member, now),
            plain: self.state.kind() == Some(Kind::Plain),
            member,
        };
        Report {
            view: self.view(),
            servers: self.state.servers().map(server).collect(),
            waiting: planner::waiting(&self.state, &self.liveness),
        }
    }

    /// Lets time pass, and does what the planner wants.
    fn settle(&mut self, now: Timestamp) {
        for (member, death) in self.liveness.tick(now) {
            info!("Server {member} declared dead: {death:?}");
        }
        for _ in 0..CHANGES_PER_EVENT {
            let Some(command) = planner::next(&self.state, &self.liveness, now) else {
                break;
            };
            if let Command::Forget { server } = &command {
                self.liveness.forget(server);
            }
            if self.propose(command).is_err() {
                break;
            }
        }
        self.report_waiting();
    }

    /// The one place where the state changes.
    fn propose(&mut self, command: Command) -> Result<Applied, Refusal> {
        let before = self.view();
        let applied = self.state.apply(command.clone());
        match &applied {
            Ok(_) => self.publish(&before),
            Err(refusal) => debug!("refused {command:?}: {refusal}"),
        }
        applied
    }

    fn publish(&mut self, before: &View) {
        let view = self.state.view();
        if view.revision == before.revision {
            return;
        }
        if view.number != before.number {
            announce(before, view);
        } else if view.is_activated() && !before.is_activated() {
            let primary = view.primary_name().map_or("", ServerName::as_str);
            info!("View {} activated by {primary}", view.number);
        }
        for member in view.eligible.difference(&before.eligible) {
            info!("{member} holds every committed op");
        }
        self.views.send_replace(Arc::new(view.clone()));
    }

    fn report_waiting(&mut self) {
        let waiting = planner::waiting(&self.state, &self.liveness);
        if waiting == self.waiting {
            return;
        }
        match &waiting {
            Some(waiting) if self.state.ever_activated() => {
                warn!("waiting for {:?}: {}", waiting.for_servers, waiting.advice);
            }
            Some(_) => {}
            None if self.waiting.is_some() && self.state.ever_activated() => {
                info!("no longer waiting");
            }
            None => {}
        }
        self.waiting = waiting;
    }

    fn report_mixing(&mut self, what: std::fmt::Arguments<'_>) {
        if !std::mem::replace(&mut self.mixing_reported, true) {
            warn!("{what} (said once)");
        }
    }

    fn is_open(&self, stream: &Stream) -> bool {
        let open = self.attending.get(&stream.member.name);
        open.is_some_and(|open| open.stream == *stream)
    }

    fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }
}

fn announce(before: &View, view: &View) {
    if let Some(primary) = view.primary.as_ref().filter(|new| !before.is_primary(new)) {
        if before.backups.contains(primary) {
            info!("Promoting backup {} to primary", primary.name);
        } else {
            info!("Assigning {} as new primary", primary.name);
        }
    }
    let backups: Vec<_> = view.backups.iter().map(|backup| backup.name.as_str()).collect();
    info!(
        "View changed: ViewNumber={}, Primary={}, Backup={}",
        view.number,
        view.primary_name().map_or("", ServerName::as_str),
        backups.join(",")
    );
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
