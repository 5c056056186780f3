//! What scenes are played on: a cluster, filled, and what its processes take. Shell.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use crate::bench::door::Door;
use crate::bench::load::{Generator, Load, Target};
use crate::cluster::{Cluster, Options};
use crate::workload::Keys;

/// Memory is settled when it stays within this portion over [`SETTLED_LOOKS`] looks.
const SETTLED_WITHIN: f64 = 0.005;
const SETTLED_LOOKS: usize = 6;
const SETTLED_LOOK_EVERY: Duration = Duration::from_millis(250);
/// A process that never settles is taken as it is after so many looks.
const LOOKS_MAX: usize = 60;

/// A cluster of two copies. Its view service and its first server run; the other server is there to
/// be started.
///
/// # Errors
/// When it does not come up.
pub async fn primary_alone(server_flags: Vec<String>) -> Result<Cluster> {
    let options = Options { servers: 2, copies: 2, server_flags, ..Options::default() };
    let mut cluster = Cluster::new(&options).await?;
    cluster.start_view_service()?;
    cluster.start_server(0)?;
    cluster.wait_until_redundant().await?;
    Ok(cluster)
}

/// The same, with its backup.
///
/// # Errors
/// When it does not come up.
pub async fn primary_and_backup(server_flags: Vec<String>) -> Result<Cluster> {
    let mut cluster = primary_alone(server_flags).await?;
    cluster.start_server(1)?;
    cluster.wait_until_redundant().await?;
    Ok(cluster)
}

/// The same, on disk.
///
/// # Errors
/// When it does not come up.
pub async fn durable_primary_and_backup() -> Result<Cluster> {
    let options = Options { servers: 2, copies: 2, durable: true, ..Options::default() };
    Cluster::start(&options).await
}

/// Numbers of keys rise, from 1 at least.
///
/// # Errors
/// When these do not, or are fewer than `least`.
pub fn check_rising(keys: &[u64], least: usize) -> Result<()> {
    let rising = keys.is_sorted_by(|one, next| one < next) && keys.first() > Some(&0);
    ensure!(
        rising && keys.len() >= least,
        "--keys needs {least} or more numbers that rise, from 1 on"
    );
    Ok(())
}

/// What a scene came to; when it failed, with a word on where the logs are.
///
/// # Errors
/// The scene's own, and when a process of the cluster ended by itself.
pub fn ended<T>(cluster: &mut Cluster, played: Result<T>) -> Result<T> {
    let played = match (played, cluster.ended_by_itself()) {
        (played, None) => played,
        (Ok(_), Some(what)) => Err(anyhow::anyhow!(what)),
        (Err(error), Some(what)) => Err(error.context(what)),
    };
    played.map_err(|error| error.context(format!("logs in {}", cluster.keep_logs().display())))
}

/// Tells people how far a scene is.
pub fn tell(what: &str) {
    eprintln!("{what}");
}

/// Writes these keys, with a bar.
///
/// # Errors
/// When the cluster does not take them.
pub async fn fill(
    generator: &Generator,
    cluster: &Cluster,
    keys: &Arc<Keys>,
    numbers: Range<u64>,
    value_size: usize,
) -> Result<()> {
    let bar = crate::report::progress(numbers.end - numbers.start, "{msg} {wide_bar} {pos}/{len}");
    bar.set_message("filling");
    let value = value(value_size);
    let filled = generator.fill(cluster.view_service_addr(), keys, numbers, &value, &bar).await;
    bar.finish_and_clear();
    filled
}

/// A value of this size.
#[must_use]
pub fn value(size: usize) -> Bytes {
    Bytes::from(vec![b'v'; size])
}

/// Connections to the primary's plain door.
///
/// # Errors
/// When there is no primary, or it does not answer.
pub async fn connect(
    generator: &Generator,
    cluster: &Cluster,
    connections: u32,
    deadline: Option<Duration>,
) -> Result<Target> {
    let primary = cluster.layout().await?.primary.context("an activated view has a primary")?;
    let primary = cluster.server_name(primary).to_owned();
    generator.connect(&Door::Grpc { primary, deadline }, connections).await
}

/// A closed loop until it is stopped.
#[must_use]
pub fn closed_loop(keys: &Arc<Keys>, value_size: usize, callers: u32, seed: u64) -> Load {
    Load { callers, seed, ..Load::new(Arc::clone(keys), value_size) }
}

/// Memory of a server that is in RAM, in bytes.
///
/// # Errors
/// When it does not run.
pub fn memory_of(cluster: &Cluster, server: usize) -> Result<u64> {
    said_of(cluster, server, "VmRSS:")
}

/// The most that this ever was.
///
/// # Errors
/// When it does not run.
pub fn peak_memory_of(cluster: &Cluster, server: usize) -> Result<u64> {
    said_of(cluster, server, "VmHWM:")
}

fn said_of(cluster: &Cluster, server: usize, what: &str) -> Result<u64> {
    let id = cluster.server_id(server).context("the server was not started")?;
    let path = format!("/proc/{id}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_size(&status, what).with_context(|| format!("{path} does not say {what}"))
}

fn parse_size(status: &str, what: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Memory of a server once it no longer changes: what was begun is finished, and what was freed is
/// given back, as far as it ever is.
///
/// # Errors
/// When it does not run.
pub async fn settled_memory_of(cluster: &Cluster, server: usize) -> Result<u64> {
    let mut looks = vec![memory_of(cluster, server)?];
    while looks.len() < LOOKS_MAX {
        tokio::time::sleep(SETTLED_LOOK_EVERY).await;
        looks.push(memory_of(cluster, server)?);
        let Some(last) = looks.last_chunk::<SETTLED_LOOKS>() else {
            continue;
        };
        let (low, high) =
            last.iter().fold((u64::MAX, 0), |(low, high), look| (low.min(*look), high.max(*look)));
        if (high - low) as f64 <= SETTLED_WITHIN * high as f64 {
            break;
        }
    }
    Ok(looks.last().copied().unwrap_or_default())
}

/// Bytes as MiB.
#[must_use]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_the_kernel_says() {
        let status = "Name:\tkvserver\nVmHWM:\t   99999 kB\nVmRSS:\t   12345 kB\nThreads:\t3\n";
        assert_eq!(parse_size(status, "VmRSS:"), Some(12_345 << 10));
        assert_eq!(parse_size(status, "VmHWM:"), Some(99_999 << 10));
        assert_eq!(parse_size("Name:\tkthreadd\n", "VmRSS:"), None);
    }
}
