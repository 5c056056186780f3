//! Values that many states share, each with its hash computed once. Pure.
//!
//! A state is made of a dozen of these, so that a transition copies and hashes only what it touches.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value and its hash, cheap to clone.
#[derive(Debug)]
pub struct Shared<T>(Arc<Hashed<T>>);

#[derive(Debug)]
struct Hashed<T> {
    hash: u64,
    value: T,
}

impl<T: Hash> Shared<T> {
    /// Hashes the value.
    pub fn new(value: T) -> Shared<T> {
        Shared(Arc::new(Hashed { hash: hash_of(&value), value }))
    }

    /// The hash of the value.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.hash
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// The hash of a value: the same in every run.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut fold = Fold(0x243f_6a88_85a3_08d3);
    value.hash(&mut fold);
    fold.finish()
}

/// Multiplies each word into 128 bits and folds the halves together (wyhash's step): fast for the
/// many small words of a derived hash, and good enough in all its 64 bits to stand for a state.
struct Fold(u64);

impl Hasher for Fold {
    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64) ^ 0x1319_8a2e_0370_7344;
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_that_differ_have_different_hashes() {
        let mut seen: Vec<u64> = Vec::new();
        for a in 0..100_u64 {
            for b in 0..100_u64 {
                seen.push(hash_of(&(a, b)));
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10_000);
    }
}
