//! What the view service keeps outlives it, and a directory that it must not use is refused.

use std::path::Path;
use std::process::Command;

use crate::common::{check, put, running};
use testclient::cluster::{Options, program};

/// It goes on from its disk: the same cluster, the same view, the same lives.
#[tokio::test]
async fn a_view_service_that_was_killed_goes_on_with_the_same_view_and_then_repairs_failures() {
    let mut cluster = running(Options::default(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "0").await;
    let before = cluster.status().await.expect("it answers").view;
    for round in 1..4 {
        cluster.kill_view_service();
        put(&client, "a", &format!("away {round}")).await;
        cluster.start_view_service().expect("start it again");
        cluster.wait_until_redundant().await.expect("both attend again");
        let after = cluster.status().await.expect("it answers").view;
        assert_eq!(after, before, "nothing has changed");
        put(&client, "a", &format!("back {round}")).await;
        check(&client, "a", &format!("back {round}")).await;
    }
    assert_eq!(cluster.ended_by_itself(), None);

    // A server that is killed while nobody watches is missed afterwards.
    cluster.kill_view_service();
    cluster.kill(0);
    cluster.start_view_service().expect("start it again");
    cluster
        .wait_for_view("the backup to take over", |view| view.primary == Some(1))
        .await
        .expect("it was complete, and that was not forgotten");
    check(&client, "a", "back 3").await;
}

/// How a start of this program with these flags ends, which it must.
fn refused(name: &str, data: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program(name).expect("it is built"));
    command.args(["--addr", "127.0.0.1:0", "--data-dir"]).arg(data).args(flags);
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_directory_that_is_in_use_lost_its_log_or_is_anothers_is_refused() {
    let options = Options { durable: true, ..Options::default() };
    let mut cluster = running(options, 1).await;
    let data = cluster.log_dir().join("data");
    let (views, server) = (data.join("viewservice"), data.join("s1"));
    for (program, directory) in [("viewservice", &views), ("kvserver", &server)] {
        let (code, said) = refused(program, directory, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("another process uses this directory"), "{said}");
    }
    cluster.kill_view_service();
    cluster.kill(0);
    for (program, directory, belongs) in [
        ("viewservice", &server, "belongs to a kvserver"),
        ("kvserver", &views, "belongs to a viewservice"),
    ] {
        let (code, said) = refused(program, directory, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(belongs), "{said}");
    }
    let (code, said) = refused("viewservice", &views, &["--copies", "5"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--copies 5 contradicts the 2 of this cluster"), "{said}");

    std::fs::remove_file(views.join("views.redb")).expect("the log is there");
    let (code, said) = refused("viewservice", &views, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is gone") && said.contains("journal export"), "{said}");
}
