//! `testclient explore`: explores the named models, or all, and reports each. Shell.

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::goals::Goals;
use super::models;
use super::search::{Ending, Limits, Outcome, explore, walk};
use crate::args::Explore;
use crate::report::say;

/// Explores until every model was visited, a property broke, or Ctrl-C.
///
/// # Errors
/// When a model is unknown, or stdout is closed.
pub async fn run(options: &Explore, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let options = options.clone();
    let work = tokio::task::spawn_blocking(move || explore_all(&options));
    tokio::select! {
        done = work => done?,
        // The threads end with the process.
        () = stop.cancelled() => std::process::exit(130),
    }
}

fn explore_all(options: &Explore) -> anyhow::Result<ExitCode> {
    let all = models::all();
    let unknown = options.models.iter().find(|name| all.iter().all(|model| model.name != **name));
    if let Some(name) = unknown {
        let names: Vec<_> = all.iter().map(|model| model.name).collect();
        anyhow::bail!("there is no model {name}; there are {}", names.join(", "));
    }
    let chosen = |name: &str| options.models.is_empty() || options.models.iter().any(|it| it == name);
    let mut failed = false;
    for model in all.iter().filter(|model| chosen(model.name)) {
        if options.walks > 0 {
            let mut goals = Goals::default();
            let last = options.seed.saturating_add(options.walks);
            let found = (options.seed..last).find_map(|seed| {
                walk(model, seed, options.depth, &mut goals).map(|violation| (seed, violation))
            });
            let reached = goals.reached();
            say(format!("{}: {} walks, reached {reached:?}", model.name, options.walks))?;
            if let Some((seed, violation)) = found {
                failed = true;
                say(format!("seed {seed}\n{violation}"))?;
            }
            continue;
        }
        let limits = Limits {
            states: options.states,
            time: options.seconds.map(Duration::from_secs),
            threads: usize::from(options.threads),
        };
        let outcome = explore(model, limits);
        failed |= outcome.violation.is_some();
        say(line(&outcome))?;
        if let Some(violation) = &outcome.violation {
            say(violation)?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One line about an outcome.
#[must_use]
pub fn line(outcome: &Outcome) -> String {
    let Outcome { model, states, transitions, depth, took, wedge_checks, goals, missing, .. } =
        outcome;
    let ending = match outcome.ending {
        Ending::Complete => "complete",
        Ending::Bounded => "bounded",
        Ending::Violated => "VIOLATED",
    };
    let per_second = *states as f64 / took.as_secs_f64().max(0.001);
    let missing =
        if missing.is_empty() { String::new() } else { format!(", NOT reached {missing:?}") };
    format!(
        "{model}: {states} states, {transitions} transitions, depth {depth}, {ending}, {:.1} s \
         ({per_second:.0}/s), {wedge_checks} wedge checks, reached {:?}{missing}",
        took.as_secs_f64(),
        goals.reached(),
    )
}
