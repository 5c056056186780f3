//! What a server does when the view service refuses it. Pure.
//!
//! No server ends itself, or what it holds, on the word of a view service that does not know what it
//! knows (VIEW-8). Such a one says so by its reason: only `StaleIncarnation` is said by one whose own
//! history has the record that this server showed.

use kvproto::registration::RefusedReason;
use kvproto::rules::{Rule, keeps};

/// What follows from a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consequence {
    /// The view service will answer otherwise when something has changed: ask again.
    AskAgain,
    /// This is not the view service that registered this life, or it is in doubt: go on as things
    /// stand, say so, and ask again.
    GoOn,
    /// An operator had the cluster go on without what this life knows: serve nothing any more, keep
    /// everything, say so, and ask again.
    StandStill,
    /// This process is of no use: it ends.
    End,
}

/// What follows for a process that was refused for this reason, and that has been registered before or
/// not.
#[must_use]
pub fn consequence(reason: RefusedReason, is_registered: bool) -> Consequence {
    match reason {
        RefusedReason::NameInUse | RefusedReason::Listening => Consequence::AskAgain,
        RefusedReason::Doubt if !keeps(Rule::DoubtEndsNobody) => Consequence::End,
        RefusedReason::Doubt => Consequence::GoOn,
        RefusedReason::OtherPast if !keeps(Rule::OtherPastEndsNobody) => Consequence::End,
        RefusedReason::OtherPast => Consequence::StandStill,
        RefusedReason::StaleIncarnation => Consequence::End,
        RefusedReason::WrongCluster
        | RefusedReason::WrongKind
        | RefusedReason::WrongMode
        | RefusedReason::Incompatible => {
            if is_registered {
                Consequence::GoOn
            } else {
                Consequence::End
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    pub(crate) fn nobody_ends_for_what_a_view_service_does_not_know() {
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
    fn another_view_service_ends_only_who_was_never_registered() {
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
}
