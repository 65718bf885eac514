//! Counts of samples in buckets that grow by a twentieth: small, and wrong by 5 % at most.
//!
//! A percentile is the upper end of its bucket, so it is never below the truth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Each bucket ends 5 % above the one before.
const GROWTH: f64 = 1.05;

/// Where the first bucket ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale(f64);

impl Scale {
    /// One millicore.
    pub(super) const CPU: Self = Self(1.0);
    /// One MiB.
    pub(super) const MEMORY: Self = Self(1_048_576.0);

    fn bucket(self, value: i64) -> u16 {
        let ratio = value.max(0) as f64 / self.0;
        if ratio <= 1.0 {
            return 0;
        }
        // Less a hair, so that a bucket's own end is in it.
        let at = (ratio.ln() / GROWTH.ln() - 1e-9).ceil();
        if at >= f64::from(u16::MAX) { u16::MAX } else { at as u16 }
    }

    fn end(self, bucket: u16) -> i64 {
        (self.0 * GROWTH.powi(i32::from(bucket))).ceil() as i64
    }
}

/// How many samples fell into each bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u32)>", into = "Vec<(u16, u32)>")]
pub(super) struct Histogram(BTreeMap<u16, u32>);

impl From<Vec<(u16, u32)>> for Histogram {
    fn from(pairs: Vec<(u16, u32)>) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl From<Histogram> for Vec<(u16, u32)> {
    fn from(own: Histogram) -> Self {
        own.0.into_iter().collect()
    }
}

impl Histogram {
    pub(super) fn add(&mut self, scale: Scale, value: i64) {
        let count = self.0.entry(scale.bucket(value)).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn samples(&self) -> u64 {
        self.0.values().map(|count| u64::from(*count)).sum()
    }

    /// Adds its counts, each `weight` times, to `all`.
    pub(super) fn pour(&self, weight: f64, all: &mut BTreeMap<u16, f64>) {
        for (bucket, count) in &self.0 {
            *all.entry(*bucket).or_default() += weight * f64::from(*count);
        }
    }
}

/// The end of the bucket at or below which `share` of all weight is.
pub(super) fn percentile(scale: Scale, counts: &BTreeMap<u16, f64>, share: f64) -> i64 {
    let wanted = counts.values().sum::<f64>() * share;
    let mut seen = 0.0;
    for (bucket, weight) in counts {
        seen += weight;
        if seen >= wanted - 1e-9 {
            return scale.end(*bucket);
        }
    }
    counts.keys().next_back().map_or(0, |last| scale.end(*last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_own_end_and_no_value_is_understated() {
        for scale in [Scale::CPU, Scale::MEMORY] {
            for value in [0, 1, 2, 999, 1_048_576, 1_048_577, 5 << 30, i64::MAX] {
                let bucket = scale.bucket(value);
                let end = scale.end(bucket);
                assert!(end >= value, "{value} in {bucket} to {end}");
                let first = scale.0 as i64;
                assert!(end as f64 <= (value.max(first) as f64) * 1.06 + 1.0, "{value} to {end}");
            }
        }
    }
}
