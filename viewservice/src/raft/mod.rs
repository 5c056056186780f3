//! The log of the view service: what it must never forget goes through here. The only door to the
//! Raft library and to its file; nobody else knows that there is either.
//!
//! - [`ViewLog`]: three verbs. Propose a change, read the state, watch who leads
//! - `types`: what an entry is; `store`: the file; `entries`, `machine`: the two halves that the
//!   library asks for; `network`: its way to the others
//!
//! At present the log has one voter, so every change is committed when this process has it on disk.
//! A failed write or sync is never tried again: the log says that it has failed, and its owner ends
//! the process.

mod entries;
mod machine;
mod network;
mod store;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvprocess::data_dir::Place;
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use thiserror::Error;
use tokio::sync::watch;

use crate::assignment::law::ViewState;
use entries::Entries;
use machine::Machine;
use network::Alone;
pub use store::StoreError;
use store::{Closed, Store};
pub use types::Change;
use types::{NodeId, TypeConfig};

/// The one voter.
pub const RAFT_ID: NodeId = 1;

/// The log is cut after this many entries: at two a second, which is how often a busy primary is
/// heard, every two minutes.
const ENTRIES_PER_SNAPSHOT: u64 = 256;

/// One voter elects itself as soon as it asks, so these only say how soon it does after a start.
const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];

/// One voter that does not lead by then never will.
const LEADS_WITHIN: Duration = Duration::from_secs(30);

const DISK_HANGS: &str = "the disk hangs; stopping as after a crash, what was told is on it";

/// Nothing more can be kept; what was proposed last may or may not have been.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the log of views cannot go on: {0}")]
pub struct LogFailed(String);

impl LogFailed {
    /// For this reason.
    pub(crate) fn new(why: impl std::fmt::Display) -> LogFailed {
        LogFailed(why.to_string())
    }

    /// The disk was waited for in vain.
    pub(crate) fn disk_hangs() -> LogFailed {
        LogFailed::new(DISK_HANGS)
    }

    /// Whether somebody still waits for the disk, and may write when it answers.
    #[must_use]
    pub fn is_hanging_disk(&self) -> bool {
        self.0 == DISK_HANGS
    }
}

/// Whether this process may propose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leading {
    /// Not at present.
    No,
    /// Yes.
    Yes,
    /// Never again in this process.
    Failed(LogFailed),
}

/// The replicated state of the view service.
pub struct ViewLog {
    raft: Raft<TypeConfig>,
    machine: Machine,
    leading: watch::Receiver<Leading>,
    closed: Closed,
    /// The directory and the file, under the names that the next start will look for.
    places: Vec<Place>,
}

impl ViewLog {
    /// Opens the log in this file, and makes it if there is none. Returns when this process leads and
    /// everything that was ever committed is applied.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn open(file: &Path) -> Result<ViewLog, OpenError> {
        let (store, closed) = Store::open(file)?;
        let log = ViewLog::start(store, closed).await.map_err(OpenError::Failed)?;
        let places = file.parent().into_iter().chain([file]).map(Place::of);
        match places.collect() {
            Ok(places) => Ok(ViewLog { places, ..log }),
            Err(error) => {
                log.close().await;
                Err(OpenError::Failed(LogFailed::new(error)))
            }
        }
    }

    async fn start(store: Store, closed: Closed) -> Result<ViewLog, LogFailed> {
        let machine = Machine::open(store.clone()).map_err(LogFailed::new)?;
        let raft = Raft::new(RAFT_ID, config(), Alone, Entries::new(store), machine.clone());
        let raft = raft.await.map_err(LogFailed::new)?;
        if !raft.is_initialized().await.map_err(LogFailed::new)? {
            // It dials nobody, so it needs no address.
            let voters = BTreeMap::from([(RAFT_ID, BasicNode::default())]);
            raft.initialize(voters).await.map_err(LogFailed::new)?;
        }
        raft.wait(Some(LEADS_WITHIN))
            .current_leader(RAFT_ID, "the only voter leads")
            .await
            .map_err(LogFailed::new)?;
        let leading = follow(&raft);
        Ok(ViewLog { raft, machine, leading, closed, places: Vec::new() })
    }

    /// Commits the change: when this returns, it survives everything but the loss of the disk, and
    /// this is the state after it.
    ///
    /// # Errors
    /// The change may or may not have been kept, and no other will be.
    pub async fn propose(&self, change: Change) -> Result<ViewState, LogFailed> {
        let committed = self.raft.client_write(change).await.map_err(LogFailed::new)?;
        self.must_be_there()?;
        committed.data.ok_or_else(|| LogFailed::new("it knows of no cluster"))
    }

    /// The state after every change committed before the call; `None` before the cluster is founded.
    ///
    /// # Errors
    /// When this process cannot know.
    pub async fn read(&self) -> Result<Option<ViewState>, LogFailed> {
        self.raft.ensure_linearizable().await.map_err(LogFailed::new)?;
        Ok(self.machine.state())
    }

    /// Looks whether the next start will find what is written. A deleted file can be written to, and what
    /// is synced there is gone with the process.
    ///
    /// # Errors
    /// When it will not.
    pub fn must_be_there(&self) -> Result<(), LogFailed> {
        if self.places.iter().all(Place::is_there) {
            return Ok(());
        }
        Err(LogFailed::new(
            "its directory or its file is gone (deleted or replaced), so nothing can be kept any more; put \
             the directory back as it was, or see docs/storage.md, \"The view service\"",
        ))
    }

    /// Whether this process leads, now and later.
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// Lets go of the file.
    pub async fn close(self) {
        let ViewLog { raft, machine, leading, closed, places: _ } = self;
        let _ended = raft.shutdown().await;
        drop((raft, machine, leading));
        let _closed = closed.await;
    }
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What came after.
    #[error(transparent)]
    Failed(LogFailed),
}

fn config() -> Arc<Config> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    Arc::new(Config {
        cluster_name: "views".into(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION[0]),
        election_timeout_max: millis(ELECTION[1]),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    })
}

/// The library tells a great deal; this is what its owner asks.
fn follow(raft: &Raft<TypeConfig>) -> watch::Receiver<Leading> {
    let mut metrics = raft.metrics();
    let mut look = move || {
        let seen = metrics.borrow_and_update();
        match &seen.running_state {
            Err(fatal) => Leading::Failed(LogFailed::new(fatal)),
            Ok(()) if seen.current_leader == Some(RAFT_ID) => Leading::Yes,
            Ok(()) => Leading::No,
        }
    };
    let (tell, leading) = watch::channel(look());
    let mut metrics = raft.metrics();
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let now = look();
            tell.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
        }
    });
    leading
}
