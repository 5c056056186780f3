//! Clients that misbehave, beside one that behaves: what does it notice of them? Turns with and
//! without them alternate, so that a slow spell of the machine is not taken for their doing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::args::Neighbours;
use super::misbehaving::{Manner, Misbehaving};
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::load::{Generator, Load, Running, connections_for};
use crate::bench::tally::Tally;
use crate::calls;
use crate::cluster::Cluster;
use crate::report::{counted, duration, too_small};
use crate::workload::Keys;

const KEPT: f64 = 0.9;
const P99_GROWTH_MAX: f64 = 1.1;

/// What those that never read ask for: a value that fills the buffers of a connection soon.
const LARGE_KEY: &str = "large";
const LARGE_SIZE: usize = 1 << 20;

/// Time after each change that is not counted.
const SETTLE: Duration = Duration::from_millis(500);

/// How long the preparing calls may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one kind of neighbour did in one turn, against the mean of the turns around it.
struct Effect {
    /// Throughput, as a portion of that without them.
    kept: f64,
    /// p99, in the same way.
    p99: f64,
    rate: f64,
    p99_with: Duration,
    /// Memory of the primary at the end of the turn.
    memory: u64,
}

/// Plays the scene.
///
/// # Errors
/// When the cluster fails.
pub async fn play(options: &Neighbours) -> Result<Verdict> {
    let mut cluster = stage::primary_and_backup(Vec::new()).await?;
    let played = rounds(&cluster, options).await;
    let (effects, troubled) = stage::ended(&mut cluster, played)?;
    Ok(verdict(options, &effects, troubled))
}

type Effects = Vec<(Manner, usize, Vec<Effect>)>;

async fn rounds(cluster: &Cluster, options: &Neighbours) -> Result<(Effects, u64)> {
    let generator = Generator::start()?;
    let keys = Arc::new(Keys::new(options.keys));
    let value_size = options.common.value_size;
    stage::fill(&generator, cluster, &keys, 0..options.keys, value_size).await?;
    let client = calls::connect(cluster.view_service_addr(), PATIENCE).await?;
    client.put(LARGE_KEY, stage::value(LARGE_SIZE)).await?;
    calls::end(&client).await;
    let connections = connections_for(options.callers);
    let target = stage::connect(&generator, cluster, connections, None).await?;
    let load = stage::closed_loop(&keys, value_size, options.callers, options.common.seed);
    let mut running = generator.begin(&target, Load { read_ratio: 0.5, ..load });

    let primary = cluster.layout().await?.primary.unwrap_or_default();
    let mut effects: Effects = vec![
        (Manner::Idle, options.idle, Vec::new()),
        (Manner::NeverReads, options.never_reading, Vec::new()),
        (Manner::Trickles, options.trickling, Vec::new()),
    ];
    let mut troubled = 0;
    let mut turn = async |running: &mut Running| {
        tokio::time::sleep(SETTLE).await;
        let _settling = running.lap();
        tokio::time::sleep(options.turn).await;
        let tally = running.lap();
        troubled += tally.failed + tally.unknown;
        tally
    };
    for round in 1..=options.rounds {
        let mut alone_before = turn(&mut running).await;
        for (manner, count, effects) in &mut effects {
            let server = cluster.server_name(primary);
            let misbehaving =
                Misbehaving::start(*manner, *count, server, LARGE_KEY.as_bytes()).await?;
            let with = turn(&mut running).await;
            let memory = stage::memory_of(cluster, primary)?;
            drop(misbehaving);
            let alone_after = turn(&mut running).await;
            effects.push(effect(&alone_before, &with, &alone_after, memory));
            alone_before = alone_after;
        }
        stage::tell(&format!("round {round} of {}", options.rounds));
    }
    running.stop().await?;
    Ok((effects, troubled))
}

fn effect(before: &Tally, with: &Tally, after: &Tally, memory: u64) -> Effect {
    let rate = |tally: &Tally| tally.per_second(tally.done());
    let p99 = |tally: &Tally| tally.both().at(0.99);
    let mean = |of: &dyn Fn(&Tally) -> f64| f64::midpoint(of(before), of(after));
    Effect {
        kept: rate(with) / mean(&rate),
        p99: p99(with).as_secs_f64() / mean(&|tally| p99(tally).as_secs_f64()),
        rate: rate(with),
        p99_with: p99(with),
        memory,
    }
}

fn verdict(options: &Neighbours, effects: &Effects, troubled: u64) -> Verdict {
    let header = vec![
        "neighbours",
        "manner",
        "calls/s",
        "rate/alone",
        "p99",
        "p99/alone",
        "memory of primary",
    ];
    let mut rows = Vec::new();
    let mut requirements = Vec::new();
    let mut figures = Vec::new();
    let turn = u64::try_from(options.turn.as_millis()).unwrap_or(u64::MAX);
    let too_small =
        too_small(&[(options.rounds.into(), 4, "rounds"), (turn, 2000, "ms of each turn")]);
    for (manner, count, effects) in effects {
        let all = |of: fn(&Effect) -> f64| effects.iter().map(of).collect::<Vec<_>>();
        let (kept, p99) = (all(|effect| effect.kept), all(|effect| effect.p99));
        let p99_with = median(&all(|effect| effect.p99_with.as_secs_f64()));
        let memory = effects.iter().map(|effect| effect.memory).max().unwrap_or_default();
        rows.push(vec![
            count.to_string(),
            manner.as_str().to_owned(),
            format!("{:.0}", median(&all(|effect| effect.rate))),
            figure(median(&kept), ""),
            duration(Duration::try_from_secs_f64(p99_with).unwrap_or_default()),
            figure(median(&p99), ""),
            figure(mib(memory), "MiB"),
        ]);
        let what = format!("throughput beside {count} ({})", manner.as_str());
        let throughput = Requirement::at_least(&what, median(&kept), KEPT, "of alone");
        let what = format!("p99 beside {count} ({})", manner.as_str());
        let latency = Requirement::at_most(&what, median(&p99), P99_GROWTH_MAX, "of alone");
        requirements.extend([throughput, latency].map(|one| one.unless(too_small.as_ref())));
        figures.push(json!({
            "neighbours": count,
            "manner": manner.as_str(),
            "calls_per_second": all(|effect| effect.rate),
            "throughput_kept": kept,
            "p99_ms": all(|effect| effect.p99_with.as_secs_f64() * 1e3),
            "p99_grown": p99,
            "primary_bytes": memory,
        }));
    }
    requirements.push(Requirement::at_most("calls not done", troubled as f64, 0.0, ""));
    Verdict {
        title: format!(
            "A client with {} calls open, half puts and half gets, beside clients that misbehave: \
             median of {}",
            options.callers,
            counted(options.rounds, "round")
        ),
        header,
        rows,
        remarks: Vec::new(),
        requirements,
        figures: json!({ "callers": options.callers, "neighbours": figures }),
    }
}
