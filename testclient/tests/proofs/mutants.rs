//! Tests of the tests: with one rule of the protocol dropped, a simulation must fail within so many
//! seeds. What is not here shows too rarely for that; a named story or a model misses it, see
//! `docs/testing.md`. `make mutants` prints which seed noticed what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kvproto::rules::Rule::{self, *};
use kvproto::rules::without;
use testclient::sim::Kind;
use testclient::{sim, sweep};

/// The first seeds, and no more than these, have to notice.
const SEEDS: u64 = 1000;

/// Rules that the simulation misses; two together where each covers for the other.
const MISSED: &[&[Rule]] = &[
    &[FirstViewIsFree],
    &[EpochByTheRecordReplaced],
    &[ActivateNamesItsView, ActivateByThePrimary],
    &[RestartedIsNew],
    &[MetBeforeItsPart],
    &[AppliedOnce],
    &[ReplyAfterCommit],
    &[CommitWaitsForCopies],
    &[ReplyNeedsEveryCopy],
    &[OwnJournalCounts],
    &[AskedIsRequired],
    &[AskedEnds],
    &[ShrinkWaits],
    &[DeposedStops],
    &[NewestStreamCounts],
    &[AppliedIsCommitted],
    &[ReadIsCommitted],
    &[NewPrimaryKeepsItsTail],
    &[ForcedTailIsNamedAnew],
    &[ActsOnceActivated],
    &[MatchedIsNotDropped],
    &[SyncedHoldsEverything],
    &[SessionsTravel],
    &[PrimaryDropsTails],
    &[LeavingMayResume],
    &[LeaseIsChecked],
    &[PublishedFirst],
    &[LeaseFromSendTime],
    &[ProofByEveryCopy],
    &[ProofByTheAsked],
    &[PromisesAreKept],
    &[FreshRound],
    &[RepeatsAreRecognised],
    &[FloorIsKept],
    &[UnknownSessionIsOver],
    &[SessionsNameTheirGeneration],
    &[OrderedExpiryStands],
    &[PromotionRenewsLeases],
];

/// The same in worlds with disks.
const MISSED_ON_DISKS: &[&[Rule]] = &[
    &[RestartEndsTheRole],
    &[ReturnHoldsTheBarrier],
    &[FormerMembersStayOut],
    &[OwnJournalCounts],
    &[AckWaitsForJournal],
    &[SyncedBeforeSafe],
    &[SessionsTravel],
];

/// The seed that notices, and what it says.
fn noticed(kind: Kind, rules: &[Rule]) -> Option<(u64, String)> {
    (1..=SEEDS).find_map(|seed| {
        let run = |seed| without(rules, || sim::run(kind, seed, None));
        let failure = sweep::caught(seed, run).err()?;
        let first = failure.what.lines().next().unwrap_or_default();
        Some((seed, first.chars().take(100).collect()))
    })
}

#[test]
fn the_simulation_misses_every_rule_that_it_can_see() {
    let in_memory = MISSED.iter().map(|rules| (Kind::InMemory, *rules));
    let on_disks = MISSED_ON_DISKS.iter().map(|rules| (Kind::OnDisks, *rules));
    let all: Vec<_> = in_memory.chain(on_disks).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut unnoticed = Vec::new();
        while let Some((kind, rules)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            match noticed(*kind, rules) {
                Some((seed, what)) => eprintln!("{kind:?} {rules:?}: seed {seed}: {what}"),
                None => unnoticed.push(format!("{kind:?} {rules:?}")),
            }
        }
        unnoticed
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let unnoticed: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(unnoticed.is_empty(), "{SEEDS} seeds pass without {unnoticed:?}");
}
