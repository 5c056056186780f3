//! Signals: those that ask the process to stop, and one that would end it without a line.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Listens to SIGTERM and SIGINT, and never ends by SIGXFSZ, for the rest of the process. The first one cancels the token, so
/// that the program can leave in good order; the second one exits at once, which is a crash like any
/// other.
#[derive(Clone, Debug)]
pub struct Signals {
    token: CancellationToken,
}

impl Signals {
    /// Begins to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler.
    pub fn install() -> io::Result<Signals> {
        Signals::listen(true)
    }

    /// The same, but a second signal is ignored: for a program that must not leave before it has
    /// ended the processes it started, and takes no time for that.
    ///
    /// # Errors
    /// As [`Signals::install`].
    pub fn install_ignoring_repeats() -> io::Result<Signals> {
        Signals::listen(false)
    }

    fn listen(second_exits: bool) -> io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        // Where files may not grow (`ulimit -f`) the write says so, as on a disk that is full.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        let token = CancellationToken::new();
        tokio::spawn(listen(terminate, interrupt, token.clone(), second_exits));
        Ok(Signals { token })
    }

    /// Cancelled by the first signal.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    token: CancellationToken,
    second_exits: bool,
) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => ("SIGTERM", 143),
            _ = interrupt.recv() => ("SIGINT", 130),
        }
    };
    let (name, _) = next().await;
    token.cancel();
    if !second_exits {
        info!("{name} received: stopping");
        return std::future::pending().await;
    }
    info!("{name} received: stopping; a second signal exits at once");
    let (name, code) = next().await;
    warn!("{name} received while stopping: exiting at once");
    std::process::exit(code);
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use rustix::process::{Pid, kill_process};

    const CHILD: &str = "KV_TEST_SIGNALS_CHILD";

    /// The other side of the tests below: does nothing unless it was started by one of them.
    #[tokio::test]
    async fn child_that_reports_its_signals() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let signals = Signals::install().unwrap();
        eprintln!("ready");
        signals.token().cancelled().await;
        eprintln!("stopping");
        std::future::pending::<()>().await;
    }

    fn start() -> (Child, impl Iterator<Item = String>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("shutdown::tests::child_that_reports_its_signals")
            .env(CHILD, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        (child, BufReader::new(stderr).lines().map_while(Result::ok))
    }

    fn exit_code_after(first: rustix::process::Signal, second: rustix::process::Signal) -> i32 {
        let (mut child, mut lines) = start();
        let pid = Pid::from_child(&child);
        assert!(lines.any(|line| line == "ready"));
        kill_process(pid, first).unwrap();
        assert!(lines.any(|line| line == "stopping"));
        kill_process(pid, second).unwrap();
        child.wait().unwrap().code().expect("it exits by itself")
    }

    #[test]
    fn the_first_signal_cancels_the_token_and_the_second_exits_at_once() {
        use rustix::process::Signal;
        assert_eq!(exit_code_after(Signal::TERM, Signal::INT), 130);
        assert_eq!(exit_code_after(Signal::INT, Signal::TERM), 143);
        assert_eq!(exit_code_after(Signal::TERM, Signal::TERM), 143);
    }
}
