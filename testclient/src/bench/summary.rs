//! What a comparison says: each case over all rounds, next to the echo of the same round. Pure.
//!
//! Rates of a shared machine move by tens of per cent within minutes. So nothing here compares a
//! figure of one round with a figure of another: ratios are made within a round, then the median of
//! the rounds is taken.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::spread::Spread;
use super::tally::{Latencies, QUANTILES, Tally};
use crate::report::{duration, millis, too_small};

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The bare gRPC echo.
    Echo,
    /// A plain gRPC put.
    Put {
        /// Backups of the cluster.
        backups: usize,
    },
    /// A plain gRPC get, of a cluster with one backup.
    Get,
    /// A put through the client library, with one backup.
    LibraryPut,
}

impl What {
    /// Backups of the cluster that is called; `None`: it is none.
    #[must_use]
    pub fn backups(self) -> Option<usize> {
        match self {
            What::Echo => None,
            What::Put { backups } => Some(backups),
            What::Get | What::LibraryPut => Some(1),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Echo => f.write_str("bare echo"),
            What::Put { backups: 0 } => f.write_str("put, no backup"),
            What::Put { backups: 1 } => f.write_str("put, one backup"),
            What::Put { backups: 2 } => f.write_str("put, two backups"),
            What::Put { backups } => write!(f, "put, {backups} backups"),
            What::Get => f.write_str("get, one backup"),
            What::LibraryPut => f.write_str("put by the library"),
        }
    }
}

/// One kind of call, so many of them at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// What is called.
    pub what: What,
    /// Calls open at once.
    pub callers: u32,
}

/// Every case of a round, in the order in which they run: one after the other, so that what is
/// compared was measured within seconds.
#[must_use]
pub fn cases(callers: &[u32]) -> Vec<Case> {
    let of = |whats: &[What], callers| -> Vec<Case> {
        whats.iter().map(|&what| Case { what, callers }).collect()
    };
    let always = [What::Echo, What::Put { backups: 1 }, What::Get, What::LibraryPut];
    let mut cases: Vec<Case> = callers.iter().flat_map(|&callers| of(&always, callers)).collect();
    let most = callers.iter().max().copied().unwrap_or(1);
    cases.extend(of(&[What::Put { backups: 0 }, What::Put { backups: 2 }], most));
    cases
}

/// Processor time by what used it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cpu {
    /// The program that makes the calls.
    pub client: Duration,
    /// The echo, or the primary.
    pub server: Duration,
    /// All backups.
    pub backups: Duration,
}

/// One case in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What came of it.
    pub tally: Tally,
    /// What it cost.
    pub cpu: Cpu,
}

impl Sample {
    fn per_second(&self) -> f64 {
        self.tally.per_second(self.tally.done())
    }

    fn p50(&self) -> f64 {
        self.tally.both().at(0.5).as_secs_f64()
    }

    /// Microseconds of processor time per call, of all processes.
    fn whole_cost(&self) -> f64 {
        let Cpu { client, server, backups } = self.cpu;
        self.cost(client + server + backups)
    }

    /// Microseconds of processor time per call.
    fn cost(&self, used: Duration) -> f64 {
        used.as_secs_f64() * 1e6 / (self.tally.done().max(1) as f64)
    }
}

/// How much of a figure a table shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// The median of the rounds.
    Medians,
    /// The smallest and the largest too.
    Ranges,
}

/// The first columns of a table say which case a row is of.
pub const CASE_COLUMNS: usize = 2;
/// From this column on a table says what calls cost.
pub const COST_COLUMNS: usize = 8;

/// A median of fewer rounds, or of shorter ones, says too little.
const ROUNDS_JUDGED: u64 = 3;
const LENGTH_JUDGED_MS: u64 = 500;

/// Samples of all cases; each case has one sample per round.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    measured: Vec<(Case, Vec<Sample>)>,
}

/// What should hold between medians, and what was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Goal {
    /// In words.
    pub what: &'static str,
    /// Whether the figure must be at least the bound, or at most.
    pub at_least: bool,
    /// The bound.
    pub bound: f64,
    /// The figure.
    pub measured: Spread,
}

impl Goal {
    /// Whether the median keeps to the bound.
    #[must_use]
    pub fn is_met(&self) -> bool {
        let figure = self.measured.median;
        if self.at_least { figure >= self.bound } else { figure <= self.bound }
    }
}

impl Comparison {
    /// Takes note of a sample. Rounds run every case, in the same order.
    pub fn add(&mut self, case: Case, sample: Sample) {
        match self.measured.iter_mut().find(|(known, _)| *known == case) {
            Some((_, samples)) => samples.push(sample),
            None => self.measured.push((case, vec![sample])),
        }
    }

    /// Every case, and its latencies over all rounds.
    pub fn latencies(&self) -> impl Iterator<Item = (Case, Latencies)> {
        self.measured.iter().map(|(case, samples)| (*case, latencies(samples)))
    }

    fn samples(&self, what: What, callers: u32) -> &[Sample] {
        let case = Case { what, callers };
        let found = self.measured.iter().find(|(known, _)| *known == case);
        found.map_or(&[], |(_, samples)| samples)
    }

    /// A figure of one case by that of another at the same number of calls, round by round.
    fn ratio(
        &self,
        (what, to): (What, What),
        callers: u32,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        let (these, those) = (self.samples(what, callers), self.samples(to, callers));
        Spread::of(these.iter().zip(those).map(|(this, that)| figure(this) / figure(that)))
    }

    /// Calls per second, as a share of the echo's at the same number of calls.
    #[must_use]
    pub fn of_echo(&self, case: Case) -> Option<Spread> {
        self.ratio((case.what, What::Echo), case.callers, Sample::per_second)
    }

    /// In words, what did not end well; empty when all did.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for (case, samples) in &self.measured {
            let failed: u64 = samples.iter().map(|sample| sample.tally.failed).sum();
            let unknown: u64 = samples.iter().map(|sample| sample.tally.unknown).sum();
            if failed + unknown > 0 {
                let Case { what, callers } = case;
                troubles
                    .push(format!("{what}, {callers} at once: {failed} failed, {unknown} unknown"));
            }
        }
        troubles
    }

    /// What should hold, as far as it was measured.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let most = self.measured.iter().map(|(case, _)| case.callers).max().unwrap_or(1);
        let put = What::Put { backups: 1 };
        let rate = |what, to| self.ratio((what, to), most, Sample::per_second);
        let goal = |what, at_least, bound, measured: Option<Spread>| {
            measured.map(|measured| Goal { what, at_least, bound, measured })
        };
        [
            goal("puts per second, one backup, by echoes", true, 0.5, rate(put, What::Echo)),
            goal("gets per second by echoes", true, 0.75, rate(What::Get, What::Echo)),
            goal(
                "puts per second, two backups by one",
                true,
                0.75,
                rate(What::Put { backups: 2 }, put),
            ),
            goal(
                "p50 of one put at a time by that of one echo",
                false,
                1.9,
                self.ratio((put, What::Echo), 1, Sample::p50),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// A header and a row for each case.
    #[must_use]
    pub fn table(&self, detail: Detail) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let header = vec![
            "calls",
            "at once",
            "per second",
            "rate/echo",
            "p50",
            "p50/echo",
            "p99",
            "p99.9",
            "client",
            "server",
            "a backup",
            "cpu/echo",
        ];
        let row = |(case, samples): &(Case, Vec<Sample>)| self.row(*case, samples, detail);
        (header, self.measured.iter().map(row).collect())
    }

    fn row(&self, case: Case, samples: &[Sample], detail: Detail) -> Vec<String> {
        let worded = |spread: Spread, word: &dyn Fn(f64) -> String| match detail {
            Detail::Ranges => spread.worded(word),
            Detail::Medians => word(spread.median),
        };
        let over = |figure: &dyn Fn(&Sample) -> f64, word: &dyn Fn(f64) -> String| {
            let spread = Spread::of(samples.iter().map(figure));
            spread.map_or_else(String::new, |it| worded(it, word))
        };
        let median = |figure: &dyn Fn(&Sample) -> f64, word: &dyn Fn(f64) -> String| {
            Spread::of(samples.iter().map(figure)).map_or_else(String::new, |it| word(it.median))
        };
        let of_echo = |figure: fn(&Sample) -> f64| match case.what {
            What::Echo => String::new(),
            what => {
                let ratio = self.ratio((what, What::Echo), case.callers, figure);
                ratio.map_or_else(String::new, |it| worded(it, &|ratio| format!("{ratio:.2}")))
            }
        };
        let seconds = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let at = |quantile: f64| {
            median(&|sample| sample.tally.both().at(quantile).as_secs_f64(), &seconds)
        };
        let micros = |micros: f64| format!("{micros:.1} us");
        let backups = case.what.backups().unwrap_or(0) as f64;
        vec![
            case.what.to_string(),
            case.callers.to_string(),
            over(&Sample::per_second, &thousands),
            of_echo(Sample::per_second),
            at(0.5),
            of_echo(Sample::p50),
            at(0.99),
            at(0.999),
            median(&|sample| sample.cost(sample.cpu.client), &micros),
            median(&|sample| sample.cost(sample.cpu.server), &micros),
            if backups > 0.0 {
                median(&|sample| sample.cost(sample.cpu.backups) / backups, &micros)
            } else {
                String::new()
            },
            of_echo(Sample::whole_cost),
        ]
    }

    /// Why its goals are not judged, if they are not.
    #[must_use]
    pub fn too_small(&self, length: Duration) -> Option<String> {
        let rounds = self.measured.iter().map(|(_, samples)| samples.len()).min().unwrap_or(0);
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        too_small(&[
            (rounds as u64, ROUNDS_JUDGED, "rounds"),
            (length, LENGTH_JUDGED_MS, "ms of each case in a round"),
        ])
    }

    /// A header and a row for each goal, judged or not.
    #[must_use]
    pub fn goal_table(&self, judged: bool) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let row = |goal: Goal| {
            let word = if goal.at_least { "at least" } else { "at most" };
            vec![
                goal.what.to_owned(),
                format!("{word} {}", goal.bound),
                goal.measured.to_string(),
                match (judged, goal.is_met()) {
                    (true, true) => "met",
                    (true, false) => "missed",
                    (false, _) => "not judged",
                }
                .to_owned(),
            ]
        };
        (vec!["goal", "bound", "measured", "verdict"], self.goals().into_iter().map(row).collect())
    }

    /// Everything, for programs.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let spread = |spread: Option<Spread>| {
            spread.map(|it| json!({ "median": it.median, "min": it.low, "max": it.high }))
        };
        let case = |(case, samples): &(Case, Vec<Sample>)| {
            json!({
                "calls": case.what.to_string(),
                "at_once": case.callers,
                "per_second": spread(Spread::of(samples.iter().map(Sample::per_second))),
                "per_second_of_echo": spread(self.of_echo(*case)),
                "p50_of_echo":
                    spread(self.ratio((case.what, What::Echo), case.callers, Sample::p50)),
                "cpu_of_echo":
                    spread(self.ratio((case.what, What::Echo), case.callers, Sample::whole_cost)),
                "rounds": samples.iter().map(sample_as_json).collect::<Vec<_>>(),
            })
        };
        let goal = |goal: &Goal| {
            json!({
                "goal": goal.what,
                "bound": goal.bound,
                "at_least": goal.at_least,
                "measured": spread(Some(goal.measured)),
                "met": goal.is_met(),
            })
        };
        json!({
            "cases": self.measured.iter().map(case).collect::<Vec<_>>(),
            "goals": self.goals().iter().map(goal).collect::<Vec<_>>(),
        })
    }
}

fn latencies(samples: &[Sample]) -> Latencies {
    let mut sum = Tally::default();
    for sample in samples {
        sum.add(&sample.tally);
    }
    sum.both()
}

fn sample_as_json(sample: &Sample) -> Value {
    let latencies = sample.tally.both();
    let mut figures = json!({
        "seconds": sample.tally.took.as_secs_f64(),
        "operations": sample.tally.done(),
        "per_second": sample.per_second(),
        "failed": sample.tally.failed,
        "unknown": sample.tally.unknown,
        "max_ms": millis(latencies.max()),
        "cpu_us": {
            "client": sample.cost(sample.cpu.client),
            "server": sample.cost(sample.cpu.server),
            "backups": sample.cost(sample.cpu.backups),
        },
    });
    for (name, quantile) in QUANTILES {
        figures[format!("{name}_ms")] = json!(millis(latencies.at(quantile)));
    }
    figures
}

/// A rate with three figures.
fn thousands(rate: f64) -> String {
    match rate {
        rate if rate < 1e3 => format!("{rate:.0}"),
        rate if rate < 1e4 => format!("{:.2}k", rate / 1e3),
        rate if rate < 1e5 => format!("{:.1}k", rate / 1e3),
        rate => format!("{:.0}k", rate / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::End;

    fn sample(calls: u64, latency: Duration) -> Sample {
        let mut tally = Tally { took: Duration::from_secs(1), ..Tally::default() };
        for _ in 0..calls {
            tally.record(false, latency, End::Done);
        }
        Sample { tally, cpu: Cpu { server: Duration::from_millis(calls), ..Cpu::default() } }
    }

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    const PUT: What = What::Put { backups: 1 };

    /// A slow spell in the second round: everything takes three times as long.
    fn with_a_slow_spell() -> Comparison {
        let mut comparison = Comparison::default();
        for slow in [1, 3, 1] {
            let mut add = |what, callers, calls, latency: u64| {
                comparison.add(Case { what, callers }, sample(calls / slow, us(latency * slow)));
            };
            add(What::Echo, 1, 300, 100);
            add(PUT, 1, 150, 180);
            add(What::Echo, 200, 900, 2_000);
            add(PUT, 200, 360, 5_000);
        }
        comparison
    }

    #[test]
    fn a_slow_spell_of_the_machine_leaves_ratios_as_they_are() {
        let comparison = with_a_slow_spell();
        let ratio = comparison.of_echo(Case { what: PUT, callers: 200 }).expect("measured");
        assert!((ratio.low - 0.4).abs() < 0.01 && (ratio.high - 0.4).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn goals_are_judged_by_the_median_and_only_where_something_was_measured() {
        let goals = with_a_slow_spell().goals();
        let verdicts: Vec<_> = goals.iter().map(|goal| (goal.bound, goal.is_met())).collect();
        assert_eq!(verdicts, [(0.5, false), (1.9, true)]);
    }

    #[test]
    fn every_case_has_a_row_that_says_what_a_call_costs() {
        let (header, rows) = with_a_slow_spell().table(Detail::Ranges);
        assert!(rows.iter().all(|row| row.len() == header.len()));
        let put = &rows[3];
        assert_eq!(put[..2], ["put, one backup", "200"]);
        assert_eq!(put[2], "360 (120-360)");
        let server = header.iter().position(|&title| title == "server").expect("a column");
        assert_eq!(put[server], "1000.0 us");
        assert_eq!(put.last().map(String::as_str), Some("1.00"), "as much as an echo costs here");
    }

    #[test]
    fn no_two_columns_have_the_same_title() {
        let (header, _) = with_a_slow_spell().table(Detail::Medians);
        assert_eq!((header[CASE_COLUMNS], header[COST_COLUMNS]), ("per second", "client"));
        let titles: std::collections::BTreeSet<_> = header.iter().collect();
        assert_eq!(titles.len(), header.len(), "{header:?}");
    }

    #[test]
    fn goals_of_few_or_short_rounds_are_not_judged() {
        let mut comparison = with_a_slow_spell();
        assert_eq!(comparison.too_small(Duration::from_secs(1)), None);
        assert!(comparison.too_small(Duration::from_millis(60)).is_some());
        comparison.add(Case { what: What::Get, callers: 1 }, sample(1, us(1)));
        let why = comparison.too_small(Duration::from_secs(1));
        assert_eq!(why.as_deref(), Some("fewer than 3 rounds"));
    }

    #[test]
    fn calls_that_did_not_end_well_are_told() {
        let mut comparison = with_a_slow_spell();
        assert_eq!(comparison.troubles(), [""; 0]);
        let mut bad = sample(1, us(1));
        bad.tally.record(false, us(1), End::Unknown);
        comparison.add(Case { what: What::Get, callers: 50 }, bad);
        assert_eq!(comparison.troubles(), ["get, one backup, 50 at once: 0 failed, 1 unknown"]);
    }

    #[test]
    fn a_round_measures_the_echo_at_every_number_of_calls_that_is_compared_with_it() {
        let cases = cases(&[1, 50, 200]);
        assert_eq!(cases.len(), 14);
        for case in &cases {
            assert!(cases.contains(&Case { what: What::Echo, ..*case }), "{case:?}");
        }
    }
}
