//! Gives a verdict on a recorded history: by the search, key by key, and by the witness.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::args::Check;
use crate::history::{Call, End, History, format, name};
use crate::linearizability::{Finding, Report, check_calls};
use crate::report::say;
use crate::witness;

/// Faults and keys of one kind that are listed before the rest is only counted.
const SHOWN_MAX: usize = 20;

/// The verdict on a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// As if one call had been done after the other.
    Linearizable,
    /// Answers contradict each other.
    Violation,
    /// It took too long, or there is nothing to judge.
    NotDecided,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Judged::Linearizable => "linearizable, key by key",
            Judged::Violation => "VIOLATION",
            Judged::NotDecided => "not decided",
        })
    }
}

/// Reads the file and checks it. Exit code 0: linearizable; 1: a violation; 2: not
/// decided, unreadable or empty.
///
/// # Errors
/// When stdout is closed.
pub async fn run(options: &Check, stop: CancellationToken) -> Result<ExitCode> {
    let judged = judge(&options.history, options.time_limit, &stop).await?;
    Ok(match judged {
        Judged::Linearizable => ExitCode::SUCCESS,
        Judged::Violation => ExitCode::from(1),
        Judged::NotDecided => ExitCode::from(2),
    })
}

/// Reads a file, checks it and says what was found.
///
/// # Errors
/// When stdout is closed.
pub async fn judge(path: &Path, limit: Duration, stop: &CancellationToken) -> Result<Judged> {
    let (path, stop) = (path.to_owned(), stop.clone());
    let checked = tokio::task::spawn_blocking(move || match read(&path) {
        Ok(history) => check(&history, limit, &stop),
        Err(why) => {
            eprintln!("testclient: {}: {why}", path.display());
            Ok(Judged::NotDecided)
        }
    });
    checked.await.context("the checker has failed")?
}

fn read(path: &Path) -> Result<History, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes)
        .map_err(|_| "not a history: it is not text; bytes are written as hex".to_owned())?;
    format::import(&text)
}

fn check(history: &History, limit: Duration, stop: &CancellationToken) -> Result<Judged> {
    introduce(history)?;
    if history.calls.is_empty() {
        say("verdict: none, since there is nothing to check")?;
        return Ok(Judged::NotDecided);
    }
    let report = search(history, limit, stop);
    say_report(&report)?;
    let faults = witness::check(history);
    say_faults(history, &faults)?;
    if report.violations().next().is_some() || !faults.is_empty() {
        say("verdict: VIOLATION")?;
        return Ok(Judged::Violation);
    }
    if !report.is_ok() {
        say("verdict: not decided; give it more time with --time-limit")?;
        return Ok(Judged::NotDecided);
    }
    say("verdict: linearizable, key by key")?;
    Ok(Judged::Linearizable)
}

fn introduce(history: &History) -> Result<()> {
    let count = |of: fn(&Call) -> bool| history.calls.iter().filter(|call| of(call)).count();
    let unknown = count(|call| call.end == End::Unknown);
    let not_done = count(|call| matches!(call.end, End::NotDone { .. }));
    let calls = history.calls.len();
    say(format!("{calls} calls, {not_done} of them certainly not done, {unknown} unknown"))
}

/// Searches key by key until the time is over; what is left then is not decided.
fn search(history: &History, limit: Duration, stop: &CancellationToken) -> Report {
    let by_key = history.by_key();
    let bar =
        ProgressBar::with_draw_target(Some(by_key.len() as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} keys {msg}") {
        bar.set_style(style);
    }
    let deadline = Instant::now() + limit;
    let mut said = Instant::now();
    let mut report = Report::default();
    let total = by_key.len();
    for (number, (key, calls)) in (1..).zip(by_key) {
        let calls: Vec<Call> = calls.into_iter().map(|(_, call)| call).collect();
        bar.set_message(name(&key));
        let mut go_on = |_| {
            bar.tick();
            if bar.is_hidden() && said.elapsed() > Duration::from_secs(5) {
                eprintln!("key {number} of {total}: {}", name(&key));
                said = Instant::now();
            }
            Instant::now() < deadline && !stop.is_cancelled()
        };
        let finding = if go_on(0) { check_calls(&calls, &mut go_on) } else { Finding::NotDecided };
        report.keys.push((key, calls.len(), finding));
        bar.inc(1);
    }
    bar.finish_and_clear();
    report
}

fn say_report(report: &Report) -> Result<()> {
    let ok = report.keys.iter().filter(|(.., finding)| *finding == Finding::Ok);
    let (keys, calls) = ok.fold((0, 0), |(keys, calls), (_, more, _)| (keys + 1, calls + more));
    say(format!(
        "search: {keys} of {} keys ok ({calls} calls, one of several keys counted for each)",
        report.keys.len()
    ))?;
    let violations: Vec<_> = report.violations().collect();
    for (key, account) in violations.iter().take(SHOWN_MAX) {
        say(format!("\nkey {}: VIOLATION\n{account}\n", name(key)))?;
    }
    say_rest("violations", violations.len())?;
    let open: Vec<_> = report.not_decided().collect();
    for key in open.iter().take(SHOWN_MAX) {
        say(format!("key {}: not decided", name(key)))?;
    }
    say_rest("keys that are not decided", open.len())
}

fn say_faults(history: &History, faults: &[witness::Fault]) -> Result<()> {
    say(format!("witness: {}", if faults.is_empty() { "ok" } else { "VIOLATION" }))?;
    for fault in faults.iter().take(SHOWN_MAX) {
        say(format!("key {}: {}", name(&fault.key), fault.what))?;
        for &index in &fault.calls {
            let call = &history.calls[index];
            let answer =
                call.answer().map_or("unknown".to_owned(), |(_, answer)| answer.to_string());
            say(format!(
                "  line {}: process {} {} -> {answer}",
                index + 2,
                call.process,
                call.operation
            ))?;
        }
    }
    say_rest("faults", faults.len())
}

fn say_rest(what: &str, count: usize) -> Result<()> {
    match count.checked_sub(SHOWN_MAX) {
        Some(rest) if rest > 0 => say(format!("and {rest} more {what}")),
        _ => Ok(()),
    }
}
