//! The registration of this life of the server with the view service: pings and wishes go up, view
//! records come down. Shell: it decides nothing but when to try again.
//!
//! Pings take their progress from what the node last published and wait for nothing, so that a node
//! that is stuck shows as one that makes no progress, not as a dead one, and views are handed on by
//! a task of its own. What is lost here is repeated by others: wishes by the replica, views by the
//! view service when the stream is resumed.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use kvprocess::{dial, meeting};
use kvproto::pb::viewservice as pb;
use kvproto::pb::viewservice::registration_client::RegistrationClient;
use kvproto::registration::{
    FromServer, Held, PROTOCOL_LEVEL, Process, RefusedReason, Registration, ToServer, Wish,
};
use kvproto::{ClusterId, LifeId, Member, ServerName, View};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info, warn};

use crate::node::NodeHandle;
use crate::refusal::{Consequence, consequence};
use crate::replica::event::Event;

/// A view service that takes longer to answer is tried again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The longest pause while the name is in use: the view service answers, and the older process may
/// count as dead at any moment.
const NAME_PAUSE_MAX: Duration = Duration::from_millis(200);
/// While nothing changes people are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Pings and wishes that wait for the connection; when as many do, the connection has stopped.
const SENT_QUEUED_MAX: usize = 64;

/// Other servers that this one meets at once, at the view service's wish; of more it asks another.
const MEETINGS_MAX: usize = 8;

/// What a server found on its disk, and of which cluster.
type Claim = (Held, Option<ClusterId>);

/// What the heartbeat needs of its server.
pub struct Heartbeat {
    name: ServerName,
    life: LifeId,
    view_servers: Vec<String>,
    node: NodeHandle,
    wishes: mpsc::Receiver<Wish>,
    /// What the server found on its disk, and of which cluster.
    found: Option<Claim>,
    /// The newest record that this life was given, before the first one that a former life left on
    /// disk. It is shown before the view service answers.
    newest: Option<Box<View>>,
    /// The view service has gone on without what this life knows.
    stands_still: bool,
    /// Taken by the first registration.
    registered: Option<oneshot::Sender<(Member, View)>>,
    /// This life, once registered.
    me: Option<Member>,
    pause: Duration,
    told_at: Option<Instant>,
    /// Since when the name is another's, and what the view service said of it last.
    name_in_use: Option<(Instant, String)>,
}

/// Why an attempt to attend has ended.
enum Ended {
    /// The view service does not want this server.
    Refused(RefusedReason, String),
    /// The connection broke or never stood.
    Broken(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(cause: E) -> Self {
        Ended::Broken(cause.into())
    }
}

impl Heartbeat {
    /// For this process of the server of this name, which gives its number and first view to `registered` and then
    /// every newer view to `node`. On its disk, if it has one, it `found` this, of that cluster, and the
    /// record that it has `shown` before.
    #[must_use]
    pub fn new(
        (name, life): (ServerName, LifeId),
        view_servers: Vec<String>,
        (found, shown): (Option<Claim>, Option<Box<View>>),
        node: NodeHandle,
        wishes: mpsc::Receiver<Wish>,
        registered: oneshot::Sender<(Member, View)>,
    ) -> Heartbeat {
        Heartbeat {
            name,
            life,
            view_servers,
            node,
            wishes,
            found,
            newest: shown,
            stands_still: false,
            registered: Some(registered),
            me: None,
            pause: PAUSES.0,
            told_at: None,
            name_in_use: None,
        }
    }

    /// Attends for ever, through every failure of the view service, also when it has forgotten this
    /// server. Returns, with what to do about it, only when the first registration was refused for
    /// good or a newer life has taken this one's place.
    pub async fn attend(mut self) -> anyhow::Error {
        let (newest, views) = watch::channel(None);
        let hand_on = hand_on_views(views, self.node.clone());
        tokio::select! {
            refused = self.keep_attending(&newest) => refused,
            () = hand_on => anyhow!("the task that hands on views has ended"),
        }
    }

    async fn keep_attending(&mut self, views: &watch::Sender<Option<View>>) -> anyhow::Error {
        let servers = self.view_servers.clone();
        for address in servers.iter().cycle() {
            match self.attend_at(address, views).await {
                Ended::Refused(reason, message) => match consequence(reason, self.me.is_some()) {
                    Consequence::AskAgain => self.tell_of_waiting(reason, &message),
                    Consequence::GoOn => {
                        let what = self.estranged(address, reason, &message);
                        self.tell(&what);
                    }
                    Consequence::StandStill => self.stand_still(address, &message).await,
                    Consequence::End => {
                        return anyhow!(
                            "the view service at {address} refuses this server: {message}"
                        );
                    }
                },
                Ended::Broken(cause) => {
                    debug!("view service at {address}: {cause:#}");
                    let what = self.waiting();
                    self.tell(&what);
                }
            }
            sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        anyhow!("--vs names no view service")
    }

    /// One connection, from the registration to its end.
    async fn attend_at(&mut self, address: &str, views: &watch::Sender<Option<View>>) -> Ended {
        match self.connect(address, views).await {
            Ok((up, down)) => {
                info!("Connected to view service at {address}");
                self.pause = PAUSES.0;
                self.told_at = None;
                self.name_in_use = None;
                match self.exchange(&up, down, views).await {
                    Ok(()) => Ended::Broken(anyhow!("it closed the stream")),
                    Err(ended) => ended,
                }
            }
            Err(ended) => ended,
        }
    }

    /// Registers, or resumes the registration of this life.
    async fn connect(
        &mut self,
        address: &str,
        views: &watch::Sender<Option<View>>,
    ) -> Result<(mpsc::Sender<pb::FromServer>, Streaming<pb::ToServer>), Ended> {
        let channel = timeout(ANSWER_WITHIN, dial::connect(address)).await??;
        let (up, queued) = mpsc::channel(SENT_QUEUED_MAX);
        let (known, found) = (self.newest.clone(), self.found.clone());
        let register = FromServer::Register(Registration {
            name: self.name.clone(),
            life: self.life,
            incarnation: self.me.as_ref().map(|me| me.incarnation),
            cluster: known
                .as_ref()
                .map(|view| view.cluster)
                .or(found.as_ref().and_then(|(_, of)| *of)),
            protocol_level: PROTOCOL_LEVEL,
            held: found.map(|(held, _)| held),
            shown: known,
        });
        up.try_send(register.into())?;
        let mut client = RegistrationClient::new(channel);
        let answer = timeout(ANSWER_WITHIN, client.attend(ReceiverStream::new(queued))).await??;
        let mut down = answer.into_inner();
        let first = timeout(ANSWER_WITHIN, down.message()).await??;
        let first = first.context("it closed the stream instead of answering")?;
        match ToServer::try_from(first)? {
            ToServer::Registered { incarnation, view } => {
                self.take_registration(
                    Member { name: self.name.clone(), incarnation },
                    *view,
                    views,
                )?;
                // What was wished before is out of date, and repeated if it is not.
                while self.wishes.try_recv().is_ok() {}
                Ok((up, down))
            }
            ToServer::Refused { reason, message } => Err(Ended::Refused(reason, message)),
            other => Err(anyhow!("it answers a registration with {other:?}").into()),
        }
    }

    /// The first registration gives the server its number; later ones must confirm it.
    fn take_registration(
        &mut self,
        me: Member,
        view: View,
        views: &watch::Sender<Option<View>>,
    ) -> anyhow::Result<()> {
        self.note(&view);
        match (&self.me, self.registered.take()) {
            (None, Some(registered)) => {
                info!("registered as {me}");
                self.me = Some(me.clone());
                // The whole server is gone if nobody listens.
                let _ = registered.send((me, view));
            }
            (Some(known), _) if *known == me => offer(views, view),
            (known, _) => bail!("it calls this server {me}, which is {known:?}"),
        }
        Ok(())
    }

    /// Pings and wishes up, views down, until the stream ends.
    async fn exchange(
        &mut self,
        up: &mpsc::Sender<pb::FromServer>,
        mut down: Streaming<pb::ToServer>,
        views: &watch::Sender<Option<View>>,
    ) -> Result<(), Ended> {
        let mut ping_at = Instant::now();
        let mut meetings: JoinSet<Option<Process>> = JoinSet::new();
        loop {
            tokio::select! {
                () = sleep_until(ping_at) => {
                    if let Some(progress) = self.node.progress() {
                        up.try_send(FromServer::Ping(progress).into())?;
                    }
                    ping_at = Instant::now() + self.ping_interval();
                }
                Some(wish) = self.wishes.recv() => up.try_send(FromServer::Wish(wish).into())?,
                Some(met) = meetings.join_next() => {
                    if let Ok(Some(process)) = met {
                        up.try_send(FromServer::Met(process).into())?;
                    }
                }
                message = down.message() => match message? {
                    Some(message) => match message.try_into()? {
                        ToServer::Meet(process) if meetings.len() < MEETINGS_MAX => {
                            meetings.spawn(async move {
                                meeting::meet(&process).await.is_ok().then_some(process)
                            });
                        }
                        message => self.take(message, views)?,
                    },
                    None => return Ok(()),
                },
            }
        }
    }

    fn take(
        &mut self,
        message: ToServer,
        views: &watch::Sender<Option<View>>,
    ) -> Result<(), Ended> {
        match message {
            ToServer::View(view) => {
                self.note(&view);
                offer(views, *view);
            }
            // Lost if the node has no room for it: the wish, which is repeated, asks again.
            ToServer::NobodyToTakeOver => self.node.try_event(Event::NobodyToTakeOver),
            ToServer::NotMet { message } => {
                self.tell(&format!("the view service gives this server no part: {message}"));
            }
            ToServer::Meet(_) => debug!("{MEETINGS_MAX} servers are being met: no other now"),
            ToServer::Refused { reason, message } => return Err(Ended::Refused(reason, message)),
            ToServer::Registered { .. } => return Err(anyhow!("it registers twice").into()),
        }
        Ok(())
    }

    /// A record came on a stream for which this server has shown the newest one that it knew: the view
    /// service has taken its past for its own. So this one, if it is newer, is of the same past.
    fn note(&mut self, view: &View) {
        if self.newest.as_ref().is_none_or(|known| known.order() < view.order()) {
            self.newest = Some(Box::new(view.clone()));
        }
    }

    fn ping_interval(&self) -> Duration {
        let view = self.node.standing().view;
        view.map_or(PAUSES.0, |view| view.settings.ping_interval)
    }

    /// Says what is being waited for, at once and then every few seconds.
    fn tell(&mut self, what: &str) {
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            warn!("{what}");
            self.told_at = Some(Instant::now());
        }
    }

    /// The view service will take this server in when something has changed that it says itself: most
    /// often a former life of it counts as dead soon, and only when it does not, or more is known, there
    /// is something to do for somebody.
    fn tell_of_waiting(&mut self, reason: RefusedReason, message: &str) {
        self.pause = self.pause.min(NAME_PAUSE_MAX);
        let what = match &self.name_in_use {
            _ if reason != RefusedReason::NameInUse => {
                format!("waiting to register as {}: {message}", self.name)
            }
            None => {
                let former = &self.name;
                info!("waiting until the former life of {former} counts as dead ({message})");
                self.name_in_use = Some((Instant::now(), message.to_owned()));
                return;
            }
            Some((since, said)) if said == message && since.elapsed() < TELL_EVERY => return,
            Some(_) => format!("waiting to register as {}: {message}", self.name),
        };
        if let Some((_, said)) = self.name_in_use.as_mut().filter(|(_, said)| said != message) {
            message.clone_into(said);
            self.told_at = None;
        }
        self.tell(&what);
    }

    /// An operator has had the cluster go on without what this life knows.
    async fn stand_still(&mut self, address: &str, message: &str) {
        if !std::mem::replace(&mut self.stands_still, true) {
            self.node.event(Event::Estranged).await;
        }
        let what = format!(
            "the view service at {address} has gone on without this server, which serves nothing any \
             more and keeps what it holds: {message}. Save that, if somebody may need it, with \
             `kvctl snapshot save FILE --server {}`; then stop this process and start it anew",
            self.name
        );
        self.tell(&what);
    }

    /// A view service that took this life in and now refuses it has lost its state, or is another
    /// one. The data must not go with it.
    fn estranged(&self, address: &str, reason: RefusedReason, message: &str) -> String {
        if reason == RefusedReason::Doubt {
            return format!("the view service at {address} decides nothing: {message}");
        }
        let view = self.node.standing().view;
        let view = view.map_or_else(String::new, |view| {
            format!(" in view {} of cluster {}", view.number, view.cluster)
        });
        format!(
            "the view service at {address} is not the one that registered this server, which serves \
             on{view}, but nobody repairs a failure any more. Start the right view service if it still \
             has its state; or stop the clients, `kvctl snapshot save FILE --server {}`, and restore \
             that into a new cluster (docs/backup.md)",
            self.name
        )
    }

    fn waiting(&self) -> String {
        let servers = self.view_servers.join(", ");
        match self.node.standing().view {
            Some(view) => format!(
                "waiting for the view service at {servers}; still serving the view {}",
                view.number
            ),
            None => format!("waiting for the view service at {servers}; start it, or change --vs"),
        }
    }
}

/// Makes a view the newest one, unless a newer one is known.
fn offer(views: &watch::Sender<Option<View>>, view: View) {
    views.send_if_modified(|newest| {
        let newer = newest.as_ref().is_none_or(|known| known.order() < view.order());
        if newer {
            *newest = Some(view);
        }
        newer
    });
}

/// Gives the node the newest view whenever there is one and the node has room.
async fn hand_on_views(mut views: watch::Receiver<Option<View>>, node: NodeHandle) {
    while views.changed().await.is_ok() {
        let newest = views.borrow_and_update().clone();
        if let Some(view) = newest {
            node.event(Event::View(Box::new(view))).await;
        }
    }
}
