//! The state that the log leads to, as the library asks for it: in memory, rebuilt at a start from
//! the snapshot in the file and the entries after it.

use std::io::{self, Cursor};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use serde::{Deserialize, Serialize};

use super::store::{SNAPSHOT, Store, decode, encode};
use super::types::{
    Entry, ErrorSubject, ErrorVerb, LogId, Membership, SnapshotMeta, StorageError, ToStorageResult,
    TypeConfig,
};
use crate::assignment::law::ViewState;

/// The state after all applied entries. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Machine {
    store: Store,
    /// A plain mutex: held for one application of the law, never across an await.
    applied: Arc<Mutex<Applied>>,
}

#[derive(Clone, Default)]
struct Applied {
    through: Option<LogId>,
    membership: Membership,
    state: Option<ViewState>,
}

/// A state as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    meta: SnapshotMeta,
    state: Option<ViewState>,
}

const READING: (ErrorSubject<u64>, ErrorVerb) = (ErrorSubject::Snapshot(None), ErrorVerb::Read);
const WRITING: (ErrorSubject<u64>, ErrorVerb) = (ErrorSubject::Snapshot(None), ErrorVerb::Write);

impl Machine {
    /// The state of the snapshot in the file; the library applies the rest.
    pub(super) fn open(store: Store) -> io::Result<Machine> {
        let applied = match store.value::<Kept>(SNAPSHOT)? {
            Some(kept) => Applied::from(kept),
            None => Applied::default(),
        };
        Ok(Machine { store, applied: Arc::new(Mutex::new(applied)) })
    }

    /// The state after every entry applied so far; `None` before the cluster is founded.
    pub(super) fn state(&self) -> Option<ViewState> {
        self.lock().state.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().expect("the law broke an invariant, and the process is about to end")
    }

    async fn keep(&self, kept: &Kept) -> Result<(), StorageError> {
        self.store.set(SNAPSHOT, kept).await.sto_res(|| WRITING)
    }
}

impl From<Kept> for Applied {
    fn from(kept: Kept) -> Applied {
        Applied {
            through: kept.meta.last_log_id,
            membership: kept.meta.last_membership,
            state: kept.state,
        }
    }
}

impl Kept {
    fn into_snapshot(self) -> io::Result<Snapshot<TypeConfig>> {
        let bytes = encode(&self.state)?;
        Ok(Snapshot { meta: self.meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let Applied { through, membership, state } = self.lock().clone();
        let snapshot_id = through.map_or_else(String::new, |id| id.to_string());
        let meta = SnapshotMeta { last_log_id: through, last_membership: membership, snapshot_id };
        let kept = Kept { meta, state };
        self.keep(&kept).await?;
        kept.into_snapshot().sto_res(|| WRITING)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let applied = self.lock();
        Ok((applied.through, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<ViewState>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.lock();
        let mut states = Vec::new();
        for entry in entries {
            applied.through = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(change) => change.apply_to(&mut applied.state),
                EntryPayload::Membership(membership) => {
                    applied.membership = Membership::new(Some(entry.log_id), membership);
                }
            }
            states.push(applied.state.clone());
        }
        Ok(states)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let state = decode(snapshot.get_ref()).sto_res(|| READING)?;
        let kept = Kept { meta: meta.clone(), state };
        self.keep(&kept).await?;
        *self.lock() = Applied::from(kept);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let kept: Option<Kept> = self.store.value(SNAPSHOT).sto_res(|| READING)?;
        kept.map(Kept::into_snapshot).transpose().sto_res(|| READING)
    }
}
