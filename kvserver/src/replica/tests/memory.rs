//! What a primary that has used up its memory still does, and what it refuses.

use super::*;

/// Far more than the few keys of a test need, in bytes.
const ROOM: u64 = 4000;

/// A primary with a backup, whose memory is used up by `k0`, `k1` and so on.
fn full() -> (World, usize) {
    let mut world = World::new();
    world.tuning.data_max = ROOM;
    let mut world = world.formed(a(), &[b()]);
    let mut keys = 0;
    loop {
        let write = world.put(&a(), &format!("k{keys}"), &"v".repeat(100));
        world.settle();
        if world.is_refused(write) {
            break;
        }
        keys += 1;
    }
    assert!(keys > 3, "only {keys} keys found room");
    (world, keys)
}

fn command(world: &mut World, id: Option<RequestId>, command: Command) -> Token {
    let token = world.ask(&a(), Operation::Command { id, command });
    world.settle();
    token
}

fn change(key: &str, action: Action) -> Command {
    Command::Change(Change { key: Bytes::copy_from_slice(key.as_bytes()), action })
}

#[test]
fn what_grows_the_data_is_refused_with_what_is_used_and_what_there_is() {
    let (mut world, _) = full();
    let large = Bytes::from(vec![b'v'; 2000]);
    let missing = kvproto::Expect::Missing;
    let growing = [
        change("new", Action::Put(large.clone())),
        change("k0", Action::Append(large.clone())),
        change("new", Action::CompareAndSet { expect: missing, new_value: Some(large.clone()) }),
        Command::Batch(vec![
            Change { key: "k0".into(), action: Action::Delete },
            Change { key: "new".into(), action: Action::Put(large) },
        ]),
    ];
    let before = world.replicas[&a()].committed();
    for growing in growing {
        let refused = command(&mut world, None, growing);
        let reply = world.reply(refused);
        let Reply::NotDone(NotDone::OutOfMemory { used, max }) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(*max, ROOM, "{reply:?}");
        assert!(used <= max && *used > *max - 300, "{reply:?}");
    }
    assert_eq!(world.replicas[&a()].committed(), before, "nothing of it was ordered");
}

#[test]
fn sessions_are_data_too() {
    let mut world = World::new();
    world.tuning.data_max = ROOM;
    let mut world = world.formed(a(), &[b()]);
    for _ in 0..100 {
        world.open_session(&a());
    }
    let write = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_refused(write), "a hundred sessions leave no room for a key");
}

/// A client that came when the store was full was refused its session, and so could delete nothing.
#[test]
fn a_full_store_is_emptied_by_a_client_that_comes_later() {
    let (mut world, keys) = full();
    let session = world.open_session(&a());
    // As clients do: who asks for the next has heard of the one before.
    let id = |number| RequestId { first_open: RequestNumber(number), ..id(session, number) };
    for key in 0..keys {
        let delete = change(&format!("k{key}"), Action::Delete);
        let gone = command(&mut world, Some(id(key as u64 + 1)), delete);
        assert!(world.is_done(gone), "{:?}", world.reply(gone));
    }
    let write = world.append_once(&a(), id(keys as u64 + 1), "again", "v");
    world.settle();
    assert!(world.is_done(write));
}

/// The allocator rounds large values up by more than small ones.
#[test]
fn the_data_never_takes_more_than_there_is_for_it() {
    for size in [100, 70_000, 1_000_000] {
        let mut world = World::new();
        world.tuning.data_max = 20 * size + 5_000;
        let mut world = world.formed(a(), &[b()]);
        let session = world.open_session(&a());
        let value = "v".repeat(size as usize);
        let refused = (1..100).find(|number| {
            // Two at a time: what is ordered counts before it is applied.
            let key = format!("k{}", number % 30);
            let token = world.append_once(&a(), id(session, *number), &key, &value);
            world.put(&a(), &format!("{key}, too"), &value);
            world.settle();
            let memory = world.replicas[&a()].progress().memory;
            assert!(memory.used <= memory.max, "{memory:?} with values of {size} bytes");
            world.is_refused(token)
        });
        assert!(refused.is_some_and(|number| number > 5), "{refused:?} with {size} bytes");
    }
}

/// Sessions remember what a failed condition met: 64 of them held 64 times the largest value, and a
/// newcomer got a copy of each.
#[test]
fn answers_that_hold_what_a_condition_met_are_data_before_they_are_given() {
    let mut world = World::new();
    world.tuning.data_max = 400_000;
    let mut world = world.formed(a(), &[b()]);
    let session = world.open_session(&a());
    // The value is ordered, and so is in nobody's store yet when the conditions are.
    world.put(&a(), "k", &"v".repeat(100_000));
    let tokens: Vec<_> = (1..20)
        .map(|number| {
            let expect = kvproto::Expect::Missing;
            let command = change("k", Action::CompareAndSet { expect, new_value: None });
            let id = Some(id(session, number));
            world.ask(&a(), Operation::Command { id, command })
        })
        .collect();
    world.settle();
    let memory = world.replicas[&a()].progress().memory;
    assert!(memory.used <= memory.max, "{memory:?}");
    assert!(tokens.iter().any(|token| world.is_refused(*token)));
    assert!(tokens.iter().any(|token| !world.is_refused(*token)), "there is room for some");
}

#[test]
fn people_are_told_once_that_writes_are_refused_and_once_that_there_is_room_again() {
    let (mut world, keys) = full();
    let said = |world: &World| {
        let of_memory = |(_, notice): &&(Member, Notice)| {
            matches!(notice, Notice::OutOfMemory(_) | Notice::RoomAgain(_))
        };
        let notices = world.notices.iter().filter(of_memory);
        notices.map(|(_, notice)| matches!(notice, Notice::OutOfMemory(_))).collect::<Vec<_>>()
    };
    let large = "v".repeat(2000);
    for _ in 0..3 {
        let refused = world.put(&a(), "large", &large);
        world.run(ms(9_000));
        assert!(world.is_refused(refused));
    }
    assert_eq!(said(&world), [true]);
    command(&mut world, None, change("k0", Action::Delete));
    command(&mut world, None, change("k1", Action::Delete));
    world.run(ms(2_000));
    assert_eq!(said(&world), [true, false], "{keys} keys");
}

#[test]
fn reads_and_deletes_go_on_and_make_room_for_writes() {
    let (mut world, keys) = full();
    let read = world.get(&a(), "k0");
    world.settle();
    assert_eq!(world.value(read), Some("v".repeat(100)));
    for key in 0..keys {
        let gone = command(&mut world, None, change(&format!("k{key}"), Action::Delete));
        assert!(world.is_done(gone), "{:?}", world.reply(gone));
    }
    let write = world.put(&a(), "again", &"v".repeat(100));
    world.settle();
    assert!(world.is_done(write));
    world.run(ms(200));
    assert_eq!(world.held(&b(), "again"), Some("v".repeat(100)));
}

#[test]
fn a_request_that_was_done_is_answered_again_although_memory_is_used_up_since() {
    let mut world = World::new();
    world.tuning.data_max = ROOM;
    let mut world = world.formed(a(), &[b()]);
    let session = world.open_session(&a());
    let done = world.append_once(&a(), id(session, 1), "log", "x");
    world.settle();
    let mut number = 1;
    loop {
        number += 1;
        let next = world.append_once(&a(), id(session, number), "log", &"y".repeat(300));
        world.settle();
        if world.is_refused(next) {
            break;
        }
    }
    let again = world.append_once(&a(), id(session, 1), "log", "x");
    world.settle();
    assert_eq!(world.outcome(again), world.outcome(done));
    let close = command(&mut world, None, Command::CloseSession(session));
    assert!(world.is_done(close), "and a session can be closed");
}

#[test]
fn what_is_ordered_and_not_yet_committed_counts() {
    let mut world = World::new();
    world.tuning.data_max = ROOM;
    let mut world = world.formed(a(), &[b()]);
    world.cut(&a(), &b());
    let refused = (0..100).any(|key| {
        let write = world.put(&a(), &format!("k{key}"), &"v".repeat(100));
        world.is_refused(write)
    });
    assert!(refused, "a hundred writes of which none is committed fit into {ROOM} bytes");
}
