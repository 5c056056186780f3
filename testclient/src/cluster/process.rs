//! One process of ours, from start to end. Signals go to its own handle, never to a name.

use std::fs::{File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A program with its flags, which can be started, ended and started again.
pub struct Process {
    label: String,
    program: PathBuf,
    flags: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// True from the moment we wanted it to end.
    ending: bool,
}

impl Process {
    /// Describes a process; it does not run yet. Its output goes to `<label>.log` in `log_dir`,
    /// its process id to `<label>.pid`.
    ///
    /// # Errors
    /// When the program has not been built.
    pub fn new(
        program_name: &str,
        label: &str,
        flags: Vec<String>,
        log_dir: &Path,
    ) -> Result<Process> {
        Ok(Process {
            label: label.to_owned(),
            program: program(program_name)?,
            flags,
            log: log_dir.join(format!("{label}.log")),
            child: None,
            ending: false,
        })
    }

    /// What we call it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Starts it. Its log grows over restarts.
    ///
    /// # Errors
    /// When it is running already or cannot be run.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it with these flags besides its own, this time only.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with(&mut self, more: &[&str]) -> Result<()> {
        if self.child.is_some() && self.exit_status().is_none() {
            bail!("{} is running already", self.label);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open log {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.flags)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            // A group of its own: Ctrl-C reaches only us, and we decide who ends when.
            .process_group(0);
        for (name, _) in std::env::vars_os() {
            // Flags from the environment are meant for the user's own servers.
            let name = name.to_string_lossy();
            if name.starts_with("KVSERVER_") || name.starts_with("VIEWSERVICE_") {
                command.env_remove(&*name);
            }
        }
        let child = command.spawn().with_context(|| format!("run {}", self.program.display()))?;
        std::fs::write(self.pid_file(), format!("{}\n", child.id())).context("write pid file")?;
        self.child = Some(child);
        self.ending = false;
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.log.with_extension("pid")
    }

    /// Whether it was started and nobody asked it to end since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some() && !self.ending
    }

    /// Its process id, if it was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_some() {
            return;
        }
        if let Some(child) = &self.child {
            // Not yet waited for, so the id is still its own. It may have ended just now: fine.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Sends a signal that is meant to end it.
    pub fn end(&mut self, signal: Signal) {
        self.ending = true;
        self.signal(signal);
    }

    /// Ends it at once and waits until it is gone. Does nothing if it does not run.
    pub fn kill(&mut self) {
        self.ending = true;
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(self.pid_file());
        }
    }

    /// How it ended; `None` while it runs or when it was never started.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        let _ = std::fs::remove_file(self.pid_file());
        Some(status)
    }

    /// In words, if it ended although nobody wanted it to.
    pub fn ended_by_itself(&mut self) -> Option<String> {
        if self.ending {
            return None;
        }
        let status = self.exit_status()?;
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!(
                "{} ended by itself with exit code {code}; its last words:\n{}",
                self.label,
                self.last_words()
            ),
            (None, signal) => {
                format!("{} was ended by signal {}", self.label, signal.unwrap_or_default())
            }
        })
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Everything it has written.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let file = File::open(&self.log).context("open log")?;
        std::io::read_to_string(file).context("read log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where one of our programs is: next to the running one, which is where cargo and `make build`
/// put them. (Test programs live one folder deeper.)
///
/// # Errors
/// When it is not there, with the command that builds it.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let mut dir = own.parent().context("a program lies in a folder")?;
    if dir.file_name().is_some_and(|folder| folder == "deps") {
        dir = dir.parent().context("deps lies in a folder")?;
    }
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `make build` (tests: `cargo test \
             --workspace`)",
            path.display()
        );
    }
    Ok(path)
}
