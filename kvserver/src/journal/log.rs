//! The live log of an era: its segments, the one that is written, and the ops in them. Pure: on any
//! [`Disk`].
//!
//! A write is whole in one segment and synced before anything is believed of it, so every segment
//! but the last is safe to its end. After an error nothing here may be used again; its owner sees to
//! that. Want of room for a new segment is no error: it is found out before anything is written.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kvproto::batch::Batch;
use kvproto::command::Entry;
use kvproto::ids::{Epoch, OpNumber, Position, StorageId};
use kvproto::rules::{Rule, keeps};

use super::disk::{Disk, DiskFile, Trouble};
use super::index::{Index, Run};
use super::layout::{self, NEW};
use super::record::{self, Body, Chain, HEADER_SIZE, Hints, Lsn, Records, SegmentHeader};
use super::survey;

/// The last part of a path, as long as a segment is not finished.
const UNFINISHED: &str = "segment";

/// Sizes of segments, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// A segment made in a hurry has this, or what the write needs if there is no room for more.
    pub min: u64,
    /// One prepared ahead has twice that of the one before, up to this.
    pub max: u64,
}

/// Something to be written.
#[derive(Clone, Debug)]
pub enum Op {
    /// Contiguous entries of one epoch. What stood under their numbers, and behind, is dropped.
    Entries {
        /// Position of the first.
        first: Position,
        /// How many.
        count: u32,
        /// Encoded.
        batch: Bytes,
    },
    /// Entries after this op are dropped. Older releases wrote it; where nothing follows it, what was
    /// dropped is lost.
    Truncate(OpNumber),
    /// An epoch was adopted.
    Adopt(Epoch),
}

impl Op {
    fn body(&self) -> Body<'_> {
        match self {
            Op::Entries { first, count, batch } => {
                Body::Entries { first: *first, count: *count, batch }
            }
            Op::Truncate(after) => Body::Truncate(*after),
            Op::Adopt(epoch) => Body::Adopt(*epoch),
        }
    }
}

/// A file for the next segment, made ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spare {
    /// Where it is.
    pub path: String,
    /// Its length.
    pub size: u64,
}

/// Makes a file for a segment whose bytes are on disk already, so that writes within it change
/// nothing but them. Takes long; meant for a thread of its own.
///
/// # Errors
/// When the disk fails, or is full.
pub fn prepare<D: Disk>(disk: &D, path: String, size: u64) -> io::Result<Spare> {
    /// Synced after each, so that no sync of somebody else waits long for this one.
    const STEP: usize = 1 << 20;
    let mut file = disk.create(&path)?;
    let filled = file.reserve(size).and_then(|()| {
        let zeros = vec![0; STEP.min(usize::try_from(size).unwrap_or(STEP))];
        let mut at = 0;
        while at < size {
            let step = (size - at).min(zeros.len() as u64);
            file.write_at(at, &zeros[..usize::try_from(step).unwrap_or(0)])?;
            file.sync()?;
            at += step;
        }
        Ok(())
    });
    match filled {
        Ok(()) => Ok(Spare { path, size }),
        Err(error) => {
            // What is left of it would only take room.
            let _ = disk.remove(&path);
            Err(error)
        }
    }
}

/// A segment that can be read.
#[derive(Debug)]
struct Segment {
    number: u64,
    path: String,
    chain: Chain,
    /// Length of its file.
    size: u64,
}

/// The segment that is written.
#[derive(Debug)]
struct Current<D: Disk> {
    file: D::File,
    chain: Chain,
    base: Lsn,
    written: u64,
    synced: u64,
    capacity: u64,
}

/// The live log of an era.
#[derive(Debug)]
pub struct Log<D: Disk> {
    storage: StorageId,
    era: u64,
    dir: String,
    sizes: Sizes,
    segments: VecDeque<Segment>,
    /// None before the first write of this life: what an older one left is not written to again.
    current: Option<Current<D>>,
    /// Number of the last segment, the place after its last record, and its checksum.
    ended: (u64, Lsn, u32),
    index: Index,
    spare: Option<Spare>,
    /// What the last record said.
    said: Hints,
    /// Why there was no file for the next segment, if that was not for want of room.
    obstacle: Option<String>,
}

impl<D: Disk> Log<D> {
    /// A log of no segments, whose first op will follow this one.
    #[must_use]
    pub fn new(storage: StorageId, era: u64, dir: String, sizes: Sizes, after: OpNumber) -> Log<D> {
        Log {
            storage,
            era,
            dir,
            sizes,
            segments: VecDeque::new(),
            current: None,
            ended: (0, 0, 0),
            index: Index::new(after),
            spare: None,
            said: Hints::default(),
            obstacle: None,
        }
    }

    /// The log that a survey has found sound.
    #[must_use]
    pub fn found(storage: StorageId, sizes: Sizes, era: &survey::Era) -> Log<D> {
        let mut log = Log::new(storage, era.number, era.dir.clone(), sizes, OpNumber(0));
        log.index = era.index.clone();
        for segment in &era.segments {
            log.ended = (segment.number, segment.end(), era.previous);
            log.segments.push_back(Segment {
                number: segment.number,
                path: segment.path.clone(),
                chain: segment.header.chain(),
                size: segment.header.capacity,
            });
        }
        log.said = Hints { synced_through: log.ended.1, committed: era.committed };
        log
    }

    /// The ops.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Number of the era.
    #[must_use]
    pub fn era(&self) -> u64 {
        self.era
    }

    /// Directory of the era.
    #[must_use]
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// Why the last write found no file for a segment, if that was not for want of room.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// Whether the segment that is written still has a name: otherwise nobody will find it again.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.file.is_there())
    }

    /// The directory has another name now.
    pub fn moved(&mut self, dir: String) {
        for segment in &mut self.segments {
            let name = segment.path.rsplit('/').next().unwrap_or_default();
            segment.path = format!("{dir}/{name}");
        }
        self.dir = dir;
    }

    /// The size of a segment that should be prepared, if one should.
    #[must_use]
    pub fn wants_spare(&self) -> Option<u64> {
        let current = self.current.as_ref().filter(|_| self.spare.is_none())?;
        let size = (2 * current.capacity).clamp(self.sizes.min, self.sizes.max);
        (current.written > current.capacity / 2).then_some(size)
    }

    /// Takes a file for the next segment.
    pub fn give_spare(&mut self, spare: Spare) {
        self.spare = Some(spare);
    }

    /// Gives it back.
    pub fn take_spare(&mut self) -> Option<Spare> {
        self.spare.take()
    }

    /// Nothing more goes into the segment that is written.
    pub fn end_segment(&mut self) {
        if let Some(current) = &mut self.current {
            current.capacity = current.written;
        }
    }

    /// Whether these fit in the segment that is written.
    fn fits(&self, size: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.written + size <= current.capacity)
    }

    /// Writes and syncs all of these, in one piece that leaves room for a mark. `nonce` is for a segment that begins with them.
    /// False if there is no room on the disk, or it may not be written to now; then nothing has changed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(
        &mut self,
        disk: &D,
        ops: &[Op],
        committed: OpNumber,
        adopted: Epoch,
        nonce: u64,
    ) -> io::Result<bool> {
        let size: u64 = ops.iter().map(|op| record::record_size(&op.body()) as u64).sum();
        let mark = record::record_size(&Body::Mark) as u64;
        if self.fits(size + mark) {
            let Some(current) = &mut self.current else {
                return Ok(false);
            };
            let at = current.written;
            let hints = Hints { synced_through: current.base + current.synced, committed };
            let (bytes, chain) = encode(Vec::new(), current.chain, hints, ops);
            current.file.write_at(at, &bytes)?;
            sync(&mut current.file)?;
            current.chain = chain;
            self.took(at, hints, bytes.len() as u64, ops);
            return Ok(true);
        }
        // A mark at the end may not be safe yet, and the next segment will say that it is.
        if let Some(current) = self.current.as_mut().filter(|old| old.synced < old.written) {
            current.file.sync()?;
            current.synced = current.written;
        }
        let (last_number, base, previous) = self.ended;
        let needed = HEADER_SIZE as u64 + size + mark;
        let Some((mut file, unfinished, capacity)) = self.next_file(disk, needed)? else {
            return Ok(false);
        };
        let (number, after) = (last_number + 1, self.index.last());
        let (storage, era) = (self.storage, self.era);
        let header =
            SegmentHeader { storage, era, nonce, base, capacity, previous, adopted, after };
        let hints = Hints { synced_through: base, committed };
        let (bytes, chain) = encode(header.encode(), header.chain(), hints, ops);
        file.write_at(0, &bytes)?;
        sync(&mut file)?;
        let path = format!("{}/{}", self.dir, layout::segment(number, after));
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(&self.dir)?;
        self.segments.push_back(Segment { number, path, chain: header.chain(), size: capacity });
        self.current = Some(Current { file, chain, base, written: 0, synced: 0, capacity });
        self.ended.0 = number;
        self.took(HEADER_SIZE as u64, hints, bytes.len() as u64, ops);
        Ok(true)
    }

    /// A file for the next segment, where it is, and its length; `None` if there is none to be had now.
    fn next_file(&mut self, disk: &D, needed: u64) -> io::Result<Option<(D::File, String, u64)>> {
        self.obstacle = None;
        match self.try_next_file(disk, needed) {
            Err(error) if Trouble::of(&error) == Trouble::NoAccess => {
                self.obstacle = Some(error.to_string());
                Ok(None)
            }
            made => made,
        }
    }

    fn try_next_file(
        &mut self,
        disk: &D,
        needed: u64,
    ) -> io::Result<Option<(D::File, String, u64)>> {
        // Before anything is written: what the end of the write needs must not be found missing then.
        disk.open_dir(&self.dir)?;
        if let Some(spare) = self.spare.as_ref().filter(|spare| spare.size >= needed) {
            let file = disk.open(&spare.path)?;
            let made = (file, spare.path.clone(), spare.size);
            self.spare = None;
            return Ok(Some(made));
        }
        let path = format!("{}/{UNFINISHED}{NEW}", self.dir);
        // On a disk that is full but for a few kilobytes a primary must still begin its epoch: nobody
        // could read from it otherwise.
        for capacity in [self.sizes.min.max(needed), needed] {
            let made = disk.create(&path).and_then(|mut file| {
                file.reserve(capacity)?;
                Ok(file)
            });
            match made {
                Ok(file) => return Ok(Some((file, path, capacity))),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // What is left of it would only take room.
        let _ = disk.remove(&path);
        Ok(None)
    }

    /// Notes what has been written and synced; the first record is at `at`.
    fn took(&mut self, at: u64, hints: Hints, bytes: u64, ops: &[Op]) {
        let (Some(current), Some(segment)) = (&mut self.current, self.segments.back_mut()) else {
            return;
        };
        current.written += bytes;
        current.synced = current.written;
        self.ended.1 = current.base + current.written;
        self.ended.2 = current.chain.previous();
        self.said = hints;
        let mut offset = at;
        for op in ops {
            let size = record::record_size(&op.body()) as u64;
            match op {
                Op::Entries { first, count, .. } => {
                    self.index.truncate(OpNumber(first.op.0 - 1));
                    self.index.append(Run {
                        first: first.op,
                        last: OpNumber(first.op.0 + u64::from(*count) - 1),
                        epoch: first.epoch,
                        segment: segment.number,
                        offset,
                        size,
                    });
                }
                Op::Truncate(after) => drop(self.index.truncate(*after)),
                Op::Adopt(_) => {}
            }
            offset += size;
        }
    }

    /// Notes at the end of the log what has become safe since its last record was written, without
    /// syncing that: so damage to what was acknowledged last can be told from a torn end.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn mark(&mut self, committed: OpNumber) -> io::Result<()> {
        let size = record::record_size(&Body::Mark) as u64;
        if !self.fits(size) {
            return Ok(());
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let hints = Hints { synced_through: current.base + current.synced, committed };
        if hints == self.said {
            return Ok(());
        }
        let mut bytes = Vec::new();
        current.chain.write(hints, &Body::Mark, &mut bytes);
        current.file.write_at(current.written, &bytes)?;
        current.written += size;
        self.ended.1 = current.base + current.written;
        self.ended.2 = current.chain.previous();
        self.said = hints;
        Ok(())
    }

    /// How many of the oldest segments hold no op after this one.
    fn covered_by(&self, op: OpNumber) -> usize {
        let covered = self.segments.iter().take_while(|segment| {
            let last = self.index.last_through(segment.number);
            segment.number < self.ended.0 && last.is_none_or(|last| last <= op)
        });
        covered.count()
    }

    /// Length of the files that a snapshot at this op would not make superfluous.
    #[must_use]
    pub fn bytes_after(&self, op: OpNumber) -> u64 {
        self.segments.iter().skip(self.covered_by(op)).map(|segment| segment.size).sum()
    }

    /// Removes the oldest segments that hold no op after this one, but keeps the newest of them up
    /// to so many bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove_through(&mut self, disk: &D, op: OpNumber, retain: u64) -> io::Result<()> {
        let may_go = self.covered_by(op);
        let mut excess: u64 = self.segments.iter().take(may_go).map(|segment| segment.size).sum();
        for _ in 0..may_go {
            if excess <= retain {
                break;
            }
            let Some(oldest) = self.segments.front() else {
                break;
            };
            match disk.remove(&oldest.path) {
                // It goes the next time.
                Err(error) if Trouble::of(&error) == Trouble::NoAccess => break,
                removed => removed?,
            }
            excess -= oldest.size;
            self.index.forget_through(oldest.number);
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Entries from this op on, of as many whole runs as begin within `bytes_max`, at least one;
    /// none when the op is not here.
    ///
    /// # Errors
    /// When the disk fails, or what it gives is not what was written.
    pub fn read(&self, disk: &D, from: OpNumber, bytes_max: u64) -> io::Result<Vec<Arc<Entry>>> {
        let mut entries = Vec::new();
        if from <= self.index.after() {
            return Ok(entries);
        }
        let mut file: Option<(u64, D::File)> = None;
        let mut bytes = 0;
        for run in self.index.from(from) {
            if bytes > 0 && bytes + run.size > bytes_max {
                break;
            }
            bytes += run.size;
            let Some(segment) = self.segments.iter().find(|is| is.number == run.segment) else {
                break;
            };
            let open = match file.take() {
                Some((number, open)) if number == run.segment => open,
                _ => disk.open(&segment.path)?,
            };
            read_run(&open, segment, run, from, &mut entries)?;
            file = Some((run.segment, open));
        }
        Ok(entries)
    }
}

/// Makes a file safe, once: after an error nobody knows what a second try would mean.
fn sync<F: DiskFile>(file: &mut F) -> io::Result<()> {
    if !keeps(Rule::SyncedBeforeSafe) {
        return Ok(());
    }
    match file.sync() {
        Err(_) if !keeps(Rule::FailedSyncIsFinal) => file.sync(),
        synced => synced,
    }
}

fn encode(mut bytes: Vec<u8>, mut chain: Chain, hints: Hints, ops: &[Op]) -> (Vec<u8>, Chain) {
    let size: usize = ops.iter().map(|op| record::record_size(&op.body())).sum();
    bytes.reserve_exact(size);
    for op in ops {
        chain.write(hints, &op.body(), &mut bytes);
    }
    (bytes, chain)
}

fn read_run<F: DiskFile>(
    file: &F,
    segment: &Segment,
    run: &Run,
    from: OpNumber,
    entries: &mut Vec<Arc<Entry>>,
) -> io::Result<()> {
    let odd = |what: &str| {
        let text = format!("{} at byte {}: {what}", segment.path, run.offset);
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut bytes = vec![0; usize::try_from(run.size).map_err(io::Error::other)?];
    file.read_at(run.offset, &mut bytes)?;
    let bytes = Bytes::from(bytes);
    let mut records = Records::new(&bytes, 0, segment.chain.rejoined(&bytes));
    while records.at() < bytes.len() {
        let record = records.next().ok().flatten();
        let Some(record) = record else {
            return Err(odd("a record does not check out"));
        };
        let Body::Entries { batch, .. } = record.body else {
            continue;
        };
        let batch = Batch::decode(bytes.slice_ref(batch)).map_err(|error| odd(error.what))?;
        let in_run = |entry: &&Arc<Entry>| (from.max(run.first)..=run.last).contains(&entry.op());
        entries.extend(batch.iter().filter(in_run).cloned());
    }
    Ok(())
}

/// Whether an error means that there is no room now.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    Trouble::of(error) == Trouble::NoRoom
}
