//! Data directories that are begun with twice, deleted under the processes that use them, or that the
//! operating system does not let them use.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kvclient::Client;
use testclient::cluster::{Options, program, wait_for};

use crate::common::{PATIENCE, Running, check, get, put, running};

async fn durable(servers: usize, copies: u32) -> (Running, tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a folder");
    let data = place.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let options = Options {
        servers,
        copies,
        durable: true,
        data_dir: Some(data.clone()),
        ..Options::default()
    };
    (running(options, servers).await, place, data)
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Puts numbered values until a put ends otherwise than done; says how many were done.
async fn write_on(client: &Client, from: usize, count: usize) {
    for number in from..from + count {
        put(client, &format!("k{number}"), &format!("v{number}")).await;
    }
}

async fn has_all(client: &Client, count: usize) {
    for number in 0..count {
        check(client, &format!("k{number}"), &format!("v{number}")).await;
    }
}

/// Somebody deletes the lock file, and a second server is started on the directory by mistake.
#[tokio::test]
async fn a_second_start_is_refused_also_when_the_lock_file_was_deleted() {
    let (cluster, _place, data) = durable(1, 1).await;
    let client = cluster.client().await;
    write_on(&client, 0, 10).await;
    let directory = data.join("s1");
    std::fs::remove_file(directory.join("process.lock")).expect("it is there");
    let before = names(&directory);
    let mut second = Command::new(program("kvserver").expect("it is built"));
    second.args(["--addr", "127.0.0.1:0", "--vs", cluster.view_service_addr(), "--data-dir"]);
    let (code, said) = run(second.arg(&directory));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process uses this directory"), "{said}");
    assert_eq!(names(&directory), before, "nothing was written there");
    write_on(&client, 10, 10).await;
    has_all(&client, 20).await;
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("a name").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort_unstable();
    names
}

/// The directory of the primary goes while it is written to: the copy that has its own takes over, and
/// nothing that was acknowledged is lost.
#[tokio::test]
async fn a_primary_whose_directory_is_deleted_hands_over_and_ends() {
    let (mut cluster, _place, data) = durable(2, 2).await;
    let client = cluster.client().await;
    write_on(&client, 0, 50).await;
    std::fs::remove_dir_all(data.join("s1")).expect("it is there");
    write_on(&client, 50, 50).await;
    let code = cluster.wait_for_exit(0).await.expect("it leaves");
    assert_eq!(code, Some(1));
    let log = cluster.server_log(0).expect("a log");
    assert!(log.contains("the data directory") && log.contains("is gone"), "{log}");
    assert_eq!(cluster.layout().await.expect("it answers").primary, Some(1));
    has_all(&client, 100).await;
    // Started again it begins anew, and is filled.
    cluster.start_server(0).expect("start it again");
    cluster.wait_until_redundant().await.expect("it is filled");
    has_all(&client, 100).await;
}

/// `rm -rf data`: nobody has a directory any more. What was acknowledged is in memory, and can be saved.
#[tokio::test]
async fn when_all_directories_are_deleted_a_complete_copy_stays_to_be_read_and_saved() {
    let (mut cluster, place, data) = durable(2, 2).await;
    let client = cluster.client().await;
    write_on(&client, 0, 50).await;
    for server in ["s1", "s2"] {
        std::fs::remove_dir_all(data.join(server)).expect("it is there");
    }
    wait_for("what lives to say that it has no directory", PATIENCE, async || {
        let status = cluster.status().await.map_err(|error| format!("{error:#}"))?;
        let mut living = status.servers.iter().filter(|server| server.state == "alive");
        let all = living.all(|server| server.directory_gone);
        if all && status.advice.contains("snapshot save") { Ok(()) } else { Err(status.advice) }
    })
    .await
    .expect("they notice");
    let hasty = client.with_timeout(Duration::from_secs(2));
    hasty.put("late".to_owned(), "x").await.expect_err("nothing could keep it");
    has_all(&client, 50).await;

    // The view service goes the same way; those that it served go on without it.
    std::fs::remove_dir_all(data.join("viewservice")).expect("it is there");
    let last = cluster.layout().await.map_or(0, |layout| layout.primary.unwrap_or(0));
    let server = cluster.server_name(last).to_owned();
    let file = place.path().join("saved");
    let kvctl = program("kvctl").expect("it is built");
    let saved = wait_for("the last copy to be saved", PATIENCE, async || {
        let mut save = Command::new(&kvctl);
        save.args(["--vs", cluster.view_service_addr(), "snapshot", "save", "--force"]);
        match run(save.arg(&file).args(["--server", &server])) {
            (Some(0), said) => Ok(said),
            (_, said) => Err(said),
        }
    });
    let saved = saved.await.expect("it answers");
    assert!(saved.contains("50 keys"), "{saved}");
    let ended = wait_for("the view service to end", PATIENCE, async || {
        let ended = cluster.ended_by_itself().unwrap_or_default();
        if ended.contains("viewservice") { Ok(ended) } else { Err(ended) }
    });
    let ended = ended.await.expect("it cannot keep anything any more");
    assert!(ended.contains("is gone"), "{ended}");
}

/// `echo y | make clean-data` under a running cluster removed everything.
#[tokio::test]
async fn data_that_a_process_uses_is_not_cleaned_away() {
    let (mut cluster, place, data) = durable(1, 1).await;
    let client = cluster.client().await;
    write_on(&client, 0, 3).await;
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile");
    let clean = || {
        let script = "echo y | make --no-print-directory -C \"$0\" -f \"$1\" clean-data";
        let mut make = Command::new("sh");
        make.args(["-c", script]).arg(place.path()).arg(&makefile).stdin(Stdio::null());
        run(&mut make)
    };
    let before = (names(&data), names(&data.join("s1")));
    for lost_its_lock_file in [false, true] {
        if lost_its_lock_file {
            std::fs::remove_file(data.join("s1/process.lock")).expect("it is there");
            cluster.kill_view_service();
        }
        let (code, said) = clean();
        assert_ne!(code, Some(0), "{said}");
        assert!(said.contains("a process uses it"), "{said}");
        assert_eq!(names(&data), before.0);
    }
    assert!(data.join("s1/identity").exists());
    cluster.kill(0);
    let (code, said) = clean();
    assert_eq!(code, Some(0), "{said}");
    assert!(!data.exists());
}

/// A process that may open no more files makes no segments: that passes, and nothing is in doubt.
#[tokio::test]
async fn too_many_open_files_are_waited_out() {
    let (mut cluster, _place, _data) = durable(1, 1).await;
    let client = cluster.client().await;
    let value = "x".repeat(256 << 10);
    put(&client, "first", &value).await;
    let id = cluster.server_id(0).expect("it runs").to_string();
    let limit = |files: &str| {
        let limited = run(Command::new("prlimit").args(["--pid", &id, files]));
        assert_eq!(limited.0, Some(0), "prlimit, of util-linux: {}", limited.1);
    };
    limit("--nofile=8:4096");
    let hasty = client.with_timeout(Duration::from_secs(2));
    let mut stopped = None;
    for number in 0..64 {
        if let Err(error) = hasty.put(format!("k{number}"), value.clone()).await {
            stopped = Some((number, error.to_string()));
            break;
        }
    }
    let (number, error) = stopped.expect("the segments that there were are full by now");
    assert_eq!(cluster.ended_by_itself(), None, "{error}");
    cluster.wait_for_log(0, "the journal cannot get at its directory").await.expect("it is told");
    limit("--nofile=4096:4096");
    put(&client, "after", &value).await;
    cluster.kill(0);
    cluster.start_server(0).expect("start it again");
    for key in ["first".to_owned(), "after".to_owned(), format!("k{}", number - 1)] {
        assert!(get(&client, &key).await.is_some_and(|it| it == value), "{key}");
    }
}
