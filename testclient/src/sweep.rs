//! Runs many seeds of the simulation, in parallel, and says what came of them. Decides nothing: a
//! seed that fails has told its story by panicking, and is run again by its number.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::args::Sim;
use crate::report::{self, say};
use crate::sim::{self, Kind, Ran, Visits};

/// After this many failures there is enough to think about.
const FAILURES_MAX: usize = 20;

/// A seed that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// The invariant, and what was seen.
    pub what: String,
    /// In which kind of world.
    pub kind: Kind,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, what, kind } = self;
        writeln!(f, "seed {seed}: {what}")?;
        // A build with assertions is replayed with them.
        let profile = if cfg!(debug_assertions) { " PROFILE=ci" } else { "" };
        let options = match kind {
            Kind::InMemory => "--trace",
            Kind::OnDisks => "\"--disks --trace\"",
        };
        write!(f, "replay: make sim{profile} SEED={seed} SIM={options}")
    }
}

/// What came of a range of seeds.
#[derive(Clone, Default, Debug)]
pub struct Sweep {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, in order.
    pub failures: Vec<Failure>,
    /// The rare paths that the others took.
    pub visits: Visits,
    /// Virtual time of all of them.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
}

/// Runs `count` random worlds of a kind from seed `first` on so many threads, until `stop` says so.
#[must_use]
pub fn sweep(
    kind: Kind,
    first: u64,
    count: u64,
    threads: usize,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> Sweep {
    let mut sweep = sweep_with(first, count, threads, bar, stop, |seed| sim::run(kind, seed, None));
    sweep.failures.iter_mut().for_each(|failure| failure.kind = kind);
    sweep
}

/// The same with a story of one's own.
#[must_use]
pub fn sweep_with(
    first: u64,
    count: u64,
    threads: usize,
    bar: &ProgressBar,
    stop: &CancellationToken,
    story: impl Fn(u64) -> Ran + Sync,
) -> Sweep {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let sweep = Mutex::new(Sweep::default());
    let stop = stop.child_token();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count || stop.is_cancelled() {
                        return;
                    }
                    // There is no seed after the greatest number.
                    let Some(seed) = first.checked_add(nth) else { return };
                    let ran = caught(seed, &story);
                    let mut sweep = sweep.lock().unwrap_or_else(PoisonError::into_inner);
                    sweep.seeds += 1;
                    match ran {
                        Ok(Ran { visits, micros }) => {
                            sweep.visits.add(&visits);
                            sweep.simulated += Duration::from_micros(micros);
                        }
                        Err(failure) => {
                            // Nobody may be reading any more; the failure counts all the same.
                            bar.suspend(|| {
                                let _closed = writeln!(std::io::stderr(), "{failure}");
                            });
                            sweep.failures.push(failure);
                        }
                    }
                    if sweep.failures.len() >= FAILURES_MAX {
                        stop.cancel();
                    }
                    bar.inc(1);
                }
            });
        }
    });
    let mut sweep = sweep.into_inner().unwrap_or_else(PoisonError::into_inner);
    sweep.failures.sort_by_key(|failure| failure.seed);
    sweep.took = began.elapsed();
    sweep
}

/// Runs one seed of a story.
///
/// # Errors
/// When an invariant is broken: its name, and what was seen.
pub fn caught(seed: u64, story: impl Fn(u64) -> Ran) -> Result<Ran, Failure> {
    report::caught(|| story(seed)).map_err(|what| Failure { seed, what, kind: Kind::InMemory })
}

/// The verb `sim`. Exit code 1 when a seed failed, 130 when it was stopped before that.
///
/// # Errors
/// When stdout is closed.
pub fn command(options: &Sim, stop: &CancellationToken) -> Result<ExitCode> {
    let last = options.seed.saturating_add(options.seeds - 1);
    say(format!("seeds {} to {last}", options.seed))?;
    if options.trace {
        for seed in options.seed..=last {
            if stop.is_cancelled() {
                return Ok(ExitCode::from(130));
            }
            say(format!("seed {seed}"))?;
            let mut print = |line: &str| {
                // Whoever reads this may have seen enough.
                let _closed = say(line);
            };
            say(sim::run(options.kind(), seed, Some(&mut print)).visits)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let bar = ProgressBar::with_draw_target(Some(options.seeds), ProgressDrawTarget::stderr());
    let template = "{bar:40} {pos}/{len} seeds, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("a template of ours"));
    let sweep = sweep(options.kind(), options.seed, options.seeds, options.threads(), &bar, stop);
    bar.finish_and_clear();
    say(&sweep)?;
    if !sweep.failures.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if sweep.seeds < options.seeds {
        say(format!("interrupted: {} of {} seeds were run", sweep.seeds, options.seeds))?;
        return Ok(ExitCode::from(130));
    }
    Ok(ExitCode::SUCCESS)
}

impl std::fmt::Display for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs_f64().max(0.001);
        writeln!(f, "{}", self.visits)?;
        writeln!(
            f,
            "{} seeds in {seconds:.1} s ({:.0} per second), {:.1} hours of virtual time",
            self.seeds,
            self.seeds as f64 / seconds,
            self.simulated.as_secs_f64() / 3600.0
        )?;
        if self.failures.is_empty() {
            return write!(f, "all of these passed");
        }
        let seeds: Vec<_> = self.failures.iter().map(|failure| failure.seed.to_string()).collect();
        let enough = if seeds.len() >= FAILURES_MAX { "; after so many it stops" } else { "" };
        writeln!(f, "{} failed: seeds {}{enough}", seeds.len(), seeds.join(", "))?;
        write!(f, "the first: {}", self.failures[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_breaks_an_invariant_is_named_with_its_replay_and_the_others_go_on() {
        let story = |seed| {
            assert_ne!(seed, 12, "NeverTwelve: this seed is always wrong");
            Ran { micros: 1000, ..Ran::default() }
        };
        let bar = ProgressBar::hidden();
        let sweep = sweep_with(10, 5, 2, &bar, &CancellationToken::new(), story);
        assert_eq!(sweep.seeds, 5);
        assert_eq!(sweep.simulated, Duration::from_millis(4));
        let [failure] = &sweep.failures[..] else { panic!("one seed fails: {sweep}") };
        assert_eq!(failure.seed, 12);
        let shown = failure.to_string();
        assert!(shown.contains("NeverTwelve"), "{shown}");
        assert!(shown.ends_with("SEED=12 SIM=--trace"), "{shown}");
    }

    #[test]
    fn after_the_greatest_seed_there_is_none() {
        let (bar, stop) = (ProgressBar::hidden(), CancellationToken::new());
        let sweep = sweep_with(u64::MAX, 3, 2, &bar, &stop, |_| Ran::default());
        assert_eq!(sweep.seeds, 1);
    }

    #[test]
    fn paths_that_no_seed_took_are_told() {
        let kind = Kind::InMemory;
        let sweep = sweep(kind, 1, 1, 1, &ProgressBar::hidden(), &CancellationToken::new());
        assert_eq!(sweep.failures.len(), 0);
        assert!(sweep.visits.count(sim::Path::Progress) == 1);
        assert!(!sweep.visits.missing(kind).contains(&sim::Path::Progress));
        assert!(sweep.visits.missing(kind).len() > 5, "one seed does not see everything");
    }
}
