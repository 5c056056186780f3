//! What a scene ends with: a table, and a verdict on each requirement. Pure.

use serde_json::{Value, json};

use crate::bench::page;
use crate::bench::spread::Spread;
use crate::report;

/// One requirement, and whether it was met.
#[derive(Clone, PartialEq, Debug)]
pub struct Requirement {
    what: String,
    measured: String,
    wanted: String,
    judgement: Judgement,
}

#[derive(Clone, PartialEq, Debug)]
enum Judgement {
    Met,
    Missed,
    /// There is no figure, where there should be one.
    NotMeasured,
    /// The scene was too small for this to mean anything; why.
    NotJudged(String),
}

impl Judgement {
    fn of(measured: f64, holds: bool) -> Judgement {
        match (measured.is_nan(), holds) {
            (true, _) => Judgement::NotMeasured,
            (false, true) => Judgement::Met,
            (false, false) => Judgement::Missed,
        }
    }

    fn in_words(&self) -> String {
        match self {
            Judgement::Met => "met".to_owned(),
            Judgement::Missed => "missed".to_owned(),
            Judgement::NotMeasured => "not measured".to_owned(),
            Judgement::NotJudged(why) => format!("not judged: {why}"),
        }
    }
}

impl Requirement {
    /// A figure that must not be above a limit.
    #[must_use]
    pub fn at_most(what: &str, measured: f64, limit: f64, unit: &str) -> Requirement {
        Requirement {
            what: what.to_owned(),
            measured: figure(measured, unit),
            wanted: format!("at most {}", figure(limit, unit)),
            judgement: Judgement::of(measured, measured <= limit),
        }
    }

    /// A figure that must not be below a limit.
    #[must_use]
    pub fn at_least(what: &str, measured: f64, limit: f64, unit: &str) -> Requirement {
        Requirement {
            what: what.to_owned(),
            measured: figure(measured, unit),
            wanted: format!("at least {}", figure(limit, unit)),
            judgement: Judgement::of(measured, measured >= limit),
        }
    }

    /// The same, not judged if there is a reason for that.
    #[must_use]
    pub fn unless(self, too_small: Option<&String>) -> Requirement {
        match too_small {
            Some(why) => Requirement { judgement: Judgement::NotJudged(why.clone()), ..self },
            None => self,
        }
    }
}

/// A number with three figures and its unit.
#[must_use]
pub fn figure(number: f64, unit: &str) -> String {
    if number.is_nan() {
        return "not measured".to_owned();
    }
    if number.is_infinite() {
        return "never".to_owned();
    }
    let decimals = match number.abs() {
        whole if whole == whole.trunc() => 0,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let space = if unit.is_empty() { "" } else { " " };
    format!("{number:.decimals$}{space}{unit}")
}

/// The figure in the middle; not a number when there is none.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    Spread::of(figures.iter().copied()).map_or(f64::NAN, |spread| spread.median)
}

/// What a scene ends with.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which scene, and how it was set.
    pub title: String,
    /// Columns of what was measured.
    pub header: Vec<&'static str>,
    /// What was measured.
    pub rows: Vec<Vec<String>>,
    /// Sentences on what the table does not show.
    pub remarks: Vec<String>,
    /// What had to hold.
    pub requirements: Vec<Requirement>,
    /// All figures, for programs.
    pub figures: Value,
}

impl Verdict {
    /// Whether every requirement that was judged is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        let passes =
            |one: &Requirement| matches!(one.judgement, Judgement::Met | Judgement::NotJudged(_));
        self.requirements.iter().all(passes)
    }

    /// For people at a terminal.
    #[must_use]
    pub fn as_text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.title, report::table(&self.header, &self.rows));
        for remark in &self.remarks {
            text += &format!("{remark}\n");
        }
        text.push('\n');
        for Requirement { what, measured, wanted, judgement } in &self.requirements {
            let (word, why) = match judgement {
                Judgement::Met => ("met   ", String::new()),
                Judgement::Missed => ("MISSED", String::new()),
                other => ("-     ", format!("; {}", other.in_words())),
            };
            text += &format!("{word}  {what}: {measured} ({wanted}){why}\n");
        }
        text.trim_end().to_owned()
    }

    /// For a page.
    #[must_use]
    pub fn as_markdown(&self) -> String {
        let mut text = format!("{}.\n\n{}", self.title, page::table(&self.header, &self.rows));
        if !self.remarks.is_empty() {
            text += &format!("\n{}\n", self.remarks.join(" "));
        }
        let row = |one: &Requirement| {
            let Requirement { what, measured, wanted, judgement } = one;
            vec![what.clone(), measured.clone(), wanted.clone(), judgement.in_words()]
        };
        let rows: Vec<_> = self.requirements.iter().map(row).collect();
        text + "\n" + &page::table(&["requirement", "measured", "wanted", ""], &rows)
    }

    /// For programs.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let requirements: Vec<Value> = self
            .requirements
            .iter()
            .map(|one| {
                json!({
                    "what": one.what,
                    "measured": one.measured,
                    "wanted": one.wanted,
                    "verdict": one.judgement.in_words(),
                })
            })
            .collect();
        json!({
            "version": kvprocess::VERSION,
            "title": self.title,
            "met": self.is_met(),
            "requirements": requirements,
            "figures": self.figures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::too_small;

    #[test]
    fn one_missed_requirement_is_a_missed_verdict() {
        let met = Requirement::at_most("longest write", 12.0, 100.0, "ms");
        let missed = Requirement::at_least("throughput", 0.59, 0.6, "of before");
        let verdict = |requirements| Verdict {
            title: "a scene".into(),
            header: vec!["phase", "writes/s"],
            rows: vec![vec!["joining".into(), "7".into()]],
            remarks: Vec::new(),
            requirements,
            figures: json!({}),
        };
        assert!(verdict(vec![met.clone()]).is_met());
        let both = verdict(vec![met, missed]);
        assert!(!both.is_met());
        let text = both.as_text();
        assert!(text.contains("met     longest write: 12 ms (at most 100 ms)"), "{text}");
        assert!(text.contains("MISSED  throughput: 0.59 of before (at least 0.60"), "{text}");
        let page = both.as_markdown();
        assert!(page.contains("| joining | 7 |\n"), "{page}");
        assert!(
            page.contains("| throughput | 0.59 of before | at least 0.60 of before | missed |")
        );
    }

    fn of(requirement: Requirement) -> Verdict {
        Verdict {
            title: "a scene".into(),
            header: vec!["phase"],
            rows: Vec::new(),
            remarks: Vec::new(),
            requirements: vec![requirement],
            figures: json!({}),
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let verdict = of(Requirement::at_most("longest write", f64::NAN, 100.0, "ms"));
        assert!(!verdict.is_met());
        assert!(verdict.as_text().contains("not measured"), "{}", verdict.as_text());
        assert!(!verdict.as_text().contains("MISSED"), "{}", verdict.as_text());
    }

    #[test]
    fn a_scene_that_is_too_small_is_not_judged() {
        let why = too_small(&[(5, 3, "rounds"), (5_000, 1_000_000, "keys")]);
        let requirement = Requirement::at_most("memory", 1678.0, 260.0, "bytes");
        assert!(!of(requirement.clone().unless(None)).is_met());
        let verdict = of(requirement.unless(why.as_ref()));
        assert!(verdict.is_met());
        let text = verdict.as_text();
        assert!(text.contains("not judged: fewer than 1000000 keys"), "{text}");
        assert!(verdict.as_markdown().contains("| not judged: fewer than 1000000 keys |"));
    }
}
