//! A copy rebuilt from what its journal holds. Pure.
//!
//! The journal says in order what it finds: at most one snapshot, then what was appended, adopted and
//! known to be committed. That is applied on the way, so that the log kept in memory stays short.
//! Whatever makes no sense is an error: bytes that a checksum covers and that contradict each other
//! were written by a mistake of ours or somebody's hand.
//!
//! [`OwnData`] is what a server does with it at its start, on any disk: what it says of itself to the
//! view service, and what it goes on with once that has answered. Until then nothing on the disk changes.

use std::io;
use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::convert::Malformed;
use kvproto::ids::{ClusterId, Epoch, Member, OpNumber, Position, StorageId};
use kvproto::message::Digest;
use kvproto::registration::Held;
use kvproto::snapshot::{self, RESTORE_FILE, SnapshotEnd, SnapshotHead};
use kvproto::time::LogTime;
use kvproto::view::{View, ViewOrder};
use thiserror::Error;

use super::log::Log;
use super::snapshots;
use crate::journal::disk::{Disk, Trouble};
use crate::journal::engine::{Engine, Failed, Found, FoundLog};
use crate::journal::snapshots::{ReadError, SnapshotReader};
use crate::journal::survey::Refused;
use crate::store::{Items, Store, StoreLimits};

/// What a journal held.
#[derive(Debug)]
pub struct Recovered {
    pub(super) store: Store,
    pub(super) log: Log,
    /// Everything through here is known to be committed, and applied.
    pub(super) committed: OpNumber,
    /// The newest epoch adopted.
    pub(super) adopted: Epoch,
    /// The newest record of the view service.
    pub(super) recorded: ViewOrder,
    /// The clock of the log goes on from here.
    pub(super) log_time: LogTime,
    /// What a snapshot would save: the weight of the entries after the last one, or their files.
    pub(super) unsaved_bytes: u64,
    /// Committed entries are kept in memory up to so much.
    retain_bytes: usize,
}

const fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

/// Entries read at a time.
const READ_BYTES: u64 = 4 << 20;

/// A journal that cannot be read after all.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// The disk failed, or what it gives now is not what it gave when it was looked through.
    #[error("{0}")]
    Disk(#[from] ReadError),
    /// It can be read, and makes no sense.
    #[error("{0}")]
    Contradiction(#[from] Malformed),
}

impl Unreadable {
    /// What the disk said, if it was that.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Unreadable::Disk(ReadError::Io(error)) => Some(Trouble::of(error)),
            Unreadable::Disk(ReadError::Malformed(_)) | Unreadable::Contradiction(_) => None,
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Disk(error.into())
    }
}

/// A directory that must not be begun with after all.
#[derive(Debug, Error)]
pub enum NotBegun {
    /// The directory.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The backup, which could be read before.
    #[error("{RESTORE_FILE}: {0}")]
    Backup(#[from] ReadError),
    /// The disk has no room for the data of the backup.
    #[error("the disk has no room for the data of the backup: make room, then start again")]
    NoRoom,
}

/// A backup that was put into a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backup {
    /// There is none.
    None,
    /// What the log is to begin with.
    Restores(SnapshotHead),
    /// What the log began with: nobody needs it any more.
    Restored,
    /// Something else, for this reason. It is left alone.
    Other(String),
}

/// The data of a server at its start: the engine of its directory, and the copy that was in it.
#[derive(Debug)]
pub struct OwnData<D: Disk> {
    engine: Engine<D>,
    recovered: Recovered,
    items: Items,
    backup: Backup,
}

impl<D: Disk> OwnData<D> {
    /// Reads what was found when the engine was opened. Damaged data counts as none.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub fn read(
        engine: Engine<D>,
        found: &Found,
        items: Items,
        retain_bytes: usize,
    ) -> Result<OwnData<D>, Unreadable> {
        let there_is_one = engine.disk().list("")?.iter().any(|name| name == RESTORE_FILE);
        let (recovered, backup) = match found {
            Found::Nothing if there_is_one => {
                let (recovered, head) = read_backup(&engine, items.clone(), retain_bytes)?;
                (recovered, Backup::Restores(head))
            }
            Found::Sound(found) => {
                let recovered = read(&engine, found, items.clone(), retain_bytes)?;
                let backup = if there_is_one { has_become(&engine, found) } else { Backup::None };
                (recovered, backup)
            }
            Found::Nothing | Found::Damaged(_) => (Recovered::nothing(items.clone()), Backup::None),
        };
        Ok(OwnData { engine, recovered, items, backup })
    }

    /// The backup that was in the directory.
    #[must_use]
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// The copy.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// What the view service has to know: what is held, and of which cluster it is.
    #[must_use]
    pub fn held(&self) -> (Held, Option<ClusterId>) {
        let identity = self.engine.identity();
        let cluster = (!identity.cluster.is_none()).then_some(identity.cluster);
        (self.recovered.held(identity.storage), cluster)
    }

    /// The newest record that the view service gave to a life that had this directory. It is shown
    /// before the next one registers.
    #[must_use]
    pub fn shown(&self) -> Option<&View> {
        self.engine.newest_record()
    }

    /// The view service has accepted this server as `me`: the directory is of that cluster, and data
    /// that was given up counts as none.
    ///
    /// # Errors
    /// When the directory is another cluster's, or the disk fails.
    pub fn begin(self, view: &View, me: &Member) -> Result<Begun<D>, NotBegun> {
        let OwnData { mut engine, mut recovered, items, backup } = self;
        engine.settle()?;
        engine.claim(view.cluster)?;
        engine.note_limits(StoreLimits::from(&view.settings))?;
        let was_given_up = recovered.was_given_up(view, me);
        if was_given_up {
            engine.reset();
            recovered = Recovered::nothing(items);
        } else if let Backup::Restores(_) = backup {
            restore(&mut engine)?;
        }
        if let Backup::Restores(_) | Backup::Restored = backup
            && engine.has_log()
        {
            let disk = engine.disk();
            let removed = disk.remove(RESTORE_FILE).and_then(|()| disk.sync_dir(""));
            removed.map_err(Refused::io("remove", RESTORE_FILE))?;
        }
        if let Some(record) = engine.newest_record() {
            recovered.recorded(record);
        }
        Ok(Begun { engine, recovered, was_given_up })
    }
}

/// What a server goes on with.
#[derive(Debug)]
pub struct Begun<D: Disk> {
    /// For its journal, which goes on after the last op of the copy.
    pub engine: Engine<D>,
    /// The copy.
    pub recovered: Recovered,
    /// There was data of a generation that was given up. It is set aside when the log begins anew.
    pub was_given_up: bool,
}

/// Reads a backup as the first state of a log that has not begun.
fn read_backup<D: Disk>(
    engine: &Engine<D>,
    items: Items,
    retain_bytes: usize,
) -> Result<(Recovered, SnapshotHead), Unreadable> {
    let mut recovered = Recovered::new(engine.identity().limits, items, retain_bytes);
    let mut backup = SnapshotReader::open(engine.disk(), RESTORE_FILE)?;
    let head = recovered.begin_with(&mut backup)?;
    if head.at.op == OpNumber(0) {
        let what = "the backup holds no data: restore another one into an empty directory";
        return Err(Malformed { what }.into());
    }
    Ok((recovered, head))
}

/// Whether the log that was found began with the backup beside it.
fn has_become<D: Disk>(engine: &Engine<D>, found: &FoundLog) -> Backup {
    let backup = SnapshotReader::open(engine.disk(), RESTORE_FILE).map_err(ReadError::from);
    match backup.and_then(|mut backup| backup.head()) {
        Ok(head) if found.snapshot.as_ref().is_some_and(|begun| begun.head.at == head.at) => {
            Backup::Restored
        }
        Ok(_) => Backup::Other("it is not what the data here began with".to_owned()),
        Err(error) => Backup::Other(format!("it cannot be read: {error}")),
    }
}

/// Makes a backup the first state of a new directory.
fn restore<D: Disk>(engine: &mut Engine<D>) -> Result<(), NotBegun> {
    let mut backup = SnapshotReader::open(engine.disk(), RESTORE_FILE).map_err(ReadError::from)?;
    let (head, _) = backup.whole(|item| {
        let there_is_room = match item {
            snapshot::Item::Head(head) => engine.receive(head.at, head.keys)?,
            snapshot::Item::Block(records) => engine.receive_chunk(records)?.is_some(),
            snapshot::Item::End(end) => engine.receive_end(end.clone())?,
        };
        if there_is_room { Ok(()) } else { Err(NotBegun::NoRoom) }
    })?;
    if engine.begin_with_received(head.at)? { Ok(()) } else { Err(NotBegun::NoRoom) }
}

/// Rebuilds a copy from a log that was found sound.
///
/// # Errors
/// When it cannot be read, or makes no sense.
pub fn read<D: Disk>(
    engine: &Engine<D>,
    found: &FoundLog,
    items: Items,
    retain_bytes: usize,
) -> Result<Recovered, Unreadable> {
    let mut recovered = Recovered::new(engine.identity().limits, items, retain_bytes);
    recovered.adopt(found.adopted);
    if let Some(mut snapshot) = engine.read_snapshot()? {
        recovered.begin_with(&mut snapshot)?;
    }
    while recovered.log.last().op < found.last.op {
        let entries = engine.read(recovered.log.last().op.next(), READ_BYTES)?;
        if entries.is_empty() {
            return Err(Malformed { what: "the log ends before its end" }.into());
        }
        recovered.append(entries)?;
        recovered.commit(found.committed);
    }
    if recovered.log.last() != found.last {
        return Err(Malformed { what: "the log ends with another op" }.into());
    }
    // Each start begins a segment, however little comes into it.
    recovered.unsaved_bytes = recovered.unsaved_bytes.max(engine.bytes_after_snapshot());
    Ok(recovered)
}

impl Recovered {
    /// Nothing: a server in memory, a new directory, or one that is of no use.
    #[must_use]
    pub fn nothing(items: Items) -> Recovered {
        Recovered::new(StoreLimits::from(&kvproto::Settings::default()), items, 0)
    }

    /// Nothing yet. The limits are those under which the entries were applied before.
    #[must_use]
    pub fn new(limits: StoreLimits, items: Items, retain_bytes: usize) -> Recovered {
        Recovered {
            store: Store::new(limits, items),
            log: Log::default(),
            committed: OpNumber(0),
            adopted: Epoch::default(),
            recorded: ViewOrder::default(),
            log_time: LogTime::default(),
            unsaved_bytes: 0,
            retain_bytes,
        }
    }

    /// Begins with a snapshot, all of which is read.
    fn begin_with<D: Disk>(
        &mut self,
        snapshot: &mut SnapshotReader<D>,
    ) -> Result<SnapshotHead, Unreadable> {
        let (head, end) = snapshot.whole(|item| {
            match item {
                snapshot::Item::Head(head) => self.reserve(head.keys),
                snapshot::Item::Block(records) => self.install(records)?,
                snapshot::Item::End(_) => {}
            }
            Ok::<_, Unreadable>(())
        })?;
        self.end_snapshot(head.at, &end)?;
        Ok(head)
    }

    /// Room for so many keys, which a snapshot will bring.
    pub fn reserve(&mut self, keys: u64) {
        self.store.reserve(keys);
    }

    /// The next records of the snapshot.
    ///
    /// # Errors
    /// If they are none.
    pub fn install(&mut self, records: &[u8]) -> Result<(), Malformed> {
        if self.log.last().op > OpNumber(0) {
            return malformed("a snapshot comes first");
        }
        self.store.install(records)
    }

    /// The snapshot is whole; it shows the state at this position.
    ///
    /// # Errors
    /// If the records do not add up to it.
    pub fn end_snapshot(&mut self, at: Position, end: &SnapshotEnd) -> Result<(), Malformed> {
        if self.log.last().op > OpNumber(0) {
            return malformed("a snapshot comes first");
        }
        if end.digest != self.store.digest() {
            return malformed("the records of the snapshot do not add up to its digest");
        }
        self.log.reset(at, end.epochs.clone());
        if self.log.position_at(at.op) != Some(at) {
            return malformed("the epochs of the snapshot do not lead to its op");
        }
        self.committed = at.op;
        self.log_time = end.log_time;
        self.adopted = self.adopted.max(at.epoch);
        Ok(())
    }

    /// Entries that were appended.
    ///
    /// # Errors
    /// If they do not continue the log.
    pub fn append(
        &mut self,
        entries: impl IntoIterator<Item = Arc<Entry>>,
    ) -> Result<(), Malformed> {
        for entry in entries {
            let last = self.log.last();
            let time = self.log.last_time().unwrap_or_else(|| self.store.log_time());
            if entry.op() != last.op.next() || entry.position.epoch < last.epoch || entry.at < time
            {
                return malformed("entries do not continue the log");
            }
            self.adopted = self.adopted.max(entry.position.epoch);
            self.log_time = self.log_time.max(entry.at);
            self.unsaved_bytes += entry.weight() as u64;
            self.log.append(entry);
        }
        Ok(())
    }

    /// An epoch was adopted.
    pub fn adopt(&mut self, epoch: Epoch) {
        self.adopted = self.adopted.max(epoch);
    }

    /// A record of the view service was kept.
    pub fn recorded(&mut self, record: &View) {
        self.recorded = record.order();
    }

    /// Everything through this op was known to be committed, as far as the log reaches.
    pub fn commit(&mut self, through: OpNumber) {
        while self.committed < through {
            let Some(entry) = self.log.get(self.committed.next()) else {
                break;
            };
            self.store.apply(entry);
            self.committed = self.committed.next();
        }
        self.log.trim(self.retain_bytes, self.committed);
    }

    /// What a copy of it is of, and what that ends with, but for its chunks; and the store to be
    /// copied. It is the state through what is known to be committed.
    ///
    /// # Panics
    /// If the epochs do not lead there: then the log itself is broken.
    pub fn snapshot(&mut self, cluster: ClusterId) -> (SnapshotHead, SnapshotEnd, &mut Store) {
        let (committed, time) = (self.committed, self.log_time);
        let (head, end) = snapshots::describe(cluster, &self.log, committed, time, &self.store);
        (head, end, &mut self.store)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.log.last() == Position::default() && self.adopted == Epoch::default()
    }

    /// Keys in what is committed.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.key_count()
    }

    /// Digest of what is committed.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.store.digest()
    }

    /// What a snapshot would save, in bytes.
    #[must_use]
    pub fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes
    }

    /// The last op, and the last one that is known to be committed.
    #[must_use]
    pub fn last(&self) -> (Position, OpNumber) {
        (self.log.last(), self.committed)
    }

    /// What the view service has to know of it.
    #[must_use]
    pub fn held(&self, storage: StorageId) -> Held {
        Held { storage, last: self.log.last(), epochs: self.log.epochs().to_vec() }
    }

    /// VIEW-7: data of an older generation was given up, unless the newer one begins from it. It is
    /// set aside as a whole, whatever of it the newer one has in common. As long as the view is not
    /// activated the newer one may not have begun: the server that it was to begin from may be this
    /// one, in the life before, and its data all that there is.
    pub(super) fn was_given_up(&self, view: &View, me: &Member) -> bool {
        !self.is_nothing()
            && self.log.last().epoch.generation < view.generation
            && view.is_activated()
            && !view.eligible.contains(me)
    }
}
