//! How a server leaves when it is asked to stop, and when it rather stays.

use std::time::Duration;

use kvproto::ServerName;
use kvproto::registration::{ToServer, Wish};

use crate::common::{Running, get, put, put_eventually};
use crate::scripted::{Alone, Scripted, activated, alone, alone_with, no_view};

#[tokio::test]
async fn a_spare_that_shall_stop_stops_in_order() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let mut stream = view_service.next().await;
    stream.register(1, &no_view()).await;
    stream.ping_with(|_| true).await;
    server.stop.cancel();
    server.ended().await.expect("it leaves in order");
}

#[tokio::test]
async fn a_server_that_was_never_registered_stops_at_once() {
    let server = Running::start("localhost:1");
    server.stop.cancel();
    server.ended().await.expect("nobody counts on it");
}

#[tokio::test]
async fn the_only_copy_serves_on_when_nobody_could_take_over() {
    let Alone { server, mut stream, view_service: _stays, .. } = alone().await;
    server.stop.cancel();
    stream.wish_with(|wish| *wish == Wish::Leave).await;
    stream.say(ToServer::NobodyToTakeOver).await;
    server.stands("it to say that it is the only copy", |now| now.only_copy).await;
    assert!(server.client().put(put("a", "1")).await.unwrap().into_inner().ok);
}

/// One SIGTERM destroyed the only copy when the view service was away: nobody was there to say that
/// nobody could take over, and the time to leave ran out.
#[tokio::test]
async fn the_only_copy_serves_on_when_the_view_service_does_not_answer() {
    let settings = kvproto::Settings::default();
    let brief = |config: &mut kvserver::Config| config.leave_within = Duration::from_millis(100);
    let Alone { server, stream, view_service, .. } = alone_with(settings, brief).await;
    drop((stream, view_service));
    server.stop.cancel();
    server.stands("it to say that it is the only copy", |now| now.only_copy).await;
    assert!(server.client().put(put("a", "1")).await.unwrap().into_inner().ok);
    let answer = server.client().get(get("first")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, &answer.value[..]), (true, &b"put"[..]));
    assert!(!server.task.is_finished());
}

/// The only copy tried again when somebody seemed able to take over, and when that came to nothing
/// it refused writes for ever.
#[tokio::test]
async fn an_attempt_to_hand_over_that_comes_to_nothing_ends_and_writes_go_on() {
    let settings = kvproto::Settings::default();
    let brief = |config: &mut kvserver::Config| config.leave_within = Duration::from_millis(100);
    let Alone { server, mut stream, view, view_service: _stays } =
        alone_with(settings, brief).await;
    server.stop.cancel();
    stream.wish_with(|wish| *wish == Wish::Leave).await;
    stream.say(ToServer::NobodyToTakeOver).await;
    server.stands("it to say that it is the only copy", |now| now.only_copy).await;
    let me = stream.member(1);
    let mut other = stream.member(2);
    other.name = ServerName::from("localhost:1");
    let mut with_other = activated(&view, &[&me, &other]);
    with_other.number.0 = 2;
    with_other.backups = vec![other];
    stream.push(&with_other).await;
    stream.wish_with(|wish| *wish == Wish::Leave).await;
    // The other one is gone again before it could take over, and the wish stays without an answer.
    let mut alone_again = activated(&with_other, &[&me]);
    alone_again.number.0 = 3;
    alone_again.backups.clear();
    stream.push(&alone_again).await;
    put_eventually(&server, "a", "1").await;
    assert!(!server.task.is_finished());
}
