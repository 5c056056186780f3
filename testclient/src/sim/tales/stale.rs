//! P14 and P15: what an old primary may answer that has not heard of its successor. Pure.

use std::time::Duration;

use super::{SOON, Trace, between, settle, stage, start_copies};
use crate::random::Random;
use crate::sim::Ran;
use crate::sim::story::Place::{Client, Server, Views};
use crate::sim::story::{Request, Story, get};

/// The client whose get is delayed.
const LATE: usize = 1;

/// Server 0 loses only its link to the view service. A get for it is delayed until another server
/// leads and has overwritten the value. Server 0 must not answer it with the old one.
///
/// With some seeds it stands still meanwhile, so that nobody has told it anything when it goes on;
/// with some the get arrives as soon as the value is overwritten, when leases are barely over.
pub(super) fn p14(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x14);
    let copies = u32::try_from(random.between(2, 3)).unwrap_or(2);
    let mut story = Story::traced(seed, stage(&mut random, copies, 4), trace);
    start_copies(&mut story, copies);
    if random.chance(500) {
        // A spare that is recruited in the same change of view.
        story.start(copies as usize);
        story.run_for(between(&mut random, 0, 2_000));
    }
    let put = story.put(0, "a", "1");
    story.done(put);
    assert_eq!(story.get_now(2, "a").as_deref(), Some("1"));

    story.hold(Client(LATE), Server(0));
    let late = story.ask(LATE, 0, get("a"));
    story.cut_one_way(Server(0), Views);
    if random.chance(500) {
        // Otherwise it may hear of the new view, though nobody hears it.
        story.cut_one_way(Views, Server(0));
    }
    let stands_still = random.chance(400);
    if stands_still {
        story.pause(0);
    }
    story.until("another server leads", SOON, |story| {
        story.acting().is_some_and(|acting| acting != 0)
    });
    let put = story.put(0, "a", "111");
    story.done(put);
    if random.chance(500) {
        story.run_for(between(&mut random, 0, 4_000));
    }
    story.release(Client(LATE), Server(0));
    if stands_still {
        story.resume(0);
    }
    serves_nothing(&mut story, late, between(&mut random, 500, 3_000));
    assert_eq!(story.get_now(2, "a").as_deref(), Some("111"), "seed {seed}");
    story.end()
}

/// As P14, and then the successor of server 0 dies too, after a third server has joined it: server 0
/// finds nobody who could tell it that it leads no more. With some seeds it stands still meanwhile.
pub(super) fn p15(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x15);
    let mut story = Story::traced(seed, stage(&mut random, 2, 4), trace);
    start_copies(&mut story, 2);
    let put = story.put(0, "a", "1");
    story.done(put);

    story.hold(Client(LATE), Server(0));
    let late = story.ask(LATE, 0, get("a"));
    story.cut(Server(0), Views);
    let is_deaf = random.chance(500);
    if is_deaf {
        // It does not even hear from its successor while that lives.
        story.cut(Server(0), Server(1));
    }
    let stands_still = random.chance(400);
    if stands_still {
        story.pause(0);
    }
    story.until("server 1 leads", SOON, |story| story.acting() == Some(1));
    if random.chance(500) {
        story.cut(Server(0), Server(2));
    }
    story.start(2);
    settle(&mut story, 2);
    let put = story.put(0, "a", "2");
    story.done(put);
    story.crash(1);
    if random.chance(500) {
        let moment = between(&mut random, 0, 3_000);
        serves_nothing(&mut story, late, moment);
    } else {
        story.until("server 2 leads", SOON, |story| story.acting() == Some(2));
    }
    story.release(Client(LATE), Server(0));
    if stands_still {
        story.resume(0);
    }
    // Whoever asks anew is answered no better.
    let anew = story.ask(2, 0, get("a"));
    serves_nothing(&mut story, late, between(&mut random, 500, 5_000));
    serves_nothing(&mut story, anew, Duration::from_millis(1));
    story.until("server 2 leads", SOON, |story| story.acting() == Some(2));
    assert_eq!(story.get_now(3, "a").as_deref(), Some("2"), "seed {seed}");
    serves_nothing(&mut story, late, Duration::from_millis(1));
    story.end()
}

/// The old primary does not answer this read with any value.
fn serves_nothing(story: &mut Story<'_>, read: Request, time: Duration) {
    story.always("the old primary serves no get", time, |story| {
        story.answered_value(read).is_none()
    });
}
