//! Where and when something was measured, in a line.

use std::time::SystemTime;

/// The day, our version and the machine: without them figures say nothing.
#[must_use]
pub fn where_and_when() -> String {
    format!("{}, version {} on {}", today(), kvprocess::VERSION, describe())
}

/// The day, as the world counts it (UTC): `2026-11-20`.
#[must_use]
pub fn today() -> String {
    let mut now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.truncate("2026-11-20".len());
    now
}

/// Cores, their model, memory and kernel, as far as the system tells.
#[must_use]
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = value_in("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = kvprocess::machine::memory()
        .map_or_else(String::new, |bytes| format!(", {} GiB", (bytes + (1 << 29)) >> 30));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({model}){memory}, Linux {}", kernel.trim())
}

/// What a file of lines `name : value` says of a name, first.
fn value_in(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}
