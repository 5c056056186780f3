//! What becomes of a server that is refused, and the rules of that.

use super::*;

fn nobody_ends_for_what_a_view_service_does_not_know() {
    for is_registered in [false, true] {
        for (reason, then) in [
            (RefusedReason::NameInUse, Consequence::AskAgain),
            (RefusedReason::Listening, Consequence::AskAgain),
            (RefusedReason::Doubt, Consequence::GoOn),
            (RefusedReason::OtherPast, Consequence::StandStill),
            (RefusedReason::StaleIncarnation, Consequence::End),
        ] {
            assert_eq!(consequence(reason, is_registered), then);
        }
    }
}

#[test]
fn a_living_server_ends_only_for_a_newer_life_of_its_own() {
    nobody_ends_for_what_a_view_service_does_not_know();
    for reason in [
        RefusedReason::WrongCluster,
        RefusedReason::WrongKind,
        RefusedReason::WrongMode,
        RefusedReason::Incompatible,
    ] {
        assert_eq!(consequence(reason, true), Consequence::GoOn);
        assert_eq!(consequence(reason, false), Consequence::End);
    }
}

#[test]
#[cfg(debug_assertions)]
fn every_rule_of_refusals_is_missed() {
    for rule in [Rule::DoubtEndsNobody, Rule::OtherPastEndsNobody] {
        let story = nobody_ends_for_what_a_view_service_does_not_know;
        let broken = std::panic::catch_unwind(|| kvproto::rules::without(&[rule], story));
        assert!(broken.is_err(), "{rule:?} is missed by nobody");
    }
}
