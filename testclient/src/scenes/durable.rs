//! What it costs to keep data on disk, and what it is worth: one put next to the same put in memory and
//! a bare sync, a start with all the data, and a copy that comes back after it has missed a little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::args::Durable;
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::load::{Generator, Target, connections_for};
use crate::bench::spread::Spread;
use crate::bench::sync;
use crate::bench::tally::Tally;
use crate::cluster::{Cluster, Machine, PATIENCE, wait_for};
use crate::report::{counted, duration, millis, too_small};
use crate::workload::{KEY_SIZE, Keys};

/// p50 of one durable put, by that of the same put in memory and a bare sync together.
const PUT_BY_ITS_PARTS: f64 = 1.25;
const THROUGHPUT_GAINED: f64 = 10.0;
const READ_SECONDS: f64 = 2.0;
/// Data sent to a copy that comes back, by the data that it had missed.
const SENT_BY_MISSED: f64 = 1.5;

const KEYS_JUDGED: u64 = 1_000_000;
const ROUNDS_JUDGED: u64 = 5;
const TURN_JUDGED: Duration = Duration::from_millis(500);

/// Keys of the clusters that take turns.
const KEYS_OF_TURNS: u64 = 10_000;

/// Load at the beginning of each turn that is not counted.
const WARM_UP_PART: u32 = 5;

/// One part in so many of the keys is written while a copy is away.
const MISSED_PART: u64 = 100;

/// Plays the scene.
///
/// # Errors
/// When a cluster fails.
pub async fn play(options: &Durable) -> Result<Verdict> {
    let generator = Generator::start()?;
    let rounds = take_turns(&generator, options).await?;
    stage::tell(&format!("a cluster with {} keys on disk", options.keys));
    let mut cluster = stage::durable_primary_and_backup().await?;
    let played = come_back(&generator, &mut cluster, options).await;
    let (recovered, returned) = stage::ended(&mut cluster, played)?;
    Ok(verdict(options, &rounds, &recovered, &returned))
}

/// One round of puts and syncs.
struct Round {
    /// One right after the other, as fast as they go.
    sync: Duration,
    /// Each after a rest, as between the puts of a lone caller: a disk that rests is slower to answer.
    rested_sync: Duration,
    memory_one: Tally,
    durable_one: Tally,
    memory_many: Tally,
    durable_many: Tally,
}

/// Picks one kind of turn.
type Of = fn(&Round) -> &Tally;

impl Round {
    fn by_parts(&self) -> f64 {
        self.by(self.sync)
    }

    fn by_rested_parts(&self) -> f64 {
        self.by(self.rested_sync)
    }

    fn by(&self, sync: Duration) -> f64 {
        p50(&self.durable_one) / (p50(&self.memory_one) + sync.as_secs_f64())
    }

    fn gained(&self) -> f64 {
        writes(&self.durable_many) / writes(&self.durable_one)
    }
}

fn p50(tally: &Tally) -> f64 {
    tally.writes.at(0.5).as_secs_f64()
}

fn writes(tally: &Tally) -> f64 {
    tally.per_second(tally.writes.count())
}

/// Two clusters side by side, and between them two processes that do nothing but sync.
async fn take_turns(generator: &Generator, options: &Durable) -> Result<Vec<Round>> {
    let mut memory = stage::primary_and_backup(Vec::new()).await?;
    let mut durable = stage::durable_primary_and_backup().await?;
    let keys = Arc::new(Keys::new(KEYS_OF_TURNS));
    let mut targets = Vec::new();
    for cluster in [&mut memory, &mut durable] {
        let value_size = options.common.value_size;
        let filled = stage::fill(generator, cluster, &keys, 0..keys.count(), value_size).await;
        stage::ended(cluster, filled)?;
        for callers in [1, options.callers] {
            let connections = connections_for(callers);
            targets.push(stage::connect(generator, cluster, connections, None).await?);
        }
    }
    let dir = durable.log_dir().to_owned();
    // The files are made.
    sync::at_once(&dir, Duration::ZERO, Duration::ZERO).await?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let turn = |target, callers| turn(generator, target, &keys, options, callers, number);
        let memory_one = turn(&targets[0], 1).await?;
        let sync = sync::at_once(&dir, options.turn, Duration::ZERO).await?;
        let rest = memory_one.writes.at(0.5);
        let rested_sync = sync::at_once(&dir, options.turn, rest).await?;
        let durable_one = turn(&targets[2], 1).await?;
        let memory_many = turn(&targets[1], options.callers).await?;
        let durable_many = turn(&targets[3], options.callers).await?;
        let round = Round { sync, rested_sync, memory_one, durable_one, memory_many, durable_many };
        stage::tell(&format!(
            "round {number} of {}: a durable put takes {}, {} of its parts",
            options.rounds,
            duration(round.durable_one.writes.at(0.5)),
            figure(round.by_parts(), "")
        ));
        rounds.push(round);
    }
    stage::ended(&mut memory, Ok(()))?;
    stage::ended(&mut durable, Ok(()))?;
    Ok(rounds)
}

async fn turn(
    generator: &Generator,
    target: &Target,
    keys: &Arc<Keys>,
    options: &Durable,
    callers: u32,
    round: u32,
) -> Result<Tally> {
    let seed = options.common.seed + u64::from(round * options.callers);
    let load = stage::closed_loop(keys, options.common.value_size, callers, seed);
    let mut running = generator.begin(target, load);
    tokio::time::sleep(options.turn / WARM_UP_PART).await;
    let _warm_up = running.lap();
    tokio::time::sleep(options.turn).await;
    let tally = running.lap();
    running.stop().await?;
    ensure!(tally.writes.count() > 0, "not one put was done in a turn of {:?}", options.turn);
    Ok(tally)
}

/// A start of everything, with all the data.
struct Recovered {
    /// What each server says it took to read its data, in seconds.
    reading: Vec<f64>,
    /// From the start of the servers until the last has said so.
    read_after: Duration,
    /// From there until the primary serves, and all copies are in sync.
    serving_after: Duration,
    redundant_after: Duration,
}

/// A copy that was away.
struct Returned {
    /// Keys and values written meanwhile, in bytes.
    missed: u64,
    sent: Sent,
    redundant_after: Duration,
}

/// What a primary says it sent to a copy until that was in sync.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sent {
    bytes: f64,
    entries: u64,
    transfer: bool,
}

async fn come_back(
    generator: &Generator,
    cluster: &mut Cluster,
    options: &Durable,
) -> Result<(Recovered, Returned)> {
    let value_size = options.common.value_size;
    let keys = Arc::new(Keys::new(options.keys));
    stage::fill(generator, cluster, &keys, 0..options.keys, value_size).await?;
    let recovered = recover(cluster, &keys).await?;
    stage::tell(&format!(
        "everything recovered, serving after {}",
        duration(recovered.serving_after)
    ));

    let layout = cluster.wait_until_redundant().await?;
    let primary = layout.primary.context("an activated view has a primary")?;
    let backup = *layout.synced.first().context("there is a backup")?;
    cluster.kill(backup);
    cluster.wait_for_view("a primary alone", |view| view.synced.is_empty()).await?;
    let missed = (options.keys / MISSED_PART).max(1);
    stage::fill(generator, cluster, &keys, 0..missed, value_size).await?;
    let said_before = sent(&cluster.server_log(primary)?).len();
    let started = Instant::now();
    cluster.start_server(backup)?;
    cluster.wait_until_redundant().await?;
    let redundant_after = started.elapsed();
    let said = sent(&cluster.server_log(primary)?);
    let sent = said.get(said_before..).and_then(<[Sent]>::last).copied();
    let sent = sent.context("the primary does not say what it sent")?;
    let missed = missed * (KEY_SIZE + value_size) as u64;
    Ok((recovered, Returned { missed, sent, redundant_after }))
}

/// Kills everything at once and starts it again: the servers when the view service is there.
async fn recover(cluster: &mut Cluster, keys: &Keys) -> Result<Recovered> {
    let servers: Vec<usize> = (0..cluster.servers()).collect();
    let mut all = vec![Machine::Views];
    all.extend(servers.iter().copied().map(Machine::Server));
    cluster.cut_power(&all);
    cluster.start_view_service()?;
    wait_for("the view service to answer", PATIENCE, async || {
        cluster.status().await.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    let started = Instant::now();
    for &index in &servers {
        cluster.start_server(index)?;
    }
    let reading = wait_for("every server to read its data", PATIENCE, async || {
        let mut reading = Vec::new();
        for &index in &servers {
            let log = cluster.server_log(index).map_err(|error| format!("{error:#}"))?;
            let said = read(&log).last().copied();
            reading.push(said.ok_or_else(|| format!("s{} has read nothing", index + 1))?);
        }
        Ok(reading)
    })
    .await?;
    let read_after = started.elapsed();
    cluster.wait_for_view("somebody to lead", |view| view.primary.is_some()).await?;
    let client = crate::calls::connect(cluster.view_service_addr(), PATIENCE).await?;
    let last = client.get(keys.name(keys.count() - 1)).await.context("read after the start")?;
    ensure!(last.is_some(), "the last of {} keys was acknowledged, and is lost", keys.count());
    let serving_after = started.elapsed();
    cluster.wait_until_redundant().await?;
    Ok(Recovered { reading, read_after, serving_after, redundant_after: started.elapsed() })
}

/// Seconds of every recovery that a server reports in its log: "recovered 3 keys through op 7 … in
/// 1.25 s". Keys alone would be too few to wait for: the last writes are read, but applied only once
/// the next primary has said that they are committed.
fn read(log: &str) -> Vec<f64> {
    let reported = |line: &str| {
        let (_, said) = line.split_once("recovered ")?;
        let (_, took) = said.rsplit_once(" in ")?;
        took.trim().strip_suffix(" s")?.parse().ok()
    };
    log.lines().filter_map(reported).collect()
}

/// Every copy that a primary reports as brought up: "… is in sync: 500 entries, 1.2 MiB by the log",
/// or "a full transfer of 7 keys, 1.2 MiB, then 3 entries, 15 bytes by the log".
fn sent(log: &str) -> Vec<Sent> {
    let reported = |line: &str| {
        let (_, said) = line.split_once(" is in sync: ")?;
        let (transfer, by_log) = match said.split_once(", then ") {
            Some((transfer, by_log)) => (Some(transfer), by_log),
            None => (None, said),
        };
        let (entries, bytes) = by_log.strip_suffix(" by the log")?.split_once(" entries, ")?;
        let transferred = match transfer {
            Some(transfer) => size(transfer.rsplit_once(", ")?.1)?,
            None => 0.0,
        };
        Some(Sent {
            bytes: size(bytes)? + transferred,
            entries: entries.parse().ok()?,
            transfer: transfer.is_some(),
        })
    };
    log.lines().filter_map(reported).collect()
}

/// A size as programs of ours print it.
fn size(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once(' ')?;
    let shift = match unit {
        "bytes" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * f64::from(1 << shift))
}

fn verdict(
    options: &Durable,
    rounds: &[Round],
    recovered: &Recovered,
    returned: &Returned,
) -> Verdict {
    let value_size = options.common.value_size;
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
    let row = |what: String, p50s: Vec<f64>, rates: Vec<f64>| {
        let p50s = Spread::of(p50s).map_or_else(String::new, |spread| spread.worded(time));
        let rates = Spread::of(rates)
            .map_or_else(String::new, |spread| spread.worded(|rate| format!("{rate:.0}")));
        vec![what, p50s, rates]
    };
    let many = |what: &str| format!("{what}, {}", counted(options.callers, "caller"));
    let kinds: [(String, Of); 4] = [
        ("put in memory, 1 caller".to_owned(), |round| &round.memory_one),
        ("durable put, 1 caller".to_owned(), |round| &round.durable_one),
        (many("put in memory"), |round| &round.memory_many),
        (many("durable put"), |round| &round.durable_many),
    ];
    let bare = |how: &str| format!("bare fdatasync, {} processes at once, {how}", sync::AT_ONCE);
    let sync = of(|round| round.sync.as_secs_f64());
    let rested_sync = of(|round| round.rested_sync.as_secs_f64());
    let mut rows = vec![
        row(bare("one after the other"), sync, Vec::new()),
        row(bare("each after a rest"), rested_sync, Vec::new()),
    ];
    for (what, of) in kinds {
        let each = |figure: fn(&Tally) -> f64| rounds.iter().map(of).map(figure).collect();
        rows.push(row(what, each(p50), each(writes)));
    }
    let by_rested_parts = median(&of(Round::by_rested_parts));
    let (by_parts, gained) = (median(&of(Round::by_parts)), median(&of(Round::gained)));
    let reading = recovered.reading.iter().copied().fold(f64::NAN, f64::max);
    let share = returned.sent.bytes / returned.missed as f64;
    let data = (options.keys * (KEY_SIZE + value_size) as u64) as f64;
    let how = if returned.sent.transfer { "by a full transfer" } else { "by the log" };
    let remarks = vec![
        format!(
            "A durable put takes {} of a put in memory and a sync after a rest, which is what a disk \
             gets from a lone caller.",
            figure(by_rested_parts, "")
        ),
        format!(
            "After everything was killed each server read its {} keys in {} at most, both at once; \
             all was read {} after they were started, served after {} and in two copies after {}.",
            options.keys,
            time(reading),
            duration(recovered.read_after),
            duration(recovered.serving_after),
            duration(recovered.redundant_after),
        ),
        format!(
            "A backup missed {} of keys and values, and was sent {how} {} in {} entries: {} of all data. It \
             was in sync {} after its start.",
            figure(mib(returned.missed), "MiB"),
            figure(returned.sent.bytes / f64::from(1 << 20), "MiB"),
            returned.sent.entries,
            figure(returned.sent.bytes / data * 100.0, "%"),
            duration(returned.redundant_after),
        ),
    ];
    let turns = too_small(&[
        (options.rounds.into(), ROUNDS_JUDGED, "rounds"),
        (millis_of(options.turn), millis_of(TURN_JUDGED), "ms of each turn"),
        (options.callers.into(), 50, "callers"),
    ]);
    let keys = too_small(&[(options.keys, KEYS_JUDGED, "keys")]);
    let requirements = vec![
        Requirement::at_most(
            "p50 of one durable put",
            by_parts,
            PUT_BY_ITS_PARTS,
            "of a put in memory and a sync",
        )
        .unless(turns.as_ref()),
        Requirement::at_least(
            &format!("durable puts of {} callers", options.callers),
            gained,
            THROUGHPUT_GAINED,
            "of one",
        )
        .unless(turns.as_ref()),
        Requirement::at_most("reading the data at a start", reading, READ_SECONDS, "s")
            .unless(keys.as_ref()),
        Requirement::at_most("sent to a copy that comes back", share, SENT_BY_MISSED, "of missed")
            .unless(keys.as_ref()),
    ];
    Verdict {
        title: format!(
            "Data on disk, keys of {KEY_SIZE} + {value_size} bytes, one backup: median of {} \
             (lowest-highest)",
            counted(options.rounds, "round")
        ),
        header: vec!["what", "p50", "per second"],
        rows,
        remarks,
        requirements,
        figures: json!({
            "callers": options.callers,
            "keys": options.keys,
            "sync_p50_ms": of(|round| millis(round.sync)),
            "rested_sync_p50_ms": of(|round| millis(round.rested_sync)),
            "memory_one_p50_ms": of(|round| p50(&round.memory_one) * 1e3),
            "durable_one_p50_ms": of(|round| p50(&round.durable_one) * 1e3),
            "by_parts": of(Round::by_parts),
            "by_rested_parts": of(Round::by_rested_parts),
            "durable_one_per_second": of(|round| writes(&round.durable_one)),
            "memory_many_per_second": of(|round| writes(&round.memory_many)),
            "durable_many_per_second": of(|round| writes(&round.durable_many)),
            "gained": of(Round::gained),
            "reading_seconds": recovered.reading,
            "read_after_ms": millis(recovered.read_after),
            "serving_after_ms": millis(recovered.serving_after),
            "redundant_after_ms": millis(recovered.redundant_after),
            "missed_bytes": returned.missed,
            "sent_bytes": returned.sent.bytes,
            "sent_entries": returned.sent.entries,
            "sent_by_transfer": returned.sent.transfer,
            "in_sync_after_ms": millis(returned.redundant_after),
        }),
    }
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_are_found_in_a_log() {
        let log = "\
2026-01-01T00:00:00Z  INFO kvserver::storage: recovered 7 keys through op 1.1/9 (8 known to be committed) from /in the/s1 in 0.25 s
2026-01-01T00:00:01Z  INFO node: Role changed from spare to backup
";
        assert_eq!(read(log), [0.25]);
    }

    #[test]
    fn what_a_copy_was_sent_is_found_in_a_log() {
        let log = "\
2026-01-01T00:00:00Z  INFO node: s2 holds everything through op 9 and is in sync: 3 entries, 1.5 KiB by the log
2026-01-01T00:00:01Z  INFO node: s2 holds everything through op 9 and is in sync: a full transfer of 7 keys, 1 MiB, then 3 entries, 15 bytes by the log
";
        let by_log = Sent { bytes: 1536.0, entries: 3, transfer: false };
        let whole = Sent { bytes: 1048591.0, entries: 3, transfer: true };
        assert_eq!(sent(log), [by_log, whole]);
    }
}
