//! One figure, its goal, and what a peer gave in the same run.

use std::fmt;

use serde::Serialize;

/// A measured budget. Smaller is better but for rates.
#[derive(Clone, Debug, Serialize)]
pub struct Budget {
    /// `GROUP-WHAT`, with the unit at its end (`_s`, `_ms`, `_mib`, `_percent`) unless it counts.
    pub name: String,
    /// The median of the samples.
    pub ours: f64,
    /// What the peer gave in this run; none where there is no peer, or it is not installed.
    pub peer: Option<f64>,
    /// At most this; for rates, at least.
    pub goal: f64,
    /// Whether it was reached.
    pub met: bool,
    /// Every sample, in the order they were taken.
    pub samples: Vec<f64>,
}

impl Budget {
    /// A budget of `samples` that should be at most `goal` (its median).
    pub fn at_most(name: &str, goal: f64, samples: Vec<f64>) -> Self {
        let ours = median(&samples);
        Self { name: name.to_owned(), ours, peer: None, goal, met: ours <= goal, samples }
    }

    /// A budget of `samples` that should be at least `goal` (its median).
    pub fn at_least(name: &str, goal: f64, samples: Vec<f64>) -> Self {
        let ours = median(&samples);
        Self { name: name.to_owned(), ours, peer: None, goal, met: ours >= goal, samples }
    }

    /// With the peer's figure of the same run.
    pub fn beside(mut self, peer: Option<f64>) -> Self {
        self.peer = peer;
        self
    }
}

/// The sample in the middle, not a number when there is none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ours, peer, goal, met, .. } = self;
        let shown = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
        let (peer, ratio) = (shown(*peer), shown(peer.map(|peer| ours / peer)));
        let met = if *met { "met" } else { "missed" };
        write!(f, "budget {name} ours={ours:.3} peer={peer} ratio={ratio} goal={goal} {met}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_judged_by_its_median_and_shown_in_one_line() {
        let budget = Budget::at_most("main-up_s", 3.0, vec![2.0, 9.0, 1.0]);
        let line = "budget main-up_s ours=2.000 peer=- ratio=- goal=3 met";
        assert_eq!(budget.to_string(), line);
        let beside = Budget::at_most("x", 1.0, vec![2.0]).beside(Some(4.0)).to_string();
        assert_eq!(beside, "budget x ours=2.000 peer=4.000 ratio=0.500 goal=1 missed");
    }
}
