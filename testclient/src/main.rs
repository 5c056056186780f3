//! The program: reads the command line and runs what was asked for.

use std::process::ExitCode;

use kvclient::ErrorKind;
use kvprocess::shutdown::Signals;
use testclient::args::{Args, Command};
use testclient::{basic, bench, check, explore, failover, scenes, sweep, torture, up};
use tokio::runtime::Builder;

// The same allocator as the servers have, so that the echo is no weaker yardstick for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = kvprocess::args::parse();
    let vs = args.view_service().unwrap_or_else(|broken| broken.exit());
    let runtime = match args.command {
        // One thread, since it is compared with servers that keep to one.
        Some(Command::EchoServer) => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().enable_all().build(),
    };
    match runtime {
        Ok(runtime) => runtime.block_on(run(args, vs)),
        Err(error) => fail(&error.into()),
    }
}

async fn run(args: Args, vs: String) -> ExitCode {
    let owns_processes = matches!(
        args.command,
        Some(
            Command::Failover(_)
                | Command::Torture(_)
                | Command::Cluster(_)
                | Command::Bench(_)
                | Command::Scene(_)
        )
    );
    let signals =
        if owns_processes { Signals::install_ignoring_repeats() } else { Signals::install() };
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(&error.into()),
    };
    let stop = signals.token();
    let result = match &args.command {
        None => basic::run(&vs, &args, stop).await,
        Some(Command::Bench(options)) => bench::run(&vs, options, stop).await,
        Some(Command::EchoServer) => bench::echo::serve(stop).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Sync { file, length, pause }) => tokio::task::block_in_place(|| {
            bench::sync::run(file, *length, *pause).map(|()| ExitCode::SUCCESS)
        }),
        Some(Command::Failover(options)) => failover::run(options, stop).await,
        Some(Command::Torture(options)) => torture::run(options, stop).await,
        Some(Command::Check(options)) => check::run(options, stop).await,
        Some(Command::Cluster(options)) => up::run(options, stop).await,
        Some(Command::Scene(scene)) => scenes::run(scene, stop).await,
        Some(Command::Sim(options)) => {
            tokio::task::block_in_place(|| sweep::command(options, &stop))
        }
        Some(Command::Explore(options)) => {
            tokio::task::block_in_place(|| explore::command::run(options, &stop))
        }
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// The exit codes that all our clients share.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("testclient: {error:#}");
    let call = error.chain().find_map(|cause| cause.downcast_ref::<kvclient::Error>());
    match call.map(kvclient::Error::kind) {
        Some(ErrorKind::Unavailable) => ExitCode::from(4),
        Some(ErrorKind::OutcomeUnknown) => ExitCode::from(5),
        _ => ExitCode::FAILURE,
    }
}
