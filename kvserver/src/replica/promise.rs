//! Leases that this copy granted: until one ends it helps no later epoch to serve.
//! (Gray and Cheriton, Leases, 1989; PacificA, 2008, where backups grant them.)

use std::collections::BTreeMap;

use kvproto::ids::{Epoch, Member};
use kvproto::rules::{Rule, keeps};
use kvproto::time::Timestamp;

/// Promises by holder and by the epoch in which it held them.
#[derive(Clone, Hash, Debug, Default)]
pub struct Promises {
    until: BTreeMap<(Epoch, Member), Timestamp>,
}

impl Promises {
    /// Promises the primary of `epoch` not to help a later one before `until`.
    pub fn promise(&mut self, holder: &Member, epoch: Epoch, until: Timestamp) {
        let entry = self.until.entry((epoch, holder.clone())).or_default();
        *entry = until.max(*entry);
    }

    /// The holder has stopped before `epoch`: promises made to it in older epochs are void, later
    /// ones stand (a release may come late).
    pub fn release(&mut self, holder: &Member, epoch: Epoch) {
        self.until.retain(|(granted_in, to), _| {
            to != holder || *granted_in >= epoch && keeps(Rule::ReleaseIsBoundToItsEpoch)
        });
    }

    /// When the last promise to an epoch before this one ends.
    #[must_use]
    pub fn last_before(&self, epoch: Epoch) -> Option<Timestamp> {
        self.until.iter().filter(|((in_epoch, _), _)| *in_epoch < epoch).map(|(_, at)| *at).max()
    }

    /// Drops what has ended.
    pub fn forget_past(&mut self, now: Timestamp) {
        self.until.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::ids::{Generation, Incarnation, ViewNumber};

    fn epoch(view: u64) -> Epoch {
        Epoch { generation: Generation(1), primary_since: ViewNumber(view) }
    }
    fn member(name: &str) -> Member {
        Member { name: name.into(), incarnation: Incarnation(1) }
    }
    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn only_promises_to_earlier_epochs_hold_a_new_primary_back() {
        let mut promises = Promises::default();
        promises.promise(&member("a"), epoch(1), at(100));
        promises.promise(&member("a"), epoch(1), at(90));
        promises.promise(&member("b"), epoch(4), at(300));
        assert_eq!(promises.last_before(epoch(4)), Some(at(100)));
        assert_eq!(promises.last_before(epoch(5)), Some(at(300)));
        promises.forget_past(at(100));
        assert_eq!(promises.last_before(epoch(4)), None);
    }
}
