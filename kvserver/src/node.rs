//! The node: the one loop that owns the replica and its journal. Shell: it waits for an event, lets
//! the replica decide, and performs the effects in their order.
//!
//! It is a task beside the doors and the streams to other copies, on their thread: whatever they
//! read in one turn of the runtime is there when the node's turn comes, and makes one batch; nobody
//! pays for waking another core. Nothing in it waits except for the next event and, on a copy that only
//! follows, for a lone write to a quick disk. Everybody else talks to it through a [`NodeHandle`].

mod dump;
mod handle;
mod notices;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use kvprocess::clock;
use kvprocess::data_dir::DataDir;
use kvproto::registration::Wish;
use kvproto::{Member, NotDone, NotReady, Reply, Role, Timestamp, View, ViewNumber};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use dump::{Dump, DumpChunk, GIVEN_UP};
pub use handle::{Inputs, NodeHandle, Standing, channel};

use crate::journal::engine::Failed;
use crate::journal::writer::DiskJournal;
use crate::journal::{Journal, MemoryJournal, Work};
use crate::peers::Peers;
use crate::replica::effect::{Effect, Notice};
use crate::replica::event::{Event, Request, Token};
use crate::replica::recovery::Recovered;
use crate::replica::{Replica, ReplicaOptions};
use dump::Dumps;
use handle::{Asked, Caller, REQUESTS_PER_STEP};

/// How often the replica hears that time has passed: well below every timing of the cluster.
const TICK: Duration = Duration::from_millis(5);

/// At its end the disk has this long to do what it was given; less if it was seen to hang.
const SYNCED_WITHIN: Duration = Duration::from_secs(5);
const HANGING_SYNCED_WITHIN: Duration = Duration::from_millis(200);

/// What a node is made of.
pub struct Parts {
    /// This life of the server.
    pub me: Member,
    /// The view that came with the registration.
    pub view: View,
    /// Choices of this server.
    pub options: ReplicaOptions,
    /// What its journal held.
    pub recovered: Recovered,
    /// Where it writes.
    pub journal: NodeJournal,
    /// The ways to other copies.
    pub peers: Peers,
    /// To the view service. A full queue loses the wish; the replica repeats it.
    pub wishes: mpsc::Sender<Wish>,
    /// Stops the node.
    pub halt: CancellationToken,
}

/// Where a node writes.
pub enum NodeJournal {
    /// Nowhere: what it holds in memory is all there is.
    Memory(MemoryJournal),
    /// To disk, in a directory that this process has for itself until the journal is done.
    Disk(DiskJournal, DataDir),
}

impl NodeJournal {
    fn as_mut(&mut self) -> &mut dyn Journal {
        match self {
            NodeJournal::Memory(journal) => journal,
            NodeJournal::Disk(journal, _) => journal,
        }
    }

    /// Waits until there may be something to poll.
    async fn changed(&mut self) {
        match self {
            // Everything is done as soon as it is taken on.
            NodeJournal::Memory(_) => std::future::pending().await,
            NodeJournal::Disk(journal, _) => journal.changed().await,
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            NodeJournal::Memory(_) => None,
            NodeJournal::Disk(_, dir) => Some(dir.path()),
        }
    }

    /// Ends when everything that it was given is on disk, or the disk was waited for in vain.
    async fn close(self, patience: Duration) {
        let NodeJournal::Disk(journal, dir) = self else {
            return;
        };
        if !journal.close(patience).await {
            warn!(
                "the disk of {} hangs: stopping without what it was given last, as after a crash; \
                 nothing that was acknowledged is lost",
                dir.path().display()
            );
            // The threads that wait for it may still write: nobody else has it before this process ends.
            std::mem::forget(dir);
        }
    }

    fn failed(&self) -> Option<&Failed> {
        match self {
            NodeJournal::Memory(_) => None,
            NodeJournal::Disk(journal, _) => journal.failed(),
        }
    }
}

struct Node {
    replica: Replica,
    journal: NodeJournal,
    peers: Peers,
    wishes: mpsc::Sender<Wish>,
    halt: CancellationToken,
    inputs: Inputs,
    ticks: Interval,
    /// Requests taken from the queue and not yet in an event; empty between steps.
    admitted: Vec<Asked>,
    /// Callers whose requests the replica holds.
    waiting: HashMap<Token, Caller>,
    last_token: Token,
    dumps: Dumps,
    standing: Standing,
}

/// Runs the node until `halt`, or until every handle is gone.
///
/// # Errors
/// When the journal has failed: nothing was acknowledged since, and this server must leave at once.
pub async fn run(parts: Parts, inputs: Inputs) -> anyhow::Result<()> {
    Node::new(parts, inputs).run().await
}

impl Node {
    fn new(parts: Parts, inputs: Inputs) -> Node {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let me = parts.me.clone();
        let replica = Replica::resume(me, parts.view, parts.options, parts.recovered, clock::now());
        let standing = Standing {
            me: Some(parts.me),
            view: Some(Arc::new(replica.view().clone())),
            role: replica.role(),
            ..Standing::default()
        };
        if replica.view().number > ViewNumber(0) {
            // The replica speaks of changes only, but this view is new to whoever reads the log.
            notices::log(&Notice::ViewChanged, replica.view(), None);
        }
        inputs.standing.send_replace(standing.clone());
        inputs.progress.send_replace(Some(replica.progress()));
        Node {
            replica,
            journal: parts.journal,
            peers: parts.peers,
            wishes: parts.wishes,
            halt: parts.halt,
            inputs,
            ticks,
            admitted: Vec::new(),
            waiting: HashMap::new(),
            last_token: Token(0),
            dumps: Dumps::default(),
            standing,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut effects = Vec::new();
        while let Some(event) = self.next_event().await {
            let (tick, requests) = (event == Event::Tick, matches!(event, Event::Requests(_)));
            self.inputs.table.step(&mut effects, |effects| {
                // The clock is read after the event was taken: nothing is judged by a moment before
                // it.
                self.replica.step(clock::now(), event, effects);
            });
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            self.publish();
            self.hand_over();
            if requests && !self.inputs.requests.is_empty() {
                // More clients wait. Before them the doors and streams read what has come for us.
                tokio::task::yield_now().await;
            }
            if tick {
                self.inputs.progress.send_replace(Some(self.replica.progress()));
                self.dumps.advance(&mut self.replica, &mut self.inputs.dumps);
            }
        }
        let failed = self.journal.failed().map(ToString::to_string);
        let hangs = self.replica.progress().disk_waits >= self.replica.view().settings.stall_after;
        // Who waits for an answer hears at once that there will be none.
        let Node { journal, inputs, waiting, .. } = self;
        drop((inputs.requests, waiting));
        journal.close(if hangs { HANGING_SYNCED_WITHIN } else { SYNCED_WITHIN }).await;
        match failed {
            Some(failed) => bail!("{failed}"),
            None => Ok(()),
        }
    }

    /// Hands over to the disk what was called. A copy that follows may wait for it: nobody else is
    /// served here, and its acknowledgement is what a client's write waits for longest.
    fn hand_over(&mut self) {
        if let NodeJournal::Disk(journal, _) = &mut self.journal {
            let follows = self.replica.role() != Role::Primary;
            journal.hand_over(follows && self.inputs.events.is_empty());
        }
    }

    /// The only wait. `None` when the node must stop. What has become safe comes first: everything
    /// else waits for it anyway. Clients come last: no load of theirs may hold up a heartbeat, an
    /// acknowledgement or a view.
    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(done) = self.journal.as_mut().poll() {
                return Some(Event::Journal(done));
            }
            if self.journal.failed().is_some() {
                return None;
            }
            tokio::select! {
                biased;
                () = self.halt.cancelled() => return None,
                () = self.journal.changed() => {}
                _ = self.ticks.tick() => return Some(Event::Tick),
                event = self.inputs.events.recv() => return event,
                count = self.inputs.requests.recv_many(&mut self.admitted, REQUESTS_PER_STEP) => {
                    if count == 0 {
                        return None; // every handle is gone
                    }
                    if let Some(event) = self.admit() {
                        return Some(event);
                    }
                }
            }
        }
    }

    /// Turns what came from the doors into one event, without what nobody waits for any more.
    fn admit(&mut self) -> Option<Event> {
        let now = Instant::now();
        let mut requests = Vec::with_capacity(self.admitted.len());
        for Asked { operation, deadline, caller } in self.admitted.drain(..) {
            if caller.reply.is_closed() {
                continue;
            }
            if deadline <= now {
                let _ = caller.reply.send(Reply::NotDone(NotDone::Overloaded));
                continue;
            }
            self.last_token = Token(self.last_token.0 + 1);
            self.waiting.insert(self.last_token, caller);
            requests.push(Request { token: self.last_token, operation });
        }
        (!requests.is_empty()).then_some(Event::Requests(requests))
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(published) => self.inputs.table.publish(published),
            Effect::Journal(work) => {
                if matches!(work, Work::Reset { .. }) {
                    self.dumps.abandon();
                }
                self.journal.as_mut().take(work);
            }
            Effect::OpenStream { to, stream } => self.peers.open(to, stream),
            Effect::CloseStream { to, stream } => self.peers.close(&to, stream),
            Effect::Send(message) => self.peers.send(message),
            Effect::Reply { token, reply, valid_until } => self.reply(token, reply, valid_until),
            Effect::Wish(wish) => drop(self.wishes.try_send(wish)),
            Effect::Notice(notice) => self.notice(&notice),
            Effect::Left => {
                self.standing.left = true;
                self.show();
            }
        }
    }

    /// Answers a caller, unless the answer has gone stale since the step that made it.
    fn reply(&mut self, token: Token, reply: Reply, valid_until: Option<Timestamp>) {
        let Some(caller) = self.waiting.remove(&token) else {
            return;
        };
        let reply = match valid_until {
            Some(end) if clock::now() >= end => {
                Reply::NotDone(NotDone::NotReady(NotReady::Unconfirmed))
            }
            _ => reply,
        };
        // A caller that has given up hears nothing.
        let _ = caller.reply.send(reply);
    }

    fn notice(&mut self, notice: &Notice) {
        if let Notice::OnlyCopy { .. } | Notice::HandingOver = notice {
            self.standing.only_copy = matches!(notice, Notice::OnlyCopy { .. });
            self.show();
        }
        if let Notice::DirectoryGone { .. } = notice {
            self.standing.directory_gone = true;
            self.show();
        }
        notices::log(notice, self.replica.view(), self.journal.dir());
    }

    /// Lets the others see how the node stands, when that has changed.
    fn publish(&mut self) {
        let view = self.replica.view();
        let (role, acting) = (self.replica.role(), self.replica.is_acting());
        let known = self.standing.view.as_ref().map(|known| known.order());
        if known == Some(view.order())
            && (self.standing.role, self.standing.acting) == (role, acting)
        {
            return;
        }
        if known != Some(view.order()) {
            self.standing.view = Some(Arc::new(view.clone()));
        }
        self.standing.role = role;
        self.standing.acting = acting;
        self.show();
    }

    fn show(&self) {
        self.inputs.standing.send_replace(self.standing.clone());
    }
}
