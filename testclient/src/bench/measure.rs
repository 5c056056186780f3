//! Measures a running cluster with one load, in rounds, each reported on its own.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::door::Door;
use super::echo::EchoProcess;
use super::load::{Generator, Load, PATIENCE, Target, connections_for};
use super::machine;
use super::svg::{Curves, Figure, Series};
use super::tally::{Latencies, QUANTILES, Tally};
use crate::args::{Bench, Entrance};
use crate::calls::connect;
use crate::report::{check_writable, counted, duration, millis, progress, say, table, write_json};
use crate::workload::Keys;

/// Runs the rounds and prints what they measured.
///
/// # Errors
/// When the cluster cannot be reached or the result cannot be written.
pub async fn run(vs: &str, options: &Bench) -> Result<ExitCode> {
    check_writable(options.json.as_deref())?;
    check_writable(options.svg.as_deref())?;
    let echo = match options.door {
        Entrance::Echo => Some(EchoProcess::start().await?),
        Entrance::Library | Entrance::Grpc => None,
    };
    let door = match (&echo, options.door) {
        (Some(echo), _) => Door::Echo { addr: echo.addr() },
        (None, Entrance::Grpc) => Door::Grpc { primary: primary(vs).await?, deadline: None },
        (None, _) => Door::Library { view_service: vs.to_owned(), patience: PATIENCE },
    };
    let generator = Generator::start()?;
    let target = generator.connect(&door, connections(options)).await?;
    let load = Load {
        // An echo is a write in its form, whatever was asked for.
        read_ratio: if echo.is_some() { 0.0 } else { options.read_ratio },
        callers: options.clients,
        rate: options.rate,
        seed: options.seed,
        ..Load::new(Arc::new(Keys::new(options.keys)), options.value_size)
    };
    if echo.is_none() {
        let bar = progress(options.keys, "filling {wide_bar} {pos}/{len}");
        generator.fill(vs, &load.keys, 0..load.keys.count(), &load.value, &bar).await?;
        bar.finish_and_clear();
    }
    if !options.warm_up.is_zero() {
        round(&generator, &target, &load, options.warm_up, "warm-up").await?;
    }
    let mut tallies = Vec::new();
    for number in 1..=options.rounds {
        let seed = options.seed + u64::from(number) * u64::from(options.clients);
        let load = Load { seed, ..load.clone() };
        let title = format!("round {number} of {}", options.rounds);
        let length = Duration::from_secs(options.seconds);
        tallies.push(round(&generator, &target, &load, length, &title).await?);
    }
    target.close().await;
    if let Some(path) = &options.json {
        write_json(path, &as_json(options, &tallies))?;
    }
    if options.json.as_deref() != Some(Path::new("-")) {
        say(as_table(options, &tallies))?;
    }
    if let Some(path) = &options.svg {
        let svg = figure(options, &tallies).as_svg();
        std::fs::write(path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    let troubled = tallies.iter().any(Tally::is_troubled);
    Ok(if troubled { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Address of the primary.
async fn primary(vs: &str) -> Result<String> {
    let client = connect(vs, PATIENCE).await.with_context(|| format!("--vs {vs}"))?;
    let view = client.view().await?;
    let primary = view.primary.context("the cluster has no primary; see `kvctl status`")?;
    Ok(primary.name.as_str().to_owned())
}

fn connections(options: &Bench) -> u32 {
    options.connections.unwrap_or_else(|| connections_for(options.clients))
}

async fn round(
    generator: &Generator,
    target: &Target,
    load: &Load,
    length: Duration,
    title: &str,
) -> Result<Tally> {
    let bar = progress(length.as_secs().max(1), "{msg} {wide_bar} {pos}/{len} s");
    bar.set_message(title.to_owned());
    let load = Load { length: Some(length), ..load.clone() };
    let mut running = std::pin::pin!(generator.begin(target, load).until_end());
    let tally = loop {
        tokio::select! {
            ended = &mut running => break ended?,
            () = tokio::time::sleep(Duration::from_secs(1)) => bar.inc(1),
        }
    };
    bar.finish_and_clear();
    if tally.done() == 0 {
        bail!("not one call succeeded: see `kvctl status`");
    }
    Ok(tally)
}

fn kinds<'a>(options: &Bench, tally: &'a Tally) -> Vec<(&'static str, &'a Latencies)> {
    let write = if options.door == Entrance::Echo { "echo" } else { "write" };
    [("read", &tally.reads), (write, &tally.writes)]
        .into_iter()
        .filter(|(_, latencies)| latencies.count() > 0)
        .collect()
}

fn as_table(options: &Bench, tallies: &[Tally]) -> String {
    let header =
        ["round", "kind", "ops/s", "p50", "p90", "p99", "p99.9", "max", "failed", "unknown"];
    let mut rows = Vec::new();
    for (number, tally) in (1..).zip(tallies) {
        for (kind, latencies) in kinds(options, tally) {
            let rate = format!("{:.0}", tally.per_second(latencies.count()));
            let mut row = vec![number.to_string(), kind.to_owned(), rate];
            row.extend(QUANTILES.map(|(_, quantile)| duration(latencies.at(quantile))));
            row.push(duration(latencies.max()));
            row.push(tally.failed.to_string());
            row.push(tally.unknown.to_string());
            rows.push(row);
        }
    }
    let behind: u64 = tallies.iter().map(|tally| tally.not_started).sum();
    let done: u64 = tallies.iter().map(Tally::done).sum();
    // A few are always due in the very last moment.
    let behind = if behind * 1000 > done {
        format!("\n{behind} calls could not be started: what is measured is too far behind")
    } else {
        String::new()
    };
    format!("{}\n{}{behind}", how(options), table(&header, &rows))
}

fn how(options: &Bench) -> String {
    let pace = match options.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop at {rate} calls/s"),
    };
    format!(
        "{}: {pace}, {}, {}, {}, values of {}",
        options.door.in_words(),
        counted(options.clients, "client"),
        counted(connections(options), "connection"),
        counted(options.keys, "key"),
        counted(options.value_size as u64, "byte"),
    )
}

fn figure(options: &Bench, tallies: &[Tally]) -> Figure {
    let mut sum = Tally::default();
    for tally in tallies {
        sum.add(tally);
    }
    let kinds = kinds(options, &sum);
    let series = |(kind, _): &(&str, _)| Series { name: (*kind).into(), is_yardstick: false };
    let curve =
        |(number, (_, latencies)): (usize, &(_, &Latencies))| (number, (*latencies).clone());
    Figure {
        title: "Latency".to_owned(),
        notes: vec![machine::where_and_when(), how(options)],
        series: kinds.iter().map(series).collect(),
        bars: None,
        curves: vec![Curves {
            title: format!("{} of {} s", counted(options.rounds, "round"), options.seconds),
            curves: kinds.iter().enumerate().map(curve).collect(),
        }],
    }
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
            for (kind, latencies) in kinds(options, tally) {
                let mut figures = json!({
                    "operations": latencies.count(),
                    "per_second": tally.per_second(latencies.count()),
                    "max_ms": millis(latencies.max()),
                });
                for (name, quantile) in QUANTILES {
                    figures[format!("{name}_ms")] = json!(millis(latencies.at(quantile)));
                }
                round[kind] = figures;
            }
            round
        })
        .collect();
    json!({
        "version": kvprocess::VERSION,
        "door": options.door.in_words(),
        "clients": options.clients,
        "connections": connections(options),
        "keys": options.keys,
        "value_size": options.value_size,
        "read_ratio": options.read_ratio,
        "rate": options.rate,
        "seed": options.seed,
        "rounds": rounds,
    })
}
