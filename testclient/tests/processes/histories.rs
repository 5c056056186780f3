//! Clients share keys while primaries die: what they were answered is linearizable.

use crate::common::{PATIENCE, running};
use testclient::cluster::{Options, wait_for};
use testclient::failover::sharers::Sharers;
use testclient::history::{Call, format};
use testclient::recorder::Recorder;
use testclient::{linearizability, witness};

/// Waits until so many more calls were made that each fault has something to hit.
async fn work(sharers: &Sharers) {
    let reached = sharers.calls() + 100;
    wait_for("clients to be at work", PATIENCE, async || match sharers.calls() {
        calls if calls >= reached => Ok(()),
        calls => Err(format!("{calls} of {reached}")),
    })
    .await
    .expect("they go on");
}

#[tokio::test]
async fn a_history_recorded_through_failovers_is_linearizable() {
    let mut cluster = running(Options::default(), 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("history.jsonl");
    let recorder = Recorder::start(&path).expect("the file can be written");
    let sharers = Sharers::start(cluster.view_service_addr(), recorder).await.expect("clients");
    for _ in 0..2 {
        let before = cluster.wait_until_redundant().await.expect("all in sync");
        work(&sharers).await;
        let victim = before.primary.expect("a primary");
        cluster.kill(victim);
        cluster
            .wait_for_view("another primary", |view| view.primary != before.primary)
            .await
            .expect("another one takes over");
        cluster.start_server(victim).expect("start it again");
    }
    work(&sharers).await;
    sharers.finish().await.expect("the history is written");

    let text = std::fs::read_to_string(&path).expect("the history is there");
    let history = format::import(&text).expect("it can be read");
    let answered = history.calls.iter().filter(|call| call.answer().is_some()).count();
    assert!(answered > 200, "{answered} calls were answered");
    assert_eq!(history.calls.iter().find_map(Call::mistake), None);
    let report = linearizability::check(&history, 10_000_000);
    if let Some((_, account)) = report.violations().next() {
        panic!("{account}\n{text}");
    }
    assert!(report.is_ok(), "not decided");
    assert_eq!(witness::check(&history), []);
}
