//! What a primary that has used up its memory still does, and what it refuses.

use super::*;

/// Far more than the few keys of a test need, in bytes.
const ROOM: u64 = 4000;

/// A primary with a backup, whose memory is used up by `k0`, `k1` and so on.
fn full() -> (World, usize) {
    let mut world = World::new();
    world.tuning.memory_max = ROOM + 100;
    world.tuning.memory_reserved = 100;
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
        assert_eq!(*max, ROOM + 100, "{reply:?}");
        assert!(used <= max && *used > *max - 300, "{reply:?}");
    }
    assert_eq!(world.replicas[&a()].committed(), before, "nothing of it was ordered");
}

#[test]
fn sessions_are_data_too() {
    let (mut world, _) = full();
    let refused = (0..100).any(|_| {
        let token = command(&mut world, None, Command::OpenSession);
        matches!(world.reply(token), Reply::NotDone(NotDone::OutOfMemory { .. }))
    });
    assert!(refused, "a hundred sessions fit into what was left");
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
    world.tuning.memory_max = ROOM;
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
    world.tuning.memory_max = ROOM;
    let mut world = world.formed(a(), &[b()]);
    world.cut(&a(), &b());
    let refused = (0..100).any(|key| {
        let write = world.put(&a(), &format!("k{key}"), &"v".repeat(100));
        world.is_refused(write)
    });
    assert!(refused, "a hundred writes of which none is committed fit into {ROOM} bytes");
}
