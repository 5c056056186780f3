//! `kvserver journal …`: looks at the data directory of a server that does not run. Shell: reads,
//! prints, and writes one file when asked to; what is in the directory stays as it is.

mod account;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kvprocess::data_dir::{LOCK_FILE, look};
use kvprocess::logging::say;
use kvprocess::size::Size;
use kvprocess::snapshot_file::{NewSnapshotFile, verify};
use kvproto::snapshot::{RESTORE_FILE, Verified, Writer};
use kvproto::{ClusterId, OpNumber};

use crate::journal::disk::{Disk, Trouble};
use crate::journal::engine::{Engine, Found};
use crate::journal::files::Files;
use crate::journal::layout::{IDENTITY, era_number};
use crate::journal::survey::{
    Damage, Directory, Era, Refused, Torn, era_without_snapshot, survey, survey_without_identity,
};
use crate::replica::recovery::{self, Recovered};
use crate::storage::left_out;
use crate::store::Items;
use account::{account, certainty, covered};

/// Bytes of records in one block of an export.
const CHUNK_BYTES: usize = 1 << 20;

/// What else the program can do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Look at the data directory of a server that does not run.
    #[command(subcommand)]
    Journal(JournalCommand),
}

/// What can be done with a data directory.
#[derive(Subcommand, Clone, Debug)]
pub enum JournalCommand {
    /// Print what is in it: the log, its snapshot, epochs, dropped tails, damage.
    Inspect(Place),
    /// Read all of it. Exit code 1, and the place, if anything is damaged, also what the snapshot
    /// covers so that nothing is lost.
    Verify(Place),
    /// Save the state at the end of its log as a snapshot, for `kvctl snapshot restore`.
    Export {
        /// The file.
        file: PathBuf,
        /// Where the data is.
        #[command(flatten)]
        place: Place,
        /// Replace the file if it exists.
        #[arg(long)]
        force: bool,
        /// Save what stands before the damage, if there is any, and give up what comes after it.
        #[arg(long)]
        accept_data_loss: bool,
    },
}

/// Which directory.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The data directory of the server.
    #[arg(long, env = "KVSERVER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Does it.
///
/// # Errors
/// What is wrong, in words that name the file.
pub fn run(command: Command) -> Result<()> {
    let Command::Journal(command) = command;
    let place = match &command {
        JournalCommand::Inspect(place)
        | JournalCommand::Verify(place)
        | JournalCommand::Export { place, .. } => place.data_dir.clone(),
    };
    let about = || format!("--data-dir {}", place.display());
    // Keeps servers away.
    let lock = look(&place, "kvserver")?;
    let disk = Files::to_read(&place);
    let names = disk.list("").with_context(about)?;
    let holds = |name: &str| names.iter().any(|it| it == name);
    let holds_era = names.iter().any(|name| era_number(name).is_some());
    if !holds(IDENTITY) && !holds(RESTORE_FILE) && !holds_era {
        bail!("{}: there is no data of a kvserver", about());
    }
    if lock.is_none() {
        say(format!(
            "{}: there is no {LOCK_FILE}, so nothing keeps a server from beginning here meanwhile",
            about()
        ));
    }
    let surveyed = survey(&disk);
    let identity_is_lost = matches!(surveyed, Err(Refused::NoIdentity));
    let surveyed = if identity_is_lost { survey_without_identity(&disk) } else { surveyed };
    let mut directory = surveyed.with_context(about)?;
    if identity_is_lost {
        print(NO_IDENTITY)?;
    }
    let waits_to_restore = holds(RESTORE_FILE) && directory.era.is_none();
    match command {
        JournalCommand::Inspect(_) => print(&account(&directory, holds(RESTORE_FILE))),
        JournalCommand::Verify(_) if waits_to_restore => {
            let Verified { head, counts, end, .. } = verify(&place.join(RESTORE_FILE), |_| {})?;
            print(&format!(
                "{}: sound: a backup through op {} waits for the first start: {} keys, digest {}\n",
                place.display(),
                head.at,
                counts.keys,
                end.digest
            ))
        }
        JournalCommand::Verify(_) => {
            let era = directory.era.as_mut();
            let (torn, damage) =
                era.map_or((None, None), |era| (era.torn.take(), era.damage_covered.take()));
            let (mut recovered, _) = rebuild(disk, directory).with_context(about)?;
            print(&verdict(&place, &mut recovered, torn.as_ref()))?;
            if identity_is_lost {
                return Err(Refused::NoIdentity).with_context(about);
            }
            match damage {
                Some(damage) => bail!("{}: damaged: {}", about(), covered(&damage)),
                None => Ok(()),
            }
        }
        JournalCommand::Export { .. } if waits_to_restore => bail!(
            "{}: it holds no log yet, but a backup that waits for the first start: copy {}",
            about(),
            place.join(RESTORE_FILE).display()
        ),
        JournalCommand::Export { file, force, accept_data_loss, .. } => {
            let cluster =
                directory.identity.map_or(ClusterId::default(), |identity| identity.cluster);
            let damage = directory.era.as_mut().and_then(|era| era.damage.take());
            if let Some(damage) = damage.as_ref().filter(|_| !accept_data_loss) {
                bail!(
                    "{}: damaged: {damage}; with --accept-data-loss what stands before that is \
                     exported",
                    about()
                );
            }
            let mut note = damage.as_ref().map_or(String::new(), not_exported);
            if let Some(damage) = &damage
                && let Some(alone) = journal_alone(&disk, &directory).with_context(about)?
            {
                let rest = alone.damage.as_ref().map_or(String::new(), not_exported);
                note = format!("\nread without the snapshot, which is damaged: {damage}{rest}");
                directory.era = Some(Era { damage: None, ..alone });
            }
            let (mut recovered, committed) = rebuild(disk, directory).with_context(about)?;
            if recovered.last().0.op == OpNumber(0) {
                match damage {
                    Some(damage) => bail!(
                        "{}: nothing stands before the damage, so there is nothing to export: \
                         {damage}; see docs/backup.md, \"A damaged disk\"",
                        about()
                    ),
                    None => bail!("{}: it holds no data, there is nothing to export", about()),
                }
            }
            let written = export(&mut recovered, cluster, &file, force)?;
            print(&exported(&file, &written, committed, &note))
        }
    }
}

/// What is said first when nobody can tell whose data it is.
const NO_IDENTITY: &str = "`identity` is missing or damaged: the log is read by itself, its entries as \
     under the default settings of a cluster (--value-size-max, --sessions-max)\n";

/// A log whose snapshot is what is damaged needs none if its segments reach back to op 1.
fn journal_alone(disk: &Files, directory: &Directory) -> Result<Option<Era>> {
    let Some((era, identity)) = directory.era.as_ref().zip(directory.identity) else {
        return Ok(None);
    };
    if era.last().op > OpNumber(0) {
        return Ok(None);
    }
    let alone = era_without_snapshot(disk, era.number, identity.storage)?;
    Ok(Some(alone).filter(|alone| alone.index.after() == OpNumber(0)))
}

/// The state at the end of a log, for which all of it is read, and how much of it is known to be
/// committed.
fn rebuild(disk: Files, directory: Directory) -> Result<(Recovered, OpNumber)> {
    let (engine, found) = Engine::look(disk, directory);
    let mut found = match found {
        Found::Sound(found) => found,
        Found::Nothing => bail!("it holds no log"),
        Found::Damaged(damage) => bail!("damaged: {damage}"),
    };
    // As if all of it were known to be committed.
    let committed = std::mem::replace(&mut found.committed, found.last.op);
    let recovered = recovery::read(&engine, &found, Items::default(), 0);
    let recovered = recovered.map_err(|unreadable| match unreadable.trouble() {
        Some(Trouble::NoAccess | Trouble::NoRoom | Trouble::Failure) => {
            anyhow::Error::from(unreadable).context("it cannot be read now")
        }
        Some(Trouble::Damage) | None => anyhow::Error::from(unreadable).context("damaged"),
    })?;
    Ok((recovered, committed))
}

fn verdict(place: &Path, recovered: &mut Recovered, torn: Option<&Torn>) -> String {
    let (last, _) = recovered.last();
    let torn = torn.map_or(String::new(), |torn| format!("\n{}", left_out(torn)));
    let (keys, digest) = (recovered.keys(), recovered.digest());
    format!("{}: sound through op {last}: {keys} keys, digest {digest}{torn}\n", place.display())
}

/// Writes a state into a file.
fn export(
    recovered: &mut Recovered,
    cluster: ClusterId,
    path: &Path,
    replace: bool,
) -> Result<Verified> {
    let mut file = NewSnapshotFile::create(path, replace)?;
    let (head, mut end, store) = recovered.snapshot(cluster);
    let (mut writer, bytes) = Writer::new(&head);
    file.write(&bytes)?;
    let scan = store.begin_scan();
    while let Some(chunk) = store.next_chunk(scan, CHUNK_BYTES) {
        file.write(&writer.block(&chunk))?;
        file.write(&chunk)?;
        end.chunks += 1;
    }
    file.write(&writer.end(&end))?;
    Ok(file.finish(|_| {})?)
}

fn not_exported(damage: &Damage) -> String {
    format!("\nnot exported: everything from there on: {damage}")
}

fn exported(path: &Path, written: &Verified, committed: OpNumber, note: &str) -> String {
    let Verified { head, end, counts, bytes } = written;
    format!(
        "exported to {}: op {} of generation {}, {} keys, {} sessions, {}, digest {}; {}{note}\n",
        path.display(),
        head.at.op,
        head.at.epoch.generation,
        counts.keys,
        counts.sessions,
        Size(*bytes),
        end.digest,
        certainty(head.at.op, committed)
    )
}

fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("print"),
    }
}
