//! VIEW-7: what a server that is forced makes of ops that it does not know to be committed. They may
//! have been acknowledged: only after the restart of a server with a disk does it know so little of
//! what was committed, since that is written with the next record.

use kvproto::command::{Changed, Expect, Refusal};
use kvproto::ids::{OpNumber, Version};

use super::*;

/// Everything that the stories do is acknowledged by `a` with `b`; then the power goes. `b` comes back
/// with all of it on its disk, and knows of what was committed no more than through this op.
fn lose_all_but_the_disk_of_b(world: &mut World, known: OpNumber) -> Member {
    world.kill(&a());
    world.kept.get_mut(&b()).expect("b has a disk").retain(|work| match work {
        Work::Committed { through } => *through <= known,
        _ => true,
    });
    world.wire.clear();
    let again = member("b", 2);
    world.come_back(&b(), &again);
    again
}

fn forced(world: &mut World, server: &Member) {
    world.force(server.clone());
    world.run(ms(500));
    assert!(world.acting(server));
}

fn done(world: &mut World, id: Option<RequestId>, command: Command) -> Outcome {
    let token = world.ask(&a(), Operation::Command { id, command });
    world.settle();
    world.outcome(token)
}

fn changed(outcome: &Outcome) -> Changed {
    match outcome {
        Outcome::Changed(changed) => *changed,
        other => panic!("not changed but {other:?}"),
    }
}

fn swap(key: &'static str, expected: Version, value: &'static str) -> Command {
    let expect = Expect::Version(expected);
    let action =
        Action::CompareAndSet { expect, new_value: Some(Bytes::from_static(value.as_bytes())) };
    Command::Change(Change { key: Bytes::from_static(key.as_bytes()), action })
}

/// Holes 13: one op opens a session and the next appends in it, one puts and the next compares with
/// its version. Ordered anew under their old names the second ones were refused, although all had been
/// acknowledged.
#[test]
pub(super) fn a_forced_tail_keeps_its_names() {
    let mut world = World::durable().formed(a(), &[b()]);
    let before = changed(&done(&mut world, None, put("older", "1")));
    let known = world.replicas[&a()].committed();
    let session = world.open_session(&a());
    let append = world.append_once(&a(), id(session, 1), "k", "x");
    let first = changed(&done(&mut world, Some(id(session, 2)), put("swapped", "1")));
    let swapped = done(&mut world, Some(id(session, 3)), swap("swapped", first.version, "2"));
    done(&mut world, None, swap("older", before.version, "2"));
    done(&mut world, None, swap("swapped", before.version, "never"));
    assert!(world.is_done(append) && changed(&swapped).existed);

    let b = lose_all_but_the_disk_of_b(&mut world, known);
    forced(&mut world, &b);
    assert_eq!(world.held(&b, "k").as_deref(), Some("x"), "its session is there");
    assert_eq!(world.held(&b, "swapped").as_deref(), Some("2"), "its version is there");
    assert_eq!(world.held(&b, "older").as_deref(), Some("2"), "what was committed has its name");
    // Another primary of the old generation may have given the same name to another session.
    let retry = world.append_once(&b, id(session, 1), "k", "x");
    world.settle();
    assert_eq!(world.outcome(retry), Outcome::Refused(Refusal::SessionExpired));
    assert_eq!(world.held(&b, "k").as_deref(), Some("x"), "once");
}

/// A session from before the tail is still there, and its client repeats what it heard no answer to,
/// by the version that it knows.
#[test]
pub(super) fn a_request_of_a_forced_tail_is_recognised_as_its_client_asked_for_it() {
    let mut world = World::durable().formed(a(), &[b()]);
    let session = world.open_session(&a());
    let known = world.replicas[&a()].committed();
    let first = changed(&done(&mut world, Some(id(session, 1)), put("k", "1")));
    let swapping = swap("k", first.version, "2");
    done(&mut world, Some(id(session, 2)), swapping.clone());
    done(&mut world, Some(id(session, 3)), put("k", "3"));

    let mut b = lose_all_but_the_disk_of_b(&mut world, known);
    for life in 3..5 {
        // Forced again before anybody knows that the tail is committed.
        world.force(b.clone());
        world.kept.get_mut(&b).expect("a disk").retain(|work| match work {
            Work::Committed { through } => *through <= known,
            _ => true,
        });
        let again = member("b", life);
        world.come_back(&b, &again);
        b = again;
    }
    forced(&mut world, &b);
    let id = Some(id(session, 2));
    let retry = world.ask(&b, Operation::Command { id, command: swapping });
    world.settle();
    let again = changed(&world.outcome(retry));
    assert!(again.existed && again.version > first.version, "{again:?}");
    let other = swap("k", again.version, "2");
    let reused = world.ask(&b, Operation::Command { id, command: other });
    world.settle();
    assert_eq!(world.outcome(reused), Outcome::Refused(Refusal::RequestReused));
    assert_eq!(world.held(&b, "k").as_deref(), Some("3"), "and nothing is done again");
}

/// A session expired, its client heard so and asked for the same in another one. The expiry is not
/// ordered anew: then what it refused must not be either.
#[test]
pub(super) fn what_was_refused_in_the_tail_is_not_done_after_it_was_forced() {
    let mut world = World::durable().formed(a(), &[b()]);
    let session = world.open_session(&a());
    world.run(ms(100));
    let known = world.replicas[&a()].committed();
    world.run(world.view.settings.session_lease + ms(1000));
    let refused = world.append_once(&a(), id(session, 1), "k", "x");
    world.settle();
    assert_eq!(world.outcome(refused), Outcome::Refused(Refusal::SessionExpired));
    let another = world.open_session(&a());
    let append = world.append_once(&a(), id(another, 1), "k", "x");
    world.settle();
    assert!(world.is_done(append));

    let b = lose_all_but_the_disk_of_b(&mut world, known);
    forced(&mut world, &b);
    assert_eq!(world.held(&b, "k").as_deref(), Some("x"), "once");
}

/// `a`, cut off, has a put under the number of a put that `b` commits. A client reads that of `b` and
/// would replace it, but asks `a`. Nobody can know the version of a put that is not committed: it is
/// not that of `a` which is meant.
#[test]
pub(super) fn a_name_that_another_primary_gave_names_nothing_in_a_forced_tail() {
    let mut world = World::with(a(), &[b()]);
    world.cut(&a(), &b());
    world.put(&a(), "k", "before");
    world.put(&a(), "k", "kept");
    let own = world.replicas[&a()].progress().appended;
    let cut_off = world.replicas.remove(&a()).expect("a lives");
    world.propose(b(), &[]);
    world.run(ms(500));
    let put = world.put(&b(), "k", "lost");
    world.settle();
    let lost = changed(&world.outcome(put)).version;
    assert_eq!(world.replicas[&b()].progress().appended, own, "one number, two puts");
    world.kill(&b());
    world.heal();
    world.replicas.insert(a(), cut_off);
    world.ask(&a(), Operation::Command { id: None, command: swap("k", lost, "wrong") });
    assert!(world.replicas[&a()].progress().appended > own, "it is ordered");
    forced(&mut world, &a());
    assert_eq!(world.held(&a(), "k").as_deref(), Some("kept"));
}
