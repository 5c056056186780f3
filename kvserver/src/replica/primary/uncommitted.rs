//! What a primary has ordered and not yet committed, in bytes. Pure.

use std::collections::VecDeque;

/// One pair for each op, in order.
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct Uncommitted {
    ops: VecDeque<(usize, u64)>,
    weight: usize,
    growth: u64,
}

impl Uncommitted {
    /// An op was ordered: what its entry weighs, and by how much the data may grow when it is
    /// applied.
    pub(super) fn push(&mut self, weight: usize, growth: u64) {
        self.ops.push_back((weight, growth));
        self.weight += weight;
        self.growth += growth;
    }

    /// The first of them was applied.
    pub(super) fn pop(&mut self) {
        let (weight, growth) = self.ops.pop_front().expect("a primary commits what it ordered");
        self.weight -= weight;
        self.growth -= growth;
    }

    /// Of all entries.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Of the data, at most.
    pub(super) fn growth(&self) -> u64 {
        self.growth
    }
}
