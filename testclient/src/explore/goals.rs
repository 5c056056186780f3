//! What an exploration should have seen happen: without it, "no violation" says little. Pure.

/// Something that a model ought to reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Goal {
    /// A write was answered.
    WriteDone,
    /// A write was answered by another primary than the first.
    WriteAfterFailover,
    /// A read was answered by another primary than the first.
    ReadAfterFailover,
    /// A newcomer was declared synced.
    NewcomerSynced,
    /// A server that was not eligible at the start led.
    NewcomerPromoted,
    /// An activation left an eligible copy out.
    ShrinkConfirmed,
    /// A proposed view was replaced before it was activated.
    ProposedSuperseded,
    /// The first primary led again in a later epoch.
    OldPrimaryReappointed,
    /// An uncommitted tail was dropped.
    TailDropped,
    /// A primary whose epoch is over held a read that it must not answer.
    DeposedHoldsRead,
    /// A full transfer was completed.
    Transferred,
    /// A read was answered under a lease.
    LeaseRead,
    /// A lease ran out between a read's evaluation and its answer.
    LeaseRanOut,
    /// A read was answered after a round of confirmations.
    ConfirmedRead,
    /// A server was asked to stop and handed over.
    HandedOver,
    /// A promise was released.
    Released,
    /// A message of an older epoch was refused.
    Fenced,
    /// A server restarted while it was counted on.
    CountedOnRestarted,
    /// A message arrived after its stream was over.
    LateMessage,
    /// A server acted on what it had decided before a pause, while time passed.
    ActedAfterPause,
    /// A repeated write was answered.
    RepeatAnswered,
    /// A server that was counted on restarted, and still is.
    CameBack,
    /// A view service that was put back was shown what it does not know.
    Doubted,
    /// One was shown only what it knows, and went on.
    PutBackUnharmed,
}

/// All goals, in the order of their bits.
pub const ALL: &[Goal] = &[
    Goal::WriteDone,
    Goal::WriteAfterFailover,
    Goal::ReadAfterFailover,
    Goal::NewcomerSynced,
    Goal::NewcomerPromoted,
    Goal::ShrinkConfirmed,
    Goal::ProposedSuperseded,
    Goal::OldPrimaryReappointed,
    Goal::TailDropped,
    Goal::DeposedHoldsRead,
    Goal::Transferred,
    Goal::LeaseRead,
    Goal::LeaseRanOut,
    Goal::ConfirmedRead,
    Goal::HandedOver,
    Goal::Released,
    Goal::Fenced,
    Goal::CountedOnRestarted,
    Goal::LateMessage,
    Goal::ActedAfterPause,
    Goal::RepeatAnswered,
    Goal::CameBack,
    Goal::Doubted,
    Goal::PutBackUnharmed,
];

/// A set of goals.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Goals(pub u32);

impl Goals {
    /// Notes that a goal was reached.
    pub fn reach(&mut self, goal: Goal) {
        self.0 |= 1 << goal as u32;
    }

    /// Whether it was.
    #[must_use]
    pub fn has(self, goal: Goal) -> bool {
        self.0 & 1 << goal as u32 != 0
    }

    /// Adds those of another set.
    pub fn add(&mut self, others: Goals) {
        self.0 |= others.0;
    }

    /// Those that were reached.
    #[must_use]
    pub fn reached(self) -> Vec<Goal> {
        ALL.iter().copied().filter(|goal| self.has(*goal)).collect()
    }
}
