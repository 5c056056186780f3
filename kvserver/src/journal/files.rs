//! The disk of a server: a directory of the file system. Shell: every call is a few calls of the
//! system, and decides nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::disk::{Disk, DiskFile, Space};

/// A directory.
#[derive(Clone, Debug)]
pub struct Files {
    root: Arc<Path>,
    writes: bool,
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
        Files { root: root.into(), writes: true }
    }

    /// The files in this directory, of which the caller changes none and need not be allowed to.
    #[must_use]
    pub fn to_read(root: &Path) -> Files {
        Files { root: root.into(), writes: false }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.to_path_buf() } else { self.root.join(path) }
    }
}

impl Disk for Files {
    type File = OpenFile;

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
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
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let space = statvfs(&*self.root)?;
        Ok(Space { free: space.f_bavail * space.f_frsize, total: space.f_blocks * space.f_frsize })
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

    fn sync(&mut self) -> io::Result<()> {
        if self.has_other_size {
            self.file.sync_all()?;
            self.has_other_size = false;
            return Ok(());
        }
        self.file.sync_data()
    }
}
