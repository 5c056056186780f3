//! P13, E14 and E15: servers that crash again and again under load. Pure.
//!
//! A server is crashed only while another holds everything: all data are in memory, and what is lost
//! with the last copy is another test's story.

use std::time::Duration;

use super::crew::{Crew, Work};
use super::{Trace, between, stage, start, start_copies};
use crate::random::Random;
use crate::sim::Ran;
use crate::sim::story::Story;

/// The longest that a client may wait in E14.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Two to four clients append to one key for 20 s, while servers crash and restart empty under their
/// old names, and messages are lost.
pub(super) fn p13(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x113);
    let copies = u32::try_from(random.between(2, 3)).unwrap_or(2);
    let servers = copies as usize + random.below(2);
    let mut story = Story::traced(seed, stage(&mut random, copies, servers), trace);
    start(&mut story, servers);
    let mut crew = Crew::new(seed, random.between(2, 4), Work::Append(1), 60);
    story.lose_requests(random.between(50, 200));
    let end = story.now() + Duration::from_secs(20);
    while story.now() < end {
        redundant(&mut crew, &mut story);
        crew.work_for(&mut story, between(&mut random, 100, 1_500));
        let victim = random.below(servers);
        if !is_spared(&story, victim) {
            continue;
        }
        story.crash(victim);
        crew.work_for(&mut story, between(&mut random, 100, 1_500));
        story.start(victim);
    }
    finish(crew, story, None)
}

/// Three clients work for 30 s while random servers crash, each replaced by one of a new name. No
/// client waits for 5 s.
pub(super) fn e14(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x114);
    replaced(seed, trace, &mut random, 0, Some(WAIT_MAX))
}

/// The same over a network that loses messages; a call may then wait for many of its attempts.
pub(super) fn e15(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x115);
    let lost = random.between(50, 200);
    replaced(seed, trace, &mut random, lost, None)
}

fn replaced(
    seed: u64,
    trace: Trace<'_>,
    random: &mut Random,
    lost: u64,
    wait_max: Option<Duration>,
) -> Ran {
    /// More than can crash in the time.
    const MACHINES: usize = 40;
    let copies = u32::try_from(random.between(2, 3)).unwrap_or(2);
    let mut story = Story::traced(seed, stage(random, copies, MACHINES), trace);
    start_copies(&mut story, copies);
    let mut alive: Vec<usize> = (0..copies as usize).collect();
    let mut next = copies as usize;
    if random.chance(500) {
        story.start(next);
        alive.push(next);
        next += 1;
    }
    let mut crew = Crew::new(seed, 3, Work::OwnKeys(random.between(1, 10)), 60);
    story.lose_requests(lost);
    let end = story.now() + Duration::from_secs(30);
    while story.now() < end && next < MACHINES {
        redundant(&mut crew, &mut story);
        crew.work_for(&mut story, between(random, 0, 1_000));
        let place = random.below(alive.len());
        if !is_spared(&story, alive[place]) {
            continue;
        }
        story.crash(alive.swap_remove(place));
        crew.work_for(&mut story, between(random, 0, 1_000));
        story.start(next);
        alive.push(next);
        next += 1;
    }
    finish(crew, story, wait_max)
}

/// Somebody could take over.
fn redundant(crew: &mut Crew, story: &mut Story<'_>) {
    crew.work_until(story, "two copies are complete", |story| story.complete().len() >= 2);
}

/// Whether everything is kept when this server crashes now.
fn is_spared(story: &Story<'_>, victim: usize) -> bool {
    story.complete().iter().any(|complete| *complete != victim)
}

/// Every call ends as done, and everything is there.
fn finish(mut crew: Crew, mut story: Story<'_>, wait_max: Option<Duration>) -> Ran {
    crew.finish(&mut story, wait_max);
    story.lose_requests(0);
    let values = crew.read_all(&mut story);
    crew.check(&values);
    story.end()
}
