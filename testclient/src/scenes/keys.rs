//! Does it get slower when there are more keys? Clusters with few and with many stand side by side
//! and take turns, so that a slow spell of the machine hits them all.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use super::args;
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::load::{Generator, Target, connections_for};
use crate::cluster::Cluster;
use crate::workload::{KEY_SIZE, Keys};

const THROUGHPUT_KEPT: f64 = 0.8;

/// Load at the beginning of each turn that is not counted: caches belonged to another cluster.
const WARM_UP_PART: u32 = 10;

/// A cluster with its keys.
struct Place {
    cluster: Cluster,
    keys: Arc<Keys>,
    target: Target,
    /// Memory of the primary when it was filled.
    memory: u64,
    puts: Vec<f64>,
    gets: Vec<f64>,
    troubled: u64,
}

/// Plays the scene.
///
/// # Errors
/// When a cluster fails.
pub async fn play(options: &args::Keys) -> Result<Verdict> {
    ensure!(options.keys.iter().all(|&count| count > 0), "--keys must be 1 at least");
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
    let (puts, gets) = (Vec::new(), Vec::new());
    Ok(Place { cluster, keys, target, memory, puts, gets, troubled: 0 })
}

/// Puts, then gets.
async fn turn(
    generator: &Generator,
    place: &mut Place,
    options: &args::Keys,
    round: u32,
) -> Result<()> {
    for read_ratio in [0.0, 1.0] {
        let seed = options.common.seed + u64::from(round * options.callers);
        let load =
            stage::closed_loop(&place.keys, options.common.value_size, options.callers, seed);
        let load = crate::bench::load::Load { read_ratio, ..load };
        let mut running = generator.begin(&place.target, load);
        tokio::time::sleep(options.turn / WARM_UP_PART).await;
        let _warm_up = running.lap();
        tokio::time::sleep(options.turn).await;
        let tally = running.lap();
        place.troubled += tally.failed + tally.unknown;
        let rates = if read_ratio > 0.0 { &mut place.gets } else { &mut place.puts };
        rates.push(tally.per_second(tally.done()));
        running.stop().await?;
    }
    Ok(())
}

fn verdict(options: &args::Keys, places: &[Place]) -> Verdict {
    let ratios = |of: fn(&Place) -> &Vec<f64>, place: &Place| -> f64 {
        let first = places.first().map(of).into_iter().flatten();
        let ratios: Vec<f64> = of(place).iter().zip(first).map(|(rate, few)| rate / few).collect();
        median(&ratios)
    };
    let puts: fn(&Place) -> &Vec<f64> = |place| &place.puts;
    let gets: fn(&Place) -> &Vec<f64> = |place| &place.gets;
    let spread = |rates: &[f64]| {
        let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rates.iter().copied().fold(0.0, f64::max);
        format!("{:.0} ({low:.0}-{high:.0})", median(rates))
    };
    let header = vec!["keys", "puts/s", "of first", "gets/s", "of first", "memory"];
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for place in places {
        let (put_ratio, get_ratio) = (ratios(puts, place), ratios(gets, place));
        rows.push(vec![
            place.keys.count().to_string(),
            spread(&place.puts),
            figure(put_ratio, ""),
            spread(&place.gets),
            figure(get_ratio, ""),
            figure(mib(place.memory), "MiB"),
        ]);
        figures.push(json!({
            "keys": place.keys.count(),
            "puts_per_second": place.puts,
            "gets_per_second": place.gets,
            "puts_kept": put_ratio,
            "gets_kept": get_ratio,
            "bytes": place.memory,
        }));
    }
    let mut requirements = Vec::new();
    for (what, of) in [("puts", puts), ("gets", gets)] {
        let kept = places.last().map_or(f64::NAN, |place| ratios(of, place));
        let what = format!("throughput of {what} with the most keys");
        requirements.push(Requirement::at_least(&what, kept, THROUGHPUT_KEPT, "of the fewest"));
    }
    let troubled: u64 = places.iter().map(|place| place.troubled).sum();
    requirements.push(Requirement::at_most("calls not done", troubled as f64, 0.0, ""));
    Verdict {
        title: format!(
            "Clusters with few and many keys of {KEY_SIZE} + {} bytes, one backup, {} callers: \
             median of {} rounds (lowest-highest)",
            options.common.value_size, options.callers, options.rounds
        ),
        header,
        rows,
        remarks: Vec::new(),
        requirements,
        figures: json!({ "callers": options.callers, "clusters": figures }),
    }
}
