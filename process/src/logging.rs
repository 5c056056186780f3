//! Logs go to stderr; stdout belongs to data. Whoever reads stderr may go away: then the lines are
//! lost, and nothing else.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes one line to stderr, as it is.
pub fn say(line: impl Display) {
    // `eprintln` panics when the reader is gone.
    let _lost = writeln!(std::io::stderr(), "{line}");
}

/// What is logged unless `RUST_LOG` says otherwise. The Raft library tells its life at level info.
const USUAL: &str = "info,openraft=warn";

/// Begins to log what is usual, or as `RUST_LOG` says. A second call changes nothing.
pub fn init(format: LogFormat) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(asked) => {
            EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(asked)
        }
        Err(_) => EnvFilter::new(USUAL),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would complain on stderr that stderr is gone, which is a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let _already_logging = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
