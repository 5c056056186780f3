//! A server's data directory at its start: whose it is, and what the copy in it holds. Shell: it says
//! what it finds, and decides nothing.
//!
//! All of it blocks, for as long as reading the data takes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use kvprocess::data_dir::DataDir;
use kvprocess::size::Size;
use kvproto::registration::Held;
use kvproto::snapshot::{self, RESTORE_FILE};
use kvproto::{ClusterId, Generation, Member, OpNumber, View};
use tracing::{error, info, warn};

use crate::journal::disk::Disk;
use crate::journal::engine::{Engine, Found, FoundLog};
use crate::journal::files::Files;
use crate::journal::layout::{SET_ASIDE, is_kept, set_aside_generation};
use crate::journal::snapshots::SnapshotReader;
use crate::journal::survey::Torn;
use crate::journal::writer::{self, DiskJournal};
use crate::replica::recovery::{Begun, OwnData, Recovered};
use crate::store::Items;

/// A directory that this process has for itself, and what was in it.
pub struct Storage {
    dir: DataDir,
    data: OwnData<Files>,
}

impl Storage {
    /// Takes a directory, makes it if it is new, and reads all of it. The items of the copy will be
    /// in this table.
    ///
    /// # Errors
    /// When it is another's, another process has it, a newer program wrote it, or the disk fails. The
    /// message says what to do. Damaged data is no error: it is left as it is, and this server
    /// counts as empty until another copy fills it.
    pub fn open(path: &Path, items: Items, retain_bytes: usize) -> anyhow::Result<Storage> {
        let about = || format!("the data directory {}", path.display());
        let dir = DataDir::open(path, "kvserver", is_kept)?;
        let (mut engine, mut found) = writer::open(dir.path()).with_context(about)?;
        let backup = dir.path().join(RESTORE_FILE);
        if matches!(found, Found::Nothing) && backup.exists() {
            restore(engine).with_context(about)?;
            (engine, found) = writer::open(dir.path()).with_context(about)?;
        }
        if let Found::Sound(found) = &found
            && backup.exists()
        {
            tidy_up(&backup, found, engine.disk(), &dir).with_context(about)?;
        }
        let what = if matches!(found, Found::Nothing) {
            "new".to_owned()
        } else {
            Size(size_of(dir.path()).with_context(about)?).to_string()
        };
        info!("data in {} ({what})", absolute(dir.path()).display());
        let generation = match &found {
            Found::Sound(found) => Some(found.last.epoch.generation),
            Found::Nothing | Found::Damaged(_) => None,
        };
        tell_of_set_aside(&engine, generation, dir.path()).with_context(about)?;
        tell(&found, dir.path());
        let began = Instant::now();
        let data = OwnData::read(engine, &found, items, retain_bytes).with_context(about)?;
        if matches!(found, Found::Sound(_)) {
            let (last, committed) = data.recovered().last();
            info!(
                "recovered {} keys through op {last} ({committed} known to be committed) from \
                 disk in {:.2} s",
                data.recovered().keys(),
                began.elapsed().as_secs_f64()
            );
        }
        Ok(Storage { dir, data })
    }

    /// What the view service has to know: what is held, and of which cluster it is.
    #[must_use]
    pub fn held(&self) -> (Held, Option<ClusterId>) {
        self.data.held()
    }

    /// The newest record of the view service that a former life had.
    #[must_use]
    pub fn shown(&self) -> Option<Box<View>> {
        self.data.shown().cloned().map(Box::new)
    }

    /// Begins to write, as this member of a cluster. The directory is let go of when what is returned
    /// last is dropped, which must outlive the journal.
    ///
    /// # Errors
    /// When the directory is another cluster's, or the disk or the machine fail.
    pub fn begin(
        self,
        view: &View,
        me: &Member,
    ) -> anyhow::Result<(Recovered, DiskJournal, DataDir)> {
        let Storage { dir, data } = self;
        let begun = data.begin(view, me);
        let Begun { engine, recovered, was_given_up } =
            begun.with_context(|| format!("the data directory {}", dir.path().display()))?;
        if was_given_up {
            warn!(
                "the data of this server is of an older generation, which was given up: it is set \
                 aside when the primary has filled this copy anew"
            );
        }
        let journal = DiskJournal::start(engine, recovered.last().0.op);
        Ok((recovered, journal.context("start the threads of the journal")?, dir))
    }
}

/// What becomes of an end that a crash left.
#[must_use]
pub fn left_out(torn: &Torn) -> String {
    format!(
        "{} ended at byte {} in the middle of a write: the {} after it, which nobody was told is \
         safe, are left out",
        torn.file,
        torn.at,
        Size(torn.bytes)
    )
}

/// What people want to know of what was found.
fn tell(found: &Found, path: &Path) {
    let found = match found {
        Found::Nothing => return,
        Found::Sound(found) => found,
        Found::Damaged(damage) => {
            error!(
                "the data in {} cannot be relied on: {damage}. It stays as it is, and this server \
                 joins empty; once another copy has filled it, what is here is in set-aside/. If no \
                 other copy is left: stop this server, save what can be read with `kvserver journal \
                 export --accept-data-loss`, and restore it with `kvctl snapshot restore`",
                path.display()
            );
            return;
        }
    };
    if let Some(torn) = &found.torn {
        warn!("{}", left_out(torn));
    }
    if let Some(damage) = &found.damage_covered {
        error!(
            "a part of the log was damaged: {damage}. The snapshot covers all of that part, so nothing \
             is lost, and it was removed; look after this disk"
        );
    }
    for dropped in &found.dropped {
        info!(
            "the log still shows a tail that was dropped on a primary's word, after op {} through \
             {}: `kvserver journal inspect` lists it",
            dropped.after, dropped.last
        );
    }
}

/// Old eras that wait for somebody to look at them. Those of the present generation go by themselves.
fn tell_of_set_aside(
    engine: &Engine<Files>,
    present: Option<Generation>,
    path: &Path,
) -> io::Result<()> {
    for old in engine.disk().list(SET_ASIDE)? {
        let what = match set_aside_generation(&old) {
            None => "damaged data".to_owned(),
            Some(generation) if Some(generation) == present => continue,
            Some(generation) => format!("data of generation {generation}, which was replaced"),
        };
        let old = path.join(SET_ASIDE).join(old);
        warn!("{} holds {what}: delete it when nobody needs it any more", old.display());
    }
    Ok(())
}

/// As people can use it from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What the files in a directory take.
fn size_of(path: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(size)
}

/// Removes a backup that has become the data, also when the start that made it so ended just before
/// this. Any other one is none of ours.
fn tidy_up(backup: &Path, found: &FoundLog, disk: &Files, dir: &DataDir) -> anyhow::Result<()> {
    let head = SnapshotReader::open(disk, RESTORE_FILE).map_err(Into::into);
    let head = head.and_then(|mut backup| backup.head());
    let begins_with = found.snapshot.as_ref().map(|snapshot| snapshot.head.at);
    if head.ok().map(|head| head.at) != begins_with {
        warn!(
            "{} is not what the data here began with, so it is left alone: to restore it, use a new \
             directory",
            backup.display()
        );
        return Ok(());
    }
    std::fs::remove_file(backup).context("remove the restored backup")?;
    dir.sync().context("remove the restored backup")
}

/// Makes a backup the first state of a new directory.
fn restore(mut engine: Engine<Files>) -> anyhow::Result<()> {
    let mut file = SnapshotReader::open(engine.disk(), RESTORE_FILE)?;
    let (head, _) = file.whole(|item| {
        let there_is_room = match item {
            snapshot::Item::Head(head) => {
                info!("restoring {} keys as of op {}", head.keys, head.at);
                engine.receive(head.at, head.keys)?
            }
            snapshot::Item::Block(records) => engine.receive_chunk(records)?.is_some(),
            snapshot::Item::End(end) => engine.receive_end(end.clone())?,
        };
        if !there_is_room {
            bail!("the disk has no room for the data of the backup: make room, then start again");
        }
        Ok(())
    })?;
    if head.at.op == OpNumber(0) {
        bail!("the backup holds no data: restore another one into an empty directory");
    }
    if !engine.begin_with_received(head.at)? {
        bail!("the disk has no room for a log: make room, then start again");
    }
    Ok(())
}
