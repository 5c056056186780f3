//! How a log begins anew: the era to come, which is made beside the old one, empty or with a state
//! that is received, takes its place by one rename, and has it set aside.

use std::io;

use bytes::Bytes;
use kvproto::ids::{Generation, OpNumber, Position};
use kvproto::snapshot::{SnapshotEnd, SnapshotHead};

use super::{Engine, Failed, or_later};
use crate::journal::disk::{Disk, Trouble};
use crate::journal::layout::{self, NEW, SET_ASIDE};
use crate::journal::log::Log;
use crate::journal::snapshots::{ReadError, SnapshotFile, SnapshotWriter};

/// A state that is received from another copy.
#[derive(Debug)]
pub(super) enum Received<D: Disk> {
    Partly(Box<SnapshotWriter<D>>),
    Whole(Box<SnapshotFile>),
}

/// An era whose place the next one takes.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) number: u64,
    /// None if nobody could read it.
    pub(super) generation: Option<Generation>,
}

impl<D: Disk> Engine<D> {
    /// The log is empty. On disk everything stays as it is until another begins.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.received = None;
        let snapshot = self.snapshot.take();
        if let Some(mut log) = self.log.take() {
            log.take_spare().iter().for_each(|spare| self.drop_spare(spare));
            let base = snapshot.map_or(Position::default(), |snapshot| snapshot.head.at);
            let last = log.index().last_position().unwrap_or(base);
            let generation = Some(last.epoch.generation);
            self.replaced = Some(Replaced { number: log.era(), generation });
        }
    }

    /// Begins to receive a state for a log that will begin with it. False if the disk is full.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn receive(&mut self, at: Position, keys: u64) -> Result<bool, Failed> {
        self.check()?;
        assert!(self.log.is_none(), "a state is received only where there is no log");
        self.received = None;
        let dir = format!("{}{NEW}", layout::era(self.next_era));
        let path = format!("{dir}/{}", layout::snapshot(at.op));
        let head = SnapshotHead { cluster: self.identity.cluster, at, keys };
        let begun = self
            .empty_dir(&dir)
            .and_then(|()| SnapshotWriter::begin(&self.disk, path, head))
            .map(|writer| self.received = Some(Received::Partly(Box::new(writer))));
        self.unless_put_off("begin a snapshot", begun)
    }

    /// The next part of the state that is received. Says how many there are; `None` if the disk is
    /// full.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn receive_chunk(&mut self, records: &Bytes) -> Result<Option<u64>, Failed> {
        self.check()?;
        let Some(Received::Partly(writer)) = &mut self.received else {
            // It was given up.
            return Ok(Some(0));
        };
        let written = writer.chunk(records);
        let chunks = writer.chunks();
        Ok(self.unless_put_off("write a snapshot", written)?.then_some(chunks))
    }

    /// The state that is received is given up. What there is of it goes when another begins.
    pub fn receive_nothing(&mut self) {
        self.received = None;
    }

    /// The state that is received is whole. False if the disk is full.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn receive_end(&mut self, end: SnapshotEnd) -> Result<bool, Failed> {
        self.check()?;
        let Some(Received::Partly(writer)) = &mut self.received else {
            return Ok(true);
        };
        let verified = writer.end(end).map_err(ReadError::into_io);
        let verified =
            verified.map(|verified| self.received = Some(Received::Whole(Box::new(verified))));
        self.unless_put_off("write a snapshot", verified)
    }

    /// The log begins with the state that was received. False if the disk is full.
    ///
    /// # Errors
    /// When the disk fails.
    ///
    /// # Panics
    /// When no whole state at this op was received.
    pub fn begin_with_received(&mut self, at: Position) -> Result<bool, Failed> {
        self.check()?;
        let verified = match &self.received {
            Some(Received::Whole(verified)) if verified.head.at == at => verified.clone(),
            _ => panic!("a log begins with a state that was received: {at}"),
        };
        let begun = self.begin_era(Some(*verified));
        self.sound("begin a journal", begun)
    }

    /// A new era takes the place of the old one. False if there is no room; then it has not.
    pub(super) fn begin_era(&mut self, first_state: Option<SnapshotFile>) -> io::Result<bool> {
        let number = self.next_era;
        let (dir, new) = (layout::era(number), format!("{}{NEW}", layout::era(number)));
        self.obstacle = None;
        let prepared = match &first_state {
            // It is in there.
            Some(_) => Ok(()),
            None => self.empty_dir(&new),
        };
        // What comes after the rename must not be found missing then.
        if let Err(error) = prepared.and_then(|()| self.disk.open_dir("")) {
            if !Trouble::of(&error).may_pass() {
                return Err(error);
            }
            self.note_obstacle(&error);
            return Ok(false);
        }
        let after = first_state.as_ref().map_or(OpNumber(0), |verified| verified.head.at.op);
        let (storage, sizes) = (self.identity.storage, self.options.sizes);
        let mut log = Log::new(storage, number, new.clone(), sizes, after);
        let nonce = self.nonce();
        if !log.write(&self.disk, &[], after, self.adopted, nonce)? {
            self.obstacle = log.obstacle().map(str::to_owned);
            return Ok(false);
        }
        self.disk.rename(&new, &dir)?;
        self.disk.sync_dir("")?;
        log.moved(dir.clone());
        self.log = Some(log);
        self.committed = after;
        self.next_era = number + 1;
        self.received = None;
        self.snapshot = first_state.map(|file| SnapshotFile {
            path: format!("{dir}/{}", layout::snapshot(after)),
            ..file
        });
        if let Some(replaced) = self.replaced.take() {
            // What cannot be moved away now the next start moves: the newest era is the one that counts.
            or_later(self.set_aside(&replaced))?;
        }
        Ok(true)
    }

    /// Of one generation what was there first stays, and what was there last: the others were filled by
    /// primaries, and a copy that is filled again and again must not fill its disk with them.
    pub(super) fn set_aside(&self, era: &Replaced) -> io::Result<()> {
        self.disk.make_dir(SET_ASIDE)?;
        let names = self.disk.list(SET_ASIDE)?;
        let is_this = |name: &&String| layout::set_aside_number(name) == Some(era.number);
        let begun = names.iter().find(is_this);
        let is_alike = |name: &&String| {
            era.generation.is_some() && layout::set_aside_generation(name) == era.generation
        };
        for between in names.iter().filter(|name| !is_this(name)).filter(is_alike).skip(1) {
            self.disk.remove(&format!("{SET_ASIDE}/{between}"))?;
        }
        let from = layout::era(era.number);
        match begun {
            Some(begun) => self.move_files(&from, &format!("{SET_ASIDE}/{begun}"))?,
            None => {
                let to = layout::set_aside(era.number, era.generation);
                match self.disk.rename(&from, &to) {
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                        self.move_files(&from, &to)?;
                    }
                    moved => moved?,
                }
            }
        }
        self.disk.sync_dir(SET_ASIDE)?;
        self.disk.sync_dir("")
    }

    /// Where a directory cannot be renamed, as one of a lower layer of an overlay file system: its files
    /// move one by one. A start that finds some of them moved goes on with the rest.
    fn move_files(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.make_dir(to)?;
        self.disk.sync_dir(SET_ASIDE)?;
        for name in self.disk.list(from)? {
            self.disk.rename(&format!("{from}/{name}"), &format!("{to}/{name}"))?;
        }
        self.disk.sync_dir(to)?;
        self.disk.sync_dir(from)?;
        self.disk.remove(from)
    }

    fn empty_dir(&self, dir: &str) -> io::Result<()> {
        if !self.disk.list(dir)?.is_empty() {
            self.disk.remove(dir)?;
        }
        self.disk.make_dir(dir)
    }
}
