//! What an acknowledged write rests on.

use super::*;
use kvproto::convert::RecordsWriter;
use kvproto::message::Ack;

/// S2 (a): forwarding failed, the error was logged, and the client was told OK.
#[test]
pub(super) fn s2_a_a_write_that_cannot_be_forwarded_is_not_acknowledged() {
    let mut world = World::with(a(), &[b()]);
    world.cut(&a(), &b());
    let write = world.put(&a(), "k", "v");
    world.run(ms(300));
    assert!(!world.answered(write), "no copy but the primary's has it");
    assert_eq!(world.held(&a(), "k"), None, "and nobody may see it");
    world.heal();
    world.break_streams(&a(), &b());
    world.run(ms(100));
    assert!(world.is_done(write));
    world.run(ms(100));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
}

/// S2 (b): the backup answered `ok = false`, and the primary took any answer for a yes.
#[test]
fn s2_b_an_answer_without_progress_is_no_acknowledgement() {
    let mut world = World::with(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    let append = world.wire.pop_front().expect("the write is on its way");
    let Body::Append(sent) = &append.body else { panic!("{append:?}") };
    let body = Body::Ack(Ack {
        matched: sent.previous.op,
        applied: sent.previous.op,
        nonce: sent.nonce,
        sent_at: sent.sent_at,
        digest: None,
        chunks: 0,
        disk_full: false,
        recorded: Revision(u64::MAX),
    });
    let (from, to) = (append.to.clone(), append.from.clone());
    world.deliver(Message { from, to, body, ..append.clone() });
    assert!(!world.answered(write));
    world.deliver(append);
    world.settle();
    assert!(world.is_done(write));
}

/// S2 (f): concurrent writes were forwarded by calls of their own, in any order.
#[test]
pub(super) fn s2_f_copies_apply_in_one_order_whatever_the_wire_does() {
    let mut world = World::with(a(), &[b()]);
    let first = world.put(&a(), "k", "first");
    let second = world.put(&a(), "k", "second");
    world.wire.swap(0, 1);
    world.settle();
    assert!(world.is_done(first));
    assert!(!world.answered(second), "it came before its predecessor, and a gap is refused");
    world.run(ms(1500));
    assert!(world.is_done(first) && world.is_done(second), "a new stream mends it");
    world.run(ms(200));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("second"));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("second"));
    assert_eq!(world.replicas[&a()].store().digest(), world.replicas[&b()].store().digest());
}

#[test]
pub(super) fn every_copy_has_a_write_before_it_is_acknowledged() {
    let mut world = World::with(a(), &[b(), c()]);
    world.cut(&a(), &c());
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(!world.answered(write), "b has it, c has not");
    world.heal();
    world.break_streams(&a(), &c());
    world.run(ms(100));
    assert!(world.is_done(write));
}

#[test]
pub(super) fn the_primarys_own_journal_counts_too() {
    let mut world = World::with(a(), &[b()]);
    world.slow_journal.insert(a());
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(!world.answered(write), "the backup has it, the primary's journal not yet");
    world.finish_journal(&a());
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn a_backup_acknowledges_only_what_its_journal_holds() {
    let mut world = World::with(a(), &[b()]);
    world.slow_journal.insert(b());
    let write = world.put(&a(), "k", "v");
    world.run(ms(150));
    assert!(!world.answered(write), "heartbeats are answered, the write is not");
    world.finish_journal(&b());
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn a_repeated_request_is_answered_the_same_and_applied_once() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    let first = world.append_once(&a(), id(session, 1), "k", "x");
    // Repeated while ordered, and again when committed.
    let again = world.append_once(&a(), id(session, 1), "k", "x");
    world.settle();
    let late = world.append_once(&a(), id(session, 1), "k", "x");
    world.settle();
    assert_eq!(world.outcome(first), world.outcome(again));
    assert_eq!(world.outcome(first), world.outcome(late));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("x"));
}

#[test]
fn the_same_number_with_another_command_never_gets_a_strangers_answer() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    let first = world.append_once(&a(), id(session, 1), "k", "x");
    let other = world.append_once(&a(), id(session, 1), "k", "y");
    world.settle();
    assert!(matches!(world.outcome(first), Outcome::Changed(_)));
    assert_eq!(world.outcome(other), Outcome::Refused(kvproto::Refusal::RequestReused));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("x"));
}

#[test]
fn a_session_ends_through_the_log_when_its_lease_is_over_and_not_before() {
    let mut world = World::with(a(), &[b()]);
    let (kept, idle) = (world.open_session(&a()), world.open_session(&a()));
    for _ in 0..40 {
        world.run(ms(1000));
        let alive = world.ask(&a(), Operation::KeepAlive(kept));
        world.settle();
        assert!(matches!(world.reply(alive), Reply::KeptAlive { .. }));
    }
    for copy in [a(), b()] {
        assert!(world.replicas[&copy].store().has_session(kept));
        assert!(!world.replicas[&copy].store().has_session(idle), "on every copy");
    }
    let late = world.ask(&a(), Operation::KeepAlive(idle));
    assert_eq!(world.outcome(late), Outcome::Refused(kvproto::Refusal::SessionExpired));
}

/// A keep-alive answered while the expiry of its session is ordered but not committed would let a
/// client believe in a lease that ends at once.
#[test]
pub(super) fn nothing_extends_a_session_whose_expiry_is_ordered() {
    let mut world = World::with(a(), &[b()]);
    let session = world.open_session(&a());
    world.run_ticking(ms(29_900), |_| true);
    // The backup answers heartbeats, so the lease holds, but the expiry stays uncommitted.
    world.slow_journal.insert(b());
    world.run(ms(500));
    assert!(world.replicas[&a()].store().has_session(session));
    let alive = world.ask(&a(), Operation::KeepAlive(session));
    assert!(world.is_refused(alive), "{:?}", world.replies.get(&alive));
    world.finish_journal(&b());
    world.run(ms(100));
    assert!(!world.replicas[&a()].store().has_session(session));
}

#[test]
fn with_fewer_copies_than_asked_for_writes_are_refused_and_reads_go_on() {
    let mut world = World::new();
    world.view.settings.min_copies = 2;
    let mut world = world.formed(a(), &[]);
    let write = world.put(&a(), "k", "v");
    let read = world.get(&a(), "k");
    world.settle();
    let few = Reply::NotDone(NotDone::TooFewCopies { synced: 1, min_copies: 2 });
    assert_eq!(world.reply(write), &few);
    assert_eq!(world.value(read), None);
    world.start(b());
    world.propose(a(), &[b()]);
    world.run(ms(300));
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(write));
}

#[test]
fn too_much_uncommitted_is_refused_instead_of_piling_up() {
    let mut world = World::new();
    world.tuning.uncommitted_bytes_max = 3500;
    let mut world = world.formed(a(), &[b()]);
    world.cut(&a(), &b());
    let writes: Vec<_> = (0..50).map(|n| world.put(&a(), &format!("k{n}"), "v")).collect();
    let refused = writes.iter().filter(|write| world.is_refused(**write)).count();
    assert!((30..50).contains(&refused), "{refused} of 50 refused");
    world.heal();
    world.break_streams(&a(), &b());
    world.run(ms(100));
    let late = world.put(&a(), "late", "v");
    world.settle();
    assert!(world.is_done(late), "the budget comes back");
}

#[test]
fn copies_that_disagree_stop_the_writes_and_nothing_is_wiped() {
    let mut world = World::with(a(), &[b()]);
    let write = world.put(&a(), "k", "v");
    world.run(ms(200));
    assert!(world.is_done(write));
    world.corrupt(&b(), "k", "flipped");
    world.run(ms(200));
    assert!(world.noticed(|notice| matches!(notice, Notice::Diverged { .. })));
    let write = world.put(&a(), "k", "w");
    world.settle();
    assert!(matches!(world.reply(write), Reply::NotDone(NotDone::Diverged { .. })));
    assert_eq!(world.held(&a(), "k").as_deref(), Some("v"));
    assert_eq!(world.held(&b(), "k").as_deref(), Some("flipped"));
}

#[test]
fn of_three_copies_the_one_that_differs_is_left_out() {
    let mut world = World::with(a(), &[b(), c()]);
    let write = world.put(&a(), "k", "v");
    world.run(ms(200));
    assert!(world.is_done(write));
    world.corrupt(&c(), "k", "flipped");
    world.run(ms(200));
    assert!(world.wished(|wish| matches!(wish, Wish::Evict { server, .. } if *server == c())));
    assert!(!world.wished(|wish| matches!(wish, Wish::Evict { server, .. } if *server == b())));
    let write = world.put(&a(), "k", "w");
    world.settle();
    assert!(world.is_done(write), "the majority goes on");
}

/// The operator stops one of two copies that disagree: what is left agrees with itself, and writes
/// go on with its data.
#[test]
fn a_disagreement_ends_when_the_differing_copy_is_out_of_the_view() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.run(ms(200));
    world.corrupt(&b(), "k", "flipped");
    world.run(ms(200));
    let refused = world.put(&a(), "k", "w");
    assert!(world.is_refused(refused));
    world.kill(&b());
    world.propose(a(), &[]);
    world.run(ms(200));
    let write = world.put(&a(), "k", "w");
    assert!(world.is_done(write));
    world.start(c());
    world.propose(a(), &[c()]);
    world.run(ms(300));
    assert!(world.view.eligible.contains(&c()), "and a new copy is brought up");
}

/// Two of three copies agree and the primary is the third: it asks to be replaced until it is, and
/// answers nothing with data that it knows to be wrong.
#[test]
fn a_primary_in_the_minority_answers_nothing_and_asks_to_go_until_it_is_gone() {
    let mut world = World::with(a(), &[b(), c()]);
    world.put(&a(), "k", "v");
    world.run(ms(200));
    world.corrupt(&a(), "k", "flipped");
    world.run(ms(200));
    let (read, write) = (world.get(&a(), "k"), world.put(&a(), "k", "w"));
    for token in [read, write] {
        assert!(matches!(world.reply(token), Reply::NotDone(NotDone::Diverged { .. })));
    }
    world.wishes.clear();
    world.run(ms(500));
    assert!(world.wished(|wish| *wish == Wish::Leave), "the first asking may have been lost");
    world.propose(b(), &[c()]);
    world.run(ms(500));
    let read = world.get(&b(), "k");
    assert_eq!(world.value(read).as_deref(), Some("v"));
}

/// The answer was lost, and meanwhile there are too few copies for new writes. The old one is done.
#[test]
fn a_repetition_is_answered_even_when_new_writes_are_refused() {
    let mut world = World::new();
    world.view.settings.min_copies = 2;
    let mut world = world.formed_with_two(a(), b());
    let session = world.open_session(&a());
    let first = world.append_once(&a(), id(session, 1), "k", "x");
    world.settle();
    world.kill(&b());
    world.propose(a(), &[]);
    world.run(ms(50));
    let other = world.append_once(&a(), id(session, 2), "k", "y");
    assert!(world.is_refused(other));
    let again = world.append_once(&a(), id(session, 1), "k", "x");
    assert_eq!(world.outcome(first), world.outcome(again));
}

/// A machine was suspended for longer than a session's lease. The clients were as cut off as we
/// were, and their keep-alives are on the way.
#[test]
fn a_pause_of_the_primary_costs_no_session_its_lease() {
    let mut world = World::with(a(), &[]);
    let session = world.open_session(&a());
    world.run(ms(1000));
    world.now = world.now + ms(40_000);
    world.step(&a(), Event::Tick);
    world.run(ms(1000));
    assert!(world.replicas[&a()].store().has_session(session));
    world.run(ms(40_000));
    assert!(!world.replicas[&a()].store().has_session(session), "it lapses all the same");
}

/// A close that was refused has closed nothing, so the session must still lapse by itself.
#[test]
fn a_session_whose_close_was_refused_still_expires() {
    let mut world = World::with(a(), &[]);
    let (one, other) = (world.open_session(&a()), world.open_session(&a()));
    let late = RequestId { first_open: RequestNumber(5), ..id(one, 5) };
    world.append_once(&a(), late, "k", "x");
    let command = Command::CloseSession(other);
    let stale = world.ask(&a(), Operation::Command { id: Some(id(one, 1)), command });
    assert!(matches!(world.outcome(stale), Outcome::Refused(_)), "{:?}", world.reply(stale));
    world.run(ms(40_000));
    assert!(!world.replicas[&a()].store().has_session(other));
}

impl World {
    /// A primary and a synced backup in a cluster whose primary could not write alone.
    fn formed_with_two(mut self, primary: Member, backup: Member) -> World {
        self.start(primary.clone());
        self.start(backup.clone());
        self.propose(primary.clone(), &[]);
        self.settle();
        self.propose(primary, std::slice::from_ref(&backup));
        self.run(ms(300));
        assert!(self.view.eligible.contains(&backup));
        self
    }

    /// A bit flips in one copy's memory, past the protocol.
    pub(super) fn corrupt(&mut self, who: &Member, key: &str, value: &str) {
        let replica = self.replicas.get_mut(who).expect("a server that runs");
        let committed = replica.committed();
        let position = replica.copy.log.position_at(committed).expect("a committed op");
        let limits = crate::store::StoreLimits::from(&replica.view().settings);
        let mut records = RecordsWriter::new(usize::MAX);
        for item in replica.store().items() {
            let flips = item.key() == key.as_bytes();
            let value = if flips { value.as_bytes() } else { item.value() };
            records.key(item.key(), value, item.version());
        }
        let records = records.finish().expect("there are keys");
        replica.copy.store.clear(limits);
        replica.copy.store.install(&records).expect("sound records");
        assert_eq!(replica.committed(), position.op);
    }
}
