//! How fast a cluster answers: closed loop (each client calls again as soon as it has its answer)
//! or open loop (calls start at a fixed rate, and a late start counts as latency).

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvclient::Client;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Bench;
use crate::calls::{connect, end, end_of};
use crate::ledger::End;
use crate::random::Random;
use crate::report::{check_writable, duration, millis, say, table, write_json};
use crate::workload::{Mix, Step, key};

/// How long one call may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls of an open loop that may wait for a free client; beyond, the cluster is hopelessly behind
/// and the rest counts as not started.
const BACKLOG_MAX: usize = 100_000;

/// Percentiles in tables and JSON.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Runs the rounds and prints what they measured. Exit code 1 when calls failed: then the figures
/// do not speak of a healthy cluster.
///
/// # Errors
/// When the cluster cannot be reached or the result cannot be written.
pub async fn run(vs: &str, options: &Bench, stop: CancellationToken) -> Result<ExitCode> {
    check_writable(options.json.as_deref())?;
    tokio::select! {
        code = measure(vs, options) => code,
        () = stop.cancelled() => Ok(ExitCode::from(130)),
    }
}

async fn measure(vs: &str, options: &Bench) -> Result<ExitCode> {
    let clients = connect_all(vs, options.clients).await?;
    let load = Arc::new(Load {
        mix: Mix { keys: options.keys, read_ratio: options.read_ratio },
        value: Bytes::from(vec![b'v'; options.value_size]),
    });
    fill(&clients, &load).await?;
    if !options.warm_up.is_zero() {
        let seed = options.seed;
        round(&clients, &load, options, seed, options.warm_up, "warm-up").await?;
    }
    let mut tallies = Vec::new();
    for number in 1..=options.rounds {
        let seed = options.seed + u64::from(number) * u64::from(options.clients);
        let title = format!("round {number} of {}", options.rounds);
        let length = Duration::from_secs(options.seconds);
        tallies.push(round(&clients, &load, options, seed, length, &title).await?);
    }
    for client in clients {
        end(&client).await;
    }
    if let Some(path) = &options.json {
        write_json(path, &as_json(options, &tallies))?;
    }
    if options.json.as_deref() != Some(std::path::Path::new("-")) {
        say(as_table(options, &tallies))?;
    }
    let troubled = tallies.iter().any(|tally| tally.failed + tally.unknown > 0);
    Ok(if troubled { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn connect_all(vs: &str, count: u32) -> Result<Vec<Client>> {
    let mut connecting = JoinSet::new();
    for _ in 0..count {
        let vs = vs.to_owned();
        connecting.spawn(async move { connect(&vs, PATIENCE).await });
    }
    let mut clients = Vec::new();
    while let Some(client) = connecting.join_next().await {
        let client = client.context("connect")?.with_context(|| format!("--vs {vs}"))?;
        clients.push(client);
    }
    Ok(clients)
}

struct Load {
    mix: Mix,
    value: Bytes,
}

impl Load {
    /// Performs one operation; true when it was a read.
    async fn perform(&self, client: &Client, step: Step) -> (bool, Result<(), kvclient::Error>) {
        match step {
            Step::Read(number) => (true, client.get(key(number)).await.map(drop)),
            Step::Write(number) => {
                let result = client.put(key(number), self.value.clone()).await;
                (false, result.map(drop))
            }
        }
    }
}

/// Writes every key once, so that reads find something.
async fn fill(clients: &[Client], load: &Arc<Load>) -> Result<()> {
    let bar = progress(load.mix.keys, "{msg} {wide_bar} {pos}/{len}");
    bar.set_message("filling");
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for client in clients {
        let (client, load, next) = (client.clone(), Arc::clone(load), Arc::clone(&next));
        let bar = bar.clone();
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.mix.keys {
                    return Ok(());
                }
                load.perform(&client, Step::Write(number)).await.1?;
                bar.inc(1);
            }
        });
    }
    while let Some(result) = writers.join_next().await {
        let result: Result<(), kvclient::Error> = result.context("fill")?;
        result.context("write the keys that will be read")?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// What a round measured. Latencies in microseconds.
struct Tally {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    failed: u64,
    unknown: u64,
    not_started: u64,
    took: Duration,
}

impl Tally {
    fn new() -> Result<Tally> {
        // Three figures, and grows as needed.
        let histogram = || Histogram::new(3).context("make a histogram");
        Ok(Tally {
            reads: histogram()?,
            writes: histogram()?,
            failed: 0,
            unknown: 0,
            not_started: 0,
            took: Duration::ZERO,
        })
    }

    fn record(&mut self, read: bool, latency: Duration, end: End) {
        match end {
            End::Done => {
                let histogram = if read { &mut self.reads } else { &mut self.writes };
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                // Not `saturating_record`: that one keeps the histogram from growing, and counts
                // what does not fit as 2 us.
                histogram.record(micros).expect("a histogram grows up to 146,000 years");
            }
            End::NotDone => self.failed += 1,
            End::Unknown => self.unknown += 1,
        }
    }

    fn add(&mut self, other: &Tally) -> Result<()> {
        self.reads.add(&other.reads).context("add up reads")?;
        self.writes.add(&other.writes).context("add up writes")?;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.not_started += other.not_started;
        self.took += other.took;
        Ok(())
    }

    fn rate(&self, histogram: &Histogram<u64>) -> f64 {
        histogram.len() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

async fn round(
    clients: &[Client],
    load: &Arc<Load>,
    options: &Bench,
    seed: u64,
    length: Duration,
    title: &str,
) -> Result<Tally> {
    let bar = progress(length.as_secs().max(1), "{msg} {wide_bar} {pos}/{len} s");
    bar.set_message(title.to_owned());
    let ticking = bar.clone();
    let ticker = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ticking.inc(1);
        }
    });
    let started = Instant::now();
    let result = match options.rate {
        None => closed_loop(clients, load, seed, started + length).await,
        Some(rate) => open_loop(clients, load, seed, rate, length).await,
    };
    ticker.abort();
    bar.finish_and_clear();
    let mut tally = result?;
    tally.took = started.elapsed();
    Ok(tally)
}

async fn closed_loop(
    clients: &[Client],
    load: &Arc<Load>,
    seed: u64,
    end: Instant,
) -> Result<Tally> {
    let mut workers = JoinSet::new();
    for (number, client) in (0..).zip(clients) {
        let (client, load) = (client.clone(), Arc::clone(load));
        workers.spawn(async move {
            let mut tally = Tally::new()?;
            let mut random = Random::new(seed + number);
            while Instant::now() < end {
                let step = load.mix.next(&mut random);
                let started = Instant::now();
                let (read, result) = load.perform(&client, step).await;
                tally.record(read, started.elapsed(), end_of(&result));
            }
            Ok(tally)
        });
    }
    add_up(workers).await
}

/// A thread of its own hands out the calls at their moments, because the timers of the runtime are
/// only good to a millisecond; whichever client is free takes the next.
async fn open_loop(
    clients: &[Client],
    load: &Arc<Load>,
    seed: u64,
    rate: u64,
    length: Duration,
) -> Result<Tally> {
    let (due, calls) = mpsc::channel::<(Instant, Step)>(BACKLOG_MAX);
    let calls = Arc::new(Mutex::new(calls));
    let mut workers = JoinSet::new();
    for client in clients {
        let (client, load, calls) = (client.clone(), Arc::clone(load), Arc::clone(&calls));
        workers.spawn(async move {
            let mut tally = Tally::new()?;
            loop {
                let call = calls.lock().await.recv().await;
                let Some((intended, step)) = call else {
                    return Ok(tally);
                };
                let (read, result) = load.perform(&client, step).await;
                tally.record(read, intended.elapsed(), end_of(&result));
            }
        });
    }
    let mix = load.mix.clone();
    let pacer = tokio::task::spawn_blocking(move || {
        let mut random = Random::new(seed);
        let begin = Instant::now();
        let mut not_started = 0;
        for number in 0.. {
            let intended = begin + Duration::from_secs_f64(number as f64 / rate as f64);
            if intended >= begin + length {
                break;
            }
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            if due.try_send((intended, mix.next(&mut random))).is_err() {
                not_started += 1;
            }
        }
        not_started
    });
    let not_started: u64 = pacer.await.context("pace the calls")?;
    let mut tally = add_up(workers).await?;
    tally.not_started = not_started;
    Ok(tally)
}

async fn add_up(mut workers: JoinSet<Result<Tally>>) -> Result<Tally> {
    let mut sum = Tally::new()?;
    while let Some(tally) = workers.join_next().await {
        sum.add(&tally.context("run a client")??)?;
    }
    if sum.reads.is_empty() && sum.writes.is_empty() {
        bail!("not one call succeeded: see `kvctl status`");
    }
    Ok(sum)
}

fn progress(length: u64, template: &str) -> ProgressBar {
    // indicatif hides a bar whose target is no terminal.
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn kinds(tally: &Tally) -> [(&'static str, &Histogram<u64>); 2] {
    [("read", &tally.reads), ("write", &tally.writes)]
}

fn as_table(options: &Bench, tallies: &[Tally]) -> String {
    let header =
        ["round", "kind", "ops/s", "p50", "p90", "p99", "p99.9", "max", "failed", "unknown"];
    let mut rows = Vec::new();
    for (number, tally) in (1..).zip(tallies) {
        for (kind, histogram) in kinds(tally) {
            if histogram.is_empty() {
                continue;
            }
            let mut row =
                vec![number.to_string(), kind.to_owned(), format!("{:.0}", tally.rate(histogram))];
            let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
            row.extend(QUANTILES.map(|(_, quantile)| duration(at(quantile))));
            row.push(duration(Duration::from_micros(histogram.max())));
            row.push(tally.failed.to_string());
            row.push(tally.unknown.to_string());
            rows.push(row);
        }
    }
    let how = match options.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop at {rate} calls/s"),
    };
    let behind: u64 = tallies.iter().map(|tally| tally.not_started).sum();
    let behind = match behind {
        0 => String::new(),
        calls => format!("\n{calls} calls could not be started: the cluster is too far behind"),
    };
    format!(
        "{how}, {} clients, {} keys, values of {} bytes\n{}{behind}",
        options.clients,
        options.keys,
        options.value_size,
        table(&header, &rows)
    )
}

fn as_json(options: &Bench, tallies: &[Tally]) -> serde_json::Value {
    let rounds: Vec<_> = tallies
        .iter()
        .map(|tally| {
            let mut round = json!({
                "seconds": tally.took.as_secs_f64(),
                "failed": tally.failed,
                "unknown": tally.unknown,
                "not_started": tally.not_started,
            });
            for (kind, histogram) in kinds(tally) {
                let mut figures = json!({
                    "operations": histogram.len(),
                    "per_second": tally.rate(histogram),
                    "max_ms": millis(Duration::from_micros(histogram.max())),
                });
                for (name, quantile) in QUANTILES {
                    let latency = Duration::from_micros(histogram.value_at_quantile(quantile));
                    figures[format!("{name}_ms")] = json!(millis(latency));
                }
                round[kind] = figures;
            }
            round
        })
        .collect();
    json!({
        "version": kvprocess::VERSION,
        "clients": options.clients,
        "keys": options.keys,
        "value_size": options.value_size,
        "read_ratio": options.read_ratio,
        "rate": options.rate,
        "seed": options.seed,
        "rounds": rounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_calls_are_counted_as_slow() {
        let mut tally = Tally::new().expect("a histogram");
        for millis in [1, 3, 50, 2_000, 10_000] {
            tally.record(false, Duration::from_millis(millis), End::Done);
        }
        let at = |quantile| tally.writes.value_at_quantile(quantile) / 1000;
        assert_eq!(tally.writes.min() / 1000, 1, "nothing is faster than it was");
        assert_eq!(at(0.5), 50);
        assert!((9_990..=10_010).contains(&at(1.0)), "{} ms", at(1.0));
        assert!(tally.reads.is_empty());
    }

    #[test]
    fn sums_of_clients_keep_the_slowest_call() {
        let mut sum = Tally::new().expect("a histogram");
        let mut slow = Tally::new().expect("a histogram");
        slow.record(true, Duration::from_secs(5), End::Done);
        slow.record(true, Duration::from_secs(9), End::Unknown);
        sum.add(&slow).expect("histograms of one kind");
        assert!(sum.reads.max() >= 5_000_000, "{} us", sum.reads.max());
        assert_eq!((sum.reads.len(), sum.unknown), (1, 1));
    }
}
