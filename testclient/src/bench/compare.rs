//! Measures clusters of different sizes next to a bare echo, in rounds that run every case once.
//!
//! Owns its clusters and its echo, which end with it. All of them run all the time; those that are
//! not being called only exchange heartbeats.

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde_json::json;

use super::cpu::Meter;
use super::door::Door;
use super::echo::EchoProcess;
use super::load::{Generator, Load, PATIENCE, Target, connections_for};
use super::machine;
use super::page;
use super::summary::{
    CASE_COLUMNS, COST_COLUMNS, Case, Comparison, Cpu, Detail, Sample, What, cases,
};
use super::svg::{Curves, Figure, Group, Series};
use crate::args::Compare;
use crate::cluster::{Cluster, Options};
use crate::report::{
    check_block, check_writable, counted, duration, progress, say, table, write_block, write_json,
};
use crate::workload::Keys;

/// The name of its block in a page.
const BLOCK: &str = "bench";

/// Runs the rounds and prints, draws and writes what they measured.
///
/// # Errors
/// When a cluster does not come up, or the result cannot be written.
pub async fn run(options: &Compare) -> Result<ExitCode> {
    check_writable(options.json.as_deref())?;
    check_writable(options.svg.as_deref())?;
    options.write.as_deref().map_or(Ok(()), |path| check_block(path, BLOCK))?;
    let comparison = measure(options).await?;
    let troubles = comparison.troubles();
    if let Some(path) = &options.json {
        write_json(path, &as_json(options, &comparison))?;
    }
    if options.json.as_deref() != Some(Path::new("-")) {
        say(as_text(options, &comparison))?;
    }
    if let Some(path) = &options.svg {
        let svg = figure(options, &comparison).as_svg();
        std::fs::write(path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    if !troubles.is_empty() {
        let wrong = troubles.join("\n");
        eprintln!("not every call ended well, so these figures are not to be trusted:\n{wrong}");
        return Ok(ExitCode::FAILURE);
    }
    if let Some(path) = &options.write {
        write_block(path, BLOCK, &as_markdown(options, &comparison))?;
    }
    let judged = comparison.too_small(options.length).is_none();
    let missed = judged && comparison.goals().iter().any(|goal| !goal.is_met());
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is measured: the echo and the clusters, connected and filled.
struct Stage {
    generator: Generator,
    echo: EchoProcess,
    clusters: Vec<Filled>,
    load: Load,
}

struct Filled {
    cluster: Cluster,
    primary: usize,
}

async fn measure(options: &Compare) -> Result<Comparison> {
    let cases = cases(&options.callers);
    let stage = Stage::set(options, &cases).await?;
    let steps = cases.len() as u64 * u64::from(options.rounds);
    let bar = progress(steps, "{msg} {wide_bar} {pos}/{len}, {eta} left");
    let mut comparison = Comparison::default();
    for round in 1..=options.rounds {
        for case in &cases {
            let Case { what, callers } = case;
            bar.set_message(format!("round {round}: {what}, {callers} at once"));
            comparison.add(*case, stage.sample(*case, round, options).await?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(comparison)
}

impl Stage {
    async fn set(options: &Compare, cases: &[Case]) -> Result<Stage> {
        let load = Load::new(Arc::new(Keys::new(options.keys)), options.value_size);
        let generator = Generator::start()?;
        let most = cases.iter().filter_map(|case| case.what.backups()).max().unwrap_or(0);
        let bar = progress(options.keys * (most as u64 + 1), "{msg} {wide_bar} {pos}/{len}");
        let mut clusters = Vec::new();
        for backups in 0..=most {
            bar.set_message(format!("starting and filling a cluster with {backups} backups"));
            clusters.push(Filled::start(backups, &generator, &load, &bar).await?);
        }
        bar.finish_and_clear();
        Ok(Stage { generator, echo: EchoProcess::start().await?, clusters, load })
    }

    async fn sample(&self, case: Case, round: u32, options: &Compare) -> Result<Sample> {
        let door = self.door(case.what);
        let target = self.generator.connect(&door, connections_for(case.callers)).await;
        let target = target.with_context(|| format!("connect for {}", case.what))?;
        let load = Load {
            read_ratio: if case.what == What::Get { 1.0 } else { 0.0 },
            callers: case.callers,
            seed: options.seed.wrapping_mul(u64::from(round)),
            ..self.load.clone()
        };
        if !options.warm_up.is_zero() {
            self.put(&target, Load { length: Some(options.warm_up), ..load.clone() }, case).await?;
        }
        let load = Load { length: Some(options.length), ..load };
        let sample = self.put(&target, load, case).await?;
        target.close().await;
        Ok(sample)
    }

    async fn put(&self, target: &Target, load: Load, case: Case) -> Result<Sample> {
        let meter = Meter::start(&self.processes(case.what)?)?;
        let tally = self.generator.begin(target, load).until_end().await?;
        if tally.done() == 0 {
            bail!("{}: not one call succeeded", case.what);
        }
        let mut cpu = Cpu::default();
        for (role, used) in meter.used()? {
            match role.as_str() {
                CLIENT => cpu.client += used,
                SERVER => cpu.server += used,
                _ => cpu.backups += used,
            }
        }
        Ok(Sample { tally, cpu })
    }

    fn door(&self, what: What) -> Door {
        let Some(backups) = what.backups() else {
            return Door::Echo { addr: self.echo.addr() };
        };
        let Filled { cluster, primary } = &self.clusters[backups];
        match what {
            What::LibraryPut => Door::Library {
                view_service: cluster.view_service_addr().to_owned(),
                patience: PATIENCE,
            },
            _ => Door::Grpc { primary: cluster.server_name(*primary).to_owned(), deadline: None },
        }
    }

    /// The processes that such a call goes through.
    fn processes(&self, what: What) -> Result<Vec<(String, u32)>> {
        let mut processes = vec![(CLIENT.to_owned(), std::process::id())];
        let Some(backups) = what.backups() else {
            processes.push((SERVER.to_owned(), self.echo.id()));
            return Ok(processes);
        };
        let Filled { cluster, primary } = &self.clusters[backups];
        for index in 0..cluster.servers() {
            let role = if index == *primary { SERVER } else { BACKUP };
            let id = cluster.server_id(index).context("a server of the cluster does not run")?;
            processes.push((role.to_owned(), id));
        }
        Ok(processes)
    }
}

const CLIENT: &str = "client";
const SERVER: &str = "server";
const BACKUP: &str = "backup";

impl Filled {
    async fn start(
        backups: usize,
        generator: &Generator,
        load: &Load,
        bar: &ProgressBar,
    ) -> Result<Filled> {
        let copies = u32::try_from(backups + 1).context("so many copies")?;
        let options = Options { servers: backups + 1, copies, ..Options::default() };
        let mut cluster = Cluster::start(&options).await?;
        let numbers = 0..load.keys.count();
        let (addr, value) = (cluster.view_service_addr(), &load.value);
        generator.fill(addr, &load.keys, numbers, value, bar).await?;
        let primary = cluster.wait_until_redundant().await?.primary;
        Ok(Filled { cluster, primary: primary.context("a redundant cluster has a primary")? })
    }
}

fn how(options: &Compare) -> String {
    format!(
        "{} of {} per case, {} of 16 bytes, values of {}",
        counted(options.rounds, "round"),
        duration(options.length),
        counted(options.keys, "key"),
        counted(options.value_size as u64, "byte")
    )
}

fn as_text(options: &Compare, comparison: &Comparison) -> String {
    let (header, rows) = comparison.table(Detail::Medians);
    let too_small = comparison.too_small(options.length);
    let (goals_header, goals) = comparison.goal_table(too_small.is_none());
    // A row does not fit a terminal: first what was reached, then what it cost.
    let columns = |of: Range<usize>| {
        let picked: Vec<usize> = (0..CASE_COLUMNS).chain(of).collect();
        let header: Vec<&str> = picked.iter().map(|&column| header[column]).collect();
        let pick = |row: &Vec<String>| picked.iter().map(|&column| row[column].clone()).collect();
        table(&header, &rows.iter().map(pick).collect::<Vec<_>>())
    };
    format!(
        "{}\n{};\nmedians (ranges: --write, --json)\n\n{}\n\nProcessor time per call; cpu/echo: of all \
         processes together\n\n{}\n\n{}{}",
        machine::where_and_when(),
        how(options),
        columns(CASE_COLUMNS..COST_COLUMNS),
        columns(COST_COLUMNS..header.len()),
        table(&goals_header, &goals),
        too_small.map(|why| format!("\nnot judged: {why}")).unwrap_or_default()
    )
}

fn as_markdown(options: &Compare, comparison: &Comparison) -> String {
    let (header, rows) = comparison.table(Detail::Ranges);
    let judged = comparison.too_small(options.length).is_none();
    let (goals_header, goals) = comparison.goal_table(judged);
    format!(
        "{}: {}; median (min-max) of the rounds.\n\n{}\n{}",
        machine::where_and_when(),
        how(options),
        page::table(&header, &rows),
        page::table(&goals_header, &goals)
    )
}

fn as_json(options: &Compare, comparison: &Comparison) -> serde_json::Value {
    let mut value = comparison.as_json();
    value["version"] = json!(kvprocess::VERSION);
    value["date"] = json!(machine::today());
    value["machine"] = json!(machine::describe());
    value["rounds"] = json!(options.rounds);
    value["seconds_per_case"] = json!(options.length.as_secs_f64());
    value["keys"] = json!(options.keys);
    value["value_size"] = json!(options.value_size);
    value["seed"] = json!(options.seed);
    value
}

fn figure(options: &Compare, comparison: &Comparison) -> Figure {
    let mut whats: Vec<What> = Vec::new();
    let mut callers: Vec<u32> = Vec::new();
    let latencies: Vec<_> = comparison.latencies().collect();
    for (case, _) in &latencies {
        if !whats.contains(&case.what) {
            whats.push(case.what);
        }
        if !callers.contains(&case.callers) {
            callers.push(case.callers);
        }
    }
    let number = |what: What| whats.iter().position(|&it| it == what).unwrap_or_default();
    let at = |callers: u32| latencies.iter().filter(move |(case, _)| case.callers == callers);
    let group = |&callers: &u32| {
        let others = at(callers).filter(|(case, _)| case.what != What::Echo);
        let bar = |(case, _): &(Case, _)| Some((number(case.what), comparison.of_echo(*case)?));
        Group { name: format!("{callers} at once"), bars: others.filter_map(bar).collect() }
    };
    let curves = |&callers: &u32| Curves {
        title: format!("Latency, {callers} at once"),
        curves: at(callers).map(|(case, it)| (number(case.what), it.clone())).collect(),
    };
    let series = |what: &What| Series { name: what.to_string(), is_yardstick: *what == What::Echo };
    Figure {
        title: "Calls next to a bare gRPC echo of the same bytes".to_owned(),
        notes: vec![machine::where_and_when(), how(options)],
        series: whats.iter().map(series).collect(),
        bars: Some((
            "Calls per second, as a share of the echo's (median, smallest to largest round)".into(),
            callers.iter().map(group).collect(),
        )),
        curves: callers.iter().map(curves).collect(),
    }
}
