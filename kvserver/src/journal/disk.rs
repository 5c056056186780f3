//! What the journal needs of a disk. Pure: the contract alone. Servers keep it on the file system of
//! the machine, simulations on a disk that loses and tears what was not synced.
//!
//! What is assumed: bytes are safe once [`DiskFile::sync`] has returned, names once
//! [`Disk::sync_dir`] of their directory has; before that a crash may keep any part of the bytes,
//! by sectors, and any number of the changes of names, from the first on. A rename is atomic. A
//! failed sync says nothing about what is safe, also when it is repeated.

use std::io;

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
