//! With three copies, any one or two servers may go and nothing acknowledged goes with them.

use crate::common::{check, put, running};
use testclient::cluster::Options;

fn three_copies() -> Options {
    Options { copies: 3, ..Options::default() }
}

async fn kill_one_of_three(victim: usize) {
    let mut cluster = running(three_copies(), 3).await;
    let client = cluster.client().await;
    for number in 0..20 {
        put(&client, &format!("k{number}"), &number.to_string()).await;
    }
    cluster.kill(victim);
    put(&client, "after", "1").await;
    cluster
        .wait_for_view("the other two to go on", |view| {
            view.primary.is_some_and(|now| now != victim)
                && view.synced.len() == 1
                && !view.synced.contains(&victim)
        })
        .await
        .expect("two are left");
    for number in 0..20 {
        check(&client, &format!("k{number}"), &number.to_string()).await;
    }
    check(&client, "after", "1").await;
    cluster.start_server(victim).expect("start it again");
    cluster.wait_until_redundant().await.expect("three copies again");
    check(&client, "after", "1").await;
}

#[tokio::test]
async fn the_primary_of_three_may_go() {
    kill_one_of_three(0).await;
}

#[tokio::test]
async fn the_first_backup_of_three_may_go() {
    kill_one_of_three(1).await;
}

#[tokio::test]
async fn the_second_backup_of_three_may_go() {
    kill_one_of_three(2).await;
}

#[tokio::test]
async fn two_of_three_may_go_one_after_the_other() {
    let mut cluster = running(three_copies(), 3).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    let view = cluster.layout().await.expect("a view");
    cluster.kill(view.primary.expect("a primary"));
    put(&client, "b", "2").await;
    check(&client, "a", "1").await;
    let view = cluster.wait_for_view("two copies", |view| view.synced.len() == 1);
    let view = view.await.expect("two are left");
    cluster.kill(view.primary.expect("a primary"));
    put(&client, "c", "3").await;
    check(&client, "a", "1").await;
    check(&client, "b", "2").await;
    check(&client, "c", "3").await;
}

#[tokio::test]
async fn a_primary_and_a_backup_may_go_at_once() {
    let mut cluster = running(three_copies(), 3).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    let view = cluster.layout().await.expect("a view");
    cluster.kill(view.primary.expect("a primary"));
    cluster.kill(view.synced[0]);
    put(&client, "b", "2").await;
    check(&client, "a", "1").await;
    check(&client, "b", "2").await;
}
