//! How values are spread, in a few bytes: how many fell between each two steps of 5 %.
//!
//! Spreads of hours add up to that of a month, which percentiles do not.

use std::collections::BTreeMap;

const STEP: f64 = 1.05;

/// Counts by step; a percentile is at most 5 % above the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spread(BTreeMap<u16, u64>);

impl Spread {
    /// One more value.
    pub fn add(&mut self, value: i64) {
        let step = if value <= 0 { 0 } else { (value as f64).log(STEP).ceil() as u16 + 1 };
        *self.0.entry(step).or_default() += 1;
    }

    /// All of another.
    pub fn merge(&mut self, other: &Self) {
        for (step, count) in &other.0 {
            *self.0.entry(*step).or_default() += count;
        }
    }

    /// The value that `share` of all do not exceed; 0 of none.
    pub fn percentile(&self, share: f64) -> i64 {
        let all: u64 = self.0.values().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (step, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return match step {
                    0 => 0,
                    step => STEP.powi(i32::from(*step) - 1).floor() as i64,
                };
            }
        }
        0
    }

    /// `step:count` for each, as the database keeps it.
    pub fn written(&self) -> String {
        let all: Vec<String> =
            self.0.iter().map(|(step, count)| format!("{step}:{count}")).collect();
        all.join(" ")
    }

    /// Of [`Spread::written`]; what is no such thing counts for nothing.
    pub fn read(text: &str) -> Self {
        let pair = |pair: &str| {
            let (step, count) = pair.split_once(':')?;
            Some((step.parse().ok()?, count.parse().ok()?))
        };
        Self(text.split(' ').filter_map(pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_step_of_the_truth() {
        let mut spread = Spread::default();
        for value in 1..=1000 {
            spread.add(value);
        }
        for (share, truth) in [(0.5, 500.0), (0.95, 950.0), (1.0, 1000.0)] {
            let told = spread.percentile(share) as f64;
            assert!((truth * 0.999..=truth * STEP).contains(&told), "{share}: {told}");
        }
        assert_eq!(Spread::default().percentile(0.95), 0);
        let mut idle = Spread::default();
        idle.add(0);
        assert_eq!(idle.percentile(0.95), 0);
        let mut large = Spread::default();
        large.add(i64::MAX);
        assert!(large.percentile(0.95) > i64::MAX / 2);
    }

    #[test]
    fn what_is_written_is_read_and_adds_up() {
        let (mut one, mut other) = (Spread::default(), Spread::default());
        for value in [0, 1, 7, 7, 1 << 40] {
            one.add(value);
            other.add(value * 2);
        }
        assert_eq!(Spread::read(&one.written()), one);
        assert_eq!(Spread::read(""), Spread::default());
        assert_eq!(Spread::read("x 1: :2 3:4 ").written(), "3:4");
        let mut both = one.clone();
        both.merge(&other);
        assert_eq!(both.0.values().sum::<u64>(), 10);
    }
}
