//! The node: the one loop that owns the replica and its journal. Shell: it waits for an event, lets
//! the replica decide, and performs the effects in their order.
//!
//! It runs on a thread of its own, so that no door, peer or heartbeat can hold it up and its steps
//! never migrate between cores. Nothing in it waits except for the next event. Everybody else talks
//! to it through a [`NodeHandle`].

mod dump;
mod handle;
mod notices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kvprocess::clock;
use kvproto::registration::Wish;
use kvproto::{Member, NotDone, NotReady, Reply, Timestamp, View, ViewNumber};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use dump::{DumpChunk, DumpSummary};
pub use handle::{Inputs, NodeHandle, Standing, channel};

use crate::journal::{Journal, MemoryJournal};
use crate::peers::Peers;
use crate::replica::effect::{Effect, Notice};
use crate::replica::event::{Event, Request, Token};
use crate::replica::{Replica, ReplicaOptions};
use dump::Dumps;
use handle::{Asked, Caller, REQUESTS_QUEUED_MAX};

/// How often the replica hears that time has passed: well below every timing of the cluster.
const TICK: Duration = Duration::from_millis(5);

/// What a node is made of.
pub struct Parts {
    /// This life of the server.
    pub me: Member,
    /// The view that came with the registration.
    pub view: View,
    /// Choices of this server.
    pub options: ReplicaOptions,
    /// The ways to other copies.
    pub peers: Peers,
    /// To the view service. A full queue loses the wish; the replica repeats it.
    pub wishes: mpsc::Sender<Wish>,
    /// Stops the node.
    pub halt: CancellationToken,
}

struct Node {
    replica: Replica,
    journal: MemoryJournal,
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

/// Starts the node on its own thread. The receiver hears when it was stopped; when it hears nothing
/// and closes, the thread has panicked.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(parts: Parts, inputs: Inputs) -> anyhow::Result<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("start the node's runtime")?;
    std::thread::Builder::new()
        .name("node".into())
        .spawn(move || {
            runtime.block_on(async { Node::new(parts, inputs).run().await });
            // Nobody listens any more when the whole server was dropped.
            let _ = ended.send(());
        })
        .context("start the node's thread")?;
    Ok(end)
}

impl Node {
    fn new(parts: Parts, inputs: Inputs) -> Node {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let replica = Replica::new(parts.me.clone(), parts.view, parts.options, clock::now());
        let standing = Standing {
            me: Some(parts.me),
            view: Some(Arc::new(replica.view().clone())),
            role: replica.role(),
            ..Standing::default()
        };
        if replica.view().number > ViewNumber(0) {
            // The replica speaks of changes only, but this view is new to whoever reads the log.
            notices::log(&Notice::ViewChanged, replica.view());
        }
        inputs.standing.send_replace(standing.clone());
        inputs.progress.send_replace(Some(replica.progress()));
        Node {
            replica,
            journal: MemoryJournal::new(),
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

    async fn run(mut self) {
        let mut effects = Vec::new();
        while let Some(event) = self.next_event().await {
            // The clock is read after the event was taken: nothing is judged by a moment before it.
            self.replica.step(clock::now(), event, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            self.publish();
        }
    }

    /// The only wait. `None` when the node must stop. What has become safe comes first: everything
    /// else waits for it anyway.
    async fn next_event(&mut self) -> Option<Event> {
        if let Some(position) = self.journal.poll_safe() {
            return Some(Event::Appended(position));
        }
        loop {
            tokio::select! {
                () = self.halt.cancelled() => return None,
                _ = self.ticks.tick() => {
                    self.dumps.advance(&mut self.replica);
                    return Some(Event::Tick);
                }
                event = self.inputs.events.recv() => return event,
                count = self.inputs.requests.recv_many(&mut self.admitted, REQUESTS_QUEUED_MAX) => {
                    if count == 0 {
                        return None; // every handle is gone
                    }
                    if let Some(event) = self.admit() {
                        return Some(event);
                    }
                }
                Some(reader) = self.inputs.dumps.recv() => {
                    self.dumps.begin(&mut self.replica, reader);
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
            Effect::Append(entries) => self.journal.append(&entries),
            Effect::Truncate { after } => self.journal.truncate(after),
            Effect::Reset { base } => {
                self.dumps.abandon();
                self.journal.reset(base);
            }
            Effect::Trim { through } => self.journal.trim(through),
            Effect::OpenStream { to, stream } => self.peers.open(to, stream),
            Effect::CloseStream { to, stream } => self.peers.close(&to, stream),
            Effect::Send(message) => self.peers.send(message),
            Effect::Reply { token, reply, valid_until } => self.reply(token, reply, valid_until),
            Effect::Wish(wish) => drop(self.wishes.try_send(wish)),
            Effect::Notice(notice) => self.notice(&notice),
            Effect::Left => self.standing.left = true,
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
        match notice {
            Notice::OnlyCopy { .. } => self.standing.only_copy = true,
            Notice::HandingOver => self.standing.only_copy = false,
            _ => {}
        }
        notices::log(notice, self.replica.view());
    }

    /// Lets the others see how the node stands: progress after each step, the rest when it changed.
    fn publish(&mut self) {
        self.inputs.progress.send_replace(Some(self.replica.progress()));
        let view = self.replica.view();
        if self.standing.view.as_ref().is_none_or(|known| known.order() != view.order()) {
            self.standing.view = Some(Arc::new(view.clone()));
        }
        self.standing.role = self.replica.role();
        self.standing.acting = self.replica.is_acting();
        self.inputs.standing.send_if_modified(|shown| {
            let changed = *shown != self.standing;
            if changed {
                shown.clone_from(&self.standing);
            }
            changed
        });
    }
}
