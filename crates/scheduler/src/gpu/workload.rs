//! Which demands are typical, by how often each arrives.

use std::collections::HashMap;

use super::Demand;

/// So many different demands are learned; what comes beyond is not typical.
const MOST_DEMANDS: usize = 16_384;

/// Typical demands with their shares, which sum to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// By share, the largest first.
    pub typical: Vec<(Demand, f64)>,
}

impl Workload {
    /// From a count of each demand: the most frequent ones that make up `coverage` (0..=1) of all.
    /// Memory is left out: it has a share in none of the fragmentation measures.
    pub fn from_counts(counts: impl IntoIterator<Item = (Demand, f64)>, coverage: f64) -> Self {
        let mut merged: HashMap<Demand, f64> = HashMap::new();
        for (demand, count) in counts {
            *merged.entry(Demand { memory_mib: 0, ..demand }).or_default() += count;
        }
        let mut typical: Vec<_> = merged.into_iter().collect();
        typical.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let wanted = typical.iter().map(|(_, count)| count).sum::<f64>() * coverage;
        let mut covered = 0.0;
        typical.retain(|(_, count)| {
            let keep = covered < wanted;
            covered += if keep { *count } else { 0.0 };
            keep
        });
        typical.iter_mut().for_each(|(_, count)| *count /= covered);
        Self { typical }
    }
}

/// Learns the workload from what arrives.
#[derive(Clone, Debug, Default)]
pub struct Learner {
    counts: HashMap<Demand, f64>,
    seen: u64,
    /// How many had been seen when the last workload was handed out.
    told: u64,
}

impl Learner {
    /// Begins with what `workload` says, as if so many pods of it had been seen.
    pub fn told(workload: &Workload, pods: u32) -> Self {
        let counts = workload.typical.iter();
        Self {
            counts: counts.map(|(demand, share)| (*demand, share * f64::from(pods))).collect(),
            seen: u64::from(pods),
            told: u64::from(pods),
        }
    }

    /// One more has arrived.
    pub fn saw(&mut self, demand: &Demand) {
        let demand = Demand { memory_mib: 0, ..*demand };
        if self.counts.len() >= MOST_DEMANDS && !self.counts.contains_key(&demand) {
            return;
        }
        *self.counts.entry(demand).or_default() += 1.0;
        self.seen += 1;
    }

    /// Hands the workload out anew the next time, if enough has been seen.
    pub fn forget_telling(&mut self) {
        self.told = 0;
    }

    /// The workload so far when a quarter more has arrived since the last one, else none.
    pub fn news(&mut self, coverage: f64) -> Option<Workload> {
        if self.seen < 64.max(self.told + self.told / 4) {
            return None;
        }
        self.told = self.seen;
        let counts = self.counts.iter().map(|(demand, count)| (*demand, *count));
        Some(Workload::from_counts(counts, coverage))
    }
}
