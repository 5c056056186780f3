//! E18 and E19: what a backup counts for that received things in another order, or long ago. Pure.

use std::time::Duration;

use super::{SOON, Trace, between, settle, stage, start_copies};
use crate::random::Random;
use crate::sim::Ran;
use crate::sim::story::Place::{Client, Server, Views};
use crate::sim::story::Story;

/// Both appends are forwarded to the backup in reverse order, and acknowledged in the original one.
pub(super) fn e18_reversed(seed: u64, trace: Trace<'_>) -> Ran {
    writes_visible(seed, trace, |story, _| story.release_reversed(Server(0), Server(1)))
}

/// Only the second append reaches the backup.
pub(super) fn e18_second_only(seed: u64, trace: Trace<'_>) -> Ran {
    writes_visible(seed, trace, |story, first| {
        story.lose_held(Server(0), Server(1), first);
        story.release(Server(0), Server(1));
    })
}

/// Two appends wait on the link to the backup; `forward` is told how many messages waited after the
/// first. Whatever was answered to anybody is still there when the backup leads.
fn writes_visible(seed: u64, trace: Trace<'_>, forward: impl FnOnce(&mut Story<'_>, usize)) -> Ran {
    let mut random = Random::new(seed ^ 0x18);
    let mut story = Story::traced(seed, stage(&mut random, 2, 4), trace);
    start_copies(&mut story, 2);
    // Each client has its session before it matters.
    for client in 0..3 {
        let put = story.put(client, &format!("own{client}"), &format!("own value {client}"));
        story.done(put);
    }
    story.hold(Server(0), Server(1));
    story.hold(Server(1), Server(0));
    let first = story.append(0, "k", "x;");
    story.run_for(between(&mut random, 140, 200));
    let waiting = story.held(Server(0), Server(1));
    let second = story.append(1, "k", "y;");
    story.run_for(between(&mut random, 140, 200));
    let read = story.get(2, "k");
    assert!(story.held(Server(0), Server(1)) > waiting, "seed {seed}: nothing was forwarded");
    assert!(story.result(first).is_none() && story.result(second).is_none(), "seed {seed}");
    forward(&mut story, waiting);
    story.run_for(between(&mut random, 1, 100));
    story.release(Server(1), Server(0));
    story.run_for(between(&mut random, 0, 200));
    if random.chance(500) && story.complete().contains(&1) {
        // Who was answered, and how much of it was, is left to chance.
        story.crash(0);
    }
    story.done(first);
    story.done(second);
    let after = story.get_now(3, "k");
    let text = after.clone().unwrap_or_default();
    assert!(text == "x;y;" || text == "y;x;", "seed {seed}: {text:?}");
    let _ended = story.wait_for(read);
    if let Some(seen) = story.value(read) {
        let seen = seen.unwrap_or_default();
        assert!(text.starts_with(&seen), "seed {seed}: {seen:?} was read before {text:?}");
    }
    // In the end another server leads for sure.
    if story.acting() == Some(0) {
        // Once it is over that the backup is left out for what it seemed to miss.
        story.run_for(Duration::from_secs(2));
        let both = |story: &Story<'_>| story.complete().len() == 2;
        story.until("the backup is complete", SOON, both);
        story.crash(0);
        story.until("the backup leads", SOON, |story| story.acting() == Some(1));
    }
    assert_eq!(story.get_now(3, "k"), after, "seed {seed}");
    story.end()
}

/// Server 1 is backup, is left out while server 0 commits alone, comes back with its earlier copy,
/// and is all that client 1 can reach. It serves what was committed meanwhile, or nothing.
pub(super) fn e19(seed: u64, trace: Trace<'_>) -> Ran {
    let mut random = Random::new(seed ^ 0x19);
    let mut story = Story::traced(seed, stage(&mut random, 2, 4), trace);
    start_copies(&mut story, 2);
    let append = story.append(0, "k", "x");
    story.done(append);

    story.cut(Server(1), Views);
    story.cut(Server(1), Server(0));
    let alone = |story: &Story<'_>| story.members() == [0] && story.acting() == Some(0);
    story.until("server 0 leads alone", SOON, alone);
    let append = story.append(0, "k", "y");
    story.done(append);
    for _ in 0..random.between(0, 5) {
        // So that the log, or a transfer, has something to bring.
        let key = format!("filler{}", random.draw());
        let value = key.repeat(random.below(2_000) + 1);
        let put = story.put(0, &key, &value);
        story.done(put);
    }
    story.run_for(between(&mut random, 0, 3_000));

    story.mend(Server(1), Views);
    story.mend(Server(1), Server(0));
    let too_early = random.chance(500);
    story.until("server 1 is backup again", SOON, |story| story.members().len() == 2);
    if !too_early {
        settle(&mut story, 1);
    }
    story.run_for(between(&mut random, 0, if too_early { 5 } else { 500 }));

    let was_complete = story.complete().contains(&1);
    story.cut(Server(0), Client(1));
    let crashed = random.chance(500);
    if crashed {
        story.crash(0);
    } else {
        story.cut(Server(0), Views);
        story.cut(Server(0), Server(1));
    }
    let read = story.get(1, "k");
    if was_complete {
        story.until("server 1 leads", SOON, |story| story.acting() == Some(1));
    } else {
        // Its copy may or may not have become complete in the last moment. If it counts, it is.
        story.run_for(Duration::from_secs(5));
        let value = story.value(read);
        assert!(
            value.is_none() || value == Some(Some("xy".to_owned())),
            "seed {seed}: an earlier copy was served: {value:?}"
        );
        if value.is_none() && crashed {
            // Nobody has all of it, and so nobody serves.
            story.always("nobody serves", Duration::from_secs(2), |story| {
                story.value(read).is_none()
            });
            story.cancel(read);
            return story.end();
        }
        if value.is_none() {
            story.mend(Server(0), Views);
            story.mend(Server(0), Server(1));
            story.mend(Server(0), Client(1));
            // The connection of the first one hangs.
            story.cancel(read);
            assert_eq!(story.get_now(1, "k").as_deref(), Some("xy"), "seed {seed}");
            return story.end();
        }
    }
    story.done(read);
    assert_eq!(story.value(read), Some(Some("xy".to_owned())), "seed {seed}");
    story.end()
}
