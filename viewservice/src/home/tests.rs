//! What may be in a data directory at a start, and what comes of it.

use kvproto::{LifeId, ServerName};
use tempfile::TempDir;

use super::*;
use crate::assignment::law::{Command, Kind};

fn defaults() -> SettingFlags {
    SettingFlags::default()
}

async fn open(directory: &TempDir) -> Result<Home, HomeError> {
    Home::open(directory.path(), &defaults(), false).await
}

/// A cluster with one server.
async fn founded(directory: &TempDir) -> ViewState {
    let home = open(directory).await.unwrap();
    let server = Command::Register {
        name: "s:1".into(),
        kind: Kind::Full,
        replaces: None,
        life: LifeId::default(),
        held: None,
    };
    let state = home.log.propose(Change::Apply(vec![server])).await.unwrap();
    home.log.close().await;
    state
}

async fn refusal(directory: &TempDir) -> String {
    match open(directory).await {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_cluster_keeps_its_identity_its_settings_and_its_servers() {
    let directory = tempfile::tempdir().unwrap();
    let given = SettingFlags { copies: Some(3), ..defaults() };
    let home = Home::open(directory.path(), &given, false).await.unwrap();
    let cluster = home.state.view().cluster;
    assert_eq!(home.state.view().settings.copies, 3);
    home.log.close().await;
    drop(home.dir);

    let state = founded(&directory).await;
    assert_eq!((state.view().cluster, state.view().settings.copies), (cluster, 3));
    let home = open(&directory).await.unwrap();
    assert_eq!(home.state, state);
    assert!(home.state.present(&ServerName::from("s:1")).is_some());
}

#[tokio::test]
async fn flags_that_contradict_the_cluster_or_each_other_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let nonsense = SettingFlags { copies: Some(1), min_copies: Some(2), ..defaults() };
    let new = directory.path().join("new");
    let refused = Home::open(&new, &nonsense, true).await.err().unwrap();
    says(&refused.to_string(), &["--min-copies 2", "--copies 1"]);
    assert!(!new.exists(), "what is refused leaves nothing behind");

    founded(&directory).await;
    let other = SettingFlags { copies: Some(3), ..defaults() };
    let refused = Home::open(directory.path(), &other, false).await.err().unwrap();
    says(&refused.to_string(), &["--copies 3 contradicts the 2", "first start", "--data-dir"]);
    let same = SettingFlags { copies: Some(2), ..defaults() };
    assert!(Home::open(directory.path(), &same, false).await.is_ok());
}

#[tokio::test]
async fn a_directory_whose_log_is_gone_is_not_taken_for_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = founded(&directory).await.view().cluster.to_string();
    let log = directory.path().join(LOG);
    for lost in ["gone", "empty", "gone"] {
        let _gone = std::fs::remove_file(&log);
        if lost == "empty" {
            File::create(&log).unwrap();
        }
        let ways_out = ["--data-dir", "journal export", "snapshot restore"];
        let message = refusal(&directory).await;
        says(&message, &[&cluster, "gone"]);
        says(&message, &ways_out);
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_begins_again() {
    let directory = tempfile::tempdir().unwrap();
    File::create(directory.path().join(LOG)).unwrap();
    let state = founded(&directory).await;

    // The log is on disk before the identity is.
    std::fs::remove_file(directory.path().join(IDENTITY)).unwrap();
    let home = open(&directory).await.unwrap();
    assert_eq!(home.state, state);
    assert!(directory.path().join(IDENTITY).exists());
}

#[tokio::test]
async fn files_of_a_newer_format_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    founded(&directory).await;
    let newer = format!("{{\"format\": {}, \"what\": \"more\"}}", FORMAT + 1);
    std::fs::write(directory.path().join(IDENTITY), newer).unwrap();
    says(&refusal(&directory).await, &["format 2", "formats up to 1", "newer version"]);
}

#[tokio::test]
async fn files_of_two_clusters_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ids = [&one, &other];
    let mut clusters = Vec::new();
    for directory in ids {
        clusters.push(founded(directory).await.view().cluster.to_string());
    }
    std::fs::copy(other.path().join(LOG), one.path().join(LOG)).unwrap();
    says(&refusal(&one).await, &["two clusters", &clusters[0], &clusters[1]]);
}

#[tokio::test]
async fn a_file_that_is_no_log_and_an_identity_that_is_none_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    founded(&directory).await;
    let whole = std::fs::read(directory.path().join(LOG)).unwrap();
    for broken in [&b"no log at all"[..], &whole[..whole.len() / 2]] {
        std::fs::write(directory.path().join(LOG), broken).unwrap();
        says(&refusal(&directory).await, &[LOG, "--data-dir"]);
    }
    std::fs::write(directory.path().join(LOG), whole).unwrap();
    std::fs::write(directory.path().join(IDENTITY), b"{").unwrap();
    says(&refusal(&directory).await, &[IDENTITY, "--data-dir"]);
}

#[tokio::test]
async fn the_directory_of_a_server_of_a_running_process_or_of_other_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(DataDir::open(directory.path(), "kvserver", |_| false).unwrap());
    says(&refusal(&directory).await, &["belongs to a kvserver"]);

    let directory = tempfile::tempdir().unwrap();
    let home = open(&directory).await.unwrap();
    says(&refusal(&directory).await, &["another process uses"]);
    drop(home);

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("nightly"), "a backup").unwrap();
    says(&refusal(&directory).await, &["not empty (there is nightly)", "no data of a viewservice"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_directory_that_lost_its_lock_file_alone_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let state = founded(&directory).await;
    std::fs::remove_file(directory.path().join("process.lock")).unwrap();
    assert_eq!(open(&directory).await.unwrap().state, state);
}

/// Written into a unit file it would found a second cluster when the volume is not mounted.
#[tokio::test]
async fn a_new_cluster_is_asked_for_once() {
    let directory = tempfile::tempdir().unwrap();
    let anew = async || Home::open(directory.path(), &defaults(), true).await;
    for _ in 0..2 {
        let home = anew().await.unwrap();
        assert!(home.new, "nobody has come yet");
        home.log.close().await;
    }
    let cluster = founded(&directory).await.view().cluster.to_string();
    let refused = anew().await.err().unwrap();
    assert!(matches!(refused, HomeError::Flags(_)));
    says(&refused.to_string(), &["--new", &cluster, "leave the flag out"]);
    assert!(!open(&directory).await.unwrap().new);
}
