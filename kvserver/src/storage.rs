//! A server's data directory at its start: whose it is, and what the copy in it holds. Shell: it says
//! what it finds, and decides nothing but what cannot be relied on.
//!
//! All of it blocks, for as long as reading the data takes.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use kvprocess::data_dir::DataDir;
use kvprocess::size::Size;
use kvproto::registration::Held;
use kvproto::snapshot::{self, RESTORE_FILE};
use kvproto::{ClusterId, OpNumber};
use tracing::{error, info, warn};

use crate::journal::engine::{self, Engine, Found};
use crate::journal::files::Files;
use crate::journal::snapshots::SnapshotReader;
use crate::journal::writer::{self, DiskJournal};
use crate::replica::recovery::{self, Recovered};
use crate::store::{Items, StoreLimits};

/// A directory that this process has for itself, and what was in it.
pub struct Storage {
    dir: DataDir,
    engine: Engine<Files>,
    recovered: Recovered,
    held: Held,
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
        let dir = DataDir::open(path, "kvserver")?;
        let (mut engine, mut found) = writer::open(dir.path()).with_context(about)?;
        if matches!(found, Found::Nothing) && dir.path().join(RESTORE_FILE).exists() {
            restore(engine, &dir).with_context(about)?;
            (engine, found) = writer::open(dir.path()).with_context(about)?;
        }
        let recovered = match found {
            Found::Sound(found) => {
                let began = Instant::now();
                tell(&found, dir.path());
                let read = recovery::read(&engine, &found, items, retain_bytes);
                let recovered = read.with_context(about)?;
                let (last, committed) = recovered.last();
                info!(
                    "recovered {} keys through op {last} ({committed} known to be committed) from \
                     {} in {:.2} s",
                    recovered.keys(),
                    dir.path().display(),
                    began.elapsed().as_secs_f64()
                );
                recovered
            }
            Found::Nothing => Recovered::nothing(items),
            Found::Damaged(damage) => {
                error!(
                    "the data in {} cannot be relied on: {damage}. It stays as it is, and this server \
                     joins empty; once another copy has filled it, what is here is in set-aside/. If \
                     no other copy is left: stop this server, save what can be read with \
                     `kvserver journal export --accept-data-loss`, and restore it with \
                     `kvctl snapshot restore`",
                    dir.path().display()
                );
                Recovered::nothing(items)
            }
        };
        let held = recovered.held(engine.identity().storage);
        Ok(Storage { dir, engine, recovered, held })
    }

    /// What the view service has to know: what is held, and of which cluster it is.
    #[must_use]
    pub fn found(&self) -> (Held, Option<ClusterId>) {
        let cluster = self.engine.identity().cluster;
        (self.held.clone(), (!cluster.is_none()).then_some(cluster))
    }

    /// Begins to write, for this cluster. The directory is let go of when what is returned last is
    /// dropped, which must outlive the journal.
    ///
    /// # Errors
    /// When the directory is another cluster's, or the disk or the machine fail.
    pub fn begin(
        self,
        cluster: ClusterId,
        limits: StoreLimits,
    ) -> anyhow::Result<(Recovered, DiskJournal, DataDir)> {
        let Storage { dir, mut engine, recovered, .. } = self;
        let about = || format!("the data directory {}", dir.path().display());
        engine.claim(cluster).with_context(about)?;
        engine.note_limits(limits).with_context(about)?;
        let journal = DiskJournal::start(engine, recovered.last().0.op);
        Ok((recovered, journal.context("start the threads of the journal")?, dir))
    }
}

/// What people want to know of a log that was found.
fn tell(found: &engine::Recovered, path: &Path) {
    if let Some(torn) = &found.torn {
        warn!(
            "{} ended at byte {} in the middle of a write: the {} after it, which nobody was told \
             is safe, are cut off",
            torn.file,
            torn.at,
            Size(torn.bytes)
        );
    }
    if let Some(damage) = &found.damage_covered {
        error!(
            "part of the log in {} was damaged: {damage}. The snapshot covers all of that part, so \
             nothing is lost, and it was removed; look after this disk",
            path.display()
        );
    }
    for dropped in &found.dropped {
        info!(
            "the log still shows a tail that was dropped on a primary's word, after op {} through \
             {}: `kvserver journal inspect` lists it",
            dropped.after, dropped.last
        );
    }
    for old in &found.set_aside {
        warn!(
            "{} holds data of an older generation, which was given up: delete it when nobody needs \
             it any more",
            path.join(old).display()
        );
    }
}

/// Makes a backup the first state of a new directory.
fn restore(mut engine: Engine<Files>, dir: &DataDir) -> anyhow::Result<()> {
    let incomplete = "the backup is incomplete: restore it again into an empty directory";
    let (mut at, mut ended) = (None, false);
    let mut file = SnapshotReader::open(engine.disk(), RESTORE_FILE)?;
    while let Some(item) = file.next()? {
        let there_is_room = match item {
            snapshot::Item::Head(head) => {
                info!("restoring {} keys as of op {}", head.keys, head.at);
                at = Some(head.at);
                engine.receive(head.at, head.keys)?
            }
            snapshot::Item::Block(records) => engine.receive_chunk(&records)?.is_some(),
            snapshot::Item::End(end) => {
                ended = true;
                engine.receive_end(end)?
            }
        };
        if !there_is_room {
            bail!("the disk has no room for the data of the backup: make room, then start again");
        }
    }
    let at = at.filter(|at| ended && at.op > OpNumber(0)).context(incomplete)?;
    if !engine.begin_with_received(at)? {
        bail!("the disk has no room for a log: make room, then start again");
    }
    std::fs::remove_file(dir.path().join(RESTORE_FILE)).context("remove the restored backup")?;
    dir.sync().context("remove the restored backup")?;
    Ok(())
}
