//! One figure over several rounds. Pure.

use std::fmt;

/// Median, smallest and largest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// Of these figures; `None` when there are none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let (lower, upper) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Spread { median: f64::midpoint(lower, upper), low, high })
    }

    /// As `median (low-high)`, each worded by `word`; without the range when there is none.
    pub fn worded(&self, word: impl Fn(f64) -> String) -> String {
        let Spread { median, low, high } = *self;
        if low == high {
            return word(median);
        }
        format!("{} ({}-{})", word(median), word(low), word(high))
    }
}

/// Two decimals.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.worded(|figure| format!("{figure:.2}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_between_the_extremes() {
        let spread = Spread::of([3.0, 1.0, 2.0]).expect("three figures");
        assert_eq!(spread, Spread { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(spread.to_string(), "2.00 (1.00-3.00)");
        assert_eq!(Spread::of([4.0, 1.0]).expect("two figures").median, 2.5);
        assert_eq!(Spread::of([7.0]).expect("one figure").to_string(), "7.00");
        assert_eq!(Spread::of([]), None);
    }
}
