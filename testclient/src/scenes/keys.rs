//! Does it get slower when there are more keys? Clusters with few and with many stand side by side
//! and take turns, so that a slow spell of the machine hits them all.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::args;
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::cpu::used_by;
use crate::bench::load::{Generator, Load, Target, connections_for};
use crate::bench::spread::Spread;
use crate::cluster::Cluster;
use crate::report::{counted, too_small};
use crate::workload::{KEY_SIZE, Keys};

const THROUGHPUT_KEPT: f64 = 0.8;

/// Fewer fit into caches.
const KEYS_JUDGED: u64 = 10_000_000;

/// Load at the beginning of each turn that is not counted: caches belonged to another cluster.
const WARM_UP_PART: u32 = 10;

/// A cluster with its keys.
struct Place {
    cluster: Cluster,
    keys: Arc<Keys>,
    target: Target,
    /// Memory of the primary when it was filled.
    memory: u64,
    puts: Measured,
    gets: Measured,
    troubled: u64,
}

/// One kind of call, turn by turn.
#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    /// Processor time of the primary for each call, in microseconds: a busy machine blurs it less.
    cost: Vec<f64>,
}

/// Picks one kind of call.
type Of = fn(&Place) -> &Measured;

/// Plays the scene.
///
/// # Errors
/// When a cluster fails.
pub async fn play(options: &args::Keys) -> Result<Verdict> {
    stage::check_rising(&options.keys, 2)?;
    let generator = Generator::start()?;
    let mut places = Vec::new();
    for &count in &options.keys {
        places.push(prepare(&generator, options, count).await?);
    }
    for round in 1..=options.rounds {
        for place in &mut places {
            let played = turn(&generator, place, options, round).await;
            stage::ended(&mut place.cluster, played)?;
        }
        stage::tell(&format!("round {round} of {}", options.rounds));
    }
    Ok(verdict(options, &places))
}

async fn prepare(generator: &Generator, options: &args::Keys, count: u64) -> Result<Place> {
    stage::tell(&format!("a cluster with {count} keys"));
    let mut cluster = stage::primary_and_backup(Vec::new()).await?;
    let keys = Arc::new(Keys::new(count));
    let value_size = options.common.value_size;
    let filled = stage::fill(generator, &cluster, &keys, 0..count, value_size).await;
    stage::ended(&mut cluster, filled)?;
    let connections = connections_for(options.callers);
    let target = stage::connect(generator, &cluster, connections, None).await?;
    let memory = stage::settled_memory_of(&cluster, 0).await?;
    let (puts, gets) = (Measured::default(), Measured::default());
    Ok(Place { cluster, keys, target, memory, puts, gets, troubled: 0 })
}

/// Puts, then gets.
async fn turn(
    generator: &Generator,
    place: &mut Place,
    options: &args::Keys,
    round: u32,
) -> Result<()> {
    let primary = place.cluster.server_id(0).context("the first server was started")?;
    for read_ratio in [0.0, 1.0] {
        let seed = options.common.seed + u64::from(round * options.callers);
        let load =
            stage::closed_loop(&place.keys, options.common.value_size, options.callers, seed);
        let load = Load { read_ratio, ..load };
        let mut running = generator.begin(&place.target, load);
        tokio::time::sleep(options.turn / WARM_UP_PART).await;
        let _warm_up = running.lap();
        let used_before = used_by(primary)?;
        tokio::time::sleep(options.turn).await;
        let tally = running.lap();
        let used = used_by(primary)?.saturating_sub(used_before);
        place.troubled += tally.failed + tally.unknown;
        let measured = if read_ratio > 0.0 { &mut place.gets } else { &mut place.puts };
        measured.per_second.push(tally.per_second(tally.done()));
        measured.cost.push(used.as_secs_f64() * 1e6 / tally.done().max(1) as f64);
        running.stop().await?;
    }
    Ok(())
}

fn verdict(options: &args::Keys, places: &[Place]) -> Verdict {
    let kinds: [(&str, Of); 2] = [("puts", |place| &place.puts), ("gets", |place| &place.gets)];
    // Ratios are made within a round.
    let kept = |of: Of, place: &Place| {
        let first = places.first().into_iter().flat_map(|place| &of(place).per_second);
        median(
            &of(place)
                .per_second
                .iter()
                .zip(first)
                .map(|(rate, few)| rate / few)
                .collect::<Vec<_>>(),
        )
    };
    let header = vec![
        "keys",
        "puts/s",
        "puts/first",
        "us a put",
        "gets/s",
        "gets/first",
        "us a get",
        "memory",
    ];
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for place in places {
        let mut row = vec![place.keys.count().to_string()];
        let mut all = json!({ "keys": place.keys.count(), "bytes": place.memory });
        for (kind, of) in kinds {
            let Measured { per_second, cost } = of(place);
            let spread = Spread::of(per_second.iter().copied());
            row.push(
                spread.map_or_else(String::new, |rate| rate.worded(|rate| format!("{rate:.0}"))),
            );
            row.push(figure(kept(of, place), ""));
            row.push(figure(median(cost), ""));
            all[kind] = json!({
                "per_second": per_second,
                "kept": kept(of, place),
                "primary_cpu_us": cost,
            });
        }
        row.push(figure(mib(place.memory), "MiB"));
        rows.push(row);
        figures.push(all);
    }
    let most = options.keys.last().copied().unwrap_or_default();
    let turn = u64::try_from(options.turn.as_millis()).unwrap_or(u64::MAX);
    let too_small = too_small(&[
        (most, KEYS_JUDGED, "keys"),
        (options.rounds.into(), 5, "rounds"),
        (turn, 1000, "ms of each turn"),
    ]);
    let mut requirements = Vec::new();
    for (kind, of) in kinds {
        let kept = places.last().map_or(f64::NAN, |place| kept(of, place));
        let what = format!("throughput of {kind} with the most keys");
        let requirement = Requirement::at_least(&what, kept, THROUGHPUT_KEPT, "of the fewest");
        requirements.push(requirement.unless(too_small.as_ref()));
    }
    let troubled: u64 = places.iter().map(|place| place.troubled).sum();
    requirements.push(Requirement::at_most("calls not done", troubled as f64, 0.0, ""));
    Verdict {
        title: format!(
            "Clusters with few and many keys of {KEY_SIZE} + {} bytes, one backup, {} callers: \
             median of {} (lowest-highest)",
            options.common.value_size,
            options.callers,
            counted(options.rounds, "round")
        ),
        header,
        rows,
        remarks: vec![
            "*us* is processor time of the primary, which a busy machine blurs least.".into(),
        ],
        requirements,
        figures: json!({ "callers": options.callers, "clusters": figures }),
    }
}
