//! `testclient explore`: explores the named models, or all, and reports each. Shell.

use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::goals::Goals;
use super::model::Model;
use super::models;
use super::search::{Ending, Limits, Outcome, explore, walk};
use crate::args::Explore;
use crate::report::say;

/// Explores until every model was visited, a property broke, or `stop`.
///
/// # Errors
/// When a model is unknown, or stdout is closed.
pub fn run(options: &Explore, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let all = models::all();
    let unknown = options.models.iter().find(|name| all.iter().all(|model| model.name != **name));
    if let Some(name) = unknown {
        let names: Vec<_> = all.iter().map(|model| model.name).collect();
        anyhow::bail!("there is no model {name}; there are {}", names.join(", "));
    }
    let walks = options.walks > 0;
    let chosen = |model: &&Model| match options.models.is_empty() {
        true => model.walked == walks,
        false => options.models.iter().any(|name| *name == model.name),
    };
    let mut failed = false;
    for model in all.iter().filter(chosen) {
        if stop.is_cancelled() {
            return Ok(ExitCode::from(130));
        }
        if walks {
            failed |= walk_through(model, options, stop)?;
            continue;
        }
        let limits = Limits {
            states: options.states,
            time: options.seconds.map(Duration::from_secs),
            threads: options.threads(),
            stop: Some(stop.clone()),
        };
        let spinner = spinner(model);
        let outcome = explore(model, limits);
        spinner.finish_and_clear();
        // What was visited completely and did not reach its goals proves too little.
        let pointless = outcome.ending == Ending::Complete && !outcome.missing.is_empty();
        failed |= outcome.violation.is_some() || pointless;
        say(line(&outcome))?;
        if let Some(violation) = &outcome.violation {
            say(violation)?;
        }
    }
    if stop.is_cancelled() && !failed {
        return Ok(ExitCode::from(130));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows on a terminal what is being explored.
fn spinner(model: &Model) -> ProgressBar {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{spinner} {msg}, {elapsed}";
    spinner.set_style(ProgressStyle::with_template(template).expect("a template of ours"));
    spinner.set_message(format!("{}: {}", model.name, model.about));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Walks at random; whether a property broke.
fn walk_through(
    model: &Model,
    options: &Explore,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let (mut goals, mut walks, mut steps) = (Goals::default(), 0_u64, 0);
    let spinner = spinner(model);
    for seed in options.seed..options.seed.saturating_add(options.walks) {
        if stop.is_cancelled() {
            break;
        }
        let walked = walk(model, seed, options.depth);
        goals.add(walked.goals);
        steps += walked.steps;
        walks += 1;
        if let Some(violation) = walked.violation {
            spinner.finish_and_clear();
            say(format!("{}, seed {seed}\n{violation}", model.name))?;
            return Ok(true);
        }
    }
    spinner.finish_and_clear();
    let (name, reached) = (model.name, goals.reached());
    say(format!("{name}: {walks} walks, {steps} steps, reached {reached:?}"))?;
    Ok(false)
}

/// What came of a model: how much of it, then what it reached.
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
         ({per_second:.0}/s), {wedge_checks} wedge checks\n    reached {:?}{missing}",
        took.as_secs_f64(),
        goals.reached(),
    )
}
