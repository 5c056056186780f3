//! Backups that keep the others waiting: who is replaced, who is left out, and when it is tried again.

use super::*;

/// Long enough for everybody to be heard several times.
const A_WHILE: Duration = Duration::from_secs(2);

/// Lets time pass, and checks that a second complete copy is there all the time.
fn pass_with_two_complete(world: &mut World, duration: Duration) {
    let end = world.now + duration;
    while world.now < end {
        world.pass(PING_INTERVAL / 2);
        assert!(world.view().eligible.len() >= 2, "{:?}", world.view());
    }
}

/// Holes 12: the slow copy went before the spare was complete; then the primary died, and with it all
/// that was in memory.
#[test]
pub(super) fn a_slow_backup_goes_when_another_has_taken_its_place() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let (s1, s2, s3) = (world.present("s1"), world.present("s2"), world.present("s3"));
    world.habit("s1", Habit::Stays);
    assert_eq!(world.wish(&s1, is_slow(&world.view(), &s2)), Granted::Slow(s2.clone()));
    let view = world.view();
    assert_eq!(view.backups, [s2.clone(), s3.clone()]);
    assert_eq!(view.eligible, [s1.clone(), s2.clone()].into());
    assert_eq!(world.wish(&s1, is_slow(&view, &s2)), Granted::Slow(s2.clone()));
    world.habit("s1", Habit::Follows);
    pass_with_two_complete(&mut world, A_WHILE);
    let view = world.view();
    assert_eq!((view.backups.clone(), view.eligible), (vec![s3.clone()], [s1, s3].into()));
    let left_out = world.leader.liveness.left_out(&s2.name, world.now).expect("it was left out");
    assert_eq!(left_out.times, 1);
    pass_with_two_complete(&mut world, A_WHILE);
    assert_eq!(world.view().number, view.number, "nobody comes back for it");
}

/// It was said of the new primary that it had been left out.
#[test]
fn a_slow_backup_that_takes_over_was_not_left_out() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    world.leader.liveness.slow(&world.present("s2"), "it stands still".into(), world.now);
    world.kill("s1");
    world.pass(A_WHILE);
    assert_eq!(world.view().primary, Some(world.present("s2")));
    assert!(world.leader.liveness.left_out(&"s2".into(), world.now).is_none());
}

/// It was said once, and it has been quick since: there must not be three copies for ever.
#[test]
fn a_replacement_is_brought_to_its_end() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2", "s3"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    world.wish(&s1, is_slow(&world.view(), &s2));
    world.kill("s3");
    pass_with_two_complete(&mut world, A_WHILE);
    assert_eq!(world.view().backups, [s2], "nobody else is left");
    world.start("s3");
    pass_with_two_complete(&mut world, A_WHILE);
    assert_eq!(world.view().backups, [world.present("s3")]);
}

#[test]
fn a_slow_backup_without_a_substitute_is_left_out_if_writes_go_on_without_it() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    assert!(matches!(world.wish(&s1, is_slow(&world.view(), &s2)), Granted::Evict(..)));
    assert_eq!(world.leader.liveness.left_out(&s2.name, world.now).map(|it| it.times), Some(1));

    let settings = Settings { min_copies: 2, ..settings(2) };
    let mut world = World::with(Kind::Full, settings).settled(&["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    assert_eq!(world.wish(&s1, is_slow(&world.view(), &s2)), Granted::Nothing);
    assert_eq!(world.view().backups, [s2], "slow writes are better than none");
}

#[test]
fn a_slow_newcomer_gives_its_place_to_another_and_to_nobody_else() {
    let mut world = World::setup(Kind::Full, 2, &["s1"]);
    world.habit("s1", Habit::Stays);
    world.start("s2");
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let view = world.view();
    world.wish(&s1, activate(&view, &[]));
    assert_eq!(world.wish(&s1, is_slow(&world.view(), &s2)), Granted::Nothing);
    world.start("s3");
    assert!(matches!(world.wish(&s1, is_slow(&world.view(), &s2)), Granted::Evict(..)));
    assert_eq!(world.view().backups, [world.present("s3")]);
}

/// Two view changes a second, for ever, and a full copy each time.
#[test]
pub(super) fn who_is_left_out_again_and_again_is_tried_later_and_later_also_if_nobody_else_is_there()
 {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let begin = world.now;
    let mut tries = 0;
    while world.now.since(begin) < Duration::from_secs(120) {
        let view = world.view();
        if view.is_activated() && view.backups.contains(&s2) {
            world.wish(&s1, evict(&view, &s2));
            tries += 1;
        }
        world.pass(PING_INTERVAL);
    }
    assert!((5..=9).contains(&tries), "{tries}");
    let report = world.leader.report(world.now);
    let server = report.servers.iter().find(|server| server.member == s2).expect("it is there");
    let tried_again = server.left_out.clone().expect("status says so");
    assert_eq!(tried_again.times, tries);
    assert_eq!(tried_again.because, "it does not answer");
    assert!(tried_again.after > Duration::ZERO && tried_again.after < Duration::from_secs(64));
    world.start("s3");
    world.pass(A_WHILE);
    assert_eq!(world.view().backups, [world.present("s3")], "who was never left out is taken");
}

#[test]
fn a_clean_record_is_earned_by_ten_minutes() {
    let mut world = World::setup(Kind::Full, 2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    let evicted = |world: &mut World| {
        world.wish(&s1, evict(&world.view(), &s2));
        world.pass(A_WHILE);
        world.leader.liveness.left_out(&s2.name, world.now).map_or(0, |it| it.times)
    };
    assert_eq!(evicted(&mut world), 1);
    assert_eq!(evicted(&mut world), 2);
    world.pass(Duration::from_secs(602));
    assert_eq!(evicted(&mut world), 1);
}

/// Where there are too few copies for writes, a try costs nobody anything.
#[test]
fn nobody_is_kept_out_while_writes_are_refused_without_it() {
    let settings = Settings { min_copies: 2, ..settings(2) };
    let mut world = World::with(Kind::Full, settings).settled(&["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    for _ in 0..8 {
        world.wish(&s1, evict(&world.view(), &s2));
        world.pass(A_WHILE);
        assert_eq!(world.view().backups, std::slice::from_ref(&s2));
    }
}
