//! The primary/backup tests of MIT 6.824 (2015, lab 2 part B, `pbservice/test_test.go`) against
//! real processes, by their place in that file; those of dslabs (lab 2, `PrimaryBackupTest`) that
//! tell the same story stand beside them as `e…`. Partitions (P13 to P15) are simulated.
//!
//! Times are ours: a server is dead after 1.5 s here, where the lab had 0.5 s.

use std::time::{Duration, Instant};

use crate::common::{Running, append, check, get, put, running};
use kvclient::{Client, ErrorKind};
use testclient::cluster::{Layout, Options};
use testclient::{calls, random::Random};

fn one_to_three() -> Options {
    Options::default()
}

#[tokio::test]
async fn p1_e2_single_primary_serves_without_a_backup() {
    let cluster = running(one_to_three(), 1).await;
    let client = cluster.client().await;
    put(&client, "111", "v1").await;
    check(&client, "111", "v1").await;
    put(&client, "2", "v2").await;
    check(&client, "2", "v2").await;
    put(&client, "1", "v1a").await;
    check(&client, "1", "v1a").await;
    append(&client, "ak", "hello").await;
    check(&client, "ak", "hello").await;
    put(&client, "ak", "hello").await;
    append(&client, "ak", "world").await;
    check(&client, "ak", "helloworld").await;
    assert_eq!(get(&client, "missing").await, None);
}

#[tokio::test]
async fn p2_a_put_during_the_transfer_to_a_new_backup_works() {
    let mut cluster = running(one_to_three(), 1).await;
    let client = cluster.client().await;
    put(&client, "1", "v1").await;
    cluster.start_server(1).expect("start s2");
    // At once, so that it may well meet the transfer.
    put(&client, "3", "33").await;
    check(&client, "3", "33").await;
    cluster
        .wait_for_view("s2 to be a synced backup", |view| {
            view.primary == Some(0) && view.synced == [1]
        })
        .await
        .expect("s2 joins");
    put(&client, "4", "44").await;
    check(&client, "4", "44").await;
    check(&client, "1", "v1").await;
}

#[tokio::test]
async fn p3_e5_clients_and_servers_do_not_ask_the_view_service_for_each_operation() {
    let cluster = running(one_to_three(), 2).await;
    let client = cluster.client().await;
    put(&client, "k0", "0").await;
    let handled = async || {
        let status = cluster.status().await.expect("status");
        status.rpcs_handled.values().sum::<u64>()
    };
    let (before, started) = (handled().await, Instant::now());
    for number in 0..100 {
        put(&client, "xk", &number.to_string()).await;
    }
    let calls = handled().await - before;
    // As in the lab: two servers that ping, and twenty to spare.
    let allowed = 2 * pings_since(started) + 20;
    assert!(calls <= allowed, "{calls} calls to the view service for 100 puts; at most {allowed}");

    let (before, started) = (handled().await, Instant::now());
    for number in 0..500 {
        put(&client, "xk", &number.to_string()).await;
        check(&client, "xk", &number.to_string()).await;
    }
    let calls = handled().await - before;
    // Two per ping of each server. Our question is a call itself, and so is a ping begun before.
    let allowed = 2 * 2 * (pings_since(started) + 1);
    assert!(calls <= allowed, "{calls} calls to the view service for 500 pairs; at most {allowed}");
}

/// How often each server may have pinged since.
fn pings_since(started: Instant) -> u64 {
    started.elapsed().as_millis() as u64 / 500
}

#[tokio::test]
async fn p4_e6_primary_failure_keeps_everything() {
    let mut cluster = running(one_to_three(), 1).await;
    let client = cluster.client().await;
    put(&client, "before", "1").await;
    cluster.start_server(1).expect("start s2");
    put(&client, "during", "2").await;
    cluster.wait_until_redundant().await.expect("s2 joins");
    put(&client, "after", "3").await;
    cluster.kill(0);
    cluster
        .wait_for_view("s2 to be primary alone", |view| {
            view.primary == Some(1) && view.synced.is_empty() && view.joining.is_empty()
        })
        .await
        .expect("s2 takes over");
    check(&client, "before", "1").await;
    check(&client, "during", "2").await;
    check(&client, "after", "3").await;
}

#[tokio::test]
async fn p5_e7_after_the_last_copy_is_gone_an_empty_server_does_not_serve() {
    let mut cluster = running(one_to_three(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.kill(0);
    cluster
        .wait_for_view("s2 to be primary alone", |view| {
            view.primary == Some(1) && view.synced.is_empty()
        })
        .await
        .expect("s2 takes over");
    check(&client, "a", "1").await;
    cluster.kill(1);
    cluster.start_server(2).expect("start s3");
    let impatient = client.with_timeout(Duration::from_secs(4));
    let error = calls::get(&impatient, "a").await.expect_err("nobody may answer");
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    let gone = cluster.server_name(1).to_owned();
    cluster
        .wait_for_status("the view service to say for whom it waits", |status, layout| {
            status.waiting_for.iter().any(|name| name.contains(&gone)) && layout.primary != Some(2)
        })
        .await
        .expect("it waits for s2");
}

/// Three servers: s1 primary, s2 backup, s3 spare that has nothing.
async fn with_a_spare() -> (Running, Client) {
    let mut cluster = running(one_to_three(), 2).await;
    let client = cluster.client().await;
    put(&client, "a", "aa").await;
    put(&client, "b", "bb").await;
    cluster.start_server(2).expect("start s3");
    cluster.wait_until_redundant().await.expect("s3 is a spare");
    (cluster, client)
}

#[tokio::test]
async fn p7_e9_a_put_right_after_the_backup_failed_completes_and_the_next_backup_has_all() {
    let (mut cluster, client) = with_a_spare().await;
    cluster.kill(1);
    put(&client, "a", "aaa").await;
    check(&client, "a", "aaa").await;
    cluster
        .wait_for_view("s3 to be the backup of s1", |view| {
            view.primary == Some(0) && view.synced == [2]
        })
        .await
        .expect("s3 joins");
    check(&client, "a", "aaa").await;
    // And then the primary, so that the new backup has to know everything.
    cluster.kill(0);
    put(&client, "b", "bbb").await;
    check(&client, "a", "aaa").await;
    check(&client, "b", "bbb").await;
}

#[tokio::test]
async fn p8_a_put_right_after_the_primary_failed_completes() {
    let (mut cluster, client) = with_a_spare().await;
    cluster.kill(0);
    put(&client, "b", "bbb").await;
    check(&client, "b", "bbb").await;
    cluster
        .wait_for_view("s3 to be the backup of s2", |view| {
            view.primary == Some(1) && view.synced == [2]
        })
        .await
        .expect("s3 joins");
    // What s3 knows it only has from the transfer.
    cluster.kill(1);
    cluster
        .wait_for_view("s3 to be primary", |view| view.primary == Some(2))
        .await
        .expect("s3 takes over");
    check(&client, "a", "aa").await;
    check(&client, "b", "bbb").await;
}

/// Kills the primary of two and waits until its backup has taken over.
async fn fail_over(cluster: &mut Running) {
    let before: Layout = cluster.wait_until_redundant().await.expect("both are in sync");
    cluster.kill(before.primary.expect("a primary"));
    let view = cluster.wait_for_view("the backup to be primary", |view| {
        view.primary == before.synced.first().copied()
    });
    view.await.expect("the backup takes over");
}

/// Three clients put to the same two keys for a while; then the primary fails, and its backup must
/// hold what it held.
async fn concurrent_puts(cluster: &mut Running) {
    let end = Instant::now() + Duration::from_secs(3);
    let mut writers = Vec::new();
    for writer in 0..3u64 {
        let client = cluster.client().await;
        writers.push(tokio::spawn(async move {
            let mut random = Random::new(writer);
            while Instant::now() < end {
                let (key, value) = (random.below(2).to_string(), random.draw().to_string());
                put(&client, &key, &value).await;
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer went through");
    }
    let client = cluster.client().await;
    cluster.wait_until_redundant().await.expect("both are in sync");
    let on_primary = [get(&client, "0").await, get(&client, "1").await];
    assert!(on_primary.iter().all(Option::is_some), "nothing was written");
    fail_over(cluster).await;
    assert_eq!([get(&client, "0").await, get(&client, "1").await], on_primary);
}

#[tokio::test]
async fn p9_e10_concurrent_puts_to_the_same_keys_leave_both_copies_equal() {
    concurrent_puts(&mut running(one_to_three(), 2).await).await;
}

/// A tenth of all calls is not heard, and a fifth of the rest not answered: between clients and
/// servers, and between servers.
async fn unreliable(seed: u64) -> Running {
    eprintln!("unreliable links of seed {seed}");
    running(Options { unreliable: Some(seed), ..one_to_three() }, 2).await
}

fn assert_calls_were_lost(cluster: &Running) {
    let (unheard, unanswered) = cluster.unreliable().expect("the links are unreliable").lost();
    eprintln!("{unheard} calls were not heard, {unanswered} not answered");
    assert!(unheard >= 5 && unanswered >= 5, "{unheard} and {unanswered} calls were lost");
}

#[tokio::test]
async fn p6_e8_appends_over_unreliable_links_are_applied_once_in_order() {
    let cluster = unreliable(6).await;
    let client = cluster.client().await;
    let mut expected = String::new();
    for number in 0..100 {
        append(&client, "counter", &number.to_string()).await;
        expected.push_str(&number.to_string());
    }
    check(&client, "counter", &expected).await;
    assert_calls_were_lost(&cluster);
}

#[tokio::test]
async fn p11_concurrent_puts_over_unreliable_links_leave_both_copies_equal() {
    let mut cluster = unreliable(11).await;
    concurrent_puts(&mut cluster).await;
    assert_calls_were_lost(&cluster);
}

#[tokio::test]
async fn p10_e11_concurrent_appends_are_applied_once_in_order_and_equally_on_both_copies() {
    const WRITERS: usize = 3;
    const EACH: usize = 50;
    let mut cluster = running(one_to_three(), 2).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = cluster.client().await;
        writers.push(tokio::spawn(async move {
            for number in 0..EACH {
                append(&client, "k", &format!("x {writer} {number} y")).await;
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer went through");
    }
    let client = cluster.client().await;
    let on_primary = get(&client, "k").await.expect("the key is there");
    for writer in 0..WRITERS {
        let mut after = 0;
        for number in 0..EACH {
            let element = format!("x {writer} {number} y");
            let at: Vec<_> = on_primary.match_indices(&element).map(|(at, _)| at).collect();
            assert_eq!(at.len(), 1, "{element} is there {} times", at.len());
            assert!(at[0] >= after, "{element} is out of order");
            after = at[0];
        }
    }
    fail_over(&mut cluster).await;
    check(&client, "k", &on_primary).await;
}

#[tokio::test]
async fn p12_repeated_failures_and_restarts_never_lose_a_put() {
    let mut cluster = running(one_to_three(), 3).await;
    let end = Instant::now() + Duration::from_secs(12);
    let mut writers = Vec::new();
    for writer in 0..2u64 {
        let client = cluster.client().await;
        writers.push(tokio::spawn(async move {
            let mut random = Random::new(writer);
            let mut last: [Option<String>; 10] = Default::default();
            while Instant::now() < end {
                let number = random.below(10);
                let (key, value) = (format!("{writer}/{number}"), random.draw().to_string());
                let slot = &mut last[number];
                if let Some(expected) = slot {
                    check(&client, &key, expected).await;
                }
                put(&client, &key, &value).await;
                check(&client, &key, &value).await;
                *slot = Some(value);
            }
            last.iter().filter(|value| value.is_some()).count()
        }));
    }
    let mut random = Random::new(0x6824);
    let mut failures = 0;
    while Instant::now() < end {
        // As in the lab any of the three may fail, but never the last copy that is complete.
        cluster.wait_until_redundant().await.expect("it repairs itself");
        let victim = random.below(3);
        cluster.kill(victim);
        let name = cluster.server_name(victim).to_owned();
        cluster
            .wait_for_status("the loss to be noticed", |status, layout| {
                let dead = status
                    .servers
                    .iter()
                    .any(|server| server.state == "dead" && server.member.name.as_str() == name);
                dead && layout.primary != Some(victim)
            })
            .await
            .expect("another takes its place");
        cluster.start_server(victim).expect("start it again, empty");
        failures += 1;
    }
    for writer in writers {
        assert_eq!(writer.await.expect("a writer went through"), 10, "too few keys were written");
    }
    assert!(failures >= 2, "only {failures} failures in 12 s");
    let client = cluster.client().await;
    put(&client, "aaa", "bbb").await;
    check(&client, "aaa", "bbb").await;
}
