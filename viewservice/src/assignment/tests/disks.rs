//! Servers whose disk hangs while they ping on: every write to it waits, and no error is told.

use super::*;

const A_WHILE: Duration = Duration::from_secs(3);
/// Longer than `stall-after`.
const HANGS: Duration = Duration::from_secs(1);

impl World {
    /// From now on the pings of a server say so.
    fn disk(&mut self, name: &'static str, waits: Duration) {
        self.servers.get_mut(name).unwrap().disk_waits = waits;
    }

    fn yields(&mut self, by: &Member, to: &[Member]) -> Granted {
        let view = self.view();
        let (generation, number) = (view.generation, view.number);
        let (to, reason) = (to.to_vec(), "its disk hangs".into());
        self.wish(by, Wish::Yield { generation, number, to, reason })
    }
}

/// Two of three servers stand in an activated view, `s1` leads. It dies, and the disk of `s2`, which
/// is to lead, hangs before its barrier is on it.
fn candidate_hangs() -> World {
    let mut world = World::on_disk(3, &["s1", "s2", "s3"]);
    world.habit("s2", Habit::Stays);
    world.kill("s1");
    world.check("s2", "s3", 4);
    world.disk("s2", HANGS);
    world
}

/// Holes 8 (b): the view was proposed for ever, beside a healthy copy.
#[test]
pub(super) fn hole_8b_a_candidate_whose_disk_hangs_is_replaced_by_one_whose_disk_moves() {
    let mut world = candidate_hangs();
    world.pass(A_WHILE);
    let view = world.view();
    assert_eq!(view.primary_name().unwrap().as_str(), "s3");
    assert!(view.is_activated());
}

/// Holes 8 (c): where the disks of both hang nothing is gained by a hand-over, and each costs an epoch.
#[test]
pub(super) fn hole_8c_where_both_disks_hang_the_view_is_not_handed_to_and_fro() {
    let mut world = candidate_hangs();
    world.disk("s3", Duration::from_millis(300));
    world.habit("s3", Habit::Stays);
    world.pass(A_WHILE);
    world.check("s2", "s3", 4);
    world.disk("s3", HANGS);
    world.pass(A_WHILE);
    world.check("s2", "s3", 4);
    // Whose disk moves first goes on, or leads.
    world.disk("s3", Duration::ZERO);
    world.habit("s3", Habit::Follows);
    world.pass(A_WHILE);
    assert_eq!(world.view().primary_name().unwrap().as_str(), "s3");
}

/// Holes 8 (d): the view in which another leads would wait for the disk of a backup that is eligible.
#[test]
pub(super) fn hole_8d_a_primary_that_yields_is_left_out_until_its_disk_moves() {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    world.disk("s1", HANGS);
    assert!(matches!(world.yields(&s1, std::slice::from_ref(&s2)), Granted::Evict(..)));
    let view = world.view();
    assert_eq!((view.primary.as_ref(), view.backups.as_slice()), (Some(&s2), [].as_slice()));
    world.pass(A_WHILE);
    assert_eq!(world.view().backups, [], "it would be waited for in vain");
    assert!(world.view().is_activated());
    world.disk("s1", Duration::ZERO);
    world.pass(A_WHILE);
    assert_eq!(world.view().backups, std::slice::from_ref(&s1));
    assert!(world.view().eligible.contains(&s1));
}

#[test]
fn a_spare_takes_the_place_of_a_primary_that_yields() {
    let mut world = World::on_disk(2, &["s1", "s2", "s3"]);
    let (s1, s2, s3) = (world.present("s1"), world.present("s2"), world.present("s3"));
    world.disk("s1", HANGS);
    world.yields(&s1, std::slice::from_ref(&s2));
    let view = world.view();
    assert_eq!((view.primary.as_ref(), view.backups.as_slice()), (Some(&s2), [s3].as_slice()));
}

#[test]
fn a_primary_yields_only_to_those_it_names_and_whose_disk_does_not_hang() {
    let mut world = World::on_disk(3, &["s1", "s2", "s3"]);
    let (s1, s2, s3) = (world.present("s1"), world.present("s2"), world.present("s3"));
    let before = world.number();
    world.disk("s1", HANGS);
    world.disk("s2", HANGS);
    world.pass(STEP * 2);
    assert_eq!(world.yields(&s1, std::slice::from_ref(&s2)), Granted::Nothing);
    assert_eq!(world.yields(&s2, std::slice::from_ref(&s3)), Granted::Nothing, "it does not lead");
    assert_eq!(world.number(), before);
    world.yields(&s1, &[s2, s3.clone()]);
    assert_eq!(world.view().primary, Some(s3));
}

/// Nobody else can lead: then one whose disk hangs is better than none, since it may move again.
#[test]
fn a_hanging_disk_never_bars_the_only_eligible() {
    let mut world = World::on_disk(2, &["s1", "s2", "s3"]);
    let (s1, s2) = (world.present("s1"), world.present("s2"));
    world.disk("s1", HANGS);
    world.habit("s2", Habit::Stays);
    world.yields(&s1, std::slice::from_ref(&s2));
    world.kill("s2");
    world.pass(A_WHILE);
    assert_eq!(world.view().primary, Some(s1));
}

#[test]
fn of_two_that_could_lead_the_one_whose_disk_moves_does() {
    let mut world = World::on_disk(3, &["s1", "s2", "s3"]);
    world.appended("s2", 9);
    world.disk("s2", HANGS);
    world.pass(STEP * 2);
    world.kill("s1");
    assert_eq!(world.view().primary, Some(world.present("s3")));
}

#[test]
fn people_are_told_once_when_a_disk_hangs_and_when_it_moves_again() {
    let mut world = World::on_disk(2, &["s1", "s2"]);
    let told = |world: &mut World, waits| {
        let stream = world.servers["s1"].stream.clone().unwrap();
        let process = world.servers.get_mut("s1").unwrap();
        process.steps += 1;
        let progress = Progress {
            steps: process.steps,
            disk_waits: waits,
            ..world.leader.liveness.progress(&stream.member).unwrap()
        };
        let effects = world.step(Event::Ping(stream, progress));
        let disks = effects.into_iter().filter_map(|effect| match effect {
            Effect::Notice(Notice::Disk { hangs, .. }) => Some(hangs),
            _ => None,
        });
        disks.collect::<Vec<_>>()
    };
    assert_eq!(told(&mut world, HANGS), [true]);
    assert!(told(&mut world, HANGS * 2).is_empty());
    assert_eq!(told(&mut world, Duration::ZERO), [false]);
}
