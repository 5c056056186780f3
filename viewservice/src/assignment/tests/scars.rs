//! Defects of the Go predecessor that lost data or lied, so that they stay away.

use super::*;

const A_WHILE: Duration = Duration::from_secs(2);

/// (g) A primary that restarted faster than it was missed kept its role, with an empty map.
#[test]
fn s2_g_a_primary_restarted_within_dead_after_loses_its_role() {
    for kind in [Kind::Plain, Kind::Full] {
        let mut world = World::setup(kind, 2, &["s1", "s2"]);
        let old = world.present("s1");
        world.restart_fast("s1");
        world.pass(A_WHILE);
        let view = world.view();
        assert_eq!(view.primary, Some(world.present("s2")), "{kind:?}");
        assert!(!view.eligible.contains(&old), "{kind:?}");
        assert_eq!(view.backups, [world.present("s1")], "{kind:?}: it starts over as a newcomer");
    }
}

/// (h) When a sole primary died, any idle server became primary with nothing.
#[test]
pub(super) fn s2_h_an_idle_server_does_not_replace_a_dead_sole_primary() {
    for kind in [Kind::Plain, Kind::Full] {
        let mut world = World::setup(kind, 2, &["s1"]);
        world.kill("s1");
        world.pass(A_WHILE);
        world.start("s2");
        world.pass(A_WHILE);
        world.check("s1", "", 1);
        let waiting = planner::waiting(&world.leader.state, &world.leader.liveness).unwrap();
        assert_eq!(waiting.for_servers, [ServerName::from("s1")]);
        assert!(waiting.advice.contains("--accept-data-loss"), "{}", waiting.advice);
        // And the law refuses it, whatever a planner may think.
        let (after, idle) = (world.id(), world.present("s2"));
        let usurper = Command::Propose { after, primary: idle.clone(), backups: Vec::new() };
        assert_eq!(world.propose(usurper), Err(Refusal::NotEligible(idle)));
    }
}

/// (j) When a backup died, the next view came without the primary's word on the present one.
#[test]
fn s2_j_a_backup_that_dies_before_activation_brings_in_nobody_else() {
    let mut world = World::setup(Kind::Plain, 2, &["s1"]);
    world.habit("s1", Habit::Stays);
    world.start("s2");
    world.start("s3");
    world.check("s1", "s2", 2);
    world.habit("s2", Habit::Silent);
    world.pass(A_WHILE);
    world.check("s1", "s2", 2);

    let mut world = World::setup(Kind::Full, 3, &["s1", "s2", "s3"]);
    world.habit("s2", Habit::Stays);
    world.kill("s1");
    world.check("s2", "s3", 4);
    world.start("s4");
    world.kill("s3");
    world.pass(A_WHILE);
    world.check("s2", "", 5);
    assert!(!world.view().is_activated());
    world.habit("s2", Habit::Follows);
    world.pass(A_WHILE);
    world.check("s2", "s4", 6);
}

/// (l) The view that was handed out changed under its reader: two readers could hold the same view
/// and disagree about it.
#[test]
fn s2_l_what_was_handed_out_under_one_order_is_one_record() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    let mut handed_out = vec![world.view()];
    let mut look = |world: &mut World| {
        for _ in 0..60 {
            handed_out.push(world.view());
            world.pass(Duration::from_millis(50));
        }
    };
    // Joining, declared synced within one view number, promoted, superseded.
    world.start("s2");
    look(&mut world);
    world.kill("s1");
    look(&mut world);
    world.start("s1");
    look(&mut world);
    for (earlier, later) in handed_out.iter().zip(&handed_out[1..]) {
        assert!(earlier.order() <= later.order(), "{earlier:?} then {later:?}");
        assert_eq!(earlier.order() == later.order(), earlier == later, "{earlier:?}, {later:?}");
    }
    let numbers: Vec<_> = handed_out.iter().map(|view| view.number).collect();
    let orders: Vec<_> = handed_out.iter().map(View::order).collect();
    let distinct = |mut sorted: Vec<kvproto::ViewOrder>| {
        sorted.dedup();
        sorted.len()
    };
    assert!(distinct(orders) > numbers[numbers.len() - 1].0 as usize, "also within one number");
}

/// (m) A ping could take longer to time out than it took to be declared dead.
#[test]
fn s2_m_one_lost_ping_kills_nobody_and_settings_that_would_are_refused() {
    let careless = Settings {
        ping_interval: Duration::from_secs(2),
        dead_after: Duration::from_millis(1500),
        ..Settings::default()
    };
    assert!(careless.validate().unwrap_err().to_string().contains("--dead-after"));

    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    for _ in 0..5 {
        world.habit("s1", Habit::Silent);
        world.pass(PING_INTERVAL * 2);
        world.habit("s1", Habit::Follows);
        world.pass(PING_INTERVAL * 2);
    }
    world.check("s1", "s2", 2);
}

/// Found by the simulator: while a view was proposed a joining backup restarted, then an eligible
/// one died. The view without the dead one still named the ended life of the other, which the law
/// refuses, so the primary waited for ever for a copy that was gone.
#[test]
fn a_lost_backup_of_a_proposed_view_is_left_out_together_with_lives_that_are_over() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2"]);
    world.habit("s1", Habit::Stays);
    world.start("s3");
    let proposed = world.view();
    let (s2, s3) = (world.present("s2"), world.present("s3"));
    assert_eq!(proposed.backups, [s2, s3.clone()]);
    world.restart_fast("s3");
    world.pass(A_WHILE);
    assert_ne!(world.present("s3"), s3);
    assert_eq!(world.view().number, proposed.number, "it blocks nobody");
    world.kill("s2");
    assert_eq!(world.view().backups, []);
    world.habit("s1", Habit::Follows);
    world.pass(A_WHILE);
    assert!(world.view().is_activated());
    assert_eq!(world.view().backups, [world.present("s3")]);
}

/// The same through the wish of a primary that cannot reach the eligible one.
#[test]
fn an_eviction_from_a_proposed_view_names_no_life_that_is_over() {
    let mut world = World::setup(Kind::Full, 3, &["s1", "s2"]);
    world.habit("s1", Habit::Stays);
    world.start("s3");
    let (view, s1, s2) = (world.view(), world.present("s1"), world.present("s2"));
    world.restart_fast("s3");
    world.pass(A_WHILE);
    assert!(matches!(world.wish(&s1, evict(&view, &s2)), Granted::Evict(..)));
    assert!(!world.view().backups.contains(&s2));
}
