//! Which filters and scores take part, and how much each score weighs.

use crate::filter::{self, Filter};
use crate::score::{self, Score};

/// A way to schedule.
pub struct Profile {
    /// All must agree.
    pub filters: Vec<&'static Filter>,
    /// Summed by weight.
    pub scores: Vec<(&'static Score, i64)>,
    /// Decides between nodes that are equally good.
    pub seed: u64,
}

impl Profile {
    /// Every filter and score, weighed as Kubernetes does.
    pub fn standard(seed: u64) -> Self {
        Self {
            filters: filter::ALL.iter().collect(),
            scores: score::ALL.iter().map(|(score, weight)| (score, *weight)).collect(),
            seed,
        }
    }
}
