//! What other tasks hold of the node. Shell: queues, deadlines and back-pressure; decides nothing
//! about the protocol.
//!
//! A handle is cheap to clone and works before the node has started: until then every request is
//! answered "not the primary", which is true.

use std::sync::Arc;

use kvprocess::clock;
use kvprocess::serve::Room;
use kvproto::registration::Progress;
use kvproto::{Member, NotDone, Reply, Role, ServerName, View, ViewNumber};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::dump::{DUMPS_MAX, Dump, DumpChunk};
use crate::replica::event::{Event, Operation};
use crate::store::Items;
use crate::table::Table;

/// Requests that wait for the node: as many as there is room for at the doors with plenty of memory.
/// Beyond it the newest is refused at once, since waiting in front of a queue helps nobody.
const REQUESTS_QUEUED_MAX: usize = 16 << 10;
/// Requests that the node takes at a time, so that everything else gets its turn in between.
pub(super) const REQUESTS_PER_STEP: usize = 1024;
/// Messages of other copies and views that wait for the node. Senders wait when it is full, which
/// TCP passes on to the other copy.
const EVENTS_QUEUED_MAX: usize = 256;

/// How this server stands, for doors and tasks that wait for a change.
#[derive(Clone, PartialEq, Debug)]
pub struct Standing {
    /// This life of the server; `None` until the view service has registered it.
    pub me: Option<Member>,
    /// The newest view adopted; `None` until registered.
    pub view: Option<Arc<View>>,
    /// The part played in it.
    pub role: Role,
    /// True while this server is a primary that may serve.
    pub acting: bool,
    /// True once stopping has turned out to lose the data, until a successor is found.
    pub only_copy: bool,
    /// True once the server is out of every view after it was asked to leave, or lost its directory.
    pub left: bool,
    /// True once the data directory is gone: what the server holds goes with its process.
    pub directory_gone: bool,
}

impl Default for Standing {
    fn default() -> Self {
        Standing {
            me: None,
            view: None,
            role: Role::Spare,
            acting: false,
            only_copy: false,
            left: false,
            directory_gone: false,
        }
    }
}

impl Standing {
    /// The refusal of a server that is not the primary, with the best hint it has.
    #[must_use]
    pub fn not_primary(&self) -> NotDone {
        let others = |name: &&ServerName| Some(*name) != self.me.as_ref().map(|me| &me.name);
        let view = self.view.as_deref();
        NotDone::NotPrimary {
            primary: view.and_then(View::primary_name).filter(others).cloned(),
            view: view.map_or(ViewNumber(0), |view| view.number),
        }
    }
}

/// A request on its way to the node.
pub(super) struct Asked {
    pub(super) operation: Operation,
    /// After this moment nobody waits: the node need not order it any more.
    pub(super) deadline: Instant,
    pub(super) caller: Caller,
}

/// Who waits for a reply, and the room that the request takes until then. A caller that gave up
/// keeps its room: the replica still holds the request.
pub(super) struct Caller {
    pub(super) reply: oneshot::Sender<Reply>,
    _room: Option<Room>,
}

/// The way to the node for everybody else.
#[derive(Clone)]
pub struct NodeHandle {
    requests: mpsc::Sender<Asked>,
    events: mpsc::Sender<Event>,
    dumps: mpsc::Sender<mpsc::Sender<DumpChunk>>,
    dump_places: Arc<Semaphore>,
    table: Arc<Table>,
    standing: watch::Receiver<Standing>,
    progress: watch::Receiver<Option<Progress>>,
}

/// The node's ends of the queues of its handles.
pub struct Inputs {
    pub(super) requests: mpsc::Receiver<Asked>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) dumps: mpsc::Receiver<mpsc::Sender<DumpChunk>>,
    pub(super) table: Arc<Table>,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) progress: watch::Sender<Option<Progress>>,
}

impl Inputs {
    /// The table in which the items of the store will be.
    #[must_use]
    pub fn items(&self) -> Items {
        self.table.items().clone()
    }
}

/// A handle and the inputs that a node started later will take from it.
#[must_use]
pub fn channel() -> (NodeHandle, Inputs) {
    let (requests, requests_in) = mpsc::channel(REQUESTS_QUEUED_MAX);
    let (events, events_in) = mpsc::channel(EVENTS_QUEUED_MAX);
    let (dumps, dumps_in) = mpsc::channel(DUMPS_MAX);
    let dump_places = Arc::new(Semaphore::new(DUMPS_MAX));
    let (standing_out, standing) = watch::channel(Standing::default());
    let (progress_out, progress) = watch::channel(None);
    let table = Arc::new(Table::new(Items::of_a_server()));
    let handle = NodeHandle {
        requests,
        events,
        dumps,
        dump_places,
        table: Arc::clone(&table),
        standing,
        progress,
    };
    let inputs = Inputs {
        requests: requests_in,
        events: events_in,
        dumps: dumps_in,
        table,
        standing: standing_out,
        progress: progress_out,
    };
    (handle, inputs)
}

impl NodeHandle {
    /// Carries out one operation, whose limits the door has checked: a read at once from the
    /// table of the store if this server certainly leads, anything else by the node, which keeps its
    /// `room` meanwhile. Waits for the answer until `deadline`; when too many wait already the
    /// operation is certainly not done, without an answer its outcome is unknown. Dropping the
    /// future gives the answer up, not the operation.
    pub async fn execute(
        &self,
        operation: Operation,
        room: Option<Room>,
        deadline: Instant,
    ) -> Reply {
        if let Operation::Query(query) = &operation
            && let Some(reply) = self.table.read(query, clock::now)
        {
            return reply;
        }
        if self.look(|standing| standing.view.is_none()) {
            return Reply::NotDone(self.look(Standing::not_primary));
        }
        let (reply, answer) = oneshot::channel();
        let asked = Asked { operation, deadline, caller: Caller { reply, _room: room } };
        match self.requests.try_send(asked) {
            Err(TrySendError::Full(_)) => return Reply::NotDone(NotDone::Overloaded),
            Err(TrySendError::Closed(_)) => {
                return Reply::NotDone(self.look(Standing::not_primary));
            }
            Ok(()) => {}
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_stopped)) => Reply::Unknown,
            Err(_elapsed) => Reply::Unknown,
        }
    }

    /// Gives the node something that happened, waiting while its queue is full. Lost when the node
    /// has stopped.
    pub async fn event(&self, event: Event) {
        // A stopped node needs no events: the process is about to end.
        let _ = self.events.send(event).await;
    }

    /// As [`event`](Self::event), but gives up at once when the queue is full. For what will be
    /// repeated.
    pub fn try_event(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// Begins a dump of all that this copy holds. One that stops before its end was given
    /// up: too many are under way, a transfer replaced the copy, or its reader was too slow.
    pub async fn dump(&self) -> Dump {
        let place = Arc::clone(&self.dump_places).try_acquire_owned().ok();
        let has_place = place.is_some();
        let (reader, dump) = Dump::new(place);
        if has_place {
            // Without a node the reader hears the end at once.
            let _ = self.dumps.send(reader).await;
        }
        dump
    }

    /// How the server stands at present.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until the server stands as `wanted`; `None` when the node has stopped.
    pub async fn stands(&self, wanted: impl Fn(&Standing) -> bool) -> Option<()> {
        self.watch().wait_for(wanted).await.ok().map(drop)
    }

    /// What `look` makes of how the server stands; cheaper than [`standing`](Self::standing).
    pub fn look<T>(&self, look: impl FnOnce(&Standing) -> T) -> T {
        look(&self.standing.borrow())
    }

    /// To wait for changes of [`standing`](Self::standing).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// How far the node is. Never blocks, also when the node is stuck; `None` before it started.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        *self.progress.borrow()
    }
}

#[cfg(test)]
impl Inputs {
    /// What other tasks told the node.
    pub(crate) async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// As if the view service had registered this server.
    pub(crate) fn pretend_registered(&self) {
        let view = View::none(kvproto::ClusterId([1; 16]), kvproto::Settings::default());
        self.standing.send_modify(|standing| standing.view = Some(Arc::new(view)));
    }
}

#[cfg(test)]
mod tests;
