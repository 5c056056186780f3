//! How fast a cluster answers.
//!
//! - [`tally`], [`pace`]: what a load was answered, and when the calls of an open loop should start
//!   (both pure)
//! - [`door`], [`load`], [`cpu`]: the ways in, a thread that makes calls, and what that costs each
//!   process
//! - [`echo`]: the yardstick
//! - [`measure`]: `testclient bench`, the load of a running cluster

pub mod cpu;
pub mod door;
pub mod echo;
pub mod load;
pub mod measure;
pub mod pace;
pub mod tally;

use std::process::ExitCode;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::args::Bench;

/// Measures what was asked for. Exit code 1 when calls failed: then the figures do not speak of a
/// healthy cluster.
///
/// # Errors
/// When there is nothing to measure, or the result cannot be written.
pub async fn run(vs: &str, options: &Bench, stop: CancellationToken) -> Result<ExitCode> {
    let measured = async {
        match &options.what {
            None => measure::run(vs, options).await,
            Some(_) => todo(),
        }
    };
    tokio::select! {
        code = measured => code,
        () = stop.cancelled() => Ok(ExitCode::from(130)),
    }
}
fn todo() -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
