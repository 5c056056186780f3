//! A deterministic simulator of a whole cluster in memory: the production protocol cores on a
//! virtual clock, a network and clients that one seed decides. Pure.
//!
//! In reading order:
//! - [`world`]: what there is, and the loop that takes the next event
//! - [`servers`]: processes around a replica: a slow journal, pauses in the middle of a step
//! - [`views`]: the view service around the leader that runs in production
//! - [`network`]: streams that keep their order or break, and links that are cut
//! - [`faults`]: what goes wrong, and how everything heals
//! - [`workload`]: clients that repeat their requests, give up, and read
//! - [`invariants`]: what must hold after every event, each with its name
//! - [`random`]: the one source of chance
//!
//! A run is chaos first; then everything heals and faults stop, and the cluster must commit again
//! and be fully redundant again.

pub mod faults;
pub mod invariants;
pub mod network;
pub mod random;
pub mod servers;
pub mod views;
pub mod workload;
pub mod world;

use std::collections::BTreeMap;

/// How often something worth visiting was visited.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Visits {
    counts: BTreeMap<&'static str, u64>,
}

/// What a fixed set of seeds must visit, or the runs prove less than they seem to.
pub const MUST_VISIT: &[&str] = &[
    "failover",
    "join by log",
    "join by transfer",
    "transfer given up",
    "tail dropped",
    "promotion with a tail",
    "eviction",
    "read that waits for confirmation",
    "lease run out before the reply",
    "duplicate answered",
    "duplicate ordered twice",
    "hand-over",
    "registration refused",
    "session expired",
    "pause between deciding and acting",
    "message of an old stream",
    "outcome unknown",
    "progress after healing",
    "full redundancy after healing",
];

impl Visits {
    /// Counts one visit.
    pub fn note(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Visits) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// What was never visited of what must be.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let seen = |what: &&&str| !self.counts.contains_key(**what);
        MUST_VISIT.iter().filter(seen).copied().collect()
    }
}

impl std::fmt::Display for Visits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:8}  {what}")?;
        }
        Ok(())
    }
}

/// Runs one seed to its end. Every line of the trace goes to `trace`, if there is one.
///
/// # Panics
/// When an invariant is broken, with its name and what was seen.
pub fn run(seed: u64, trace: Option<&mut dyn FnMut(&str)>) -> Visits {
    world::World::new(seed, trace).run()
}
