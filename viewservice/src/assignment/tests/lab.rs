//! The view server tests of the two labs. The pings of the plain telling are the lab's own.

use super::*;

/// Tells a story twice, with plain and with full servers.
macro_rules! stories {
    ($($(#[$doc:meta])* $name:ident = $story:expr;)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            #[test]
            fn with_the_pings_of_the_lab() {
                let story: fn(Kind) = $story;
                story(Kind::Plain);
            }

            #[test]
            fn with_full_servers() {
                let story: fn(Kind) = $story;
                story(Kind::Full);
            }
        }
    )*};
}

/// Long enough for a silent server to be dead and for the rest to have settled.
const TWICE_DEAD: Duration = Duration::from_millis(1000);

stories! {
    v0_there_is_no_primary_before_any_ping = |kind| {
        World::new(kind, 2).check("", "", 0);
    };

    /// E3 of dslabs allowed four ping checks; ours takes none.
    v1_the_first_server_becomes_the_first_primary = |kind| {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.check("s1", "", 1);
    };

    /// E4 of dslabs allowed four ping checks; ours takes none.
    v2_the_second_server_becomes_the_first_backup = |kind| {
        let mut world = World::setup(kind, 2, &["s1"]);
        world.start("s2");
        world.check("s1", "s2", 2);
    };

    v3_the_backup_takes_over_when_the_primary_falls_silent = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2"]);
        world.habit("s1", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.check("s2", "", 3);
    };

    v4_a_restarted_server_becomes_the_backup = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2"]);
        world.kill("s1");
        world.pass(TWICE_DEAD);
        world.check("s2", "", 3);
        world.start("s1");
        world.pass(PING_INTERVAL);
        world.check("s2", "s1", 4);
    };

    v5_idle_third_becomes_backup_when_the_primary_fails = |kind| {
        let mut world = World::setup(kind, 2, &["s2", "s1", "s3"]);
        world.check("s2", "s1", 2);
        world.kill("s2");
        world.pass(TWICE_DEAD);
        world.check("s1", "s3", 3);
    };

    v6_a_restarted_primary_is_treated_as_dead = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s3"]);
        world.restart_fast("s1");
        world.habit("s1", Habit::Zero);
        world.pass(TWICE_DEAD);
        assert_eq!(world.view().primary.unwrap().name.as_str(), "s3");
    };

    v7_a_dead_backup_is_removed_from_the_view = |kind| {
        let mut world = World::setup(kind, 2, &["s3", "s1"]);
        world.habit("s1", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.check("s3", "", 3);
        world.pass(TWICE_DEAD);
        world.check("s3", "", 3);
    };

    v8_a_view_waits_for_the_acknowledgement_of_its_primary = |kind| {
        let mut world = World::setup(kind, 2, &["s3"]);
        world.habit("s3", Habit::Stays);
        world.start("s1");
        world.pass(PING_INTERVAL * 3);
        world.check("s3", "s1", 2);
        let unacknowledged = world.view();
        world.habit("s3", Habit::Silent);
        world.pass(TWICE_DEAD * 3);
        assert_eq!(world.view(), unacknowledged, "s1 holds nothing and must not be promoted");
    };

    v9_an_uninitialised_server_never_becomes_primary = |kind| {
        let mut world = World::setup(kind, 2, &["s3", "s1"]);
        world.start("s2");
        world.habit("s2", Habit::Zero);
        world.pass(PING_INTERVAL * 4);
        world.habit("s1", Habit::Silent);
        world.habit("s3", Habit::Silent);
        world.pass(TWICE_DEAD * 4);
        assert_ne!(world.view().primary.unwrap().name.as_str(), "s2");
    };

    d1_the_first_answer_is_the_empty_view_0 = |kind| {
        let mut world = World::new(kind, 2);
        world.pass(TWICE_DEAD);
        world.check("", "", 0);
    };

    d2_the_first_server_is_primary_of_view_1_however_long_it_waits = |kind| {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.habit("s1", Habit::Zero);
        world.pass(TWICE_DEAD);
        world.check("s1", "", 1);
    };

    d3_the_backup_stands_in_view_2 = |kind| {
        let world = World::setup(kind, 2, &["s1", "s2"]);
        world.check("s1", "s2", 2);
    };

    d4_a_backup_that_came_before_the_acknowledgement_is_recruited_on_it = |kind| {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.habit("s1", Habit::Zero);
        world.start("s2");
        world.pass(PING_INTERVAL * 4);
        world.check("s1", "", 1);
        world.habit("s1", Habit::Follows);
        world.pass(PING_INTERVAL * 2);
        world.check("s1", "s2", 2);
    };

    d5_the_backup_takes_over_only_after_the_full_dead_after = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2"]);
        world.habit("s1", Habit::Silent);
        world.pass(DEAD_AFTER - PING_INTERVAL);
        world.check("s1", "s2", 2);
        world.pass(PING_INTERVAL * 2);
        world.check("s2", "", 3);
    };

    d6_an_old_primary_that_wakes_up_becomes_backup = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2"]);
        world.habit("s1", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.check("s2", "", 3);
        world.habit("s1", Habit::Stays);
        world.pass(PING_INTERVAL * 2);
        world.check("s2", "s1", 4);
    };

    d7_the_idle_server_becomes_backup_in_the_same_view_change = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2", "s3"]);
        world.habit("s1", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.check("s2", "s3", 3);
    };

    d8_before_the_acknowledgement_nobody_is_added_and_nobody_promoted = |kind| {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.habit("s1", Habit::Zero);
        world.start("s2");
        world.pass(TWICE_DEAD);
        world.check("s1", "", 1);

        let mut world = World::setup(kind, 2, &["s1"]);
        world.habit("s1", Habit::Stays);
        world.start("s2");
        world.pass(PING_INTERVAL * 2);
        world.check("s1", "s2", 2);
        world.kill("s1");
        world.pass(TWICE_DEAD);
        world.check("s1", "s2", 2);
    };

    d9_a_dead_backup_leaves_and_an_idle_server_takes_its_place = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2", "s3"]);
        world.habit("s2", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.check("s1", "s3", 3);
    };

    d10_an_uninitialised_backup_is_not_promoted = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2", "s3"]);
        world.habit("s2", Habit::Stays);
        world.kill("s1");
        world.pass(TWICE_DEAD);
        world.check("s2", "s3", 3);
        world.kill("s2");
        world.pass(TWICE_DEAD * 2);
        world.check("s2", "s3", 3);
    };

    d11_a_dead_idle_server_is_not_recruited_on_the_acknowledgement = |kind| {
        let mut world = World::new(kind, 2);
        world.start("s1");
        world.habit("s1", Habit::Zero);
        world.start("s2");
        world.habit("s2", Habit::Silent);
        world.pass(TWICE_DEAD);
        world.habit("s1", Habit::Follows);
        world.pass(PING_INTERVAL * 4);
        world.check("s1", "", 1);
    };

    d12_numbers_change_only_with_the_configuration = |kind| {
        let mut world = World::setup(kind, 2, &["s1", "s2", "s3"]);
        world.pass(TWICE_DEAD * 5);
        world.check("s1", "s2", 2);
        world.habit("s3", Habit::Silent);
        world.pass(TWICE_DEAD * 5);
        world.check("s1", "s2", 2);
    };
}

/// The pings of MIT's test function, one by one, with the lab's own loops around them.
#[test]
fn the_sequence_of_the_lab_runs_as_one_story() {
    let mut world = World::new(Kind::Plain, 2);
    let tick = |world: &mut World, pings: &[(&str, u64)]| {
        for (name, number) in pings {
            world.lab_ping(name, *number);
        }
        world.pass(PING_INTERVAL);
    };
    tick(&mut world, &[("s1", 0)]);
    world.check("s1", "", 1);
    tick(&mut world, &[("s1", 1), ("s2", 0)]);
    world.check("s1", "s2", 2);
    tick(&mut world, &[("s1", 2)]);
    for _ in 0..10 {
        tick(&mut world, &[("s2", 2)]);
    }
    world.check("s2", "", 3);
    tick(&mut world, &[("s2", 3)]);
    tick(&mut world, &[("s1", 0), ("s2", 3)]);
    world.check("s2", "s1", 4);
    tick(&mut world, &[("s2", 4)]);
    let mut seen = 4;
    for _ in 0..10 {
        world.lab_ping("s3", 0);
        tick(&mut world, &[("s1", seen)]);
        seen = world.number();
    }
    world.check("s1", "s3", 5);
    tick(&mut world, &[("s1", 5)]);
    for _ in 0..10 {
        let number = world.number();
        tick(&mut world, &[("s1", 0), ("s3", number)]);
    }
    assert_eq!(world.view().primary.unwrap().name.as_str(), "s3");
    for _ in 0..15 {
        let number = world.number();
        tick(&mut world, &[("s3", number)]);
    }
    let number = world.number();
    world.check("s3", "", number);
    for _ in 0..15 {
        tick(&mut world, &[("s1", 0), ("s3", number)]);
    }
    world.check("s3", "s1", number + 1);
    let unacknowledged = world.view();
    for _ in 0..15 {
        tick(&mut world, &[("s1", number + 1)]);
    }
    world.check("s3", "s1", number + 1);
    assert_eq!(world.view().eligible, unacknowledged.eligible);
    for _ in 0..10 {
        tick(&mut world, &[("s2", 0)]);
    }
    assert_ne!(world.view().primary.unwrap().name.as_str(), "s2");
}
