//! The disk of a server: a directory of the file system. Shell: every call is a few calls of the
//! system, and decides nothing.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvprocess::data_dir::Place;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::disk::{Disk, DiskFile, Space};

/// A directory.
#[derive(Clone, Debug)]
pub struct Files {
    root: Arc<Root>,
    writes: bool,
    /// Directories that were synced once stay open: a sync must not fail for want of a handle after
    /// what it makes safe was done.
    dirs: Arc<Mutex<HashMap<String, Arc<File>>>>,
}

/// The directory itself, whatever is found under its path by now: what is written must never end up in
/// another one that took its place.
#[derive(Debug)]
struct Root {
    /// None if it was not there from the beginning.
    place: Option<Place>,
    /// By its handle, where the system shows those as files.
    path: PathBuf,
    _handle: Option<File>,
}

impl Root {
    fn new(path: &Path) -> Root {
        let handle = File::open(path).ok();
        let by_handle =
            handle.as_ref().map(|dir| PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())));
        let reached = by_handle.filter(|by_handle| by_handle.is_dir());
        Root {
            place: Place::of(path).ok(),
            path: reached.unwrap_or_else(|| path.to_owned()),
            _handle: handle,
        }
    }
}

/// A file in it.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// Since the last sync: then more than the bytes has to be made safe.
    has_other_size: bool,
}

impl Files {
    /// The files in this directory, which the caller has for itself.
    #[must_use]
    pub fn new(root: &Path) -> Files {
        Files::at(root, true)
    }

    /// The files in this directory, of which the caller changes none and need not be allowed to.
    #[must_use]
    pub fn to_read(root: &Path) -> Files {
        Files::at(root, false)
    }

    fn at(root: &Path, writes: bool) -> Files {
        Files { root: Arc::new(Root::new(root)), writes, dirs: Arc::default() }
    }

    fn dirs(&self) -> MutexGuard<'_, HashMap<String, Arc<File>>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory that has or had this name is another one from now on, or none.
    fn forget_dir(&self, path: &str) {
        let mut dirs = self.dirs();
        dirs.retain(|dir, _| dir != path && !dir.starts_with(&format!("{path}/")));
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.path.clone() } else { self.root.path.join(path) }
    }
}

impl Disk for Files {
    type File = OpenFile;

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.path(dir);
        let entries = match fs::read_dir(&path) {
            // But a name that leads nowhere stands for a disk that is not mounted.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
            {
                return Ok(Vec::new());
            }
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is no text is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &str) -> io::Result<OpenFile> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path(path));
        Ok(OpenFile { file: file?, has_other_size: true })
    }

    fn open(&self, path: &str) -> io::Result<OpenFile> {
        let file = OpenOptions::new().read(true).write(self.writes).open(self.path(path))?;
        Ok(OpenFile { file, has_other_size: true })
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        match fs::create_dir(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.forget_dir(from);
        self.forget_dir(to);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.forget_dir(path);
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.open_dir(dir)?;
        let open = self.dirs().get(dir).map(Arc::clone);
        open.map_or(Ok(()), |dir| dir.sync_all())
    }

    fn open_dir(&self, dir: &str) -> io::Result<()> {
        if !self.dirs().contains_key(dir) {
            let open = Arc::new(File::open(self.path(dir))?);
            self.dirs().insert(dir.to_owned(), open);
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let space = statvfs(&self.root.path)?;
        Ok(Space { free: space.f_bavail * space.f_frsize, total: space.f_blocks * space.f_frsize })
    }

    fn is_there(&self) -> bool {
        self.root.place.as_ref().is_some_and(Place::is_there)
    }
}

impl DiskFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn reserve(&mut self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        self.has_other_size = true;
        match fallocate(&self.file, FallocateFlags::empty(), 0, size) {
            // Then writes find out whether there is room.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.size()? < size => self.file.set_len(size),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    fn cut(&mut self, size: u64) -> io::Result<()> {
        self.has_other_size = true;
        self.file.set_len(size)
    }

    fn is_there(&self) -> bool {
        self.file.metadata().map_or(true, |metadata| metadata.nlink() > 0)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.has_other_size {
            self.file.sync_all()?;
            self.has_other_size = false;
            return Ok(());
        }
        self.file.sync_data()
    }
}
