//! What is counted of a scheduler, live or not.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Counted since the shadow began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Pods that it gave a node.
    pub decided: u64,
    /// Pods that it and the live scheduler gave the same node.
    pub same: u64,
    /// Pods that they gave different nodes.
    pub other: u64,
    /// Pods for which it found no node when it first looked.
    pub refused: u64,
    /// Pods that had to go for a more important one, or with their node.
    pub displaced: u64,
    /// The first of the refused.
    pub first_failure: Option<FirstFailure>,
    /// A policy: to decide. The live scheduler: from when its pod was seen until its node was.
    pub took: Timing,
}

/// A pod that was the first to find no place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstFailure {
    /// When.
    pub at: Timestamp,
    /// Its name with its namespace.
    pub pod: String,
}

/// Upper bounds of the buckets in microseconds: decisions take some, live bindings many.
pub(super) const BOUNDS_US: [u64; 20] = [
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// How long something took, in buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// How often.
    pub count: u64,
    /// Together.
    pub sum_us: u64,
    /// By the first bound that is not below; what is beyond all is only in `count`.
    pub(super) buckets: [u64; BOUNDS_US.len()],
}

impl Timing {
    /// Once more.
    pub fn see(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket] += 1;
        }
    }

    /// On average, microseconds.
    pub fn mean_us(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64)
    }

    /// The bound that so many percent do not exceed, microseconds; none for nothing, or beyond all.
    pub fn percentile_us(&self, percent: u64) -> Option<u64> {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        let reached = |bucket: &u64| {
            seen += bucket;
            seen >= wanted
        };
        let at = self.buckets.iter().position(reached).filter(|_| self.count > 0);
        at.map(|at| BOUNDS_US[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_bounds_that_so_many_do_not_exceed() {
        let mut timing = Timing::default();
        assert_eq!((timing.mean_us(), timing.percentile_us(99)), (None, None));
        (0..98).for_each(|_| timing.see(Duration::from_micros(7)));
        timing.see(Duration::from_micros(700));
        timing.see(Duration::from_secs(4000));
        assert_eq!(timing.percentile_us(50), Some(10));
        assert_eq!(timing.percentile_us(98), Some(10));
        assert_eq!(timing.percentile_us(99), Some(1_000));
        assert_eq!(timing.percentile_us(100), None, "beyond all bounds");
    }
}
