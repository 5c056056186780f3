//! Snapshots as files: written step by step, read back before anybody relies on them. Pure: on any
//! [`Disk`].
//!
//! The bytes are those of [`kvproto::snapshot`]. A writer that finds no room has changed nothing that
//! counts and may be asked again; any other error is the end of the file.

use std::io;

use bytes::{Bytes, BytesMut};
use kvproto::snapshot::{
    Check, FRAME_SIZE, Item, Malformed, Reader, SnapshotEnd, SnapshotHead, Writer,
};
use thiserror::Error;

use super::disk::{Disk, DiskFile};

/// Synced at least this often, so that no sync takes long.
const STEP: u64 = 8 << 20;
/// Room is reserved in steps of as much as there is, from this on.
const RESERVE_MIN: u64 = 64 << 10;
/// Read in pieces of this size.
const READ_SIZE: u64 = 1 << 20;

/// Why a snapshot could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

impl ReadError {
    /// The same as an error of the disk, which it is if the file was just written.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        match self {
            ReadError::Io(error) => error,
            ReadError::Malformed(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        }
    }
}

/// A snapshot that is being written.
#[derive(Debug)]
pub struct SnapshotWriter<D: Disk> {
    disk: D,
    path: String,
    file: D::File,
    head: SnapshotHead,
    writer: Writer,
    written: u64,
    reserved: u64,
    synced: u64,
    chunks: u64,
}

/// A snapshot in its file, read to the end and found whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: String,
    /// How it begins.
    pub head: SnapshotHead,
    /// How it ends.
    pub end: SnapshotEnd,
    /// Its length in bytes.
    pub size: u64,
}

impl<D: Disk> SnapshotWriter<D> {
    /// Begins a file.
    ///
    /// # Errors
    /// When the disk fails, or is full.
    pub fn begin(disk: &D, path: String, head: SnapshotHead) -> io::Result<SnapshotWriter<D>> {
        let mut file = disk.create(&path)?;
        let (writer, bytes) = Writer::new(&head);
        let began = file.reserve(bytes.len() as u64).and_then(|()| file.write_at(0, &bytes));
        if let Err(error) = began {
            // An empty file; if it stays, it goes at the next start.
            let _ = disk.remove(&path);
            return Err(error);
        }
        let (disk, written) = (disk.clone(), bytes.len() as u64);
        Ok(SnapshotWriter {
            disk,
            path,
            file,
            head,
            writer,
            written,
            reserved: written,
            synced: 0,
            chunks: 0,
        })
    }

    /// How many chunks have been written.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// How many bytes of the disk a chunk of records would take.
    #[must_use]
    pub fn grows_by(&self, records: &Bytes) -> u64 {
        self.reserves((FRAME_SIZE + records.len()) as u64) - self.reserved
    }

    /// Writes a chunk of records.
    ///
    /// # Errors
    /// When the disk fails, or is full.
    pub fn chunk(&mut self, records: &Bytes) -> io::Result<()> {
        let mut writer = self.writer.clone();
        let frame = writer.block(records);
        self.write(&[&frame, records])?;
        self.writer = writer;
        self.chunks += 1;
        if self.written - self.synced >= STEP {
            self.file.sync().map_err(not_for_want_of_room)?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Ends the file, makes it safe, and reads it back.
    ///
    /// # Errors
    /// When the disk fails or is full, or gives back something else than what was written.
    pub fn end(&mut self, end: SnapshotEnd) -> Result<SnapshotFile, ReadError> {
        // Before anything is written: it must not be found missing when all of it is.
        let reading = self.disk.open(&self.path)?;
        let bytes = self.writer.clone().end(&end);
        let whole = self.written + bytes.len() as u64;
        self.write(&[&bytes])?;
        self.file.cut(whole).map_err(not_for_want_of_room)?;
        self.file.sync().map_err(not_for_want_of_room)?;
        let mut check = Check::default();
        let mut reader = SnapshotReader::<D>::of(reading)?;
        reader.whole(|item| check.take(item).map_err(ReadError::from))?;
        Ok(SnapshotFile { path: self.path.clone(), head: self.head, end, size: whole })
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn abandon(self) -> io::Result<()> {
        self.disk.remove(&self.path)
    }

    fn write(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let reserved = self.reserves(size);
        if reserved > self.reserved {
            self.file.reserve(reserved)?;
            self.reserved = reserved;
        }
        let mut at = self.written;
        for piece in pieces {
            self.file.write_at(at, piece)?;
            at += piece.len() as u64;
        }
        self.written = at;
        Ok(())
    }

    /// The room that the file needs before so many bytes are written.
    fn reserves(&self, size: u64) -> u64 {
        let needed = self.written + size;
        if needed <= self.reserved {
            return self.reserved;
        }
        needed + self.written.clamp(RESERVE_MIN, STEP)
    }
}

/// What was written stands in the file, and nobody knows what a second sync would mean: this is not
/// to be asked again, whatever the disk says.
fn not_for_want_of_room(error: io::Error) -> io::Error {
    io::Error::other(error)
}

/// Reads a snapshot from its file.
#[derive(Debug)]
pub struct SnapshotReader<D: Disk> {
    file: D::File,
    reader: Reader,
    read: u64,
    size: u64,
}

impl<D: Disk> SnapshotReader<D> {
    /// At the beginning of this file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(disk: &D, path: &str) -> io::Result<SnapshotReader<D>> {
        SnapshotReader::of(disk.open(path)?)
    }

    fn of(file: D::File) -> io::Result<SnapshotReader<D>> {
        let size = file.size()?;
        Ok(SnapshotReader { file, reader: Reader::new(), read: 0, size })
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads all of it from its beginning, says how it begins and ends, and shows each item on the way.
    ///
    /// # Errors
    /// When the disk fails, the file is not whole and sound, or an item is refused.
    pub fn whole<E: From<ReadError>>(
        &mut self,
        mut each: impl FnMut(&Item) -> Result<(), E>,
    ) -> Result<(SnapshotHead, SnapshotEnd), E> {
        let (mut head, mut end) = (None, None);
        while let Some(item) = self.next()? {
            each(&item)?;
            match item {
                Item::Head(is) => head = Some(is),
                Item::Block(_) => {}
                Item::End(is) => end = Some(is),
            }
        }
        Ok(head.zip(end).expect("what was read to its end has a head and an end"))
    }

    /// How it begins. To be asked first.
    ///
    /// # Errors
    /// When the disk fails, or the file does not begin like a snapshot.
    pub fn head(&mut self) -> Result<SnapshotHead, ReadError> {
        match self.next()? {
            Some(Item::Head(head)) => Ok(head),
            _ => Err(Malformed::Incomplete { bytes: self.read }.into()),
        }
    }

    /// The next item; `None` after the end, when nothing follows it.
    fn next(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            if let Some(item) = self.reader.next()? {
                return Ok(Some(item));
            }
            if self.read == self.size {
                self.reader.finish()?;
                return Ok(None);
            }
            let size = READ_SIZE.min(self.size - self.read);
            let mut piece = BytesMut::zeroed(usize::try_from(size).map_err(io::Error::other)?);
            self.file.read_at(self.read, &mut piece)?;
            self.read += size;
            self.reader.push(piece.freeze());
        }
    }
}
