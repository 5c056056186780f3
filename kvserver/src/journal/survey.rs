//! What the directory of a server holds, as it stands. Pure: on any [`Disk`].
//!
//! Reads everything and changes nothing. It tells three things apart: a sound log, one with a torn
//! end (what follows was never promised to anybody), and damage (something that had been safe is
//! not what it was). Who opens a log acts on that; who inspects a directory shows it.

use std::fmt;
use std::io;

use kvproto::ids::{ClusterId, Epoch, OpNumber, Position, StorageId};
use kvproto::rules::{Rule, keeps};
use kvproto::settings::Settings;
use kvproto::snapshot::{FORMAT_LEVEL, Malformed};
use kvproto::view::View;
use thiserror::Error;

use super::disk::{Disk, DiskFile, Trouble, read_whole, too_many_open_files};
use super::index::{Index, Run};
use super::layout::{
    self, BadFile, IDENTITY, IDENTITY_LEVEL, Identity, RECORD, RECORD_LEVEL, SET_ASIDE, SUSPECT,
};
use super::record::{BadHeader, Body, HEADER_SIZE, LEVEL, Lsn, Records, SegmentHeader};
use super::snapshots::{ReadError, SnapshotFile, SnapshotReader};
use crate::store::StoreLimits;

/// Why a directory is not used at all. Every message says what to do.
#[derive(Debug, Error)]
pub enum Refused {
    /// A newer program wrote it.
    #[error(
        "{file} has format level {level}, this program knows level {known}: start the release that \
         wrote it, or a newer one"
    )]
    Newer {
        /// Which file.
        file: String,
        /// Its level.
        level: u32,
        /// The newest known here.
        known: u32,
    },
    /// Nobody can tell whose directory it is.
    #[error(
        "{IDENTITY} is missing or damaged, so nobody can tell whose data this is: bring the file \
         back, or move the directory away and start with an empty one, which is filled from the \
         primary; if no other copy is left, `kvserver journal export` saves what is here"
    )]
    NoIdentity,
    /// Nobody can tell how much of the past of its cluster it has seen.
    #[error(
        "{RECORD} is damaged, so nobody can tell which view this server knew: bring the file back, \
         or move the directory away and start with an empty one, which is filled from the primary; \
         if no other copy is left, `kvserver journal export` saves what is here"
    )]
    NoRecord,
    /// It belongs to another cluster.
    #[error(
        "this directory belongs to cluster {theirs}, the view service speaks for cluster {ours}: \
         give the view service of that cluster with --vs, or another directory with --data-dir"
    )]
    OtherCluster {
        /// Whose directory it is.
        theirs: ClusterId,
        /// Who asks.
        ours: ClusterId,
    },
    /// The disk does not let us. That says nothing about what is there.
    #[error("cannot {doing} {file}: {error}; all of it stays as it is: {way_out}, then start again", way_out = way_out(error))]
    Io {
        /// What failed.
        doing: &'static str,
        /// On what.
        file: String,
        /// What the disk said.
        error: io::Error,
    },
}

/// What to do about something that cannot be got at.
fn way_out(error: &io::Error) -> &'static str {
    match Trouble::of(error) {
        _ if too_many_open_files(error) => {
            "allow more open files (`ulimit -n`), or wait until others are closed"
        }
        Trouble::NoAccess => match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "let the user of this server read and write it, as it may everything beside it"
            }
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                "see that everything is in its place and every disk mounted"
            }
            _ => "see that this disk can be written to",
        },
        Trouble::NoRoom => "make room on this disk",
        Trouble::Damage | Trouble::Failure => "look after this disk",
    }
}

impl Refused {
    /// Whether it ends by itself, when others close their files.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        matches!(self, Refused::Io { error, .. } if too_many_open_files(error))
    }

    pub(crate) fn io(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> Refused {
        let file = if file.is_empty() { "the data directory" } else { file };
        let file = file.to_owned();
        move |error| Refused::Io { doing, file, error }
    }
}

/// Something that had been safe is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In which file.
    pub file: String,
    /// Where in it, if that is known.
    pub at: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, at, what } = self;
        match at {
            Some(at) => write!(f, "{file} at byte {at}: {what}"),
            None => write!(f, "{file}: {what}"),
        }
    }
}

/// The end of the log that a crash left unfinished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// In which file.
    pub file: String,
    /// Where in it.
    pub at: u64,
    /// How many bytes of something were there.
    pub bytes: u64,
}

/// Entries that the log dropped and the files still hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The last op kept.
    pub after: OpNumber,
    /// The last one dropped.
    pub last: Position,
}

/// A segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Path of its file.
    pub path: String,
    /// Rises with each segment of the era.
    pub number: u64,
    /// Its header.
    pub header: SegmentHeader,
    /// Bytes through its last record.
    pub used: u64,
    /// How many records it has.
    pub records: u64,
}

impl Segment {
    /// The place after its last record.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.header.base + self.used
    }
}

/// What an era holds.
#[derive(Clone, Debug)]
pub struct Era {
    /// Its number.
    pub number: u64,
    /// Its directory.
    pub dir: String,
    /// The newest snapshot, which the log begins with.
    pub snapshot: Option<SnapshotFile>,
    /// Older snapshots, and segments that the newest one covers and that are damaged: nobody needs
    /// them.
    pub leftovers: Vec<String>,
    /// What is wrong with segments that the snapshot covers.
    pub damage_covered: Option<Damage>,
    /// In order.
    pub segments: Vec<Segment>,
    /// The ops in them.
    pub index: Index,
    /// The newest epoch adopted.
    pub adopted: Epoch,
    /// Through which op it is known that every required copy had them.
    pub committed: OpNumber,
    /// Checksum of the last record.
    pub previous: u32,
    /// What a crash left at the end.
    pub torn: Option<Torn>,
    /// Tails that were dropped.
    pub dropped: Vec<Dropped>,
    /// The first thing that is wrong; what comes after it was not looked at.
    pub damage: Option<Damage>,
}

impl Era {
    /// Position of the last op; that of the snapshot when no op follows it.
    #[must_use]
    pub fn last(&self) -> Position {
        let base = self.snapshot.as_ref().map_or(Position::default(), |snapshot| snapshot.head.at);
        self.index.last_position().map_or(base, |last| last.max(base))
    }

    /// First position of each epoch of the log, oldest first.
    #[must_use]
    pub fn epochs(&self) -> Vec<Position> {
        let in_snapshot = self.snapshot.iter().flat_map(|snapshot| &snapshot.end.epochs);
        let mut epochs: Vec<_> =
            in_snapshot.map(|start| Position { epoch: start.epoch, op: start.op }).collect();
        let known = epochs.last().map(|start| start.epoch);
        epochs.extend(self.index.epochs().filter(|start| Some(start.epoch) > known));
        epochs
    }
}

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Whose it is; `None` for a new one.
    pub identity: Option<Identity>,
    /// What the view service said last; none before the first registration.
    pub record: Result<Option<Box<View>>, BadFile>,
    /// The era that counts.
    pub era: Option<Era>,
    /// Numbers of older eras that nobody has moved away yet.
    pub replaced: Vec<u64>,
    /// Names of eras that were set aside.
    pub set_aside: Vec<String>,
    /// Names of what was not finished.
    pub unfinished: Vec<String>,
}

/// Looks at a whole directory.
///
/// # Errors
/// When it is not to be used at all.
pub fn survey<D: Disk>(disk: &D) -> Result<Directory, Refused> {
    let names = disk.list("").map_err(Refused::io("read", ""))?;
    let identity = if names.iter().any(|name| name == IDENTITY) {
        let bytes = read_whole(disk, IDENTITY).map_err(Refused::io("read", IDENTITY))?;
        Some(Identity::decode(&bytes).map_err(|bad| match bad {
            BadFile::Corrupt => Refused::NoIdentity,
            BadFile::Newer(level) => newer(IDENTITY, level, IDENTITY_LEVEL),
        })?)
    } else {
        None
    };
    directory(disk, names, identity)
}

/// Looks at a whole directory whose identity is lost, for those who only read: the storage is the one
/// that the log names, cluster and limits are not known.
///
/// # Errors
/// As [`survey`], and when no segment says whose it is.
pub fn survey_without_identity<D: Disk>(disk: &D) -> Result<Directory, Refused> {
    let names = disk.list("").map_err(Refused::io("read", ""))?;
    let newest = names.iter().filter_map(|name| layout::era_number(name)).max();
    let dir = layout::era(newest.ok_or(Refused::NoIdentity)?);
    let files = disk.list(&dir).map_err(Refused::io("read", &dir))?;
    let mut segments = files.iter().filter(|name| layout::segment_number(name).is_some());
    let header = loop {
        let Some(name) = segments.next() else {
            break None;
        };
        let path = format!("{dir}/{name}");
        match read_whole(disk, &path) {
            Ok(bytes) => match SegmentHeader::decode(&bytes) {
                Ok(header) => break Some(header),
                Err(_) => continue,
            },
            Err(error) if Trouble::of(&error) == Trouble::Damage => continue,
            Err(error) => return Err(Refused::io("read", &path)(error)),
        }
    };
    let identity = Identity {
        storage: header.ok_or(Refused::NoIdentity)?.storage,
        cluster: ClusterId::default(),
        limits: StoreLimits::from(&Settings::default()),
    };
    directory(disk, names, Some(identity))
}

fn directory<D: Disk>(
    disk: &D,
    names: Vec<String>,
    identity: Option<Identity>,
) -> Result<Directory, Refused> {
    let mut eras: Vec<u64> = names.iter().filter_map(|name| layout::era_number(name)).collect();
    eras.sort_unstable();
    let newest = eras.pop();
    let era = match (newest, identity) {
        (None, _) => None,
        (Some(_), None) => return Err(Refused::NoIdentity),
        (Some(number), Some(identity)) => Some(era(disk, number, identity.storage)?),
    };
    let set_aside = disk.list(SET_ASIDE).map_err(Refused::io("read", SET_ASIDE))?;
    let record = record(disk, &names)?;
    let unfinished = names.into_iter().filter(|name| name.ends_with(layout::NEW)).collect();
    Ok(Directory { identity, record, era, replaced: eras, set_aside, unfinished })
}

fn record<D: Disk>(
    disk: &D,
    names: &[String],
) -> Result<Result<Option<Box<View>>, BadFile>, Refused> {
    if !names.iter().any(|name| name == RECORD) {
        return Ok(Ok(None));
    }
    let bytes = read_whole(disk, RECORD).map_err(Refused::io("read", RECORD))?;
    Ok(layout::decode_record(&bytes).map(|record| Some(Box::new(record))))
}

/// What keeps a server from beginning without the record that it showed last.
pub(super) fn refuse_record(bad: BadFile) -> Refused {
    match bad {
        BadFile::Corrupt => Refused::NoRecord,
        BadFile::Newer(level) => newer(RECORD, level, RECORD_LEVEL),
    }
}

fn newer(file: &str, level: u32, known: u32) -> Refused {
    Refused::Newer { file: file.to_owned(), level, known }
}

/// What stopped the look at an era.
enum Stop {
    Damage(Damage),
    Refused(Refused),
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Stop {
        Stop::Damage(damage)
    }
}

/// Looks at one era.
///
/// # Errors
/// When the disk fails, or a newer program wrote it.
pub fn era<D: Disk>(disk: &D, number: u64, storage: StorageId) -> Result<Era, Refused> {
    let dir = layout::era(number);
    let names = disk.list(&dir).map_err(Refused::io("read", &dir))?;
    era_of(disk, number, storage, &names)
}

/// Looks at the segments of an era alone, as if it had no snapshot: they are a log of their own if
/// they reach back to op 1.
///
/// # Errors
/// As [`era`].
pub fn era_without_snapshot<D: Disk>(
    disk: &D,
    number: u64,
    storage: StorageId,
) -> Result<Era, Refused> {
    let dir = layout::era(number);
    let mut names = disk.list(&dir).map_err(Refused::io("read", &dir))?;
    names.retain(|name| layout::snapshot_op(name).is_none());
    era_of(disk, number, storage, &names)
}

fn era_of<D: Disk>(
    disk: &D,
    number: u64,
    storage: StorageId,
    names: &[String],
) -> Result<Era, Refused> {
    let dir = layout::era(number);
    let mut era = Era {
        number,
        dir,
        snapshot: None,
        leftovers: Vec::new(),
        damage_covered: None,
        segments: Vec::new(),
        index: Index::new(OpNumber(0)),
        adopted: Epoch::default(),
        committed: OpNumber(0),
        previous: 0,
        torn: None,
        dropped: Vec::new(),
        damage: None,
    };
    match look(disk, storage, names, &mut era) {
        Ok(()) => {}
        Err(Stop::Damage(damage)) => era.damage = Some(damage),
        Err(Stop::Refused(refused)) => return Err(refused),
    }
    Ok(era)
}

fn look<D: Disk>(
    disk: &D,
    storage: StorageId,
    names: &[String],
    era: &mut Era,
) -> Result<(), Stop> {
    let mut snapshots: Vec<_> =
        names.iter().filter(|name| layout::snapshot_op(name).is_some()).collect();
    if let Some(newest) = snapshots.pop() {
        era.snapshot = Some(snapshot(disk, format!("{}/{newest}", era.dir))?);
    }
    era.leftovers = snapshots.iter().map(|name| format!("{}/{name}", era.dir)).collect();
    let mut segments: Vec<(u64, &String)> =
        names.iter().filter_map(|name| Some((layout::segment_number(name)?, name))).collect();
    segments.sort_unstable();
    if segments.is_empty() {
        return Err(damage(&era.dir, None, "no journal is left").into());
    }
    let segments: Vec<_> = segments
        .into_iter()
        .map(|(number, name)| (number, format!("{}/{name}", era.dir)))
        .collect();
    let before = era.clone();
    if let Err(stop) = read_segments(disk, storage, era, &segments) {
        let Stop::Damage(damage) = stop else {
            return Err(stop);
        };
        let needed = needed_from(disk, storage, &before, &segments)?;
        let Some(needed) = needed.filter(|needed| *needed > 0) else {
            return Err(damage.into());
        };
        let (covered, needed) = segments.split_at(needed);
        let damaged = std::mem::replace(era, before.clone());
        if let Err(stop) = read_segments(disk, storage, era, needed) {
            *era = damaged;
            return Err(stop);
        }
        era.leftovers.extend(covered.iter().map(|(_, path)| path.clone()));
        era.damage_covered = Some(damage);
    }
    if names.iter().any(|name| name == SUSPECT) {
        let path = format!("{}/{SUSPECT}", era.dir);
        let why = read_whole(disk, &path).map_err(|error| unread(&path, error))?;
        let why = format!("a write failed: {}", String::from_utf8_lossy(&why).trim());
        return Err(damage(&path, None, &why).into());
    }
    Ok(())
}

fn read_segments<D: Disk>(
    disk: &D,
    storage: StorageId,
    era: &mut Era,
    segments: &[(u64, String)],
) -> Result<(), Stop> {
    let last = segments.len() - 1;
    for (place, (number, path)) in segments.iter().enumerate() {
        segment(disk, storage, era, (*number, path.clone()), place == last)?;
    }
    Ok(fits_together(era)?)
}

/// The place of the segment from which on, with the snapshot, all of the log is there.
fn needed_from<D: Disk>(
    disk: &D,
    storage: StorageId,
    era: &Era,
    segments: &[(u64, String)],
) -> Result<Option<usize>, Stop> {
    let Some(base) = era.snapshot.as_ref().map(|snapshot| snapshot.head.at.op) else {
        return Ok(None);
    };
    for (place, (_, path)) in segments.iter().enumerate().rev() {
        let mut bytes = [0; HEADER_SIZE];
        match disk.open(path).and_then(|file| file.read_at(0, &mut bytes)) {
            Ok(()) => {}
            Err(error) if Trouble::of(&error) == Trouble::Damage => continue,
            Err(error) => return Err(unread(path, error)),
        }
        let is_needed = SegmentHeader::decode(&bytes).is_ok_and(|header| {
            (header.storage, header.era) == (storage, era.number) && header.after <= base
        });
        if is_needed {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// What could not be read is damage only if the disk has lost it.
fn unread(path: &str, error: io::Error) -> Stop {
    match Trouble::of(&error) {
        Trouble::Damage => damage(path, None, &error.to_string()).into(),
        _ => Stop::Refused(Refused::io("read", path)(error)),
    }
}

fn damage(file: &str, at: Option<usize>, what: &str) -> Damage {
    Damage { file: file.to_owned(), at: at.map(|at| at as u64), what: what.to_owned() }
}

fn snapshot<D: Disk>(disk: &D, path: String) -> Result<SnapshotFile, Stop> {
    let read = || {
        let mut reader = SnapshotReader::open(disk, &path)?;
        let (head, end) = reader.whole(|_| Ok::<_, ReadError>(()))?;
        Ok(SnapshotFile { path: path.clone(), head, end, size: reader.size() })
    };
    read().map_err(|error| match error {
        ReadError::Malformed(Malformed::Newer { level }) => {
            Stop::Refused(newer(&path, level, FORMAT_LEVEL))
        }
        ReadError::Malformed(what) => damage(&path, None, &what.to_string()).into(),
        ReadError::Io(error) => unread(&path, error),
    })
}

fn segment<D: Disk>(
    disk: &D,
    storage: StorageId,
    era: &mut Era,
    (number, path): (u64, String),
    is_last: bool,
) -> Result<(), Stop> {
    let bytes = read_whole(disk, &path).map_err(|error| unread(&path, error))?;
    let wrong = |at, what: &str| Stop::from(damage(&path, at, what));
    let header = match SegmentHeader::decode(&bytes) {
        Ok(header) => header,
        Err(BadHeader::Newer(level)) => return Err(Stop::Refused(newer(&path, level, LEVEL))),
        Err(BadHeader::Corrupt) => return Err(wrong(Some(0), "the header does not check out")),
    };
    if (header.storage, header.era) != (storage, era.number) {
        return Err(wrong(Some(0), "it belongs to another directory or era"));
    }
    if (bytes.len() as u64) < header.capacity {
        return Err(wrong(Some(bytes.len()), "the file has been cut short"));
    }
    if let Some(before) = era.segments.last() {
        let follows = before.number + 1 == number
            && before.end() == header.base
            && era.previous == header.previous
            && era.index.last() == header.after;
        if !follows {
            // What counts as the end of a segment is what the next one says.
            let at = header.base.saturating_sub(before.header.base);
            let what = format!("{path} does not follow: records between them are damaged");
            let at = usize::try_from(at.min(before.used)).ok();
            return Err(damage(&before.path, at, &what).into());
        }
    } else {
        era.index = Index::new(header.after);
    }
    era.adopted = era.adopted.max(header.adopted);
    let mut records = Records::new(&bytes, HEADER_SIZE, header.chain());
    let mut count = 0;
    loop {
        match records.next() {
            Ok(Some(record)) => {
                count += 1;
                era.committed = era.committed.max(record.hints.committed);
                match record.body {
                    Body::Entries { first, count, .. } => {
                        let last = first.op.0.saturating_add(u64::from(count) - 1);
                        // What takes the place of others may be of an older epoch: a new primary keeps
                        // its own tail, and never had that of the copy.
                        let fits = first.op.0 > 0 && first.op <= era.index.last().next();
                        if !fits || last == u64::MAX {
                            return Err(wrong(Some(record.at), "ops are not contiguous"));
                        }
                        let after = OpNumber(first.op.0 - 1);
                        let old = era.index.truncate(after);
                        era.dropped.extend(old.map(|last| Dropped { after, last }));
                        era.index.append(Run {
                            first: first.op,
                            last: OpNumber(last),
                            epoch: first.epoch,
                            segment: number,
                            offset: record.at as u64,
                            size: record.size as u64,
                        });
                    }
                    Body::Truncate(after) => {
                        let last = era.index.truncate(after);
                        era.dropped.extend(last.map(|last| Dropped { after, last }));
                    }
                    Body::Adopt(epoch) => era.adopted = era.adopted.max(epoch),
                    Body::Mark => {}
                }
            }
            Ok(None) => break,
            Err(_) => return Err(Stop::Refused(newer(&path, LEVEL + 1, LEVEL))),
        }
    }
    let end = records.at();
    era.previous = records.chain().previous();
    let used = end as u64;
    era.segments.push(Segment { path: path.clone(), number, header, used, records: count });
    if is_last {
        if let Some(proof) = records.proof_of_damage(header.base)
            && keeps(Rule::DamageIsNotCut)
        {
            let what = format!("what was safe does not check out: byte {proof} says it was synced");
            return Err(wrong(Some(end), &what));
        }
        let garbage = bytes[end..].iter().rposition(|byte| *byte != 0).map(|last| last + 1);
        era.torn = garbage.map(|garbage| Torn {
            file: path.clone(),
            at: end as u64,
            bytes: garbage as u64,
        });
    }
    Ok(())
}

/// Snapshot and segments make one log.
fn fits_together(era: &Era) -> Result<(), Damage> {
    let base = era.snapshot.as_ref().map_or(Position::default(), |snapshot| snapshot.head.at);
    let (index, dir) = (&era.index, &era.dir);
    if index.after() > base.op {
        let what = format!("ops {} to {} are missing", base.op.next(), index.after());
        return Err(damage(dir, None, &what));
    }
    if index.last() < base.op {
        let what = format!("the journal ends at op {}, before its snapshot", index.last());
        return Err(damage(dir, None, &what));
    }
    if index.epoch_of(base.op).is_some_and(|epoch| epoch != base.epoch) {
        let what = format!("the journal has another op {} than the snapshot", base.op);
        return Err(damage(dir, None, &what));
    }
    Ok(())
}
