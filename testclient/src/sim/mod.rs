//! A deterministic simulator of a whole cluster in memory: the production protocol cores and the
//! logic of the client library on virtual clocks and a network, all decided by one seed. Pure.
//!
//! In reading order:
//! - [`world`]: what there is, and the loop that takes the next event; [`draw`]: what a seed makes
//! - [`servers`]: processes around a replica: a slow journal, pauses in the middle of a step;
//!   [`registration`]: what they tell the view service
//! - [`views`]: the view service around the leader that runs in production
//! - [`clients`]: clients around the logic that runs in the library; [`workload`]: what they want
//! - [`doors`]: requests at the servers, and their answers
//! - [`disk`]: a disk that keeps only what it must; [`storage`]: journals that write to it
//! - [`network`]: streams that keep their order or break, links that are cut or held
//! - [`faults`]: what goes wrong, and how everything heals
//! - [`ledger`], [`invariants`]: what is committed, and what must hold after every event
//! - [`histories`]: what the clients saw, judged by the checkers of histories
//! - [`visits`]: the rare paths that a run took
//! - [`story`]: quiet worlds for stories that are told step by step
//! - [`tales`]: tests of the labs that this store comes from, as such stories
//!
//! A run is chaos first; then everything heals and faults stop, and the cluster must commit again
//! and be fully redundant again.

pub mod clients;
pub mod disk;
pub mod doors;
pub mod draw;
pub mod faults;
pub mod histories;
pub mod invariants;
pub mod ledger;
pub mod network;
pub mod registration;
pub mod servers;
pub mod storage;
pub mod story;
pub mod tales;
pub mod views;
pub mod visits;
pub mod workload;
pub mod world;

pub use visits::{Path, Visits};

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ran {
    /// The paths it took.
    pub visits: Visits,
    /// Virtual time, in microseconds.
    pub micros: u64,
}

/// Which worlds there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Servers keep their data in memory.
    InMemory,
    /// Servers keep their data on disks, which lose, tear and fail.
    OnDisks,
}

/// Runs one seed to its end, on the caller's thread. Every line of the trace goes to `trace`, if
/// there is one.
///
/// # Panics
/// When an invariant is broken, with its name and what was seen.
pub fn run(kind: Kind, seed: u64, trace: Option<&mut dyn FnMut(&str)>) -> Ran {
    world::World::of_seed(kind, seed, trace).run()
}
