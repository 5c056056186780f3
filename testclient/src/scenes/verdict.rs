//! What a scene ends with: tables, and a verdict on each requirement. Pure.

use serde_json::{Value, json};

/// A table for people, in Markdown, so that it can go into a page as it is.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(|&title| title.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn as_markdown(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = lines().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
            })
            .collect();
        let mut text = String::new();
        for (number, row) in lines().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                text += &format!("| {cell:<width$} ");
            }
            text += "|\n";
            if number == 0 {
                for width in &widths {
                    text += &format!("|{}", "-".repeat(width + 2));
                }
                text += "|\n";
            }
        }
        text
    }
}

/// One requirement, and whether it was met.
#[derive(Clone, PartialEq, Debug)]
pub struct Requirement {
    what: String,
    measured: String,
    wanted: String,
    met: bool,
}

impl Requirement {
    /// A figure that must not be above a limit. What could not be measured is no figure and misses.
    #[must_use]
    pub fn at_most(what: &str, measured: f64, limit: f64, unit: &str) -> Requirement {
        Requirement {
            what: what.to_owned(),
            measured: figure(measured, unit),
            wanted: format!("at most {}", figure(limit, unit)),
            met: measured <= limit,
        }
    }

    /// A figure that must not be below a limit.
    #[must_use]
    pub fn at_least(what: &str, measured: f64, limit: f64, unit: &str) -> Requirement {
        Requirement {
            what: what.to_owned(),
            measured: figure(measured, unit),
            wanted: format!("at least {}", figure(limit, unit)),
            met: measured >= limit,
        }
    }
}

/// A number with three figures and its unit.
#[must_use]
pub fn figure(number: f64, unit: &str) -> String {
    let decimals = match number.abs() {
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let space = if unit.is_empty() { "" } else { " " };
    format!("{number:.decimals$}{space}{unit}")
}

/// The value in the middle; not a number when there is none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// What a scene ends with.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which scene, and how it was set.
    pub title: String,
    /// What was measured.
    pub table: Table,
    /// Sentences on what the table does not show.
    pub remarks: Vec<String>,
    /// What had to hold.
    pub requirements: Vec<Requirement>,
    /// All figures, for programs.
    pub figures: Value,
}

impl Verdict {
    /// Whether every requirement was met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.requirements.iter().all(|requirement| requirement.met)
    }

    /// For people.
    #[must_use]
    pub fn as_text(&self) -> String {
        let mut text = format!("{}\n\n{}", self.title, self.table.as_markdown());
        for remark in &self.remarks {
            text += &format!("\n{remark}\n");
        }
        text.push('\n');
        for Requirement { what, measured, wanted, met } in &self.requirements {
            let word = if *met { "met   " } else { "MISSED" };
            text += &format!("{word}  {what}: {measured} ({wanted})\n");
        }
        text
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
                    "met": one.met,
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

    #[test]
    fn one_missed_requirement_is_a_missed_verdict() {
        let met = Requirement::at_most("longest write", 12.0, 100.0, "ms");
        let missed = Requirement::at_least("throughput", 0.59, 0.6, "of before");
        let verdict = |requirements| Verdict {
            title: "a scene".into(),
            table: Table::new(&["phase"]),
            remarks: Vec::new(),
            requirements,
            figures: json!({}),
        };
        assert!(verdict(vec![met.clone()]).is_met());
        let both = verdict(vec![met, missed]);
        assert!(!both.is_met());
        let text = both.as_text();
        assert!(text.contains("met     longest write: 12.0 ms (at most 100 ms)"), "{text}");
        assert!(text.contains("MISSED  throughput: 0.59 of before (at least 0.60"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(!Requirement::at_most("longest write", f64::NAN, 100.0, "ms").met);
        assert!(!Requirement::at_least("transfer", f64::NAN, 100.0, "MB/s").met);
    }

    #[test]
    fn a_table_is_markdown_with_even_columns() {
        let mut table = Table::new(&["phase", "p99"]);
        table.row(["before".to_owned(), "1 ms".to_owned()]);
        let expected = "| phase  | p99  |\n|--------|------|\n| before | 1 ms |\n";
        assert_eq!(table.as_markdown(), expected);
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
