//! Bringing newcomers up, by the log or by a full transfer.

use super::*;
use crate::replica::progress::Sent;

/// A primary with data and a log too short to bring anyone up.
fn primary_with_data() -> World {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 2;
    let mut world = world.formed(a(), &[]);
    for n in 0..50 {
        world.put(&a(), &format!("k{n:02}"), "old");
    }
    world.settle();
    world.start(b());
    world
}

fn synced(world: &World, who: &Member) -> bool {
    world.view.eligible.contains(who)
}

#[test]
fn a_newcomer_gets_the_log_when_it_reaches_back_far_enough() {
    let mut world = World::with(a(), &[]);
    world.put(&a(), "k", "v");
    world.start(b());
    world.propose(a(), &[b()]);
    world.run(ms(100));
    assert!(synced(&world, &b()));
    assert!(!world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })));
    assert!(world.noticed(|notice| matches!(
        notice,
        Notice::CopySynced { sent: Sent { transfer: None, entries }, .. } if entries.bytes == 2
    )));
    world.run(ms(100));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
}

/// S2 (c): writes that came during a transfer were acknowledged before they were applied, lost when
/// the primary died, and invisible to reads until then.
#[test]
fn s2_c_a_write_during_a_transfer_is_visible_and_travels() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    let mut writes = Vec::new();
    for n in 0..2000 {
        if n % 10 == 0 {
            let write = world.put(&a(), &format!("k{:02}", n / 10 % 50), &format!("new{n}"));
            writes.push((n, write));
        }
        if let Some(message) = world.wire.pop_front() {
            world.deliver(message);
        }
    }
    world.run(ms(300));
    assert!(world.noticed(|notice| matches!(notice, Notice::TransferReceived { .. })));
    assert!(synced(&world, &b()));
    for (n, write) in &writes {
        assert!(world.is_done(*write), "write {n} is acknowledged");
    }
    let read = world.get(&a(), "k49");
    assert_eq!(world.value(read).as_deref(), Some("new1990"));
    world.kill(&a());
    world.propose(b(), &[]);
    world.run(ms(500));
    for key in 0..50 {
        let held = world.held(&b(), &format!("k{key:02}"));
        assert_eq!(held, Some(format!("new{}", (150 + key) * 10)), "k{key:02} after the failover");
    }
}

#[test]
fn a_write_is_answered_without_waiting_for_a_newcomer() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    world.cut(&a(), &b());
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(write), "nobody counts on b yet");
}

/// S2 (d): a failed transfer was never tried again, and the empty backup stayed promotable.
#[test]
fn s2_d_a_broken_transfer_is_tried_again_and_counts_for_nothing_until_whole() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    for _ in 0..20 {
        let message = world.wire.pop_front().expect("the transfer goes on");
        world.deliver(message);
    }
    assert!(world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })));
    world.wire.clear();
    world.break_streams(&a(), &b());
    assert!(!synced(&world, &b()));
    assert!(!world.wished(|wish| matches!(wish, Wish::Synced { .. })));
    world.run(ms(500));
    assert!(synced(&world, &b()), "the second transfer is whole");
    assert_eq!(world.held(&b(), "k49").as_deref(), Some("old"));
}

/// S2 (e): a snapshot was accepted from anybody, in any role and any view.
#[test]
pub(super) fn s2_e_a_transfer_is_taken_only_on_the_open_stream_of_the_present_epoch() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.run(ms(200));
    let wipe = |from: Member, to: Member, epoch, stream| Message {
        cluster: CLUSTER,
        epoch,
        from,
        to,
        stream: kvproto::StreamNumber(stream),
        body: Body::TransferStart { at: kvproto::Position::default(), keys: 0 },
    };
    let now = world.view.epoch();
    let old = kvproto::Epoch { primary_since: kvproto::ViewNumber(0), ..now };
    let open = world.replicas[&a()].primary.as_ref().and_then(|p| p.stream_to(&b())).expect("open");
    world.deliver(wipe(a(), b(), old, open.0));
    world.deliver(wipe(c(), b(), now, open.0));
    world.deliver(wipe(a(), b(), now, open.0 + 1));
    // Meant for another life of the server at this address.
    world.step(&b(), Event::Message(wipe(a(), member("b", 2), now, open.0)));
    world.deliver(wipe(b(), a(), now, open.0));
    let mut stranger = wipe(a(), b(), now, open.0);
    stranger.cluster = ClusterId([8; 16]);
    world.deliver(stranger);
    for copy in [a(), b()] {
        assert_eq!(world.held(&copy, "k").as_deref(), Some("v"), "{copy} keeps its data");
    }
}

/// H5: an acknowledgement from before a wipe must not count for the wiped copy, and a repeated
/// "start from empty" must not wipe a synced one.
#[test]
pub(super) fn h5_only_answers_on_the_newest_stream_count() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    let mut acks = Vec::new();
    let mut starts = Vec::new();
    for _ in 0..5000 {
        let Some(message) = world.wire.pop_front() else {
            break;
        };
        match &message.body {
            Body::Ack(_) => acks.push(message.clone()),
            Body::TransferStart { .. } | Body::Open { .. } => starts.push(message.clone()),
            _ => {}
        }
        world.deliver(message);
    }
    world.break_streams(&a(), &b());
    world.cut(&a(), &b());
    world.run(ms(50));
    let write = world.put(&a(), "k", "v");
    for ack in acks {
        world.deliver(ack);
    }
    let eligible = world.view.eligible.contains(&b());
    assert_eq!(world.answered(write), !eligible, "old answers prove nothing");
    world.heal();
    world.run(ms(1500));
    assert!(synced(&world, &b()));
    world.run(ms(200));
    let held = world.held(&b(), "k49");
    for start in starts {
        world.deliver(start);
        world.settle();
    }
    assert_eq!(world.held(&b(), "k49"), held, "an old opening wipes nothing");
}

/// A message of the open stream that the network repeats: the start of a transfer must not empty the
/// copy that the transfer has filled.
#[test]
fn h5_a_repeated_start_on_the_open_stream_wipes_nothing() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    let mut starts = Vec::new();
    while let Some(message) = world.wire.pop_front() {
        if matches!(message.body, Body::TransferStart { .. }) {
            starts.push(message.clone());
        }
        world.deliver(message);
    }
    world.run(ms(300));
    assert!(synced(&world, &b()));
    assert_eq!(starts.len(), 1);
    let held = world.held(&b(), "k49");
    assert!(held.is_some());
    for start in starts {
        world.deliver(start);
    }
    assert_eq!(world.held(&b(), "k49"), held);
}

/// H6: a digest that is right at some op proves nothing about the ops committed after it.
#[test]
pub(super) fn h6_a_newcomer_is_synced_only_with_everything_committed_so_far() {
    let mut world = primary_with_data();
    world.name_ungranted(b());
    for step in 0..3000 {
        if step % 3 == 0 {
            world.put(&a(), "k", &step.to_string());
        }
        if step % 50 == 0 {
            world.now = world.now + ms(5);
            world.step(&a(), Event::Tick);
        }
        let Some(message) = world.wire.pop_front() else {
            continue;
        };
        world.deliver(message);
        if world.wished(|wish| matches!(wish, Wish::Synced { .. })) {
            let (primary, copy) = (&world.replicas[&a()], &world.replicas[&b()]);
            assert!(
                copy.copy.log.last().op >= primary.committed(),
                "it holds all that is committed"
            );
            return;
        }
    }
    world.run(ms(300));
    assert!(world.wished(|wish| matches!(wish, Wish::Synced { .. })), "it gets there");
}

/// H7: a copy that may be promoted is never emptied.
#[test]
pub(super) fn h7_an_eligible_copy_that_the_log_cannot_reach_is_left_out_before_it_is_emptied() {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    let mut world = world.formed(a(), &[b(), c()]);
    world.cut(&a(), &c());
    world.cut(&b(), &c());
    // The view goes on without c, but c stays eligible while the new one is only proposed.
    world.grants = false;
    world.propose(a(), &[b()]);
    world.grants = true;
    world.run(ms(200));
    for n in 0..20 {
        world.put(&a(), "k", &n.to_string());
        world.settle();
    }
    // c comes back as the record has it: a joining backup, free to be emptied.
    world.heal();
    world.propose(a(), &[b(), c()]);
    assert!(!world.view.eligible.contains(&c()));
    world.run(ms(500));
    assert!(synced(&world, &c()));

    // The same, but c is still eligible when the log no longer reaches it.
    world.cut(&a(), &c());
    world.break_streams(&a(), &c());
    world.view.eligible.remove(&c());
    world.propose(a(), &[b()]);
    world.run(ms(50));
    for n in 0..20 {
        world.put(&a(), "k", &n.to_string());
        world.settle();
    }
    world.heal();
    world.view.eligible.insert(c());
    world.propose(a(), &[b(), c()]);
    world.wishes.clear();
    world.grants = false;
    world.run(ms(200));
    let evict = |wish: &Wish| matches!(wish, Wish::Evict { server, .. } if *server == c());
    assert!(world.wished(evict));
    assert!(world.held(&c(), "k").is_some(), "its data is untouched");
}

/// REP-2: asking is the point of no return. The request may arrive at any time, so the newcomer
/// stays required, dead or not, until a view of a higher number is activated.
#[test]
pub(super) fn h3_asked_is_required_until_a_later_view_is_activated() {
    let mut world = World::with(a(), &[]);
    world.start(b());
    world.name_ungranted(b());
    world.run(ms(300));
    assert!(world.wished(|wish| matches!(wish, Wish::Synced { .. })));
    world.kill(&b());
    world.break_streams(&a(), &b());
    let write = world.put(&a(), "k", "v");
    world.run(ms(500));
    assert!(!world.answered(write), "the view service may have made b eligible");
    world.grants = true;
    world.propose(a(), &[]);
    world.run(ms(50));
    assert!(world.is_done(write), "the late Synced will be refused");
}

#[test]
fn a_newcomer_that_dies_before_the_asking_holds_nobody_up() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    for _ in 0..10 {
        if let Some(message) = world.wire.pop_front() {
            world.deliver(message);
        }
    }
    world.kill(&b());
    world.wire.clear();
    world.break_streams(&a(), &b());
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn a_copy_that_answers_nothing_is_asked_to_be_left_out() {
    let mut world = World::with(a(), &[b()]);
    world.wishes.clear();
    world.run_ticking(ms(500), |who| *who == a());
    world.cut(&a(), &b());
    world.run(ms(1000));
    assert!(world.wished(|wish| matches!(wish, Wish::Evict { .. })));
}

/// A server that was itself paused finds everybody silent, and must not blame them, whatever it
/// hears first when it wakes up.
#[test]
fn a_paused_primary_blames_nobody_for_its_own_silence() {
    let acknowledgement = |message: &Message| matches!(message.body, Body::Ack(_));
    for ticks_first in [true, false] {
        let mut world = World::with(a(), &[b(), c()]);
        world.put(&a(), "k", "v");
        for message in std::mem::take(&mut world.wire) {
            world.deliver(message);
        }
        assert!(world.wire.iter().all(acknowledgement));
        world.wishes.clear();
        world.now = world.now + ms(1200);
        if ticks_first {
            world.step(&a(), Event::Tick);
        }
        let first = world.wire.pop_front().expect("an acknowledgement waits");
        world.deliver(first);
        world.settle();
        world.run(ms(300));
        assert!(!world.wished(|wish| matches!(wish, Wish::Evict { .. })));
    }
}

#[test]
fn a_transfer_that_does_not_add_up_is_not_taken() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    let mut spoiled = false;
    for _ in 0..3000 {
        let Some(mut message) = world.wire.pop_front() else {
            break;
        };
        match &mut message.body {
            Body::TransferChunk { records, .. } if !spoiled => {
                spoiled = true;
                // The last byte of a chunk of keys belongs to a version.
                let mut bytes = records.to_vec();
                *bytes.last_mut().expect("chunks are not empty") ^= 1;
                *records = bytes.into();
            }
            Body::TransferEnd(_) => {
                world.deliver(message);
                assert!(
                    !world.noticed(|notice| matches!(notice, Notice::TransferReceived { .. })),
                    "its digest is not the one announced"
                );
                break;
            }
            _ => {}
        }
        world.deliver(message);
    }
    assert!(spoiled);
    world.run(ms(2500));
    assert!(synced(&world, &b()), "a second transfer mends it");
    assert_eq!(world.held(&b(), "k00").as_deref(), Some("old"));
}

/// The log reaches back to the beginning, but what the copy holds is half of something: the log
/// alone cannot make a state of it.
#[test]
fn half_a_transfer_is_not_continued_from_the_log() {
    let mut world = World::new();
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 1;
    let mut world = world.formed(a(), &[]);
    for n in 0..20 {
        world.put(&a(), &format!("k{n:02}"), "old");
    }
    world.start(b());
    world.propose(a(), &[b()]);
    while world.held(&b(), "k07").is_none() {
        let message = world.wire.pop_front().expect("b is brought up from the log");
        world.deliver(message);
    }
    world.corrupt(&b(), "k07", "flipped");
    while !world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })) {
        world.now = world.now + ms(5);
        world.step(&a(), Event::Tick);
        while let Some(message) = world.wire.pop_front() {
            world.deliver(message);
            if world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })) {
                break;
            }
        }
        assert!(world.now.since(Timestamp::default()) < ms(10_000), "the fault is noticed");
    }
    for _ in 0..6 {
        let message = world.wire.pop_front().expect("the transfer goes on");
        world.deliver(message);
    }
    world.wire.clear();
    world.break_streams(&a(), &b());
    world.run(ms(700));
    assert!(synced(&world, &b()));
    assert_eq!(world.held(&b(), "k07").as_deref(), Some("old"));
}

#[test]
fn half_a_transfer_counts_as_nothing_in_the_next_epoch() {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 2;
    let mut world = world.formed(a(), &[b()]);
    for n in 0..50 {
        world.put(&a(), &format!("k{n:02}"), "old");
        world.settle();
    }
    world.start(c());
    world.propose(a(), &[b(), c()]);
    while !world.noticed(|notice| matches!(notice, Notice::TransferStarted { .. })) {
        let message = world.wire.pop_front().expect("c is being brought up");
        world.deliver(message);
    }
    for _ in 0..12 {
        let message = world.wire.pop_front().expect("chunks");
        world.deliver(message);
    }
    world.kill(&a());
    world.wire.clear();
    world.propose(b(), &[c()]);
    world.run(ms(1500));
    assert!(world.acting(&b()));
    assert!(synced(&world, &c()));
    assert_eq!(world.held(&c(), "k49").as_deref(), Some("old"));
    let (b, c) = (&world.replicas[&b()], &world.replicas[&c()]);
    assert_eq!(b.store().digest(), c.store().digest());
}

/// Found by the simulator: the log was forgotten past the op of a running transfer, and right after
/// the last chunk the primary sent entries with a gap before them. The newcomer refused them in
/// silence, so the transfer began anew only after its primary had asked for its eviction.
#[test]
fn a_transfer_that_the_log_has_left_behind_begins_anew_at_once() {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    world.tuning.retain_bytes_max = 700;
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 1;
    let mut world = world.formed(a(), &[]);
    for n in 0..10 {
        world.put(&a(), &format!("k{n}"), "old");
    }
    world.settle();
    world.start(b());
    world.propose(a(), &[b()]);
    while let Some(message) = world.wire.pop_front() {
        world.deliver(message);
        if !world.noticed(|notice| matches!(notice, Notice::TransferReceived { .. })) {
            world.put(&a(), "k9", "new");
        }
    }
    assert!(world.noticed(|notice| matches!(notice, Notice::Outrun { .. })));
    assert!(!world.noticed(|notice| matches!(notice, Notice::Nonsense { .. })));
    world.run(ms(400));
    assert!(synced(&world, &b()));
    assert!(!world.wished(|wish| matches!(wish, Wish::Evict { .. })));
}

/// Found by the simulator: acknowledgements that were under way when their stream broke were
/// reported as acknowledgements of what was never sent.
#[test]
fn an_answer_on_a_stream_that_has_just_broken_is_no_nonsense() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    let append = world.wire.pop_front().expect("the entry is sent");
    world.deliver(append);
    world.break_streams(&a(), &b());
    world.settle();
    assert!(!world.noticed(|notice| matches!(notice, Notice::Nonsense { .. })));
    world.run(ms(300));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
}

/// Every chunk of the window arrives late, each later than the last: as long as something arrives
/// within `stall-after` the transfer goes on to its end.
#[test]
fn a_slow_transfer_comes_to_its_end() {
    let mut world = primary_with_data();
    world.propose(a(), &[b()]);
    let mut opened = false;
    while !synced(&world, &b()) {
        // One chunk in half a second, everything else at once.
        for _ in 0..5 {
            world.now = world.now + ms(100);
            for who in [a(), b()] {
                world.step(&who, Event::Tick);
            }
        }
        opened |= world.settle_with_one_chunk();
        assert!(world.now.since(Timestamp::default()) < ms(200_000), "it never ends");
    }
    assert!(opened, "the copy was made by a transfer");
    let evicted = world.wished(|wish| matches!(wish, Wish::Evict { .. }));
    assert!(!evicted, "a slow link is no silence");
}

/// A chunk takes at least one record, so eight large values were under way at once as eight chunks,
/// whatever memory the server had.
#[test]
fn large_values_do_not_widen_the_window_of_a_transfer() {
    let mut world = World::new();
    world.tuning.retain_bytes = 0;
    world.tuning.chunk_bytes = 64;
    world.tuning.chunks_in_flight = 4;
    let mut world = world.formed(a(), &[]);
    let size = 200;
    for n in 0..20 {
        world.put(&a(), &format!("k{n:02}"), &"v".repeat(size));
    }
    world.settle();
    world.start(b());
    world.propose(a(), &[b()]);
    let mut most = 0;
    while !synced(&world, &b()) {
        assert!(world.now.since(Timestamp::default()) < ms(20_000), "it never ends");
        world.now = world.now + ms(5);
        for who in [a(), b()] {
            world.step(&who, Event::Tick);
        }
        while let Some(message) = world.wire.pop_front() {
            world.deliver(message);
            let chunks = world.wire.iter().filter_map(|message| match &message.body {
                Body::TransferChunk { records, .. } => Some(records.len()),
                _ => None,
            });
            most = most.max(chunks.sum());
        }
    }
    // Four chunks of 64 bytes, and the value that reaches beyond them.
    assert!((size..4 * 64 + size + 64).contains(&most), "{most} bytes were under way at once");
    assert_eq!(world.held(&b(), "k19"), Some("v".repeat(size)));
}

/// A lone primary commits in the step in which it orders, so a newcomer is always a round trip
/// behind while clients write. It must be counted in all the same.
#[test]
fn a_newcomer_is_counted_in_while_clients_write_all_the_time() {
    let mut world = World::with(a(), &[]);
    world.start(b());
    world.propose(a(), &[b()]);
    for n in 0..400 {
        world.now = world.now + ms(1);
        if n % 5 == 0 {
            world.step(&a(), Event::Tick);
        }
        world.put(&a(), "k", &n.to_string());
        // What is on the wire now arrives before the next write, what follows from it after.
        for message in std::mem::take(&mut world.wire) {
            world.deliver(message);
        }
        if synced(&world, &b()) {
            return;
        }
    }
    panic!("b was never counted in");
}

/// It answers every heartbeat and acknowledges an entry now and then: never silent, never done.
#[test]
fn a_copy_that_answers_but_cannot_keep_up_is_asked_to_be_left_out() {
    let mut world = World::with(a(), &[b()]);
    world.slow_journal.insert(b());
    world.wishes.clear();
    for n in 0..40 {
        world.put(&a(), "k", &n.to_string());
        world.run(ms(100));
    }
    let evict = |wish: &Wish| matches!(wish, Wish::Evict { server, .. } if *server == b());
    assert!(world.wished(evict));
}

impl World {
    /// Delivers everything, but of the transfer only the next piece. Says whether there was one.
    fn settle_with_one_chunk(&mut self) -> bool {
        let mut later = VecDeque::new();
        let mut delivered = false;
        while let Some(message) = self.wire.pop_front() {
            let piece = matches!(message.body, Body::TransferChunk { .. } | Body::TransferEnd(_));
            if piece && delivered {
                later.push_back(message);
            } else {
                delivered |= piece;
                self.deliver(message);
            }
        }
        self.wire = later;
        delivered
    }
}

/// REP-6: a newcomer that acknowledges everything but does not say what its data is, or said it only of
/// an op from before commits waited for it, is not declared synced.
#[test]
pub(super) fn a_newcomer_is_synced_only_when_its_digest_was_right() {
    let mut world = World::with(a(), &[]);
    world.put(&a(), "k", "v");
    world.settle();
    world.start(b());
    world.name_ungranted(b());
    let is_asked = |world: &World| world.wished(|wish| matches!(wish, Wish::Synced { .. }));
    for _ in 0..100 {
        world.now = world.now + ms(5);
        world.step(&a(), Event::Tick);
        // Not to the end: a asks again as soon as it is answered.
        for _ in 0..4 {
            let Some(mut message) = world.wire.pop_front() else { break };
            if let Body::Ack(ack) = &mut message.body {
                ack.digest = None;
            }
            world.deliver(message);
        }
    }
    assert!(!is_asked(&world), "nobody knows whether its data is right");
    world.run(ms(300));
    assert!(is_asked(&world));
}
