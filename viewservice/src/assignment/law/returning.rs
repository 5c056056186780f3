//! VIEW-6: who comes back with its data, and what it may be. Pure; a part of the law.

use std::collections::BTreeSet;

use kvproto::registration::Held;
use kvproto::{Generation, Member, OpNumber, Rule, StorageId, View, keeps};

use super::{Storage, ViewState};

impl ViewState {
    /// The eligible life that left this data behind, if it is known to be complete (VIEW-6): it is
    /// the storage of an eligible life, holds the barrier of the last activated epoch, and reaches
    /// the highest op that was said to be committed.
    #[must_use]
    pub fn left_by(&self, held: &Held) -> Option<&Member> {
        // Nobody can tell what a forced generation begins with before it has begun.
        let holds_barrier = self.activated.is_some_and(|epoch| {
            held.epochs.contains(&epoch) || !keeps(Rule::ReturnHoldsTheBarrier)
        });
        let reaches = held.last.op >= self.committed_heard || !keeps(Rule::ReturnIsComplete);
        if !holds_barrier || !reaches {
            return None;
        }
        self.view.eligible.iter().find(|member| {
            let storage = self.storages.get(&member.incarnation);
            storage.is_some_and(|storage| storage.id == held.storage)
        })
    }

    /// Whether a view of this generation was activated. Before that nobody comes back with its data.
    #[must_use]
    pub fn generation_has_begun(&self) -> bool {
        self.activated.is_some()
    }

    /// The storages whose servers may come back, if they are whole.
    #[must_use]
    pub fn eligible_storages(&self) -> BTreeSet<StorageId> {
        let eligible = self.view.eligible.iter().filter(|_| self.generation_has_begun());
        eligible.filter_map(|member| Some(self.storages.get(&member.incarnation)?.id)).collect()
    }

    /// The storage with which this life began, if it has one.
    #[must_use]
    pub fn storage(&self, member: &Member) -> Option<StorageId> {
        Some(self.storages.get(&member.incarnation)?.id)
    }

    /// Whether this life began with data. Before the first activation it is restored data, which
    /// the cluster begins with.
    #[must_use]
    pub fn began_with_data(&self, member: &Member) -> bool {
        self.restored(member).is_some()
    }

    pub(super) fn restored(&self, member: &Member) -> Option<Generation> {
        let last = self.storages.get(&member.incarnation)?.last;
        (last.op > OpNumber(0)).then_some(last.epoch.generation)
    }

    /// VIEW-6: a life that comes back with everything that was committed is eligible in the place of
    /// the one that left it. The view still names that one, so that a new view, with a number of its
    /// own, ends whatever its primary had asked for it. And not as primary: a part of its log may have
    /// been acknowledged by others and not be on its disk, so the old epoch could name two ops at one
    /// position.
    pub(super) fn take_back(&mut self, member: &Member, held: &Held) {
        let storage = Storage::of(held);
        let former = self.left_by(held).cloned();
        self.storages.insert(member.incarnation, storage);
        let former = match former {
            Some(former) => former,
            None if !keeps(Rule::FormerMembersStayOut) && self.ever_activated => {
                self.view.eligible.insert(member.clone());
                return;
            }
            None => return,
        };
        self.view.eligible.remove(&former);
        self.view.eligible.insert(member.clone());
        if former.name != member.name && self.is_present(&former) {
            self.servers.remove(&former.name);
        }
        if self.view.is_primary(&former) && !keeps(Rule::RestartEndsTheRole) {
            self.view.primary = Some(member.clone());
        }
    }

    /// The record before a registration, as if the life that came back had stood in it from the
    /// beginning: all else must be as it was.
    pub(super) fn as_if_returned(&self, mut before: View, member: &Member) -> View {
        if before.eligible.contains(member) || !self.view.eligible.contains(member) {
            return before;
        }
        let gone = before.eligible.difference(&self.view.eligible).next().cloned();
        if let Some(former) = gone {
            before.eligible.remove(&former);
            before.eligible.insert(member.clone());
        }
        before
    }
}
