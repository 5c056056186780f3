//! The library's own suite over our file, and what a view service needs of the log: it survives, it
//! stays small, it never reads something else than was written, and a failed sync is final.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvproto::{ClusterId, LifeId, Member, OpNumber, ServerName, Settings};
use openraft::RaftLogReader;
use openraft::testing::{StoreBuilder, Suite};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

use super::*;
use crate::assignment::law::{Command, Kind, ViewId};

struct Fresh;

impl StoreBuilder<TypeConfig, Entries, Machine, ()> for Fresh {
    async fn build(&self) -> Result<((), Entries, Machine), types::StorageError> {
        let (store, _) = Store::on(InMemoryBackend::new()).unwrap();
        Ok(((), Entries::new(store.clone()), Machine::open(store).unwrap()))
    }
}

#[test]
fn the_store_passes_the_suite_of_the_raft_library() {
    Suite::test_all(Fresh).unwrap();
}

fn file_in(directory: &TempDir) -> PathBuf {
    directory.path().join("views.redb")
}

fn found() -> Change {
    Change::Found { cluster: ClusterId([7; 16]), settings: Settings::default() }
}

fn register(name: &str) -> Command {
    Command::Register {
        name: name.into(),
        kind: Kind::Full,
        replaces: None,
        life: LifeId::default(),
        held: None,
    }
}

/// A cluster with an activated view of one server.
async fn activated(log: &ViewLog) -> (ViewState, Member) {
    let state = log.propose(found()).await.unwrap();
    let after = state.view_id();
    let state = log.propose(Change::Apply(vec![register("s1:1")])).await.unwrap();
    let primary = state.present(&ServerName::from("s1:1")).unwrap();
    let propose = Command::Propose { after, primary: primary.clone(), backups: Vec::new() };
    let view = ViewId { number: after.number.next(), ..after };
    let activate = Command::Activate { by: primary.clone(), view, reconciled: Vec::new() };
    let state = log.propose(Change::Apply(vec![propose, activate])).await.unwrap();
    assert!(state.view().is_activated());
    (state, primary)
}

fn heard(state: &ViewState, by: &Member, committed: u64) -> Change {
    let by = by.clone();
    Change::Apply(vec![Command::Heard {
        by,
        view: state.view_id(),
        committed: OpNumber(committed),
    }])
}

#[tokio::test]
async fn everything_is_there_again_after_each_of_several_openings() {
    let directory = tempfile::tempdir().unwrap();
    let log = ViewLog::open(&file_in(&directory)).await.unwrap();
    assert_eq!(log.read().await.unwrap(), None);
    let (mut state, primary) = activated(&log).await;
    log.close().await;
    for opening in 1..5 {
        let log = ViewLog::open(&file_in(&directory)).await.unwrap();
        assert_eq!(log.read().await.unwrap(), Some(state.clone()), "opening {opening}");
        assert_eq!(*log.watch_leader().borrow(), Leading::Yes);
        state = log.propose(heard(&state, &primary, opening)).await.unwrap();
        assert_eq!(state.committed_heard(), OpNumber(opening));
        log.close().await;
    }
}

#[tokio::test]
async fn a_second_founding_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = ViewLog::open(&file_in(&directory)).await.unwrap();
    let (state, _) = activated(&log).await;
    let other = Change::Found { cluster: ClusterId([8; 16]), settings: Settings::default() };
    assert_eq!(log.propose(other).await.unwrap(), state);
}

#[tokio::test]
async fn the_file_stays_small_however_often_a_primary_is_heard() {
    let directory = tempfile::tempdir().unwrap();
    let log = ViewLog::open(&file_in(&directory)).await.unwrap();
    let (state, primary) = activated(&log).await;
    let committed = 4 * ENTRIES_PER_SNAPSHOT;
    for op in 1..=committed {
        log.propose(heard(&state, &primary, op)).await.unwrap();
    }
    log.close().await;
    let (store, _) = Store::open(&file_in(&directory)).unwrap();
    let kept = Entries::new(store).try_get_log_entries(..).await.unwrap().len() as u64;
    assert!(kept < 3 * ENTRIES_PER_SNAPSHOT, "{kept} entries are kept");
    let size = std::fs::metadata(file_in(&directory)).unwrap().len();
    assert!(size <= 4 << 20, "{size} bytes");
    let log = ViewLog::open(&file_in(&directory)).await.unwrap();
    let state = log.read().await.unwrap().unwrap();
    assert_eq!(state.committed_heard(), OpNumber(committed));
}

/// A disk that begins to fail when it is told.
#[derive(Debug)]
struct Failing {
    disk: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)
    }
}

#[tokio::test]
async fn after_one_failed_sync_nothing_is_committed_any_more() {
    let fails = Arc::new(AtomicBool::new(false));
    let disk = Failing { disk: InMemoryBackend::new(), fails: fails.clone() };
    let (store, closed) = Store::on(disk).unwrap();
    let log = ViewLog::start(store, closed).await.unwrap();
    let (state, primary) = activated(&log).await;
    let mut leading = log.watch_leader();

    fails.store(true, Ordering::Relaxed);
    let refused = log.propose(heard(&state, &primary, 1)).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is broken"), "{refused}");
    leading.wait_for(|now| matches!(now, Leading::Failed(_))).await.unwrap();

    fails.store(false, Ordering::Relaxed);
    assert!(log.propose(heard(&state, &primary, 2)).await.is_err(), "it is not tried again");
    assert!(log.read().await.is_err());
}

/// What is in a copy of a file of which one byte was changed; `None` when it is refused.
async fn with_a_changed_byte(whole: &[u8], at: usize) -> Option<ViewState> {
    let directory = tempfile::tempdir().unwrap();
    let mut changed = whole.to_vec();
    changed[at] ^= 1 << (at % 8);
    std::fs::write(file_in(&directory), changed).unwrap();
    let log = ViewLog::open(&file_in(&directory)).await.ok()?;
    let state = log.read().await.unwrap();
    log.close().await;
    Some(state.expect("no changed byte makes a cluster unknown"))
}

/// Some of the bytes that mean anything.
fn samples(whole: &[u8]) -> impl Iterator<Item = usize> {
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let stride = used.len() / 200;
    used.into_iter().step_by(stride)
}

#[tokio::test]
async fn a_changed_byte_is_refused_or_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = ViewLog::open(&file_in(&directory)).await.unwrap();
    let (before, primary) = activated(&log).await;
    let state = log.propose(heard(&before, &primary, 7)).await.unwrap();
    // As a process that was killed leaves it, and one that stopped.
    let killed = std::fs::read(file_in(&directory)).unwrap();
    log.close().await;
    let stopped = std::fs::read(file_in(&directory)).unwrap();

    for (name, whole) in [("killed", killed), ("stopped", stopped)] {
        let mut refused = 0;
        for at in samples(&whole) {
            match with_a_changed_byte(&whole, at).await {
                Some(read) => assert_eq!(read, state, "byte {at} of the {name} one"),
                None => refused += 1,
            }
        }
        assert!(refused > 0, "{name}: no changed byte was noticed");
    }
}
