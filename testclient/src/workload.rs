//! A load from a seed: which operation comes next. Pure; the same seed gives the same load.

/// Steps of a generator by Sebastiano Vigna (SplitMix64): small, fast and good enough to spread
/// keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that starts at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

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
        let key = random.below(self.keys);
        if random.chance(self.read_ratio) { Step::Read(key) } else { Step::Write(key) }
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
