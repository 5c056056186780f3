//! What a primary has ordered and not yet committed, in bytes. Pure.

use std::collections::VecDeque;

/// One pair for each op, in order.
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct Uncommitted {
    ops: VecDeque<(usize, u64)>,
    weight: usize,
    growth: u64,
    value_length_max: usize,
}

impl Uncommitted {
    /// An op was ordered: what its entry weighs, by how much the data may grow when it is applied,
    /// and the longest value that it may leave.
    pub(super) fn push(&mut self, weight: usize, growth: u64, value_length: usize) {
        self.ops.push_back((weight, growth));
        self.weight += weight;
        self.growth += growth;
        self.value_length_max = self.value_length_max.max(value_length);
    }

    /// The first of them was applied.
    pub(super) fn pop(&mut self) {
        let (weight, growth) = self.ops.pop_front().expect("a primary commits what it ordered");
        self.weight -= weight;
        self.growth -= growth;
        if self.ops.is_empty() {
            self.value_length_max = 0;
        }
    }

    /// Of all entries.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Of the data, at most.
    pub(super) fn growth(&self) -> u64 {
        self.growth
    }

    /// No value that was written since nothing was left here is longer, but for what appends add.
    pub(super) fn value_length_max(&self) -> usize {
        self.value_length_max
    }
}
