//! A load from a seed: which operation comes next. Pure; the same seed gives the same load.

use crate::random::Random;

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

/// Name of a key by its number.
#[must_use]
pub fn key(number: u64) -> String {
    format!("key-{number:08}")
}

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
}
