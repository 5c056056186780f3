//! Does what `caller` says: makes attempts, waits, and hands every call its end. Decides nothing.
//!
//! Each call is driven by the task that made it, and those that the core began itself by a task in
//! the background. A decision about the call of another task goes to its inbox.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvproto::{Outcome, Refusal, ServerName, Settings, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::attempts::{Answer, AttemptEnd, Repeat};
use crate::caller::{Attempt, CallId, Caller, Effect, Operation};
use crate::error::Result;
use crate::servers::{Servers, kv_server};
use crate::views::{NewestView, Views};
use crate::wire;

/// What all clones of a client, and its background tasks, share.
pub(crate) struct Shared {
    pub(crate) views: Arc<Views>,
    pub(crate) servers: Servers,
    // A std mutex: it is held for one decision and never across an await.
    desk: Mutex<Desk>,
    runtime: Handle,
    token: CancellationToken,
}

/// The core, and what it decided but nobody has done yet.
#[derive(Default)]
struct Desk {
    caller: Caller,
    /// Empty but within a decision.
    effects: Vec<Effect>,
    inboxes: BTreeMap<CallId, Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// Of the effects of one call only the latest counts.
    latest: Option<Effect>,
    news: Arc<Notify>,
}

/// What a call does next: this, or else wait for news so long.
struct Turn {
    call: CallId,
    effect: Option<Effect>,
    wait: Duration,
    news: Arc<Notify>,
}

impl Shared {
    /// Starts to listen to the view service; everything in the background ends with `token`.
    pub(crate) fn start(view_servers: Vec<ServerName>, token: &CancellationToken) -> Arc<Self> {
        let shared = Arc::new(Self {
            views: Views::start(view_servers, token),
            servers: Servers::default(),
            desk: Mutex::default(),
            runtime: Handle::current(),
            token: token.clone(),
        });
        shared.spawn(shared.clone().follow(shared.views.subscribe()));
        shared
    }

    /// Makes one call.
    pub(crate) async fn call(
        self: &Arc<Self>,
        operation: Operation,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Answer> {
        let begun = self.decide(|caller, now, effects| {
            Some(caller.begin(now, operation, repeat, now + timeout, effects))
        });
        Driver::new(self, begun.expect("a call that has begun has a turn")).drive().await
    }

    /// Ends the session, if there is one: at the store too, as far as that works in time.
    pub(crate) async fn close_session(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let begun = self.decide(|caller, now, effects| caller.close(now, now + timeout, effects));
        if let Some(turn) = begun {
            Driver::new(self, turn).drive().await?;
        }
        Ok(())
    }

    /// Settings of the cluster, once a view was heard.
    pub(crate) fn settings(&self) -> Option<Settings> {
        self.views.newest().map(|view| view.settings.clone())
    }

    /// Has the core decide, passes on what it decided, and says what the call does next that
    /// `decide` names.
    fn decide(
        self: &Arc<Self>,
        decide: impl FnOnce(&mut Caller, Timestamp, &mut Vec<Effect>) -> Option<CallId>,
    ) -> Option<Turn> {
        let now = kvprocess::clock::now();
        let mut begun = Vec::new();
        let turn = {
            let mut desk = self.desk();
            let own = {
                let Desk { caller, effects, .. } = &mut *desk;
                decide(caller, now, effects)
            };
            desk.pass_on(own, &self.views, &mut begun);
            own.map(|call| desk.turn(call, now))
        };
        for call in begun {
            self.spawn(Arc::clone(self).drive(call));
        }
        turn
    }

    /// Drives a call that the core began itself.
    async fn drive(self: Arc<Self>, call: CallId) {
        let turn = self.decide(|_, _, _| Some(call));
        let turn = turn.expect("a call that was named has a turn");
        report(Driver::new(&self, turn).drive().await);
    }

    /// Tells the core of every view.
    async fn follow(self: Arc<Self>, mut views: NewestView) {
        views.mark_changed();
        while views.changed().await.is_ok() {
            let newest = views.borrow_and_update().clone();
            if let Some(view) = newest {
                self.decide(|caller, now, effects| {
                    caller.learn(now, &view, effects);
                    None
                });
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(self.token.clone().run_until_cancelled_owned(task));
    }

    /// The core stays whole even if a holder panics elsewhere.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn pass_on(&mut self, own: Option<CallId>, views: &Views, begun: &mut Vec<CallId>) {
        for effect in self.effects.drain(..) {
            let call = match &effect {
                Effect::AskViewService => {
                    views.refresh();
                    continue;
                }
                Effect::Run(call) => {
                    begun.push(*call);
                    continue;
                }
                Effect::Attempt(attempt) => attempt.call,
                Effect::Abandon { call, .. } | Effect::Finish { call, .. } => *call,
            };
            let inbox = self.inboxes.entry(call).or_default();
            inbox.latest = Some(effect);
            if own != Some(call) {
                inbox.news.notify_one();
            }
        }
    }

    fn turn(&mut self, call: CallId, now: Timestamp) -> Turn {
        let inbox = self.inboxes.entry(call).or_default();
        let (effect, news) = (inbox.latest.take(), Arc::clone(&inbox.news));
        if matches!(effect, Some(Effect::Finish { .. })) {
            self.inboxes.remove(&call);
        }
        // Woken too early, a call only asks again.
        let wait = self.caller.wakes_at(call).map_or(Duration::ZERO, |at| at.since(now));
        Turn { call, effect, wait, news }
    }
}

/// Drives one call. Dropping it cancels the call.
struct Driver<'a> {
    shared: &'a Arc<Shared>,
    turn: Turn,
    finished: bool,
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Arc<Shared>, turn: Turn) -> Self {
        Self { shared, turn, finished: false }
    }

    async fn drive(mut self) -> Result<Answer> {
        loop {
            match self.turn.effect.take() {
                Some(Effect::Finish { result, .. }) => {
                    self.finished = true;
                    return result;
                }
                Some(Effect::Attempt(attempt)) => {
                    let number = attempt.number;
                    let end = self.attempt(attempt).await;
                    self.ended(number, end);
                }
                // Given up before it began.
                Some(Effect::Abandon { number, why, .. }) => {
                    self.ended(number, AttemptEnd::NotSent(why.into()));
                }
                Some(Effect::Run(_) | Effect::AskViewService) | None => self.wait().await,
            }
        }
    }

    /// Makes one attempt.
    async fn attempt(&mut self, attempt: Attempt) -> AttemptEnd {
        let shared = self.shared;
        let target = attempt.target.clone();
        let channel = match self.race(shared.servers.connect(&target)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return AttemptEnd::NotSent(error),
            Err(why) => return AttemptEnd::NotSent(why.into()),
        };
        let deadline = attempt.deadline.since(kvprocess::clock::now());
        let mut request = tonic::Request::new(wire::request(attempt));
        request.set_timeout(deadline);
        let mut server = kv_server(channel);
        let end = match self.race(server.execute(request)).await {
            Ok(answer) => wire::attempt_end(&target, answer.map(tonic::Response::into_inner)),
            Err(why) => AttemptEnd::Lost(format!("{target}: {why}")),
        };
        if matches!(end, AttemptEnd::Lost(_)) {
            shared.servers.forget(&target);
        }
        end
    }

    /// Waits for `work`, unless the attempt is abandoned.
    async fn race<T>(&mut self, work: impl Future<Output = T>) -> Result<T, &'static str> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.wait() => {}
            }
            match self.turn.effect.take() {
                None => {}
                Some(Effect::Abandon { why, .. }) => return Err(why),
                Some(other) => unreachable!("an attempt under way is at most abandoned: {other:?}"),
            }
        }
    }

    /// Waits until the call has news, or the core wants it woken.
    async fn wait(&mut self) {
        let call = self.turn.call;
        tokio::select! {
            () = self.turn.news.notified() => self.decide(|_, _, _| {}),
            () = sleep(self.turn.wait) => {
                self.decide(|caller, now, effects| caller.woken(now, call, effects));
            }
        }
    }

    fn ended(&mut self, number: u32, end: AttemptEnd) {
        let attempt = (self.turn.call, number);
        self.decide(|caller, now, effects| {
            caller.ended(now, attempt, end, rand::random(), effects);
        });
    }

    fn decide(&mut self, decide: impl FnOnce(&mut Caller, Timestamp, &mut Vec<Effect>)) {
        let call = self.turn.call;
        let turn = self.shared.decide(|caller, now, effects| {
            decide(caller, now, effects);
            Some(call)
        });
        self.turn = turn.expect("a call that was named has a turn");
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let call = self.turn.call;
        self.shared.decide(|caller, now, effects| {
            caller.cancel(now, call, effects);
            None
        });
        self.shared.desk().inboxes.remove(&call);
    }
}

/// How a call has ended that the core began itself.
fn report(result: Result<Answer>) {
    match result {
        Ok(Answer::Outcome(Outcome::SessionOpened(session))) => debug!("Session {session} opened"),
        Ok(Answer::Outcome(Outcome::Refused(Refusal::SessionExpired))) => {
            warn!("The session has expired; the next write opens another");
        }
        Ok(answer) => debug!("Answered: {answer:?}"),
        Err(error) => debug!("Session not opened, or not kept: {error}"),
    }
}
