//! Tests of the labs that this store comes from, in the simulator, each with many seeds.
//!
//! `TALE_SEEDS=1000` runs more of them, `TALE_FIRST=n` others; `TALE_SEED=n` runs one and
//! prints its trace.

use indicatif::ProgressBar;
use testclient::sim::tales::{TALES, Tale};
use testclient::sweep;
use tokio_util::sync::CancellationToken;

/// Few, for every commit.
const SEEDS: u64 = 25;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

fn tale(id: &str) -> &'static Tale {
    TALES.iter().find(|tale| tale.id == id).expect("a known id")
}

fn tell(id: &str) {
    let Tale { shows, tell, .. } = tale(id);
    if let Some(seed) = number("TALE_SEED") {
        eprintln!("{id}, seed {seed}: {shows}");
        let mut print = |line: &str| eprintln!("{line}");
        let _ran = tell(seed, Some(&mut print));
        return;
    }
    let (first, count) = (number("TALE_FIRST").unwrap_or(1), number("TALE_SEEDS").unwrap_or(SEEDS));
    eprintln!("{id}, seeds {first} to {}: {shows}", first + count - 1);
    let (bar, stop) = (ProgressBar::hidden(), CancellationToken::new());
    let sweep = sweep::sweep_with(first, count, 1, &bar, &stop, |seed| tell(seed, None));
    eprintln!(
        "{id}: {} seeds in {:.1?}, {:.1} hours of virtual time",
        sweep.seeds,
        sweep.took,
        sweep.simulated.as_secs_f64() / 3600.0
    );
    for failure in &sweep.failures {
        eprintln!(
            "{id}: {}\nreplay: TALE_SEED={} cargo test --profile ci --workspace --test proofs \
             {id}_ -- --nocapture",
            failure.what, failure.seed
        );
    }
    assert!(sweep.failures.is_empty(), "{id}: {} seeds failed", sweep.failures.len());
}

#[test]
fn p13_appends_survive_repeated_failures_with_lost_messages() {
    tell("p13");
}

#[test]
fn p14_old_primary_serves_no_get() {
    tell("p14");
}

#[test]
fn p15_partitioned_old_primary_completes_no_get() {
    tell("p15");
}

#[test]
fn e12_concurrent_puts_with_lost_messages_leave_the_copies_equal() {
    tell("e12");
}

#[test]
fn e13_concurrent_appends_with_lost_messages_leave_the_copies_equal() {
    tell("e13");
}

#[test]
fn e14_no_client_waits_for_5_s_through_repeated_crashes() {
    tell("e14");
}

#[test]
fn e15_repeated_crashes_with_lost_messages_lose_nothing() {
    tell("e15");
}

#[test]
fn e18_appends_forwarded_in_reverse_order_stay_visible() {
    tell("e18");
}

#[test]
fn e18b_appends_of_which_only_the_second_is_forwarded_stay_visible() {
    tell("e18b");
}

#[test]
fn e19_a_stale_earlier_copy_does_not_count() {
    tell("e19");
}

/// Rules of the protocol that a tale would miss: with one of them dropped, some seed fails.
#[cfg(debug_assertions)]
#[test]
fn every_tale_fails_without_the_rules_that_it_is_about() {
    use kvproto::rules::Rule::{self, *};

    const MISSED: &[(&str, Rule)] = &[
        ("p13", NewPrimaryKeepsItsTail),
        ("p13", RepeatsAreRecognised),
        ("p14", LeaseIsChecked),
        ("p14", PromisesAreKept),
        ("p15", LeaseIsChecked),
        ("e12", CommitWaitsForCopies),
        ("e13", RepeatsAreRecognised),
        ("e14", AskedEnds),
        ("e15", RepeatsAreRecognised),
        ("e18", NewPrimaryKeepsItsTail),
        ("e18b", ReadIsCommitted),
        ("e19", SyncedHoldsEverything),
    ];
    for (id, rule) in MISSED {
        let tell = tale(id).tell;
        let failed = (1..=100).find_map(|seed| {
            let told = || kvproto::rules::without(&[*rule], || tell(seed, None));
            testclient::report::caught(told).err().map(|_| seed)
        });
        let seed = failed.unwrap_or_else(|| panic!("{id} passes without {rule:?}"));
        eprintln!("{id} fails without {rule:?} at seed {seed}");
    }
}
