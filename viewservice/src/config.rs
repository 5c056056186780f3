//! The command line of the view service.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kvprocess::logging::LogFormat;
use kvproto::Settings;
use kvproto::settings::Contradiction;

/// Longest duration that a flag takes.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The view service: decides who is primary and who is backup, and tells servers and clients.
///
/// Its state is in memory at present. When it ends, its servers serve on as they stand, but nobody
/// repairs a failure; one started anew begins a new cluster, which they join only when they are
/// restarted, empty. The timings, limits and copies given here are
/// settings of the cluster; servers take them from here.
#[derive(Parser, Clone, Debug)]
#[command(name = "viewservice", version = kvprocess::VERSION)]
pub struct Config {
    /// Where to listen; a host name is bound on every address it resolves to, port 0 is any free one
    #[arg(
        long,
        env = "VIEWSERVICE_ADDR",
        default_value = "localhost:8000",
        value_name = "HOST:PORT"
    )]
    pub addr: String,

    /// Listen on an address that other machines can reach, although there is no authentication
    #[arg(long, env = "VIEWSERVICE_INSECURE")]
    pub insecure: bool,

    /// Servers in a view, the primary included
    #[arg(long, env = "VIEWSERVICE_COPIES", default_value_t = 2, value_name = "N")]
    pub copies: u32,

    /// With fewer complete copies than this, the primary included, writes are refused
    #[arg(long, env = "VIEWSERVICE_MIN_COPIES", default_value_t = 1, value_name = "N")]
    pub min_copies: u32,

    /// A server pings this often
    #[arg(long, env = "VIEWSERVICE_PING_INTERVAL", default_value = "500ms",
          value_parser = duration, value_name = "DURATION")]
    pub ping_interval: Duration,

    /// A server unheard for this long is dead
    #[arg(long, env = "VIEWSERVICE_DEAD_AFTER", default_value = "1500ms",
          value_parser = duration, value_name = "DURATION")]
    pub dead_after: Duration,

    /// An idle primary sends a heartbeat to its backups this often
    #[arg(long, env = "VIEWSERVICE_HEARTBEAT_INTERVAL", default_value = "100ms",
          value_parser = duration, value_name = "DURATION")]
    pub heartbeat_interval: Duration,

    /// Read lease that backups grant the primary
    #[arg(long, env = "VIEWSERVICE_LEASE", default_value = "400ms",
          value_parser = duration, value_name = "DURATION")]
    pub lease: Duration,

    /// A copy that leaves something unanswered for this long is left out of the view
    #[arg(long, env = "VIEWSERVICE_STALL_AFTER", default_value = "750ms",
          value_parser = duration, value_name = "DURATION")]
    pub stall_after: Duration,

    /// A client session lives this long after its last keep-alive
    #[arg(long, env = "VIEWSERVICE_SESSION_LEASE", default_value = "30s",
          value_parser = duration, value_name = "DURATION")]
    pub session_lease: Duration,

    /// Largest key: bytes, or with a unit such as 64kb
    #[arg(long, env = "VIEWSERVICE_KEY_SIZE_MAX", default_value_t = 64 << 10,
          value_parser = size, value_name = "SIZE")]
    pub key_size_max: u64,

    /// Largest value
    #[arg(long, env = "VIEWSERVICE_VALUE_SIZE_MAX", default_value_t = 8 << 20,
          value_parser = size, value_name = "SIZE")]
    pub value_size_max: u64,

    /// Largest op: all its keys and values
    #[arg(long, env = "VIEWSERVICE_OP_SIZE_MAX", default_value_t = 16 << 20,
          value_parser = size, value_name = "SIZE")]
    pub op_size_max: u64,

    /// Most client sessions open at once
    #[arg(long, env = "VIEWSERVICE_SESSIONS_MAX", default_value_t = 100_000, value_name = "N")]
    pub sessions_max: u64,

    /// TOML file whose keys are these flags; flags and environment go before it
    #[arg(long, env = "VIEWSERVICE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How logs are written to stderr
    #[arg(long, env = "VIEWSERVICE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

impl Config {
    /// The settings of the cluster.
    ///
    /// # Errors
    /// Two flags that contradict each other, and the rule.
    pub fn settings(&self) -> Result<Settings, Contradiction> {
        let settings = Settings {
            ping_interval: self.ping_interval,
            dead_after: self.dead_after,
            heartbeat_interval: self.heartbeat_interval,
            lease: self.lease,
            stall_after: self.stall_after,
            session_lease: self.session_lease,
            copies: self.copies,
            min_copies: self.min_copies,
            key_size_max: self.key_size_max,
            value_size_max: self.value_size_max,
            op_size_max: self.op_size_max,
            sessions_max: self.sessions_max,
        };
        settings.validate()?;
        Ok(settings)
    }
}

/// A duration such as `500ms`, `5s`, `1m`, in whole milliseconds, which is what views carry.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 500ms or 5s"))?;
    if duration > DURATION_MAX {
        return Err("it must be at most 30 days".into());
    }
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err("it must be in whole milliseconds".into());
    }
    Ok(duration)
}

/// Bytes, up to the largest op there can be.
fn size(text: &str) -> Result<u64, String> {
    const MOST: u64 = 64 << 20;
    match kvprocess::size::parse(text)? {
        bytes @ 1..=MOST => Ok(bytes),
        _ => Err(format!("must be from 1 to {MOST} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        let args = std::iter::once("viewservice").chain(args.iter().copied());
        kvprocess::args::try_parse_from(args.map(OsString::from))
    }

    #[test]
    fn the_flags_have_the_defaults_of_the_settings() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.settings().unwrap(), Settings::default());
        assert_eq!(config.addr, "localhost:8000");
    }

    #[test]
    fn contradictions_name_both_flags() {
        let config = parse(&["-dead-after", "100ms", "--ping-interval=50ms"]).unwrap();
        let message = config.settings().unwrap_err().to_string();
        assert!(message.contains("--dead-after") && message.contains("--ping-interval"));
    }

    #[test]
    fn bad_values_name_the_flag_the_value_and_the_rule() {
        for (flag, value, rule) in [
            ("--lease", "5", "500ms"),
            ("--lease", "300000000years", "30 days"),
            ("--lease", "1us", "whole milliseconds"),
            ("--key-size-max", "99999999999999", "67108864"),
        ] {
            let message = parse(&[flag, value]).unwrap_err().to_string();
            for part in [flag, value, rule] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}
