//! `kvctl` as people and scripts use it: the real program against fakes.

#[expect(dead_code, reason = "shared with the tests of the library, which use all of it")]
mod fakes;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fakes::{Act, Cluster, nobody, until};
use kvclient::View;

/// The program, kept from the environment of whoever runs the tests.
fn kvctl(cluster: &Cluster) -> Command {
    kvctl_at(&cluster.views.address)
}

fn kvctl_at(address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVCTL_") {
            command.env_remove(name);
        }
    }
    command.args(["--vs", address]).stdin(Stdio::null());
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().expect("kvctl starts"))
        .await
        .expect("no panic")
}

async fn run(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let mut command = kvctl(cluster);
    command.args(args);
    finished(output(command).await)
}

async fn piped(cluster: &Cluster, args: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = kvctl(cluster);
    command.args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_vec();
    let child = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("kvctl starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(&input).expect("kvctl reads");
        drop(stdin);
        child.wait_with_output().expect("kvctl ends")
    });
    finished(child.await.expect("no panic"))
}

fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_print_what_scripts_expect() {
    let (cluster, _) = Cluster::with_primary().await;
    for (args, expected) in [
        (&["put", "a", "1"][..], "OK\n"),
        (&["get", "a"], "1\n"),
        (&["append", "a", "-2"], "3\n"),
        (&["cas", "a", "1-2", "x"], "OK\n"),
        (&["cas", "b", "--missing", "y"], "OK\n"),
        (&["cas", "b", "y", "--delete"], "OK\n"),
        (&["get", "a"], "x\n"),
        (&["del", "a"], "OK\n"),
    ] {
        let (code, stdout, stderr) = run(&cluster, args).await;
        assert_eq!((code, &stdout[..], &stderr[..]), (0, expected, ""), "{args:?}");
    }
    let store = cluster.store.lock().unwrap();
    assert_eq!(store.closed, store.sessions, "no session is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_not_as_expected_ends_with_three() {
    let (cluster, _) = Cluster::with_primary().await;
    for args in [&["get", "a"][..], &["del", "a"]] {
        let (code, stdout, stderr) = run(&cluster, args).await;
        assert_eq!((code, &stdout[..]), (3, ""), "{args:?}");
        assert!(stderr.contains("\"a\""), "{stderr}");
    }
    run(&cluster, &["put", "a", "present"]).await;
    let (code, stdout, stderr) = run(&cluster, &["cas", "a", "other", "new"]).await;
    assert_eq!((code, &stdout[..]), (3, ""));
    assert!(stderr.contains("present"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_end_with_two_and_say_so() {
    let (cluster, _) = Cluster::with_primary().await;
    for args in [
        &["frobnicate"][..],
        &["get"],
        &["cas", "a", "b"],
        &["--timeout", "10", "get", "a"],
        &["--vs", "nowhere", "get", "a"],
        &["force", "s1:1", "--accept-data-loss"],
    ] {
        let (code, stdout, stderr) = run(&cluster, args).await;
        assert_eq!((code, &stdout[..]), (2, ""), "{args:?} {stderr}");
        assert!(!stderr.is_empty(), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_primary_ends_with_four_and_a_missing_answer_with_five() {
    let (cluster, server) = Cluster::with_primary().await;
    server.script([Act::Hang]);
    let (code, _, stderr) = run(&cluster, &["--timeout", "500ms", "put", "a", "1"]).await;
    assert_eq!(code, 5, "{stderr}");
    cluster.views.appoint(&nobody().await);
    let (code, _, stderr) = run(&cluster, &["--timeout", "500ms", "put", "a", "1"]).await;
    assert_eq!(code, 4, "{stderr}");

    let nobody = nobody().await;
    for verb in [&["get", "a"][..], &["view"], &["status"], &["dump"]] {
        let mut command = kvctl_at(nobody.as_str());
        command.args(["-timeout", "500ms"]).args(verb);
        let (code, _, stderr) = finished(output(command).await);
        assert_eq!(code, 4, "{verb:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_go_through_as_the_bytes_they_are() {
    let (cluster, _) = Cluster::with_primary().await;
    let (code, _, stderr) = piped(&cluster, &["put", "raw", "-"], b"old").await;
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = piped(&cluster, &["cas", "raw", "old", "-"], b"\xff\x00\n").await;
    assert_eq!(code, 0, "{stderr}");
    let mut command = kvctl(&cluster);
    command.args(["get", "raw"]);
    assert_eq!(output(command).await.stdout, b"\xff\x00\n\n");
    let (_, stdout, _) = run(&cluster, &["-o", "json", "get", "raw"]).await;
    assert!(stdout.contains(r#""value":{"b64":"/wAK"}"#), "{stdout}");

    let mut command = kvctl(&cluster);
    command.args(["put".into(), OsString::from_vec(vec![b'k', 0xfe]), "v".into()]);
    assert_eq!(output(command).await.status.code(), Some(0));
    assert!(cluster.store.lock().unwrap().data.contains_key(&b"k\xfe"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn view_status_and_dump_are_readable() {
    let (cluster, server) = Cluster::with_primary().await;
    run(&cluster, &["put", "b", "2"]).await;
    run(&cluster, &["put", "a", "1"]).await;
    let (code, stdout, _) = run(&cluster, &["view"]).await;
    assert_eq!(code, 0);
    assert!(stdout.contains(server.name.as_str()), "{stdout}");
    let (code, stdout, _) = run(&cluster, &["status"]).await;
    assert_eq!(code, 0);
    for part in ["View 1", "primary", "joining", "LAG: in ops", "Wait until localhost:7"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(!stdout.contains('\u{1b}'), "no colours in a pipe");
    let (code, stdout, stderr) = run(&cluster, &["dump"]).await;
    assert_eq!((code, &stdout[..]), (0, "a\t1\nb\t2\n"));
    assert!(stderr.contains("2 pairs"), "{stderr}");
    let (code, stdout, _) = run(&cluster, &["status", "-o", "json"]).await;
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(json["view"]["primary"], server.name.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_without_a_server_is_refused_while_nobody_is_primary() {
    let cluster = Cluster::start().await;
    let (code, stdout, stderr) = run(&cluster, &["dump"]).await;
    assert_eq!((code, &stdout[..]), (4, ""), "{stderr}");
    assert!(stderr.contains("name a server with --server"), "{stderr}");
    let spare = cluster.server().await;
    let (code, _, stderr) = run(&cluster, &["dump", "--server", spare.name.as_str()]).await;
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_can_be_piped_in() {
    let (cluster, _) = Cluster::with_primary().await;
    let input = b"SET user:1 {\"name\": \"Alice\"}\nGET user:1\nput k 'a b'\nget k\n\
                  DELETE user:1\nEXIT\nput never x\n";
    let (code, stdout, stderr) = piped(&cluster, &[], input).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "OK\n{\"name\": \"Alice\"}\nOK\na b\nOK\n");

    let input = b"get never\nfrobnicate\nget k";
    let (code, stdout, stderr) = piped(&cluster, &[], input).await;
    assert_eq!((code, &stdout[..]), (2, "a b\n"), "the last line that failed: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn force_of_an_unknown_server_names_the_known_ones_at_once() {
    let (cluster, server) = Cluster::with_primary().await;
    let args = ["force", "nobody:1", "--accept-data-loss", "--yes"];
    let (code, _, stderr) = run(&cluster, &args).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(server.name.as_str()), "{stderr}");
    assert!(!stderr.contains("new generation"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_view_service_to_force_is_passed_on() {
    // The fakes call nobody eligible, and the view service knows better.
    let (cluster, server) = Cluster::with_primary().await;
    let args = ["force", server.name.as_str(), "--accept-data-loss", "--yes"];
    let (code, _, stderr) = run(&cluster, &args).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("hand over instead"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_service_that_refuses_connections_is_said_in_plain_words() {
    let nobody = nobody().await;
    for verb in [&["get", "a"][..], &["view"], &["status"], &["dump"]] {
        let mut command = kvctl_at(nobody.as_str());
        command.args(["--timeout", "500ms"]).args(verb);
        let (_, _, stderr) = finished(output(command).await);
        assert!(!stderr.contains("Error") && !stderr.contains("transport"), "{verb:?}: {stderr}");
        if verb != ["get", "a"] {
            assert!(stderr.contains(&format!("{nobody} refuses connections")), "{stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e1_an_interrupt_ends_the_command_with_130() {
    let (cluster, server) = Cluster::with_primary().await;
    server.script([Act::Hang]);
    let mut command = kvctl(&cluster);
    command.args(["put", "a", "1"]).stderr(Stdio::piped());
    let child = command.spawn().expect("kvctl starts");
    until("the put hangs", || !server.ids().is_empty()).await;
    let interrupted =
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = tokio::time::timeout(fakes::PATIENCE, output);
    let output = ended.await.expect("kvctl ends").unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("may or may not"));
}

#[tokio::test(flavor = "multi_thread")]
async fn view_watch_prints_every_change() {
    let (cluster, first) = Cluster::with_primary().await;
    let mut command = kvctl(&cluster);
    command.args(["view", "--watch", "-o", "json"]);
    let child = command.stdout(Stdio::piped()).spawn().expect("kvctl starts");
    until("the views are watched", || cluster.views.watched()).await;
    let second = cluster.server().await;
    cluster.views.appoint(&second.name);
    let mut child = child;
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let (name, last) = (second.name.clone(), first.name.clone());
    let seen = tokio::task::spawn_blocking(move || {
        lines.any(|line| {
            let line = line.expect("UTF-8");
            line.contains(name.as_str()) && !line.contains(last.as_str())
        })
    });
    let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
    child.kill().expect("still watching");
    child.wait().expect("ended");
    assert!(seen.expect("in time").expect("no panic"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_saved_inspected_and_restored() {
    let (cluster, _) = Cluster::with_primary().await;
    run(&cluster, &["put", "a", "1"]).await;
    run(&cluster, &["put", "b", "2"]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (file, data) = (path("nightly"), path("data"));
    let (code, stdout, stderr) = run(&cluster, &["snapshot", "save", &file]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("2 keys") && stdout.contains("generation 1"), "{stdout}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the file itself is left");

    // From here on nothing is served any more.
    let away = nobody().await.to_string();
    let offline = async |args: &[&str]| {
        let mut command = kvctl_at(&away);
        command.args(args);
        finished(output(command).await)
    };
    let (code, stdout, stderr) = offline(&["snapshot", "inspect", &file, "-o", "json"]).await;
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(stdout.contains(r#""keys":2"#) && stdout.contains(r#""data_bytes":4"#), "{stdout}");
    let (code, stdout, stderr) =
        offline(&["snapshot", "restore", &file, "--data-dir", &data]).await;
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(stdout.contains(&format!("kvserver --data-dir {data} --vs {away}")), "{stdout}");
    // Which the environment names is the old one.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    command.env("KVCTL_VS", &away).args(["snapshot", "restore", &file, "--data-dir"]);
    command.arg(path("other"));
    let (code, stdout, stderr) = finished(output(command).await);
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(stdout.contains("--vs NEW-VIEW-SERVICE") && !stdout.contains(&away), "{stdout}");
    let restored = std::fs::read(dir.path().join("data/restore.snapshot")).unwrap();
    assert_eq!(restored, std::fs::read(&file).unwrap());
    let (code, _, stderr) = offline(&["snapshot", "restore", &file, "--data-dir", &data]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("it is not empty"), "{stderr}");
    // What a restore leaves that was interrupted is in nobody's way.
    std::fs::rename(
        dir.path().join("data/restore.snapshot"),
        path("data/restore.snapshot.partial"),
    )
    .unwrap();
    let (code, _, stderr) = offline(&["snapshot", "restore", &file, "--data-dir", &data]).await;
    assert_eq!((code, &stderr[..]), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_holds_nothing_or_is_not_complete_is_no_backup() {
    let (cluster, primary) = Cluster::with_primary().await;
    let count_primary_as_complete = || {
        let eligible = |view: &View| view.primary.iter().cloned().collect();
        cluster.views.newest.send_modify(|view| view.eligible = eligible(view));
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nightly").display().to_string();
    let op = std::mem::replace(&mut cluster.store.lock().unwrap().op, 0);
    let (code, _, stderr) = run(&cluster, &["snapshot", "save", &file]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("holds no data (it is a spare)"), "{stderr}");
    cluster.store.lock().unwrap().op = op;
    run(&cluster, &["put", "a", "1"]).await;
    count_primary_as_complete();
    let former = primary.name.to_string();
    let complete = ["snapshot", "save", &file, "--force", "--server", &former];
    assert_eq!(run(&cluster, &complete).await.0, 0);

    cluster.views.appoint(&cluster.server().await.name);
    count_primary_as_complete();
    let (code, _, stderr) = run(&cluster, &complete).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("is not known to be complete"), "{stderr}");
    let any = [&complete[..], &["--any-copy", "-o", "json"]].concat();
    let (code, stdout, stderr) = run(&cluster, &any).await;
    assert_eq!((code, &stderr[..]), (0, ""));
    assert!(stdout.contains(r#""complete":false"#), "{stdout}");

    // Without a view service there is nobody to ask, and all the more reason to save.
    cluster.views.stop();
    let (code, _, stderr) = run(&cluster, &complete).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no view service of its cluster says"), "{stderr}");
    let away = nobody().await.to_string();
    let (code, _, stderr) =
        run(&cluster, &["snapshot", "save", &file, "--force", "--server", &away]).await;
    assert_eq!(code, 4);
    assert!(
        stderr.contains(&format!("no copy from {away}: {away} refuses connections")),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_replaced_only_when_asked_and_only_by_a_whole_one() {
    let (cluster, server) = Cluster::with_primary().await;
    run(&cluster, &["put", "a", "1"]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nightly");
    let name = file.display().to_string();
    std::fs::write(&file, "of yesterday").unwrap();
    let (code, _, stderr) = run(&cluster, &["snapshot", "save", &name]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("exists already; --force replaces it"), "{stderr}");
    let folder = dir.path().display().to_string();
    for args in [&["snapshot", "save", &folder][..], &["snapshot", "save", &folder, "--force"]] {
        let (code, _, stderr) = run(&cluster, args).await;
        assert_eq!(code, 1);
        assert!(stderr.contains("is a directory: give the name of a file in it"), "{stderr}");
    }
    let (code, _, stderr) = run(&cluster, &["snapshot", "save", "-"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("save it into a file"), "{stderr}");
    server.script([Act::CutShort]);
    let (code, _, stderr) = run(&cluster, &["snapshot", "save", &name, "--force"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("incomplete"), "{stderr}");
    assert_eq!(std::fs::read(&file).unwrap(), b"of yesterday");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    let (code, _, stderr) = run(&cluster, &["snapshot", "inspect", &name]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("no snapshot"), "{stderr}");
    let (code, _, stderr) = run(&cluster, &["snapshot", "save", &name, "--force"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(run(&cluster, &["snapshot", "inspect", &name]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_neither_passed_nor_restored() {
    let (cluster, _) = Cluster::with_primary().await;
    run(&cluster, &["put", "a", "some value"]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (file, data) = (path("nightly"), path("data"));
    run(&cluster, &["snapshot", "save", &file]).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for args in
        [&["snapshot", "inspect", &file][..], &["snapshot", "restore", &file, "--data-dir", &data]]
    {
        let (code, stdout, stderr) = run(&cluster, args).await;
        assert_eq!((code, &stdout[..]), (1, ""));
        assert!(stderr.contains("damaged"), "{stderr}");
    }
    assert!(!dir.path().join("data").exists());
}
