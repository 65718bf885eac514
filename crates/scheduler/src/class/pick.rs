//! The choice among buckets: which may be used, what each is worth beside the others.
//!
//! Source: the normalisation of each score as kube-scheduler's documentation and KEP-895 state it.

use crate::class::domains::{Duty, Tally};
use crate::class::{Bucket, Class, Refusal};
use crate::profile::{Filter, Score};
use crate::snapshot::Pod;
use crate::world::{NONE, World};

/// The best node, and how many there were to choose from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked {
    pub node: u32,
    pub score: i64,
    pub candidates: u32,
}

/// What scores are compared with: the extremes among the nodes that will do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Norms {
    most_disliked: i64,
    most_met: i64,
    spread: Option<(i64, i64)>,
    wish: Option<(i64, i64)>,
    /// For each tally of a soft spread, what one pod counts: more where there are more domains.
    per_pod: Vec<f64>,
}

impl Class {
    /// The best node.
    pub fn pick(&mut self) -> Option<Picked> {
        let open = self.open();
        let norms = self.norms(&open);
        let mut best: Option<(i64, u64, u32)> = None;
        let mut candidates = 0;
        for bucket in open {
            candidates += self.buckets[bucket].len;
            let worth: i64 = self.worth(bucket, &norms).iter().map(|(_, value)| value).sum();
            if let Some((score, rank, node)) = self.best_of(bucket) {
                best = best.max(Some((score + worth, rank, node)));
            }
        }
        best.map(|(score, _, node)| Picked { node, score, candidates })
    }

    /// Buckets with nodes, none of whose domains refuse the pod.
    pub fn open(&self) -> Vec<usize> {
        let filled = (0..self.buckets.len()).filter(|at| self.buckets[*at].len > 0);
        filled.filter(|at| self.bucket_refuses(*at).is_none()).collect()
    }

    /// Why the domains that a bucket stands for refuse the pod.
    pub fn bucket_refuses(&self, bucket: usize) -> Option<Refusal> {
        if self.tallies.is_empty() {
            return None;
        }
        let Bucket { key, awaited, .. } = &self.buckets[bucket];
        let there = |index: usize| self.tallies[index].value(key[2 + index]);
        self.domains_refuse(there, &[]).or_else(|| self.refuses_with(there, awaited))
    }

    /// As [`Class::domains_refuse`], were the awaited pods there too; a node must do both ways.
    fn refuses_with(
        &self,
        there: impl Fn(usize) -> Option<i64>,
        awaited: &[i64],
    ) -> Option<Refusal> {
        if awaited.is_empty() {
            return None;
        }
        let less: Vec<i64> = awaited.iter().map(|more| -more).collect();
        self.domains_refuse(|index| there(index).map(|sum| sum + awaited[index]), &less)
    }

    /// What pods that room on a node is being made for, as important as this one at least, would add
    /// to each tally that refuses; empty for nothing.
    ///
    /// Source: kube-scheduler counts nominated pods on the node that is looked at, and only there.
    pub fn awaited(&self, world: &World, at: u32) -> Vec<i64> {
        let nominated = &world.nodes[at as usize].nominated;
        if nominated.is_empty() || self.tallies.is_empty() {
            return Vec::new();
        }
        let own = &self.ask.pod;
        let ahead =
            || nominated.iter().filter(|each| each.priority >= own.priority && each.uid != own.uid);
        let amount = |tally: &Tally| {
            let counts = tally.counts(at) && tally.duty.refuses();
            let of = |pod: &Pod| world.counters.amount(tally.counter, pod, &world.namespaces);
            if counts { ahead().map(|pod| of(pod)).sum() } else { 0 }
        };
        let more: Vec<i64> = self.tallies.iter().map(amount).collect();
        if more.iter().all(|more| *more == 0) { Vec::new() } else { more }
    }

    /// Why a node's domains refuse the pod once `gone`, pods on that node, are gone.
    pub fn node_refuses(&self, world: &World, at: u32, gone: &[&Pod]) -> Option<Refusal> {
        let less: Vec<i64> = self
            .tallies
            .iter()
            .map(|tally| {
                let counts = tally.counts(at);
                let live = gone.iter().filter(|pod| {
                    counts && !(pod.terminating && matches!(tally.duty, Duty::Hard { .. }))
                });
                let amount =
                    |pod: &&&Pod| world.counters.amount(tally.counter, pod, &world.namespaces);
                live.map(|pod| amount(&pod)).sum()
            })
            .collect();
        let there = |index: usize| self.tallies[index].at(at).map(|sum| sum - less[index]);
        self.domains_refuse(there, &less).or_else(|| {
            let awaited = self.awaited(world, at);
            if awaited.is_empty() {
                return None;
            }
            let less: Vec<i64> =
                less.iter().zip(&awaited).map(|(less, more)| less - more).collect();
            let there = |index: usize| self.tallies[index].at(at).map(|sum| sum - less[index]);
            self.domains_refuse(there, &less)
        })
    }

    fn domains_refuse(
        &self,
        value: impl Fn(usize) -> Option<i64>,
        less: &[i64],
    ) -> Option<Refusal> {
        let refuse = |filter, detail| Some(Refusal { filter, detail });
        for (index, tally) in self.tallies.iter().enumerate() {
            if let Duty::Hard { skew, least_domains, own } = tally.duty {
                let Some(there) = value(index) else {
                    return refuse(Filter::PodTopologySpread, 8);
                };
                let fewest = match less.get(index) {
                    None | Some(0) => tally.fewest(least_domains),
                    Some(less) => tally.fewest_if(there + less, there, least_domains),
                };
                if there + own - fewest > skew {
                    return refuse(Filter::PodTopologySpread, 1);
                }
            }
        }
        let (mut near, mut none_anywhere, mut labelled) = (true, true, true);
        for (index, tally) in self.tallies.iter().enumerate() {
            if matches!(tally.duty, Duty::Near) {
                let there = value(index);
                labelled &= there.is_some();
                near &= there.is_some_and(|there| there > 0);
                none_anywhere &= tally.total - less.get(index).copied().unwrap_or(0) <= 0;
            }
        }
        // The first of a group that wants to be near itself may go anywhere.
        let first = labelled && none_anywhere && self.near_itself;
        if !near && !first {
            return refuse(Filter::InterPodAffinity, 8);
        }
        for (detail, repelled) in [(1, false), (2, true)] {
            let hit = self.tallies.iter().enumerate().any(|(index, tally)| {
                let asked = if repelled {
                    matches!(tally.duty, Duty::Repelled)
                } else {
                    matches!(tally.duty, Duty::Away)
                };
                asked && value(index).is_some_and(|there| there > 0)
            });
            if hit {
                return refuse(Filter::InterPodAffinity, detail);
            }
        }
        None
    }

    /// The extremes among `open` buckets.
    pub fn norms(&self, open: &[usize]) -> Norms {
        let mut norms = Norms::default();
        if self.tallies.iter().any(|tally| matches!(tally.duty, Duty::Soft { .. })) {
            norms.per_pod = (0..self.tallies.len())
                .map(|index| ((self.soft_domains(index, open) + 2) as f64).ln())
                .collect();
        }
        for &bucket in open {
            let key = &self.buckets[bucket].key;
            norms.most_disliked = norms.most_disliked.max(key[0]);
            norms.most_met = norms.most_met.max(key[1]);
            if let Some(raw) = self.spread(bucket, &norms.per_pod) {
                let (low, high) = norms.spread.get_or_insert((raw, raw));
                (*low, *high) = ((*low).min(raw), (*high).max(raw));
            }
            if let Some(raw) = self.wish(bucket) {
                let (low, high) = norms.wish.get_or_insert((raw, raw));
                (*low, *high) = ((*low).min(raw), (*high).max(raw));
            }
        }
        norms
    }

    /// What the nodes of a bucket have in common scores, by weight.
    pub fn worth(&self, bucket: usize, norms: &Norms) -> [(Score, i64); 4] {
        let [disliked, met] = [self.buckets[bucket].key[0], self.buckets[bucket].key[1]];
        let taints = match norms.most_disliked {
            0 => 100,
            most => 100 - disliked * 100 / most,
        };
        let affinity = if norms.most_met > 0 { met * 100 / norms.most_met } else { 0 };
        let spread = match (norms.spread, self.spread(bucket, &norms.per_pod)) {
            (Some((_, 0)), Some(_)) => 100,
            (Some((low, high)), Some(raw)) => 100 * (high + low - raw) / high,
            _ => 0,
        };
        let wish = match (norms.wish, self.wish(bucket)) {
            (Some((low, high)), Some(raw)) if high > low => {
                (100.0 * ((raw - low) as f64 / (high - low) as f64)) as i64
            }
            _ => 0,
        };
        let weigh = |score, value: i64| (score, value * self.ask.profile.weight(score));
        [
            weigh(Score::TaintToleration, taints),
            weigh(Score::NodeAffinity, affinity),
            weigh(Score::PodTopologySpread, spread),
            weigh(Score::InterPodAffinity, wish),
        ]
    }

    /// How many domains of a soft spread the open buckets reach.
    fn soft_domains(&self, tally: usize, open: &[usize]) -> usize {
        if !matches!(self.tallies[tally].duty, Duty::Soft { .. }) {
            return 0;
        }
        let counted = open.iter().map(|at| &self.buckets[*at]);
        let counted = counted.filter(|bucket| !self.ignores(&bucket.key));
        if self.tallies[tally].topology.single {
            return counted.map(|bucket| bucket.len as usize).sum();
        }
        let mut domains: Vec<i64> = counted.map(|bucket| bucket.key[2 + tally]).collect();
        domains.sort_unstable();
        domains.dedup();
        domains.len()
    }

    /// Whether nodes of this key lack a label of the pod's own soft spreads.
    fn ignores(&self, key: &[i64]) -> bool {
        self.require_all
            && self.tallies.iter().zip(&key[2..]).any(|(tally, key)| {
                matches!(tally.duty, Duty::Soft { .. }) && *key == super::UNLABELLED
            })
    }

    /// How crowded with its like a bucket's domains are; `None` for nodes that do not count.
    fn spread(&self, bucket: usize, per_pod: &[f64]) -> Option<i64> {
        let key = &self.buckets[bucket].key;
        if per_pod.is_empty() || self.ignores(key) {
            return None;
        }
        let mut total = 0.0;
        for (index, tally) in self.tallies.iter().enumerate() {
            if let Duty::Soft { skew } = tally.duty
                && let Some(there) = tally.value(key[2 + index])
            {
                total += there as f64 * per_pod[index] + (skew - 1) as f64;
            }
        }
        Some(total.round() as i64)
    }

    fn wish(&self, bucket: usize) -> Option<i64> {
        let key = &self.buckets[bucket].key[2..];
        let mut total = None;
        for (index, tally) in self.tallies.iter().enumerate() {
            if let Duty::Wish(weight) = tally.duty {
                let there = tally.value(key[index]).unwrap_or(0);
                *total.get_or_insert(0) += weight * there;
            }
        }
        total
    }

    /// How many nodes each filter refuses, with a node to name the reason by.
    pub fn refusals(&self, world: &World) -> Vec<(Refusal, usize, u32)> {
        let mut all: Vec<(Refusal, usize, u32)> = self
            .refused
            .iter()
            .map(|(refusal, count)| {
                // Only a taint's words depend on the node.
                let at = if refusal.filter == Filter::TaintToleration {
                    (0..world.nodes.len() as u32)
                        .find(|at| self.state(*at).is_err_and(|found| found == Some(*refusal)))
                } else {
                    None
                };
                (*refusal, *count as usize, at.unwrap_or(NONE))
            })
            .collect();
        for (at, bucket) in self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.len > 0) {
            if let Some(refusal) = self.bucket_refuses(at) {
                all.push((refusal, bucket.len as usize, NONE));
            }
        }
        all.sort_unstable();
        all
    }
}
