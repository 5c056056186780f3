//! Every rule of the view service beside the story that must fail when the rule is dropped: tests of
//! the tests. (DeMillo, Lipton and Sayward, Hints on test data selection, 1978.)

use kvproto::rules::{Rule, without};

use super::{disks, doubt, gone, holes, meeting, rules, scars, slow};
use crate::assignment::law::tests::{doubt as law_doubt, returning};

/// Rules dropped together, since each covers for the other, and who notices.
type Mutant = (&'static [Rule], &'static str, fn());

macro_rules! story {
    ([$($rule:ident),*] $module:ident::$story:ident) => {
        (&[$(Rule::$rule),*], stringify!($story), $module::$story)
    };
}

const MUTANTS: &[Mutant] = &[
    story!([PrimaryIsEligible] scars::s2_h_an_idle_server_does_not_replace_a_dead_sole_primary),
    story!([PrimaryIsEligible] rules::view_2_nobody_incomplete_becomes_primary_whoever_proposes_it),
    story!([FirstViewIsFree] holes::h11_a_first_primary_that_dies_before_it_activates_blocks_nothing),
    story!([EpochByTheRecordReplaced] holes::h12_a_primary_named_again_after_a_proposed_other_gets_a_new_epoch),
    story!([ReconciledWereEligible] rules::view_4_activation_keeps_only_those_who_were_complete_and_are_reconciled),
    story!([ActivateNamesItsView] rules::view_4_an_activation_of_an_older_view_is_refused),
    story!([ActivateByThePrimary] rules::view_4_activation_keeps_only_those_who_were_complete_and_are_reconciled),
    story!([ActivateNamesItsView, ActivateByThePrimary] rules::view_4_an_activation_of_an_older_view_is_refused),
    story!([RestartEndsTheRole] returning::view_6_a_primary_that_comes_back_with_its_data_leads_only_in_a_new_epoch),
    story!([ReturnHoldsTheBarrier] returning::view_6_data_that_lacks_something_acknowledged_is_not_the_members),
    story!([ReturnIsComplete] returning::view_6_data_that_lacks_something_acknowledged_is_not_the_members),
    story!([FormerMembersStayOut] returning::view_6_of_everybody_who_comes_back_after_a_power_cut_only_the_eligible_may_lead),
    story!([ReconciledByIncarnation] holes::h4_a_restart_under_way_gains_nothing_from_the_commands_of_its_former_life),
    story!([SyncedNamesItsView] holes::h3_a_declaration_of_an_older_view_is_refused),
    story!([SyncedByIncarnation] holes::h4_a_restart_under_way_gains_nothing_from_the_commands_of_its_former_life),
    story!([RestartedIsNew] rules::h1_the_role_of_a_primary_does_not_survive_its_restart),
    story!([MetBeforeItsPart] meeting::view_6_a_server_has_no_part_before_it_was_met_at_its_address),
    story!([UnmetLeadsIfNobodyElse] meeting::view_6_an_eligible_server_that_nobody_meets_leads_if_no_other_eligible_could),
    story!([MeetingEndsItsOwnStorage] meeting::view_6_a_newcomer_at_a_moved_address_does_not_end_the_last_copy_at_once),
    story!([EligibleEndsBySilence] meeting::view_6_a_newcomer_at_a_moved_address_does_not_end_the_last_copy_at_once),
    story!([AnotherStorageIsMet] meeting::view_6_another_storage_gets_a_name_only_where_it_was_met),
    story!([OtherPastIsDoubted] doubt::view_8_a_copy_that_knows_more_than_the_view_service_puts_it_in_doubt),
    story!([OtherPastIsDoubted] doubt::view_8_what_was_decided_since_it_was_put_back_makes_another_past_and_no_newer_one),
    story!([DoubtDecidesNothing] law_doubt::view_8_in_doubt_the_law_refuses_all_else),
    story!([DoubtEndsAboveAllShown] doubt::view_8_an_operator_ends_the_doubt_when_all_others_were_silent),
    story!([DoubtEndsAboveAllShown] doubt::view_8_a_server_that_starts_may_be_believed_and_is_known_when_it_comes_again),
    story!([DoubtWaitsForSilence] doubt::view_8_an_operator_ends_the_doubt_when_all_others_were_silent),
    story!([OtherPastIsNotResumed] doubt::view_8_a_living_server_of_a_past_that_was_given_up_is_not_told_to_end),
    story!([StaleNeedsItsRecord] doubt::view_8_a_life_is_ended_only_by_a_view_service_that_knows_how_it_ended),
    story!([EmptyListensFirst] doubt::view_8_an_empty_view_service_listens_before_it_founds_a_cluster),
    story!([FullFoundsFirst] doubt::view_8_a_plain_ping_founds_at_once_unless_a_full_server_has_come),
    story!([ReplacedByACompleteOne] slow::a_slow_backup_goes_when_another_has_taken_its_place),
    story!([LeftOutBacksOff] slow::who_is_left_out_again_and_again_is_tried_later_and_later_also_if_nobody_else_is_there),
    story!([OwnDirectoryLeads] gone::a_copy_without_its_directory_does_not_lead_while_another_may_come_back_with_its_own),
    story!([PlainPingIsInert] rules::kinds_do_not_mix_and_a_plain_ping_for_a_full_server_is_inert),
    story!([HangingCandidateIsReplaced] disks::hole_8b_a_candidate_whose_disk_hangs_is_replaced_by_one_whose_disk_moves),
    story!([ReplacedIfAnotherMoves] disks::hole_8c_where_both_disks_hang_the_view_is_not_handed_to_and_fro),
    story!([HangingIsLeftOut] disks::hole_8d_a_primary_that_yields_is_left_out_until_its_disk_moves),
];

#[test]
fn every_rule_of_the_view_service_is_missed_by_a_named_story() {
    for (rules, name, story) in MUTANTS {
        let broken = std::panic::catch_unwind(|| without(rules, story));
        assert!(broken.is_err(), "{name} passes without {rules:?}");
    }
}
