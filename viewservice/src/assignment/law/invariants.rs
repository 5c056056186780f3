//! What must hold of the views, asserted after every command: the list at the head of the law. Pure.

use std::collections::BTreeSet;

use kvproto::View;

use super::{Doubt, ViewState, nobody_twice, same_configuration};

impl ViewState {
    /// Asserts what must hold of the state alone.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        let view = &self.view;
        assert!(
            view.primary.is_some() == (view.number.0 > 0),
            "every view but number 0 has a primary: {view:?}"
        );
        if let Some(primary) = &view.primary {
            assert!(nobody_twice(primary, &view.backups).is_ok(), "NobodyTwice: {view:?}");
            assert!(
                !self.ever_activated
                    || view.eligible.contains(primary)
                    || !self.is_present(primary),
                "PrimaryIsComplete: {view:?}"
            );
        }
        if view.is_activated() {
            let members: BTreeSet<_> = view.members().cloned().collect();
            let mut others = view.eligible.difference(&members);
            assert!(
                others.all(|other| self.storages.contains_key(&other.incarnation))
                    && self.ever_activated,
                "ActivatedIsClosed: {view:?}"
            );
        }
        assert!(
            self.ever_activated != view.eligible.is_empty(),
            "EligibleIsEarned: nobody is eligible exactly until the first activation: {view:?}"
        );
        assert!(view.primary_since <= view.number, "EpochNamesOnePrimary: {view:?}");
        let given: BTreeSet<_> = self.servers.values().map(|s| s.incarnation).collect();
        assert!(
            given.len() == self.servers.len()
                && given.last().is_none_or(|last| *last <= self.last_incarnation),
            "IncarnationsAreNew: {:?}",
            self.servers
        );
    }

    /// Asserts what must hold between the state before a command and after it.
    pub(super) fn check_step(&self, before: &View, was_activated: bool, doubted: Option<&Doubt>) {
        self.check_doubt(doubted, before);
        let believed = doubted.is_some() && self.doubt().is_none();
        let after = &self.view;
        if after.revision == before.revision {
            assert!(after == before, "OneRecordPerRevision: {before:?} {after:?}");
            return;
        }
        assert!(
            after.revision == before.revision.next()
                && after.history != before.history
                && self.went_through(after.revision, after.history),
            "OneRecordPerRevision: {before:?} {after:?}"
        );
        let forced = believed || was_activated && after.generation != before.generation;
        let moved = after.number != before.number;
        let changed = after
            .primary
            .as_ref()
            .is_some_and(|primary| forced || !same_configuration(before, primary, &after.backups));
        assert!(
            moved == changed
                && (!moved || believed || after.number == before.number.next())
                && (!forced || moved)
                && (!forced || believed || after.generation == before.generation.next())
                && after.generation >= before.generation,
            "NumbersRiseByOne: {before:?} {after:?}"
        );
        assert!(
            (after.epoch() != before.epoch()) == (forced || after.primary != before.primary),
            "EpochNamesOnePrimary: {before:?} {after:?}"
        );
        if forced {
            assert!(after.eligible.len() == 1, "EligibleIsEarned: {after:?}");
            return;
        }
        let new: Vec<_> = after.eligible.difference(&before.eligible).collect();
        let earned = match new[..] {
            [] => true,
            [one] if was_activated => {
                !moved && before.is_activated() && after.backups.contains(one)
            }
            [one] => after.is_primary(one),
            _ => false,
        };
        assert!(earned, "EligibleIsEarned: {before:?} {after:?}");
        assert!(
            !moved || after.eligible == before.eligible,
            "EligibleIsEarned: a proposal changes nobody's standing: {before:?} {after:?}"
        );
    }
}
