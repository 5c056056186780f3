//! How much processor time processes used, by what the kernel says of them. On a busy machine that
//! is the steadier figure: a call that waits takes longer, but costs no more.

use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel counts in ticks; every Linux on which the standard library runs tells user programs
/// a hundred a second (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Processes by name, and what they had used when the measurement began.
#[derive(Debug)]
pub struct Meter {
    processes: Vec<(String, u32, Duration)>,
}

impl Meter {
    /// Begins to measure these processes, each a name for people and an id.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn start(processes: &[(String, u32)]) -> Result<Meter> {
        let processes = processes
            .iter()
            .map(|(name, id)| Ok((name.clone(), *id, used_by(*id)?)))
            .collect::<Result<_>>()?;
        Ok(Meter { processes })
    }

    /// What each has used since.
    ///
    /// # Errors
    /// When one of them does not run any more.
    pub fn used(&self) -> Result<Vec<(String, Duration)>> {
        let since = |(name, id, before): &(String, u32, Duration)| {
            Ok((name.clone(), used_by(*id)?.saturating_sub(*before)))
        };
        self.processes.iter().map(since).collect()
    }
}

/// Processor time that a process has used in all its threads, user and system.
///
/// # Errors
/// When it does not run.
pub fn used_by(id: u32) -> Result<Duration> {
    let path = format!("/proc/{id}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&stat).with_context(|| format!("{path} has another form: {stat}"))
}

fn parse(stat: &str) -> Option<Duration> {
    // The name, in brackets, may hold anything; what follows it are state and numbers.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_whatever_the_name_of_the_process() {
        let stat = "15199 (a) R (b) R 15140 15140 11954 0 -1 4194304 99 0 0 0 250 50 7 7 20 0 1 0";
        assert_eq!(parse(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse("15199 (cat) R 1 2"), None);
    }

    #[test]
    fn this_process_has_used_some() {
        let meter = Meter::start(&[("me".to_owned(), std::process::id())]).expect("it runs");
        let mut sum = 0u64;
        while meter.used().expect("it runs")[0].1 < TICK * 2 {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
