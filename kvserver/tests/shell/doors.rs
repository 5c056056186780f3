//! The doors of a server that is the only copy: what each call answers, and what no caller can do
//! to another.

use std::time::Duration;

use bytes::Bytes;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::pb::kvserver::{self as pb, dump_response};
use kvproto::pb::legacy::kv_server_client::KvServerClient as LegacyClient;
use kvproto::snapshot::Verifier;
use kvproto::status::{Attempt, from_status};
use kvproto::wire::{Frame, FrameReader, GREETING};
use kvproto::{
    Action, Change, ClusterId, Command, Expect, NotDone, Outcome, Refusal, Reply, Settings,
};
use kvserver::Config;
use kvserver::memory::Shares;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{PATIENCE, Running, eventually, execute, execute_get, execute_put, get, put};
use crate::scripted::{Alone, CLUSTER, activated, alone, alone_with, proposed};

#[tokio::test]
async fn the_lab_calls_put_get_and_name_a_missing_key() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    assert!(client.put(put("a", "1")).await.unwrap().into_inner().ok);
    let found = client.get(get("a")).await.unwrap().into_inner();
    assert_eq!((found.ok, &found.value[..], found.error.as_str()), (true, &b"1"[..], ""));
    let missing = client.get(get("b")).await.unwrap().into_inner();
    assert_eq!((missing.ok, missing.error.as_str()), (false, "ErrNoKey"));
}

#[tokio::test]
async fn execute_answers_with_the_op_and_sees_what_the_lab_calls_wrote() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    let written = client.execute(execute_put("a", "1")).await.unwrap().into_inner();
    let Ok(Reply::Done { at: written_at, .. }) = Reply::try_from(written) else {
        panic!("a put is done");
    };
    client.put(put("b", "2")).await.unwrap();
    let read = client.execute(execute_get(&["a", "b", "c"])).await.unwrap().into_inner();
    let Ok(Reply::Records { at, records }) = Reply::try_from(read) else {
        panic!("a read answers with records");
    };
    assert!(at > written_at, "the read reflects both puts");
    let values: Vec<_> = records.into_iter().map(|record| record.map(|r| r.value)).collect();
    assert_eq!(values, [Some(Bytes::from("1")), Some(Bytes::from("2")), None]);
}

#[tokio::test]
async fn the_older_package_name_reaches_the_same_store() {
    let Alone { server, .. } = alone().await;
    let mut older = LegacyClient::new(server.channel());
    assert!(older.put(put("a", "1")).await.unwrap().into_inner().ok);
    let found = server.client().get(get("a")).await.unwrap().into_inner();
    assert_eq!(&found.value[..], b"1");
    let found = older.get(get("first")).await.unwrap().into_inner();
    assert_eq!(&found.value[..], b"put");
}

#[tokio::test]
async fn calls_between_servers_of_the_older_program_are_unimplemented() {
    let Alone { server, .. } = alone().await;
    for path in ["/proto.KVServer/ForwardUpdate", "/proto.KVServer/SyncState"] {
        let mut caller = tonic::client::Grpc::new(server.channel());
        caller.ready().await.expect("the server is there");
        let codec = tonic_prost::ProstCodec::<pb::PutRequest, pb::PutResponse>::default();
        let answer = caller.unary(Request::new(put("a", "1")), path.parse().unwrap(), codec).await;
        assert_eq!(answer.expect_err("nobody serves it").code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn an_oversized_value_is_refused_by_name_of_the_limit_and_others_go_on() {
    let Alone { server, .. } = alone().await;
    let change = Change {
        key: Bytes::from_static(b"big"),
        action: Action::Put(vec![0; (8 << 20) + 1].into()),
    };
    let mut client = server.client();
    let (refused, other) =
        tokio::join!(client.execute(execute(Command::Change(change.clone()), None)), async {
            server.client().put(put("small", "1")).await
        });
    let refused = refused.expect_err("the value is too large");
    assert!(refused.message().contains("--value-size-max"), "{}", refused.message());
    assert!(matches!(from_status(&refused), Attempt::NotDone(NotDone::Invalid(_))));
    assert!(other.unwrap().into_inner().ok);
    let lab = pb::PutRequest { key: change.key, value: vec![0; 66 << 20].into() };
    let refused = server.client().put(lab).await.expect_err("more than any message may have");
    assert_ne!(refused.code(), Code::Ok);
    assert!(server.client().put(put("small", "2")).await.unwrap().into_inner().ok);
}

/// A server used to gather up to 65 MiB per call before it looked at the limits of its cluster.
#[tokio::test]
async fn a_message_larger_than_any_op_of_the_cluster_is_not_even_read() {
    let Alone { server, .. } = alone().await;
    let large =
        |mib: usize| pb::PutRequest { key: "large".into(), value: vec![0; mib << 20].into() };
    let refused = server.client().put(large(18)).await.expect_err("an op has 16 MiB at most");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(matches!(from_status(&refused), Attempt::NotDone(NotDone::Invalid(_))));
    let mut older = LegacyClient::new(server.channel());
    let refused = older.put(large(18)).await.expect_err("by the older name neither");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(server.client().put(put("small", "1")).await.unwrap().into_inner().ok);
}

#[tokio::test]
async fn a_cluster_that_allows_larger_ops_takes_larger_messages() {
    let settings =
        Settings { value_size_max: 32 << 20, op_size_max: 40 << 20, ..Settings::default() };
    let Alone { server, .. } = alone_with(settings, |_| {}).await;
    let large = pb::PutRequest { key: "large".into(), value: vec![0; 30 << 20].into() };
    assert!(server.client().put(large).await.unwrap().into_inner().ok);
}

/// Appends made a value that no read could answer, and a condition on it ended as unknown.
#[tokio::test]
async fn with_little_memory_too_what_was_stored_can_be_read() {
    let little = |config: &mut Config| config.calls = Shares::of(64 << 20).calls;
    let Alone { server, .. } = alone_with(Settings::default(), little).await;
    let mut client = server.client().max_decoding_message_size(MESSAGE_SIZE_MAX);
    let change = |action| Command::Change(Change { key: Bytes::from_static(b"log"), action });
    let piece = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..6 {
        let append = execute(change(Action::Append(piece.clone())), None);
        client.execute(append).await.expect("a MiB fits");
    }
    let read = client.get(get("log")).await.expect("nobody else asks").into_inner();
    assert_eq!(read.value.len(), 6 << 20);
    let swap = Action::CompareAndSet { expect: Expect::Missing, new_value: Some(piece) };
    let met = client.execute(execute(change(swap), None)).await.expect("it is answered");
    let Ok(Reply::Done { outcome: Outcome::Refused(refusal), .. }) = met.into_inner().try_into()
    else {
        panic!("the condition does not hold");
    };
    let Refusal::ConditionFailed { record: Some(record), .. } = refusal else {
        panic!("not {refusal:?}");
    };
    assert_eq!(record.value.len(), 6 << 20);
    let twice = client.execute(execute_get(&["log", "log"])).await.expect_err("smaller ones do");
    assert!(twice.message().contains("ask for fewer keys"), "{twice}");
}

#[tokio::test]
async fn a_malformed_request_is_refused_as_certainly_not_done() {
    let Alone { server, .. } = alone().await;
    let empty = pb::ExecuteRequest::default();
    let refused = server.client().execute(empty).await.expect_err("it asks for nothing");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let reserved = execute(Command::Barrier(Default::default()), None);
    let refused = server.client().execute(reserved).await.expect_err("not for clients");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_meant_for_another_cluster_is_refused() {
    let Alone { server, .. } = alone().await;
    let command = Command::OpenSession;
    let other = execute(command.clone(), Some(ClusterId([1; 16])));
    let refused = server.client().execute(other).await.expect_err("the wrong cluster");
    assert_eq!(from_status(&refused), Attempt::NotDone(NotDone::WrongCluster(CLUSTER)));
    let own = execute(command, Some(CLUSTER));
    server.client().execute(own).await.expect("the right cluster");
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    client.put(put("a", "0")).await.unwrap();
    let lines: [&[u8]; 4] =
        [b"SET a 1\r\n", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM"];
    let mut left_open = Vec::new();
    for garbage in lines {
        let mut connection = TcpStream::connect(&server.name).await.unwrap();
        // The server may have hung up in the middle.
        let _ = connection.write_all(garbage).await;
        let _ = connection.write_all(&[0; 1024]).await;
        left_open.push(connection);
    }
    assert!(client.put(put("a", "1")).await.unwrap().into_inner().ok);
    assert!(server.client().put(put("a", "2")).await.unwrap().into_inner().ok);
    let mut rest = Vec::new();
    let hung_up = timeout(PATIENCE, left_open[2].read_to_end(&mut rest)).await;
    assert!(hung_up.is_ok(), "a connection that speaks no HTTP/2 is closed");
}

/// What the server says on a connection of copies on which these bytes come after the greeting.
async fn told_to_a_copy(server: &Running, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(&server.name).await.expect("it listens");
    connection.write_all(&[&GREETING, bytes].concat()).await.expect("it reads");
    let mut said = Vec::new();
    let closed = timeout(PATIENCE, connection.read_to_end(&mut said)).await;
    closed.expect("the connection is closed").expect("in order");
    let frames = said.strip_prefix(&GREETING).expect("greeted first");
    let mut reader = FrameReader::default();
    reader.room().extend_from_slice(frames);
    loop {
        match reader.next(MESSAGE_SIZE_MAX).expect("well formed") {
            Some(Frame::Refused(reason)) => return reason,
            Some(_) => {}
            None => return String::new(),
        }
    }
}

#[tokio::test]
async fn a_malformed_replication_stream_is_closed_with_a_reason_and_hurts_no_client() {
    let Alone { server, .. } = alone().await;
    for (bytes, reason) in [
        (&[1, 0, 0, 0, 0][..], "a message has no sender"),
        (&[1, 2, 0, 0, 0, 0xff, 0xff], "a frame holds no message"),
        (&[9, 0, 0, 0, 0], "a frame is of no known kind"),
        (&[1, 0xff, 0xff, 0xff, 0xff], "a frame is longer than allowed here"),
    ] {
        let said = told_to_a_copy(&server, bytes).await;
        assert!(said.contains(reason), "{bytes:?}: {said}");
    }
    let mut copy = TcpStream::connect(&server.name).await.unwrap();
    copy.write_all(b"\0another protocol").await.unwrap();
    let closed = timeout(PATIENCE, copy.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "closed at the first word");
    assert!(server.client().put(put("a", "1")).await.unwrap().into_inner().ok);
}

#[tokio::test]
async fn health_says_whether_the_server_is_up_and_whether_it_is_the_primary() {
    let Alone { server, mut stream, view_service: _stays, .. } = alone().await;
    let check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(server.channel()).check(request).await;
        answer.expect("health answers").into_inner().status()
    };
    assert_eq!(check("").await, ServingStatus::Serving);
    assert_eq!(check("kvserver.KVServer").await, ServingStatus::Serving);
    let mut elsewhere = stream.member(2);
    elsewhere.name = "localhost:1".into();
    stream.push(&proposed(2, &elsewhere, &[])).await;
    stream.ping_with(|progress| progress.view.number.0 == 2).await;
    eventually("health to follow the view", async || {
        (check("kvserver.KVServer").await == ServingStatus::NotServing).then_some(())
    })
    .await;
    assert_eq!(check("").await, ServingStatus::Serving);
}

#[tokio::test]
async fn a_dump_shows_one_moment_while_writes_go_on() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    let value = "x".repeat(10_000);
    for n in 0..200 {
        let key = Bytes::from(format!("key{n:04}"));
        let value = value.clone().into();
        client.put(pb::PutRequest { key, value }).await.unwrap();
    }
    let mut dump = client.dump(pb::DumpRequest {}).await.unwrap().into_inner();
    let first = dump.message().await.unwrap().expect("a record");
    for n in 0..200 {
        let key = Bytes::from(format!("key{n:04}"));
        client.put(pb::PutRequest { key, value: "new".into() }).await.unwrap();
    }
    let mut keys = Vec::new();
    let mut message = Some(first);
    let summary = loop {
        match message.expect("a summary comes last").body.expect("a dump says something") {
            dump_response::Body::Record(record) => {
                let value = record.record.expect("a record has a value").value;
                assert_ne!(&value[..], b"new", "written after the dump began");
                keys.push(record.key);
            }
            dump_response::Body::Summary(summary) => break summary,
        }
        message = dump.message().await.unwrap();
    };
    assert!(keys.is_sorted());
    assert_eq!((summary.count, keys.len()), (201, 201));
    assert_eq!(summary.role, "primary");
}

#[tokio::test]
async fn a_snapshot_is_a_sound_file_of_one_moment_with_the_sessions_in_it() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    let value = "x".repeat(10_000);
    client.execute(execute(Command::OpenSession, None)).await.unwrap();
    for n in 0..200 {
        let key = Bytes::from(format!("key{n:04}"));
        let value = value.clone().into();
        client.put(pb::PutRequest { key, value }).await.unwrap();
    }
    let mut pieces = client.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut verifier = Verifier::default();
    verifier.push(pieces.message().await.unwrap().expect("a head").piece).unwrap();
    for n in 0..200 {
        let key = Bytes::from(format!("key{n:04}"));
        client.put(pb::PutRequest { key, value: "new".into() }).await.unwrap();
    }
    while let Some(message) = pieces.message().await.unwrap() {
        verifier.push(message.piece).unwrap();
    }
    let verified = verifier.finish().expect("the whole file");
    assert_eq!((verified.counts.keys, verified.counts.sessions), (201, 1));
    assert!(verified.counts.bytes > 2_000_000, "as it was before the later writes");
    assert!(!verified.end.epochs.is_empty() && !verified.head.cluster.is_none());
}

/// A dump gave its place up when the node had no more to say, while all of it still lay in queues:
/// any number of slow readers held a whole store each.
#[tokio::test]
async fn a_dump_that_nobody_reads_keeps_its_place_until_it_is_dropped() {
    let Alone { server, .. } = alone().await;
    let mut client = server.client();
    // Twice as much as a stream carries unread.
    for n in 0..10 {
        let key = Bytes::from(format!("key{n}"));
        client.put(pb::PutRequest { key, value: vec![b'x'; 900 << 10].into() }).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut dump = server.client().dump(pb::DumpRequest {}).await.unwrap().into_inner();
        dump.message().await.unwrap().expect("a record");
        held.push(dump);
    }
    let whole = async || {
        let mut dump = server.client().dump(pb::DumpRequest {}).await?.into_inner();
        let mut count = 0;
        while dump.message().await?.is_some() {
            count += 1;
        }
        Ok::<_, Status>(count)
    };
    // Long enough for every dump to have been handed out, were there queues for all of it.
    for _ in 0..50 {
        server.client().put(put("a", "1")).await.unwrap();
        let refused = whole().await.expect_err("all places are taken");
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    held.pop();
    let count = eventually("a place to become free", async || whole().await.ok()).await;
    assert!(count > 10, "a whole dump, not {count} messages");
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_ends() {
    let Alone { server, mut stream, view_service: _stays, .. } = alone().await;
    // A backup that nobody can reach holds every write up.
    let mut nobody = stream.member(2);
    nobody.name = "localhost:1".into();
    let me = stream.member(1);
    let mut view = activated(&proposed(1, &me, &[]), &[&me, &nobody]);
    view.number.0 = 2;
    view.revision.0 = 99;
    view.backups = vec![nobody];
    stream.push(&view).await;
    stream.ping_with(|progress| progress.view.number.0 == 2).await;
    let mut request = Request::new(execute_put("a", "1"));
    request.set_timeout(Duration::from_millis(50));
    let ended = timeout(PATIENCE, server.client().execute(request)).await.expect("it ends");
    assert_ne!(ended.expect_err("nobody acknowledged it").code(), Code::Ok);
}
