//! Every rule of the view service beside the story that must fail when the rule is dropped: tests of
//! the tests. (DeMillo, Lipton and Sayward, Hints on test data selection, 1978.)

use kvproto::rules::{Rule, without};

use super::{disks, holes, rules, scars};
use crate::assignment::law::tests::returning;

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
