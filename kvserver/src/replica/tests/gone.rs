//! Copies whose data directory is deleted or replaced under them.

use super::*;

use crate::journal::Completion;

impl World {
    /// The directory of a copy is gone: its journal says so, and finishes nothing any more.
    fn lose_directory(&mut self, who: &Member) {
        self.slow_journal.insert(who.clone());
        self.step(who, Event::Journal(Completion::DirectoryGone));
    }

    fn durable_pair() -> World {
        World { durable: true, ..World::new() }.formed(a(), &[b()])
    }
}

fn refused(server: &Member) -> Reply {
    Reply::NotDone(NotDone::DirectoryGone { server: server.name.clone() })
}

#[test]
fn a_primary_without_its_directory_acknowledges_nothing_and_answers_reads() {
    let mut world = World::durable_pair();
    let before = world.put(&a(), "k", "v");
    world.settle();
    assert!(world.is_done(before));
    world.slow_journal.insert(a());
    let open = world.put(&a(), "k", "w");
    world.settle();
    assert!(!world.answered(open), "its own journal is one of the copies");
    world.lose_directory(&a());
    assert_eq!(world.reply(open), &Reply::Unknown, "it may be in the log of the backup");
    let later = world.put(&a(), "k", "x");
    assert_eq!(world.reply(later), &refused(&a()));
    world.run(ms(1_000));
    let read = world.get(&a(), "k");
    world.settle();
    assert_eq!(world.value(read).as_deref(), Some("v"));
    assert!(!world.left.contains(&a()), "nobody else leads yet");
    assert!(world.replicas[&a()].progress().directory_gone);
}

/// What a request may have done is never called not done.
#[test]
fn a_repetition_of_what_was_ordered_is_not_refused_as_certainly_not_done() {
    let mut world = World::durable_pair();
    let session = world.open_session(&a());
    let done = world.append_once(&a(), id_of(session, 1), "k", "x");
    world.settle();
    assert!(world.is_done(done));
    world.slow_journal.insert(a());
    world.append_once(&a(), id_of(session, 2), "k", "y");
    world.settle();
    world.lose_directory(&a());
    let again = world.append_once(&a(), id_of(session, 2), "k", "y");
    assert_eq!(world.reply(again), &Reply::Unknown);
    let new = world.append_once(&a(), id_of(session, 3), "k", "z");
    assert_eq!(world.reply(new), &refused(&a()));
}

fn id_of(session: SessionId, number: u64) -> RequestId {
    let number = RequestNumber(number);
    RequestId { session, number, first_open: RequestNumber(1) }
}

#[test]
fn a_backup_without_its_directory_acknowledges_nothing_and_goes_when_nobody_counts_on_it() {
    let mut world = World::durable_pair();
    world.lose_directory(&b());
    let write = world.put(&a(), "k", "v");
    world.run(ms(300));
    assert!(!world.answered(write) && !world.left.contains(&b()));
    assert!(!world.wished(|wish| *wish == Wish::Leave), "it is told by pings");
    world.propose(a(), &[]);
    world.run(ms(50));
    assert!(world.is_done(write) && world.left.contains(&b()));
}

/// Both directories are deleted, one after the other: the successor loses its own before it can begin.
#[test]
pub(super) fn a_primary_without_its_directory_stays_until_its_successor_has_begun() {
    let mut world = World::durable_pair();
    world.put(&a(), "k", "v");
    world.settle();
    world.lose_directory(&a());
    world.slow_journal.insert(b());
    world.propose(b(), &[]);
    world.run(ms(700));
    assert!(!world.acting(&b()), "its barrier is not safe");
    assert!(!world.left.contains(&a()), "it may hold the last copy");
    world.finish_journal(&b());
    world.run(ms(700));
    assert!(world.acting(&b()) && world.left.contains(&a()));
}

/// It was to take over, and has lost its directory too: nobody else can show what was acknowledged.
#[test]
fn the_last_copy_begins_in_memory_to_be_read_and_acknowledges_nothing() {
    let mut world = World::durable_pair();
    world.put(&a(), "k", "v");
    world.settle();
    world.lose_directory(&b());
    world.kill(&a());
    world.propose(b(), &[]);
    world.run(ms(700));
    assert!(world.acting(&b()));
    let read = world.get(&b(), "k");
    world.settle();
    assert_eq!(world.value(read).as_deref(), Some("v"));
    let write = world.put(&b(), "k", "w");
    assert_eq!(world.reply(write), &refused(&b()));
    // An operator's wish to stop it is not granted as if its data were on a disk.
    world.step(&b(), Event::Leave);
    world.step(&b(), Event::NobodyToTakeOver);
    assert!(world.noticed(|notice| *notice == Notice::OnlyCopy { keys: 1 }));
    assert!(!world.left.contains(&b()));
}

/// A newcomer with a directory is filled from the memory of the last copy, and can take over.
#[test]
fn the_last_copy_fills_a_newcomer_that_has_its_own_directory() {
    let mut world = World { durable: true, ..World::new() }.formed(a(), &[]);
    world.put(&a(), "k", "v");
    world.settle();
    world.lose_directory(&a());
    world.start(c());
    world.propose(a(), &[c()]);
    world.run(ms(500));
    assert!(world.view.eligible.contains(&c()), "it holds everything, on its disk");
    world.propose(c(), &[]);
    world.run(ms(700));
    assert!(world.acting(&c()) && world.left.contains(&a()));
    assert_eq!(world.held(&c(), "k").as_deref(), Some("v"));
}
