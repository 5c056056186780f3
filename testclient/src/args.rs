//! What can be asked for on the command line. The doc comments are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::scenes::args::Scene;
use crate::sim::Kind;

/// Tries the store out: four basic tests, then a put and a get every second until Ctrl-C. It writes
/// the keys a, b, c and key0 to key9.
#[derive(Parser, Clone, Debug)]
#[command(name = "testclient", version = kvprocess::VERSION)]
pub struct Args {
    /// Address of the view service; several are separated by commas. Default: localhost:8000.
    #[arg(long, env = "TESTCLIENT_VS", value_name = "HOST:PORT,…", value_parser = addresses)]
    pub vs: Option<String>,
    /// TOML file with the same settings as the flags.
    #[arg(long, env = "TESTCLIENT_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Stop after the basic tests; the exit code says whether they passed.
    #[arg(long, env = "TESTCLIENT_ONCE")]
    pub once: bool,
    /// Time between two rounds of put and get.
    #[arg(long, env = "TESTCLIENT_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Stop after this many rounds of put and get.
    #[arg(long, env = "TESTCLIENT_COUNT", value_name = "N")]
    pub count: Option<u64>,
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where a view service is expected when nothing else was said.
const VS_DEFAULT: &str = "localhost:8000";

impl Args {
    /// Address of the view service of the running cluster that is meant.
    ///
    /// # Errors
    /// When one was named for a command that uses none: it starts clusters of its own, or none.
    pub fn view_service(&self) -> Result<String, clap::Error> {
        let (own, uses_one) = match &self.command {
            None => (None, true),
            Some(Command::Bench(bench)) => (bench.vs.as_ref(), bench.what.is_none()),
            Some(_) => (None, false),
        };
        let named = own.or(self.vs.as_ref());
        if named.is_some() && !uses_one {
            return Err(Args::command().error(
                ErrorKind::ArgumentConflict,
                "--vs (TESTCLIENT_VS) names a running cluster, and this command uses none: it has \
                 clusters of its own",
            ));
        }
        Ok(named.map_or(VS_DEFAULT, String::as_str).to_owned())
    }
}

/// What to do instead of the basic tests.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Measure how fast a running cluster answers. Leaves its keys, key-000000000000 and so on.
    #[command(args_conflicts_with_subcommands = true)]
    Bench(Box<Bench>),
    /// Answer with what one is sent, on a free port: the yardstick of `bench`.
    #[command(hide = true)]
    EchoServer,
    /// Write a little into a file and sync it, again and again: the yardstick of `scene durable`.
    #[command(hide = true)]
    Sync {
        /// The file, which is made if it is not there.
        file: PathBuf,
        /// How long.
        #[arg(long, value_parser = duration)]
        length: Duration,
        /// Rest before each time.
        #[arg(long, value_parser = duration)]
        pause: Duration,
    },
    /// Start a cluster of its own, make its primary fail again and again under load, measure how
    /// long writers waited and check that nothing acknowledged was lost.
    Failover(Failover),
    /// Say whether a recorded history is linearizable. Exit code 0: it is; 1: it is not; 2: not
    /// decided, or the file cannot be read.
    Check(Check),
    /// Start a cluster on this machine and keep it running until Ctrl-C.
    Cluster(Up),
    /// Explore small worlds made of the production code, in every order in which things can happen.
    /// The exit code says whether every promise was kept.
    Explore(Explore),
    /// Play a scene on a cluster of its own: what happens when it is joined, filled, overloaded or
    /// abused while it serves. Exit code 1: a requirement is missed. What depends on the size of a
    /// scene is not judged when flags make it smaller than it is by default.
    #[command(subcommand)]
    Scene(Scene),
    /// Simulate clusters in memory under every fault there is. The exit code says whether every
    /// promise was kept.
    Sim(Sim),
    /// Start a durable cluster of its own, kill all of it again and again under load, and check that
    /// nothing acknowledged was lost or done twice. What a kill cannot show is data that was not
    /// synced and is lost with the machine: that is what `sim --disks` is for.
    Torture(Torture),
}

/// Simulate clusters in memory. Each seed decides one world; the same seed walks the same road.
#[derive(ClapArgs, Clone, Debug)]
pub struct Sim {
    /// The first seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How many seeds, from the first one on.
    #[arg(long, default_value_t = 1, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Worlds whose servers keep their data on disks, which lose, tear and fail.
    #[arg(long)]
    pub disks: bool,
    /// Print everything that happens.
    #[arg(long)]
    pub trace: bool,
    /// Seeds run at once; 0 means one per core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
}

impl Sim {
    /// The kind of worlds.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.disks { Kind::OnDisks } else { Kind::InMemory }
    }

    /// Seeds run at once.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

/// So many threads, or one per core.
fn threads(wanted: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    if wanted == 0 { cores() } else { wanted }
}

/// Measure how fast a running cluster answers.
#[derive(ClapArgs, Clone, Debug)]
pub struct Bench {
    /// Measure something else than a running cluster.
    #[command(subcommand)]
    pub what: Option<Measure>,
    /// Address of the view service; several are separated by commas. Default: TESTCLIENT_VS, or
    /// localhost:8000.
    #[arg(long, value_name = "HOST:PORT,…", value_parser = addresses)]
    pub vs: Option<String>,
    /// How the calls get in.
    #[arg(long, value_enum, default_value_t = Entrance::Library)]
    pub door: Entrance,
    /// Clients, each with one call open at a time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Connections that the clients share; one for every 25 of them if not given. Those of the
    /// library have a session each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub connections: Option<u32>,
    /// Length of a round in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Rounds, each reported on its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Load before the first round that is not counted.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    pub warm_up: Duration,
    /// Size of each value in bytes.
    #[arg(long, value_name = "SIZE", default_value_t = 100, value_parser = size)]
    pub value_size: usize,
    /// Different keys, of 16 bytes each.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Share of reads, 0 to 1.
    #[arg(long, default_value_t = 0.5, value_parser = ratio)]
    pub read_ratio: f64,
    /// Open loop: start this many calls a second, whether or not earlier ones have ended, and
    /// count each latency from the moment the call should have started. Without it, each client
    /// calls again as soon as it has its answer.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to this file (`-`: stdout, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the latencies into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// How calls get into what is measured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entrance {
    /// Through the client library: sessions, retries, failover.
    Library,
    /// Plain gRPC calls of `Put` and `Get` to the server that is primary now.
    Grpc,
    /// Into a bare gRPC echo in a process of its own, instead of a cluster: what the machine allows.
    Echo,
}

impl Entrance {
    /// For people who read a result.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Entrance::Library => "through the client library",
            Entrance::Grpc => "plain gRPC calls of the primary",
            Entrance::Echo => "bare gRPC echo",
        }
    }
}

/// What else can be measured.
#[derive(Subcommand, Clone, Debug)]
pub enum Measure {
    /// Start clusters and a bare gRPC echo, and compare them in rounds: puts and gets, with no, one
    /// and two backups, at different numbers of calls at once. Takes about three minutes. Exit code
    /// 1: a goal is missed, or calls failed. Fewer than 3 rounds, or of less than 500 ms, are not
    /// judged.
    Compare(Compare),
}

/// Compare clusters with a bare gRPC echo.
#[derive(ClapArgs, Clone, Debug)]
pub struct Compare {
    /// Rounds; each runs every case once, so that slow spells of the machine spread over all.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of each case in a round.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub length: Duration,
    /// Load before each case that is not counted.
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = duration)]
    pub warm_up: Duration,
    /// Calls open at once, several numbers separated by commas.
    #[arg(long, value_name = "N,…", default_value = "1,50,200", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callers: Vec<u32>,
    /// Size of each value in bytes.
    #[arg(long, value_name = "SIZE", default_value_t = 100, value_parser = size)]
    pub value_size: usize,
    /// Different keys, of 16 bytes each.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to this file (`-`: stdout, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the result into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Put the tables into this Markdown file, between `<!-- bench:begin -->` and
    /// `<!-- bench:end -->`.
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
}

/// A drill: fail the primary under load and count the cost.
#[derive(ClapArgs, Clone, Debug)]
pub struct Failover {
    /// How often the primary is made to fail.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How it fails.
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    pub fault: Fault,
    /// Copies of the data, the primary included.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub copies: u32,
    /// Servers; at least as many as copies.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub servers: u32,
    /// Writers, each with one call open at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub writers: u32,
    /// Have four more clients write and read a few shared keys, and record all that they are
    /// answered in this file, for `testclient check`.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write the result as JSON to this file (`-`: stdout, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Say whether a recorded history is linearizable.
#[derive(ClapArgs, Clone, Debug)]
pub struct Check {
    /// The history, as `testclient failover --history` writes it.
    pub history: PathBuf,
    /// How long to search; keys that are left then are not decided.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub time_limit: Duration,
}

/// Kill a durable cluster again and again.
#[derive(ClapArgs, Clone, Debug)]
pub struct Torture {
    /// Kill everything at once (SIGKILL), in one round of four only some of it, and in one of four
    /// once more while it comes back; start it again in any order.
    #[arg(long, required = true)]
    pub power_cut: bool,
    /// Rounds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seed of what is killed and started, when and in which order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=8))]
    pub servers: u32,
    /// Copies of the data, the primary included.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=8))]
    pub copies: u32,
    /// Clients that write.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub writers: u32,
    /// Size of the values that are put, so that the journal grows and snapshots are taken meanwhile.
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = size)]
    pub value_size: usize,
    /// Keep the history, which is checked at the end, in this file.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write the result as JSON to this file (`-`: stdout, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How a primary fails.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process ends at once (SIGKILL).
    Kill,
    /// The process is asked to stop, and hands over (SIGTERM).
    Term,
    /// The process is frozen for 4 s and then goes on (SIGSTOP, SIGCONT).
    Stop,
}

impl Fault {
    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Term => "term",
            Fault::Stop => "stop",
        }
    }
}

/// Start a cluster on this machine.
#[derive(ClapArgs, Clone, Debug)]
pub struct Up {
    /// Port of the view service; the servers get the following ones.
    #[arg(long, env = "TESTCLIENT_FIRST_PORT", value_name = "PORT", default_value_t = 8000, value_parser = clap::value_parser!(u16).range(1..))]
    pub first_port: u16,
    /// Servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub servers: u32,
    /// Copies of the data, the primary included.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub copies: u32,
    /// Memory of each server, as kvserver takes it. Default: an equal share of 70%.
    #[arg(long, env = "KVSERVER_MAX_MEMORY", value_name = "SIZE|PERCENT")]
    pub max_memory: Option<String>,
    /// Where the logs go.
    #[arg(long, value_name = "DIR", default_value = "logs")]
    pub log_dir: PathBuf,
    /// Where the data goes, from one start to the next.
    #[arg(long, value_name = "DIR", default_value = "data/cluster")]
    pub data_dir: PathBuf,
    /// Begin with an empty cluster that keeps its data in memory only.
    #[arg(long, conflicts_with = "data_dir")]
    pub in_memory: bool,
}

/// Explore small worlds exhaustively.
#[derive(ClapArgs, Clone, Debug)]
pub struct Explore {
    /// Models to explore; when none is named, all that are not too large.
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Stop each model after this many seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Stop each model after this many states; a million take about half a GB.
    #[arg(long, default_value_t = 4_000_000)]
    pub states: usize,
    /// Threads; 0 means one per core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Walk this many times at random instead, through the large models when none is named.
    #[arg(long, default_value_t = 0)]
    pub walks: u64,
    /// Seed of the first walk; the others follow.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Steps of a walk.
    #[arg(long, default_value_t = 1000)]
    pub depth: usize,
}

impl Explore {
    /// Threads that explore.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

fn addresses(text: &str) -> Result<String, String> {
    let is_address = |address: &str| {
        let parts = address.trim().rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if text.split(',').all(is_address) {
        Ok(text.to_owned())
    } else {
        Err("must be host:port, or several of them separated by commas".to_owned())
    }
}

/// A size in bytes, with a unit if it pleases.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let bytes = kvprocess::size::parse(text)?;
    usize::try_from(bytes).map_err(|_| "is more than this machine can address".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 500ms or 5s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "5x"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_running_cluster_is_named_only_where_one_is_used() {
        let vs =
            |line: &str| Args::try_parse_from(line.split(' ')).and_then(|args| args.view_service());
        for line in
            ["testclient --vs a:1", "testclient --vs a:1 bench", "testclient bench --vs a:1"]
        {
            assert_eq!(vs(line).ok().as_deref(), Some("a:1"), "{line}");
        }
        for line in [
            "testclient --vs a:1 failover",
            "testclient --vs a:1 bench compare",
            "testclient bench --vs a:1 compare",
            "testclient bench compare --vs a:1",
            "testclient scene join --vs a:1",
        ] {
            assert_eq!(vs(line).expect_err(line).exit_code(), 2);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
