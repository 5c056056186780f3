//! A disk that hangs: what it was given is not done, and no error is told.

use super::*;

/// `stall-after`, and a moment.
const STALLED: Duration = Duration::from_millis(770);

fn yields(wish: &Wish) -> bool {
    matches!(wish, Wish::Yield { .. })
}

fn evicts(wish: &Wish) -> bool {
    matches!(wish, Wish::Evict { .. })
}

fn formed(backups: &[Member]) -> World {
    let mut world = World::durable().formed(a(), backups);
    world.wishes.clear();
    world
}

/// Holes 8 (a): a primary that left its own disk out of what commits wait for, as it does a backup's,
/// would answer what its own disk lacks. Both crash, it alone comes back, and the view service, which
/// has heard of less, lets it lead.
#[test]
pub(super) fn hole_8a_what_only_others_have_safe_is_not_answered() {
    let mut world = formed(&[b()]);
    world.slow_journal.insert(a());
    let write = world.put(&a(), "k", "v");
    world.run(STALLED * 3);
    assert!(!world.answered(write), "b has it, and a has not");
    world.finish_journal(&a());
    world.run(ms(10));
    assert!(world.is_done(write));
}

#[test]
pub(super) fn a_primary_whose_disk_hangs_yields_to_the_copy_that_has_what_it_lacks() {
    let mut world = formed(&[b()]);
    world.slow_journal.insert(a());
    let write = world.put(&a(), "k", "v");
    world.run(ms(700));
    assert!(!world.wished(yields), "not before stall-after");
    world.run(ms(80));
    assert!(world.wished(|wish| matches!(wish, Wish::Yield { to, .. } if *to == [b()])));
    assert!(world.noticed(|notice| *notice == Notice::DiskHangs(true)));
    world.propose(b(), &[]);
    world.settle();
    assert_eq!(world.reply(write), &Reply::Unknown, "b has it, and may keep it");
    world.run(ms(10));
    assert!(world.acting(&b()), "the word of a, for which b waits, needs no disk");
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
    let next = world.put(&b(), "k", "w");
    world.settle();
    assert!(world.is_done(next));
    // Its disk moves again: it is brought up by the log.
    world.finish_journal(&a());
    assert!(world.noticed(|notice| *notice == Notice::DiskHangs(false)));
    world.propose(b(), &[a()]);
    world.run(ms(300));
    assert!(world.view.eligible.contains(&a()));
    assert!(
        !world.noticed(|notice| matches!(notice, Notice::TransferStarted { to, .. } if *to == a()))
    );
    assert_eq!(world.held(&a(), "k").as_deref(), Some("w"));
}

#[test]
fn of_several_copies_it_names_those_that_have_what_it_lacks() {
    let mut world = formed(&[b(), c()]);
    world.slow_journal.extend([a(), b()]);
    world.put(&a(), "k", "v");
    world.run(STALLED);
    assert!(world.wished(|wish| matches!(wish, Wish::Yield { to, .. } if *to == [c()])));
}

/// Holes 8 (c): both disks hang, on one volume perhaps. Whoever led would hand over to and fro.
#[test]
pub(super) fn hole_8c_where_both_disks_hang_nobody_yields() {
    let mut world = formed(&[b()]);
    world.slow_journal.extend([a(), b()]);
    let write = world.put(&a(), "k", "v");
    world.run(STALLED * 3);
    assert!(!world.wished(yields));
    // The disk of b moves first: from then on a is the one for which all wait.
    world.finish_journal(&b());
    world.run(ms(700));
    assert!(!world.wished(yields));
    world.run(ms(300));
    assert!(world.wished(yields) && !world.answered(write));
}

/// Without b it could not go on either, and b could no longer lead in its place.
#[test]
pub(super) fn a_primary_whose_disk_hangs_has_nobody_left_out() {
    let mut world = formed(&[b()]);
    world.slow_journal.insert(a());
    world.cut(&a(), &b());
    world.put(&a(), "k", "v");
    world.run(STALLED * 3);
    assert!(!world.wished(evicts));
    world.finish_journal(&a());
    world.run(ms(20));
    assert!(world.wished(evicts), "from now on only b is waited for");
}

#[test]
fn a_disk_that_is_slow_but_moves_is_no_reason_to_yield() {
    let mut world = formed(&[b()]);
    for n in 0..6 {
        world.slow_journal.insert(a());
        world.put(&a(), &format!("k{n}"), "v");
        world.run(ms(600));
        world.finish_journal(&a());
    }
    assert!(!world.wished(yields));
}

/// Two slow disks of one speed: a large write takes both longer than `stall-after`.
#[test]
fn a_disk_that_is_no_slower_than_the_others_is_no_reason_to_yield() {
    let mut world = formed(&[b()]);
    world.slow_journal.extend([a(), b()]);
    let write = world.put(&a(), "k", "v");
    world.run(STALLED * 2);
    world.finish_journal(&b());
    world.run(ms(300));
    world.finish_journal(&a());
    world.run(ms(20));
    assert!(world.is_done(write) && !world.wished(yields));
}

#[test]
fn pings_tell_how_long_the_disk_has_stood_still_with_something_to_do() {
    let mut world = formed(&[b()]);
    let waits = |world: &World| world.replicas[&a()].progress().disk_waits;
    world.slow_journal.insert(a());
    world.run(ms(500));
    assert_eq!(waits(&world), Duration::ZERO, "it has nothing to do");
    world.put(&a(), "k", "v");
    world.run(ms(500));
    assert_eq!(waits(&world), ms(500));
    world.finish_journal(&a());
    assert_eq!(waits(&world), Duration::ZERO);
}

/// What ends in that time is this server's own pause: its disk may have done everything.
#[test]
fn a_pause_of_the_server_is_not_held_against_its_disk() {
    let mut world = formed(&[b()]);
    world.slow_journal.insert(a());
    world.put(&a(), "k", "v");
    world.run(ms(10));
    world.run_ticking(ms(900), |who| *who != a());
    world.step(&a(), Event::Tick);
    assert!(world.replicas[&a()].progress().disk_waits < ms(10));
    assert!(!world.wished(yields));
}

/// REP-10: what waits for the disk is not drained, and its outcome is open.
#[test]
pub(super) fn a_primary_whose_disk_hangs_leaves_without_it() {
    let mut world = formed(&[b()]);
    world.slow_journal.extend([a(), b()]);
    let write = world.put(&a(), "k", "v");
    world.step(&a(), Event::Leave);
    world.run(ms(700));
    assert!(!world.wished(|wish| *wish == Wish::Leave), "it may move yet");
    world.run(ms(80));
    assert!(world.wished(|wish| *wish == Wish::Leave));
    world.propose(b(), &[]);
    world.settle();
    assert!(world.left.contains(&a()));
    assert_eq!(world.reply(write), &Reply::Unknown);
}

#[test]
fn a_backup_whose_disk_hangs_leaves_like_any_other() {
    let mut world = formed(&[b()]);
    world.slow_journal.insert(b());
    world.put(&a(), "k", "v");
    world.step(&b(), Event::Leave);
    world.run(ms(50));
    assert!(world.wished(|wish| *wish == Wish::Leave));
    world.propose(a(), &[]);
    world.run(ms(50));
    assert!(world.left.contains(&b()));
}
