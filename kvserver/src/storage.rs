//! A server's data directory at its start: whose it is, and what the copy in it holds. Shell: it says
//! what it finds, and decides nothing. Nothing in the directory changes before [`Storage::begin`], which
//! is for those whom the view service has admitted.
//!
//! All of it blocks, for as long as reading the data takes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use kvprocess::data_dir::{DataDir, DataDirError};
use kvprocess::size::Size;
use kvproto::registration::Held;
use kvproto::snapshot::RESTORE_FILE;
use kvproto::{ClusterId, Generation, Member, View};
use thiserror::Error;
use tracing::{error, info, warn};

use crate::journal::disk::{Disk, too_many_open_files};
use crate::journal::engine::{Engine, Found};
use crate::journal::files::Files;
use crate::journal::layout::{SET_ASIDE, is_kept, set_aside_generation};
use crate::journal::survey::{Refused, Torn};
use crate::journal::writer::{self, DiskJournal};
use crate::replica::recovery::{Backup, Begun, OwnData, Recovered};
use crate::store::Items;

/// Why a directory is not to be used, or not now.
#[derive(Debug, Error)]
pub enum Unusable {
    /// The directory as such.
    #[error(transparent)]
    Dir(#[from] DataDirError),
    /// What is in it.
    #[error("the data directory {path}: {refused}", path = .path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
        /// Why.
        refused: Refused,
    },
}

impl Unusable {
    /// Whether it ends by itself: then whoever starts waits, as for a full disk.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Unusable::Dir(DataDirError::Failed { error, .. }) => too_many_open_files(error),
            Unusable::Dir(_) => false,
            Unusable::Refused { refused, .. } => refused.passes_by_itself(),
        }
    }
}

/// A directory that this process has for itself, and that was looked through.
pub struct FoundDir {
    dir: DataDir,
    engine: Engine<Files>,
    found: Found,
}

/// A directory that this process has for itself, and what was in it.
pub struct Storage {
    dir: DataDir,
    data: OwnData<Files>,
}

impl FoundDir {
    /// Takes a directory, makes it if it is missing, and looks through it.
    ///
    /// # Errors
    /// When it is another's, another process has it, a newer program wrote it, or it cannot be read now.
    /// The message says what to do. Damaged data is no error: it is left as it is, and this server
    /// counts as empty until another copy fills it.
    pub fn find(path: &Path) -> Result<FoundDir, Unusable> {
        let dir = DataDir::hold(path, "kvserver", is_kept)?;
        let (engine, found) = writer::find(dir.path())
            .map_err(|refused| Unusable::Refused { path: path.to_owned(), refused })?;
        Ok(FoundDir { dir, engine, found })
    }
}

impl Storage {
    /// Takes a directory, and reads all of it: see [`FoundDir::find`] and [`read`](Storage::read).
    ///
    /// # Errors
    /// As these.
    pub fn open(path: &Path, items: Items, retain_bytes: usize) -> anyhow::Result<Storage> {
        Storage::read(FoundDir::find(path)?, items, retain_bytes)
    }

    /// Reads what was found. The items of the copy will be in this table.
    ///
    /// # Errors
    /// When the disk fails, or does not let us.
    pub fn read(place: FoundDir, items: Items, retain_bytes: usize) -> anyhow::Result<Storage> {
        let FoundDir { dir, engine, found } = place;
        let about = || format!("the data directory {}", dir.path().display());
        let what = if matches!(found, Found::Nothing) {
            "new".to_owned()
        } else {
            Size(size_of(dir.path())).to_string()
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
        match data.backup() {
            Backup::None | Backup::Restored => {}
            Backup::Restores(head) => info!(
                "{RESTORE_FILE} will be restored here once the view service has admitted this server: {} \
                 keys as of op {}",
                head.keys, head.at
            ),
            Backup::Other(why) => warn!(
                "{} is left alone: {why}; to restore it, use a new directory",
                dir.path().join(RESTORE_FILE).display()
            ),
        }
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
        let Storage { mut dir, data } = self;
        dir.mark()?;
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

/// What the files in a directory take, as far as this user may look: for people only.
fn size_of(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    });
    sizes.sum()
}
