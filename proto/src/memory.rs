//! What things take in memory, for budgets. Pure.

/// What the allocator takes for so many bytes: it has sizes in steps of 16, and from 128 on four to
/// each doubling.
#[must_use]
pub const fn allocated(size: usize) -> usize {
    let step = size.next_power_of_two() / 8;
    size.next_multiple_of(if step > 16 { step } else { 16 })
}

/// What a value takes that several places share: two counters stand before it.
#[must_use]
pub const fn shared<T>() -> usize {
    allocated(size_of::<T>() + 2 * size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_the_allocator_does() {
        let sizes = [(0, 0), (1, 16), (116, 128), (129, 160), (144, 160), (193, 224), (1025, 1280)];
        for (size, taken) in sizes {
            assert_eq!(allocated(size), taken, "{size}");
        }
    }
}
