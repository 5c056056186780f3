//! Bad input is refused in words that say what to do, and well-behaved clients do not notice.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{PATIENCE, Running, check, put, running};
use bytes::{Buf, BufMut, Bytes};
use kvclient::ErrorKind;
use kvproto::pb::kvserver as pb;
use kvproto::wire::GREETING;
use pb::kv_server_client::KvServerClient;
use testclient::calls;
use testclient::cluster::{Options, program, wait_for};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

async fn one_server() -> Running {
    let cluster = running(Options::default(), 1).await;
    put(&cluster.client().await, "good", "1").await;
    cluster
}

async fn still_serves(cluster: &mut Running) {
    assert_eq!(cluster.ended_by_itself(), None);
    let client = cluster.client().await;
    check(&client, "good", "1").await;
    put(&client, "better", "2").await;
}

#[tokio::test]
async fn the_library_refuses_keys_and_values_outside_the_limits() {
    let mut cluster = one_server().await;
    let client = cluster.client().await;
    let large_key = "k".repeat((64 << 10) + 1);
    let large_value = "v".repeat((8 << 20) + 1);
    for (key, value, named) in [
        ("", "v", "must not be empty"),
        (&large_key, "v", "--key-size-max"),
        ("k", &large_value, "--value-size-max"),
    ] {
        let error = calls::put(&client, key, value).await.expect_err("refused");
        assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(named), "{error} should name {named}");
    }
    let error = calls::get(&client, "").await.expect_err("refused");
    assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
    // At the limits, and an empty value, all is well.
    put(&client, &"k".repeat(64 << 10), &"v".repeat(8 << 20)).await;
    put(&client, "empty", "").await;
    check(&client, "empty", "").await;
    // What would grow beyond the limit is refused by the op itself.
    put(&client, "full", &"v".repeat(8 << 20)).await;
    let error = calls::append(&client, "full", "v").await.expect_err("refused");
    assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
    still_serves(&mut cluster).await;
}

fn channel(address: &str) -> Channel {
    kvprocess::dial::channel(address).expect("an address")
}

fn change(key: &str, value: Vec<u8>) -> pb::ExecuteRequest {
    let action = pb::change::Action::Put(value.into());
    let change = pb::Change { key: Bytes::copy_from_slice(key.as_bytes()), action: Some(action) };
    let command = pb::command::Command::Change(change);
    pb::ExecuteRequest {
        operation: Some(pb::execute_request::Operation::Command(pb::Command {
            command: Some(command),
        })),
        ..pb::ExecuteRequest::default()
    }
}

#[tokio::test]
async fn a_server_refuses_what_the_library_would_never_send() {
    let mut cluster = one_server().await;
    let mut server =
        KvServerClient::new(channel(cluster.server_name(0))).max_encoding_message_size(usize::MAX);
    let barrier = pb::command::Command::Barrier(pb::Barrier::default());
    let cases = [
        ("no operation", pb::ExecuteRequest::default()),
        ("an empty key", change("", vec![1])),
        ("a large key", change(&"k".repeat((64 << 10) + 1), vec![1])),
        ("a large value", change("k", vec![0; (8 << 20) + 1])),
        (
            "a barrier",
            pb::ExecuteRequest {
                operation: Some(pb::execute_request::Operation::Command(pb::Command {
                    command: Some(barrier),
                })),
                ..pb::ExecuteRequest::default()
            },
        ),
    ];
    for (what, request) in cases {
        let status = server.execute(request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(!status.message().is_empty(), "{what}: no word of explanation");
    }
    let lab_put = pb::PutRequest::default();
    let status = server.put(lab_put).await.expect_err("an empty key through the lab's door");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn a_request_for_another_cluster_is_refused() {
    let mut cluster = one_server().await;
    let mut server = KvServerClient::new(channel(cluster.server_name(0)));
    let mut request = change("good", b"stranger".to_vec());
    request.cluster_id = Bytes::from_static(&[7; 16]);
    let status = server.execute(request).await.expect_err("another cluster's request");
    assert!(status.message().contains("cluster"), "{status}");
    still_serves(&mut cluster).await;
}

/// Sends bytes as they are, as the message of a gRPC call.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Calls a method with these bytes, reads its stream of answers to the end or first error, and
/// returns how many answers there were.
async fn call_raw(address: &str, path: &'static str, message: Bytes) -> Result<u32, Status> {
    let mut grpc = tonic::client::Grpc::new(channel(address));
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let request = Request::new(tokio_stream::iter([message]));
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    let mut count = 0;
    while answers.message().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test]
async fn bytes_that_are_no_message_are_answered_with_an_error() {
    let mut cluster = one_server().await;
    let not_protobuf = Bytes::from_static(&[0xff; 64]);
    // A length of four gigabytes, and nothing after it.
    let cut_short = Bytes::from_static(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x01]);
    let server = cluster.server_name(0).to_owned();
    let view_service = cluster.view_service_addr().to_owned();
    for message in [not_protobuf, cut_short] {
        for (address, path) in [
            (&server, "/kvserver.KVServer/Execute"),
            (&server, "/kvserver.KVServer/Put"),
            (&server, "/proto.KVServer/Get"),
            (&server, "/kvserver.KVServer/NoSuchMethod"),
            (&view_service, "/viewservice.ViewService/Ping"),
            (&view_service, "/viewservice.ViewService/Force"),
            (&view_service, "/proto.ViewService/Ping"),
        ] {
            let call = call_raw(address, path, message.clone());
            let answer = tokio::time::timeout(PATIENCE, call).await.expect(path);
            answer.expect_err(path);
        }
        // A registration is refused in words, which is an answer.
        let attend = "/viewservice.Registration/Attend";
        let call = call_raw(&view_service, attend, message.clone());
        let answers = tokio::time::timeout(PATIENCE, call).await.expect(attend);
        assert_eq!(answers.expect(attend), 1);
    }
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn empty_messages_to_the_view_service_change_nothing() {
    let mut cluster = one_server().await;
    let view_service = cluster.view_service_addr().to_owned();
    // Refused or passed over, but answered.
    let call = call_raw(&view_service, "/viewservice.Registration/Attend", Bytes::new());
    let _ = tokio::time::timeout(PATIENCE, call).await.expect("an answer");
    still_serves(&mut cluster).await;
}

#[tokio::test]
async fn connections_that_do_not_speak_grpc_do_no_harm() {
    let mut cluster = one_server().await;
    let mut held = Vec::new();
    for address in [cluster.server_name(0), cluster.view_service_addr()] {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\0\0\0\0\0\0\0\0",
            // An HTTP/2 preface with a frame of the largest length.
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\0\0\0\0\0",
            // What copies say to each other, cut short and broken off.
            &GREETING[..4],
            &GREETING,
            &[&GREETING[..], b"\x01\xff\xff\0\0garbage"].concat(),
        ] {
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.write_all(bytes).expect("write");
            held.push(stream);
        }
        // Says nothing at all.
        held.push(TcpStream::connect(address).expect("connect"));
    }
    still_serves(&mut cluster).await;
}

/// Runs a program that is expected to end by itself, and returns its exit code and stderr.
async fn run(name: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(program(name).expect("it is built"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run it");
    let ended = wait_for("it to end", Duration::from_secs(20), async || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    let ended = ended.await;
    if ended.is_err() {
        child.kill().expect("end it");
    }
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    let status = ended.unwrap_or_else(|error| panic!("{name} {args:?}: {error}\n{said}"));
    (status.code(), said)
}

#[tokio::test]
async fn wrong_flags_end_with_code_2_and_name_flag_and_rule() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("viewservice", &["--nonsense"], &["--nonsense"]),
        ("kvserver", &["--nonsense"], &["--nonsense"]),
        ("testclient", &["bench", "--read-ratio", "2"], &["--read-ratio", "0 to 1"]),
        ("testclient", &["--interval", "soon"], &["--interval"]),
        (
            "viewservice",
            &["--addr", "127.0.0.1:0", "--ping-interval", "500ms", "--dead-after", "1s"],
            &["--dead-after", "--ping-interval", "three times"],
        ),
        (
            "viewservice",
            &["--addr", "127.0.0.1:0", "--copies", "2", "--min-copies", "3"],
            &["--min-copies", "--copies"],
        ),
        ("viewservice", &["--ping-interval", "fast"], &["--ping-interval"]),
    ];
    for (name, args, named) in cases {
        let (code, said) = run(name, args).await;
        assert_eq!(code, Some(2), "{name} {args:?}: {said}");
        for word in *named {
            assert!(said.contains(word), "{name} {args:?} should name {word}: {said}");
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line_that_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for name in ["viewservice", "kvserver"] {
        let (code, said) = run(name, &["--addr", &address]).await;
        assert_eq!(code, Some(1), "{name}: {said}");
        let line = said.lines().find(|line| line.contains(&address) && line.contains("--addr"));
        assert!(line.is_some(), "{name} should name --addr and {address}: {said}");
    }
    let port = taken.local_addr().expect("its address").port().to_string();
    let dir = tempfile::tempdir().expect("a folder");
    let logs = dir.path().to_str().expect("text");
    let args = ["cluster", "--first-port", &port, "--log-dir", logs];
    let (code, said) = run("testclient", &args).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&port) && said.contains("--first-port"), "{said}");
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_a_word_of_consent() {
    for name in ["viewservice", "kvserver"] {
        let (code, said) = run(name, &["--addr", "0.0.0.0:0"]).await;
        assert_ne!(code, Some(0), "{name}: {said}");
        assert!(
            said.contains("--insecure") || said.contains("--advertise"),
            "{name} should say what is needed: {said}"
        );
    }
}
