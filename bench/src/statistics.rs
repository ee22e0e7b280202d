//! What several rounds of one figure say together.

use serde::{Deserialize, Serialize};

/// The rounds of one figure, in the order in which they were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rounds {
    /// One value a round.
    pub values: Vec<f64>,
    /// The middle one.
    pub median: f64,
    /// The least one.
    pub lowest: f64,
    /// The greatest one.
    pub highest: f64,
}

impl Rounds {
    /// The rounds with these values; none without a value.
    pub(crate) fn of(values: Vec<f64>) -> Option<Self> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&sorted)?,
            lowest: *sorted.first()?,
            highest: *sorted.last()?,
            values,
        })
    }

    /// How far the rounds lie apart, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.median == 0.0 {
            return 0.0;
        }
        (self.highest - self.lowest) / self.median
    }
}

/// The value below which this share of the sorted values lies (nearest rank).
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let below = sorted
        .iter()
        .zip(1_u32..)
        .find(|(_, rank)| f64::from(*rank) >= share * sorted.len() as f64);
    below.map(|(value, _)| *value)
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_rounds_has_its_middle_one_as_median() {
        let rounds = Rounds::of(vec![30.0, 10.0, 20.0]).unwrap();
        assert_eq!(rounds.values, [30.0, 10.0, 20.0]);
        assert_eq!(Some(rounds.lowest), Some(10.0));
        assert_eq!(Some(rounds.median), Some(20.0));
        assert_eq!(Some(rounds.highest), Some(30.0));
        assert!((rounds.spread() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_even_number_of_rounds_has_the_mean_of_the_middle_two_as_median() {
        let median = Rounds::of(vec![4.0, 1.0, 2.0, 100.0]).unwrap().median;
        assert!((median - 3.0).abs() < 1e-9);
    }

    #[test]
    fn no_rounds_say_nothing() {
        assert_eq!(Rounds::of(Vec::new()), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), Some(100.0));
        assert_eq!(quantile(&sorted, 0.99), Some(198.0));
        assert_eq!(quantile(&sorted, 1.0), Some(200.0));
        assert_eq!(quantile(&sorted[..1], 0.99), Some(1.0));
    }
}
