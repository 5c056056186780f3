//! Tests of the courses that this store comes from, as stories under their ids: P for the
//! primary/backup lab of MIT 6.824 (2015), E for the dslabs lab on primary/backup (parts that need
//! a network which delays, loses or reorders). Pure.
//!
//! There a test has one timing; here the seed decides timings, sizes, how many copies and clients
//! there are, how reads are proven and which of several links fails. All of what the original
//! asserts is asserted, and every invariant of the simulator is looked at as well.

mod churn;
mod concurrent;
mod crew;
mod order;
mod stale;

use std::time::Duration;

use kvproto::Settings;
use kvserver::replica::Reads;

use super::Ran;
use super::story::{Stage, Story};
use crate::random::Random;

/// Where the lines of a trace go.
pub type Trace<'a> = Option<&'a mut dyn FnMut(&str)>;

/// One test, ready for any seed.
#[derive(Clone, Copy)]
pub struct Tale {
    /// Its id where it comes from.
    pub id: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Runs it. Panics when it fails.
    pub tell: for<'a> fn(u64, Trace<'a>) -> Ran,
}

/// All of them.
pub const TALES: &[Tale] = &[
    Tale {
        id: "p13",
        shows: "appends to one key through repeated failures, restarts and lost messages",
        tell: churn::p13,
    },
    Tale { id: "p14", shows: "an old primary serves no old value", tell: stale::p14 },
    Tale {
        id: "p15",
        shows: "an old primary whose backup is gone completes no get",
        tell: stale::p15,
    },
    Tale {
        id: "e12",
        shows: "concurrent puts with lost messages leave both copies equal",
        tell: concurrent::e12,
    },
    Tale {
        id: "e13",
        shows: "concurrent appends with lost messages leave both copies equal",
        tell: concurrent::e13,
    },
    Tale {
        id: "e14",
        shows: "no client waits for 5 s through repeated crashes, each replaced by a new server",
        tell: churn::e14,
    },
    Tale { id: "e15", shows: "the same with lost messages, without that bound", tell: churn::e15 },
    Tale {
        id: "e18",
        shows: "appends that reach the backup in reverse order are visible where one was seen",
        tell: order::e18_reversed,
    },
    Tale {
        id: "e18b",
        shows: "the same when only the second one reaches the backup",
        tell: order::e18_second_only,
    },
    Tale {
        id: "e19",
        shows: "a backup that was left out and came back does not count by its earlier copy",
        tell: order::e19,
    },
];

/// A stage with so many copies; the seed decides how reads are proven.
fn stage(random: &mut Random, copies: u32, servers: usize) -> Stage {
    let reads = if random.chance(500) { Reads::Lease } else { Reads::Confirm };
    let settings = Settings { copies, ..Settings::default() };
    Stage { settings, reads, servers, ..Stage::default() }
}

/// Starts the servers below `count`, one after the other. Server 0 is primary then.
fn start(story: &mut Story<'_>, count: usize) {
    for server in 0..count {
        story.start(server);
        let complete = |story: &Story<'_>| story.acting() == Some(0);
        story.until("server 0 acts as primary", SOON, complete);
    }
}

/// Starts as many servers as there are copies, and waits until all of them are complete.
fn start_copies(story: &mut Story<'_>, copies: u32) {
    start(story, copies as usize);
    for server in 0..copies as usize {
        settle(story, server);
    }
}

/// Waits until a server is complete for good: one that was slow to answer at first may be left out
/// once more.
fn settle(story: &mut Story<'_>, server: usize) {
    let complete = |story: &Story<'_>| story.complete().contains(&server);
    story.until("a server is complete", SOON, complete);
    story.run_for(Duration::from_secs(1));
    story.until("a server is complete", SOON, complete);
}

/// Longer than anything takes.
const SOON: Duration = Duration::from_secs(20);

fn between(random: &mut Random, low: u64, high: u64) -> Duration {
    Duration::from_millis(random.between(low, high))
}
