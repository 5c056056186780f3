//! The power goes, again and again: every process of a durable cluster is killed at once, at a random
//! moment under load, and started again in any order. Everything acknowledged must be there, once.
//!
//! A process that is killed leaves what it wrote to the kernel, synced or not. That what was *not*
//! synced may be lost is the business of the simulated disk (`testclient sim --disks`).

pub mod plan;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::Torture;
use crate::check::{self, Judged};
use crate::cluster::{Cluster, Machine, Options, PATIENCE, wait_for};
use crate::failover::flow;
use crate::failover::sharers::Sharers;
use crate::failover::writer::{Crew, Meter};
use crate::random::Random;
use crate::recorder::Recorder;
use crate::report::{
    check_writable, duration, millis, percentile, progress, say, table, write_json,
};
use plan::Plan;

/// How long the verdict on the history may take.
const CHECK_LIMIT: Duration = Duration::from_secs(600);

/// What a server says when it takes what it finds for damage, and when copies differ: neither may
/// come of being killed.
const NEVER_SAID: [&str; 2] = ["cannot be relied on", "ALARM"];

/// What a torture came to.
#[derive(Clone, Debug)]
pub struct Tortured {
    /// Rounds that were played.
    pub rounds: u32,
    /// Times that everything was killed at once.
    pub cuts_of_all: u32,
    /// Times that only some were.
    pub cuts_of_some: u32,
    /// Acknowledged writes of all rounds.
    pub acknowledged: u64,
    /// Calls that were certainly not done.
    pub failed: u64,
    /// Calls whose outcome nobody knows.
    pub unknown: u64,
    /// What was found wrong, a line each.
    pub broken: Vec<String>,
    /// From the start of the first process to the next acknowledged write, of each round in which
    /// everything had been killed.
    pub serving_after: Vec<Duration>,
    /// The verdict on what clients of the same keys were answered.
    pub history: Judged,
}

impl Tortured {
    /// Whether nothing at all was found wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty() && self.history == Judged::Linearizable
    }
}

/// Runs it and says what it came to. Exit code 1 when anything acknowledged was lost or done twice.
///
/// # Errors
/// As [`play`].
pub async fn run(options: &Torture, stop: CancellationToken) -> Result<ExitCode> {
    check_writable(options.json.as_deref())?;
    let tortured = tokio::select! {
        tortured = play(options, &stop) => tortured?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    if let Some(path) = &options.json {
        write_json(path, &as_json(options, &tortured))?;
    }
    if options.json.as_deref() != Some(Path::new("-")) {
        say(as_table(options, &tortured))?;
    }
    Ok(if tortured.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays all rounds on a cluster of its own, then judges the history.
///
/// # Errors
/// When the cluster does not come up, or does not come back after a round.
pub async fn play(options: &Torture, stop: &CancellationToken) -> Result<Tortured> {
    if options.servers < options.copies {
        bail!("--servers {} must be at least --copies {}", options.servers, options.copies);
    }
    let folder = tempfile::tempdir().context("make a temporary directory for the history")?;
    let kept = options.history.clone();
    let history = kept.unwrap_or_else(|| folder.path().join("history.jsonl"));
    let recorder = Recorder::start(&history)?;
    let starting = Options {
        servers: options.servers as usize,
        copies: options.copies,
        durable: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start(&starting).await?;
    let tortured = match rounds(&mut cluster, options, recorder).await {
        Ok(tortured) => tortured,
        Err(error) => {
            let logs = cluster.keep_logs();
            let about = format!("seed {}; logs and data in {}", options.seed, logs.display());
            return Err(error.context(about));
        }
    };
    let history = check::judge(&history, CHECK_LIMIT, stop).await?;
    let tortured = Tortured { history, ..tortured };
    if !tortured.is_sound() {
        eprintln!("logs and data in {}", cluster.keep_logs().display());
    }
    Ok(tortured)
}

async fn rounds(cluster: &mut Cluster, options: &Torture, recorder: Recorder) -> Result<Tortured> {
    let mut random = Random::new(options.seed);
    let meter = Arc::new(Meter::new());
    let views = cluster.view_service_addr().to_owned();
    let mut crew = Crew::start(&views, options.writers, options.value_size, &meter).await?;
    let sharers = Sharers::start(&views, recorder).await?;
    let bar = progress(options.rounds.into(), "{wide_bar} {pos}/{len} {msg}");
    let mut tortured = Tortured {
        rounds: options.rounds,
        cuts_of_all: 0,
        cuts_of_some: 0,
        acknowledged: 0,
        failed: 0,
        unknown: 0,
        broken: Vec::new(),
        serving_after: Vec::new(),
        history: Judged::NotDecided,
    };
    for number in 1..=options.rounds {
        let plan = Plan::draw(&mut random, cluster.servers());
        let about = || format!("round {number}: {plan:?}");
        let serving_after = round(cluster, &plan, &meter).await.with_context(about)?;
        let last = number == options.rounds;
        let mut found = crew.check(last).await.with_context(about)?.broken;
        found.extend(alarms(cluster)?);
        found.retain(|what| !tortured.broken.iter().any(|known| known.ends_with(what.as_str())));
        for what in found {
            let line = format!("round {number}, seed {}: {what}", options.seed);
            bar.suspend(|| eprintln!("{line}"));
            tortured.broken.push(line);
        }
        let all = plan.cuts.iter().filter(|cut| cut.hits_all(cluster.servers())).count();
        tortured.cuts_of_all += u32::try_from(all).unwrap_or(u32::MAX);
        tortured.cuts_of_some += u32::try_from(plan.cuts.len() - all).unwrap_or(u32::MAX);
        if all > 0 {
            tortured.serving_after.push(serving_after);
        }
        let line =
            format!("serving after {}, lost {}", duration(serving_after), tortured.broken.len());
        bar.set_message(line.clone());
        bar.inc(1);
        if bar.is_hidden() {
            eprintln!("round {number} of {}: {line}", options.rounds);
        }
    }
    bar.finish_and_clear();
    let ever = meter.ever();
    tortured.acknowledged = ever.writes;
    tortured.failed = ever.failed;
    tortured.unknown = ever.unknown;
    sharers.finish().await?;
    crew.stop().await;
    Ok(tortured)
}

/// From full redundancy to full redundancy. Returns how long after the last return of power the first
/// write was done.
async fn round(cluster: &mut Cluster, plan: &Plan, meter: &Meter) -> Result<Duration> {
    flow(meter, "writers to be at work before the power goes").await?;
    let mut back = Instant::now();
    for cut in &plan.cuts {
        tokio::time::sleep(cut.after).await;
        cluster.cut_power(&cut.victims);
        tokio::time::sleep(cut.dark).await;
        back = Instant::now();
        meter.reset();
        for &(pause, machine) in &cut.starts {
            tokio::time::sleep(pause).await;
            match machine {
                Machine::Views => cluster.start_view_service()?,
                Machine::Server(index) => cluster.start_server(index)?,
            }
        }
    }
    let first = wait_for("the first write after the power came back", PATIENCE, async || {
        meter.first_write().ok_or_else(|| "none".to_owned())
    })
    .await?;
    cluster.wait_until_redundant().await?;
    Ok(first.saturating_duration_since(back))
}

/// What no log of a server may say.
fn alarms(cluster: &Cluster) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for index in 0..cluster.servers() {
        let log = cluster.server_log(index)?;
        let alarming = |line: &&str| NEVER_SAID.iter().any(|word| line.contains(word));
        found.extend(
            log.lines().filter(alarming).map(|line| format!("s{} says: {line}", index + 1)),
        );
    }
    Ok(found)
}

fn as_table(options: &Torture, tortured: &Tortured) -> String {
    let header = [
        "rounds",
        "all killed",
        "some killed",
        "acknowledged",
        "failed",
        "unknown",
        "lost or twice",
        "serving again",
        "at most",
    ];
    let row = vec![
        tortured.rounds.to_string(),
        tortured.cuts_of_all.to_string(),
        tortured.cuts_of_some.to_string(),
        tortured.acknowledged.to_string(),
        tortured.failed.to_string(),
        tortured.unknown.to_string(),
        tortured.broken.len().to_string(),
        duration(percentile(&tortured.serving_after, 50)),
        duration(percentile(&tortured.serving_after, 100)),
    ];
    format!(
        "{}\n(seed {}; serving again: from the start of the first process to the next acknowledged \
         write after everything was killed, pauses between the starts included: median and maximum; \
         history: {})",
        table(&header, &[row]),
        options.seed,
        tortured.history
    )
}

fn as_json(options: &Torture, tortured: &Tortured) -> serde_json::Value {
    let after = &tortured.serving_after;
    json!({
        "version": kvprocess::VERSION,
        "seed": options.seed,
        "copies": options.copies,
        "servers": options.servers,
        "writers": options.writers,
        "rounds": tortured.rounds,
        "cuts_of_all": tortured.cuts_of_all,
        "cuts_of_some": tortured.cuts_of_some,
        "acknowledged": tortured.acknowledged,
        "failed": tortured.failed,
        "unknown": tortured.unknown,
        "broken": tortured.broken,
        "history": tortured.history.to_string(),
        "serving_after_ms": {
            "median": millis(percentile(after, 50)),
            "p90": millis(percentile(after, 90)),
            "max": millis(percentile(after, 100)),
        },
    })
}
