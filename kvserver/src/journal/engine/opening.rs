//! What a directory holds when it is opened, and what is done there before anything else: to find out
//! changes nothing, and only who may write there settles what a crash left.

use kvproto::ids::StorageId;

use super::{Engine, Found, FoundLog, Options, Replaced};
use crate::journal::disk::{Disk, DiskFile};
use crate::journal::layout::{self, IDENTITY};
use crate::journal::log::{Log, Sizes};
use crate::journal::survey::{self, Directory, Era, Refused};

/// What a start has to do in a directory once it may.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Names of what was not finished.
    unfinished: Vec<String>,
    /// Older eras that nobody has moved away yet.
    replaced: Vec<Replaced>,
    /// What is to be done in the directory of a sound log.
    log: Option<UnsettledLog>,
}

/// The directory of a log, what nobody needs in it, and its last segment with the number of its
/// records.
type UnsettledLog = (String, Vec<String>, Option<(String, u64)>);

impl<D: Disk> Engine<D> {
    /// Opens a directory for those who may write there at once: [`find`](Self::find), then
    /// [`settle`](Self::settle).
    ///
    /// # Errors
    /// When it is not to be used.
    pub fn open(disk: D, options: Options) -> Result<(Engine<D>, Found), Refused> {
        let (mut engine, found) = Engine::find(disk, options)?;
        engine.settle()?;
        Ok((engine, found))
    }

    /// Reads what a directory holds, which the caller has for itself, and changes nothing.
    ///
    /// # Errors
    /// When it is not to be used, or cannot be read now.
    pub fn find(disk: D, options: Options) -> Result<(Engine<D>, Found), Refused> {
        let directory = survey::survey(&disk)?;
        let record = directory.record.map_err(survey::refuse_record)?;
        let mut engine = Engine::new(disk, options, directory.identity);
        engine.record = record;
        let mut unsettled = Unsettled { unfinished: directory.unfinished, ..Unsettled::default() };
        for number in &directory.replaced {
            let era = survey::era(&engine.disk, *number, engine.identity.storage)?;
            let generation = era.damage.is_none().then(|| era.last().epoch.generation);
            unsettled.replaced.push(Replaced { number: *number, generation });
        }
        let numbers = directory.set_aside.iter().filter_map(|name| layout::set_aside_number(name));
        engine.next_era = numbers.max().unwrap_or(0) + 1;
        let found = match directory.era {
            None => Found::Nothing,
            Some(era) => {
                engine.next_era = engine.next_era.max(era.number + 1);
                if era.damage.is_some() {
                    engine.replaced = Some(Replaced { number: era.number, generation: None });
                } else {
                    let last = era.segments.last().map(|last| (last.path.clone(), last.records));
                    unsettled.log = Some((era.dir.clone(), era.leftovers.clone(), last));
                }
                engine.take(era, directory.set_aside)
            }
        };
        engine.unsettled = Some(unsettled);
        Ok((engine, found))
    }

    /// Finishes what a crash interrupted, and makes a new directory whose it is. Nothing else may be
    /// asked of an engine that found something before this is done.
    ///
    /// # Errors
    /// When the disk fails, or does not let us now; then this server must not begin.
    pub fn settle(&mut self) -> Result<(), Refused> {
        let Some(unsettled) = self.unsettled.take() else {
            return Ok(());
        };
        for name in &unsettled.unfinished {
            self.disk.remove(name).map_err(Refused::io("remove", name))?;
        }
        if !self.disk.list("").map_err(Refused::io("read", ""))?.iter().any(|name| name == IDENTITY)
        {
            self.write_identity().map_err(Refused::io("write", IDENTITY))?;
        }
        for replaced in &unsettled.replaced {
            let era = layout::era(replaced.number);
            self.set_aside(replaced).map_err(Refused::io("move away", &era))?;
        }
        let Some((dir, leftovers, last)) = unsettled.log else {
            return Ok(());
        };
        for path in &leftovers {
            self.disk.remove(path).map_err(Refused::io("remove", path))?;
        }
        let Some((path, records)) = last else {
            return Ok(());
        };
        let mut file = self.disk.open(&path).map_err(Refused::io("open", &path))?;
        self.disk.open_dir(&dir).map_err(Refused::io("open", &dir))?;
        // What was read may be in the memory of the system alone.
        if let Err(error) = file.sync().and_then(|()| self.disk.sync_dir(&dir)) {
            // The next start could sync, and would not know what this one has lost.
            let _ = self.mark_suspect(&dir, "sync what was found", &error);
            return Err(Refused::io("sync", &path)(error));
        }
        let nonce = self.nonce();
        if let Some(log) = self.log.as_mut().filter(|_| records > 0) {
            // A new segment says that what is before it was safe. Without room, the next write does.
            log.write(&self.disk, &[], self.committed, self.adopted, nonce)
                .map_err(Refused::io("write", &dir))?;
        }
        Ok(())
    }

    /// Looks at what a survey of this disk has found, and changes nothing: for those who only read.
    pub fn look(disk: D, directory: Directory) -> (Engine<D>, Found) {
        let sizes = Sizes { min: 0, max: 0 };
        let storage = StorageId::default();
        let options = Options { storage, seed: 0, sizes, retain: 0, reserve: 0 };
        let mut engine = Engine::new(disk, options, directory.identity);
        let found = match directory.era {
            None => Found::Nothing,
            Some(era) => engine.take(era, directory.set_aside),
        };
        (engine, found)
    }

    /// Takes over the log of an era, if nothing in it is damaged.
    fn take(&mut self, era: Era, set_aside: Vec<String>) -> Found {
        if let Some(damage) = era.damage {
            return Found::Damaged(damage);
        }
        self.adopted = era.adopted;
        self.committed = era.committed;
        self.snapshot = era.snapshot.clone();
        self.log = Some(Log::found(self.identity.storage, self.options.sizes, &era));
        Found::Sound(Box::new(FoundLog {
            last: era.last(),
            adopted: era.adopted,
            committed: era.committed,
            snapshot: era.snapshot,
            torn: era.torn,
            dropped: era.dropped,
            damage_covered: era.damage_covered,
            set_aside,
        }))
    }
}
