//! The first thing to run against a cluster: four basic tests, then a put and a get every second.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use kvclient::Client;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::calls::{connect, end, get, put};
use crate::report::{duration, say};

/// How long one call may take before it counts as failed. Longer than any failover.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for a primary, runs the tests and, unless `--once`, goes on until Ctrl-C.
///
/// # Errors
/// When stdout is closed or an address makes no sense. A failed test is an exit code, no error.
pub async fn run(vs: &str, args: &Args, stop: CancellationToken) -> Result<ExitCode> {
    let client = connect(vs, PATIENCE).await.with_context(|| format!("--vs {vs}"))?;
    let tests = async {
        wait_for_primary(&client, vs).await;
        basic_tests(&client).await
    };
    let passed = tokio::select! {
        passed = tests => passed?,
        () = stop.cancelled() => return Ok(ExitCode::from(130)),
    };
    if !passed || args.once {
        end(&client).await;
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    continuous(args, &client, &stop).await?;
    end(&client).await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for as long as it takes, saying on stderr what for: a spinner on a terminal, otherwise a
/// line whenever the reason changes.
async fn wait_for_primary(client: &Client, view_service: &str) {
    let terminal = std::io::stderr().is_terminal();
    let spinner = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    spinner.enable_steady_tick(Duration::from_millis(100));
    let mut said = String::new();
    loop {
        let waiting = match client.view().await {
            Ok(view) => match view.primary_name() {
                Some(_) if view.is_activated() => break,
                Some(primary) => format!("waiting for {primary} to take over as primary"),
                None => format!("waiting for a primary: start kvservers with --vs {view_service}"),
            },
            Err(error) => format!("waiting for the view service: {error}"),
        };
        spinner.set_message(waiting.clone());
        if !terminal && waiting != said {
            eprintln!("{waiting}");
            said = waiting;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    spinner.finish_and_clear();
}

/// Runs the four tests; true when all passed.
async fn basic_tests(client: &Client) -> Result<bool> {
    let tests = [
        ("Basic Put and Get", &[("a", "1")][..], &[("a", Some("1"))][..]),
        (
            "Several Puts",
            &[("b", "2"), ("c", "3")],
            &[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))],
        ),
        ("Missing key", &[], &[("nonexistent", None)]),
        ("Update", &[("a", "100")], &[("a", Some("100"))]),
    ];
    let mut passed = true;
    for (number, (title, puts, gets)) in (1..).zip(tests) {
        say(format!("=== Test {number}: {title} ==="))?;
        match puts_then_gets(client, puts, gets).await {
            Ok(()) => say(format!("✓ Test {number} passed"))?,
            Err(why) => {
                passed = false;
                say(format!("✗ Test {number} failed: {why}"))?;
            }
        }
    }
    Ok(passed)
}

async fn puts_then_gets(
    client: &Client,
    puts: &[(&str, &str)],
    gets: &[(&str, Option<&str>)],
) -> Result<(), String> {
    for (key, value) in puts {
        put(client, key, value).await.map_err(|error| format!("put {key}={value}: {error}"))?;
    }
    for (key, expected) in gets {
        let got = get(client, key).await.map_err(|error| format!("get {key}: {error}"))?;
        if got.as_deref() != *expected {
            return Err(format!(
                "{key}: expected {}, got {}",
                shown(*expected),
                shown(got.as_deref())
            ));
        }
    }
    Ok(())
}

fn shown(value: Option<&str>) -> &str {
    value.unwrap_or("nothing")
}

async fn continuous(args: &Args, client: &Client, stop: &CancellationToken) -> Result<()> {
    say("=== Continuous Operation Mode === (Ctrl-C stops)")?;
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut operations, mut mismatches, mut errors) = (0, 0, 0);
    let mut longest = Duration::ZERO;
    let mut number = 0;
    while args.count.is_none_or(|count| number < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let key = format!("key{}", number % 10);
        let value = format!("value{number}");
        let started = Instant::now();
        let round = async {
            put(client, &key, &value).await?;
            let put_took = started.elapsed();
            let got = get(client, &key).await?;
            Ok::<_, kvclient::Error>((got, put_took.max(started.elapsed() - put_took)))
        };
        let result = tokio::select! {
            result = round => result,
            () = stop.cancelled() => break,
        };
        operations += 2;
        match result {
            Ok((got, took)) => {
                longest = longest.max(took);
                if got.as_deref() == Some(&value) {
                    say(format!("✓ [{number}] Put/Get {key}={value}"))?;
                } else {
                    mismatches += 1;
                    let got = shown(got.as_deref());
                    say(format!("✗ [{number}] Mismatch! Expected {value}, got {got}"))?;
                }
            }
            Err(error) => {
                longest = longest.max(started.elapsed());
                errors += 1;
                say(format!("✗ [{number}] {error}"))?;
            }
        }
        number += 1;
    }
    say(format!(
        "{operations} operations, {mismatches} mismatches, {errors} errors, longest wait {}",
        duration(longest)
    ))
}
