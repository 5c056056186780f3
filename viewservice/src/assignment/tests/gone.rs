//! Servers that say that their data directory is gone.

use super::*;

const A_WHILE: Duration = Duration::from_secs(3);

impl World {
    fn lose_directory(&mut self, name: &'static str) {
        self.servers.get_mut(name).unwrap().directory_gone = true;
    }

    fn waiting(&self) -> Option<planner::Waiting> {
        planner::waiting(&self.leader.state, &self.leader.liveness)
    }
}

#[test]
fn a_primary_whose_directory_is_gone_hands_over_to_one_that_has_its_own() {
    let mut world = World::on_disk(2, &["s1", "s2", "s3"]);
    let former = world.present("s1");
    world.lose_directory("s1");
    world.pass(Duration::from_millis(500));
    assert!(world.view().is_primary(&former), "others may be losing theirs at this moment");
    world.pass(A_WHILE);
    let view = world.view();
    assert_eq!(view.primary, Some(world.present("s2")));
    assert_eq!(view.backups, [world.present("s3")], "and whoever lost its own is of no use");
    assert!(!view.eligible.contains(&former));
}

#[test]
fn a_backup_whose_directory_is_gone_is_replaced() {
    let mut world = World::on_disk(2, &["s1", "s2", "s3"]);
    world.lose_directory("s2");
    world.pass(A_WHILE);
    let view = world.view();
    assert_eq!(view.primary, Some(world.present("s1")));
    assert_eq!(view.backups, [world.present("s3")]);
    assert!(!view.eligible.contains(&world.present("s2")));
}

/// `rm -rf data`: both were the last copies, noticed it and left.
#[test]
fn copies_that_all_lost_their_directories_stay_and_it_is_said_how_to_save_what_they_hold() {
    for names in [["s1", "s2"], ["s2", "s1"]] {
        let mut world = World::on_disk(2, &["s1", "s2"]);
        let before = world.view();
        world.lose_directory(names[0]);
        world.pass(Duration::from_millis(100));
        world.lose_directory(names[1]);
        world.pass(A_WHILE);
        let view = world.view();
        assert!(!view.eligible.is_empty());
        assert_eq!(view.primary, before.primary, "nobody is better");
        let waiting = world.waiting().expect("it does not go on by itself");
        let primary = waiting.for_servers.first().expect("somebody").to_string();
        let save = format!("kvctl snapshot save FILE --server {primary}");
        assert!(waiting.advice.contains(&save), "{}", waiting.advice);
        assert!(!waiting.advice.contains("force"), "{}", waiting.advice);
        // A newcomer with a directory is filled, and takes over.
        world.start("s3");
        world.pass(A_WHILE);
        assert_eq!(world.view().primary, Some(world.present("s3")), "{names:?}");
        assert_eq!(world.waiting(), None);
    }
}

/// It would begin an epoch that no disk knows, so that the other, whole, could not come back as a copy.
#[test]
pub(super) fn a_copy_without_its_directory_does_not_lead_while_another_may_come_back_with_its_own()
{
    let mut world = World::on_disk(2, &["s1", "s2"]);
    world.habit("s1", Habit::Stays);
    world.lose_directory("s2");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.view().backups, [], "s1 has not activated the view without it");
    world.kill("s1");
    world.pass(Duration::from_secs(5));
    let view = world.view();
    assert!(!view.is_primary(&world.present("s2")), "s1 may be starting again");
    // Then its memory is all that can be read.
    world.pass(Duration::from_secs(10));
    assert!(world.view().is_primary(&world.present("s2")));
    assert!(world.waiting().is_some_and(|waiting| waiting.advice.contains("snapshot save")));
}
