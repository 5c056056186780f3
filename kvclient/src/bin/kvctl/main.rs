//! `kvctl`: the store from the command line.
//!
//! - `cli`: the words and flags that it knows
//! - `commands`: what each verb does; `force`: the one that may lose data; `snapshot`: backups
//! - `output`: values, JSON, failures and exit codes; `status`: the screens for people
//! - `prompt`: many commands in one run; `line`: how one of them is cut into words

mod cli;
mod commands;
mod force;
mod line;
mod output;
mod prompt;
mod snapshot;
mod status;

use std::time::Duration;

use kvclient::{Client, ClientConfig};

use crate::cli::Cli;
use crate::commands::Session;
use crate::output::{Failure, Output, USAGE};

/// How long the end of the program may wait for its session to be closed; it expires anyway.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

fn main() {
    let cli: Cli = kvprocess::args::parse();
    kvprocess::logging::init(cli.log_format);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Failure::failed(format!("start the runtime: {error}")).report(),
    };
    // Not a return: a thread may still be reading the terminal, which nothing can interrupt.
    std::process::exit(code);
}

async fn run(cli: Cli) -> i32 {
    let config = ClientConfig { timeout: cli.timeout, ..ClientConfig::new(&cli.vs) };
    let client = match Client::connect(config).await {
        Ok(client) => client,
        Err(error) => return Failure::new(USAGE, format!("--vs {}: {error}", cli.vs)).report(),
    };
    let mut session = Session::new(client.clone(), Output::new(cli.output), cli.vs);
    let code = match cli.verb {
        Some(verb) => match session.run_until_interrupted(verb).await {
            Ok(()) => 0,
            Err(failure) => failure.report(),
        },
        None => prompt::run(&mut session).await,
    };
    if code != output::INTERRUPTED {
        // Best effort: a session that stays open expires.
        let _ = client.with_timeout(CLOSE_WITHIN).close().await;
    }
    code
}
