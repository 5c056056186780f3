//! The server program: flags in, exit code out.

use std::process::ExitCode;

use kvserver::Flags;

// A batch frees hundreds of small pieces at once, which is the slow path of the usual allocator and
// the fast one of this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags: Flags = kvprocess::args::parse();
    if let Some(command) = flags.command {
        return ended(kvserver::offline::run(command));
    }
    let config = flags.checked().unwrap_or_else(|broken| broken.exit());
    kvprocess::logging::init(flags.log_format);
    kvprocess::shutdown::hold_signals().expect("a thread may hold signals");
    // One thread carries doors, node and peers, so that a request never waits for another core to
    // wake; the heartbeat starts one of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a process can watch its sockets");
    let outcome = runtime.block_on(kvserver::server::main(flags, config));
    // Not by leaving here: whoever still waits for a disk that hangs would be waited for.
    kvprocess::shutdown::exit_with(outcome.map_err(|cause| format!("kvserver: {cause:#}")))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            kvprocess::logging::say(format!("kvserver: {cause:#}"));
            ExitCode::FAILURE
        }
    }
}
