//! How a process is told to stop, and how it ends. Signals are heard on a thread of their own, and
//! [`exit`] closes what others would wait for: so it ends for everybody else also while one of its
//! threads waits for a disk that hangs. The kernel keeps such a process, and its files, until the disk
//! answers.

use std::io;
use std::time::Duration;

use nix::sys::signal::{self as mask, SigSet};
use nix::sys::socket::{self, AddressFamily, Shutdown, SockaddrLike, SockaddrStorage};
use rustix::process::Signal as Number;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A runtime that has not run the least task for this long after the first signal stands still.
const STANDS_STILL_AFTER: u32 = 15;
/// It is looked at this often, so that a pause of the whole process counts as one look.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// From now on the thread of [`Signals`] alone takes SIGTERM and SIGINT. The kernel gives a signal to
/// any thread that takes it, the first one before all others, and one that waits for a disk that hangs
/// does not get to it. To be called before the program has other threads, and soon before
/// [`Signals::install`]; not by a program that starts others, which would inherit it.
///
/// # Errors
/// When the operating system refuses.
pub fn hold_signals() -> io::Result<()> {
    Ok(to_stop().thread_block()?)
}

fn to_stop() -> SigSet {
    SigSet::from_iter([mask::Signal::SIGTERM, mask::Signal::SIGINT])
}

/// Ends the process, and first every connection that it has and every address at which it listens.
/// Whoever talks to it hears so at once.
pub fn exit(code: u8) -> ! {
    shut_sockets();
    std::process::exit(code.into())
}

/// As [`exit`], with what a program returns.
pub fn exit_with(outcome: Result<(), String>) -> ! {
    match outcome {
        Ok(()) => exit(0),
        Err(what) => {
            shut_sockets();
            crate::logging::say(what);
            exit(1)
        }
    }
}

/// By their numbers, since whoever owns them may be the one that waits.
fn shut_sockets() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = open.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers.collect::<Vec<i32>>() {
        // Others than those of the internet lead to no other machine; some are this process's own.
        let family = socket::getsockname::<SockaddrStorage>(number).ok().and_then(|it| it.family());
        if matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) {
            let _not_connected = socket::shutdown(number, Shutdown::Both);
        }
    }
}

/// Listens to SIGTERM and SIGINT, and never ends by SIGXFSZ, for the rest of the process. The first one cancels the token, so
/// that the program can leave in good order; the second one exits at once, which is a crash like any
/// other.
#[derive(Clone, Debug)]
pub struct Signals {
    token: CancellationToken,
}

/// What the signals do besides cancelling the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// The second one exits.
    SecondExits,
    /// It does, and so does a runtime that stands still when the first one came.
    StandingStillExits,
    /// Nothing.
    Ignored,
}

impl Signals {
    /// Begins to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler, or a thread.
    pub fn install() -> io::Result<Signals> {
        Signals::listen(Then::SecondExits)
    }

    /// The same, for a program that loses nothing by a crash: it also exits when the runtime that this
    /// is called in runs nothing after the first signal, since its thread waits for a disk.
    ///
    /// # Errors
    /// As [`Signals::install`].
    pub fn install_ending_what_stands_still() -> io::Result<Signals> {
        Signals::listen(Then::StandingStillExits)
    }

    /// The same, but a second signal is ignored: for a program that must not leave before it has
    /// ended the processes it started, and takes no time for that.
    ///
    /// # Errors
    /// As [`Signals::install`].
    pub fn install_ignoring_repeats() -> io::Result<Signals> {
        Signals::listen(Then::Ignored)
    }

    fn listen(then: Then) -> io::Result<Signals> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _of_the_thread = runtime.enter();
            // Where files may not grow (`ulimit -f`) the write says so, as on a disk that is full.
            drop(signal(SignalKind::from_raw(Number::XFSZ.as_raw()))?);
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        let token = CancellationToken::new();
        let (served, heard) = (Handle::current(), token.clone());
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            if let Err(refused) = to_stop().thread_unblock() {
                warn!("SIGTERM and SIGINT may not be heard: {refused}");
            }
            runtime.block_on(listen(terminate, interrupt, heard, then, served));
        })?;
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
    then: Then,
    served: Handle,
) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => ("SIGTERM", 143),
            _ = interrupt.recv() => ("SIGINT", 130),
        }
    };
    let (name, _) = next().await;
    token.cancel();
    if then == Then::Ignored {
        info!("{name} received: stopping");
        return std::future::pending().await;
    }
    info!("{name} received: stopping; a second signal exits at once");
    let stands_still = async {
        match then {
            Then::StandingStillExits => until_it_stands_still(&served).await,
            Then::SecondExits | Then::Ignored => std::future::pending().await,
        }
    };
    let (name, code) = tokio::select! {
        second = next() => second,
        () = stands_still => {
            shut_sockets();
            warn!(
                "waited for the disk in vain: stopping as after a crash; nothing that was acknowledged \
                 is lost"
            );
            exit(1)
        }
    };
    shut_sockets();
    warn!("{name} received while stopping: exiting at once");
    exit(code)
}

/// Returns when a runtime runs nothing any more, not even what takes no time.
async fn until_it_stands_still(runtime: &Handle) {
    loop {
        let least = runtime.spawn(async {});
        let mut looks = 0;
        while !least.is_finished() {
            if looks >= STANDS_STILL_AFTER {
                return;
            }
            looks += 1;
            sleep(LOOK_EVERY).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use rustix::process::{Pid, kill_process};

    const CHILD: &str = "KV_TEST_SIGNALS_CHILD";

    fn is_child(of: &str) -> bool {
        std::env::var(CHILD).is_ok_and(|test| test == of)
    }

    /// The other side of the tests below: does nothing unless it was started by one of them.
    #[tokio::test]
    async fn child_that_reports_its_signals() {
        if !is_child("child_that_reports_its_signals") {
            return;
        }
        let signals = Signals::install().unwrap();
        eprintln!("ready");
        signals.token().cancelled().await;
        eprintln!("stopping");
        std::future::pending::<()>().await;
    }

    /// Its thread is one that waits for a disk.
    #[tokio::test]
    async fn child_that_stands_still() {
        if !is_child("child_that_stands_still") {
            return;
        }
        let _signals = Signals::install_ending_what_stands_still().unwrap();
        eprintln!("ready");
        loop {
            std::thread::park();
        }
    }

    /// All its threads could wait for a disk, but the one that hears signals.
    #[test]
    fn child_that_holds_its_signals() {
        if !is_child("child_that_holds_its_signals") {
            return;
        }
        hold_signals().unwrap();
        let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
        let signals = runtime.block_on(async { Signals::install() }).unwrap();
        eprintln!("ready");
        runtime.block_on(signals.token().cancelled());
        eprintln!("stopping");
    }

    /// It lives on, as one that waits for a disk does whatever is done to it.
    #[tokio::test]
    async fn child_that_shuts_its_sockets() {
        if !is_child("child_that_shuts_its_sockets") {
            return;
        }
        let signals = Signals::install().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        eprintln!("{}", listener.local_addr().unwrap());
        let accepted = listener.accept().unwrap();
        eprintln!("accepted");
        signals.token().cancelled().await;
        shut_sockets();
        eprintln!("shut");
        std::future::pending::<()>().await;
        drop((listener, accepted));
    }

    fn start(test: &str) -> (Child, impl Iterator<Item = String>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg(format!("shutdown::tests::{test}"))
            .env(CHILD, test)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        (child, BufReader::new(stderr).lines().map_while(Result::ok))
    }

    fn exit_code_after(first: Number, second: Number) -> i32 {
        let (mut child, mut lines) = start("child_that_reports_its_signals");
        let pid = Pid::from_child(&child);
        assert!(lines.any(|line| line == "ready"));
        kill_process(pid, first).unwrap();
        assert!(lines.any(|line| line == "stopping"));
        kill_process(pid, second).unwrap();
        child.wait().unwrap().code().expect("it exits by itself")
    }

    #[test]
    fn the_first_signal_cancels_the_token_and_the_second_exits_at_once() {
        assert_eq!(exit_code_after(Number::TERM, Number::INT), 130);
        assert_eq!(exit_code_after(Number::INT, Number::TERM), 143);
        assert_eq!(exit_code_after(Number::TERM, Number::TERM), 143);
    }

    /// The first thread of a server waited for its disk, the kernel chose it for the signal, and nothing
    /// happened until the disk answered.
    #[test]
    fn a_signal_goes_to_the_thread_that_waits_for_it_and_to_no_other() {
        let (mut child, mut lines) = start("child_that_holds_its_signals");
        assert!(lines.any(|line| line == "ready"));
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let mut takes_it = Vec::new();
        for thread in threads {
            let thread = thread.unwrap().path();
            let status = std::fs::read_to_string(thread.join("status")).unwrap();
            let held = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            let held = u64::from_str_radix(held.trim(), 16).unwrap();
            if held & 1 << (Number::TERM.as_raw() - 1) == 0 {
                takes_it.push(std::fs::read_to_string(thread.join("comm")).unwrap());
            }
        }
        // The first thread is that of the test harness, which was there before.
        takes_it.retain(|name| !name.starts_with("kvprocess"));
        assert_eq!(takes_it, ["signals\n"]);
        kill_process(Pid::from_child(&child), Number::TERM).unwrap();
        assert!(lines.any(|line| line == "stopping"));
        child.wait().unwrap();
    }

    #[test]
    fn a_signal_ends_a_process_whose_thread_waits_for_something_that_never_comes() {
        let (mut child, mut lines) = start("child_that_stands_still");
        assert!(lines.any(|line| line == "ready"));
        kill_process(Pid::from_child(&child), Number::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn who_talks_to_a_process_that_shut_its_sockets_hears_so_though_it_lives() {
        let (mut child, mut lines) = start("child_that_shuts_its_sockets");
        let address = lines.find(|line| line.starts_with("127.0.0.1:")).expect("where it listens");
        let mut connection = TcpStream::connect(&address).unwrap();
        assert!(lines.any(|line| line == "accepted"));
        kill_process(Pid::from_child(&child), Number::TERM).unwrap();
        assert!(lines.any(|line| line == "shut"));
        assert_eq!(connection.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(TcpStream::connect(&address).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
