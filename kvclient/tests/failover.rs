//! What a call does when servers refuse, die, hang or lag: against fakes that do so on cue.

mod fakes;

use std::time::Duration;

use fakes::{Act, Cluster, PATIENCE, nobody, until};
use kvclient::{CasResult, Client, ClientConfig, ErrorKind, Expect};
use kvproto::command::SESSION_WINDOW;
use kvproto::convert::ExecuteOperation;
use kvproto::snapshot::{Malformed, Verifier};
use kvproto::{Generation, LogPoint, NotDone, OpNumber, Refusal, RequestNumber};

async fn client(cluster: &Cluster) -> Client {
    client_with(cluster, |_| {}).await
}

async fn client_with(cluster: &Cluster, change: impl FnOnce(&mut ClientConfig)) -> Client {
    let mut config = ClientConfig::new(&cluster.views.address);
    config.timeout = PATIENCE;
    change(&mut config);
    Client::connect(config).await.expect("a valid configuration")
}

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_was_written_is_read_back() {
    let (cluster, _) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    assert_eq!(client.get("a").await.unwrap(), None);
    let changed = client.put("a", "1").await.unwrap();
    let record = client.get("a").await.unwrap().expect("written");
    assert_eq!((&record.value[..], record.version), (&b"1"[..], changed.version));
    assert_eq!(client.append("a", "23").await.unwrap(), 3);
    assert!(client.delete("a").await.unwrap());
    assert!(!client.delete("a").await.unwrap());
    let records = client.get_many(["a", "b"]).await.unwrap();
    assert_eq!(records, [None, None]);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_an_answer_with_the_present_record() {
    let (cluster, _) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    let put = client.put("a", "1").await.unwrap();
    let result = client.compare_and_set("a", Expect::Missing, Some("2".into()));
    match result.await.unwrap() {
        CasResult::Conflict(Some(record)) => assert_eq!(record.version, put.version),
        other => panic!("{other:?}"),
    }
    let result = client.compare_and_set("a", Expect::Version(put.version), None);
    assert!(matches!(result.await.unwrap(), CasResult::Done(_)));
    assert_eq!(client.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_that_names_the_primary_is_followed_without_asking_the_view_service() {
    let (cluster, old) = Cluster::with_primary().await;
    let new = cluster.server().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    let calls = cluster.views.calls();
    old.script([old.not_primary(&new, cluster.views.number() + 1)]);
    client.put("b", "2").await.unwrap();
    assert_eq!(new.ids().len(), 1, "the new primary was asked");
    assert_eq!(cluster.views.calls(), calls);
}

#[tokio::test]
async fn p3_the_view_service_is_not_asked_per_operation() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    for number in 0..100 {
        client.put("a", number.to_string()).await.unwrap();
    }
    assert_eq!(server.ids().len(), 100);
    let calls = cluster.views.calls();
    assert!(calls <= 4, "{calls} calls to the view service over 100 puts");
}

#[tokio::test]
async fn a_primary_that_dies_after_executing_does_not_make_an_append_apply_twice() {
    let (cluster, old) = Cluster::with_primary().await;
    let new = cluster.server().await;
    let client = client(&cluster).await;
    client.append("log", "0").await.unwrap();
    old.script([Act::LoseAnswer]);
    old.script(std::iter::repeat_n(old.not_primary(&new, 2), 100));
    assert_eq!(client.append("log", "1").await.unwrap(), 2);
    let record = client.get("log").await.unwrap().expect("written");
    assert_eq!(&record.value[..], b"01");
    let lost = old.ids()[1];
    let repeated = new.ids()[0];
    assert_eq!((lost.session, lost.number), (repeated.session, repeated.number));
}

#[tokio::test]
async fn a_primary_that_hangs_holds_nobody_once_another_is_appointed() {
    let (cluster, old) = Cluster::with_primary().await;
    let new = cluster.server().await;
    let client = client(&cluster).await;
    client.append("log", "0").await.unwrap();
    until("the views are watched", || cluster.views.watched()).await;
    for hang in [Act::Hang, Act::ExecuteAndHang] {
        cluster.views.appoint(&old.name);
        client.get("log").await.unwrap();
        let before = old.ids().len();
        old.script([hang]);
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.append("log", "1").await }
        });
        until("the append hangs", || old.ids().len() > before).await;
        cluster.views.appoint(&new.name);
        call.await.unwrap().expect("done by the new primary");
        let (lost, repeated) = (old.ids()[before], *new.ids().last().unwrap());
        assert_eq!((lost.session, lost.number), (repeated.session, repeated.number));
    }
    let record = client.get("log").await.unwrap().expect("written");
    assert_eq!(&record.value[..], b"011");
}

#[tokio::test]
async fn an_expired_session_is_replaced_and_the_write_goes_on() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    server.script([Act::RefuseInLog(Refusal::SessionExpired)]);
    client.put("a", "2").await.unwrap();
    let ids = server.ids();
    assert_ne!(ids[1].session, ids[2].session);
    assert_eq!(ids[2].number, RequestNumber(1));
}

#[tokio::test]
async fn a_session_that_expires_while_an_answer_is_missing_leaves_the_outcome_unknown() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    server.script([Act::LoseAnswer, Act::RefuseInLog(Refusal::SessionExpired)]);
    let error = client.append("a", "2").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown, "{error}");
}

#[tokio::test]
async fn h36_an_answer_older_than_one_seen_is_refused_and_asked_for_again() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    server.script([Act::AnswerAsOf(LogPoint { generation: Generation(1), op: OpNumber(1) })]);
    let record = client.get("a").await.unwrap().expect("not the old state");
    assert_eq!(&record.value[..], b"1");
}

#[tokio::test]
async fn a_deadline_that_passes_while_an_answer_is_missing_leaves_the_outcome_unknown() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    server.script([Act::Hang]);
    let error = client.with_timeout(SHORT).put("a", "2").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    server.script([Act::Hang]);
    let error = client.with_timeout(SHORT).get("a").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "a read changes nothing: {error}");
}

#[tokio::test]
async fn without_a_primary_a_write_is_certainly_not_done() {
    let cluster = Cluster::start().await;
    let client = client_with(&cluster, |config| config.timeout = SHORT).await;
    let error = client.put("a", "1").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "no view yet: {error}");

    cluster.views.appoint(&nobody().await);
    let error = client.put("a", "1").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "refused connection: {error}");
}

#[tokio::test]
async fn a_write_waits_for_the_first_primary() {
    let cluster = Cluster::start().await;
    let client = client(&cluster).await;
    let call = tokio::spawn(async move { client.put("a", "1").await });
    until("the views are watched", || cluster.views.watched()).await;
    let server = cluster.server().await;
    cluster.views.appoint(&server.name);
    call.await.unwrap().expect("done");
}

#[tokio::test]
async fn too_few_copies_until_the_deadline_is_a_refusal_that_says_what_to_do() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    let refusal = Act::Refuse(NotDone::TooFewCopies { synced: 1, min_copies: 2 });
    server.script(std::iter::repeat_n(refusal, 1000));
    let error = client.with_timeout(SHORT).put("a", "2").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("--min-copies"), "{error}");
}

#[tokio::test]
async fn e1_cancelled_calls_give_their_numbers_up_and_the_floor_passes_them() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "0").await.unwrap();
    server.script(std::iter::repeat_n(Act::Hang, SESSION_WINDOW as usize));
    let calls: Vec<_> = (0..SESSION_WINDOW)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.put("a", "never").await })
        })
        .collect();
    let all = 1 + SESSION_WINDOW as usize;
    until("the window is full", || server.ids().len() == all).await;
    for call in &calls {
        call.abort();
    }
    client.put("a", "1").await.expect("the window is free again");
    let last = *server.ids().last().unwrap();
    assert_eq!(last.number, RequestNumber(SESSION_WINDOW + 2));
    assert!(last.first_open > RequestNumber(1), "the floor has moved");
}

#[tokio::test]
async fn more_writes_than_the_window_takes_wait_for_their_turn() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    server.close_gate();
    let calls: Vec<_> = (0..3 * SESSION_WINDOW)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.append("log", vec![number as u8]).await })
        })
        .collect();
    let window = SESSION_WINDOW as usize;
    until("the window is full", || server.ids().len() >= window).await;
    assert_eq!(server.ids().len(), window);
    server.open_gate();
    for call in calls {
        call.await.unwrap().expect("done");
    }
    for id in server.ids() {
        assert!(id.number.0 - id.first_open.0 < SESSION_WINDOW, "{id:?}");
    }
    let record = client.get("log").await.unwrap().expect("written");
    assert_eq!(record.value.len(), 3 * window);
}

#[tokio::test]
async fn without_sessions_a_lost_write_is_not_sent_again() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client_with(&cluster, |config| config.sessions = false).await;
    client.append("log", "0").await.unwrap();
    server.script([Act::LoseAnswer]);
    let error = client.append("log", "1").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert_eq!(server.asked().len(), 2);
    assert!(server.ids().is_empty(), "no request carried a name");
}

#[tokio::test]
async fn reads_and_writes_go_on_while_the_view_service_is_gone() {
    let (cluster, old) = Cluster::with_primary().await;
    let new = cluster.server().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    cluster.views.stop();
    client.put("a", "2").await.unwrap();
    old.script(std::iter::repeat_n(old.not_primary(&new, 2), 100));
    client.put("a", "3").await.expect("the hint is enough");
    let record = client.get("a").await.unwrap().expect("written");
    assert_eq!(&record.value[..], b"3");
}

#[tokio::test]
async fn a_dead_view_server_in_the_list_is_passed_over() {
    let (cluster, _) = Cluster::with_primary().await;
    let list = format!("{},{}", nobody().await, cluster.views.address);
    let client = client_with(&cluster, |config| {
        config.view_servers = ClientConfig::new(&list).view_servers;
    })
    .await;
    client.put("a", "1").await.expect("done");
    assert_eq!(client.view().await.unwrap().number.0, 1);
}

#[tokio::test]
async fn a_session_is_kept_alive_and_closed() {
    let (cluster, _) = Cluster::with_primary().await;
    cluster.views.settings(|settings| settings.session_lease = Duration::from_millis(60));
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    let kept = || cluster.store.lock().unwrap().keep_alives;
    until("the session is kept alive", || kept() >= 3).await;
    client.close().await.unwrap();
    let store = cluster.store.lock().unwrap();
    assert_eq!(store.closed, store.sessions);
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_before_it_travels() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.get("a").await.unwrap();
    let error = client.put("a", vec![0; 9 << 20]).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
    let error = client.put("", "1").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
    let writes = |asked: &kvproto::convert::Execute| {
        matches!(asked.operation, ExecuteOperation::Command { .. })
    };
    assert_eq!(server.asked().iter().filter(|asked| writes(asked)).count(), 0);
}

#[tokio::test]
async fn a_dump_is_every_pair_in_order_and_a_summary() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("b", "2").await.unwrap();
    client.put("a", "1").await.unwrap();
    for name in [None, Some(server.name.as_str())] {
        let mut dump = client.dump(name).await.unwrap();
        let mut keys = Vec::new();
        while let Some((key, _)) = dump.next().await.unwrap() {
            keys.push(key);
        }
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(dump.summary().expect("complete").count, 2);
    }
    let error = client.dump(Some(nobody().await.as_str())).await.err();
    assert_eq!(*error.expect("refused").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_snapshot_tells_by_itself_whether_it_is_whole() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    client.put("a", "1").await.unwrap();
    let snapshot = async || {
        let mut snapshot = client.snapshot(None).await.unwrap();
        let mut verifier = Verifier::default();
        while let Some(piece) = snapshot.next().await.unwrap() {
            verifier.push(piece).unwrap();
        }
        verifier.finish()
    };
    assert_eq!(snapshot().await.expect("whole").counts.keys, 1);
    server.script([Act::CutShort]);
    assert!(matches!(snapshot().await, Err(Malformed::Incomplete { .. })));
}

#[tokio::test]
async fn newer_views_can_be_waited_for() {
    let (cluster, server) = Cluster::with_primary().await;
    let client = client(&cluster).await;
    let first = client.next_view(None).await;
    let other = cluster.server().await;
    cluster.views.appoint(&other.name);
    let second = client.next_view(Some(&first)).await;
    assert_eq!(first.primary_name(), Some(&server.name));
    assert_eq!(second.primary_name(), Some(&other.name));
}

/// Every call can be made from a spawned task.
#[test]
fn calls_can_move_between_threads() {
    fn sendable<T: Send>(_: impl FnOnce(Client) -> T) {}
    sendable(|client| async move { client.get("a").await });
    sendable(|client| async move { client.put("a", "b").await });
    sendable(|client| async move { client.view().await });
    sendable(|client| async move { client.status().await });
    sendable(|client| async move { client.dump(None).await.map(|_| ()) });
    sendable(|client| async move { client.snapshot(None).await.map(|_| ()) });
    sendable(|client| async move { client.force_accepting_data_loss("a").await });
    sendable(|client| async move { client.close().await });
}
