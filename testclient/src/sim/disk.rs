//! A disk that keeps only what it must. Pure: the seed of each power cut decides what is lost.
//!
//! Bytes are safe after a sync of their file, names after a sync of their directory. A power cut
//! keeps of everything else what its [`Loss`] says: bytes by sectors, in any choice; changes of
//! names from the first one on. A sync that fails loses what it should have made safe, although
//! reads still show it, and later syncs succeed: as systems do that mark pages clean. (Rebello et
//! al., Can Applications Recover from fsync Failures?, 2020.)

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;

use kvserver::journal::disk::{Disk, DiskFile, Space};

use crate::random::Random;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// What Linux calls it when a process has too many files open.
const EMFILE: i32 = 24;

/// What becomes of what was not synced when the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// All of it is gone.
    Everything,
    /// All of it is there.
    Nothing,
    /// A choice that this seed makes.
    Some(u64),
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails, perhaps after having done half.
    Fails,
    /// There is no room.
    Full,
    /// The process has too many files open, where the operation opens one; otherwise all is well.
    NoHandle,
    /// The power goes while it is done.
    PowerCut,
}

/// A disk; clones are the same.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Rc<RefCell<State>>);

#[derive(Clone, Debug)]
struct State {
    files: BTreeMap<FileId, Inode>,
    next_file: FileId,
    /// Names as reads show them, and as they are safe.
    names: Names,
    safe_names: Names,
    renamings: Vec<Change>,
    capacity: u64,
    /// Operations that change something, counted from 1.
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    /// Rises with each power cut: files opened before are gone.
    life: u64,
    is_off: bool,
    /// Somebody deleted the whole of it, or put another in its place.
    is_gone: bool,
    /// As on an overlay file system, whose lower layer keeps its directories in their place.
    keeps_directories: bool,
    /// Files that this process may not open.
    denied: Vec<String>,
}

type FileId = u64;
type Names = BTreeMap<String, Named>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Named {
    File(FileId),
    Dir,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Link(String, Named),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Default, Debug)]
struct Inode {
    data: Vec<u8>,
    safe: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Clone, Debug)]
enum Write {
    /// Within one sector.
    Bytes(usize, Vec<u8>),
    Size(usize),
}

/// An open file.
#[derive(Debug)]
pub struct SimulatedFile {
    disk: Rc<RefCell<State>>,
    id: FileId,
    life: u64,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        SimulatedDisk::new(u64::MAX)
    }
}

impl SimulatedDisk {
    /// An empty disk of this many bytes.
    #[must_use]
    pub fn new(capacity: u64) -> SimulatedDisk {
        SimulatedDisk(Rc::new(RefCell::new(State {
            files: BTreeMap::new(),
            next_file: 0,
            names: Names::new(),
            safe_names: Names::new(),
            renamings: Vec::new(),
            capacity,
            operations: 0,
            faults: BTreeMap::new(),
            life: 0,
            is_off: false,
            is_gone: false,
            keeps_directories: false,
            denied: Vec::new(),
        })))
    }

    /// How many operations have changed something, or tried.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// Lets an operation go wrong, counted from the first one of the disk, which is 1.
    pub fn go_wrong(&self, operation: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(operation, fault);
    }

    /// What was to go wrong does not any more.
    pub fn go_right(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// The directory is deleted, or another one takes its place. What has it open may write on.
    pub fn vanish(&self) {
        self.0.borrow_mut().is_gone = true;
    }

    /// Only this file, if one is named, belongs to somebody else from now on.
    pub fn deny(&self, path: Option<&str>) {
        self.0.borrow_mut().denied = path.into_iter().map(str::to_owned).collect();
    }

    /// Directories that are there now cannot be renamed any more.
    pub fn keep_directories(&self) {
        self.0.borrow_mut().keeps_directories = true;
    }

    /// Whether the power went in the middle of something.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.0.borrow().is_off
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }

    /// Changes the size of the disk.
    pub fn set_capacity(&self, capacity: u64) {
        self.0.borrow_mut().capacity = capacity;
    }

    /// The power goes, if it has not yet, and comes back. What was to go wrong does not any more.
    pub fn power_cycle(&self, loss: Loss) {
        let mut state = self.0.borrow_mut();
        state.is_off = false;
        state.life += 1;
        state.faults.clear();
        let mut random = Random::new(match loss {
            Loss::Some(seed) => seed,
            Loss::Everything | Loss::Nothing => 0,
        });
        let mut keeps = || match loss {
            Loss::Everything => false,
            Loss::Nothing => true,
            Loss::Some(_) => random.chance(500),
        };
        let mut names = std::mem::take(&mut state.safe_names);
        for change in std::mem::take(&mut state.renamings) {
            if !keeps() {
                break;
            }
            change.apply(&mut names);
        }
        for inode in state.files.values_mut() {
            for write in std::mem::take(&mut inode.unsynced) {
                if keeps() {
                    write.apply(&mut inode.safe);
                }
            }
            inode.data = inode.safe.clone();
        }
        let linked = |id: &FileId| names.values().any(|named| *named == Named::File(*id));
        state.files.retain(|id, _| linked(id));
        (state.safe_names, state.names) = (names.clone(), names);
    }

    /// Paths of all files.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let is_file = |named: &Named| matches!(named, Named::File(_));
        let state = self.0.borrow();
        state.names.iter().filter(|(_, is)| is_file(is)).map(|(path, _)| path.clone()).collect()
    }

    /// Changes the bytes of a file behind everybody's back, for good.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn tamper(&self, path: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.0.borrow_mut();
        let Some(Named::File(id)) = state.names.get(path).copied() else {
            panic!("{path} is no file");
        };
        let inode = state.files.get_mut(&id).expect("names lead to files");
        change(&mut inode.data);
        change(&mut inode.safe);
    }

    /// A disk of its own with the same contents, all of them safe.
    #[must_use]
    pub fn copy(&self) -> SimulatedDisk {
        let copy = self.copy_with_doubt();
        copy.power_cycle(Loss::Nothing);
        copy
    }

    /// A disk of its own with the same contents, as safe as they are.
    #[must_use]
    pub fn copy_with_doubt(&self) -> SimulatedDisk {
        let copy = State { faults: BTreeMap::new(), ..self.0.borrow().clone() };
        SimulatedDisk(Rc::new(RefCell::new(copy)))
    }

    fn begin(&self) -> Result<(RefMut<'_, State>, Option<Fault>)> {
        let mut state = self.0.borrow_mut();
        let fault = state.begin()?;
        Ok((state, fault))
    }

    /// One change of names.
    fn change(&self, change: Change) -> Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.begin_on_open()?;
        if let None | Some(Fault::PowerCut) = fault {
            change.apply(&mut state.names);
            state.renamings.push(change);
        }
        state.ends(fault)
    }
}

impl State {
    /// Counts an operation that opens no file, as [`begin`](Self::begin).
    fn begin_on_open(&mut self) -> Result<Option<Fault>> {
        let fault = self.begin()?;
        Ok(fault.filter(|fault| *fault != Fault::NoHandle))
    }

    /// Counts an operation that changes something, and says what goes wrong with it.
    fn begin(&mut self) -> Result<Option<Fault>> {
        if self.is_off {
            return Err(Error::other("the power is off"));
        }
        self.operations += 1;
        Ok(self.faults.remove(&self.operations))
    }

    fn ends(&mut self, fault: Option<Fault>) -> Result<()> {
        match fault {
            None => Ok(()),
            Some(Fault::Fails) => Err(Error::other("simulated fault")),
            Some(Fault::Full) => Err(ErrorKind::StorageFull.into()),
            Some(Fault::NoHandle) => Err(Error::from_raw_os_error(EMFILE)),
            Some(Fault::PowerCut) => {
                self.is_off = true;
                Err(Error::other("the power went"))
            }
        }
    }

    fn used(&self) -> u64 {
        let size = |named: &Named| match named {
            Named::File(id) => self.files.get(id).map_or(0, |inode| inode.data.len() as u64),
            Named::Dir => 0,
        };
        self.names.values().map(size).sum()
    }

    fn file(&mut self, id: FileId) -> &mut Inode {
        self.files.entry(id).or_default()
    }

    fn grow(&mut self, id: FileId, size: usize) -> Result<()> {
        let has = self.file(id).data.len();
        let more = size.saturating_sub(has) as u64;
        if self.used().saturating_add(more) > self.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        let inside = |dir: &str, path: &str| {
            path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self {
            Change::Link(path, named) => {
                names.insert(path.clone(), *named);
            }
            Change::Remove(path) => names.retain(|name, _| !inside(path, name)),
            Change::Rename(from, to) => {
                let moved: Vec<_> =
                    names.iter().filter(|(name, _)| inside(from, name)).map(own).collect();
                names.retain(|name, _| !inside(from, name));
                for (name, named) in moved {
                    names.insert(format!("{to}{}", &name[from.len()..]), named);
                }
            }
        }
    }

    fn touches(&self, dir: &str) -> bool {
        match self {
            Change::Link(path, _) | Change::Remove(path) => parent(path) == dir,
            Change::Rename(from, to) => parent(from) == dir || parent(to) == dir,
        }
    }
}

fn own((name, named): (&String, &Named)) -> (String, Named) {
    (name.clone(), *named)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Write {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Write::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*at..end].copy_from_slice(bytes);
            }
            Write::Size(size) => data.resize(*size, 0),
        }
    }
}

impl Inode {
    fn write(&mut self, write: Write) {
        write.apply(&mut self.data);
        self.unsynced.push(write);
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let state = self.0.borrow();
        if state.is_off {
            return Err(Error::other("the power is off"));
        }
        let inside = |path: &&String| !path.is_empty() && parent(path) == dir;
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(state.names.keys().filter(inside).map(name).collect())
    }

    fn create(&self, path: &str) -> Result<SimulatedFile> {
        let (mut state, fault) = self.begin()?;
        if state.is_gone {
            return Err(ErrorKind::NotFound.into());
        }
        if let Some(Fault::Fails | Fault::Full | Fault::NoHandle) = fault {
            return Err(state.ends(fault).expect_err("a fault is an error"));
        }
        let dir = parent(path);
        if !dir.is_empty() && state.names.get(dir) != Some(&Named::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, Inode::default());
        let change = Change::Link(path.to_owned(), Named::File(id));
        change.apply(&mut state.names);
        state.renamings.push(change);
        state.ends(fault)?;
        let life = state.life;
        drop(state);
        Ok(SimulatedFile { disk: Rc::clone(&self.0), id, life })
    }

    fn open(&self, path: &str) -> Result<SimulatedFile> {
        let state = self.0.borrow();
        if state.is_off {
            return Err(Error::other("the power is off"));
        }
        if state.denied.iter().any(|denied| denied == path) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        match state.names.get(path).filter(|_| !state.is_gone) {
            Some(Named::File(id)) => {
                Ok(SimulatedFile { disk: Rc::clone(&self.0), id: *id, life: state.life })
            }
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        if self.0.borrow().names.get(path) == Some(&Named::Dir) {
            return Ok(());
        }
        self.change(Change::Link(path.to_owned(), Named::Dir))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let named = self.0.borrow().names.get(from).copied();
        if named == Some(Named::Dir) && self.0.borrow().keeps_directories && !from.ends_with(".new")
        {
            return Err(ErrorKind::CrossesDevices.into());
        }
        if named.is_none() || self.0.borrow().is_gone {
            return Err(ErrorKind::NotFound.into());
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &str) -> Result<()> {
        if !self.0.borrow().names.contains_key(path) || self.0.borrow().is_gone {
            return Err(ErrorKind::NotFound.into());
        }
        self.change(Change::Remove(path.to_owned()))
    }

    fn open_dir(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        let mut state = self.0.borrow_mut();
        let fault = state.begin_on_open()?;
        if fault.is_none() {
            // Changes of names are written in their order.
            let last = state.renamings.iter().rposition(|change| change.touches(dir));
            let through = last.map_or(0, |last| last + 1);
            for change in state.renamings.drain(..through).collect::<Vec<_>>() {
                change.apply(&mut state.safe_names);
            }
        }
        state.ends(fault)
    }

    fn space(&self) -> Result<Space> {
        let state = self.0.borrow();
        let free = state.capacity.saturating_sub(state.used());
        Ok(Space { free, total: state.capacity })
    }

    fn is_there(&self) -> bool {
        !self.0.borrow().is_gone
    }
}

impl SimulatedFile {
    fn state(&self) -> Result<RefMut<'_, State>> {
        let state = self.disk.borrow_mut();
        if state.is_off || state.life != self.life {
            return Err(Error::other("the power went since this file was opened"));
        }
        Ok(state)
    }
}

impl DiskFile for SimulatedFile {
    fn size(&self) -> Result<u64> {
        Ok(self.state()?.file(self.id).data.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut state = self.state()?;
        let at = usize::try_from(offset).map_err(Error::other)?;
        let bytes = state.file(self.id).data.get(at..at + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state()?;
        let fault = state.begin_on_open()?;
        let mut at = usize::try_from(offset).map_err(Error::other)?;
        state.grow(self.id, at + bytes.len())?;
        let written = match fault {
            None | Some(Fault::PowerCut) => bytes,
            Some(_) => &bytes[..bytes.len() / 2],
        };
        let mut rest = written;
        while !rest.is_empty() {
            let (sector, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            state.file(self.id).write(Write::Bytes(at, sector.to_vec()));
            at += sector.len();
            rest = after;
        }
        state.ends(fault)
    }

    fn reserve(&mut self, size: u64) -> Result<()> {
        let mut state = self.state()?;
        let fault = state.begin_on_open()?;
        let size = usize::try_from(size).map_err(Error::other)?;
        state.grow(self.id, size)?;
        let inode = state.file(self.id);
        if size > inode.data.len() && fault.is_none() {
            inode.write(Write::Size(size));
        }
        state.ends(fault)
    }

    fn cut(&mut self, size: u64) -> Result<()> {
        let mut state = self.state()?;
        let fault = state.begin_on_open()?;
        if fault.is_none() {
            let size = usize::try_from(size).map_err(Error::other)?;
            state.file(self.id).write(Write::Size(size));
        }
        state.ends(fault)
    }

    fn is_there(&self) -> bool {
        !self.disk.borrow().is_gone
    }

    fn sync(&mut self) -> Result<()> {
        let mut state = self.state()?;
        let fault = state.begin_on_open()?;
        let inode = state.file(self.id);
        match fault {
            None => {
                for write in std::mem::take(&mut inode.unsynced) {
                    write.apply(&mut inode.safe);
                }
            }
            // Some of it is safe now, but nobody knows what.
            Some(Fault::PowerCut) => {}
            // The pages are marked clean: nobody will write them any more.
            Some(_) => inode.unsynced.clear(),
        }
        state.ends(fault)
    }
}
