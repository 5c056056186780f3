//! What a request hears when the node is full, late or gone.

use std::time::Duration;

use kvproto::{Action, Change, Command};

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn put(size: usize) -> Operation {
    let change = Change { key: "key".into(), action: Action::Put(vec![0; size].into()) };
    Operation::Command { id: None, command: Command::Change(change) }
}

#[tokio::test]
async fn before_registration_a_request_is_certainly_not_done() {
    let (node, _inputs) = channel();
    let reply = node.execute(put(1), None, Instant::now() + LONG).await;
    assert!(matches!(reply, Reply::NotDone(NotDone::NotPrimary { primary: None, .. })));
}

#[tokio::test]
async fn a_request_in_front_of_a_full_queue_is_refused_at_once() {
    let (node, inputs) = channel();
    inputs.pretend_registered();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS_QUEUED_MAX {
        let node = node.clone();
        waiting.spawn(async move { node.execute(put(1), None, Instant::now() + LONG).await });
    }
    while node.requests.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    let reply = node.execute(put(1), None, Instant::now() + LONG).await;
    assert_eq!(reply, Reply::NotDone(NotDone::Overloaded));
}

#[tokio::test]
async fn a_request_that_the_node_took_and_never_answered_has_an_unknown_outcome() {
    let (node, mut inputs) = channel();
    inputs.pretend_registered();
    let asking = tokio::spawn({
        let node = node.clone();
        async move { node.execute(put(1), None, Instant::now() + LONG).await }
    });
    let asked = inputs.requests.recv().await.expect("the request arrives");
    drop(asked);
    assert_eq!(asking.await.unwrap(), Reply::Unknown);
}
