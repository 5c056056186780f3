//! Snapshots in files of their own: backups, and what a server is to begin with. The format is
//! [`kvproto::snapshot`]; this is what makes one of them safe on disk, and reads it back.
//!
//! A file under its final name is whole, sound and on disk: it is written under another name,
//! synced, read back and verified before it is renamed. Whoever stops half-way leaves at most a
//! `.partial` file behind, which the next one under that name replaces. Everything here blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use kvproto::snapshot::{Malformed, Verified, Verifier};
use thiserror::Error;

/// Bytes read at a time.
const READ_SIZE: usize = 1 << 20;

/// Why there is no sound snapshot under a name. Every message names the file.
#[derive(Debug, Error)]
pub enum SnapshotFileError {
    /// It is not for a file.
    #[error("{path}: is a directory: give the name of a file in it", path = .0.display())]
    Directory(PathBuf),
    /// It was meant for stdout.
    #[error(
        "`-`: a snapshot is read back before it counts, which a pipe cannot do: save it into a file, \
         then send that (./- is a file of this name)"
    )]
    Stdout,
    /// There is something already.
    #[error("{path}: exists already; --force replaces it", path = .0.display())]
    Exists(PathBuf),
    /// Another process writes it.
    #[error("{path}: another process is writing it", path = .0.display())]
    Taken(PathBuf),
    /// It is none, or not sound.
    #[error("{path}: {malformed}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        malformed: Malformed,
    },
    /// The operating system did not do it.
    #[error("{path}: cannot {doing} it: {error}", path = .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// At what it failed.
        doing: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
}

/// Reads a file to its end, telling `read` how many bytes were read.
///
/// # Errors
/// If it cannot be read, or is no sound snapshot.
pub fn verify(path: &Path, mut read: impl FnMut(u64)) -> Result<Verified, SnapshotFileError> {
    let failed = |error| SnapshotFileError::Failed { path: path.to_owned(), doing: "read", error };
    let malformed = |malformed| SnapshotFileError::Malformed { path: path.to_owned(), malformed };
    let mut file = File::open(path).map_err(failed)?;
    let mut verifier = Verifier::default();
    loop {
        let mut piece = BytesMut::zeroed(READ_SIZE);
        let size = match file.read(&mut piece) {
            Ok(0) => return verifier.finish().map_err(malformed),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        piece.truncate(size);
        verifier.push(piece.freeze()).map_err(malformed)?;
        read(size as u64);
    }
}

/// A snapshot on its way into a file. Unless it is finished it leaves nothing behind.
#[derive(Debug)]
pub struct NewSnapshotFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    replace: bool,
    finished: bool,
}

impl NewSnapshotFile {
    /// Begins a file that will have this name in the end. What has it now stays until then, if it
    /// may be replaced at all.
    ///
    /// # Errors
    /// If it may not, if another process is at it, or if nothing can be written there.
    pub fn create(path: &Path, replace: bool) -> Result<NewSnapshotFile, SnapshotFileError> {
        if path == Path::new("-") {
            return Err(SnapshotFileError::Stdout);
        }
        if path.is_dir() {
            return Err(SnapshotFileError::Directory(path.to_owned()));
        }
        if !replace && path.symlink_metadata().is_ok() {
            return Err(SnapshotFileError::Exists(path.to_owned()));
        }
        let failed =
            |error| SnapshotFileError::Failed { path: path.to_owned(), doing: "create", error };
        let mut name =
            path.file_name().ok_or_else(|| failed(ErrorKind::IsADirectory.into()))?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&partial);
        let file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => file.set_len(0).map_err(failed)?,
            Err(TryLockError::WouldBlock) => return Err(SnapshotFileError::Taken(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(NewSnapshotFile { path: path.to_owned(), partial, file, replace, finished: false })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        self.file.write_all(bytes).map_err(|error| self.failed("write", error))
    }

    /// Syncs what was written, reads it back, and gives it its name.
    ///
    /// # Errors
    /// If any of that fails, or it is no sound snapshot.
    pub fn finish(mut self, read: impl FnMut(u64)) -> Result<Verified, SnapshotFileError> {
        self.file.sync_all().map_err(|error| self.failed("sync", error))?;
        let verified = verify(&self.partial, read)?;
        if !self.replace && self.path.symlink_metadata().is_ok() {
            return Err(SnapshotFileError::Exists(self.path.clone()));
        }
        fs::rename(&self.partial, &self.path).map_err(|error| self.failed("rename", error))?;
        self.finished = true;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = File::open(parent.unwrap_or(Path::new(".")));
        parent.and_then(|parent| parent.sync_all()).map_err(|error| self.failed("sync", error))?;
        Ok(verified)
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> SnapshotFileError {
        SnapshotFileError::Failed { path: self.path.clone(), doing, error }
    }
}

impl Drop for NewSnapshotFile {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is replaced by the next attempt.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvproto::snapshot::{SnapshotEnd, SnapshotHead, Writer};
    use kvproto::{ClusterId, Digest, LogTime, Position};

    use super::*;

    fn empty_state() -> Vec<u8> {
        let (cluster, at) = (ClusterId([1; 16]), Position::default());
        let (writer, head) = Writer::new(&SnapshotHead { cluster, at, keys: 0 });
        let end = SnapshotEnd {
            epochs: Vec::new(),
            log_time: LogTime::default(),
            digest: Digest::default(),
            chunks: 0,
        };
        [head, writer.end(&end)].concat()
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap();
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole_and_sound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        let bytes = empty_state();
        for (count, sound) in [(bytes.len() - 1, false), (bytes.len(), true)] {
            let mut file = NewSnapshotFile::create(&path, false).unwrap();
            file.write(&bytes[..count]).unwrap();
            assert_eq!(names(dir.path()), ["backup.partial"]);
            let finished = file.finish(|_| {});
            assert_eq!(finished.is_ok(), sound, "{finished:?}");
            assert_eq!(names(dir.path()), if sound { vec!["backup"] } else { vec![] });
        }
        assert_eq!(verify(&path, |_| {}).unwrap().bytes, bytes.len() as u64);
    }

    #[test]
    fn what_is_there_is_replaced_only_by_a_sound_one_and_if_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        fs::write(&path, "before").unwrap();
        let refused = NewSnapshotFile::create(&path, false);
        assert!(matches!(refused, Err(SnapshotFileError::Exists(_))), "{refused:?}");
        let mut file = NewSnapshotFile::create(&path, true).unwrap();
        file.write(b"no snapshot").unwrap();
        let refused = file.finish(|_| {});
        assert!(matches!(refused, Err(SnapshotFileError::Malformed { .. })), "{refused:?}");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        let mut file = NewSnapshotFile::create(&path, true).unwrap();
        file.write(&empty_state()).unwrap();
        file.finish(|_| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), empty_state());
    }

    #[test]
    fn a_directory_and_stdout_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for replace in [false, true] {
            let refused = NewSnapshotFile::create(dir.path(), replace).unwrap_err().to_string();
            assert!(refused.contains("is a directory"), "{refused}");
            let refused = NewSnapshotFile::create(Path::new("-"), replace).unwrap_err().to_string();
            assert!(refused.contains("into a file"), "{refused}");
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn two_at_once_under_one_name_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        let first = NewSnapshotFile::create(&path, false).unwrap();
        let second = NewSnapshotFile::create(&path, false);
        assert!(matches!(second, Err(SnapshotFileError::Taken(_))), "{second:?}");
        drop(first);
        NewSnapshotFile::create(&path, false).unwrap();
    }
}
