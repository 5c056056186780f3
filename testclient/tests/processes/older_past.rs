//! A view service whose directory is put back to an older state, or is not there at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvclient::ClusterStatus;
use kvproto::limits::SILENCE_BEFORE_FORCE;
use testclient::calls;
use testclient::cluster::{Options, PATIENCE, wait_for};

use crate::common::{Running, check, put, running};

fn on_disk() -> Options {
    Options { durable: true, ..Options::default() }
}

fn directory(cluster: &Running, name: &str) -> PathBuf {
    cluster.log_dir().join("data").join(name)
}

fn copy(from: &Path, to: &Path) {
    let _none = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("make a directory");
    for file in std::fs::read_dir(from).expect("it is there") {
        let file = file.expect("it can be read");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copy a file");
    }
}

/// The view service stops for a moment, and its directory is copied.
async fn save(cluster: &mut Running) {
    cluster.kill_view_service();
    copy(&directory(cluster, "viewservice"), &directory(cluster, "saved"));
    cluster.start_view_service().expect("start it again");
    cluster.wait_until_redundant().await.expect("it goes on");
}

/// The view service starts from the copy.
fn put_back(cluster: &mut Running) {
    cluster.kill_view_service();
    copy(&directory(cluster, "saved"), &directory(cluster, "viewservice"));
    cluster.start_view_service().expect("start it again");
}

async fn until_doubted(cluster: &mut Running) -> ClusterStatus {
    cluster
        .wait_for_status("the view service to be in doubt", |status, _| status.doubt.is_some())
        .await
        .expect("somebody showed a newer record");
    cluster.status().await.expect("it answers")
}

/// Ends the doubt in favour of a server, as soon as the view service lets the operator.
async fn force(cluster: &Running, server: usize) {
    let client = cluster.client().await;
    let name = cluster.server_name(server);
    let patience = PATIENCE + SILENCE_BEFORE_FORCE;
    wait_for("the operator to be let", patience, async || {
        let forced = client.force_accepting_data_loss(name).await;
        forced.map(drop).map_err(|why| why.to_string())
    })
    .await
    .expect("all others were silent");
}

/// Server 1 leads alone, and has more than the state that was saved knows of.
async fn left_alone() -> Running {
    let mut cluster = running(on_disk(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "0").await;
    save(&mut cluster).await;
    cluster.kill(0);
    let alone =
        |view: &testclient::cluster::Layout| view.primary == Some(1) && view.synced.is_empty();
    cluster.wait_for_view("server 1 to lead alone", alone).await.expect("it holds everything");
    for number in 1..20 {
        put(&client, "a", &number.to_string()).await;
    }
    cluster
}

/// The stale server was declared complete, and what the other had acknowledged was gone.
#[tokio::test]
async fn a_view_service_put_back_under_live_servers_stands_still_until_an_operator_decides() {
    let mut cluster = left_alone().await;
    let client = cluster.client().await;
    check(&client, "a", "19").await;
    put_back(&mut cluster);
    cluster.start_server(0).expect("start the stale one");
    let status = until_doubted(&mut cluster).await;
    let name = cluster.server_name(1).to_owned();
    let doubt = status.doubt.expect("in doubt");
    assert!(doubt.shown.iter().any(|shown| shown.primary == name), "{:?}", doubt.shown);
    assert!(status.advice.contains("older state"), "{}", status.advice);
    assert!(status.advice.contains(&format!("kvctl force {name}")), "{}", status.advice);

    // It serves on, and whoever is new here finds it.
    put(&client, "a", "20").await;
    check(&cluster.client().await, "a", "20").await;
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < end {
        let now = cluster.status().await.expect("it answers");
        assert_eq!(now.view, status.view, "nothing is assigned");
        put(&client, "a", "21").await;
    }
    assert_eq!(cluster.ended_by_itself(), None, "nobody is ended");

    cluster.kill(0);
    force(&cluster, 1).await;
    let leads = |view: &testclient::cluster::Layout| view.primary == Some(1);
    cluster.wait_for_view("server 1 to lead", leads).await.expect("it goes on");
    check(&client, "a", "21").await;
    cluster.start_server(0).expect("start the other again");
    cluster.wait_until_redundant().await.expect("it is filled");
    put(&client, "a", "22").await;
    cluster.kill(1);
    check(&client, "a", "22").await;
}

/// The one that lacks something comes first, while the one that has everything is down. It had heard of
/// a later epoch, which its disk shows.
#[tokio::test]
async fn a_view_service_put_back_before_a_stale_server_comes_first_waits_for_a_decision() {
    let mut cluster = left_alone().await;
    let client = cluster.client().await;
    cluster.start_server(0).expect("start it again");
    cluster.wait_until_redundant().await.expect("it is filled");
    cluster.kill(0);
    let alone =
        |view: &testclient::cluster::Layout| view.primary == Some(1) && view.synced.is_empty();
    cluster.wait_for_view("server 1 to lead alone", alone).await.expect("it holds everything");
    put(&client, "a", "newest").await;
    cluster.kill(1);
    put_back(&mut cluster);
    cluster.start_server(0).expect("start the stale one");
    let status = until_doubted(&mut cluster).await;
    let impatient = client.with_timeout(Duration::from_secs(3));
    calls::get(&impatient, "a").await.expect_err("it must not answer with what it lacks");
    assert_eq!(cluster.status().await.expect("it answers").view, status.view);
    assert_eq!(cluster.ended_by_itself(), None, "it waits");

    cluster.kill(0);
    cluster.start_server(1).expect("start the one that has everything");
    force(&cluster, 1).await;
    check(&client, "a", "newest").await;
    cluster.start_server(0).expect("start the other again");
    cluster.wait_until_redundant().await.expect("it is filled");
    check(&client, "a", "newest").await;
}

/// It founded a second cluster with whoever came, and status said that no server had come.
#[tokio::test]
async fn an_empty_view_service_beside_servers_of_another_cluster_founds_no_second_one() {
    let mut cluster = running(on_disk(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.kill_view_service();
    let (place, away) = (directory(&cluster, "viewservice"), directory(&cluster, "away"));
    std::fs::rename(&place, &away).expect("the volume is not mounted");
    cluster.start_view_service().expect("start it without its directory");
    cluster.start_server(2).expect("start a server that is new");
    let (known, new) = (cluster.server_name(0).to_owned(), cluster.server_name(2).to_owned());
    cluster
        .wait_for_status("it to say who came", |status, _| {
            let came = |name: &str| {
                status.refused.iter().any(|server| server.member.name.as_str() == name)
            };
            came(&known) && came(&new) && status.advice.contains("founds no other cluster")
        })
        .await
        .expect("both came");
    // A member that restarts meanwhile waits as well.
    cluster.kill(1);
    cluster.start_server(1).expect("start it again");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = cluster.status().await.expect("it answers");
    assert_eq!((status.view.number.0, status.servers.len()), (0, 0), "nobody is admitted");
    assert_eq!(cluster.ended_by_itself(), None, "nobody is ended");

    cluster.kill_view_service();
    std::fs::remove_dir_all(&place).expect("what the empty one kept");
    std::fs::rename(&away, &place).expect("the volume is mounted");
    cluster.start_view_service().expect("start it with its directory");
    cluster.wait_until_redundant().await.expect("all go on, and the new one is a spare");
    check(&client, "a", "1").await;
    put(&client, "a", "2").await;
    assert_eq!(cluster.status().await.expect("it answers").refused, []);
}
