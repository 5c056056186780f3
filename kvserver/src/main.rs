//! The server program: flags in, exit code out.

use std::process::ExitCode;

use kvserver::Flags;

fn main() -> ExitCode {
    let flags: Flags = kvprocess::args::parse();
    let config = flags.checked().unwrap_or_else(|broken| broken.exit());
    kvprocess::logging::init(flags.log_format);
    // Two workers carry the doors and the peers; the node has a thread of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a process can start two threads");
    match runtime.block_on(kvserver::server::main(flags, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            kvprocess::logging::say(format!("kvserver: {cause:#}"));
            ExitCode::FAILURE
        }
    }
}
