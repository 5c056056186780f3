//! What a server is told at its start: flags in, a checked [`Config`] out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use kvprocess::logging::LogFormat;
use kvprocess::machine;
use kvprocess::serve::CallLimits;
use kvprocess::size;
use kvproto::ServerName;

use crate::memory::{self, Shares};
use crate::offline::Command;
use crate::replica::{Reads, Tuning};

/// Time for a hand-over. One that goes well takes a fraction of a second.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// One copy of a replicated key-value store: primary, backup or spare, as the view service decides.
#[derive(Parser, Clone, Debug)]
#[command(name = "kvserver", version = kvprocess::VERSION)]
pub struct Flags {
    /// Address to listen at. Port 0 takes any free port.
    #[arg(
        long,
        env = "KVSERVER_ADDR",
        default_value = "localhost:8001",
        value_name = "HOST:PORT",
        value_parser = address
    )]
    pub addr: String,

    /// Addresses of the view service, separated by commas.
    #[arg(
        long,
        env = "KVSERVER_VS",
        default_value = "localhost:8000",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        value_parser = reachable
    )]
    pub vs: Vec<String>,

    /// Address under which others reach this server, and its name in views. Default: --addr.
    #[arg(long, env = "KVSERVER_ADVERTISE", value_name = "HOST:PORT", value_parser = address)]
    pub advertise: Option<String>,

    /// Directory for the data. Default: data/kvserver-PORT below the working directory.
    #[arg(long, env = "KVSERVER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Keep the data in memory only: it survives as long as one complete copy keeps running. The
    /// first server of a cluster decides for all.
    #[arg(long, env = "KVSERVER_IN_MEMORY", conflicts_with = "data_dir")]
    pub in_memory: bool,

    /// How a primary proves that it still leads before it answers a read.
    #[arg(long, env = "KVSERVER_READS", default_value = "lease", value_name = "HOW")]
    pub reads: ReadsFlag,

    /// Memory to use: a size such as 512mb or 2GiB, or a share such as 70% of what the machine or
    /// its control group has. A part is set aside (docs/limits.md); writes that grow the data
    /// beyond the rest are refused.
    #[arg(
        long,
        env = "KVSERVER_MAX_MEMORY",
        default_value = "70%",
        value_name = "SIZE|PERCENT",
        value_parser = max_memory
    )]
    pub max_memory: MaxMemory,

    /// Allow addresses other than loopback, without encryption or authentication.
    #[arg(long, env = "KVSERVER_INSECURE")]
    pub insecure: bool,

    /// TOML file with these flags as keys. Flags and environment come first.
    #[arg(long, env = "KVSERVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Form of the log on stderr.
    #[arg(long, env = "KVSERVER_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Something else than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The choices of `--reads`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum ReadsFlag {
    /// By a lease that the backups grant: no round trip, trusts that clocks run at like speeds.
    Lease,
    /// By asking every backup for every read: one round trip, trusts no clock.
    Confirm,
}

impl From<ReadsFlag> for Reads {
    fn from(flag: ReadsFlag) -> Reads {
        match flag {
            ReadsFlag::Lease => Reads::Lease,
            ReadsFlag::Confirm => Reads::Confirm,
        }
    }
}

/// The choices of `--max-memory`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaxMemory {
    /// So many bytes.
    Bytes(u64),
    /// A share of what there is.
    Percent(u64),
}

/// Where a server keeps its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// In memory.
    InMemory,
    /// In this directory; `None` stands for one named after the port.
    OnDisk(Option<PathBuf>),
}

/// What a server needs to know, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Addresses of the view service, at least one.
    pub view_servers: Vec<String>,
    /// Address of this server in views; port 0 stands for the port it really has.
    pub advertise: String,
    /// Where the data is kept.
    pub keeping: Keeping,
    /// How reads are proven.
    pub reads: Reads,
    /// An attempt to leave the cluster that takes longer has gone wrong.
    pub leave_within: Duration,
    /// Memory that the server was given.
    pub memory_max: u64,
    /// Windows and budgets of the replica, and what of the memory is for data.
    pub tuning: Tuning,
    /// What the calls of clients may hold.
    pub calls: CallLimits,
    /// Connections open at once.
    pub connections_max: usize,
}

impl Flags {
    /// Checks what no single flag can tell.
    ///
    /// # Errors
    /// The rule that is broken, with flag and value, as clap words its own.
    pub fn checked(&self) -> Result<Config, clap::Error> {
        let advertise = self.advertise.as_ref().unwrap_or(&self.addr);
        if is_wildcard(advertise) {
            let flag = if self.advertise.is_some() { "--advertise" } else { "--addr" };
            return Err(Flags::command().error(
                ErrorKind::ValueValidation,
                format!(
                    "{flag} {advertise} is no address that others can dial: name one that reaches \
                     this server with --advertise"
                ),
            ));
        }
        let shares = Shares::of(self.memory_max()?);
        Ok(Config {
            view_servers: self.vs.clone(),
            advertise: advertise.clone(),
            keeping: match self.in_memory {
                true => Keeping::InMemory,
                false => Keeping::OnDisk(self.data_dir.clone()),
            },
            reads: self.reads.into(),
            leave_within: LEAVE_WITHIN,
            memory_max: shares.memory_max,
            tuning: shares.tuning,
            calls: shares.calls,
            connections_max: machine::connections_max(shares.connections_max),
        })
    }

    fn memory_max(&self) -> Result<u64, clap::Error> {
        let refused = |why: String| Err(Flags::command().error(ErrorKind::ValueValidation, why));
        let bytes = match (self.max_memory, machine::memory()) {
            (MaxMemory::Bytes(bytes), _) => bytes,
            (MaxMemory::Percent(percent), Some(all)) => all / 100 * percent,
            (MaxMemory::Percent(percent), None) => {
                return refused(format!(
                    "--max-memory {percent}%: the kernel does not say how much memory there is; \
                     give a size, such as --max-memory 2GiB"
                ));
            }
        };
        if bytes < memory::MAX_MEMORY_MIN {
            return refused(format!(
                "--max-memory of {bytes} bytes is too little: a server needs at least {} MiB",
                memory::MAX_MEMORY_MIN >> 20
            ));
        }
        Ok(bytes)
    }
}

impl Config {
    /// Whether the data is kept on disk.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(self.keeping, Keeping::OnDisk(_))
    }

    /// The directory for the data when the server listens at `port`; `None` if it is kept in
    /// memory.
    #[must_use]
    pub fn data_dir(&self, port: u16) -> Option<PathBuf> {
        match &self.keeping {
            Keeping::InMemory => None,
            Keeping::OnDisk(Some(path)) => Some(path.clone()),
            Keeping::OnDisk(None) => Some(Path::new("data").join(format!("kvserver-{port}"))),
        }
    }

    /// The server's name in views when it listens at `port`.
    #[must_use]
    pub fn name(&self, port: u16) -> ServerName {
        match self.advertise.rsplit_once(':') {
            Some((host, "0")) => ServerName::from(format!("{host}:{port}")),
            _ => ServerName::from(self.advertise.as_str()),
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    let rule = "must be HOST:PORT with a port from 0 to 65535";
    let (host, port) = text.rsplit_once(':').ok_or(rule)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || host.contains(char::is_whitespace) || bare_ipv6 {
        return Err(rule.into());
    }
    // The number is written again, so that one server has one name whatever its zeros.
    let port: u16 = port.parse().map_err(|_| rule)?;
    Ok(format!("{host}:{port}"))
}

fn reachable(text: &str) -> Result<String, String> {
    let text = address(text.trim())?;
    if text.ends_with(":0") {
        return Err("must have a port other than 0".into());
    }
    Ok(text)
}

fn max_memory(text: &str) -> Result<MaxMemory, String> {
    let rule = "must be a size such as 512mb or 2GiB, or a share from 1% to 100%";
    match text.strip_suffix('%').map(|share| share.trim().parse()) {
        Some(Ok(percent @ 1..=100)) => Ok(MaxMemory::Percent(percent)),
        Some(_) => Err(rule.into()),
        None => size::parse(text).map(MaxMemory::Bytes).map_err(|_| rule.into()),
    }
}

fn is_wildcard(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from([&["kvserver"], args].concat())
    }

    fn config(args: &[&str]) -> Config {
        flags(args).expect("the flags are valid").checked().expect("the flags go together")
    }

    #[test]
    fn without_flags_a_server_is_at_8001_and_the_view_service_at_8000() {
        let config = config(&[]);
        assert_eq!(config.view_servers, ["localhost:8000"]);
        assert_eq!(config.name(8001), ServerName::from("localhost:8001"));
        assert_eq!(config.reads, Reads::Lease);
    }

    #[test]
    fn a_server_at_port_0_goes_by_the_port_it_got() {
        assert_eq!(config(&["--addr", "localhost:0"]).name(4711).as_str(), "localhost:4711");
        assert_eq!(config(&["--addr", "[::1]:0"]).name(4711).as_str(), "[::1]:4711");
    }

    #[test]
    fn the_advertised_name_wins_over_the_address() {
        let config = config(&["--addr", "0.0.0.0:8001", "--advertise", "db1.example:9001"]);
        assert_eq!(config.name(8001).as_str(), "db1.example:9001");
    }

    #[test]
    fn a_wildcard_address_needs_a_name_that_others_can_dial() {
        for wildcard in ["0.0.0.0:8001", "[::]:8001"] {
            let error = flags(&["--addr", wildcard]).expect("well formed").checked();
            let error = error.expect_err("nobody can dial it").to_string();
            assert!(error.contains(wildcard) && error.contains("--advertise"), "{error}");
        }
    }

    #[test]
    fn memory_is_given_in_bytes_or_as_a_share_of_what_there_is() {
        for (text, bytes) in
            [("64mb", 64 << 20), ("2GiB", 2 << 30), ("3g", 3 << 30), ("134217728", 128 << 20)]
        {
            assert_eq!(config(&["--max-memory", text]).memory_max, bytes, "{text}");
        }
        let all = machine::memory().expect("this machine has memory");
        assert_eq!(config(&[]).memory_max, all / 100 * 70);
        assert_eq!(config(&["--max-memory", "50%"]).memory_max, all / 100 * 50);
        let error = flags(&["--max-memory", "1mb"]).expect("well formed").checked();
        let error = error.expect_err("too little").to_string();
        assert!(error.contains("--max-memory") && error.contains("64 MiB"), "{error}");
    }

    #[test]
    fn data_is_on_disk_under_a_name_of_the_port_unless_a_flag_says_otherwise() {
        assert_eq!(config(&[]).data_dir(8001), Some("data/kvserver-8001".into()));
        assert_eq!(config(&["--data-dir", "/srv/kv"]).data_dir(1), Some("/srv/kv".into()));
        assert_eq!(config(&["--in-memory"]).data_dir(8001), None);
        let both = flags(&["--in-memory", "--data-dir", "x"]).expect_err("they contradict");
        assert_eq!(both.exit_code(), 2);
    }

    #[test]
    fn several_view_servers_are_separated_by_commas() {
        assert_eq!(config(&["--vs", "a:1, b:2"]).view_servers, ["a:1", "b:2"]);
    }

    #[test]
    fn a_bad_value_is_refused_with_flag_value_and_rule() {
        for (flag, value, rule) in [
            ("--addr", "localhost", "HOST:PORT"),
            ("--addr", "localhost:65536", "0 to 65535"),
            ("--addr", ":8001", "HOST:PORT"),
            ("--addr", "::1:8001", "HOST:PORT"),
            ("--vs", "localhost:0", "other than 0"),
            ("--reads", "maybe", "confirm"),
            ("--max-memory", "lots", "512mb"),
            ("--max-memory", "101%", "1% to 100%"),
            ("--max-memory", "99999999999TB", "512mb"),
        ] {
            let error = flags(&[flag, value]).expect_err("the value is bad");
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            let named = error.contains(flag) && error.contains(value) && error.contains(rule);
            assert!(named, "{flag} {value}: {error}");
        }
    }
}
