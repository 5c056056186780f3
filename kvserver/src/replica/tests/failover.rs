//! From one primary to the next without losing or inventing anything.

use kvproto::ids::{Epoch, Generation, Position, ViewNumber};

use super::*;
use crate::replica::promise::Promises;

/// Sends a write to `b` only as far as its log: `a` dies before it hears the acknowledgement.
fn write_in_the_tail(world: &mut World, id: RequestId) -> Token {
    let write = world.append_once(&a(), id, "k", "x");
    let append = world.wire.pop_front().expect("the write is on its way");
    assert!(is_append(&append));
    world.deliver(append);
    world.wire.clear();
    world.kill(&a());
    write
}

#[test]
fn a_new_primary_keeps_its_tail_and_a_retry_finds_its_request_there() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    let lost = write_in_the_tail(&mut world, id(session, 1));
    assert!(!world.answered(lost));
    world.propose(b(), &[]);
    world.run(ms(500));
    assert!(world.acting(&b()));
    let retry = world.append_once(&b(), id(session, 1), "k", "x");
    world.settle();
    assert!(world.is_done(retry));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("x"), "applied once");
}

#[test]
pub(super) fn a_new_primary_waits_out_the_lease_that_it_promised() {
    let mut world = World::with(a(), &[b()]);
    world.run(ms(100));
    world.cut(&a(), &b());
    world.wishes.clear();
    world.propose(b(), &[]);
    world.run_ticking(ms(250), |who| *who == b());
    assert!(!world.acting(&b()), "a may still answer reads");
    assert!(world.wishes.is_empty());
    world.run_ticking(ms(200), |who| *who == b());
    assert!(world.acting(&b()));
}

/// The old primary knows the new epoch and says so: nobody needs to wait.
#[test]
fn a_release_by_the_old_primary_ends_the_wait() {
    let mut world = World::with(a(), &[b()]);
    world.run(ms(100));
    world.propose(b(), &[]);
    world.settle();
    world.run(ms(10));
    assert!(world.acting(&b()));
}

/// H13 (a), (b): nothing is released before the new epoch is adopted, so an aborted hand-over
/// leaves a primary that serves on.
#[test]
pub(super) fn h13_a_primary_releases_only_when_a_newer_epoch_binds_it() {
    let mut world = World::with(a(), &[b()]);
    world.grants = false;
    world.step(&a(), Event::Leave);
    world.run(ms(300));
    assert!(world.wished(|wish| *wish == Wish::Leave));
    let read = world.get(&a(), "k");
    assert!(world.answered(read), "still the primary");
    world.step(&a(), Event::NobodyToTakeOver);
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(write), "it resumes");
}

#[test]
pub(super) fn an_old_primary_stops_at_once_when_it_hears_of_a_newer_epoch() {
    let mut world = World::with(a(), &[b(), c()]);
    let write = world.put(&a(), "k", "v");
    world.wire.clear();
    // Only b and c hear of the new view; a learns of it from the answer to its heartbeat.
    let view = {
        world.view.number = world.view.number.next();
        world.view.primary_since = world.view.number;
        world.view.primary = Some(b());
        world.view.backups = vec![c()];
        world.view.status = ViewStatus::Proposed;
        world.view.revision = Revision(world.view.revision.0 + 1);
        world.view.clone()
    };
    world.step(&b(), Event::View(Box::new(view)));
    world.now = world.now + ms(100);
    world.step(&a(), Event::Tick);
    world.settle();
    assert_eq!(world.reply(write), &Reply::Unknown, "ordered, so nobody here can say");
    let read = world.get(&a(), "k");
    assert!(matches!(world.reply(read), Reply::NotDone(NotDone::NotPrimary { .. })));
}

#[test]
pub(super) fn the_tail_that_the_new_primary_does_not_have_is_dropped_and_told() {
    let mut world = World::with(a(), &[b(), c()]);
    world.cut(&a(), &b());
    world.cut(&a(), &c());
    let write = world.put(&a(), "k", "never");
    world.propose(b(), &[a(), c()]);
    world.run(ms(500));
    world.heal();
    world.run(ms(1000));
    assert_eq!(world.reply(write), &Reply::Unknown);
    assert!(world.acting(&b()));
    assert!(world.noticed(|notice| matches!(notice, Notice::TailDropped { .. })));
    let next = world.put(&b(), "k", "next");
    world.run(ms(300));
    assert!(world.is_done(next));
    for copy in [a(), b(), c()] {
        assert_eq!(world.held(&copy, "k").as_deref(), Some("next"));
    }
}

#[test]
pub(super) fn a_view_is_activated_only_when_every_eligible_backup_of_it_has_the_barrier() {
    let mut world = World::with(a(), &[b(), c()]);
    world.kill(&a());
    world.cut(&b(), &c());
    world.wishes.clear();
    world.propose(b(), &[c()]);
    world.run(ms(600));
    assert!(!world.wished(|wish| matches!(wish, Wish::Activate { .. })), "c is not reconciled");
    world.run(ms(600));
    let evict = |wish: &Wish| matches!(wish, Wish::Evict { server, .. } if *server == c());
    assert!(world.wished(evict), "it is left out by a new view, not silently");
    world.propose(b(), &[]);
    world.run(ms(50));
    assert!(world.acting(&b()));
}

/// H8: a primary whose own barrier is not committed may not judge, read or recruit by its own
/// out-of-date commit position.
#[test]
pub(super) fn h8_nothing_is_served_before_the_barrier_is_committed() {
    let mut world = World::with(a(), &[b(), c()]);
    world.kill(&a());
    world.propose(b(), &[c()]);
    // c's acknowledgement of the barrier arrives; then nothing of c arrives any more.
    world.grants = false;
    world.run(ms(450));
    let activate = world.wishes.iter().rev().find_map(|(_, wish)| match wish {
        Wish::Activate { reconciled, .. } => Some(reconciled.clone()),
        _ => None,
    });
    assert_eq!(activate, Some(vec![c()]));
    world.break_streams(&b(), &c());
    let wish = Wish::Activate {
        generation: world.view.generation,
        number: world.view.number,
        reconciled: vec![c()],
    };
    world.grant(&b(), &wish);
    // On the next stream c says that it has the record of that on disk, and nothing else.
    world.now = world.now + ms(25);
    world.step(&b(), Event::Tick);
    let opening = |message: &Message| matches!(message.body, Body::Open { .. });
    let open = world.wire.iter().rposition(opening).and_then(|at| world.wire.remove(at));
    world.deliver(open.expect("a stream is opened"));
    world.cut(&b(), &c());
    world.settle();
    assert!(!world.acting(&b()), "activated, but the barrier is not committed");
    let read = world.get(&b(), "k");
    assert!(matches!(world.reply(read), Reply::NotDone(NotDone::NotReady(_))));
    world.heal();
    world.run(ms(1000));
    assert!(world.acting(&b()));
}

/// H9: a copy with an old epoch's tail hears a heartbeat of the new epoch: it may neither
/// acknowledge nor apply what it has not matched.
#[test]
pub(super) fn h9_an_unmatched_tail_is_neither_acknowledged_nor_applied() {
    let mut world = World::with(a(), &[b(), c()]);
    let common = world.replicas[&c()].copy.log.last();
    // c has a tail of a's epoch that b never saw.
    world.cut(&a(), &b());
    world.put(&a(), "k", "tail");
    world.settle();
    let tail = world.replicas[&c()].copy.log.last().op;
    assert!(tail > common.op);
    world.kill(&a());
    world.deaf.extend([b()]);
    world.propose(b(), &[c()]);
    let (epoch, began) = (world.view.epoch(), world.view.began);
    let say = |body| Message {
        cluster: CLUSTER,
        epoch,
        from: b(),
        to: c(),
        stream: kvproto::StreamNumber(1),
        body,
    };
    world.deliver(say(Body::Open { began }));
    world.wire.clear();
    world.deliver(say(Body::Append(kvproto::message::Append {
        previous: common,
        entries: kvproto::Batch::default(),
        committed: tail,
        log_time: kvproto::LogTime::default(),
        nonce: kvproto::Nonce(1),
        sent_at: world.now,
        lease: Duration::ZERO,
        want_digest: false,
    })));
    assert_eq!(world.held(&c(), "k"), None, "b's op at this place is another one");
    match world.wire.pop_front().expect("the heartbeat is answered").body {
        Body::Ack(ack) => assert_eq!(ack.matched, common.op),
        other => panic!("{other:?}"),
    }
}

/// H10: nothing that was matched in an epoch is dropped in it, however late a message repeats.
#[test]
fn h10_a_repeated_message_of_the_epoch_drops_nothing() {
    let mut world = World::with(a(), &[b()]);
    let mut seen = Vec::new();
    for n in 0..5 {
        world.put(&a(), "k", &n.to_string());
        seen.extend(world.wire.iter().filter(|message| message.to == b()).cloned());
        world.settle();
    }
    world.run(ms(200));
    for message in seen {
        world.deliver(message);
        world.settle();
    }
    assert_eq!(world.held(&b(), "k").as_deref(), Some("4"));
    let write = world.put(&a(), "k", "after");
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn a_membership_change_does_not_interrupt_the_primary() {
    let mut world = World::with(a(), &[b(), c()]);
    world.propose(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    let read = world.get(&a(), "k");
    world.settle();
    assert!(world.is_done(write) && world.answered(read));
}

/// Until the shrink is confirmed the old members are required: the view service may still promote
/// the one that is about to leave.
#[test]
pub(super) fn a_shrink_takes_effect_only_when_its_activation_is_confirmed() {
    let mut world = World::with(a(), &[b(), c()]);
    // A view later than the one in which b and c were asked to be counted in.
    world.propose(a(), &[c(), b()]);
    world.run(ms(200));
    world.cut(&a(), &c());
    world.grants = false;
    world.propose(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    world.run(ms(50));
    assert!(!world.answered(write), "c is still eligible");
    let wish = world.wishes.last().expect("a asks for activation").1.clone();
    world.grant(&a(), &wish);
    world.settle();
    assert!(world.is_done(write));
}

/// H2: a late answer of the same view number must not shrink what is required.
#[test]
pub(super) fn h2_an_older_record_of_the_same_view_is_ignored() {
    let mut world = World::with(a(), &[]);
    world.start(b());
    world.propose(a(), &[b()]);
    let mut before = world.view.clone();
    world.run(ms(300));
    assert!(world.view.eligible.contains(&b()));
    before.eligible = [a()].into();
    before.status = ViewStatus::Activated;
    world.cut(&a(), &b());
    world.break_streams(&a(), &b());
    world.step(&a(), Event::View(Box::new(before)));
    let write = world.put(&a(), "k", "v");
    world.run(ms(100));
    assert!(!world.answered(write), "b may be promoted at any moment");
}

/// H10, before anything is committed: a repeated message names an older end of the log, and what was
/// acknowledged after it must stay, since the primary counts on it.
#[test]
pub(super) fn h10_a_repeated_message_drops_nothing_that_was_acknowledged_after_it() {
    let mut world = World::with(a(), &[b()]);
    let mut seen = Vec::new();
    for n in 0..3 {
        world.put(&a(), "k", &n.to_string());
        let sent = std::mem::take(&mut world.wire);
        seen.extend(sent.into_iter().filter(|message| message.to == b()));
    }
    let again = seen[0].clone();
    for message in seen {
        world.deliver(message);
    }
    let last = world.replicas[&b()].copy.log.last();
    world.deliver(again);
    assert_eq!(world.replicas[&b()].copy.log.last(), last);
}

/// A full lease from the promotion on: an outage of ours costs nobody a session.
#[test]
pub(super) fn a_new_primary_gives_every_session_a_full_lease() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    world.run(ms(29_000));
    world.kill(&a());
    world.propose(b(), &[]);
    world.run(ms(29_000));
    assert!(world.replicas[&b()].store().has_session(session), "its lease began anew");
    world.run(ms(3000));
    assert!(!world.replicas[&b()].store().has_session(session), "and ends");
}

/// H13 (c): a release of an earlier epoch that arrives late must not clear a promise that was
/// given afterwards, or the holder would serve stale reads beside the next primary.
#[test]
pub(super) fn h13_a_late_release_leaves_promises_of_later_epochs_alone() {
    let epoch = |view| Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
    let after = |nanos| Timestamp::from_nanos(nanos);
    let mut promises = Promises::default();
    promises.promise(&a(), epoch(1), after(100));
    promises.promise(&a(), epoch(5), after(500));
    promises.promise(&b(), epoch(1), after(50));
    promises.release(&a(), epoch(3));
    assert_eq!(promises.last_before(epoch(6)), Some(after(500)));
    assert_eq!(promises.last_before(epoch(2)), Some(after(50)), "another holder's stands");
}

/// The new primary has the write only in its tail: the old one acknowledged it to its client and died
/// before it told anybody.
#[test]
pub(super) fn an_acknowledged_write_is_kept_by_a_new_primary_that_never_heard_of_its_commit() {
    let mut world = World::with(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    for _ in 0..2 {
        let message = world.wire.pop_front().expect("the append, then its acknowledgement");
        world.deliver(message);
    }
    assert!(world.is_done(write));
    world.wire.clear();
    assert_eq!(world.held(&b(), "k"), None, "b has not heard of the commit");
    world.kill(&a());
    world.propose(b(), &[]);
    world.run(ms(500));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
}

/// VIEW-7. `a` was cut off with a tail of two puts; `b` went on without it, so that its own second op
/// had the number of the second put. All complete copies are lost and `a` is forced. Had its tail kept
/// its positions, both puts would have one version, and whoever read the one could replace the other
/// by a compare-and-set on that version.
#[test]
pub(super) fn a_forced_generation_gives_the_tail_that_it_keeps_new_positions() {
    let mut world = World::with(a(), &[b()]);
    world.cut(&a(), &b());
    world.put(&a(), "k", "never heard of");
    world.put(&a(), "k", "kept");
    let cut_off = world.replicas.remove(&a()).expect("a lives");
    world.propose(b(), &[]);
    world.run(ms(500));
    let put = world.put(&b(), "k", "lost");
    world.settle();
    let Outcome::Changed(lost) = world.outcome(put) else { panic!("the put is done") };
    world.kill(&b());
    world.heal();
    world.replicas.insert(a(), cut_off);
    world.force(a());
    world.run(ms(500));
    let read = world.get(&a(), "k");
    let Reply::Records { records, .. } = world.reply(read) else { panic!("no records") };
    let kept = records[0].as_ref().expect("the tail is kept");
    assert_eq!(text(kept), "kept");
    assert!(kept.version > lost.version, "{} names two values", kept.version);
}

/// VIEW-7. `a`, cut off, orders the expiry of a session that heard nothing of it: its client goes on
/// at `b`, which renews its lease. When `a` is forced the expiry in its tail must not be ordered anew.
#[test]
fn a_forced_generation_ends_no_session_that_another_primary_kept_alive() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    world.run(ms(300));
    world.cut(&a(), &b());
    let lease = world.view.settings.session_lease;
    world.run(lease + ms(500));
    let cut_off = world.replicas.remove(&a()).expect("a lives");
    let tail = cut_off.progress().appended > cut_off.committed();
    assert!(tail, "the expiry is ordered, and nobody else has it");
    world.propose(b(), &[]);
    world.run(ms(500));
    let kept = world.ask(&b(), Operation::KeepAlive(session));
    assert!(matches!(world.reply(kept), Reply::KeptAlive { .. }));
    world.kill(&b());
    world.heal();
    world.replicas.insert(a(), cut_off);
    world.force(a());
    world.run(ms(500));
    let write = world.append_once(&a(), id(session, 1), "k", "x");
    world.settle();
    assert!(world.is_done(write));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("x"), "the session is still there");
}

/// A view service that was started anew, without its state, is another cluster's: nobody obeys it.
#[test]
pub(super) fn a_record_of_another_cluster_changes_nothing() {
    let mut world = World::with(a(), &[b()]);
    let mut strange = world.view.clone();
    strange.cluster = ClusterId([8; 16]);
    strange.number = ViewNumber(99);
    strange.primary_since = strange.number;
    strange.primary = Some(b());
    for server in [a(), b()] {
        world.step(&server, Event::View(Box::new(strange.clone())));
    }
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(write) && !world.acting(&b()));
}

/// REP-1: entries go on from a *position*. A copy whose op of that number is of another epoch has
/// another log, and takes nothing for matched.
#[test]
pub(super) fn entries_after_an_op_of_another_epoch_are_refused() {
    let mut world = World::with(a(), &[b(), c()]);
    let session = world.open_session(&a());
    world.run(ms(200));
    world.cut(&a(), &c());
    write_in_the_tail(&mut world, id(session, 1));
    let tail = world.replicas[&b()].copy.log.last();
    world.kill(&a());
    world.wire.clear();
    world.propose(c(), &[b()]);
    let mut append = loop {
        let message = world.wire.pop_front().expect("c brings b to its log");
        match &message.body {
            Body::Append(_) => break message,
            _ => world.deliver(message),
        }
    };
    world.wire.clear();
    if let Body::Append(append) = &mut append.body {
        // Of the same number, but of the new epoch.
        append.previous = Position { epoch: world.view.epoch(), op: tail.op };
        append.entries = kvproto::Batch::default();
    }
    world.deliver(append);
    let acknowledged = world.wire.iter().any(|message| matches!(message.body, Body::Ack(_)));
    assert!(!acknowledged, "op {} of epoch {} is not c's", tail.op, tail.epoch);
    assert!(world.noticed(|notice| matches!(notice, Notice::Nonsense { .. })));
}

/// Nothing was written for long, so the last op is old; but time went on, and everybody heard so.
#[test]
pub(super) fn a_new_primary_goes_on_from_the_log_time_that_it_heard() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    let written_at = world.replicas[&a()].copy.log_time;
    world.run(ms(10_000));
    world.kill(&a());
    world.propose(b(), &[]);
    let log = world.replicas[&b()].log();
    let barrier = log.get(log.last().op).expect("the barrier is retained");
    assert!(barrier.at >= written_at + ms(9800), "{:?} after {written_at:?}", barrier.at);
}
