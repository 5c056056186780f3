//! The yardstick of durable writes: a process that writes a little into a file that has its full
//! length already and syncs it, again and again. What it reaches is what the disk allows a journal.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::tally::Latencies;
use crate::cluster::program;
use crate::report::say;

/// Length of the file, as of a young segment.
const FILE_SIZE: u64 = 16 << 20;

/// What is written at a time: about what a journal writes for one put.
const WRITE_SIZE: usize = 256;

/// Processes that sync at once, as a primary and its backup do.
pub const AT_ONCE: usize = 2;

/// The process: makes the file if it is not there, syncs for so long with a pause before each time, and
/// says the median of the syncs alone.
///
/// # Errors
/// When the file cannot be written.
pub fn run(path: &Path, length: Duration, pause: Duration) -> Result<()> {
    let about = || format!("sync {}", path.display());
    let file = whole(path).with_context(about)?;
    let bytes = [7; WRITE_SIZE];
    let mut latencies = Latencies::new();
    let (begun, mut at) = (Instant::now(), 0);
    while begun.elapsed() < length {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let started = Instant::now();
        file.write_all_at(&bytes, at).with_context(about)?;
        file.sync_data().with_context(about)?;
        latencies.record(started.elapsed());
        at = (at + WRITE_SIZE as u64) % FILE_SIZE;
    }
    say(latencies.at(0.5).as_nanos())
}

/// A file at its full length, with bytes in it: a write then changes nothing but bytes.
fn whole(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.metadata()?.len() < FILE_SIZE {
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_SIZE).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
    }
    Ok(file)
}

/// The median that several processes reach at once on the file system of this folder, all of
/// them together.
///
/// # Errors
/// When one of them fails.
pub async fn at_once(dir: &Path, length: Duration, pause: Duration) -> Result<Duration> {
    let paths: Vec<PathBuf> =
        (0..AT_ONCE).map(|number| dir.join(format!("sync-{number}"))).collect();
    let run = move || {
        let program = program("testclient")?;
        let start = |path: &PathBuf| {
            let mut command = Command::new(&program);
            command.arg("sync").arg(path);
            for (flag, duration) in [("--length", length), ("--pause", pause)] {
                command.args([flag, &format!("{}ns", duration.as_nanos())]);
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            command.spawn().context("start a process that syncs")
        };
        // Both are there before the first one is waited for.
        let running = paths.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut sum = Duration::ZERO;
        for process in running {
            let ended = process.wait_with_output().context("wait for a process that syncs")?;
            ensure!(ended.status.success(), "a process that syncs has failed");
            let said = String::from_utf8_lossy(&ended.stdout);
            let nanos = said.trim().parse().with_context(|| format!("it said {said:?}"))?;
            sum += Duration::from_nanos(nanos);
        }
        Ok(sum / u32::try_from(AT_ONCE).unwrap_or(1))
    };
    tokio::task::spawn_blocking(run).await.context("sync")?
}
