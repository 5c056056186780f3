//! What can be asked for on the command line. The doc comments are the help texts; the defaults are
//! the scenes as the requirements mean them, and the flags scale them down.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{duration, size};

/// Which scene.
#[derive(Subcommand, Clone, Debug)]
pub enum Scene {
    /// A newcomer joins a full cluster while clients write.
    Join(Join),
    /// Memory that each key takes, in a primary and in a backup that joined.
    Memory(Memory),
    /// Throughput with few and with many keys.
    Keys(Keys),
    /// Far more load than the cluster can take, and what is left afterwards.
    Overload(Overload),
    /// Clients that sit idle, never read, or send a byte a second, beside one that behaves.
    Neighbours(Neighbours),
    /// What it costs to keep data on disk, a start with all of it, and a copy that comes back.
    Durable(Durable),
}

impl Scene {
    /// What all scenes share.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Scene::Join(options) => &options.common,
            Scene::Memory(options) => &options.common,
            Scene::Keys(options) => &options.common,
            Scene::Overload(options) => &options.common,
            Scene::Neighbours(options) => &options.common,
            Scene::Durable(options) => &options.common,
        }
    }

    /// Its name on the command line, and of its place in a page.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Scene::Join(_) => "join",
            Scene::Memory(_) => "memory",
            Scene::Keys(_) => "keys",
            Scene::Overload(_) => "overload",
            Scene::Neighbours(_) => "neighbours",
            Scene::Durable(_) => "durable",
        }
    }
}

/// What all scenes share.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Size of each value in bytes; keys have 16.
    #[arg(long, value_name = "SIZE", default_value_t = 100, value_parser = size)]
    pub value_size: usize,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to this file (`-`: stdout, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Put the result into this Markdown file, between `<!-- NAME:begin -->` and `<!-- NAME:end -->`,
    /// where NAME is that of the scene.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

/// A newcomer joins a full cluster while clients write.
#[derive(Args, Clone, Debug)]
pub struct Join {
    /// Keys in the store.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Writers, each with one call open at a time.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub writers: u32,
    /// How often the newcomer joins, empty each time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Time measured before each join; half of it is measured after.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub calm: Duration,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}

/// Memory that each key takes.
#[derive(Args, Clone, Debug)]
pub struct Memory {
    /// Numbers of keys at which memory is looked at, ascending; the backup joins at the first.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000000,1800000")]
    pub keys: Vec<u64>,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}

/// Throughput with few and with many keys.
#[derive(Args, Clone, Debug)]
pub struct Keys {
    /// Numbers of keys, at least two and ascending, each in a cluster of its own; the first is what
    /// others are compared with.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10000,100000,1000000,10000000"
    )]
    pub keys: Vec<u64>,
    /// Calls open at a time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callers: u32,
    /// Rounds; in each, every cluster has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Length of one turn of puts, and of one of gets.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub turn: Duration,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}

/// Far more load than the cluster can take.
#[derive(Args, Clone, Debug)]
pub struct Overload {
    /// Calls open at a time that bring the cluster to its capacity.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callers: u32,
    /// The overload: so many times the calls, started at so many times the rate.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub times: u32,
    /// Callers that put large values meanwhile, through the client library, with its retries.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub large: u32,
    /// Size of those values in bytes.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub large_size: usize,
    /// Keys in the store.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// How long the overload lasts.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub lasts: Duration,
    /// How long capacity is measured before and after.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub calm: Duration,
    /// Memory that each server may take.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = kvprocess::size::parse)]
    pub max_memory: u64,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}

/// Clients that misbehave, beside one that behaves.
#[derive(Args, Clone, Debug)]
pub struct Neighbours {
    /// Calls that the well-behaved client has open at a time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callers: u32,
    /// Keys in the store.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Connections that sit idle.
    #[arg(long, default_value_t = 1_000)]
    pub idle: usize,
    /// Clients that ask and never read.
    #[arg(long, default_value_t = 4)]
    pub never_reading: usize,
    /// Clients that send a byte a second.
    #[arg(long, default_value_t = 100)]
    pub trickling: usize,
    /// Rounds; in each, every kind of neighbour has its turn, and before and after it nobody.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Length of one turn.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub turn: Duration,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}

/// What it costs to keep data on disk.
#[derive(Args, Clone, Debug)]
pub struct Durable {
    /// Keys in the cluster that is killed and started again, and that a copy comes back to.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Calls open at a time where there is more than one.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub callers: u32,
    /// Rounds; in each, the cluster in memory, the one on disk and the bare syncs have their turns.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Length of one turn.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub turn: Duration,
    /// What all scenes share.
    #[command(flatten)]
    pub common: Common,
}
