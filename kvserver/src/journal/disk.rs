//! What the journal needs of a disk. Pure: the contract alone. Servers keep it on the file system of
//! the machine, simulations on a disk that loses and tears what was not synced.
//!
//! What is assumed: bytes are safe once [`DiskFile::sync`] has returned, names once
//! [`Disk::sync_dir`] of their directory has; before that a crash may keep any part of the bytes,
//! by sectors, and any number of the changes of names, from the first on. A rename is atomic. A
//! failed sync says nothing about what is safe, also when it is repeated.

use std::io::{self, ErrorKind};

/// What an error of a disk says. The one place that tells what could not be done now from what is
/// wrong with the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// There is no room. Nothing was done.
    NoRoom,
    /// This process may or can not get at it: too many open files, no permission, a disk that is not
    /// mounted, a directory that is gone. Nothing was done, and nothing is said of what is there.
    NoAccess,
    /// What was read is not what was written, or the disk says itself that it has lost it.
    Damage,
    /// Anything else. Of a read it says nothing about what is there; after a write or a sync nobody
    /// knows what is safe.
    Failure,
}

/// What Linux calls these, for which the library has no name.
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

impl Trouble {
    /// What this error says.
    #[must_use]
    pub fn of(error: &io::Error) -> Trouble {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge, _) => {
                Trouble::NoRoom
            }
            (_, Some(EMFILE | ENFILE))
            | (
                ErrorKind::PermissionDenied
                | ErrorKind::NotFound
                | ErrorKind::NotADirectory
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::StaleNetworkFileHandle
                | ErrorKind::OutOfMemory,
                _,
            ) => Trouble::NoAccess,
            (_, Some(EIO)) | (ErrorKind::UnexpectedEof | ErrorKind::InvalidData, _) => {
                Trouble::Damage
            }
            _ => Trouble::Failure,
        }
    }

    /// Whether nothing was done for want of something that may come back: then it is tried again.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(self, Trouble::NoRoom | Trouble::NoAccess)
    }
}

/// Whether this process, or the whole system, has as many files open as it may: that passes by itself.
#[must_use]
pub fn too_many_open_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// What the disk holds in all.
    pub total: u64,
}

/// A directory tree. Paths are relative to its root, with `/` between names; "" is the root. Clones
/// are the same tree.
pub trait Disk: Clone {
    /// An open file.
    type File: DiskFile;

    /// Names in a directory, sorted; none if there is no such directory.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// A new, empty file, in the place of one that has this name.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&self, path: &str) -> io::Result<Self::File>;

    /// An existing file, to be read and written.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    fn open(&self, path: &str) -> io::Result<Self::File>;

    /// Makes a directory, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    fn make_dir(&self, path: &str) -> io::Result<()>;

    /// Gives a file or directory another name, in the place of a file that has it.
    ///
    /// # Errors
    /// When that fails.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// When that fails.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Has at hand what [`sync_dir`](Disk::sync_dir) of this directory needs: that it then fails only if the disk
    /// does.
    ///
    /// # Errors
    /// When it cannot be had.
    fn open_dir(&self, dir: &str) -> io::Result<()>;

    /// Makes the names in a directory safe.
    ///
    /// # Errors
    /// When that fails; then nothing is known of them.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Room on the disk.
    ///
    /// # Errors
    /// When nobody knows.
    fn space(&self) -> io::Result<Space>;

    /// Whether the root is still found where it was: otherwise nobody will find again what is written.
    fn is_there(&self) -> bool;
}

/// An open file.
pub trait DiskFile: std::fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When nobody knows.
    fn size(&self) -> io::Result<u64>;

    /// Fills the buffer from this place on.
    ///
    /// # Errors
    /// When that fails, or the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of these bytes from this place on; a file that ends before it grows.
    ///
    /// # Errors
    /// When that fails; then any part may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Sets room aside, so that the file has at least this length and writes within it find room.
    /// New bytes are zeros.
    ///
    /// # Errors
    /// When there is not enough, or that fails.
    fn reserve(&mut self, size: u64) -> io::Result<()>;

    /// Cuts the file to this length.
    ///
    /// # Errors
    /// When that fails.
    fn cut(&mut self, size: u64) -> io::Result<()>;

    /// Whether it still has a name: otherwise nobody will find it again.
    fn is_there(&self) -> bool;

    /// Makes what was written, and the length, safe.
    ///
    /// # Errors
    /// When that fails; then nothing is known of what was written since the last time.
    fn sync(&mut self) -> io::Result<()>;
}

/// The whole of a file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read_whole<D: Disk>(disk: &D, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_now_is_not_damage() {
        for (error, trouble) in [
            (ErrorKind::StorageFull.into(), Trouble::NoRoom),
            (ErrorKind::PermissionDenied.into(), Trouble::NoAccess),
            (io::Error::from_raw_os_error(EMFILE), Trouble::NoAccess),
            (io::Error::from_raw_os_error(ENFILE), Trouble::NoAccess),
            (ErrorKind::NotFound.into(), Trouble::NoAccess),
            (ErrorKind::UnexpectedEof.into(), Trouble::Damage),
            (io::Error::from_raw_os_error(EIO), Trouble::Damage),
            (io::Error::other("something new"), Trouble::Failure),
        ] {
            assert_eq!(Trouble::of(&error), trouble, "{error}");
            let passes = matches!(trouble, Trouble::NoRoom | Trouble::NoAccess);
            assert_eq!(trouble.may_pass(), passes, "{error}");
        }
    }
}
