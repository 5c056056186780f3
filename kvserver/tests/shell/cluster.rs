//! A view service and its servers, all in this process: copies, failover, hand-over.

use std::time::Duration;

use bytes::Bytes;
use kvproto::command::RequestId;
use kvproto::convert::{Execute, ExecuteOperation};
use kvproto::pb::kvserver::{DumpRequest, DumpSummary, ExecuteRequest, PutRequest, dump_response};
use kvproto::pb::viewservice as pb;
use kvproto::pb::viewservice::view_service_client::ViewServiceClient;
use kvproto::{Action, Change, Command, Outcome, Reply, RequestNumber, SessionId, Settings, View};
use kvserver::Config;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use viewservice::home::Home;

use crate::common::{Running, eventually, execute, get, put, put_eventually};

struct ViewService {
    name: String,
    _stop: tokio_util::sync::DropGuard,
    task: JoinHandle<anyhow::Result<()>>,
    _data: tempfile::TempDir,
}

impl ViewService {
    async fn start() -> ViewService {
        let data = tempfile::tempdir().expect("a directory");
        let settings = Settings::default().into();
        let home = Home::open(data.path(), &settings, true).await.expect("a new cluster");
        let listeners = kvprocess::listen::bind("localhost:0", false).expect("a free port");
        let name = format!("localhost:{}", listeners.port());
        let stop = CancellationToken::new();
        let task = tokio::spawn(viewservice::run(home, listeners, stop.clone()));
        ViewService { name, _stop: stop.drop_guard(), task, _data: data }
    }

    async fn view(&self) -> Option<View> {
        let channel = kvprocess::dial::channel(&self.name).expect("an address");
        let answer = ViewServiceClient::new(channel).get_view(pb::GetViewRequest {}).await;
        View::try_from(answer.ok()?.into_inner().view?).ok()
    }

    async fn view_where(&self, what: &str, wanted: impl Fn(&View) -> bool) -> View {
        eventually(what, async || self.view().await.filter(&wanted)).await
    }

    /// Waits until these two, in this order, are primary and a synced backup.
    async fn in_sync(&self, primary: &Running, backup: &Running) -> View {
        let what = format!("{} and {} to be in sync", primary.name, backup.name);
        self.view_where(&what, |view| {
            view.is_activated()
                && view.primary_name().is_some_and(|name| name.as_str() == primary.name)
                && view.backups.iter().any(|member| member.name.as_str() == backup.name)
                && view.eligible.len() == 2
        })
        .await
    }
}

async fn value(server: &Running, key: &'static str) -> Option<String> {
    let answer = server.client().get(get(key)).await.ok()?.into_inner();
    answer.ok.then(|| String::from_utf8_lossy(&answer.value).into_owned())
}

async fn dump(server: &Running) -> Option<(Vec<(Bytes, Bytes)>, DumpSummary)> {
    let mut dump = server.client().dump(DumpRequest {}).await.ok()?.into_inner();
    let mut pairs = Vec::new();
    loop {
        match dump.message().await.ok()??.body? {
            dump_response::Body::Record(record) => {
                pairs.push((record.key, record.record?.value));
            }
            dump_response::Body::Summary(summary) => return Some((pairs, summary)),
        }
    }
}

#[tokio::test]
async fn what_the_primary_acknowledged_is_on_the_backup() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "before", "1").await;
    let second = Running::start(&view_service.name);
    view_service.in_sync(&first, &second).await;
    put_eventually(&first, "after", "2").await;
    let refused = second.client().put(put("after", "3")).await.unwrap().into_inner();
    assert_eq!((refused.ok, refused.error.as_str()), (false, "ErrNotPrimary"));
    let refused = second.client().get(get("after")).await.unwrap().into_inner();
    assert_eq!((refused.ok, refused.error.as_str()), (false, "ErrNotPrimary"));
    let (pairs, summary) = dump(&first).await.expect("a dump of the primary");
    assert_eq!(summary.role, "primary");
    eventually("the backup to apply what is committed", async || {
        let (copied, copy) = dump(&second).await?;
        (copied == pairs && copy.digest == summary.digest && copy.role == "backup").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_backup_of_a_crashed_primary_has_everything_and_gets_a_backup_itself() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let second = Running::start(&view_service.name);
    view_service.in_sync(&first, &second).await;
    put_eventually(&first, "b", "2").await;
    let third = Running::start(&view_service.name);
    drop(first);
    put_eventually(&second, "c", "3").await;
    view_service.in_sync(&second, &third).await;
    drop(second);
    put_eventually(&third, "d", "4").await;
    for (key, expected) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        assert_eq!(value(&third, key).await.as_deref(), Some(expected), "{key}");
    }
}

#[tokio::test]
async fn a_primary_that_shall_stop_hands_over_first() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let second = Running::start(&view_service.name);
    view_service.in_sync(&first, &second).await;
    first.stop.cancel();
    first.ended().await.expect("it leaves in order");
    put_eventually(&second, "b", "2").await;
    assert_eq!(value(&second, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_backup_that_shall_stop_leaves_the_view_first() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let second = Running::start(&view_service.name);
    view_service.in_sync(&first, &second).await;
    second.stop.cancel();
    second.ended().await.expect("it leaves in order");
    let left = view_service.view_where("a view without the backup", |v| v.backups.is_empty()).await;
    assert!(left.is_activated(), "the view was activated before the backup went");
    put_eventually(&first, "a", "2").await;
}

#[tokio::test]
async fn the_only_copy_goes_on_until_somebody_can_take_over() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    first.stop.cancel();
    first.stands("it to say that it is the only copy", |now| now.only_copy).await;
    put_eventually(&first, "b", "2").await;
    let second = Running::start(&view_service.name);
    first.ended().await.expect("it hands over as soon as it can");
    put_eventually(&second, "c", "3").await;
    for (key, expected) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(value(&second, key).await.as_deref(), Some(expected), "{key}");
    }
}

#[tokio::test]
async fn a_server_started_again_at_the_address_of_a_crashed_one_is_a_new_copy() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let second = Running::start(&view_service.name);
    let before = view_service.in_sync(&first, &second).await;
    let address = second.name.clone();
    drop(second);
    let listeners = eventually("the address to be free again", async || {
        kvprocess::listen::bind(&address, false).ok()
    })
    .await;
    let again = Running::start_on(listeners, &view_service.name);
    let after = view_service
        .view_where("the new life to be in sync", |view| {
            view.number > before.number && view.is_activated() && view.eligible.len() == 2
        })
        .await;
    assert_ne!(before.backups, after.backups, "another life, another member");
    drop(first);
    put_eventually(&again, "b", "2").await;
    assert_eq!(value(&again, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn reads_and_writes_with_two_copies_go_on_without_the_view_service() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let second = Running::start(&view_service.name);
    view_service.in_sync(&first, &second).await;
    view_service.task.abort();
    let gone = async || {
        let probe = kvprocess::dial::probe(&view_service.name, Duration::from_secs(1)).await;
        (probe == kvprocess::dial::Probe::Refused).then_some(())
    };
    eventually("the view service to be gone", gone).await;
    let mut client = first.client();
    assert!(client.put(put("a", "2")).await.unwrap().into_inner().ok);
    assert_eq!(value(&first, "a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_new_copy_is_brought_up_from_the_log_while_writes_go_on() {
    let view_service = ViewService::start().await;
    let first = Running::start(&view_service.name);
    put_eventually(&first, "a", "1").await;
    let mut client = first.client();
    for n in 0..20 {
        let key = format!("large{n:02}").into();
        let value = vec![n; 256 << 10].into();
        client.put(PutRequest { key, value }).await.unwrap();
    }
    let second = Running::start(&view_service.name);
    let writing = async {
        loop {
            client.put(put("a", "2")).await.expect("writes go on");
        }
    };
    let synced = async {
        view_service.in_sync(&first, &second).await;
    };
    tokio::select! {
        () = synced => {}
        () = writing => {}
    }
    // The last write may still be on its way: both sides are asked again.
    eventually("the copies to agree", async || {
        let (pairs, primary) = dump(&first).await?;
        let (copied, copy) = dump(&second).await?;
        (pairs.len() == 21 && copied == pairs && copy.digest == primary.digest).then_some(())
    })
    .await;
    drop(first);
    put_eventually(&second, "a", "3").await;
}

/// Keeps no log for newcomers, so that only the whole state brings one up.
fn without_log(config: &mut Config) {
    config.tuning.retain_bytes = 0;
}

/// Waits until both servers hold the same data and sessions, this many keys of it.
async fn agree(first: &Running, second: &Running, keys: usize) {
    eventually("the copies to agree", async || {
        let (pairs, primary) = dump(first).await?;
        let (copied, copy) = dump(second).await?;
        let same = copied == pairs && copy.digest == primary.digest;
        (same && pairs.len() == keys && copy.op_number == primary.op_number).then_some(())
    })
    .await;
}

async fn open_session(server: &Running) -> SessionId {
    let answer =
        server.client().execute(execute(Command::OpenSession, None)).await.expect("it leads");
    match Reply::try_from(answer.into_inner()) {
        Ok(Reply::Done { outcome: Outcome::SessionOpened(session), .. }) => session,
        other => panic!("a session is opened, not {other:?}"),
    }
}

#[tokio::test]
async fn a_full_transfer_brings_every_key_and_session_to_a_new_copy() {
    let view_service = ViewService::start().await;
    let first = Running::start_with(&view_service.name, |config| {
        without_log(config);
        config.tuning.chunk_bytes = 256;
    });
    put_eventually(&first, "a", "1").await;
    let session = open_session(&first).await;
    let once = |value: &'static str| {
        let change = Change { key: "once".into(), action: Action::Append(value.into()) };
        let id = RequestId { session, number: RequestNumber(1), first_open: RequestNumber(1) };
        let operation =
            ExecuteOperation::Command { id: Some(id), command: Command::Change(change) };
        ExecuteRequest::from(Execute { cluster: None, operation })
    };
    let answer = first.client().execute(once("x")).await.unwrap().into_inner();
    let mut client = first.client();
    for n in 0..100 {
        let key = format!("key{n:02}").into();
        client.put(PutRequest { key, value: "some value".into() }).await.unwrap();
    }
    let second = Running::start_with(&view_service.name, without_log);
    view_service.in_sync(&first, &second).await;
    agree(&first, &second, 102).await;
    drop(first);
    put_eventually(&second, "a", "2").await;
    let again = second.client().execute(once("x")).await.unwrap().into_inner();
    assert_eq!(again.result, answer.result, "the same answer from the new primary");
    assert_eq!(value(&second, "once").await.as_deref(), Some("x"), "applied once");
}

#[tokio::test]
async fn a_full_transfer_of_many_chunks_goes_on_while_the_keys_change() {
    let view_service = ViewService::start().await;
    let first = Running::start_with(&view_service.name, without_log);
    put_eventually(&first, "a", "1").await;
    let mut client = first.client();
    // Some values are larger than a chunk, some chunks hold many; together far more than are in
    // flight at once.
    for n in 0..48 {
        let key = format!("large{n:02}").into();
        let size = if n % 8 == 0 { 2 << 20 } else { 200 << 10 };
        client.put(PutRequest { key, value: vec![n; size].into() }).await.unwrap();
    }
    let second = Running::start_with(&view_service.name, without_log);
    let writing = async {
        for n in (0..48).cycle() {
            let key = format!("large{n:02}").into();
            let value = vec![n; 1000].into();
            client.put(PutRequest { key, value }).await.expect("writes go on");
        }
    };
    let synced = async {
        view_service.in_sync(&first, &second).await;
    };
    tokio::select! {
        () = synced => {}
        () = writing => {}
    }
    agree(&first, &second, 49).await;
    drop(first);
    put_eventually(&second, "a", "2").await;
}
