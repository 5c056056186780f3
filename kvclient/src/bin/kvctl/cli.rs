//! The words and flags of `kvctl`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvprocess::logging::LogFormat;

/// The store from the command line. Without a command: a prompt, or commands from stdin, one per
/// line.
///
/// Exit codes: 0 done; 1 failed; 2 usage; 3 not found or condition false; 4 no primary or
/// unreachable; 5 deadline passed, outcome unknown; 130 interrupted. Commands from stdin all run,
/// and the code is that of the last one that failed.
#[derive(Parser, Debug)]
#[command(name = "kvctl", version = kvprocess::VERSION)]
pub(crate) struct Cli {
    /// View servers of the cluster, host:port, as a comma list.
    #[arg(long, global = true, env = "KVCTL_VS", default_value = "localhost:8000")]
    pub(crate) vs: String,
    /// How long a command may take, such as 500ms, 10s or 2m; with `dump` and `snapshot save`, how
    /// long nothing may arrive.
    #[arg(long, global = true, env = "KVCTL_TIMEOUT", default_value = "10s",
        value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Text for people, or JSON for programs.
    #[arg(short, long, global = true, env = "KVCTL_OUTPUT", default_value = "text")]
    pub(crate) output: Format,
    /// Logs on stderr for people or for programs.
    #[arg(long, global = true, env = "KVCTL_LOG_FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// TOML file with any of these flags, by their long names.
    #[arg(long, global = true, env = "KVCTL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// The commands of kvctl; also SET key value (the rest of the line, as it is), DELETE key, and EXIT.
#[derive(Parser, Debug)]
#[command(name = "")]
pub(crate) struct LineCli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people; values as they are.
    Text,
    /// For programs; values that are not UTF-8 as {"b64": "…"}.
    Json,
}

/// What `kvctl` can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Print the value of a key, and a newline that is not part of it. Exit code 3 when it does
    /// not exist.
    Get {
        /// The key.
        key: OsString,
    },
    /// Give a key a value.
    Put {
        /// The key.
        key: OsString,
        /// The value; `-` reads it from stdin, as it is.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Delete a key. Exit code 3 when it does not exist.
    #[command(visible_alias = "delete")]
    Del {
        /// The key.
        key: OsString,
    },
    /// Add to the end of a value, and print its new length.
    Append {
        /// The key; a missing one counts as empty.
        key: OsString,
        /// What to add; `-` reads it from stdin, as it is.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Change a key if it is as expected. Exit code 3, and the present value on stderr, if not.
    Cas(Cas),
    /// Print the current view.
    View {
        /// Then print every change, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Print the state of the cluster: who does what, who lags, what to do next. #N after a server
    /// is its incarnation: it rises with every start of the process.
    Status,
    /// Print every pair of one server's copy, and a summary on stderr.
    ///
    /// The text form, key, tab and value, is for reading: keys and values may hold tabs and newlines
    /// themselves. Use `-o json` for anything else.
    Dump {
        /// Whose copy, host:port, whatever its role; the acting primary's by default.
        #[arg(long)]
        server: Option<String>,
    },
    /// Backups: save, look at or restore the state of the whole cluster.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Go on from one server's data when no complete copy is left. May lose data.
    Force {
        /// The server whose data to go on from, as it is called in the view.
        server: String,
        /// Says that you accept the loss of whatever only other servers hold.
        #[arg(long, required = true)]
        accept_data_loss: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// What can be done with backups.
#[derive(Subcommand, Debug)]
pub(crate) enum Snapshot {
    /// Save the state of the cluster at one op into a file, while it serves. The file has its name
    /// only once it is on disk, read back and verified.
    Save {
        /// The file.
        file: PathBuf,
        /// Whose copy, host:port as in the view; the acting primary's by default.
        #[arg(long)]
        server: Option<String>,
        /// Save the copy of --server also if the view service does not count it as complete.
        #[arg(long, requires = "server")]
        any_copy: bool,
        /// Replace the file if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Read a file to its end, verify it, and say what it holds. Needs no server. Exit code 1 when
    /// it is not whole and sound.
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Prepare a new data directory with which a kvserver begins a new cluster in this state. Needs
    /// no server.
    Restore {
        /// The file.
        file: PathBuf,
        /// The directory; it must be empty, or not exist yet.
        #[arg(long)]
        data_dir: PathBuf,
    },
}

/// A conditional change: `cas KEY EXPECTED NEW`, and variants of both sides.
#[derive(Args, Debug)]
pub(crate) struct Cas {
    /// The key.
    pub(crate) key: OsString,
    /// The value it must hold (unless --missing or --version says otherwise), then the new value
    /// (unless --delete), where `-` reads NEW from stdin, as it is. One that begins with a dash
    /// goes after `--`.
    #[arg(value_name = "EXPECTED NEW", num_args = 0..=2, allow_negative_numbers = true)]
    pub(crate) values: Vec<OsString>,
    /// It must not exist.
    #[arg(long, conflicts_with_all = ["version", "delete"])]
    pub(crate) missing: bool,
    /// It must have been changed last at this version.
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<u64>,
    /// Delete it instead of giving it a new value.
    #[arg(long)]
    pub(crate) delete: bool,
}

/// Whether a long flag is on the command line, rather than in the environment or a file.
pub(crate) fn is_typed(flag: &str) -> bool {
    std::env::args_os().filter_map(|word| word.into_string().ok()).any(|word| {
        let name = word.strip_prefix("--").or(word.strip_prefix('-'));
        name.is_some_and(|name| name.split('=').next() == Some(flag))
    })
}

/// A number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("{text:?} is not a duration: write 500ms, 10s or 2m, more than zero");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| rule())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    match millis {
        Some(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(rule()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_and_flags_are_consistent() {
        Cli::command().debug_assert();
        LineCli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit_and_are_never_zero() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "10", "s", "0s", "-1s", "1.5s", "99999999999999999m", "3é"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_may_begin_with_a_dash_and_long_flags_may_have_one() {
        let args = ["kvctl", "-vs", "h:1", "put", "k", "-5"].map(OsString::from);
        let cli: Cli = kvprocess::args::try_parse_from(args).expect("understood");
        assert_eq!(cli.vs, "h:1");
        assert!(matches!(cli.verb, Some(Verb::Put { value, .. }) if value == "-5"));
    }
}
