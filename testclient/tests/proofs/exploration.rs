//! Small worlds made of the production law and replicas, explored as far as a few seconds reach;
//! `make model` explores them further. A violation prints the shortest way there.

use testclient::explore::command::line;
use testclient::explore::model::Model;
use testclient::explore::models;
use testclient::explore::search::{Limits, Outcome, explore, walk};

/// Of each model; but for the large ones, they are visited completely.
const STATES: usize = 400_000;
/// Models that have millions of states, of which so many are visited: they reach what they must.
const LARGE: &[&str] =
    &["failover3", "lease3", "pair3v", "pause", "put-back", "put-back-left", "put-back3", "sleep"];
const STATES_OF_LARGE: usize = 150_000;
/// Walks through each world that is too large to be visited.
const WALKS: u64 = 400;
const STEPS: usize = 1000;

fn limits(states: usize) -> Limits {
    Limits { states, time: None, threads: 1, stop: None }
}

fn named(name: &str) -> Model {
    let found = models::all().into_iter().find(|model| model.name == name);
    found.unwrap_or_else(|| panic!("there is no model {name}"))
}

/// Nothing is broken, and what should be reached is.
fn sound(model: &Model) -> Outcome {
    let states = if LARGE.contains(&model.name) { STATES_OF_LARGE } else { STATES };
    let outcome = explore(model, limits(states));
    eprintln!("{}", line(&outcome));
    if let Some(violation) = &outcome.violation {
        panic!("{violation}");
    }
    let missing = &outcome.missing;
    assert!(missing.is_empty(), "{} never reached {missing:?}: it proves too little", model.name);
    outcome
}

fn all_sound(models: Vec<Model>) {
    let ended: Vec<_> = models.iter().filter(|model| model.in_ci).map(sound).collect();
    assert!(ended.iter().any(|outcome| outcome.states > 1000), "the models are empty");
}

#[test]
fn views_change_and_servers_restart_in_every_order() {
    all_sound(models::views());
}

#[test]
fn servers_come_back_with_their_data_in_every_order() {
    all_sound(models::disks());
}

#[test]
fn a_view_service_is_put_back_at_every_moment() {
    all_sound(models::put_backs());
}

#[test]
fn newcomers_join_in_every_order() {
    all_sound(models::joins());
}

#[test]
fn writes_are_repeated_in_every_order() {
    all_sound(models::repeats());
}

#[test]
fn reads_and_hand_overs_happen_in_every_order() {
    all_sound(models::reads());
}

#[test]
fn e16_one_client_and_one_server_in_every_order() {
    sound(&named("e16"));
}

#[test]
fn e17_one_client_and_three_servers_from_an_initialised_view_in_every_order() {
    sound(&named("e17"));
}

#[test]
fn e20_three_servers_walk_a_thousand_steps_at_random_and_stay_linearizable() {
    let first = std::env::var("EXPLORE_SEED")
        .ok()
        .map(|seed| seed.parse().expect("EXPLORE_SEED is a number"));
    let seeds = first.map_or(1..1 + WALKS, |seed: u64| seed..seed + 1);
    for name in ["e20", "e20-transfer", "e20-confirm"] {
        let model = named(name);
        eprintln!("{name}: seeds {} to {}", seeds.start, seeds.end - 1);
        let mut goals = testclient::explore::goals::Goals::default();
        let mut steps = 0;
        for seed in seeds.clone() {
            let walked = walk(&model, seed, STEPS);
            goals.add(walked.goals);
            steps += walked.steps;
            if let Some(violation) = walked.violation {
                panic!(
                    "{violation}\nreplay: EXPLORE_SEED={seed} cargo test --profile ci \
                     --workspace --test proofs e20"
                );
            }
        }
        eprintln!("{name}: {steps} steps, reached {:?}", goals.reached());
        let missing: Vec<_> = model.goals.iter().filter(|goal| !goals.has(**goal)).collect();
        assert!(first.is_some() || missing.is_empty(), "{name} never reached {missing:?}");
    }
}

#[test]
fn one_seed_walks_one_way_and_one_model_has_one_number_of_states() {
    let model = named("e20");
    let walked = || format!("{:?}", walk(&model, 7, 300));
    assert_eq!(walked(), walked());
    let visited = |threads| explore(&named("join-restart"), Limits { threads, ..limits(STATES) });
    let (alone, together) = (visited(1), visited(2));
    assert_eq!((alone.states, alone.depth), (together.states, together.depth));
}

/// Tests that are themselves tested: without a rule of the protocol a model breaks, soon.
#[cfg(debug_assertions)]
mod rules {
    use kvproto::rules::Rule::{self, *};
    use kvproto::rules::without;

    use super::{explore, limits, named};

    /// Rules, a model that misses them, and the states within which it does.
    const MISSED: &[(&[Rule], &str, usize)] = &[
        (&[PrimaryKeepsTheRecord], "put-back", 40_000),
        (&[CopiesKeepTheRecord], "put-back-left", 400_000),
        (&[SyncedHasTheRecord], "put-back3", 400_000),
        (&[PrimaryIsEligible], "pair3v", 1000),
        (&[FirstViewIsFree], "fresh", 100),
        (&[EpochByTheRecordReplaced], "pair3v", 100),
        (&[ReconciledByIncarnation], "pair-restart", 5000),
        (&[SyncedNamesItsView], "join", 400_000),
        (&[RestartedIsNew], "pair-restart", 100),
        (&[AppliedOnce], "e17", 100),
        (&[ReplyAfterCommit], "e16", 100),
        (&[CommitWaitsForCopies], "pair3v", 100),
        (&[ReplyNeedsEveryCopy], "failover3", 1000),
        (&[OwnJournalCounts], "journal", 1000),
        (&[RestartEndsTheRole], "durable", 100),
        (&[FormerMembersStayOut], "durable", 3000),
        (&[AckWaitsForJournal], "journal", 120_000),
        (&[RestartPromises], "durable-lease", 40_000),
        (&[AskedIsRequired], "join-break", 40_000),
        (&[AskedEnds], "pair3v", 2000),
        (&[ShrinkWaits], "pair3v", 120_000),
        (&[DeposedStops], "pair3v", 100),
        (&[NewestStreamCounts], "join-transfer", 20_000),
        (&[AppliedIsCommitted], "failover3", 100),
        (&[ReadIsCommitted], "lease", 100),
        (&[SyncedHoldsEverything], "pair-restart", 40_000),
        (&[SessionsTravel], "once-transfer", 1_000),
        (&[PrimaryDropsTails], "pair3v", 5000),
        (&[LeavingMayResume], "release", 2000),
        (&[LeaseIsChecked], "lease", 30_000),
        (&[LeaseIsCheckedPerRead], "sleep", 60_000),
        (&[LeaseFromSendTime], "lease", 250_000),
        (&[ProofByTheAsked], "confirm-join", 15_000),
        (&[PromisesAreKept], "lease", 10_000),
        (&[FreshRound], "confirm", 5000),
        (&[RepeatsAreRecognised], "once", 2000),
        (&[NewPrimaryKeepsItsTail], "pair3v", 2000),
        (&[ActsOnceActivated], "pair3v", 100),
    ];

    #[test]
    fn a_model_breaks_without_the_rule_that_it_is_about() {
        for (rules, name, states) in MISSED {
            let model = named(name);
            let outcome = without(rules, || explore(&model, limits(*states)));
            let violation = outcome.violation.unwrap_or_else(|| {
                panic!("{name} does not miss {rules:?} within {} states", outcome.states)
            });
            let (steps, visited) = (violation.actions.len(), outcome.states);
            eprintln!("{rules:?}: {name}, {steps} steps, {visited} states: {}", violation.what);
        }
    }
}
