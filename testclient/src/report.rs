//! Tables, durations and lines for people, and JSON for programs.

use std::cell::Cell;
use std::fmt::Display;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use crate::bench::page;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes a line to stdout.
///
/// # Errors
/// When stdout is closed.
pub fn say(line: impl Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("write to stdout")
}

thread_local! {
    /// Panics of this thread are caught and told otherwise.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs something that may find production code wrong about itself. Only its own thread is quiet
/// meanwhile: others may have something to say.
///
/// # Errors
/// What it panicked with.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(before);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("it panicked without a word").to_owned()
    })
}

/// Checks that a file can be written, before minutes are spent on what goes into it.
///
/// # Errors
/// When it cannot.
pub fn check_writable(path: Option<&Path>) -> Result<()> {
    match path {
        None => Ok(()),
        Some(path) if path == Path::new("-") => Ok(()),
        Some(path) => std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(drop)
            .with_context(|| format!("write {}", path.display())),
    }
}

/// Writes JSON to a file, or to stdout when the path is `-`.
///
/// # Errors
/// When that cannot be written.
pub fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = format!("{value:#}\n");
    if path == Path::new("-") {
        std::io::stdout().lock().write_all(text.as_bytes())
    } else {
        std::fs::write(path, text)
    }
    .with_context(|| format!("write {}", path.display()))
}

/// Puts a block between its marks into a Markdown page; see [`page::replace_block`].
///
/// # Errors
/// When the page cannot be read or written, or has no place for the block.
pub fn write_block(path: &Path, name: &str, block: &str) -> Result<()> {
    let page = page_with(path, name, block)?;
    std::fs::write(path, page).with_context(|| format!("write {}", path.display()))
}

/// Checks that a page has a place for a block, before minutes are spent on what goes into it.
///
/// # Errors
/// When it has not.
pub fn check_block(path: &Path, name: &str) -> Result<()> {
    page_with(path, name, "").map(drop)
}

fn page_with(path: &Path, name: &str, block: &str) -> Result<String> {
    let page = std::fs::read_to_string(path);
    let page = page.with_context(|| format!("read {}", path.display()))?;
    page::replace_block(&page, name, block).with_context(|| format!("write {}", path.display()))
}

/// A bar on terminals that fills up to `length`; elsewhere it shows nothing.
#[must_use]
pub fn progress(length: u64, template: &str) -> ProgressBar {
    // indicatif hides a bar whose target is no terminal.
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Aligned columns with a header: the first column to the left, numbers to the right.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header[column].chars().count())
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate();
        let padded = padded.map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    let lines: Vec<String> = std::iter::once(&header).chain(rows).map(|row| line(row)).collect();
    lines.join("\n")
}

/// A number of things, the word for one of them in its form for so many.
#[must_use]
pub fn counted(number: impl Into<u64>, thing: &str) -> String {
    match number.into() {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// A duration with three figures and the unit that suits it.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (number, unit) = if micros < 1e3 {
        (micros, "us")
    } else if micros < 1e6 {
        (micros / 1e3, "ms")
    } else {
        (micros / 1e6, "s")
    };
    let decimals = if number < 10.0 {
        2
    } else if number < 100.0 {
        1
    } else {
        0
    };
    format!("{number:.decimals$} {unit}")
}

/// Milliseconds with fractions, for JSON.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The value below which `per_cent` of the durations lie (nearest rank); zero when there is none.
#[must_use]
pub fn percentile(durations: &[Duration], per_cent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// What makes a run too small to be judged: the first of these counts that is below the least
/// that means something, each with the word for what it counts.
#[must_use]
pub fn too_small(counts: &[(u64, u64, &str)]) -> Option<String> {
    let short = counts.iter().find(|(count, least, _)| count < least);
    short.map(|(_, least, things)| format!("fewer than {least} {things}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_three_figures_and_a_fitting_unit() {
        let show = |micros| duration(Duration::from_micros(micros));
        assert_eq!(show(123), "123 us");
        assert_eq!(show(4_560), "4.56 ms");
        assert_eq!(show(78_900), "78.9 ms");
        assert_eq!(show(1_230_000), "1.23 s");
    }

    #[test]
    fn percentiles_go_by_nearest_rank() {
        let durations: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(percentile(&durations, 50), Duration::from_millis(5));
        assert_eq!(percentile(&durations, 90), Duration::from_millis(9));
        assert_eq!(percentile(&durations, 100), Duration::from_millis(10));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["kill".into(), "5".into()], vec!["t".into(), "12".into()]];
        assert_eq!(table(&["fault", "n"], &rows), "fault   n\nkill    5\nt      12");
    }
}
