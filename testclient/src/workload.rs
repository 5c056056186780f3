//! A load from a seed: which operation comes next. Pure; the same seed gives the same load.

use std::fmt::Write;

use bytes::Bytes;

use crate::random::Random;

/// Bytes of each key.
pub const KEY_SIZE: usize = 16;

/// What a load consists of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Different keys, all equally likely.
    pub keys: u64,
    /// Share of reads, 0 to 1.
    pub read_ratio: f64,
}

/// One operation of a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Read the key of this number.
    Read(u64),
    /// Write the key of this number.
    Write(u64),
}

impl Mix {
    /// The next operation.
    pub fn next(&self, random: &mut Random) -> Step {
        let key = random.between(0, self.keys - 1);
        if random.portion() < self.read_ratio { Step::Read(key) } else { Step::Write(key) }
    }
}

/// The names of keys by their numbers, all made beforehand in one buffer: whoever measures does not
/// want to format a name for each call.
#[derive(Clone, Debug)]
pub struct Keys {
    names: Bytes,
}

impl Keys {
    /// The first so many keys, `key-000000000000` and so on.
    ///
    /// # Panics
    /// When there are more than a [`KEY_SIZE`] of bytes can tell apart.
    #[must_use]
    pub fn new(count: u64) -> Keys {
        assert!(count <= KEYS_MAX, "{count} keys do not fit into names of {KEY_SIZE} bytes");
        let size = usize::try_from(count).expect("as many keys as fit into memory") * KEY_SIZE;
        let mut names = String::with_capacity(size);
        for number in 0..count {
            write!(names, "key-{number:012}").expect("a string takes whatever is written");
        }
        Keys { names: names.into() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.names.len() / KEY_SIZE) as u64
    }

    /// The name of one of them.
    #[must_use]
    pub fn name(&self, number: u64) -> Bytes {
        let at = usize::try_from(number).expect("the number of a key in memory") * KEY_SIZE;
        self.names.slice(at..at + KEY_SIZE)
    }
}

/// Names of [`KEY_SIZE`] bytes hold twelve digits.
const KEYS_MAX: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_load_with_the_share_of_reads_asked_for() {
        let mix = Mix { keys: 100, read_ratio: 0.25 };
        let run = |seed| {
            let mut random = Random::new(seed);
            (0..10_000).map(|_| mix.next(&mut random)).collect::<Vec<_>>()
        };
        let load = run(7);
        assert_eq!(load, run(7));
        assert_ne!(load, run(8));
        let reads = load.iter().filter(|step| matches!(step, Step::Read(_))).count();
        assert!((2_300..2_700).contains(&reads), "{reads} reads");
    }

    #[test]
    fn each_number_has_a_name_of_its_own_and_the_order_of_numbers() {
        let keys = Keys::new(1_001);
        assert_eq!(keys.count(), 1_001);
        assert_eq!(keys.name(0), "key-000000000000");
        assert_eq!(keys.name(1_000), "key-000000001000");
        assert!(keys.name(99) < keys.name(100));
    }
}
