//! A drill on a cluster of its own: the primary fails again and again under load. Measures how
//! long writers waited and checks that everything acknowledged is there, exactly once.

pub mod sharers;
pub mod writer;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::{Failover, Fault};
use crate::cluster::{Cluster, Options, PATIENCE, wait_for};
use crate::recorder::Recorder;
use crate::report::{
    check_writable, duration, millis, percentile, progress, say, table, write_json,
};
use sharers::Sharers;
use writer::{Crew, Meter};

/// How long a frozen primary stays frozen: well beyond the moment at which it is given up.
const FROZEN: Duration = Duration::from_secs(4);

/// Writes that must complete before and after a fault for its gap to be measured.
const FLOW: u64 = 50;

/// What one round cost.
#[derive(Clone, Debug)]
pub struct Round {
    /// Longest time between two completed writes, of all writers together.
    pub unavailable: Duration,
    /// Longest single write or read.
    pub longest_call: Duration,
    /// Completed writes.
    pub writes: u64,
    /// Calls that were certainly not done.
    pub failed: u64,
    /// Calls whose outcome nobody knows.
    pub unknown: u64,
    /// What the check after the round found wrong.
    pub lost: Vec<String>,
}

/// Runs the drill. Exit code 1 when anything acknowledged was lost or done twice.
///
/// # Errors
/// When the cluster does not come up or does not repair itself.
pub async fn run(options: &Failover, stop: CancellationToken) -> Result<ExitCode> {
    check_writable(options.json.as_deref())?;
    if options.servers < options.copies {
        bail!("--servers {} must be at least --copies {}", options.servers, options.copies);
    }
    let recorder = options.history.as_deref().map(Recorder::start).transpose()?;
    let mut cluster = Cluster::new(&Options {
        servers: options.servers as usize,
        copies: options.copies,
        ..Options::default()
    })
    .await?;
    let drilled = tokio::select! {
        drilled = drill(&mut cluster, options, recorder) => drilled,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    let rounds = match drilled {
        Ok(rounds) => rounds,
        Err(error) => {
            let logs = cluster.keep_logs();
            return Err(error.context(format!("logs in {}", logs.display())));
        }
    };
    let lost: Vec<&String> = rounds.iter().flat_map(|round| &round.lost).collect();
    if !lost.is_empty() {
        eprintln!("logs in {}", cluster.keep_logs().display());
    }
    for what in &lost {
        eprintln!("{what}");
    }
    if let Some(path) = &options.json {
        write_json(path, &as_json(options, &rounds))?;
    }
    if options.json.as_deref() != Some(std::path::Path::new("-")) {
        say(as_table(options.fault, &rounds))?;
    }
    Ok(if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn drill(
    cluster: &mut Cluster,
    options: &Failover,
    recorder: Option<Recorder>,
) -> Result<Vec<Round>> {
    cluster.start_view_service()?;
    for index in 0..cluster.servers() {
        cluster.start_server(index)?;
    }
    cluster.wait_until_redundant().await?;
    let bar = progress(options.rounds.into(), "{wide_bar} {pos}/{len} {msg}");
    let meter = Arc::new(Meter::new());
    let mut crew = Crew::start(cluster.view_service_addr(), options.writers, 0, &meter).await?;
    let sharers = match recorder {
        Some(recorder) => Some(Sharers::start(cluster.view_service_addr(), recorder).await?),
        None => None,
    };
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let mut round = one_round(cluster, options.fault, &meter)
            .await
            .with_context(|| format!("round {number}"))?;
        let checked = crew.check(false).await.context("check what was promised")?;
        round.lost = checked.broken;
        let line =
            format!("writers waited {}, lost {}", duration(round.unavailable), round.lost.len());
        bar.set_message(line.clone());
        bar.inc(1);
        if bar.is_hidden() {
            eprintln!("round {number} of {}: {line}", options.rounds);
        }
        rounds.push(round);
    }
    let mut everything = crew.check(true).await.context("check everything once more")?;
    let known = |what: &String| rounds.iter().any(|round: &Round| round.lost.contains(what));
    everything.broken.retain(|what| !known(what));
    if let Some(last) = rounds.last_mut() {
        last.lost.extend(everything.broken);
    }
    bar.finish_and_clear();
    if let Some(sharers) = sharers {
        sharers.finish().await?;
    }
    crew.stop().await;
    Ok(rounds)
}

/// One fault, from full redundancy to full redundancy.
async fn one_round(cluster: &mut Cluster, fault: Fault, meter: &Meter) -> Result<Round> {
    let before = cluster.wait_until_redundant().await?;
    let victim = before.primary.context("an activated view has a primary")?;
    flow(meter, "writers to be at work before the fault").await?;
    meter.reset();
    match fault {
        Fault::Kill => cluster.kill(victim),
        Fault::Term => {
            cluster.term(victim);
            cluster.wait_for_exit(victim).await?;
        }
        Fault::Stop => {
            cluster.stop(victim);
            tokio::time::sleep(FROZEN).await;
            cluster.cont(victim);
        }
    }
    cluster
        .wait_for_view("another primary", |layout| {
            layout.number > before.number && layout.primary.is_some_and(|now| now != victim)
        })
        .await?;
    flow(meter, "writers to be at work after the fault").await?;
    if fault != Fault::Stop {
        cluster.start_server(victim)?;
    }
    cluster.wait_until_redundant().await?;
    Ok(meter.read())
}

/// Waits until writers have done a good number of writes more.
///
/// # Errors
/// When they do not.
pub(crate) async fn flow(meter: &Meter, reason: &str) -> Result<()> {
    let until = meter.ever().writes + FLOW;
    wait_for(reason, PATIENCE, async || match meter.ever().writes {
        writes if writes >= until => Ok(()),
        writes => Err(format!("{} more writes to come", until - writes)),
    })
    .await
}

fn as_table(fault: Fault, rounds: &[Round]) -> String {
    let header =
        ["fault", "rounds", "median", "p90", "max", "longest call", "failed", "unknown", "lost"];
    let gaps: Vec<Duration> = rounds.iter().map(|round| round.unavailable).collect();
    let longest = rounds.iter().map(|round| round.longest_call).max();
    let row = vec![
        fault.as_str().to_owned(),
        rounds.len().to_string(),
        duration(percentile(&gaps, 50)),
        duration(percentile(&gaps, 90)),
        duration(percentile(&gaps, 100)),
        duration(longest.unwrap_or_default()),
        total(rounds, |round| round.failed).to_string(),
        total(rounds, |round| round.unknown).to_string(),
        total(rounds, |round| round.lost.len() as u64).to_string(),
    ];
    let writes = total(rounds, |round| round.writes);
    format!(
        "{}\n(the longest time between two completed writes of each round; {writes} writes during the rounds)",
        table(&header, &[row])
    )
}

fn total(rounds: &[Round], of: impl Fn(&Round) -> u64) -> u64 {
    rounds.iter().map(of).sum()
}

fn as_json(options: &Failover, rounds: &[Round]) -> serde_json::Value {
    let gaps: Vec<Duration> = rounds.iter().map(|round| round.unavailable).collect();
    let each: Vec<_> = rounds
        .iter()
        .map(|round| {
            json!({
                "unavailable_ms": millis(round.unavailable),
                "longest_call_ms": millis(round.longest_call),
                "writes": round.writes,
                "failed": round.failed,
                "unknown": round.unknown,
                "lost": round.lost,
            })
        })
        .collect();
    json!({
        "version": kvprocess::VERSION,
        "fault": options.fault.as_str(),
        "copies": options.copies,
        "servers": options.servers,
        "writers": options.writers,
        "unavailable_ms": {
            "median": millis(percentile(&gaps, 50)),
            "p90": millis(percentile(&gaps, 90)),
            "max": millis(percentile(&gaps, 100)),
        },
        "failed": total(rounds, |round| round.failed),
        "unknown": total(rounds, |round| round.unknown),
        "lost": total(rounds, |round| round.lost.len() as u64),
        "rounds": each,
    })
}
