//! A newcomer joins a full cluster while clients write: what do they notice of it, and how long is
//! there only one copy?

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::args::Join;
use super::stage;
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::load::{Generator, Running, connections_for};
use crate::bench::tally::Tally;
use crate::cluster::Cluster;
use crate::report::{duration, millis, too_small};
use crate::workload::{KEY_SIZE, Keys};

const LONGEST_WRITE_MS: f64 = 100.0;
const THROUGHPUT_KEPT: f64 = 0.6;
const TRANSFER_MB_PER_SECOND: f64 = 100.0;

/// Fewer are there before anything can be said of a rate.
const KEYS_JUDGED: u64 = 1_000_000;

/// The server that joins.
const NEWCOMER: usize = 1;

/// One newcomer.
struct Joined {
    before: Tally,
    during: Tally,
    after: Tally,
    /// From the start of the process to a second copy that is in sync.
    redundant_after: Duration,
    /// `None` when the log reached back far enough.
    transfer: Option<Transfer>,
}

/// What a newcomer says when it has received the whole state.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Transfer {
    keys: u64,
    seconds: f64,
}

impl Joined {
    fn kept(&self) -> f64 {
        writes(&self.during) / writes(&self.before)
    }

    fn longest_write(&self) -> Duration {
        // One that began during the join may have ended after it.
        self.during.writes.max().max(self.after.writes.max())
    }

    fn troubled(&self) -> u64 {
        [&self.before, &self.during, &self.after]
            .map(|tally| tally.failed + tally.unknown)
            .iter()
            .sum()
    }
}

/// Plays the scene.
///
/// # Errors
/// When the cluster fails.
pub async fn play(options: &Join) -> Result<Verdict> {
    let mut cluster = stage::primary_alone(Vec::new()).await?;
    let played = rounds(&mut cluster, options).await;
    let joined = stage::ended(&mut cluster, played)?;
    Ok(verdict(options, &joined))
}

async fn rounds(cluster: &mut Cluster, options: &Join) -> Result<Vec<Joined>> {
    let generator = Generator::start()?;
    let keys = Arc::new(Keys::new(options.keys));
    let value_size = options.common.value_size;
    stage::fill(&generator, cluster, &keys, 0..options.keys, value_size).await?;
    let connections = connections_for(options.writers);
    let target = stage::connect(&generator, cluster, connections, None).await?;
    let load = stage::closed_loop(&keys, value_size, options.writers, options.common.seed);
    let mut running = generator.begin(&target, load);
    let mut joined = Vec::new();
    for round in 1..=options.rounds {
        if round > 1 {
            cluster.kill(NEWCOMER);
            cluster.wait_for_view("a primary alone", |view| view.synced.is_empty()).await?;
        }
        let one = join(cluster, &mut running, options).await?;
        stage::tell(&format!(
            "round {round} of {}: a second copy after {}",
            options.rounds,
            duration(one.redundant_after)
        ));
        joined.push(one);
    }
    running.stop().await?;
    Ok(joined)
}

async fn join(cluster: &mut Cluster, running: &mut Running, options: &Join) -> Result<Joined> {
    let _settling = running.lap();
    tokio::time::sleep(options.calm).await;
    let before = running.lap();
    let transfers_before = transfers(&cluster.server_log(NEWCOMER).unwrap_or_default()).len();
    let started = Instant::now();
    cluster.start_server(NEWCOMER)?;
    cluster.wait_until_redundant().await?;
    let redundant_after = started.elapsed();
    let during = running.lap();
    tokio::time::sleep(options.calm / 2).await;
    let after = running.lap();
    let transfers = transfers(&cluster.server_log(NEWCOMER)?);
    let transfer = transfers.get(transfers_before..).and_then(<[_]>::last).copied();
    Ok(Joined { before, during, after, redundant_after, transfer })
}

/// Every transfer that a server reports in its log: "State transfer completed successfully: 3 keys
/// at op 7 in 1.2s".
fn transfers(log: &str) -> Vec<Transfer> {
    let reported = |line: &str| {
        let (_, said) = line.split_once("State transfer completed successfully: ")?;
        let keys = said.split(' ').next()?.parse().ok()?;
        let (_, took) = said.rsplit_once(" in ")?;
        Some(Transfer { keys, seconds: seconds(took.trim())? })
    };
    log.lines().filter_map(reported).collect()
}

/// A duration as Rust prints it.
fn seconds(text: &str) -> Option<f64> {
    let units = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, unit) =
        units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

fn writes(tally: &Tally) -> f64 {
    tally.per_second(tally.writes.count())
}

fn megabytes_per_second(transfer: &Transfer, value_size: usize) -> f64 {
    transfer.keys as f64 * (KEY_SIZE + value_size) as f64 / 1e6 / transfer.seconds
}

fn verdict(options: &Join, joined: &[Joined]) -> Verdict {
    let value_size = options.common.value_size;
    let header = vec!["round", "phase", "took", "writes/s", "p50", "p99", "longest"];
    let mut rows = Vec::new();
    for (round, one) in (1..).zip(joined) {
        for (phase, tally) in
            [("before", &one.before), ("joining", &one.during), ("after", &one.after)]
        {
            rows.push(vec![
                format!("{round}"),
                phase.to_owned(),
                duration(tally.took),
                format!("{:.0}", writes(tally)),
                duration(tally.writes.at(0.5)),
                duration(tally.writes.at(0.99)),
                duration(tally.writes.max()),
            ]);
        }
    }
    let rates: Vec<f64> = joined
        .iter()
        .filter_map(|one| one.transfer)
        .map(|transfer| megabytes_per_second(&transfer, value_size))
        .collect();
    let mut remarks = Vec::new();
    for (round, one) in (1..).zip(joined) {
        let how = match &one.transfer {
            None => "the log reached back far enough, nothing was transferred".to_owned(),
            Some(transfer) => format!(
                "{} keys were transferred in {} ({})",
                transfer.keys,
                figure(transfer.seconds, "s"),
                figure(megabytes_per_second(transfer, value_size), "MB/s")
            ),
        };
        remarks.push(format!(
            "Round {round}: {how}; a second copy {} after its start.",
            duration(one.redundant_after)
        ));
    }
    let longest = joined.iter().map(Joined::longest_write).max().unwrap_or_default();
    let kept: Vec<f64> = joined.iter().map(Joined::kept).collect();
    let troubled: u64 = joined.iter().map(Joined::troubled).sum();
    let too_small = too_small(&[(options.keys, KEYS_JUDGED, "keys")]);
    let kept = median(&kept);
    let mut requirements = vec![
        Requirement::at_most("longest write", millis(longest), LONGEST_WRITE_MS, "ms"),
        Requirement::at_least("throughput while joining", kept, THROUGHPUT_KEPT, "of before")
            .unless(too_small.as_ref()),
        Requirement::at_most("writes not done", troubled as f64, 0.0, ""),
    ];
    if !rates.is_empty() {
        let rate = median(&rates);
        let rate = Requirement::at_least("transfer", rate, TRANSFER_MB_PER_SECOND, "MB/s");
        requirements.push(rate.unless(too_small.as_ref()));
    }
    Verdict {
        title: format!(
            "A newcomer joins {} keys of {KEY_SIZE} + {value_size} bytes, {} writers",
            options.keys, options.writers
        ),
        header,
        rows,
        remarks,
        requirements,
        figures: json!({
            "keys": options.keys,
            "writers": options.writers,
            "rounds": joined.iter().map(|one| as_json(one, value_size)).collect::<Vec<_>>(),
        }),
    }
}

fn as_json(one: &Joined, value_size: usize) -> Value {
    let phase = |tally: &Tally| {
        json!({
            "seconds": tally.took.as_secs_f64(),
            "writes_per_second": writes(tally),
            "p50_ms": millis(tally.writes.at(0.5)),
            "p99_ms": millis(tally.writes.at(0.99)),
            "longest_ms": millis(tally.writes.max()),
            "failed": tally.failed,
            "unknown": tally.unknown,
        })
    };
    json!({
        "before": phase(&one.before),
        "joining": phase(&one.during),
        "after": phase(&one.after),
        "throughput_kept": one.kept(),
        "redundant_after_ms": millis(one.redundant_after),
        "transfer_mb_per_second":
            one.transfer.map(|transfer| megabytes_per_second(&transfer, value_size)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_found_in_a_log() {
        let log = "\
2026-01-01T00:00:00Z  INFO node: Role changed from spare to backup
2026-01-01T00:00:01Z  INFO node: State transfer completed successfully: 1000 keys at op 7 in 1.25s
2026-01-01T00:00:02Z  INFO node: s1 holds everything
2026-01-01T00:00:03Z  INFO node: State transfer completed successfully: 20 keys at op 9 in 12.5ms
";
        let expected =
            [Transfer { keys: 1000, seconds: 1.25 }, Transfer { keys: 20, seconds: 0.0125 }];
        assert_eq!(transfers(log), expected);
    }
}
