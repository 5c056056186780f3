//! One call from its first attempt to its end. The loop only carries out what `route`, `attempts`
//! and `backoff` decide; it is the same for reads, writes and sessions.
//!
//! Every attempt races against the deadline of the call and against the news of another primary:
//! a server that is stopped, or cut off from its backups, holds nobody.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kvproto::{
    Command, LogPoint, NotDone, Outcome, Refusal, Reply, ServerName, SessionId, Settings,
};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::attempts::{Answer, AttemptEnd, Attempts, Repeat, Step};
use crate::backoff::{Backoff, DELAY_MAX, RetryBudget, jittered};
use crate::error::{Error, ErrorKind, Result};
use crate::route::{REFRESH_INTERVAL, Route};
use crate::servers::{Servers, kv_server};
use crate::views::{NewestView, Views};
use crate::window::{Slot, Window};
use crate::wire::{self, Operation};

/// Redirections followed without a pause before the ordinary back-off applies.
const HOPS_MAX: u32 = 3;

/// An attempt that takes longer than this makes the client ask the view service who is primary.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// What all clones of a client share.
pub(crate) struct Shared {
    pub(crate) views: Arc<Views>,
    pub(crate) servers: Servers,
    // Std mutexes: each is held for a few instructions and never across an await.
    route: Mutex<Route>,
    newest: Mutex<LogPoint>,
    budget: Mutex<RetryBudget>,
    session: Mutex<Option<Arc<Window>>>,
    /// Held while a session is being opened, so that one is opened for all that wait.
    opening: tokio::sync::Mutex<()>,
    /// Ends the background tasks with the last clone.
    _tasks: DropGuard,
}

impl Shared {
    pub(crate) fn start(view_servers: Vec<ServerName>) -> Arc<Self> {
        let token = CancellationToken::new();
        Arc::new(Self {
            views: Views::start(view_servers, &token),
            servers: Servers::default(),
            route: Mutex::default(),
            newest: Mutex::default(),
            budget: Mutex::default(),
            session: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            _tasks: token.drop_guard(),
        })
    }

    /// Makes one call.
    pub(crate) async fn call(
        self: &Arc<Self>,
        operation: Operation,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Answer> {
        let mut views = self.views.subscribe();
        let mut attempts = Attempts::new(repeat, *lock(&self.newest));
        let mut backoff = Backoff::default();
        let mut slot: Option<Slot> = None;
        let mut hops = 0;
        loop {
            if !attempts.worth_another(deadline.saturating_duration_since(Instant::now())) {
                return Err(attempts.out_of_time());
            }
            if repeat == Repeat::Named && slot.is_none() {
                slot = Some(self.slot(&mut attempts, deadline).await?);
            }
            let next = {
                let mut route = lock(&self.route);
                learn(&mut route, &mut views);
                route.next(kvprocess::clock::now())
            };
            if next.refresh {
                self.views.refresh();
            }
            if let Some(target) = &next.target {
                let end =
                    self.attempt(&operation, slot.as_ref(), target, &mut views, deadline).await;
                self.learn_from(target, &end);
                match attempts.judge(end) {
                    Step::Finish(answer, at) => {
                        let mut newest = lock(&self.newest);
                        *newest = at.max(*newest);
                        return Ok(answer);
                    }
                    Step::Retry => {}
                    Step::NewSession => {
                        if let Some(slot) = slot.take() {
                            self.retire(slot.window());
                        }
                    }
                    Step::Fail(error) => return Err(error),
                }
            }
            if next.target.is_some() && hops < HOPS_MAX && self.target_is_not(&next.target) {
                hops += 1;
                continue;
            }
            hops = 0;
            let pause = match next.target {
                // Nothing to ask: the next chance comes with a view, or with the next refresh.
                None => REFRESH_INTERVAL,
                Some(_) if lock(&self.budget).spend() => backoff.next_delay(rand::random()),
                Some(_) => jittered(DELAY_MAX, rand::random()),
            };
            let pause = (Instant::now() + pause).min(deadline);
            tokio::select! {
                () = sleep_until(pause) => {}
                () = self.another_primary(&next.target, &mut views) => {}
            }
        }
    }

    /// Takes a number in the session, opening one first if there is none.
    async fn slot(self: &Arc<Self>, attempts: &mut Attempts, deadline: Instant) -> Result<Slot> {
        let present = lock(&self.session).clone();
        let window = match present {
            Some(window) => window,
            None => self.open_session(deadline).await?,
        };
        timeout_at(deadline, window.take()).await.map_err(|_| {
            attempts.judge(AttemptEnd::NotSent(
                "earlier writes of this client still wait for their answers".into(),
            ));
            attempts.out_of_time()
        })
    }

    /// Opens the session of this client. Boxed, because a session is opened by a call.
    fn open_session(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Window>>> + Send + '_>> {
        Box::pin(async move {
            let Ok(_opening) = timeout_at(deadline, self.opening.lock()).await else {
                return Err(Attempts::new(Repeat::Harmless, LogPoint::default()).out_of_time());
            };
            let present = lock(&self.session).clone();
            if let Some(window) = present {
                return Ok(window);
            }
            let open = Operation::Command(Command::OpenSession);
            match self.call(open, Repeat::Harmless, deadline).await? {
                Answer::Outcome(Outcome::SessionOpened(id)) => {
                    let window = Window::new(id);
                    *lock(&self.session) = Some(Arc::clone(&window));
                    let keeper = keep_alive(Arc::downgrade(self), Arc::clone(&window));
                    let over = window.over().clone();
                    tokio::spawn(over.run_until_cancelled_owned(keeper));
                    debug!("Session {id} opened");
                    Ok(window)
                }
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Ends the session, if there is one: at the store too, as far as that works in time.
    pub(crate) async fn close_session(self: &Arc<Self>, deadline: Instant) -> Result<()> {
        let Some(window) = lock(&self.session).clone() else {
            return Ok(());
        };
        self.retire(&window);
        let close = Operation::Command(Command::CloseSession(window.id()));
        self.call(close, Repeat::Harmless, deadline).await?;
        Ok(())
    }

    /// No further call goes through this session.
    fn retire(&self, window: &Arc<Window>) {
        lock(&self.session).take_if(|current| Arc::ptr_eq(current, window));
        window.over().cancel();
    }

    /// Makes one attempt.
    async fn attempt(
        &self,
        operation: &Operation,
        slot: Option<&Slot>,
        target: &ServerName,
        views: &mut NewestView,
        deadline: Instant,
    ) -> AttemptEnd {
        let connecting = self.servers.connect(target);
        let channel = match self.race(connecting, target, views, deadline).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return AttemptEnd::NotSent(error),
            Err(why) => return AttemptEnd::NotSent(why),
        };
        let cluster = self.views.newest().map(|view| view.cluster);
        let id = slot.map(Slot::request_id);
        let mut request = tonic::Request::new(wire::request(operation, id, cluster));
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let mut server = kv_server(channel);
        match self.race(server.execute(request), target, views, deadline).await {
            Ok(answer) => wire::attempt_end(target, answer.map(tonic::Response::into_inner)),
            Err(why) => AttemptEnd::Lost(format!("{target}: {why}")),
        }
    }

    /// Waits for `work`, but no longer than the call may take or the target is the one to ask.
    async fn race<T>(
        &self,
        work: impl Future<Output = T>,
        target: &ServerName,
        views: &mut NewestView,
        deadline: Instant,
    ) -> Result<T, String> {
        let asked = Some(target.clone());
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.another_primary(&asked, views) => {
                Err("no answer before another server became primary".into())
            }
            () = sleep_until(deadline) => Err("no answer before the deadline".into()),
        }
    }

    /// Waits until the server to ask is another one than `asked`, and meanwhile has the view
    /// service asked now and then.
    async fn another_primary(&self, asked: &Option<ServerName>, views: &mut NewestView) {
        let mut slow_at = Instant::now() + SLOW_AFTER;
        while !self.target_is_not(asked) {
            tokio::select! {
                changed = views.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    learn(&mut lock(&self.route), views);
                }
                () = sleep_until(slow_at) => {
                    slow_at = Instant::now() + SLOW_AFTER;
                    let mut route = lock(&self.route);
                    if let Some(asked) = asked {
                        route.slow(asked);
                    }
                    if route.next(kvprocess::clock::now()).refresh {
                        self.views.refresh();
                    }
                }
            }
        }
    }

    fn target_is_not(&self, asked: &Option<ServerName>) -> bool {
        lock(&self.route).target() != asked.as_ref()
    }

    /// What the end of an attempt says of the server that was asked.
    fn learn_from(&self, target: &ServerName, end: &AttemptEnd) {
        let mut route = lock(&self.route);
        match end {
            AttemptEnd::Reply(Reply::NotDone(NotDone::NotPrimary { primary, view })) => {
                route.refused(target, primary.clone(), *view);
            }
            AttemptEnd::Reply(Reply::NotDone(NotDone::NotReady(_)) | Reply::Unknown)
            | AttemptEnd::NotSent(_) => route.doubt(target),
            AttemptEnd::Lost(_) => {
                route.doubt(target);
                self.servers.forget(target);
            }
            AttemptEnd::Reply(_) => {
                route.answered(target);
                lock(&self.budget).earn();
            }
        }
    }

    /// Settings of the cluster, once a view was heard.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.views.newest().map(|view| view.settings.clone())
    }
}

/// Keeps a session alive until it is over or the client is gone.
async fn keep_alive(shared: Weak<Shared>, window: Arc<Window>) {
    let settings = shared.upgrade().and_then(|shared| shared.settings());
    let mut lease = settings.unwrap_or_default().session_lease;
    loop {
        // Three chances per lease.
        let pause = (lease / 3).max(Duration::from_millis(10));
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match keep_alive_once(&shared, window.id(), Instant::now() + pause).await {
            Ok(Some(granted)) => lease = granted,
            Ok(None) => {
                warn!("Session {} has expired; the next write opens another", window.id());
                return shared.retire(&window);
            }
            Err(error) => debug!("Session {} not kept alive: {error}", window.id()),
        }
    }
}

/// Extends the lease; `None` when the session is gone.
async fn keep_alive_once(
    shared: &Arc<Shared>,
    session: SessionId,
    deadline: Instant,
) -> Result<Option<Duration>> {
    let operation = Operation::KeepAlive(session);
    match shared.call(operation, Repeat::Harmless, deadline).await? {
        Answer::KeptAlive(lease) => Ok(Some(lease)),
        Answer::Outcome(Outcome::Refused(Refusal::SessionExpired)) => Ok(None),
        other => Err(unexpected(&other)),
    }
}

/// An answer to another question than the one asked: a fault of the server.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        format!(
            "outcome unknown: the server answered another question than was asked ({answer:?}); \
             check that client and servers are of the same version"
        ),
    )
}

fn learn(route: &mut Route, views: &mut NewestView) {
    let newest = views.borrow_and_update().clone();
    if let Some(view) = newest {
        route.learn(&view);
    }
}

/// The guarded values stay whole even if a holder panics: they are written in single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
