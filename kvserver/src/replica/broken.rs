//! What breaking a rule does where that takes more than leaving a check out. Nothing here runs
//! unless a test has dropped the rule ([`kvproto::rules`]).

use std::sync::Arc;

use kvproto::command::{Entry, Outcome};
use kvproto::ids::OpNumber;

use super::copy::Copy;
use crate::store::Store;

/// Has the last op applied once more when the primary speaks of it again.
pub(super) fn forget_last_applied(copy: &mut Copy) {
    if copy.committed > copy.log.base().op {
        copy.committed = OpNumber(copy.committed.0 - 1);
    }
}

/// The store as if everything ordered were committed, and what the uncommitted entries would do.
pub(super) fn as_if_committed(copy: &Copy) -> (Store, Vec<(OpNumber, Outcome)>) {
    let mut store = copy.store.clone();
    let tail = copy.log.from(copy.committed.next(), usize::MAX);
    let apply = |entry: &Arc<Entry>| (entry.op(), store.apply(entry));
    let outcomes = tail.iter().map(apply).collect();
    (store, outcomes)
}
