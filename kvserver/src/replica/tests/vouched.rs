//! VIEW-8 on the side of the servers: who counts can prove which views there were, and nobody acts on
//! the word of a past that is not its own.

use super::*;
use kvproto::ids::{History, StreamNumber};

/// A view in which nobody but its primary is eligible had its new primary, which knew less, empty the
/// former one before that had heard of any such view.
#[test]
pub(super) fn a_copy_answers_a_primary_once_a_record_of_its_epoch_is_on_its_disk() {
    let mut world = World::with(a(), &[b(), c()]);
    let former = world.replicas[&c()].epoch();
    world.kill(&a());
    world.deaf.insert(c());
    world.propose(b(), &[c()]);
    world.run(ms(200));
    assert!(!world.view.is_activated(), "c says nothing to a primary that nobody has named to it");
    assert_eq!(world.replicas[&c()].epoch(), former, "which epochs there are it hears elsewhere");
    world.deaf.clear();
    world.slow_record.insert(c());
    world.hear_view(&c());
    world.run(ms(200));
    assert!(!world.view.is_activated(), "after a restart it could not prove this view");
    world.finish_record(&c());
    world.run(ms(200));
    assert!(world.view.is_activated() && world.view.eligible.contains(&c()));
    assert!(world.acting(&b()), "the opening that came first was kept");
}

#[test]
fn a_copy_that_hears_of_an_epoch_and_then_of_a_newer_one_answers_the_newer() {
    let mut world = World::with(a(), &[b(), c()]);
    world.kill(&a());
    world.deaf.insert(c());
    world.propose(b(), &[c()]);
    world.run(ms(50));
    world.deaf.clear();
    world.propose(c(), &[b()]);
    world.run(ms(900));
    assert!(world.acting(&c()));
}

/// The primary alone held what it acknowledged, came back with its disk, and could show no newer view
/// than that in which the other was complete too.
#[test]
pub(super) fn a_shrink_takes_effect_when_it_is_on_the_primarys_own_disk() {
    let mut world = World::with(a(), &[b()]);
    world.cut(&a(), &b());
    world.slow_record.insert(a());
    world.propose(a(), &[]);
    world.run(ms(50));
    assert_eq!(world.view.eligible, BTreeSet::from([a()]), "the activation is confirmed");
    let write = world.put(&a(), "k", "v");
    world.run(ms(50));
    assert!(!world.answered(write), "a cannot prove yet that b is out");
    world.finish_record(&a());
    world.run(ms(50));
    assert!(world.is_done(write));
}

/// a and b held what was acknowledged; a was off, and b could show no newer view than that in which
/// c was complete too.
#[test]
pub(super) fn a_shrink_takes_effect_when_everybody_who_stays_has_it_on_disk() {
    let mut world = World::with(a(), &[b(), c()]);
    world.cut(&a(), &c());
    world.slow_record.insert(b());
    world.propose(a(), &[b()]);
    world.run(ms(50));
    assert_eq!(world.view.eligible, BTreeSet::from([a(), b()]), "the activation is confirmed");
    let write = world.put(&a(), "k", "v");
    world.run(ms(50));
    assert!(!world.answered(write), "b cannot prove yet that c is out");
    world.finish_record(&b());
    world.run(ms(50));
    assert!(world.is_done(write));
}

#[test]
pub(super) fn a_new_primary_acts_when_everybody_who_counts_has_its_first_activation_on_disk() {
    let mut world = World::with(a(), &[b(), c()]);
    world.kill(&a());
    world.grants = false;
    world.propose(b(), &[c()]);
    world.run(ms(600));
    world.slow_record.insert(c());
    let (generation, number) = (world.view.generation, world.view.number);
    world.grant(&b(), &Wish::Activate { generation, number, reconciled: vec![c()] });
    world.run(ms(100));
    assert!(world.view.is_activated() && !world.acting(&b()));
    world.finish_record(&c());
    world.run(ms(100));
    assert!(world.acting(&b()));
}

/// S2, declared synced later, held the acknowledged write and had never stored the view in which it
/// counted: S0 was off, and S1 was promoted.
#[test]
pub(super) fn a_newcomer_is_asked_for_once_it_has_the_primarys_newest_record_on_disk() {
    let mut world = World::with(a(), &[]);
    world.start(b());
    world.hear_view(&b());
    world.slow_record.insert(b());
    world.propose(a(), &[b()]);
    world.run(ms(300));
    let asked = |wish: &Wish| matches!(wish, Wish::Synced { .. });
    assert!(world.view.is_activated() && !world.wished(asked));
    world.finish_record(&b());
    world.run(ms(300));
    assert!(world.view.eligible.contains(&b()));
}

/// A view service that was put back makes a view of the same number once more.
#[test]
pub(super) fn an_epoch_of_the_same_name_but_of_another_past_is_another_one() {
    let mut world = World::with(a(), &[b()]);
    let open = Message {
        cluster: CLUSTER,
        epoch: world.view.epoch(),
        from: a(),
        to: b(),
        stream: StreamNumber(1000),
        body: Body::Open { began: History([9; 16]) },
    };
    world.deliver(open);
    assert!(world.wire.is_empty(), "it is not answered");
    let write = world.put(&a(), "k", "v");
    world.run(ms(50));
    assert!(world.is_done(write), "and the stream of b's own primary stays open");
}

#[test]
pub(super) fn who_learns_that_the_cluster_went_on_without_it_serves_nothing_and_keeps_everything() {
    let mut world = World::with(a(), &[b()]);
    world.put(&a(), "k", "v");
    world.run(ms(200));
    world.step(&b(), Event::Estranged);
    let write = world.put(&a(), "k", "w");
    world.run(ms(200));
    assert!(!world.answered(write), "b helps nobody of that past any more");
    world.step(&a(), Event::Estranged);
    assert!(!world.acting(&a()));
    assert_eq!(world.read_table(&a(), "k"), None, "nothing is read from its table");
    let read = world.get(&a(), "k");
    assert!(world.is_refused(read));
    for who in [a(), b()] {
        world.hear_view(&who);
        assert_eq!(world.held(&who, "k").as_deref(), Some("v"));
    }
    world.run(ms(200));
    assert!(!world.acting(&a()), "a record of that past changes nothing");
}

/// In memory what it holds may be all that there is.
#[test]
fn who_stands_still_leaves_only_when_nothing_is_lost_by_it() {
    let mut world = World::with(a(), &[]);
    world.put(&a(), "k", "v");
    world.run(ms(50));
    world.step(&a(), Event::Estranged);
    world.step(&a(), Event::Leave);
    assert!(!world.left.contains(&a()));
    assert!(world.noticed(|notice| *notice == Notice::OnlyCopy { keys: 1 }));
}

#[test]
fn a_peer_that_refuses_an_old_epoch_ends_a_primary_and_teaches_no_record() {
    let mut world = World::with(a(), &[b(), c()]);
    world.deaf.insert(a());
    let before = world.replicas[&a()].view().clone();
    world.propose(b(), &[c()]);
    world.run(ms(300));
    assert!(!world.acting(&a()), "it was refused by those who know better");
    assert_eq!(*world.replicas[&a()].view(), before, "the view service will say what is so");
}
