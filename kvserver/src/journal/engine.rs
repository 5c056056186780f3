//! The storage engine of a server: one directory, its eras, and the life of the log in it. Pure: on
//! any [`Disk`].
//!
//! An era is one unbroken life of the log: a first state and everything after it. A log that begins
//! anew gets a new era, which is made beside the old one and takes its place by one rename; until
//! then nothing of the old one changes. Calls queue up, [`Engine::flush`] writes all of them with
//! one write and one sync. Nothing is safe before that has returned true.
//!
//! The first error of a write or a sync ends the life of an engine: the era is marked as suspect and
//! everything is refused from then on. Nothing is tried twice, but for want of room or of access, which
//! is found out before anything is written.
//!
//! To find out what is there changes nothing: [`Engine::find`]. Only who may write here
//! [settles](Engine::settle) what a crash left, before anything else.

mod next_era;
mod opening;

use std::io;
use std::sync::Arc;

use kvproto::batch::Batch;
use kvproto::command::Entry;
use kvproto::ids::{ClusterId, Epoch, Generation, OpNumber, Position, StorageId};
use kvproto::limits::BATCH_SIZE_MAX;
use kvproto::rules::{Rule, keeps};
use kvproto::settings::Settings;
use kvproto::view::View;
use thiserror::Error;

use crate::store::StoreLimits;

use super::Room;
use super::disk::{Disk, DiskFile, Space, Trouble};
use super::layout::{self, IDENTITY, Identity, NEW, RECORD, SET_ASIDE, SUSPECT};
use super::log::{Log, Op, Sizes, Spare};
use super::snapshots::{ReadError, SnapshotFile, SnapshotReader};
use super::survey::{Damage, Dropped, Refused, Torn};
use next_era::{Received, Replaced};
use opening::Unsettled;

/// A disk is nearly full when less than this part of it is free, if that is less than what the
/// options ask for.
const RESERVE_OF_DISK: u64 = 16;
/// Room is scarce when less is free than so many times what makes a disk nearly full.
const SCARCE: u64 = 4;
/// A segment to come takes no more than this part of what is free.
const SPARE_OF_FREE: u64 = 8;

/// Choices of whoever opens a directory.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Names the directory if it is new: drawn at random.
    pub storage: StorageId,
    /// Drawn at random: what is left of older writes never passes for new.
    pub seed: u64,
    /// Sizes of segments.
    pub sizes: Sizes,
    /// Bytes of segments kept for copies that come back, beside what the log needs itself.
    pub retain: u64,
    /// Less free bytes than this make the disk nearly full.
    pub reserve: u64,
}

/// What a directory held when it was opened.
#[derive(Debug)]
pub enum Found {
    /// Nothing yet.
    Nothing,
    /// A log.
    Sound(Box<FoundLog>),
    /// Something that must not be relied on. It stays as it is until a new log begins.
    Damaged(Damage),
}

/// A log that was found.
#[derive(Clone, Debug)]
pub struct FoundLog {
    /// Position of its last op.
    pub last: Position,
    /// The newest epoch adopted.
    pub adopted: Epoch,
    /// Everything through here was in every required copy, and perhaps more.
    pub committed: OpNumber,
    /// What the log begins with; nothing if it begins with op 1.
    pub snapshot: Option<SnapshotFile>,
    /// What a crash had left unfinished at its end, and is gone.
    pub torn: Option<Torn>,
    /// Tails that it dropped and its files still hold.
    pub dropped: Vec<Dropped>,
    /// What was wrong with segments that the snapshot covers: they are gone, nobody needed them.
    pub damage_covered: Option<Damage>,
    /// Eras that were set aside and wait for somebody to look at them.
    pub set_aside: Vec<String>,
}

/// The disk failed. What it was asked to keep is in doubt; this server must leave.
#[derive(Debug, Error)]
#[error(
    "cannot {doing}: {error}; the journal is not relied on any more, and this server must be filled \
     from another copy when its disk is sound again"
)]
pub struct Failed {
    doing: &'static str,
    error: io::Error,
}

/// The storage engine of a server.
#[derive(Debug)]
pub struct Engine<D: Disk> {
    disk: D,
    options: Options,
    identity: Identity,
    /// The newest record of the view service that is safe, and one that is to take its place.
    record: Option<Box<View>>,
    next_record: Option<Box<View>>,
    nonces: u64,
    adopted: Epoch,
    committed: OpNumber,
    /// The live log; none before the first one begins, and after a reset until the next begins.
    log: Option<Log<D>>,
    snapshot: Option<SnapshotFile>,
    received: Option<Received<D>>,
    replaced: Option<Replaced>,
    next_era: u64,
    queue: Vec<Op>,
    has_failed: bool,
    /// What is still to be done in the directory before anything else.
    unsettled: Option<Unsettled>,
    /// Why the last thing that was put off was, if not for want of room.
    obstacle: Option<String>,
}

/// Less free than this makes a disk nearly full, where no more than `most` is asked for.
pub(super) fn reserve(space: &Space, most: u64) -> u64 {
    most.min(space.total / RESERVE_OF_DISK)
}

/// Tidying up that cannot be done now, which the next time or the next start does.
fn or_later(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if Trouble::of(&error) == Trouble::NoAccess => Ok(()),
        done => done,
    }
}

impl Failed {
    /// A thread that works on the journal is gone.
    #[must_use]
    pub fn thread_gone() -> Failed {
        let error = io::Error::other("a thread of it has panicked");
        Failed { doing: "work on the journal", error }
    }
}

impl<D: Disk> Engine<D> {
    fn new(disk: D, options: Options, identity: Option<Identity>) -> Engine<D> {
        let fresh = || Identity {
            storage: options.storage,
            cluster: ClusterId::default(),
            limits: StoreLimits::from(&Settings::default()),
        };
        Engine {
            identity: identity.unwrap_or_else(fresh),
            disk,
            options,
            record: None,
            next_record: None,
            nonces: options.seed,
            adopted: Epoch::default(),
            committed: OpNumber(0),
            log: None,
            snapshot: None,
            received: None,
            replaced: None,
            next_era: 1,
            queue: Vec::new(),
            has_failed: false,
            unsettled: None,
            obstacle: None,
        }
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Whose directory it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The view service speaks for this cluster; from now on the directory belongs to it.
    ///
    /// # Errors
    /// When it belongs to another one, or that cannot be written.
    pub fn claim(&mut self, cluster: ClusterId) -> Result<(), Refused> {
        let theirs = self.identity.cluster;
        if theirs == cluster {
            return Ok(());
        }
        if !theirs.is_none() {
            return Err(Refused::OtherCluster { theirs, ours: cluster });
        }
        self.identity.cluster = cluster;
        self.write_identity().map_err(Refused::io("write", IDENTITY))
    }

    /// From now on entries are applied under these limits, also when the log is read again.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note_limits(&mut self, limits: StoreLimits) -> Result<(), Refused> {
        if self.identity.limits == limits {
            return Ok(());
        }
        self.identity.limits = limits;
        self.write_identity().map_err(Refused::io("write", IDENTITY))
    }

    fn write_identity(&self) -> io::Result<()> {
        self.replace(IDENTITY, &self.identity.encode())
    }

    /// A small file takes the place of the one that has this name, as a whole or not at all.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new = format!("{name}{NEW}");
        let mut file = self.disk.create(&new)?;
        file.write_at(0, text.as_bytes())?;
        file.sync()?;
        self.disk.rename(&new, name)?;
        self.disk.sync_dir("")
    }

    /// The newest record of the view service that is safe here.
    #[must_use]
    pub fn newest_record(&self) -> Option<&View> {
        self.record.as_deref()
    }

    /// A record of the view service takes the place of an older one.
    pub fn record(&mut self, record: Box<View>) {
        self.next_record = Some(record);
    }

    /// False if the disk is full.
    fn flush_record(&mut self) -> Result<bool, Failed> {
        let Some(record) = &self.next_record else {
            return Ok(true);
        };
        let wrote = self.replace(RECORD, &layout::encode_record(record));
        let wrote = self.unless_put_off("write the newest view record", wrote)?;
        if wrote {
            self.record = self.next_record.take();
        }
        Ok(wrote)
    }

    /// Reads the state that the log begins with; `None` if it begins with op 1.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn read_snapshot(&self) -> Result<Option<SnapshotReader<D>>, ReadError> {
        let path = self.snapshot.as_ref().map(|snapshot| &snapshot.path);
        Ok(path.map(|path| SnapshotReader::open(&self.disk, path)).transpose()?)
    }

    /// Entries from this op on that have been flushed, about as many as have so many bytes, at least
    /// one; none when there is none, or the op is no longer in the segments.
    ///
    /// # Errors
    /// When the disk fails, or what it gives is not what was written.
    pub fn read(&self, from: OpNumber, bytes_max: u64) -> io::Result<Vec<Arc<Entry>>> {
        let log = self.log.as_ref();
        log.map_or(Ok(Vec::new()), |log| log.read(&self.disk, from, bytes_max))
    }

    /// What the log takes on the disk after the snapshot that it begins with, in bytes of files.
    #[must_use]
    pub fn bytes_after_snapshot(&self) -> u64 {
        let op = self.snapshot.as_ref().map_or(OpNumber(0), |snapshot| snapshot.head.at.op);
        self.log.as_ref().map_or(0, |log| log.bytes_after(op))
    }

    /// An epoch is adopted. Where there is no log, the next one will begin with it.
    pub fn adopt(&mut self, epoch: Epoch) {
        self.adopted = self.adopted.max(epoch);
        if self.log.is_some() {
            self.queue.push(Op::Adopt(epoch));
        }
    }

    /// Entries follow, or take the place of what was there: those are one record, so that a crash
    /// leaves the old ones or all of the new.
    pub fn append(&mut self, entries: &[Arc<Entry>]) {
        let replaced = entries.first().filter(|first| first.op() <= self.last_called());
        if let Some(first) = replaced
            && !keeps(Rule::ReplacedAsOne)
        {
            self.queue.push(Op::Truncate(OpNumber(first.op().0 - 1)));
        }
        let weight_max = if replaced.is_some() { usize::MAX } else { BATCH_SIZE_MAX };
        let (mut start, mut weight) = (0, 0);
        for (end, entry) in (1..).zip(entries) {
            weight += entry.weight();
            let next = entries.get(end);
            let joins = next.is_some_and(|next| {
                next.position.epoch == entry.position.epoch && weight + next.weight() <= weight_max
            });
            if !joins {
                let batch = &entries[start..end];
                self.queue.push(Op::Entries {
                    first: batch[0].position,
                    count: u32::try_from(batch.len()).expect("a batch has a few thousand entries"),
                    batch: Batch::from(batch.to_vec()).encoded(),
                });
                (start, weight) = (end, 0);
            }
        }
    }

    /// The last op, written or not.
    fn last_called(&self) -> OpNumber {
        let queued = self.queue.iter().rev().find_map(|op| match op {
            Op::Entries { first, count, .. } => Some(OpNumber(first.op.0 + u64::from(*count) - 1)),
            Op::Truncate(_) | Op::Adopt(_) => None,
        });
        let written = || self.log.as_ref().map_or(OpNumber(0), |log| log.index().last());
        queued.unwrap_or_else(written)
    }

    /// Everything through this op is in every required copy.
    pub fn committed(&mut self, through: OpNumber) {
        self.committed = self.committed.max(through);
    }

    /// Why the last thing that was put off was, if that was not for want of room.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// Whether directory and log are still found where they were. Otherwise nobody will find again what
    /// is written.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.disk.is_there() && self.log.as_ref().is_none_or(Log::is_there)
    }

    /// Whether there is something to flush.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.next_record.is_some()
    }

    /// Makes everything called so far safe, with one write and one sync. False if the disk is full:
    /// then it is still to be done.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&mut self) -> Result<bool, Failed> {
        self.check()?;
        if !self.flush_record()? {
            return Ok(false);
        }
        if self.queue.is_empty() {
            return Ok(true);
        }
        if self.log.is_none() {
            let begun = self.begin_era(None);
            if !self.sound("begin a journal", begun)? {
                return Ok(false);
            }
        }
        let nonce = self.nonce();
        let Some(log) = &mut self.log else {
            return Ok(false);
        };
        let wrote = log.write(&self.disk, &self.queue, self.committed, self.adopted, nonce);
        self.obstacle = log.obstacle().map(str::to_owned);
        let wrote = self.sound("write the journal", wrote)?;
        if wrote {
            self.queue.clear();
        }
        Ok(wrote)
    }

    /// What follows goes into a new segment, so that a snapshot can stand before it. Without room, the
    /// next write begins it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin_segment(&mut self) -> Result<(), Failed> {
        self.check()?;
        let nonce = self.nonce();
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        log.end_segment();
        let began = log.write(&self.disk, &[], self.committed, self.adopted, nonce);
        self.sound("write the journal", began).map(drop)
    }

    /// To be called when nothing more is to be flushed for now: see [`Log::mark`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn mark(&mut self) -> Result<(), Failed> {
        self.check()?;
        let marked = match &mut self.log {
            Some(log) => log.mark(self.committed),
            None => Ok(()),
        };
        self.sound("write the journal", marked)
    }

    /// Whether there is a log that own snapshots can be of. Otherwise one is received.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Makes a verified snapshot of this log the one that it begins with, and removes what that
    /// replaces. False if the disk is full. The caller knows that it is of this log.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn install(&mut self, verified: &SnapshotFile) -> Result<bool, Failed> {
        self.check()?;
        // A log must not end before the snapshot that it begins with, nor hold a tail there that is
        // to be dropped.
        if self.log.is_some() && !self.flush()? {
            return Ok(false);
        }
        let installed = self.install_flushed(verified);
        self.sound("take over a snapshot", installed).map(|()| true)
    }

    /// Removes a snapshot that is of a log that is gone.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn discard(&mut self, verified: &SnapshotFile) -> Result<(), Failed> {
        let removed = or_later(self.disk.remove(&verified.path));
        self.sound("remove a snapshot", removed)
    }

    fn install_flushed(&mut self, verified: &SnapshotFile) -> io::Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let at = verified.head.at;
        assert!(at.op <= log.index().last(), "a snapshot is of what the log holds");
        let path = format!("{}/{}", log.dir(), layout::snapshot(at.op));
        self.disk.rename(&verified.path, &path)?;
        self.disk.sync_dir(log.dir())?;
        let installed = SnapshotFile { path: path.clone(), ..verified.clone() };
        let old = self.snapshot.replace(installed);
        if let Some(old) = old.filter(|old| old.path != path) {
            or_later(self.disk.remove(&old.path))?;
        }
        log.remove_through(&self.disk, at.op, self.options.retain)?;
        or_later(self.forget_set_aside(at.epoch.generation))
    }

    /// What an operator gave up stays, until somebody has looked at it.
    fn forget_set_aside(&self, generation: Generation) -> io::Result<()> {
        for name in self.disk.list(SET_ASIDE)? {
            if layout::set_aside_generation(&name) == Some(generation) {
                self.disk.remove(&format!("{SET_ASIDE}/{name}"))?;
            }
        }
        Ok(())
    }

    /// The size of a segment that should be prepared, if one should.
    #[must_use]
    pub fn wants_spare(&self) -> Option<u64> {
        let size = self.log.as_ref()?.wants_spare()?;
        let free = self.disk.space().map_or(u64::MAX, |space| space.free);
        Some(size.min(free / SPARE_OF_FREE).max(self.options.sizes.min))
    }

    /// Takes a file for the next segment.
    pub fn give_spare(&mut self, spare: Spare) {
        match &mut self.log {
            Some(log) => log.give_spare(spare),
            None => self.drop_spare(&spare),
        }
    }

    /// Nobody needs this file any more. If it stays, it goes at the next start.
    fn drop_spare(&self, spare: &Spare) {
        let _ = self.disk.remove(&spare.path);
    }

    /// How much room there is; where there was none for more data, there is some only when it is
    /// clearly more. What is kept free beyond it lets a snapshot end, which makes room again.
    ///
    /// # Errors
    /// When nobody knows.
    pub fn room(&self, before: Room) -> io::Result<Room> {
        let space = self.disk.space()?;
        let reserve = self.reserve(&space);
        let more = if before == Room::Full { reserve / 8 } else { 0 };
        Ok(match space.free {
            free if free < reserve + more => Room::Full,
            free if free < SCARCE * reserve => Room::Scarce,
            _ => Room::Enough,
        })
    }

    /// Bytes that no snapshot may take: with them epochs are adopted, and what was ordered before the
    /// disk was nearly full is kept.
    #[must_use]
    pub fn kept_for_the_log(&self) -> u64 {
        self.disk.space().map_or(0, |space| self.reserve(&space) / 2)
    }

    fn reserve(&self, space: &Space) -> u64 {
        reserve(space, self.options.reserve)
    }

    /// Removes what is kept for copies that come back only: those that lack it need a full transfer.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make_room(&mut self) -> Result<(), Failed> {
        self.check()?;
        let (Some(log), Some(snapshot)) = (&mut self.log, &self.snapshot) else {
            return Ok(());
        };
        let removed = log.remove_through(&self.disk, snapshot.head.at.op, 0);
        self.sound("remove a segment", removed)
    }

    /// What was written elsewhere for this directory failed: nothing is done any more.
    pub fn fail(&mut self, doing: &'static str, error: io::Error) -> Failed {
        if !self.has_failed {
            self.has_failed = true;
            // It may well fail too; then the log is as sound as its bytes say.
            let dir = self.log.as_ref().map(|log| log.dir());
            let _ = dir.map(|dir| self.mark_suspect(dir, doing, &error));
        }
        Failed { doing, error }
    }

    fn mark_suspect(&self, dir: &str, doing: &str, error: &io::Error) -> io::Result<()> {
        let mut file = self.disk.create(&format!("{dir}/{SUSPECT}"))?;
        file.write_at(0, format!("cannot {doing}: {error}\n").as_bytes())?;
        file.sync()?;
        self.disk.sync_dir(dir)
    }

    fn check(&self) -> Result<(), Failed> {
        assert!(self.unsettled.is_none(), "nothing is written before the directory is settled");
        if self.has_failed {
            let error = io::Error::other("it failed before");
            return Err(Failed { doing: "use the journal", error });
        }
        Ok(())
    }

    fn sound<T>(&mut self, doing: &'static str, result: io::Result<T>) -> Result<T, Failed> {
        result.map_err(|error| self.fail(doing, error))
    }

    /// False if nothing was done, and it is to be tried again.
    fn unless_put_off(
        &mut self,
        doing: &'static str,
        result: io::Result<()>,
    ) -> Result<bool, Failed> {
        self.obstacle = None;
        match result {
            Err(error) if Trouble::of(&error).may_pass() => {
                self.note_obstacle(&error);
                Ok(false)
            }
            result => self.sound(doing, result).map(|()| true),
        }
    }

    fn note_obstacle(&mut self, error: &io::Error) {
        let is_access = Trouble::of(error) == Trouble::NoAccess;
        self.obstacle = is_access.then(|| error.to_string());
    }

    fn nonce(&mut self) -> u64 {
        // Steele, Lea and Flood, 2014: splitmix64.
        self.nonces = self.nonces.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.nonces ^ (self.nonces >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
