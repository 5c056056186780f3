//! Holes of earlier wordings of the protocol, as far as they lie in the view service.

use super::*;

/// H3: a declaration that was asked for in an older view is refused, and the later view does not
/// name the joiner, so its primary is free of it.
#[test]
pub(super) fn h3_a_declaration_of_an_older_view_is_refused() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.habit("s1", Habit::Zero);
    world.start("s2");
    let (primary, joiner, asked_in) = (world.present("s1"), world.present("s2"), world.view());
    world.wish(&primary, activate(&asked_in, &[]));
    world.kill("s2");
    let now = world.view();
    assert!(now.number > asked_in.number && now.backups.is_empty());
    let late = Command::Synced { by: primary, view: ViewId::of(&asked_in), server: joiner };
    assert!(matches!(world.propose(late), Err(Refusal::Overtaken { .. })));
    assert_eq!(world.view(), now);
}

/// H4: the member that a command names is an incarnation. One that restarted empty meanwhile, at
/// the same address, gets nothing from it.
#[test]
pub(super) fn h4_a_restart_under_way_gains_nothing_from_the_commands_of_its_former_life() {
    // Activate names s2, which restarts before the command arrives.
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.kill("s1");
    let view = world.view();
    let (primary, others) = (view.primary.clone().unwrap(), view.backups.clone());
    let name = others[0].name.clone();
    let reborn = restart(&mut world, &name);
    let command = Command::Activate {
        by: primary,
        view: ViewId::of(&view),
        reconciled: vec![reborn.clone(), others[0].clone()],
    };
    world.propose(command).unwrap();
    assert!(!world.view().eligible.contains(&reborn));
    assert!(world.view().eligible.contains(&others[0]), "still required until the next view");

    // Synced names a joiner, which restarts before the command arrives.
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.habit("s1", Habit::Zero);
    world.start("s2");
    let (primary, joiner, view) = (world.present("s1"), world.present("s2"), world.view());
    world.wish(&primary, activate(&view, &[]));
    let reborn = restart(&mut world, &"s2".into());
    for server in [joiner, reborn] {
        let command = Command::Synced { by: primary.clone(), view: ViewId::of(&view), server };
        world.propose(command).unwrap_err();
    }
    assert_eq!(world.view().eligible.into_iter().collect::<Vec<_>>(), [primary]);
}

/// H11: before the first activation there is no data, so any server may be named.
#[test]
pub(super) fn h11_a_first_primary_that_dies_before_it_activates_blocks_nothing() {
    for kind in [Kind::Plain, Kind::Full] {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.habit("s1", Habit::Zero);
        world.start("s2");
        world.check("s1", "", 1);
        world.kill("s1");
        world.pass(DEAD_AFTER * 2);
        world.check("s2", "", 2);
        assert!(world.view().is_activated(), "{kind:?}");
    }
}

/// H12: the primaryship that others have left is over, even if the view that ended it was never
/// activated.
#[test]
pub(super) fn h12_a_primary_named_again_after_a_proposed_other_gets_a_new_epoch() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let first = world.view().epoch();
    for (primary, backup) in [(&s2, &s1), (&s1, &s2)] {
        let command = Command::Propose {
            after: world.id(),
            primary: primary.clone(),
            backups: vec![backup.clone()],
        };
        world.propose(command).unwrap();
    }
    let again = world.view();
    assert!(again.is_primary(&s1) && again.epoch() > first);
    assert_eq!(again.primary_since, again.number);
}

/// A server registers anew at once, as after a death that was noticed.
fn restart(world: &mut World, name: &ServerName) -> Member {
    let former = world.leader.state.present(name).unwrap();
    let command = Command::Register {
        name: name.clone(),
        kind: Kind::Full,
        replaces: Some(former.incarnation),
        life: LifeId::default(),
        held: None,
    };
    world.propose(command).unwrap();
    world.present(name.as_str())
}
