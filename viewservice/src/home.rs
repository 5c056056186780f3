//! The data directory of the view service: the log of views, and beside it a small file that says
//! what the directory is. The second is there so that a directory whose log was lost is not taken for
//! a new one: its cluster would begin again, and old data could pass for the newest.
//!
//! The order of the first start is: the log is on disk, then the identity, then anybody is served.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use kvprocess::data_dir::{DataDir, DataDirError};
use kvproto::{ClusterId, Settings};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

use crate::assignment::law::ViewState;
use crate::config::SettingFlags;
use crate::raft::{Change, LogFailed, OpenError, RAFT_ID, StoreError, ViewLog};

#[cfg(test)]
mod tests;

const LOG: &str = "views.redb";
const IDENTITY: &str = "identity.json";
/// Not finished; the next one replaces it.
const IDENTITY_NEW: &str = "identity.json.new";

/// Format of everything in the directory. Rises with every change that an older program would
/// misread.
const FORMAT: u32 = 1;

/// What an operator can do about a lost or damaged log.
const WAYS_OUT: &str = "put the directory back as it was; or, if that is lost for good, start with \
    another --data-dir, which begins a new cluster, and bring the data over from a stopped server \
    with `kvserver journal export` and `kvctl snapshot restore`";

/// Why the directory cannot be used. Every message names it and a way out.
#[derive(Debug, Error)]
pub enum HomeError {
    /// The directory as such.
    #[error(transparent)]
    Dir(#[from] DataDirError),
    /// The flags do not fit the cluster.
    #[error("{0}")]
    Flags(String),
    /// A newer program made it.
    #[error(
        "--data-dir {path}: its files have format {found}, and this program knows formats up to \
         {FORMAT}: start the newer version of viewservice that wrote them",
        path = .path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The log is gone.
    #[error(
        "--data-dir {path}: this is the view service of cluster {cluster}, but its log of views \
         ({LOG}) is gone, and with it the knowledge of who holds every acknowledged write; {WAYS_OUT}",
        path = .path.display()
    )]
    Wiped {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The log cannot be trusted.
    #[error("--data-dir {path}: {what}; {WAYS_OUT}", path = .path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system, or the log.
    #[error("--data-dir {path}: {what}", path = .path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What the directory is. Written once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: ClusterId,
    raft_id: u64,
}

/// An open directory, and the state of the views in it.
pub struct Home {
    /// Held for as long as the log is written.
    pub(crate) dir: DataDir,
    /// The log.
    pub(crate) log: ViewLog,
    /// As it stands at the end of the log.
    pub(crate) state: ViewState,
    /// Whether the cluster may begin at once, with whoever comes first.
    pub(crate) new: bool,
}

impl Home {
    /// Opens the directory, and founds a cluster if there is none. Of the settings, those not given are
    /// as they were, or in a new cluster the defaults. `new` says that there must be none in which
    /// anybody ever was, and that nobody needs to be listened for.
    ///
    /// # Errors
    /// Why it must not or cannot be used, and what to do.
    pub async fn open(path: &Path, given: &SettingFlags, new: bool) -> Result<Home, HomeError> {
        let file = path.join(LOG);
        if !is_there(path, LOG)? {
            // Before anything is made: what is refused leaves nothing behind.
            founding_settings(given)?;
        }
        let dir = DataDir::open(path, "viewservice", is_kept)?;
        let identity = read_identity(path)?;
        if let (Some(identity), false) = (&identity, is_there(path, LOG)?) {
            return Err(HomeError::Wiped { path: path.into(), cluster: identity.cluster });
        }
        let log = ViewLog::open(&file).await.map_err(|error| match error {
            OpenError::Store(error @ StoreError::Damaged { .. }) => {
                HomeError::Damaged { path: path.into(), what: error.to_string() }
            }
            other => HomeError::Failed { path: path.into(), what: other.to_string() },
        })?;
        let settled = settle(&dir, identity, &log, given).await;
        match settled.and_then(|state| if new { untouched(state) } else { Ok(state) }) {
            Ok(state) => Ok(Home { dir, log, state, new }),
            Err(error) => {
                log.close().await;
                Err(error)
            }
        }
    }
}

async fn settle(
    dir: &DataDir,
    identity: Option<Identity>,
    log: &ViewLog,
    given: &SettingFlags,
) -> Result<ViewState, HomeError> {
    let path = dir.path();
    let failed =
        |error: LogFailed| HomeError::Failed { path: path.into(), what: error.to_string() };
    let state = match (log.read().await.map_err(failed)?, &identity) {
        (Some(state), Some(identity)) if identity.cluster != state.view().cluster => {
            let what = format!(
                "its files are of two clusters, {} and {}",
                identity.cluster,
                state.view().cluster
            );
            return Err(HomeError::Damaged { path: path.into(), what });
        }
        (Some(state), _) => {
            given.fit(&state.view().settings).map_err(HomeError::Flags)?;
            state
        }
        (None, Some(Identity { cluster, .. })) => {
            return Err(HomeError::Wiped { path: path.into(), cluster: *cluster });
        }
        (None, None) => {
            let settings = founding_settings(given)?;
            let cluster = ClusterId(rand::random());
            info!("new cluster {cluster}");
            log.propose(Change::Found { cluster, settings }).await.map_err(failed)?
        }
    };
    if identity.is_none() {
        let identity = Identity { format: FORMAT, cluster: state.view().cluster, raft_id: RAFT_ID };
        write_identity(dir, &identity).map_err(|error| HomeError::Failed {
            path: path.into(),
            what: format!("cannot write {IDENTITY}: {error}"),
        })?;
    }
    Ok(state)
}

/// `--new` where a cluster is: whoever writes it into a unit file would found a second cluster on the
/// day on which the volume is not mounted.
fn untouched(state: ViewState) -> Result<ViewState, HomeError> {
    if state.is_untouched() {
        return Ok(state);
    }
    Err(HomeError::Flags(format!(
        "--new contradicts the directory, which has the cluster {}, whose servers have come already: \
         leave the flag out, or begin another cluster with another --data-dir",
        state.view().cluster
    )))
}

/// Whether a directory of ours has something of this name.
fn is_kept(name: &str) -> bool {
    [LOG, IDENTITY, IDENTITY_NEW].contains(&name)
}

/// What a new cluster is set to.
fn founding_settings(given: &SettingFlags) -> Result<Settings, HomeError> {
    let settings = given.over(&Settings::default());
    settings.validate().map_err(|wrong| HomeError::Flags(wrong.to_string()))?;
    Ok(settings)
}

/// Whether there is a file of this name. One that cannot be looked at is not one that is gone, nor is a
/// link to a disk that is not mounted.
fn is_there(path: &Path, name: &str) -> Result<bool, HomeError> {
    match path.join(name).symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(HomeError::Failed {
            path: path.into(),
            what: format!("cannot look for {name}: {error}; mend that, then start again"),
        }),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, HomeError> {
    let unusable = |what: String| {
        let what = format!("its {IDENTITY} cannot be read: {what}");
        HomeError::Damaged { path: path.into(), what }
    };
    let text = match std::fs::read(path.join(IDENTITY)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !is_there(path, IDENTITY)? => {
            return Ok(None);
        }
        // That says nothing about what is in it.
        Err(error) => {
            let what = format!("cannot read {IDENTITY}: {error}; mend that, then start again");
            return Err(HomeError::Failed { path: path.into(), what });
        }
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
    match value["format"].as_u64() {
        Some(found) if found > u64::from(FORMAT) => {
            return Err(HomeError::Newer { path: path.into(), found });
        }
        _ => {}
    }
    let identity = Identity::deserialize(value).map_err(|error| unusable(error.to_string()))?;
    Ok(Some(identity))
}

/// The file is there as a whole or not at all; with it the names of all files become durable.
fn write_identity(dir: &DataDir, identity: &Identity) -> io::Result<()> {
    let unfinished = dir.path().join(IDENTITY_NEW);
    let mut file = File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec(identity)?)?;
    file.sync_all()?;
    std::fs::rename(unfinished, dir.path().join(IDENTITY))?;
    dir.sync()
}
