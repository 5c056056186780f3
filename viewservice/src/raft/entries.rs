//! The log proper, as the library asks for it: votes and entries in the file.

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use redb::ReadableTable;

use super::store::{ENTRIES, PURGED, Store, VALUES, VOTE, decode, encode};
use super::types::{
    Entry, ErrorSubject, ErrorVerb, LogId, StorageError, ToStorageResult, TypeConfig, Vote,
};

/// Votes and entries. Cheap to clone; the library writes through one of them, one write at a time.
#[derive(Clone)]
pub(super) struct Entries {
    store: Store,
}

const READING: (ErrorSubject<u64>, ErrorVerb) = (ErrorSubject::Logs, ErrorVerb::Read);
const WRITING: (ErrorSubject<u64>, ErrorVerb) = (ErrorSubject::Logs, ErrorVerb::Write);

impl Entries {
    pub(super) fn new(store: Store) -> Entries {
        Entries { store }
    }

    fn last(&self) -> std::io::Result<Option<LogId>> {
        let bytes = self.store.look(|transaction| {
            let entries = transaction.open_table(ENTRIES)?;
            Ok(entries.last()?.map(|(_, bytes)| bytes.value().to_vec()))
        })?;
        Ok(bytes.map(|bytes| decode::<Entry>(&bytes)).transpose()?.map(|entry| entry.log_id))
    }
}

impl RaftLogReader<TypeConfig> for Entries {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let found = self.store.look(|transaction| {
            let entries = transaction.open_table(ENTRIES)?;
            let mut found = Vec::new();
            for entry in entries.range(range)? {
                found.push(entry?.1.value().to_vec());
            }
            Ok(found)
        });
        found
            .and_then(|found| found.iter().map(|bytes| decode(bytes)).collect())
            .sto_res(|| READING)
    }
}

impl RaftLogStorage<TypeConfig> for Entries {
    type LogReader = Entries;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let last_purged_log_id = self.store.value(PURGED).sto_res(|| READING)?;
        let last = self.last().sto_res(|| READING)?;
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Entries {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.store.set(VOTE, vote).await;
        saved.sto_res(|| (ErrorSubject::Vote, ErrorVerb::Write))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.store.value(VOTE).sto_res(|| (ErrorSubject::Vote, ErrorVerb::Read))
    }

    /// All entries in one transaction, which is on disk when the library is told.
    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded: std::io::Result<Vec<(u64, Vec<u8>)>> =
            entries.into_iter().map(|entry| Ok((entry.log_id.index, encode(&entry)?))).collect();
        let encoded = encoded.sto_res(|| WRITING)?;
        let written = self.store.write(move |transaction| {
            let mut entries = transaction.open_table(ENTRIES)?;
            for (index, bytes) in &encoded {
                entries.insert(index, bytes.as_slice())?;
            }
            Ok(())
        });
        written.await.sto_res(|| WRITING)?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let cut = self.store.write(move |transaction| {
            transaction.open_table(ENTRIES)?.retain_in(from.index.., |_, _| false)?;
            Ok(())
        });
        cut.await.sto_res(|| WRITING)
    }

    async fn purge(&mut self, through: LogId) -> Result<(), StorageError> {
        let purged = encode(&through).sto_res(|| WRITING)?;
        let cut = self.store.write(move |transaction| {
            transaction.open_table(ENTRIES)?.retain_in(..=through.index, |_, _| false)?;
            transaction.open_table(VALUES)?.insert(PURGED, purged.as_slice())?;
            Ok(())
        });
        cut.await.sto_res(|| WRITING)
    }
}
