//! The file: a table of entries by index, and a few named values. Everything in it is JSON, so that
//! a newer version, and a person in need, can read what an older one wrote.
//!
//! Every write is one transaction, and is on disk when it returns: its pages are synced before the
//! header that names them, so that damage at the end of the file is never taken for a write that a
//! power cut tore. After a failed write or sync nothing more is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;

/// The entries of the log, by index.
pub(super) const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
/// The vote, the end of what was cut off, and the snapshot.
pub(super) const VALUES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("values");

pub(super) const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";
pub(super) const SNAPSHOT: &str = "snapshot";

/// What a small log needs; the library would take a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Its checksums do not match.
    #[error("{file} is damaged: {what}", file = .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system does not let us. That says nothing about what is in it.
    #[error("cannot open {file}: {error}; mend that, then start again", file = .file.display())]
    Failed {
        /// The file.
        file: PathBuf,
        /// What was said.
        error: redb::Error,
    },
}

/// The open file. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    open: Arc<Open>,
}

struct Open {
    database: Database,
    /// Dropped after the database.
    _closed: oneshot::Sender<()>,
}

/// Ends when the file is closed.
pub(super) type Closed = oneshot::Receiver<()>;

impl Store {
    /// Opens the file, makes it if there is none, and verifies all of it.
    pub(super) fn open(file: &Path) -> Result<(Store, Closed), StoreError> {
        // The library panics at some of the things that it does not expect to find.
        let opened = std::panic::catch_unwind(|| Store::verified(file));
        opened.unwrap_or_else(|_| {
            let what = "its pages contradict each other".into();
            Err(StoreError::Damaged { file: file.into(), what })
        })
    }

    fn verified(file: &Path) -> Result<(Store, Closed), StoreError> {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(file);
        let mut database = opened.map_err(|error| explain(file, error.into()))?;
        // What this mends is which pages are free. It never goes back to an older state: the pages of
        // the newest one were safe before it became the newest.
        let _mended = database.check_integrity().map_err(|error| explain(file, error.into()))?;
        Store::over(database).map_err(|error| explain(file, error))
    }

    /// A store that writes through this backend.
    #[cfg(test)]
    pub(super) fn on(backend: impl redb::StorageBackend) -> Result<(Store, Closed), redb::Error> {
        Store::over(Database::builder().create_with_backend(backend)?)
    }

    fn over(database: Database) -> Result<(Store, Closed), redb::Error> {
        let (tell, closed) = oneshot::channel();
        let store = Store { open: Arc::new(Open { database, _closed: tell }) };
        store.transact(|transaction| {
            transaction.open_table(ENTRIES)?;
            transaction.open_table(VALUES)?;
            Ok(())
        })?;
        Ok((store, closed))
    }

    /// A named value, if it was ever written.
    pub(super) fn value<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let bytes = self.look(|transaction| {
            let found = transaction.open_table(VALUES)?.get(name)?;
            Ok(found.map(|bytes| bytes.value().to_vec()))
        })?;
        bytes.map(|bytes| decode(&bytes)).transpose()
    }

    /// What one consistent look at the file finds.
    pub(super) fn look<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> io::Result<T> {
        let begun = self.open.database.begin_read().map_err(redb::Error::from);
        begun.and_then(|transaction| look(&transaction)).map_err(io::Error::other)
    }

    /// Changes the file; the change is on disk when this returns.
    pub(super) async fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    ) -> io::Result<()> {
        let store = self.clone();
        let written = tokio::task::spawn_blocking(move || store.transact(change)).await;
        written.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Writes a named value.
    pub(super) async fn set(&self, name: &'static str, value: &impl Serialize) -> io::Result<()> {
        let bytes = encode(value)?;
        self.write(move |transaction| {
            transaction.open_table(VALUES)?.insert(name, bytes.as_slice())?;
            Ok(())
        })
        .await
    }

    fn transact(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.open.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What could not be read is damage only if the disk has lost it, or it is not what was written.
fn explain(file: &Path, error: redb::Error) -> StoreError {
    const EIO: i32 = 5;
    let file = file.to_path_buf();
    match error {
        redb::Error::Corrupted(what) => StoreError::Damaged { file, what },
        redb::Error::Io(error)
            if error.kind() == io::ErrorKind::InvalidData
                || error.kind() == io::ErrorKind::UnexpectedEof
                || error.raw_os_error() == Some(EIO) =>
        {
            StoreError::Damaged { file, what: error.to_string() }
        }
        error @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }) => {
            StoreError::Damaged { file, what: error.to_string() }
        }
        error => StoreError::Failed { file, error },
    }
}
