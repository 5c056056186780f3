//! The command line of the view service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser};
use kvprocess::logging::LogFormat;
use kvproto::Settings;

/// Longest duration that a flag takes.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The view service: decides who is primary and who is backup, and tells servers and clients.
///
/// Its state is in its data directory, and a restart goes on from there. While it is down its servers
/// serve on as they stand, but nobody repairs a failure. The timings, limits and copies given at its
/// first start are settings of the cluster; servers take them from here.
///
/// It is the only one who knows who holds every acknowledged write. When its servers show newer views
/// than it knows, its directory is not the newest: then it stands still, and `kvctl status` says what
/// to do.
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

    /// Directory of the state, which no other process may use at the same time; by default
    /// data/viewservice-PORT below the working directory
    #[arg(long, env = "VIEWSERVICE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Found a new cluster at once, in a directory without one; otherwise an empty view service first
    /// listens for the servers of another cluster, and admits nobody while they come
    #[arg(long, env = "VIEWSERVICE_NEW")]
    pub new: bool,

    /// What the cluster is set to.
    #[command(flatten)]
    pub settings: SettingFlags,

    /// TOML file whose keys are these flags; flags and environment go before it
    #[arg(long, env = "VIEWSERVICE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How logs are written to stderr
    #[arg(long, env = "VIEWSERVICE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

impl Config {
    /// Where the state is, for a process that listens on this port.
    #[must_use]
    pub fn data_dir(&self, port: u16) -> PathBuf {
        let named = || Path::new("data").join(format!("viewservice-{port}"));
        self.data_dir.clone().unwrap_or_else(named)
    }
}

/// The settings of a cluster, as far as they are given: at its first start the others have their
/// defaults, later they are as they were.
#[derive(Args, Clone, PartialEq, Eq, Default, Debug)]
#[command(next_help_heading = "Settings of the cluster, fixed at its first start")]
pub struct SettingFlags {
    /// Servers in a view, the primary included [default: 2]
    #[arg(long, env = "VIEWSERVICE_COPIES", value_name = "N")]
    pub copies: Option<u32>,

    /// With fewer complete copies than this, the primary included, writes are refused [default: 1]
    #[arg(long, env = "VIEWSERVICE_MIN_COPIES", value_name = "N")]
    pub min_copies: Option<u32>,

    /// A server pings this often [default: 500ms]
    #[arg(long, env = "VIEWSERVICE_PING_INTERVAL",
          value_parser = duration, value_name = "DURATION")]
    pub ping_interval: Option<Duration>,

    /// A server unheard for this long is dead [default: 1s 500ms]
    #[arg(long, env = "VIEWSERVICE_DEAD_AFTER",
          value_parser = duration, value_name = "DURATION")]
    pub dead_after: Option<Duration>,

    /// An idle primary sends a heartbeat to its backups this often [default: 100ms]
    #[arg(long, env = "VIEWSERVICE_HEARTBEAT_INTERVAL",
          value_parser = duration, value_name = "DURATION")]
    pub heartbeat_interval: Option<Duration>,

    /// Read lease that backups grant the primary [default: 400ms]
    #[arg(long, env = "VIEWSERVICE_LEASE",
          value_parser = duration, value_name = "DURATION")]
    pub lease: Option<Duration>,

    /// A copy that leaves something unanswered for this long is left out of the view
    /// [default: 750ms]
    #[arg(long, env = "VIEWSERVICE_STALL_AFTER",
          value_parser = duration, value_name = "DURATION")]
    pub stall_after: Option<Duration>,

    /// A client session lives this long after its last keep-alive [default: 30s]
    #[arg(long, env = "VIEWSERVICE_SESSION_LEASE",
          value_parser = duration, value_name = "DURATION")]
    pub session_lease: Option<Duration>,

    /// Largest key: bytes, or with a unit such as 64kb [default: 65536]
    #[arg(long, env = "VIEWSERVICE_KEY_SIZE_MAX",
          value_parser = size, value_name = "SIZE")]
    pub key_size_max: Option<u64>,

    /// Largest value [default: 8388608]
    #[arg(long, env = "VIEWSERVICE_VALUE_SIZE_MAX",
          value_parser = size, value_name = "SIZE")]
    pub value_size_max: Option<u64>,

    /// Largest op: all its keys and values [default: 16777216]
    #[arg(long, env = "VIEWSERVICE_OP_SIZE_MAX",
          value_parser = size, value_name = "SIZE")]
    pub op_size_max: Option<u64>,

    /// Most client sessions open at once [default: 100000]
    #[arg(long, env = "VIEWSERVICE_SESSIONS_MAX", value_name = "N")]
    pub sessions_max: Option<u64>,
}

impl SettingFlags {
    /// The given settings, and the others as they are in `base`.
    #[must_use]
    pub fn over(&self, base: &Settings) -> Settings {
        Settings {
            ping_interval: self.ping_interval.unwrap_or(base.ping_interval),
            dead_after: self.dead_after.unwrap_or(base.dead_after),
            heartbeat_interval: self.heartbeat_interval.unwrap_or(base.heartbeat_interval),
            lease: self.lease.unwrap_or(base.lease),
            stall_after: self.stall_after.unwrap_or(base.stall_after),
            session_lease: self.session_lease.unwrap_or(base.session_lease),
            copies: self.copies.unwrap_or(base.copies),
            min_copies: self.min_copies.unwrap_or(base.min_copies),
            key_size_max: self.key_size_max.unwrap_or(base.key_size_max),
            value_size_max: self.value_size_max.unwrap_or(base.value_size_max),
            op_size_max: self.op_size_max.unwrap_or(base.op_size_max),
            sessions_max: self.sessions_max.unwrap_or(base.sessions_max),
        }
    }

    /// Whether the given ones are those of the cluster.
    ///
    /// # Errors
    /// The first that is not, in words that name the flag, both values and what to do.
    pub fn fit(&self, stored: &Settings) -> Result<(), String> {
        let kept = words(stored);
        let asked = words(&self.over(stored));
        match asked.into_iter().zip(kept).find(|(asked, kept)| asked != kept) {
            None => Ok(()),
            Some(((flag, asked), (_, kept))) => Err(format!(
                "--{flag} {asked} contradicts the {kept} of this cluster: its settings are those of \
                 its first start; leave the flag out, or begin a new cluster with another --data-dir"
            )),
        }
    }
}

impl From<Settings> for SettingFlags {
    fn from(settings: Settings) -> SettingFlags {
        SettingFlags {
            ping_interval: Some(settings.ping_interval),
            dead_after: Some(settings.dead_after),
            heartbeat_interval: Some(settings.heartbeat_interval),
            lease: Some(settings.lease),
            stall_after: Some(settings.stall_after),
            session_lease: Some(settings.session_lease),
            copies: Some(settings.copies),
            min_copies: Some(settings.min_copies),
            key_size_max: Some(settings.key_size_max),
            value_size_max: Some(settings.value_size_max),
            op_size_max: Some(settings.op_size_max),
            sessions_max: Some(settings.sessions_max),
        }
    }
}

/// Every setting by the name of its flag, with the value as a user would write it.
fn words(settings: &Settings) -> [(&'static str, String); 12] {
    let time = |duration: Duration| humantime::format_duration(duration).to_string();
    [
        ("copies", settings.copies.to_string()),
        ("min-copies", settings.min_copies.to_string()),
        ("ping-interval", time(settings.ping_interval)),
        ("dead-after", time(settings.dead_after)),
        ("heartbeat-interval", time(settings.heartbeat_interval)),
        ("lease", time(settings.lease)),
        ("stall-after", time(settings.stall_after)),
        ("session-lease", time(settings.session_lease)),
        ("key-size-max", settings.key_size_max.to_string()),
        ("value-size-max", settings.value_size_max.to_string()),
        ("op-size-max", settings.op_size_max.to_string()),
        ("sessions-max", settings.sessions_max.to_string()),
    ]
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

    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        let args = std::iter::once("viewservice").chain(args.iter().copied());
        kvprocess::args::try_parse_from(args.map(OsString::from))
    }

    #[test]
    fn the_flags_have_the_defaults_of_the_settings() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.addr, "localhost:8000");
        assert_eq!(config.settings, SettingFlags::default(), "a default does not count as given");
        assert_eq!(config.settings.over(&Settings::default()), Settings::default());
        let command = Config::command();
        for (flag, value) in words(&Settings::default()) {
            let about = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
            let about = about.get_help().unwrap().to_string();
            assert!(about.ends_with(&format!("[default: {value}]")), "--{flag} {value}: {about}");
        }
    }

    #[test]
    fn a_flag_that_contradicts_the_cluster_is_named_with_both_values() {
        let stored = Settings { copies: 3, ..Settings::default() };
        let given = |args: &[&str]| parse(args).unwrap().settings;
        assert_eq!(given(&[]).fit(&stored), Ok(()));
        assert_eq!(given(&["--copies=3", "--lease", "400ms"]).fit(&stored), Ok(()));
        let message = given(&["--copies", "2"]).fit(&stored).unwrap_err();
        assert!(message.contains("--copies 2 contradicts the 3"), "{message}");
        let message = given(&["--lease", "350ms"]).fit(&stored).unwrap_err();
        assert!(message.contains("--lease 350ms contradicts the 400ms"), "{message}");
    }

    #[test]
    fn every_setting_can_be_given() {
        let settings = Settings { lease: Duration::from_millis(350), ..Settings::default() };
        let given = SettingFlags::from(settings.clone());
        assert_eq!(given.over(&Settings::default()), settings);
    }

    #[test]
    fn the_data_directory_is_named_by_the_port_unless_it_is_given() {
        assert_eq!(parse(&[]).unwrap().data_dir(8000), Path::new("data/viewservice-8000"));
        let given = parse(&["-data-dir", "/d"]).unwrap();
        assert_eq!(given.data_dir(8000), Path::new("/d"));
    }

    #[test]
    fn contradictions_name_both_flags() {
        let config = parse(&["-dead-after", "100ms", "--ping-interval=50ms"]).unwrap();
        let settings = config.settings.over(&Settings::default());
        let message = settings.validate().unwrap_err().to_string();
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
