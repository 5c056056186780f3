//! E12 and E13: clients that write the same keys at once over a network that loses messages. Pure.

use super::crew::{Crew, Work};
use super::{SOON, Trace, between, stage, start_copies};
use crate::random::Random;
use crate::sim::Ran;
use crate::sim::story::Story;

/// Requests and replies that are lost, in a thousand.
const LOST: u64 = 200;

/// Concurrent puts: both copies end with the same values.
pub(super) fn e12(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x12);
    let keys = random.between(1, 3);
    copies_agree(seed, trace, &mut random, Work::Put(keys))
}

/// Concurrent appends: both copies end with every element once, in the order of its client.
pub(super) fn e13(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x13);
    let keys = random.between(1, 2);
    copies_agree(seed, trace, &mut random, Work::Append(keys))
}

fn copies_agree(seed: u64, trace: Trace<'_>, random: &mut Random, work: Work) -> Ran {
    let mut story = Story::traced(seed, stage(random, 2, 4), trace);
    start_copies(&mut story, 2);
    let mut crew = Crew::new(seed, random.between(2, 4), work, random.between(0, 50));
    story.lose_requests(LOST);
    crew.work_for(&mut story, between(random, 2_000, 5_000));
    crew.finish(&mut story, None);
    story.lose_requests(0);
    let at_primary = crew.read_all(&mut story);
    assert!(!at_primary.is_empty(), "seed {seed}: nothing was written");
    crew.check(&at_primary);
    story.until("both copies are complete", SOON, |story| story.complete().len() == 2);
    story.crash(0);
    story.until("the backup leads", SOON, |story| story.acting() == Some(1));
    assert_eq!(crew.read_all(&mut story), at_primary, "seed {seed}");
    story.end()
}
