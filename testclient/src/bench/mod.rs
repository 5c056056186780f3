//! How fast a cluster answers, next to what the machine allows.
//!
//! - [`tally`], [`pace`]: what a load was answered, and when the calls of an open loop should start
//!   (both pure)
//! - [`door`], [`load`], [`cpu`]: the ways in, a thread that makes calls, and what they cost each
//!   process
//! - [`echo`], [`sync`]: the yardsticks of calls and of disks
//! - [`measure`]: `testclient bench`, a load of a running cluster
//! - [`compare`]: `testclient bench compare`, clusters and the echo in turns; what that says is in
//!   [`summary`], made of [`spread`]s (both pure)
//! - [`svg`], [`page`], [`machine`]: pictures and tables (both pure), and where they come from

pub mod compare;
pub mod cpu;
pub mod door;
pub mod echo;
pub mod load;
pub mod machine;
pub mod measure;
pub mod pace;
pub mod page;
pub mod spread;
pub mod summary;
pub mod svg;
pub mod sync;
pub mod tally;

use std::process::ExitCode;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::args::{Bench, Measure};

/// Measures what was asked for. Exit code 1 when calls failed: then the figures do not speak of a
/// healthy cluster.
///
/// # Errors
/// When there is nothing to measure, or the result cannot be written.
pub async fn run(vs: &str, options: &Bench, stop: CancellationToken) -> Result<ExitCode> {
    let measured = async {
        match &options.what {
            None => measure::run(vs, options).await,
            Some(Measure::Compare(options)) => compare::run(options).await,
        }
    };
    tokio::select! {
        code = measured => code,
        // Whatever was started ends with what measured it.
        () = stop.cancelled() => Ok(ExitCode::from(130)),
    }
}
