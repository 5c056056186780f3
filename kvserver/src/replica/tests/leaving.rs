//! Stopping on purpose.

use super::*;

#[test]
fn a_primary_drains_hands_over_and_leaves() {
    let mut world = World::with(a(), &[b()]);
    let open = world.put(&a(), "k", "v");
    world.wishes.clear();
    world.step(&a(), Event::Leave);
    assert!(world.wishes.is_empty(), "not before what was admitted is answered");
    let refused = world.put(&a(), "k", "w");
    let handing_over = Reply::NotDone(NotDone::NotReady(NotReady::HandingOver));
    assert_eq!(world.reply(refused), &handing_over);
    world.settle();
    world.run(ms(5));
    assert!(world.is_done(open));
    assert!(world.wished(|wish| *wish == Wish::Leave));
    world.propose(b(), &[]);
    world.settle();
    assert!(world.left.contains(&a()));
    world.run(ms(10));
    assert!(world.acting(&b()), "nobody waits for a lease");
    assert_eq!(world.held(&b(), "k").as_deref(), Some("v"));
}

#[test]
fn a_backup_stays_until_the_view_without_it_is_activated() {
    let mut world = World::with(a(), &[b()]);
    world.grants = false;
    world.step(&b(), Event::Leave);
    world.run(ms(50));
    assert!(world.wished(|wish| *wish == Wish::Leave));
    world.propose(a(), &[]);
    world.run(ms(50));
    assert!(!world.left.contains(&b()), "the primary still counts on it");
    let wish = world.wishes.last().expect("a asks for activation").1.clone();
    world.grant(&a(), &wish);
    world.run(ms(50));
    assert!(world.left.contains(&b()));
}

#[test]
fn a_spare_may_go_at_once() {
    let mut world = World::with(a(), &[b()]);
    world.start(c());
    world.step(&c(), Event::Leave);
    assert!(world.left.contains(&c()));
}

#[test]
fn the_only_copy_says_what_would_be_lost_and_serves_on() {
    let mut world = World::with(a(), &[]);
    world.put(&a(), "k", "v");
    world.step(&a(), Event::Leave);
    world.step(&a(), Event::NobodyToTakeOver);
    assert!(world.noticed(|notice| *notice == Notice::OnlyCopy { keys: 1 }));
    assert!(!world.left.contains(&a()));
    let read = world.get(&a(), "k");
    assert_eq!(world.value(read).as_deref(), Some("v"));
}

#[test]
fn the_only_copy_of_nothing_may_go() {
    let mut world = World::with(a(), &[]);
    world.step(&a(), Event::Leave);
    world.step(&a(), Event::NobodyToTakeOver);
    assert!(world.left.contains(&a()));
}

/// A server that led long ago is a backup like any other: the view that another server's death
/// brings about is no hand-over of its own.
#[test]
fn a_backup_that_led_an_older_epoch_stays_until_the_view_without_it_is_activated() {
    let mut world = World::with(a(), &[b(), c()]);
    world.put(&a(), "k", "v");
    world.settle();
    world.propose(b(), &[a(), c()]);
    world.run(ms(500));
    assert!(world.acting(&b()) && world.view.eligible.contains(&a()), "a is a backup now");
    world.grants = false;
    world.step(&a(), Event::Leave);
    world.run(ms(20));
    world.kill(&b());
    world.propose(c(), &[]);
    world.settle();
    assert!(world.view.eligible.contains(&a()) && !world.view.is_activated());
    assert!(!world.left.contains(&a()), "c has not activated its view: a may still be needed");
}

/// H13 (b): a primary drains in order to hand over, and meanwhile loses the backup that was to take
/// over. The view that leaves the backup out keeps the epoch, so nothing binds it: it serves on.
#[test]
fn h13_a_primary_left_alone_while_it_hands_over_serves_on() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.settle();
    world.step(&a(), Event::Leave);
    world.kill(&b());
    world.propose(a(), &[]);
    world.run(ms(50));
    world.step(&a(), Event::NobodyToTakeOver);
    let write = world.put(&a(), "k", "w");
    world.run(ms(50));
    assert!(world.is_done(write) && world.acting(&a()));
}
