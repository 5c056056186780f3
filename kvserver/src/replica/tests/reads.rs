//! A read is answered only while this primary certainly leads.

use super::*;

/// Until when an answer of `a` that is evaluated now may leave.
fn lease_ends(world: &mut World) -> Timestamp {
    let operation = Operation::Query(Query::Get(vec![Bytes::from_static(b"k")]));
    let request = Request { token: Token(99), operation };
    let mut effects = Vec::new();
    let replica = world.replicas.get_mut(&a()).expect("a");
    replica.step(world.now, Event::Requests(vec![request]), &mut effects);
    let valid_until = effects.iter().find_map(|effect| match effect {
        Effect::Reply { valid_until, .. } => *valid_until,
        _ => None,
    });
    valid_until.expect("a lease read says how long it holds")
}

/// S2 (i): a primary that had been replaced answered from its own memory.
#[test]
pub(super) fn s2_i_a_primary_whose_lease_is_over_answers_no_read() {
    let mut world = World::with(a(), &[b()]);
    let read = world.get(&a(), "k");
    assert!(world.answered(read), "under the lease a read needs nobody");
    world.cut(&a(), &b());
    world.run(ms(500));
    let read = world.get(&a(), "k");
    world.run(ms(800));
    let unconfirmed = Reply::NotDone(NotDone::NotReady(NotReady::Unconfirmed));
    assert_eq!(world.reply(read), &unconfirmed);
}

/// A paused primary evaluates a read, and is paused again before the answer leaves.
#[test]
pub(super) fn the_lease_is_checked_after_the_read_was_evaluated() {
    let mut world = World::with(a(), &[b()]);
    let until = lease_ends(&mut world);
    assert!(until > world.now && until <= world.now + ms(400));
}

/// The lease counts from the moment the primary sent, not from when the answer came back.
#[test]
pub(super) fn the_lease_counts_from_sending() {
    let mut world = World::with(a(), &[b()]);
    // Everything takes 300 ms each way; the lease is 400 ms, less its margins.
    let mut late: VecDeque<(Timestamp, Message)> = VecDeque::new();
    for _ in 0..200 {
        world.now = world.now + ms(5);
        world.step(&a(), Event::Tick);
        for message in std::mem::take(&mut world.wire) {
            late.push_back((world.now + ms(300), message));
        }
        while late.front().is_some_and(|(at, _)| *at <= world.now) {
            let (_, message) = late.pop_front().expect("checked");
            world.deliver(message);
        }
    }
    // The newest answer that a has is to something sent 600 ms ago.
    let read = world.get(&a(), "k");
    assert!(!world.answered(read), "an answer that took longer than the lease grants nothing");
}

/// A confirmation counts only if its round began after the read arrived. (An etcd bug of 2026
/// reused a request's identity, and late answers satisfied it.)
#[test]
pub(super) fn a_confirmation_of_an_older_round_proves_nothing() {
    let mut world = World::new();
    world.reads = Reads::Confirm;
    let mut world = world.formed(a(), &[b()]);
    world.run(ms(100));
    // A heartbeat is under way before the read arrives.
    world.now = world.now + ms(100);
    world.step(&a(), Event::Tick);
    let older: Vec<Message> = world.wire.drain(..).collect();
    assert!(!older.is_empty());
    let read = world.get(&a(), "k");
    for message in older {
        world.deliver(message);
    }
    let answers: Vec<Message> = world.wire.drain(..).collect();
    for message in answers {
        world.deliver(message);
    }
    assert!(!world.answered(read), "the older round began before the read");
    world.settle();
    assert!(world.answered(read), "the next one did not");
}

#[test]
pub(super) fn confirm_reads_ask_every_required_backup() {
    let mut world = World::new();
    world.reads = Reads::Confirm;
    let mut world = world.formed(a(), &[b(), c()]);
    world.cut(&a(), &c());
    let read = world.get(&a(), "k");
    world.settle();
    assert!(!world.answered(read), "b alone may not know that c helped somebody else");
    world.heal();
    world.break_streams(&a(), &c());
    world.run(ms(100));
    assert_eq!(world.value(read), None);
}

/// From the asking on the newcomer may be counted eligible, and so lead, before the primary hears of
/// it.
#[test]
pub(super) fn a_copy_that_was_asked_to_be_counted_in_grants_the_lease_too() {
    let mut world = World::with(a(), &[]);
    world.start(b());
    world.name_ungranted(b());
    world.run(ms(300));
    assert!(world.wished(|wish| matches!(wish, Wish::Synced { .. })));
    world.cut(&a(), &b());
    world.run(ms(500));
    let read = world.get(&a(), "k");
    assert!(!world.answered(read), "b may lead by now");
}

#[test]
fn a_primary_without_backups_reads_by_itself() {
    let mut world = World::with(a(), &[]);
    world.run(ms(5000));
    let read = world.get(&a(), "k");
    assert_eq!(world.value(read), None);
}

#[test]
pub(super) fn a_read_sees_what_is_committed_and_nothing_else() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    let early = world.get(&a(), "k");
    assert_eq!(world.value(early), None, "the write is not in every copy yet");
    world.settle();
    let late = world.get(&a(), "k");
    assert_eq!(world.value(late).as_deref(), Some("v"));
}

#[test]
fn a_backup_refuses_and_names_the_primary() {
    let mut world = World::with(a(), &[b()]);
    let read = world.get(&b(), "k");
    let reply = NotDone::NotPrimary { primary: Some(a().name), view: world.view.number };
    assert_eq!(world.reply(read), &Reply::NotDone(reply));
}

/// Clocks may differ in rate by 1 % each, so the primary's lease ends before the backup's promise.
#[test]
pub(super) fn the_primary_relies_on_less_than_its_backup_promised() {
    let mut world = World::with(a(), &[b()]);
    let relied_on = lease_ends(&mut world);
    let mut later = world.view.clone();
    later.number = later.number.next();
    later.primary_since = later.number;
    let promised = world.replicas[&b()].copy.promises.last_before(later.epoch());
    let promised = promised.expect("b promised a");
    // 400 ms, of which 99/101 and 20 ms less.
    assert!(
        promised.since(relied_on) >= Duration::from_micros(27_900),
        "on the wire no time passed"
    );
}

/// Read your writes: a client may read from the table as soon as its write is answered.
#[test]
pub(super) fn who_reads_without_asking_sees_a_write_before_its_writer_hears_of_it() {
    let mut world = World::with(a(), &[b()]);
    world.sightings.clear();
    let put = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.answered(put));
    let [(who, Some(Reply::Records { at, records }))] = &world.sightings[..] else {
        panic!("{:?}", world.sightings);
    };
    assert_eq!((who, records[0].as_ref().map(|record| &record.value[..])), (&a(), Some(&b"v"[..])));
    assert!(matches!(world.reply(put), Reply::Done { at: done, .. } if done <= at));
}

#[test]
fn the_table_answers_as_long_as_the_lease_and_not_after() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    assert!(world.read_table(&a(), "k").is_some());
    assert_eq!(world.read_table(&b(), "k"), None, "a backup answers nobody");
    world.cut(&a(), &b());
    world.now = world.now + ms(400);
    assert_eq!(world.read_table(&a(), "k"), None, "by the clock, before any step tells");
}

#[test]
fn without_leases_every_read_asks() {
    let mut world = World::new();
    world.reads = Reads::Confirm;
    let mut world = world.formed(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    assert_eq!(world.read_table(&a(), "k"), None);
}

/// REP-10: once it says that it stopped, nobody waits for its lease any more.
#[test]
fn a_primary_that_says_it_stopped_has_stopped_answering_before() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    world.step(&a(), Event::Leave);
    world.sightings.clear();
    world.propose(b(), &[a()]);
    assert_eq!(world.sightings, [(a(), None)], "at the moment of the release");
    world.settle();
    world.run(ms(10));
    assert_eq!(world.read_table(&a(), "k"), None);
    assert!(world.read_table(&b(), "k").is_some(), "the new primary did not wait");
}
