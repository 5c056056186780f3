//! Backups of a cluster that serves: what is saved is one moment, whole, with all that was
//! acknowledged before.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use kvproto::convert::{StateRecord, records};
use kvproto::snapshot::{Item, Reader};
use serde_json::Value;
use testclient::cluster::{Options, program, wait_for};
use tokio::task::JoinHandle;

use crate::common::{PATIENCE, Running, check, prepared, put, running};

/// Runs `kvctl` and returns what it prints, as JSON. Panics with what it says when it fails.
async fn kvctl(view_service: &str, args: &[&str]) -> Value {
    let mut command = Command::new(program("kvctl").expect("it is built"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVCTL_") {
            command.env_remove(name);
        }
    }
    command.args(["--vs", view_service, "-o", "json"]).args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("kvctl starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kvctl {args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The keys of a snapshot file.
fn contents(path: &Path) -> BTreeMap<String, String> {
    let mut reader = Reader::new();
    reader.push(Bytes::from(std::fs::read(path).expect("the file is there")));
    let mut keys = BTreeMap::new();
    while let Some(item) = reader.next().expect("it is sound") {
        let Item::Block(chunk) = item else {
            continue;
        };
        for record in records(&chunk) {
            if let StateRecord::Key { key, value, .. } = record.expect("a record") {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                keys.insert(text(key), text(value));
            }
        }
    }
    keys
}

/// Writes `left` and then `right`, with rising numbers, without a pause.
struct Writer {
    /// The last number that both have, acknowledged.
    both: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    async fn start(cluster: &Running) -> Writer {
        let (both, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let client = cluster.client().await;
        let (done, stopping) = (Arc::clone(&both), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            for number in 1.. {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                put(&client, "left", &number.to_string()).await;
                put(&client, "right", &number.to_string()).await;
                done.store(number, Ordering::SeqCst);
            }
        });
        Writer { both, stop, task }
    }

    fn both(&self) -> u64 {
        self.both.load(Ordering::SeqCst)
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("it writes to the end");
    }
}

#[tokio::test]
async fn a_backup_is_one_moment_with_all_that_was_acknowledged_before_it() {
    let cluster = running(Options::default(), 2).await;
    let (view_service, backup) = (cluster.view_service_addr(), cluster.server_name(1));
    let client = cluster.client().await;
    for number in 0..50 {
        put(&client, &format!("key {number}"), &"x".repeat(20_000)).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let writer = Writer::start(&cluster).await;
    // The backup knows that an op is committed a little later than the client.
    for (place, is_primary) in [(&[][..], true), (&["--server", backup][..], false)] {
        let reached = writer.both() + 20;
        let before = wait_for("the writer to go on", PATIENCE, async || match writer.both() {
            both if both >= reached => Ok(both),
            both => Err(format!("{both} of {reached}")),
        });
        let before = before.await.expect("writes go on");
        let path = dir.path().join(if is_primary { "primary" } else { "backup" });
        let file = path.display().to_string();
        let saved = kvctl(view_service, &[&["snapshot", "save", &file], place].concat()).await;
        let inspected = kvctl(view_service, &["snapshot", "inspect", &file]).await;
        for field in ["op", "digest", "keys", "sessions", "cluster"] {
            assert_eq!(saved[field], inspected[field], "{field}");
        }
        assert_eq!(saved["keys"], 52);
        assert!(saved["sessions"].as_u64() >= Some(2), "exactly-once is part of it: {saved}");
        let contents = contents(&path);
        let number = |key: &str| contents[key].parse::<u64>().expect("a number");
        let (left, right) = (number("left"), number("right"));
        assert!(left == right || left == right + 1, "left {left} and right {right} in one state");
        assert!(
            !is_primary || right >= before,
            "{before} was acknowledged before, saved is {right}"
        );
        assert_eq!(contents["key 7"].len(), 20_000);
    }
    writer.end().await;
}

/// Durable servers whose data is in this folder.
fn on_disk(folder: &Path) -> Options {
    Options { durable: true, data_dir: Some(folder.to_owned()), ..Options::default() }
}

/// The directory of a server, as text.
fn data_of(folder: &Path, label: &str) -> String {
    folder.join(label).display().to_string()
}

#[tokio::test]
async fn a_backup_begins_a_new_cluster_in_a_generation_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("nightly").display().to_string();
    let (digest, op) = {
        let old = running(on_disk(&dir.path().join("old")), 2).await;
        let client = old.client().await;
        for number in 0..50 {
            put(&client, &format!("key {number}"), "before").await;
        }
        let saved = kvctl(old.view_service_addr(), &["snapshot", "save", &file]).await;
        // What a backup is for.
        put(&client, "key 7", "after").await;
        (saved["digest"].clone(), saved["op"].as_u64())
    };
    let data = dir.path().join("new");
    let mut new = prepared(on_disk(&data)).await;
    let vs = new.view_service_addr().to_owned();
    let place = data_of(&data, "s1");
    let restored = kvctl(&vs, &["snapshot", "restore", &file, "--data-dir", &place]).await;
    assert_eq!(restored["digest"], digest);
    new.start_view_service().expect("start the view service");
    for index in 0..2 {
        new.start_server(index).expect("start a server");
        new.wait_until_redundant().await.expect("it finds its place");
    }
    let client = new.client().await;
    for number in 0..50 {
        check(&client, &format!("key {number}"), "before").await;
    }
    put(&client, "key 7", "again").await;
    let next = dir.path().join("next").display().to_string();
    let saved = kvctl(&vs, &["snapshot", "save", &next]).await;
    assert!(saved["generation"].as_u64() > Some(1), "a generation of its own: {saved}");
    assert!(saved["op"].as_u64() > op, "it goes on from there: {saved}");
    // It is the cluster's for good, not only until a restart.
    new.kill(0);
    new.wait_for_view("the other one to go on", |view| view.primary == Some(1))
        .await
        .expect("a primary");
    check(&client, "key 7", "again").await;
    check(&client, "key 8", "before").await;
}

#[tokio::test]
async fn losing_every_view_server_does_not_mean_losing_the_data() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("old");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let saved = {
        let mut old = running(on_disk(&data), 2).await;
        let client = old.client().await;
        for number in 0..50 {
            put(&client, &format!("key {number}"), "before").await;
        }
        old.lose_view_service().expect("it is gone");
        // A server that runs saves without it; a backup might not know yet that the last op is
        // committed.
        let (vs, server) = (old.view_service_addr(), old.server_name(0));
        let saved = kvctl(vs, &["snapshot", "save", &file("running"), "--server", server]).await;
        old.kill(0);
        old.kill(1);
        saved
    };
    // One that does not run exports.
    for label in ["s1", "s2"] {
        let place = data_of(&data, label);
        for args in [&["verify"][..], &["export", &file(label)]] {
            let args = [&["journal"], args, &["--data-dir", &place]].concat();
            let output =
                Command::new(program("kvserver").expect("it is built")).args(&args).output();
            let output = output.expect("kvserver starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "kvserver {args:?}: {said}");
        }
        let inspected = kvctl("localhost:1", &["snapshot", "inspect", &file(label)]).await;
        assert_eq!(inspected["digest"], saved["digest"], "{label} holds the same state");
    }
}
