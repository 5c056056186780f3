//! The directory in which one process keeps what must outlive it. The directory belongs to one
//! program and, while it runs, to one process: two of them on the same files would destroy what
//! each has promised to keep.
//!
//! What is locked is the directory itself, which nobody can take away as one can a file in it; the lock
//! file says whose it is, and keeps away who knows of nothing else. [`DataDir::hold`] writes nothing
//! into it: a process that has to ask first whether it is wanted marks it when it knows.
//!
//! It never looks into the files, only at their names: a directory without a lock file that holds
//! anything else than what the program keeps is none of its. Its caller keeps the [`DataDir`] for as
//! long as it touches the files, and looks now and then whether it is [still there](Place::is_there).

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Holds the name of the program; the process that runs has it locked, as it has the directory. The
/// lock goes with the process, however that ends, so a leftover file means nothing.
pub const LOCK_FILE: &str = "process.lock";

/// What a new file system has at its root.
const LOST_AND_FOUND: &str = "lost+found";

/// A program's name is short; more than this is not one.
const NAME_SIZE_MAX: u64 = 64;

/// Why a directory cannot be used. Every message names it and a way out.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "--data-dir {path}: another process uses this directory; stop it (`fuser {path}` names \
         it) or choose another directory with --data-dir",
        path = .path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another program.
    #[error(
        "--data-dir {path}: this directory belongs to a {owner}, not to a {program}; choose another \
         one with --data-dir",
        path = .path.display()
    )]
    OtherProgram {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asked.
        program: &'static str,
    },
    /// It has no lock file, and something that no such program put there.
    #[error(
        "--data-dir {path}: it is not empty (there is {name}), and has no data of a {program}: choose \
         an empty directory, or one that does not exist yet, with --data-dir",
        path = .path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the things in it.
        name: String,
        /// Who asked.
        program: &'static str,
    },
    /// There is no such directory to look at.
    #[error("--data-dir {path}: does not exist", path = .path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// There is a file in the way.
    #[error(
        "--data-dir {path}: there is something on this path that is no directory; choose another \
         path with --data-dir",
        path = .path.display()
    )]
    NotDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system does not let this user write there.
    #[error(
        "--data-dir {path}: this user may not write there ({error}); change the owner of the \
         directory, or choose another one with --data-dir",
        path = .path.display()
    )]
    NotAllowed {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Something else.
    #[error("--data-dir {path}: cannot {doing}: {error}", path = .path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
        /// At what it failed.
        doing: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
}

/// A directory that belongs to this process while this value lives.
#[derive(Debug)]
pub struct DataDir {
    place: Place,
    program: &'static str,
    /// The directory itself. Unlocked when it is dropped.
    _dir: File,
    /// Its lock file, once there is one.
    marker: Option<File>,
}

impl DataDir {
    /// Takes the directory for this process, and writes into it whose it is: see
    /// [`hold`](Self::hold) and [`mark`](Self::mark).
    ///
    /// # Errors
    /// Who has it, or what is wrong with it, and what to do.
    pub fn open(
        path: impl Into<PathBuf>,
        program: &'static str,
        keeps: impl Fn(&str) -> bool,
    ) -> Result<DataDir, DataDirError> {
        let mut dir = DataDir::hold(path, program, keeps)?;
        dir.mark()?;
        Ok(dir)
    }

    /// Takes the directory for this process; creates it, and what leads to it, if it is missing, but
    /// writes nothing into it. One that has lost its lock file is taken when all the names in it are
    /// such as the program `keeps`.
    ///
    /// # Errors
    /// Who has it, or what is wrong with it, and what to do.
    pub fn hold(
        path: impl Into<PathBuf>,
        program: &'static str,
        keeps: impl Fn(&str) -> bool,
    ) -> Result<DataDir, DataDirError> {
        let path = path.into();
        let refused = |doing| {
            let path = path.clone();
            move |error: io::Error| explain(path, doing, error)
        };
        create(&path).map_err(refused("create it"))?;
        let dir = File::open(&path).map_err(refused("open it"))?;
        let is_locked = lock(&path, &dir, File::try_lock)?;
        let marker = match open_marker(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            marker => Some(marker.map_err(refused("open its lock file"))?),
        };
        match &marker {
            Some(marker) => {
                // An older release locks nothing else.
                lock(&path, marker, File::try_lock)?;
                let owner = owner(marker).map_err(refused("read its lock file"))?;
                // Without a name it is new, or the power went before that was on disk: then nothing
                // else is either.
                if !owner.is_empty() && owner != program {
                    return Err(DataDirError::OtherProgram { path, owner, program });
                }
            }
            None => {
                let other = first_other(&path, keeps).map_err(refused("read it"))?;
                if let Some(name) = other {
                    return Err(DataDirError::NotEmpty { path, name, program });
                }
            }
        }
        let metadata = dir.metadata().map_err(refused("look at it"))?;
        let mut held = DataDir { place: Place::new(path, &metadata), program, _dir: dir, marker };
        if !is_locked {
            // A file system that locks files only.
            held.mark()?;
        }
        Ok(held)
    }

    /// Writes into the directory whose it is, if nothing says so yet.
    ///
    /// # Errors
    /// Who has taken it, or what is wrong with it.
    pub fn mark(&mut self) -> Result<(), DataDirError> {
        let path = self.path().to_owned();
        let refused = |doing| {
            let path = path.clone();
            move |error: io::Error| explain(path, doing, error)
        };
        let marker = match &mut self.marker {
            Some(marker) => marker,
            None => {
                let mut options = OpenOptions::new();
                let options = options.read(true).write(true).create(true).truncate(false);
                let made = options.open(path.join(LOCK_FILE));
                let made = made.map_err(refused("make its lock file"))?;
                lock(&path, &made, File::try_lock)?;
                self.marker.insert(made)
            }
        };
        if owner(marker).map_err(refused("read its lock file"))?.is_empty() {
            writeln!(marker, "{}", self.program).map_err(refused("write its lock file"))?;
            marker.sync_all().map_err(refused("write its lock file"))?;
            sync(&path).map_err(refused("write it"))?;
        }
        Ok(())
    }

    /// Where it is, to look whether it is still there.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Makes durable which names there are in it. A file that was created, renamed or removed is
    /// certainly so after a power cut only when this has returned.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn sync(&self) -> io::Result<()> {
        sync(self.path())
    }
}

/// A directory, and under which path it was found.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    /// Of which disk, and which it is there.
    id: (u64, u64),
}

impl Place {
    fn new(path: PathBuf, metadata: &Metadata) -> Place {
        Place { path, id: (metadata.dev(), metadata.ino()) }
    }

    /// The directory that is found under this path now.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn of(path: impl Into<PathBuf>) -> io::Result<Place> {
        let path = path.into();
        let metadata = path.metadata()?;
        Ok(Place::new(path, &metadata))
    }

    /// Whether the same directory is still found there: not deleted, moved away, replaced, or hidden
    /// by a disk that was mounted over it. When nobody can tell, it is.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match self.path.metadata() {
            Ok(found) => self.id == (found.dev(), found.ino()),
            Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
}

/// A directory that others are kept away from for as long as this is held, to look at what is there.
#[derive(Debug)]
pub struct Look {
    _dir: File,
    _marker: Option<File>,
}

/// Keeps the program away from one of its directories: nothing is written, and nobody needs the right
/// to. `None` on a file system that locks no directories, when there is no lock file either: then
/// nobody is kept away.
///
/// # Errors
/// Who has it, or what is wrong with it.
pub fn look(path: &Path, program: &'static str) -> Result<Option<Look>, DataDirError> {
    let refused = |doing| {
        move |error: io::Error| match error {
            error if error.kind() == ErrorKind::NotADirectory => explain(path.into(), doing, error),
            error => DataDirError::Failed { path: path.into(), doing, error },
        }
    };
    let dir = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(DataDirError::Missing { path: path.into() });
        }
        dir => dir.map_err(refused("open it"))?,
    };
    if !dir.metadata().map_err(refused("look at it"))?.is_dir() {
        return Err(DataDirError::NotDirectory { path: path.into() });
    }
    let marker = match File::open(path.join(LOCK_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        marker => Some(marker.map_err(refused("open its lock file"))?),
    };
    if let Some(marker) = &marker {
        // First, since nobody is to stop a process that is none of this program's.
        let owner = owner(marker).map_err(refused("read its lock file"))?;
        if !owner.is_empty() && owner != program {
            return Err(DataDirError::OtherProgram { path: path.into(), owner, program });
        }
        lock(path, marker, File::try_lock_shared)?;
    }
    let is_locked = lock(path, &dir, File::try_lock_shared)?;
    Ok((is_locked || marker.is_some()).then_some(Look { _dir: dir, _marker: marker }))
}

/// Locks a directory or a file of one. False where only files can be locked, and only for writing.
fn lock(
    path: &Path,
    file: &File,
    try_lock: impl FnOnce(&File) -> Result<(), TryLockError>,
) -> Result<bool, DataDirError> {
    match try_lock(file) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Taken { path: path.into() }),
        Err(TryLockError::Error(error)) => match file.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(false),
            _ => Err(explain(path.into(), "lock it", error)),
        },
    }
}

fn open_marker(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path.join(LOCK_FILE))
}

/// The first thing in a directory that is neither expected there nor put there by the file system;
/// `None` also when there is no directory.
///
/// # Errors
/// What the operating system said.
pub fn first_other(path: &Path, expected: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != LOST_AND_FOUND && !expected(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The program that a lock file names.
fn owner(mut lock: &File) -> io::Result<String> {
    let mut owner = String::new();
    lock.rewind()?;
    lock.take(NAME_SIZE_MAX).read_to_string(&mut owner)?;
    Ok(owner.trim_end().to_owned())
}

/// Creates the directory and those above it, so that they are there after a power cut.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if above != path {
        create(above)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        done => done?,
    }
    sync(above)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn explain(path: PathBuf, doing: &'static str, error: io::Error) -> DataDirError {
    match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => DataDirError::NotDirectory { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            DataDirError::NotAllowed { path, error }
        }
        _ => DataDirError::Failed { path, doing, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> bool {
        name.starts_with("era-")
    }

    fn says<T: std::fmt::Debug>(outcome: Result<T, DataDirError>, parts: &[&str]) {
        let message = outcome.unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_directory_is_made_with_all_above_it_and_taken_again_later() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        drop(DataDir::open(&path, "kvserver", kept).unwrap());
        let again = DataDir::open(&path, "kvserver", kept).unwrap();
        assert_eq!(again.path(), path);
        again.sync().unwrap();
    }

    #[test]
    fn a_second_process_is_told_that_the_directory_is_in_use_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path(), "kvserver", kept).unwrap();
        let path = root.path().display().to_string();
        says(
            DataDir::open(root.path(), "kvserver", kept),
            &[&path, "another process uses", "fuser", "--data-dir"],
        );
        drop(first);
        assert!(
            DataDir::open(root.path(), "kvserver", kept).is_ok(),
            "the lock goes with its holder"
        );
    }

    #[test]
    fn the_directory_of_another_program_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path(), "kvserver", kept).unwrap());
        says(
            DataDir::open(root.path(), "viewservice", kept),
            &["belongs to a kvserver, not to a viewservice", "--data-dir"],
        );
    }

    #[test]
    fn a_directory_whose_lock_file_lost_its_name_to_a_power_cut_is_a_new_one() {
        let root = tempfile::tempdir().unwrap();
        File::create(root.path().join(LOCK_FILE)).unwrap();
        drop(DataDir::open(root.path(), "kvserver", kept).unwrap());
        says(DataDir::open(root.path(), "viewservice", kept), &["kvserver"]);
    }

    #[test]
    fn a_directory_with_anything_of_somebody_else_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        std::fs::create_dir(root.path().join("era-000001")).unwrap();
        std::fs::write(root.path().join("nightly"), "a backup").unwrap();
        says(
            DataDir::open(root.path(), "kvserver", kept),
            &["not empty (there is nightly)", "no data of a kvserver", "--data-dir"],
        );
        assert!(!root.path().join(LOCK_FILE).exists());
    }

    #[test]
    fn a_directory_that_lost_its_lock_file_alone_and_a_new_disk_are_taken() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        drop(DataDir::open(root.path(), "kvserver", kept).unwrap());
        std::fs::create_dir(root.path().join("era-000001")).unwrap();
        std::fs::remove_file(root.path().join(LOCK_FILE)).unwrap();
        drop(DataDir::open(root.path(), "kvserver", kept).unwrap());
        says(DataDir::open(root.path(), "viewservice", kept), &["belongs to a kvserver"]);
    }

    #[test]
    fn who_looks_keeps_others_away_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let looking = look(root.path(), "kvserver").unwrap();
        assert!(looking.is_some(), "there is no lock file, but the directory");
        assert_eq!(first_other(root.path(), |_| false).unwrap(), None, "nor was one made");
        drop(looking);
        let running = DataDir::open(root.path(), "kvserver", kept).unwrap();
        says(look(root.path(), "kvserver"), &["another process uses"]);
        says(look(root.path(), "viewservice"), &["belongs to a kvserver"]);
        drop(running);
        let looking = look(root.path(), "kvserver").unwrap();
        assert!(looking.is_some());
        assert!(look(root.path(), "kvserver").is_ok(), "two may look");
        says(DataDir::open(root.path(), "kvserver", kept), &["another process uses"]);
        drop(looking);
        assert!(DataDir::open(root.path(), "kvserver", kept).is_ok());
        says(look(&root.path().join("none"), "kvserver"), &["none: does not exist"]);
        says(look(&root.path().join(LOCK_FILE), "kvserver"), &["no directory"]);
    }

    /// A second server began in the directory of a running one, whose lock file somebody had deleted.
    #[test]
    fn a_directory_is_held_also_when_its_lock_file_is_deleted_or_another_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let running = DataDir::open(root.path(), "kvserver", kept).unwrap();
        for replaced in [false, true] {
            std::fs::remove_file(root.path().join(LOCK_FILE)).unwrap();
            if replaced {
                std::fs::write(root.path().join(LOCK_FILE), "kvserver\n").unwrap();
            }
            says(DataDir::open(root.path(), "kvserver", kept), &["another process uses"]);
            says(look(root.path(), "kvserver"), &["another process uses"]);
            assert_eq!(root.path().join(LOCK_FILE).exists(), replaced, "nothing is written there");
            if !replaced {
                std::fs::write(root.path().join(LOCK_FILE), "kvserver\n").unwrap();
            }
        }
        drop(running);
        assert!(DataDir::open(root.path(), "kvserver", kept).is_ok());
    }

    #[test]
    fn a_directory_is_held_before_anything_is_written_there() {
        let root = tempfile::tempdir().unwrap();
        let mut held = DataDir::hold(root.path(), "kvserver", kept).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        says(DataDir::hold(root.path(), "kvserver", kept), &["another process uses"]);
        says(DataDir::open(root.path(), "viewservice", kept), &["another process uses"]);
        held.mark().unwrap();
        held.mark().unwrap();
        let marker = std::fs::read_to_string(root.path().join(LOCK_FILE)).unwrap();
        assert_eq!(marker, "kvserver\n");
    }

    #[test]
    fn a_directory_that_was_deleted_moved_away_or_replaced_is_missed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let held = DataDir::open(&path, "kvserver", kept).unwrap();
        assert!(held.place().is_there());
        std::fs::rename(&path, root.path().join("elsewhere")).unwrap();
        assert!(!held.place().is_there());
        let other = DataDir::open(&path, "kvserver", kept).unwrap();
        assert!(!held.place().is_there(), "another has its place");
        assert!(other.place().is_there());
        std::fs::remove_dir_all(&path).unwrap();
        assert!(!other.place().is_there());
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        File::create(&file).unwrap();
        says(DataDir::open(&file, "kvserver", kept), &["no directory", "file"]);
        says(DataDir::open(file.join("below"), "kvserver", kept), &["no directory", "below"]);
    }

    #[test]
    fn a_directory_that_this_user_may_not_write_is_named() {
        // A place where even the superuser may create nothing.
        says(DataDir::open("/proc/self/data", "kvserver", kept), &["--data-dir /proc/self/data"]);
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let message = explain(PathBuf::from("/data"), "create it", denied).to_string();
        assert!(message.contains("/data") && message.contains("may not write"), "{message}");
    }
}
