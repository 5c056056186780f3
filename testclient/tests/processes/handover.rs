//! A server that is asked to stop hands over first: nobody who writes meanwhile notices more than
//! a short wait.

use std::sync::Arc;

use crate::common::{PATIENCE, check, put, running};
use testclient::cluster::Options;
use testclient::failover::writer::{Crew, Meter};

/// Stops the primary (`true`) or the backup (`false`) under load, several times.
async fn stop_under_load(stop_the_primary: bool) {
    let mut cluster = running(Options::default(), 3).await;
    let meter = Arc::new(Meter::new());
    let mut crew = Crew::start(cluster.view_service_addr(), 4, 0, &meter).await.expect("writers");
    for _ in 0..3 {
        let before = cluster.wait_until_redundant().await.expect("all in sync");
        let victim = match stop_the_primary {
            true => before.primary.expect("a primary"),
            false => before.synced[0],
        };
        cluster.term(victim);
        let code = cluster.wait_for_exit(victim).await.expect("it ends");
        assert_eq!(code, Some(0), "it ended well");
        cluster
            .wait_for_view("the other two to go on without it", |view| {
                view.number > before.number
                    && view.primary != Some(victim)
                    && !view.synced.contains(&victim)
            })
            .await
            .expect("a view without it");
        let reached = meter.ever().writes + 20;
        testclient::cluster::wait_for("writes to go on", PATIENCE, async || {
            let writes = meter.ever().writes;
            (writes >= reached).then_some(()).ok_or(format!("{writes} of {reached}"))
        })
        .await
        .expect("writes go on");
        cluster.start_server(victim).expect("start it again");
    }
    let checked = crew.check(true).await.expect("writers check their keys");
    crew.stop().await;
    let seen = meter.read();
    assert_eq!(checked.broken, Vec::<String>::new(), "a promise was broken");
    assert!(checked.keys > 0 && seen.writes > 0, "nothing was written");
    assert_eq!(seen.failed, 0, "failed calls");
    assert_eq!(seen.unknown, 0, "calls with an unknown outcome");
}

#[tokio::test]
async fn a_primary_that_is_asked_to_stop_hands_over_without_a_failed_call() {
    stop_under_load(true).await;
}

#[tokio::test]
async fn a_backup_that_is_asked_to_stop_leaves_without_a_failed_call() {
    stop_under_load(false).await;
}

#[tokio::test]
async fn the_last_copy_does_not_stop_before_it_is_asked_twice() {
    let mut cluster = running(Options::default(), 1).await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.term(0);
    let said = cluster.wait_for_log(0, "no other server can take over").await;
    said.expect("it says that stopping would lose the data");
    put(&client, "b", "2").await;
    check(&client, "a", "1").await;
    cluster.term(0);
    let code = cluster.wait_for_exit(0).await.expect("it ends");
    assert_eq!(code, Some(143), "a second signal ends it at once");
}

/// Everybody is asked to stop while no view service answers. Each copy counted on the other, and both
/// stopped as if they had crashed: one polite signal to each lost everything.
#[tokio::test]
async fn asked_to_stop_all_at_once_without_a_view_service_the_primary_stays() {
    let mut cluster = running(Options::default(), 2).await;
    let layout = cluster.wait_until_redundant().await.expect("both in sync");
    let (primary, backup) = (layout.primary.expect("a primary"), layout.synced[0]);
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    cluster.kill_view_service();
    cluster.term(primary);
    cluster.term(backup);
    let said = cluster.wait_for_log(primary, "serving on; a second signal").await;
    said.expect("nobody takes over, so it stays");
    // Without the backup, which has gone, and a view service that leaves it out, nothing is served;
    // but the data is there for a dump.
    let name = cluster.server_name(primary).to_owned();
    let mut dump = client.dump(Some(&name)).await.expect("the primary still runs");
    let (key, record) = dump.next().await.expect("a pair").expect("one pair");
    assert_eq!((key.as_ref(), record.value.as_ref()), (&b"a"[..], &b"1"[..]));
}
