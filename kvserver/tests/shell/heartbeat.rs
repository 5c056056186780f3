//! How a server takes part in a cluster whose view service says what the test says.

use kvproto::registration::{RefusedReason, Wish};
use kvproto::status::{Attempt, from_status};
use kvproto::{NotDone, ServerName, ViewNumber};

use crate::common::{Running, execute_put, get, put, put_eventually};
use crate::scripted::{Alone, CLUSTER, Scripted, activated, alone, no_view, proposed};

#[tokio::test]
async fn before_it_is_registered_a_server_refuses_everything_as_certainly_not_done() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let _unanswered = view_service.next().await;
    let answer = server.client().put(put("a", "1")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, answer.error.as_str()), (false, "ErrNotPrimary"));
    let answer = server.client().get(get("a")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, answer.error.as_str()), (false, "ErrNotPrimary"));
}

#[tokio::test]
async fn a_server_adopts_the_views_that_are_pushed_and_says_so_in_its_pings() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let mut stream = view_service.next().await;
    assert_eq!((stream.incarnation, stream.cluster), (None, None));
    assert_eq!(stream.server.as_str(), server.name);
    stream.register(1, &no_view()).await;
    let me = stream.member(1);
    let view = proposed(1, &me, &[]);
    stream.push(&view).await;
    stream.wish_with(|wish| matches!(wish, Wish::Activate { .. })).await;
    stream.push(&activated(&view, &[&me])).await;
    put_eventually(&server, "a", "1").await;
    let mut elsewhere = stream.member(2);
    elsewhere.name = ServerName::from("localhost:1");
    stream.push(&proposed(2, &elsewhere, &[])).await;
    stream.ping_with(|progress| progress.view.number == ViewNumber(2)).await;
    let answer = server.client().put(put("a", "2")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, answer.error.as_str()), (false, "ErrNotPrimary"));
}

#[tokio::test]
async fn a_broken_stream_is_resumed_as_the_same_life_of_the_same_cluster() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let stream = view_service.next().await;
    stream.register(5, &no_view()).await;
    let me = stream.member(5);
    drop(stream);
    let mut stream = view_service.next().await;
    assert_eq!(stream.incarnation, Some(me.incarnation));
    assert_eq!(stream.cluster, Some(CLUSTER));
    // The record that comes with the resumption counts like a pushed one.
    let view = proposed(1, &me, &[]);
    stream.register(5, &view).await;
    stream.wish_with(|wish| matches!(wish, Wish::Activate { .. })).await;
    stream.push(&activated(&view, &[&me])).await;
    put_eventually(&server, "a", "1").await;
}

#[tokio::test]
async fn the_data_is_served_while_the_view_service_is_away() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let mut stream = view_service.next().await;
    stream.register(1, &no_view()).await;
    let me = stream.member(1);
    let view = proposed(1, &me, &[]);
    stream.push(&view).await;
    stream.wish_with(|wish| matches!(wish, Wish::Activate { .. })).await;
    stream.push(&activated(&view, &[&me])).await;
    put_eventually(&server, "a", "1").await;
    drop((stream, view_service));
    put_eventually(&server, "a", "2").await;
    let answer = server.client().get(get("a")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, &answer.value[..]), (true, &b"2"[..]));
}

/// Whoever restarted the view service made every server exit, and all data was lost with them: the
/// new one, which knew no cluster, called all of them strangers.
#[tokio::test]
async fn a_view_service_that_has_lost_its_state_does_not_take_the_data_with_it() {
    let Alone { server, stream, mut view_service, view } = alone().await;
    let mut client = server.client();
    drop(stream);
    for reason in
        [RefusedReason::WrongCluster, RefusedReason::WrongKind, RefusedReason::Incompatible]
    {
        let stream = view_service.next().await;
        assert_eq!(stream.cluster, Some(CLUSTER), "it asks to be taken back");
        stream.refuse(reason, "I was born yesterday").await;
        assert!(client.put(put("a", "1")).await.unwrap().into_inner().ok, "{reason:?}");
    }
    // The refusals were heard: it asks once more. And should the right one come back, all is well.
    let mut stream = view_service.next().await;
    stream.register(1, &view).await;
    stream.ping_with(|_| true).await;
    assert!(client.put(put("a", "2")).await.unwrap().into_inner().ok);
    let answer = client.get(get("first")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, &answer.value[..]), (true, &b"put"[..]));
}

/// VIEW-8: a view service that was put back to an older state ended the only copy by its word.
#[tokio::test]
async fn a_living_server_shows_what_it_knows_and_serves_on_in_doubt() {
    let Alone { server, stream, mut view_service, view } = alone().await;
    let mut client = server.client();
    drop(stream);
    for _ in 0..3 {
        let stream = view_service.next().await;
        assert_eq!(stream.shown.as_deref(), Some(&view), "the newest record that it has");
        stream.refuse(RefusedReason::Doubt, "somebody showed what I do not know").await;
        assert!(client.put(put("a", "1")).await.unwrap().into_inner().ok);
    }
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn a_living_server_of_a_past_that_was_given_up_serves_nothing_and_keeps_what_it_holds() {
    let Alone { server, stream, mut view_service, .. } = alone().await;
    let mut client = server.client();
    drop(stream);
    for _ in 0..3 {
        let stream = view_service.next().await;
        stream.refuse(RefusedReason::OtherPast, "generation 2 began without it").await;
    }
    let answer = client.put(put("a", "1")).await.expect("an answer").into_inner();
    assert_eq!((answer.ok, answer.error.as_str()), (false, "ErrNotPrimary"));
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn a_name_in_use_is_asked_for_again_until_it_is_free() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    for _ in 0..3 {
        let stream = view_service.next().await;
        assert_eq!(stream.incarnation, None);
        stream.refuse(RefusedReason::NameInUse, "the older process is still alive").await;
    }
    let mut stream = view_service.next().await;
    stream.register(2, &no_view()).await;
    stream.ping_with(|_| true).await;
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_server_with_what_to_do_about_it() {
    for reason in [
        RefusedReason::WrongCluster,
        RefusedReason::StaleIncarnation,
        RefusedReason::WrongKind,
        RefusedReason::Incompatible,
    ] {
        let mut view_service = Scripted::start();
        let server = Running::start(&view_service.name);
        let stream = view_service.next().await;
        stream.refuse(reason, "this is what to do").await;
        let cause = server.ended().await.expect_err("it cannot go on").to_string();
        assert!(cause.contains("this is what to do"), "{reason:?}: {cause}");
    }
}

#[tokio::test]
async fn a_life_that_a_newer_one_has_replaced_ends() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let stream = view_service.next().await;
    stream.register(1, &no_view()).await;
    stream.refuse(RefusedReason::StaleIncarnation, "a newer process has this name").await;
    let cause = server.ended().await.expect_err("it must stop").to_string();
    assert!(cause.contains("a newer process has this name"), "{cause}");
}

#[tokio::test]
async fn a_refused_request_names_the_primary() {
    let mut view_service = Scripted::start();
    let server = Running::start(&view_service.name);
    let mut stream = view_service.next().await;
    let mut primary = stream.member(9);
    primary.name = ServerName::from("localhost:1");
    stream.register(1, &activated(&proposed(1, &primary, &[]), &[&primary])).await;
    stream.ping_with(|_| true).await;
    let request = execute_put("a", "1");
    let status = server.client().execute(request).await.expect_err("it is no primary");
    let expected = NotDone::NotPrimary { primary: Some(primary.name), view: ViewNumber(1) };
    assert_eq!(from_status(&status), Attempt::NotDone(expected));
}
