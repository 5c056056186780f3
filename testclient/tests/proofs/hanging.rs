//! A disk hangs: what it was given is not done, and no error is told. The whole cluster in the simulator,
//! for any seed; at random it does so in the worlds with disks too.

use std::time::Duration;

use testclient::sim::story::Story;

const SEEDS: u64 = 60;
/// `stall-after`, and what noticing it and another primary may take.
const WRITES_GO_ON: Duration = Duration::from_millis(750 + 1500);
const PATIENCE: Duration = Duration::from_secs(30);

fn copies(seed: u64, copies: u32) -> Story<'static> {
    let mut story = Story::new(seed, copies);
    (0..copies as usize).for_each(|server| story.start_and_wait(server));
    let put = story.put(0, "k", "1");
    story.done(put);
    story
}

fn the_disk_of_the_primary_hangs(seed: u64) {
    let mut story = copies(seed, 2);
    if seed.is_multiple_of(2) {
        story.start(2);
        story.run_for(Duration::from_secs(1));
    }
    story.hang_disk(0);
    let put = story.put(0, "k", "2");
    story.until("writes go on", WRITES_GO_ON, |story| story.result(put).is_some());
    story.done(put);
    assert_eq!(story.acting(), Some(1));
    story.run_for(Duration::from_secs(5));
    assert_eq!(story.acting(), Some(1), "nothing is handed to and fro");
    assert!(!story.members().contains(&0), "it would be waited for in vain");
    story.disk_answers(0);
    story.until("there are two copies again", PATIENCE, |story| story.complete().len() == 2);
    assert_eq!(story.get_now(1, "k").as_deref(), Some("2"));
    story.end();
}

/// Nobody gains by a hand-over. From when one disk moves again the other is the one for which all wait.
fn both_disks_hang(seed: u64) {
    let mut story = copies(seed, 2);
    let view = story.view().number;
    story.hang_disk(0);
    story.hang_disk(1);
    let put = story.put(0, "k", "2");
    story.run_for(Duration::from_secs(6));
    assert_eq!(story.view().number, view, "nothing is handed to and fro, nobody is left out");
    assert!(story.result(put).is_none());
    story.disk_answers(1);
    story.until("writes go on", WRITES_GO_ON, |story| story.result(put).is_some());
    story.done(put);
    assert_eq!(story.acting(), Some(1));
    story.disk_answers(0);
    story.until("there are two copies again", PATIENCE, |story| story.complete().len() == 2);
    story.end();
}

/// The primary dies, and the disk of the one that is to lead hangs before its barrier is on it.
fn the_disk_of_a_candidate_hangs(seed: u64) {
    let mut story = copies(seed, 3);
    story.crash(0);
    story.until("a candidate is named", PATIENCE, |story| story.primary().is_some());
    let candidate = story.primary().expect("it was named");
    story.hang_disk(candidate);
    story.until("the other one leads", WRITES_GO_ON * 2, |story| {
        story.acting() == Some(3 - candidate)
    });
    let put = story.put(0, "k", "2");
    story.done(put);
    story.end();
}

/// With everything that it has said is safe, and nothing that it has not.
fn it_ends_while_its_disk_hangs(seed: u64) {
    let mut story = copies(seed, 2);
    story.hang_disk(0);
    let put = story.put(0, "k", "2");
    story.run_for(Duration::from_millis(200));
    story.leave(0);
    story.until("another leads", WRITES_GO_ON, |story| story.acting() == Some(1));
    story.done(put);
    assert_eq!(story.get_now(1, "k").as_deref(), Some("2"));
    story.disk_answers(0);
    story.until("there are two copies again", PATIENCE, |story| story.complete().len() == 2);
    story.end();
}

#[test]
fn writes_go_on_when_the_disk_of_the_primary_hangs() {
    (1..=SEEDS).for_each(the_disk_of_the_primary_hangs);
}

#[test]
fn where_both_disks_hang_nothing_is_handed_to_and_fro() {
    (1..=SEEDS).for_each(both_disks_hang);
}

#[test]
fn a_candidate_whose_disk_hangs_does_not_block_the_view() {
    (1..=SEEDS).for_each(the_disk_of_a_candidate_hangs);
}

#[test]
fn a_primary_that_is_asked_to_stop_while_its_disk_hangs_hands_over() {
    (1..=SEEDS).for_each(it_ends_while_its_disk_hangs);
}

#[test]
#[cfg(debug_assertions)]
fn each_of_these_fails_without_its_rule() {
    use kvproto::rules::{Rule, without};
    let stories: [(Rule, fn(u64)); 4] = [
        (Rule::HangingPrimaryYields, the_disk_of_the_primary_hangs),
        (Rule::YieldsToWhoMoves, both_disks_hang),
        (Rule::HangingBlamesNobody, both_disks_hang),
        (Rule::HangingCandidateIsReplaced, the_disk_of_a_candidate_hangs),
    ];
    for (rule, story) in stories {
        let broken = std::panic::catch_unwind(|| without(&[rule], || story(1)));
        assert!(broken.is_err(), "the story passes without {rule:?}");
    }
}
