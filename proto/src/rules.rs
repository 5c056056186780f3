//! The single rules of the protocol by name, each asked for at the line that keeps it, so that a
//! test can drop one and see who notices. Pure but for that switch.
//!
//! A release build keeps every rule and contains no switch. In a build with debug assertions
//! [`without`] drops rules for the calling thread while a test runs: a simulation, an exploration or
//! a named story must then fail. `docs/testing.md` has the table of who notices what.

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// A rule that a test can drop. The docs say what must hold.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them, in the order of the protocol page.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];
        }
    };
}

rules! {
    /// VIEW-2: a primary is eligible, once a view was ever activated.
    PrimaryIsEligible,
    /// VIEW-2: until the first activation anybody may be named.
    FirstViewIsFree,
    /// VIEW-3: another primary than that of the record being replaced begins a new epoch.
    EpochByTheRecordReplaced,
    /// VIEW-4: only those who were eligible stay so by being reconciled.
    ReconciledWereEligible,
    /// VIEW-4: an activation names the current view.
    ActivateNamesItsView,
    /// VIEW-4: an activation comes from the primary of the view.
    ActivateByThePrimary,
    /// VIEW-4: servers are reconciled by incarnation.
    ReconciledByIncarnation,
    /// VIEW-5: a declaration names the current view.
    SyncedNamesItsView,
    /// VIEW-5: servers are declared synced by incarnation.
    SyncedByIncarnation,
    /// VIEW-6: whoever restarted empty is a new server.
    RestartedIsNew,
    /// VIEW-6: who comes back with its data begins no longer as primary.
    RestartEndsTheRole,
    /// VIEW-6: what an eligible server left behind counts if it holds the last activated barrier.
    ReturnHoldsTheBarrier,
    /// VIEW-6: it counts if it reaches the highest op that was said to be committed.
    ReturnIsComplete,
    /// VIEW-6: data of a server that was not eligible does not count, however fresh it looks.
    FormerMembersStayOut,
    /// VIEW-6: a server has no part before it was met at its address.
    MetBeforeItsPart,
    /// VIEW-6: but an eligible one leads unmet if no other eligible server could.
    UnmetLeadsIfNobodyElse,
    /// VIEW-6: a meeting ends a life at once only for a newcomer that brings its storage.
    MeetingEndsItsOwnStorage,
    /// VIEW-6: to any other newcomer an eligible life is lost by silence only.
    EligibleEndsBySilence,
    /// VIEW-6: another storage gets a name only where it was met.
    AnotherStorageIsMet,
    /// A name that registered through the full protocol is driven only by it.
    PlainPingIsInert,
    /// VIEW-8: a record outside of the history of the views puts the view service in doubt.
    OtherPastIsDoubted,
    /// VIEW-8: in doubt nothing else is decided.
    DoubtDecidesNothing,
    /// VIEW-8: what ends a doubt lies above everything that was shown.
    DoubtEndsAboveAllShown,
    /// VIEW-8: a doubt ends only when whoever else may serve was silent.
    DoubtWaitsForSilence,
    /// VIEW-8: a life of another past is not resumed.
    OtherPastIsNotResumed,
    /// VIEW-8: a life is ended only by a view service that knows how it ended.
    StaleNeedsItsRecord,
    /// VIEW-8: an empty view service listens before it founds a cluster.
    EmptyListensFirst,
    /// VIEW-8: where a full server has come, a plain ping founds nothing.
    FullFoundsFirst,
    /// REP-1: entries are taken only after the very position that they name.
    PreviousIsMatched,
    /// REP-1: what a stream repeats is not applied again.
    AppliedOnce,
    /// REP-2: a write is answered when it is committed, not when it is ordered.
    ReplyAfterCommit,
    /// REP-2: an op commits only when others have it too.
    CommitWaitsForCopies,
    /// REP-2: an op commits only when every required copy has it.
    ReplyNeedsEveryCopy,
    /// REP-2: the primary's own journal is one of the copies.
    OwnJournalCounts,
    /// REP-2: a copy acknowledges what its journal has.
    AckWaitsForJournal,
    /// Disks: what is reported as safe was synced.
    SyncedBeforeSafe,
    /// Disks: a sync that failed is never tried again.
    FailedSyncIsFinal,
    /// Disks: what does not check out is cut off only where nothing proves that it was synced.
    DamageIsNotCut,
    /// Disks: entries are dropped only together with all that take their place.
    ReplacedAsOne,
    /// Disks: what is written into a directory that is no longer found is not safe.
    GoneIsNotSafe,
    /// REP-10: a copy without its directory goes only when an activated view counts on others.
    GoneWaitsForAnother,
    /// Policy: whoever has its own directory comes before a copy that lost it.
    OwnDirectoryLeads,
    /// REP-2: whom the primary asked to have declared synced is required.
    AskedIsRequired,
    /// REP-2: asked ends only with an activated view of a higher number.
    AskedOutlastsRecords,
    /// REP-2: asked ends with an activated view of a higher number.
    AskedEnds,
    /// A record of another cluster changes nothing.
    RecordsOfOwnCluster,
    /// REP-2: records are ordered by revision too.
    RecordsByRevision,
    /// REP-2: a shrink takes effect when its activation is confirmed.
    ShrinkWaits,
    /// VIEW-8: a copy matches nothing in an epoch before a record of it is on its disk.
    RecordBeforeMatching,
    /// VIEW-8: commits go by a record that is on the primary's own disk.
    PrimaryKeepsTheRecord,
    /// VIEW-8: they go by it once it is on the disk of everybody whom it leaves required.
    CopiesKeepTheRecord,
    /// VIEW-8: whom the primary asks to have declared synced has its newest record on disk.
    SyncedHasTheRecord,
    /// VIEW-8: epochs are equal only with the history that began them.
    EpochsHaveTheirHistory,
    /// VIEW-8: a view service in doubt ends nobody.
    DoubtEndsNobody,
    /// VIEW-8: one that has gone on without what a server knows does not end that server.
    OtherPastEndsNobody,
    /// VIEW-8: but the server no longer serves.
    OtherPastStandsStill,
    /// REP-3: a message is for one incarnation.
    TargetIncarnation,
    /// REP-3: a message of an older epoch changes nothing.
    OldEpochRefused,
    /// REP-3: who hears of a newer epoch stops leading.
    DeposedStops,
    /// REP-3: only the newest stream counts, at both ends.
    NewestStreamCounts,
    /// REP-4: a copy acknowledges and applies only what it matched with this epoch's primary.
    OnlyMatchedCounts,
    /// REP-4: a copy applies only what the primary says is committed.
    AppliedIsCommitted,
    /// REP-4: nothing uncommitted is read.
    ReadIsCommitted,
    /// REP-5: a new primary keeps its whole log.
    NewPrimaryKeepsItsTail,
    /// VIEW-7: a forced generation orders anew what it does not know to be committed.
    ForcedTailIsNamedAnew,
    /// VIEW-7: an op of its tail that speaks of another one there still finds it.
    ForcedTailKeepsItsNames,
    /// VIEW-7: a name that was not given yet in a log when an op with it was ordered names nothing there.
    NamesAreGivenFirst,
    /// VIEW-7: what the tail refuses, because it ended a session before, is not ordered again.
    EndedInTheTail,
    /// VIEW-7: a repeated request is recognised by the names that its client used.
    RecognisedAsAsked,
    /// REP-5: reconciled is who acknowledged the barrier.
    ReconciledHoldTheBarrier,
    /// REP-5: a backup that does not hold the barrier within `stall-after` in all is left out.
    ReconciledInTime,
    /// REP-5: a primary acts only in an activated view.
    ActsOnceActivated,
    /// REP-5: a primary acts only when its barrier is committed.
    ActsAfterItsBarrier,
    /// REP-5: what was matched in this epoch is never truncated in it.
    MatchedIsNotDropped,
    /// REP-6: a newcomer holds everything committed when it is declared synced.
    SyncedHoldsEverything,
    /// REP-6: its digest equals the primary's at an op from which on commits waited for it.
    SyncedIsVerified,
    /// REP-6: a full transfer goes only to a copy that nobody counts on.
    FreeBeforeTransfer,
    /// REP-6: eligible in the newest record is not free, even if that record is only proposed.
    FreeByTheNewestRecord,
    /// REP-6: sessions and their answers travel with the data.
    SessionsTravel,
    /// REP-7: a tail goes by the primary's word, never by the returning copy's own decision.
    PrimaryDropsTails,
    /// REP-9: bytes that have arrived are progress.
    ProgressIsBytes,
    /// REP-9: bytes that have arrived are no acknowledgement of the op that they belong to.
    PieceIsNoAck,
    /// REP-9: an answered heartbeat is no progress while entries are owed.
    HeartbeatIsNoProgress,
    /// REP-9: a heartbeat continues what the copy has, not what was sent to it.
    HeartbeatNamesWhatIsHeld,
    /// REP-9: a copy is also slow by many short silences.
    SlowByTurns,
    /// REP-9: commits wait for a newcomer that was slow only once it has kept up for a while.
    CountedOnceItKeepsUp,
    /// Policy: a copy that still acknowledges is left out when another has taken its place.
    ReplacedByACompleteOne,
    /// Policy: who was left out again and again is taken later and later, also if there is nobody else.
    LeftOutBacksOff,
    /// REP-10: until it hears a newer epoch, a primary that wanted to leave may resume.
    LeavingMayResume,
    /// REP-10: a primary whose own disk hangs yields.
    HangingPrimaryYields,
    /// REP-10: it yields to a copy that acknowledged what its own disk lacks, and to no other.
    YieldsToWhoMoves,
    /// REP-9: a primary whose own disk hangs has nobody left out: writes would wait all the same.
    HangingBlamesNobody,
    /// REP-10: neither handing over nor stopping waits for a disk that hangs.
    LeavingNeedsNoDisk,
    /// Policy: a candidate whose disk hangs is replaced.
    HangingCandidateIsReplaced,
    /// Policy: it is replaced by one whose disk moves, and by no other.
    ReplacedIfAnotherMoves,
    /// Policy: whose disk hangs is left out of the view in which another leads, and not recruited.
    HangingIsLeftOut,
    /// REP-10: a release is about promises made in older epochs only.
    ReleaseIsBoundToItsEpoch,
    /// Leases: a read is answered only under one.
    LeaseIsChecked,
    /// Leases: the clock is looked at for each read, also when its answer leaves.
    LeaseIsCheckedPerRead,
    /// Reads from the table of the store: what a step lets readers know comes before all else it does.
    PublishedFirst,
    /// Leases: a lease counts from when it was asked for, not from when it was granted.
    LeaseFromSendTime,
    /// Leases: the primary relies on less than was promised, for clocks of different rates.
    LeaseHasMargins,
    /// Leases and confirmations: every required copy gives one.
    ProofByEveryCopy,
    /// Leases and confirmations: asked copies give one too.
    ProofByTheAsked,
    /// Leases: who restarts with its data behaves as if it had just granted one.
    RestartPromises,
    /// Leases: a new primary waits out what it promised to earlier epochs.
    PromisesAreKept,
    /// Confirmations: the round begins after the read arrived.
    FreshRound,
    /// Exactly once: a repeated request is recognised.
    RepeatsAreRecognised,
    /// Exactly once: a number below the floor is refused.
    FloorIsKept,
    /// Exactly once: an unknown session has expired.
    UnknownSessionIsOver,
    /// Exactly once: session ids of different generations differ.
    SessionsNameTheirGeneration,
    /// Log time: a copy goes on from the highest that it heard, also in heartbeats.
    HeartbeatsCarryLogTime,
    /// Sessions: nothing is kept alive whose expiry is ordered.
    OrderedExpiryStands,
    /// Sessions: a promotion gives every session a full lease.
    PromotionRenewsLeases,
}

/// Whether a rule is kept: always, but in a test that dropped it.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub const fn keeps(_rule: Rule) -> bool {
    true
}

#[cfg(debug_assertions)]
pub use switch::{keeps, without};

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        /// One bit for each rule dropped on this thread.
        static DROPPED: Cell<u128> = const { Cell::new(0) };
    }

    const _: () = assert!(Rule::ALL.len() <= u128::BITS as usize, "a bit for each rule");

    fn bit(rule: Rule) -> u128 {
        1 << (rule as u32)
    }

    /// Whether a rule is kept: always, but in a test that dropped it.
    #[must_use]
    pub fn keeps(rule: Rule) -> bool {
        DROPPED.get() & bit(rule) == 0
    }

    /// Runs `work` on this thread with these rules dropped. They are kept again afterwards, also
    /// when `work` panics.
    pub fn without<T>(rules: &[Rule], work: impl FnOnce() -> T) -> T {
        struct Restore(u128);
        impl Drop for Restore {
            fn drop(&mut self) {
                DROPPED.set(self.0);
            }
        }
        let _restore = Restore(DROPPED.get());
        DROPPED.set(rules.iter().fold(DROPPED.get(), |dropped, rule| dropped | bit(*rule)));
        work()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(debug_assertions)]
    fn a_dropped_rule_is_kept_again_afterwards_and_elsewhere_all_the_time() {
        use super::{Rule, keeps, without};
        assert!(keeps(Rule::FreshRound));
        without(&[Rule::FreshRound], || {
            assert!(!keeps(Rule::FreshRound));
            assert!(keeps(Rule::FloorIsKept));
            std::thread::spawn(|| assert!(keeps(Rule::FreshRound))).join().unwrap();
        });
        let panicked = std::panic::catch_unwind(|| without(&[Rule::FreshRound], || panic!("told")));
        assert!(panicked.is_err() && keeps(Rule::FreshRound));
    }
}
