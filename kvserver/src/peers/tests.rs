//! Streams to other copies over real connections.

use kvproto::OpNumber;
use kvproto::message::Opened;
use kvproto::{ClusterId, Epoch, Generation, Incarnation, ServerName, ViewNumber};
use tokio::net::TcpListener;

use super::*;
use crate::node::{self, Inputs};

const PATIENCE: Duration = Duration::from_secs(30);

fn member(name: &str) -> Member {
    Member { name: ServerName::from(name), incarnation: Incarnation(1) }
}

fn message(to: &Member, stream: u64, body: Body) -> Message {
    let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
    Message {
        cluster: ClusterId([1; 16]),
        epoch,
        from: member("localhost:1"),
        to: to.clone(),
        stream: StreamNumber(stream),
        body,
    }
}

fn peers() -> (Peers, Inputs) {
    let (node, inputs) = node::channel();
    let peers = Peers::new(Handle::current(), node, Arc::default(), CancellationToken::new());
    (peers, inputs)
}

async fn next_event(inputs: &mut Inputs) -> Event {
    let event = timeout(PATIENCE, inputs.next_event()).await;
    event.expect("an event in time").expect("the peers live")
}

/// An address that accepts connections and then says nothing.
async fn silent() -> (TcpListener, Member) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let name = listener.local_addr().expect("it is bound").to_string();
    (listener, member(&name))
}

/// An address that refuses connections.
async fn nobody() -> Member {
    silent().await.1
}

fn broken(peer: &Member, stream: u64) -> Event {
    Event::StreamBroken { peer: peer.clone(), stream: StreamNumber(stream) }
}

#[tokio::test]
async fn a_stream_to_nobody_is_reported_broken_once() {
    let (mut peers, mut inputs) = peers();
    let first = nobody().await;
    peers.open(first.clone(), StreamNumber(1));
    peers.send(message(&first, 1, Body::Open { began: kvproto::History::default() }));
    assert_eq!(next_event(&mut inputs).await, broken(&first, 1));
    peers.send(message(&first, 1, Body::Open { began: kvproto::History::default() }));
    let second = nobody().await;
    peers.open(second.clone(), StreamNumber(1));
    assert_eq!(
        next_event(&mut inputs).await,
        broken(&second, 1),
        "nothing more was heard of the first stream"
    );
}

#[tokio::test]
async fn a_stream_that_was_closed_is_not_reported() {
    let (mut peers, mut inputs) = peers();
    let (_listener, closed) = silent().await;
    peers.open(closed.clone(), StreamNumber(1));
    peers.close(&closed, StreamNumber(1));
    let second = nobody().await;
    peers.open(second.clone(), StreamNumber(1));
    assert_eq!(next_event(&mut inputs).await, broken(&second, 1));
}

#[tokio::test]
async fn a_copy_that_takes_nothing_breaks_its_stream_and_holds_nobody_up() {
    let (mut peers, mut inputs) = peers();
    let (_listener, stuck) = silent().await;
    peers.open(stuck.clone(), StreamNumber(1));
    for _ in 0..=STREAM_QUEUED_MAX {
        peers.send(message(&stuck, 1, Body::Open { began: kvproto::History::default() }));
    }
    assert_eq!(next_event(&mut inputs).await, broken(&stuck, 1));
}

#[tokio::test]
async fn answers_go_back_on_the_stream_they_name_and_on_no_other() {
    let (mut peers, _inputs) = peers();
    let inbound = Arc::clone(&peers.inbound);
    let primary = member("localhost:1");
    let (way_back, mut answers) = mpsc::channel(1);
    let (other_way_back, mut other_answers) = mpsc::channel(1);
    let opening = |stream| {
        message(&member("localhost:2"), stream, Body::Open { began: kvproto::History::default() })
    };
    let loan = inbound.lend(&opening(1), way_back.clone()).expect("a new stream");
    let _other = inbound.lend(&opening(2), other_way_back).expect("a new stream");
    assert!(inbound.lend(&opening(1), way_back).is_none(), "opened once");
    let opened = Body::Opened(Opened {
        epochs: Vec::new(),
        last: OpNumber(0),
        committed: OpNumber(0),
        complete: true,
        recorded: kvproto::Revision(1),
    });
    // Who is fenced is answered in a newer epoch than that of its stream.
    let mut fenced = message(&primary, 1, opened.clone());
    fenced.epoch.primary_since = ViewNumber(2);
    peers.send(fenced);
    answers.recv().await.expect("an answer");
    assert!(other_answers.try_recv().is_err());
    // The second answer fills the way back, the third finds no room and ends the stream.
    peers.send(message(&primary, 1, opened.clone()));
    peers.send(message(&primary, 1, opened.clone()));
    timeout(PATIENCE, loan.overflowed()).await.expect("the stream is ended");
    drop(loan);
    peers.send(message(&primary, 1, opened));
    assert!(inbound.streams.len() == 1, "only the other stream is left");
}

#[tokio::test]
async fn messages_of_any_size_cross_a_connection_in_their_order_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let to = member(&listener.local_addr().expect("it is bound").to_string());
    let (here, there) = tokio::join!(link::connect(to.name.as_str()), async {
        let (stream, _) = listener.accept().await.expect("a connection");
        link::accept(stream).await
    });
    let sent: Vec<Message> = [0, 10, 5 << 20, 100_000, 1]
        .into_iter()
        .enumerate()
        .map(|(number, size)| {
            let records = vec![7; size].into();
            message(&to, 1, Body::TransferChunk { number: number as u64, records })
        })
        .collect();
    let mut ends = Vec::new();
    for (mut incoming, mut outgoing) in [here.expect("connected"), there.expect("accepted")] {
        let (queue, queued) = mpsc::channel(sent.len());
        sent.iter().for_each(|message| queue.try_send(message.clone()).expect("room"));
        tokio::spawn(async move { outgoing.carry(queued).await });
        // It listens all the time: so it hears what was confirmed.
        let (hears, heard) = mpsc::channel(sent.len());
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.next_message(MESSAGE_SIZE_MAX).await {
                hears.send(message).await.expect("somebody reads");
            }
        });
        ends.push((heard, queue));
    }
    for (heard, _) in &mut ends {
        for message in &sent {
            let next = timeout(PATIENCE, heard.recv()).await.expect("in time");
            assert_eq!(next.as_ref(), Some(message));
        }
    }
}

#[tokio::test]
async fn who_speaks_another_protocol_is_no_copy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let name = listener.local_addr().expect("it is bound").to_string();
    let (ended, _) = tokio::join!(link::connect(&name), async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400").await.expect("sent");
    });
    let cause = ended.err().expect("no connection").to_string();
    assert!(cause.contains("another protocol"), "{cause}");
}
