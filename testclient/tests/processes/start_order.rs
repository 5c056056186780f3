//! Programs start in any order, and a server that comes back without its data is a new server.

use std::time::Duration;

use crate::common::{check, prepared, put, running};
use testclient::calls;
use testclient::cluster::{Options, PATIENCE, wait_for};

#[tokio::test]
async fn servers_and_clients_that_start_before_the_view_service_wait_for_it() {
    let mut cluster = prepared(Options::default()).await;
    for index in 0..3 {
        cluster.start_server(index).expect("start a server");
    }
    let client = cluster.client().await;
    let early = tokio::spawn(async move { calls::put(&client, "a", "1").await });
    let listening: Vec<String> = (0..3).map(|i| cluster.server_name(i).to_owned()).collect();
    wait_for("the servers to be up without a view service", PATIENCE, async || {
        match listening.iter().find(|name| !testclient::cluster::listens(name)) {
            None => Ok(()),
            Some(name) => Err(format!("{name} does not listen")),
        }
    })
    .await
    .expect("they wait");
    assert_eq!(cluster.ended_by_itself(), None);
    cluster.start_view_service().expect("start the view service");
    cluster.wait_until_redundant().await.expect("everyone finds each other");
    early.await.expect("no panic").expect("the early put was done");
    check(&cluster.client().await, "a", "1").await;
}

#[tokio::test]
async fn reads_and_writes_go_on_while_the_view_service_is_away() {
    let mut cluster = running(Options::default(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.kill_view_service();
    for number in 0..20 {
        put(&client, "a", &number.to_string()).await;
        check(&client, "a", &number.to_string()).await;
    }
    assert_eq!(cluster.ended_by_itself(), None, "servers go on");
}

/// Whoever restarted the view service made every server exit, and all data was lost with them.
#[tokio::test]
async fn a_view_service_started_anew_ends_no_server_and_no_data_is_lost() {
    let mut cluster = running(Options::default(), 2).await;
    let connected = cluster.client().await;
    put(&connected, "a", "0").await;
    let idle = cluster.client().await;
    check(&idle, "a", "0").await;
    cluster.lose_view_service().expect("its disk is lost");
    put(&connected, "a", "1").await;
    cluster.start_view_service().expect("start a fresh one");
    for server in 0..2 {
        let said = cluster.wait_for_log(server, "this view service is empty").await;
        said.expect("it says what happened");
        put(&connected, "a", &format!("2{server}")).await;
    }
    for number in 3..20 {
        put(&connected, "a", &number.to_string()).await;
        check(&connected, "a", &number.to_string()).await;
        check(&idle, "a", &number.to_string()).await;
        put(&idle, "b", &number.to_string()).await;
    }
    assert_eq!(cluster.ended_by_itself(), None, "servers go on");
}

/// Kills a server and starts it at once at the same address, well before it could be given up for
/// its silence.
async fn restart_at_once(primary: bool) {
    let mut cluster = running(Options::default(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    let victim = if primary { 0 } else { 1 };
    let other = 1 - victim;
    cluster.kill(victim);
    cluster.start_server(victim).expect("start it again");
    // A read that were answered by the empty server would find nothing.
    check(&client, "a", "1").await;
    cluster
        .wait_for_view("it to be a backup again, brought up from nothing", |view| {
            view.primary == Some(other) && view.synced == [victim]
        })
        .await
        .expect("it comes back as a backup");
    check(&client, "a", "1").await;
    put(&client, "b", "2").await;
    // And now it holds everything.
    cluster.kill(other);
    check(&client, "a", "1").await;
    check(&client, "b", "2").await;
}

#[tokio::test]
async fn a_primary_that_comes_back_at_once_comes_back_empty_and_not_as_primary() {
    restart_at_once(true).await;
}

#[tokio::test]
async fn a_backup_that_comes_back_at_once_is_brought_up_from_nothing() {
    restart_at_once(false).await;
}

#[tokio::test]
async fn the_only_copy_that_comes_back_empty_does_not_serve() {
    let mut cluster = running(Options::default(), 1).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.kill(0);
    cluster.start_server(0).expect("start it again");
    let name = cluster.server_name(0).to_owned();
    cluster
        .wait_for_status("the view service to say for whom it waits", |status, _| {
            status.waiting_for.iter().any(|waiting| waiting.contains(&name))
        })
        .await
        .expect("it waits");
    let impatient = client.with_timeout(Duration::from_secs(3));
    calls::get(&impatient, "a").await.expect_err("what it lost must not look like never written");
    calls::put(&impatient, "b", "2").await.expect_err("nor may it take new data");
}
