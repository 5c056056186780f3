//! Every rule of replication beside the story that must fail when the rule is dropped: tests of the
//! tests. (DeMillo, Lipton and Sayward, Hints on test data selection, 1978.)

use kvproto::rules::{Rule, without};

use super::{durable, failover, forced_tail, gone, hanging, joining, reads, slow, vouched, writes};
use crate::refusal::tests as refusal;

/// Rules dropped together, since each covers for the other, and who notices.
type Mutant = (&'static [Rule], &'static str, fn());

macro_rules! story {
    ([$($rule:ident),*] $module:ident::$story:ident) => {
        (&[$(Rule::$rule),*], stringify!($story), $module::$story)
    };
}

const MUTANTS: &[Mutant] = &[
    story!([PreviousIsMatched] failover::entries_after_an_op_of_another_epoch_are_refused),
    story!([SyncedIsVerified] joining::a_newcomer_is_synced_only_when_its_digest_was_right),
    story!([LeaseHasMargins] reads::the_primary_relies_on_less_than_its_backup_promised),
    story!([HeartbeatsCarryLogTime] failover::a_new_primary_goes_on_from_the_log_time_that_it_heard),
    story!([RecordsOfOwnCluster] failover::a_record_of_another_cluster_changes_nothing),
    story!([AckWaitsForJournal] durable::a_backup_acknowledges_what_its_journal_has_and_no_more),
    story!([RestartPromises] durable::a_copy_that_comes_back_waits_as_if_it_had_just_granted_a_lease),
    story!([AppliedOnce] writes::s2_f_copies_apply_in_one_order_whatever_the_wire_does),
    story!([ReplyAfterCommit] writes::every_copy_has_a_write_before_it_is_acknowledged),
    story!([CommitWaitsForCopies] writes::s2_a_a_write_that_cannot_be_forwarded_is_not_acknowledged),
    story!([ReplyNeedsEveryCopy] writes::every_copy_has_a_write_before_it_is_acknowledged),
    story!([OwnJournalCounts] writes::the_primarys_own_journal_counts_too),
    story!([AskedIsRequired] joining::h3_asked_is_required_until_a_later_view_is_activated),
    story!([AskedEnds] joining::h3_asked_is_required_until_a_later_view_is_activated),
    story!([AskedOutlastsRecords, RecordsByRevision] failover::h2_an_older_record_of_the_same_view_is_ignored),
    story!([ShrinkWaits] failover::a_shrink_takes_effect_only_when_its_activation_is_confirmed),
    story!([RecordBeforeMatching] vouched::a_copy_answers_a_primary_once_a_record_of_its_epoch_is_on_its_disk),
    story!([PrimaryKeepsTheRecord] vouched::a_shrink_takes_effect_when_it_is_on_the_primarys_own_disk),
    story!([CopiesKeepTheRecord] vouched::a_shrink_takes_effect_when_everybody_who_stays_has_it_on_disk),
    story!([CopiesKeepTheRecord] vouched::a_new_primary_acts_when_everybody_who_counts_has_its_first_activation_on_disk),
    story!([SyncedHasTheRecord] vouched::a_newcomer_is_asked_for_once_it_has_the_primarys_newest_record_on_disk),
    story!([EpochsHaveTheirHistory] vouched::an_epoch_of_the_same_name_but_of_another_past_is_another_one),
    story!([DoubtEndsNobody] refusal::nobody_ends_for_what_a_view_service_does_not_know),
    story!([OtherPastEndsNobody] refusal::nobody_ends_for_what_a_view_service_does_not_know),
    story!([OtherPastStandsStill] vouched::who_learns_that_the_cluster_went_on_without_it_serves_nothing_and_keeps_everything),
    story!([TargetIncarnation] joining::s2_e_a_transfer_is_taken_only_on_the_open_stream_of_the_present_epoch),
    story!([OldEpochRefused] failover::an_old_primary_stops_at_once_when_it_hears_of_a_newer_epoch),
    story!([DeposedStops] failover::an_old_primary_stops_at_once_when_it_hears_of_a_newer_epoch),
    story!([NewestStreamCounts] joining::h5_only_answers_on_the_newest_stream_count),
    story!([OnlyMatchedCounts] failover::h9_an_unmatched_tail_is_neither_acknowledged_nor_applied),
    story!([AppliedIsCommitted] failover::h9_an_unmatched_tail_is_neither_acknowledged_nor_applied),
    story!([ReadIsCommitted] reads::a_read_sees_what_is_committed_and_nothing_else),
    story!([NewPrimaryKeepsItsTail] failover::an_acknowledged_write_is_kept_by_a_new_primary_that_never_heard_of_its_commit),
    story!([ForcedTailIsNamedAnew] failover::a_forced_generation_gives_the_tail_that_it_keeps_new_positions),
    story!([ForcedTailKeepsItsNames] forced_tail::a_forced_tail_keeps_its_names),
    story!([NamesAreGivenFirst] forced_tail::a_name_that_another_primary_gave_names_nothing_in_a_forced_tail),
    story!([EndedInTheTail] forced_tail::what_was_refused_in_the_tail_is_not_done_after_it_was_forced),
    story!([RecognisedAsAsked] forced_tail::a_request_of_a_forced_tail_is_recognised_as_its_client_asked_for_it),
    story!([ReconciledHoldTheBarrier] failover::a_view_is_activated_only_when_every_eligible_backup_of_it_has_the_barrier),
    story!([ActsOnceActivated] failover::h8_nothing_is_served_before_the_barrier_is_committed),
    story!([ActsAfterItsBarrier] failover::h8_nothing_is_served_before_the_barrier_is_committed),
    story!([MatchedIsNotDropped] failover::h10_a_repeated_message_drops_nothing_that_was_acknowledged_after_it),
    story!([SyncedHoldsEverything] joining::h6_a_newcomer_is_synced_only_with_everything_committed_so_far),
    story!([FreeBeforeTransfer] joining::h7_an_eligible_copy_that_the_log_cannot_reach_is_left_out_before_it_is_emptied),
    story!([FreeByTheNewestRecord] joining::h7_an_eligible_copy_that_the_log_cannot_reach_is_left_out_before_it_is_emptied),
    story!([PrimaryDropsTails] failover::the_tail_that_the_new_primary_does_not_have_is_dropped_and_told),
    story!([LeavingMayResume] failover::h13_a_primary_releases_only_when_a_newer_epoch_binds_it),
    story!([GoneWaitsForAnother] gone::a_primary_without_its_directory_stays_until_its_successor_has_begun),
    story!([ReleaseIsBoundToItsEpoch] failover::h13_a_late_release_leaves_promises_of_later_epochs_alone),
    story!([LeaseIsChecked] reads::s2_i_a_primary_whose_lease_is_over_answers_no_read),
    story!([LeaseIsCheckedPerRead] reads::the_lease_is_checked_after_the_read_was_evaluated),
    story!([PublishedFirst] reads::who_reads_without_asking_sees_a_write_before_its_writer_hears_of_it),
    story!([LeaseFromSendTime] reads::the_lease_counts_from_sending),
    story!([ProofByEveryCopy] reads::confirm_reads_ask_every_required_backup),
    story!([ProofByTheAsked] reads::a_copy_that_was_asked_to_be_counted_in_grants_the_lease_too),
    story!([PromisesAreKept] failover::a_new_primary_waits_out_the_lease_that_it_promised),
    story!([FreshRound] reads::a_confirmation_of_an_older_round_proves_nothing),
    story!([OrderedExpiryStands] writes::nothing_extends_a_session_whose_expiry_is_ordered),
    story!([ReconciledInTime] slow::a_backup_that_does_not_take_over_the_log_in_time_is_left_out),
    story!([ProgressIsBytes] slow::what_arrives_piece_by_piece_is_not_silence),
    story!([PieceIsNoAck] slow::a_piece_that_has_arrived_acknowledges_nothing),
    story!([HeartbeatIsNoProgress] slow::an_answered_heartbeat_is_no_progress_while_an_entry_is_owed),
    story!([HeartbeatNamesWhatIsHeld] slow::reads_go_on_while_a_large_entry_is_under_way),
    story!([SlowByTurns] slow::a_copy_that_stands_still_by_turns_is_asked_to_be_replaced),
    story!([CountedOnceItKeepsUp] slow::commits_do_not_wait_for_a_newcomer_that_still_stands_still_by_turns),
    story!([PromotionRenewsLeases] failover::a_new_primary_gives_every_session_a_full_lease),
    story!([OwnJournalCounts] hanging::hole_8a_what_only_others_have_safe_is_not_answered),
    story!([HangingPrimaryYields] hanging::a_primary_whose_disk_hangs_yields_to_the_copy_that_has_what_it_lacks),
    story!([YieldsToWhoMoves] hanging::hole_8c_where_both_disks_hang_nobody_yields),
    story!([HangingBlamesNobody] hanging::a_primary_whose_disk_hangs_has_nobody_left_out),
    story!([LeavingNeedsNoDisk] hanging::a_primary_whose_disk_hangs_leaves_without_it),
];

#[test]
fn every_rule_of_replication_is_missed_by_a_named_story() {
    for (rules, name, story) in MUTANTS {
        let broken = std::panic::catch_unwind(|| without(rules, story));
        assert!(broken.is_err(), "{name} passes without {rules:?}");
    }
}
