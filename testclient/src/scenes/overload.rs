//! Far more load than the cluster can take, for a minute: does it stay within its memory, keep its
//! primary, and serve as before once the load is gone?

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::args::Overload;
use super::stage::{self, mib};
use super::verdict::{Requirement, Verdict, figure, median};
use crate::bench::door::Door;
use crate::bench::load::{Generator, Load, Running, Target, connections_for};
use crate::bench::tally::Tally;
use crate::cluster::Cluster;
use crate::report::{duration, too_small};
use crate::workload::Keys;

const BACK_WITHIN_SECONDS: f64 = 10.0;
const GOODPUT_BACK: f64 = 0.9;

/// How long a call of the overload waits before its caller gives up.
const DEADLINE: Duration = Duration::from_secs(2);
/// The same for the large values, which the library tries again and again meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// Large values go round over so many keys, so that the data does not grow.
const LARGE_KEYS: u64 = 64;
/// Large values over one connection.
const LARGE_PER_CONNECTION: u32 = 8;
/// Goodput is looked at this often.
const LAP: Duration = Duration::from_secs(1);

const SERVERS: [(usize, &str); 2] = [(0, "primary"), (1, "backup")];

/// What was seen.
struct Seen {
    before: Vec<Tally>,
    overload: Tally,
    large: Option<Tally>,
    after: Vec<Tally>,
    /// Memory of each server before, and the most that it ever took.
    memory: Vec<(u64, u64)>,
    view_changes: u64,
}

/// Plays the scene.
///
/// # Errors
/// When the cluster fails.
pub async fn play(options: &Overload) -> Result<Verdict> {
    let flags = vec!["--max-memory".to_owned(), options.max_memory.to_string()];
    let mut cluster = stage::primary_and_backup(flags).await?;
    let played = overload(&cluster, options).await;
    let seen = stage::ended(&mut cluster, played)?;
    Ok(verdict(options, &seen))
}

async fn overload(cluster: &Cluster, options: &Overload) -> Result<Seen> {
    let value_size = options.common.value_size;
    let generator = Generator::start()?;
    let keys = Arc::new(Keys::new(options.keys));
    stage::fill(&generator, cluster, &keys, 0..options.keys, value_size).await?;
    let connections = connections_for(options.callers);
    let good = stage::connect(&generator, cluster, connections, None).await?;
    let good_load = || stage::closed_loop(&keys, value_size, options.callers, options.common.seed);

    stage::tell("capacity before");
    let view = cluster.layout().await?.number;
    let before = goodput(&generator, &good, good_load(), options.calm).await?;
    let capacity = capacity(&before);
    let memory_of = |of: fn(&Cluster, usize) -> Result<u64>| {
        SERVERS.iter().map(|(server, _)| of(cluster, *server)).collect::<Result<Vec<_>>>()
    };
    let memory_before = memory_of(stage::memory_of)?;

    stage::tell(&format!("overload for {}", duration(options.lasts)));
    let callers = options.callers.saturating_mul(options.times);
    let door_connections = connections_for(callers);
    let crowd = stage::connect(&generator, cluster, door_connections, Some(DEADLINE)).await?;
    let rate = (capacity * f64::from(options.times)).max(1.0) as u64;
    let load = Load {
        rate: Some(rate),
        ..stage::closed_loop(&keys, value_size, callers, options.common.seed + 1)
    };
    let crowding = generator.begin(&crowd, load);
    let large = begin_large(&generator, cluster, options).await?;
    tokio::time::sleep(options.lasts).await;

    stage::tell("capacity after");
    let end_large = async {
        match large {
            Some((_target, running)) => running.stop().await.map(Some),
            None => Ok(None),
        }
    };
    let after = goodput(&generator, &good, good_load(), options.calm);
    let (overload, large, after) = tokio::join!(crowding.stop(), end_large, after);
    let memory = memory_before.into_iter().zip(memory_of(stage::peak_memory_of)?).collect();
    let view_changes = cluster.layout().await?.number - view;
    Ok(Seen { before, overload: overload?, large: large?, after: after?, memory, view_changes })
}

async fn begin_large(
    generator: &Generator,
    cluster: &Cluster,
    options: &Overload,
) -> Result<Option<(Target, Running)>> {
    if options.large == 0 {
        return Ok(None);
    }
    let view_service = cluster.view_service_addr().to_owned();
    let door = Door::Library { view_service, patience: PATIENCE };
    let target = generator.connect(&door, options.large.div_ceil(LARGE_PER_CONNECTION)).await?;
    let keys = Arc::new(Keys::new(LARGE_KEYS));
    let load =
        stage::closed_loop(&keys, options.large_size, options.large, options.common.seed + 2);
    let running = generator.begin(&target, load);
    Ok(Some((target, running)))
}

/// What a load that the cluster can take is answered, second by second.
async fn goodput(
    generator: &Generator,
    target: &Target,
    load: Load,
    length: Duration,
) -> Result<Vec<Tally>> {
    let mut running = generator.begin(target, load);
    let mut laps = Vec::new();
    let mut ticks = tokio::time::interval(LAP);
    ticks.tick().await;
    while LAP * u32::try_from(laps.len()).unwrap_or(u32::MAX) < length {
        ticks.tick().await;
        laps.push(running.lap());
    }
    running.stop().await?;
    Ok(laps)
}

fn rates(laps: &[Tally]) -> Vec<f64> {
    laps.iter().map(|lap| lap.per_second(lap.done())).collect()
}

fn capacity(laps: &[Tally]) -> f64 {
    median(&rates(laps))
}

/// Seconds until a whole second went as well as before; infinite when none did.
fn back_after(before: f64, after: &[f64]) -> f64 {
    let back = after.iter().position(|rate| *rate >= GOODPUT_BACK * before);
    back.map_or(f64::INFINITY, |lap| (lap + 1) as f64 * LAP.as_secs_f64())
}

fn verdict(options: &Overload, seen: &Seen) -> Verdict {
    let before = capacity(&seen.before);
    let after = rates(&seen.after);
    let sum = |laps: &[Tally]| {
        let mut sum = Tally::default();
        laps.iter().for_each(|lap| sum.add(lap));
        sum
    };
    let phases = [
        ("before", Some(&sum(&seen.before))),
        ("overload", Some(&seen.overload)),
        ("large values meanwhile", seen.large.as_ref()),
        ("after", Some(&sum(&seen.after))),
    ]
    .map(|(phase, tally)| tally.map(|tally| (phase, tally.clone())));
    let header =
        vec!["phase", "done/s", "p50", "p99", "longest", "refused", "unknown", "not started"];
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for (phase, tally) in phases.iter().flatten() {
        rows.push(vec![
            (*phase).to_owned(),
            format!("{:.0}", tally.per_second(tally.done())),
            duration(tally.writes.at(0.5)),
            duration(tally.writes.at(0.99)),
            duration(tally.writes.max()),
            tally.failed.to_string(),
            tally.unknown.to_string(),
            tally.not_started.to_string(),
        ]);
        figures.push(json!({
            "phase": phase,
            "done_per_second": tally.per_second(tally.done()),
            "refused": tally.failed,
            "unknown": tally.unknown,
            "not_started": tally.not_started,
        }));
    }
    let mut remarks = Vec::new();
    let mut requirements = Vec::new();
    for ((_, server), (memory, peak)) in SERVERS.iter().zip(&seen.memory) {
        remarks.push(format!(
            "The {server} took {} before, {} at most.",
            figure(mib(*memory), "MiB"),
            figure(mib(*peak), "MiB")
        ));
        let what = format!("memory of the {server}");
        let limit = mib(options.max_memory);
        requirements.push(Requirement::at_most(&what, mib(*peak), limit, "MiB"));
    }
    let back = back_after(before, &after);
    let changes = seen.view_changes as f64;
    requirements.push(Requirement::at_most("changes of view", changes, 0.0, ""));
    let what = "goodput back to 0.9 of before after";
    let goodput = Requirement::at_most(what, back, BACK_WITHIN_SECONDS, "s");
    let too_small = too_small(&[
        (options.lasts.as_secs(), 60, "s of overload"),
        (options.calm.as_secs(), 15, "s before and after"),
    ]);
    requirements.push(goodput.unless(too_small.as_ref()));
    Verdict {
        title: format!(
            "Overload: {} times {} callers and {} times the rate they reach, for {}; {} callers \
             put values of {} bytes meanwhile",
            options.times,
            options.callers,
            options.times,
            duration(options.lasts),
            options.large,
            options.large_size
        ),
        header,
        rows,
        remarks,
        requirements,
        figures: json!({
            "phases": figures,
            "capacity_before": before,
            "per_second_after": after,
            "memory_bytes_before_and_peak": seen.memory,
            "view_changes": seen.view_changes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_back_with_the_first_second_that_is_as_good_as_before() {
        assert_eq!(back_after(100.0, &[10.0, 89.0, 91.0, 50.0]), 3.0);
        assert_eq!(back_after(100.0, &[100.0]), 1.0);
        assert_eq!(back_after(100.0, &[10.0, 20.0]), f64::INFINITY);
    }
}
