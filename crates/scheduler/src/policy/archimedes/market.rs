//! Prices at which every typical pod finds its share of the room.
//!
//! Imagine that the cluster were let to typical pods in the mix in which they arrive, for as long as
//! room lasts. Each pays a price; each node takes the pods that pay most for what it has free. A pod
//! that gets less room than its share of arrivals bids more, one that gets more bids less, until
//! supply meets demand. The prices then say what a pod displaces: one that leaves a gap which
//! nothing typical fills pays for the gap, and small ones that fill such gaps pay nearly nothing.
//!
//! Rare pods are expected with a margin. A pod that cannot have its share at any price, because few
//! nodes will do, bids up to a limit and settles for less, and the rest share what it cannot use.
//!
//! Source: these are the dual prices of a fluid packing problem, found by price adjustment as Walras
//! imagined it; yield management calls them bid prices (Talluri and van Ryzin, 1998).

use std::collections::HashMap;

use super::guard::Guards;
use super::quotes::{CORE_PRICES, Quotes, Typical};
use crate::gpu::{Cluster, Demand, Node, WHOLE, Workload};

/// What a thousandth of a core pays beside devices if nothing is scarce, in thousandths of a device.
const CORE: f32 = 0.01;
/// How fast prices move in the first round of a market without prices, and in the last, and later.
const PACE: (f32, f32) = (0.1, 0.02);
/// Rounds of a market without prices, and of one whose cluster has changed a little.
const ROUNDS: (usize, usize) = (400, 20);
/// A pod that pays twice as much settles for so much less of its share: the root of two.
const PATIENCE: f32 = 10.0;
/// Rare pods are expected so many deviations above what is due.
const MARGIN: f32 = 1.0;
/// Supply of so many times the demand moves a price no faster than more would.
const MOST_SURPLUS: f32 = 20.0;
/// Prices stay within these powers of e around what a pod would pay if nothing were scarce.
const LIMIT: f32 = 6.0;
/// A market looks at so many different states of nodes, evenly chosen.
const MOST_STATES: usize = 1024;

/// A market for the room of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Market {
    typicals: Vec<Typical>,
    quotes: Quotes,
    guards: Guards,
}

impl Market {
    /// For this workload; pods that `before` knew begin with the prices that they had.
    pub(super) fn open(workload: &Workload, cluster: &Cluster, before: Option<&Self>) -> Self {
        let known: HashMap<Demand, f32> = before.map_or_else(HashMap::new, |before| {
            before.typicals.iter().map(|pod| (pod.demand, pod.log)).collect()
        });
        let typicals = workload.typical.iter().map(|(demand, share)| {
            let base = demand.gpu_total() as f32 + demand.cpu_milli as f32 * CORE;
            let base = base.max(1.0);
            let log = known.get(demand).copied().unwrap_or(base.ln());
            Typical { demand: *demand, share: *share as f32, base, log }
        });
        let typicals: Vec<Typical> = typicals.collect();
        let quotes = Quotes::new(&typicals, cluster.shapes().iter().map(|shape| shape.kind));
        let mut market = Self { typicals, quotes, guards: Guards::default() };
        market.settle(cluster, ROUNDS.0, PACE);
        market
    }

    /// Follows what became of the cluster.
    pub(super) fn follow(&mut self, cluster: &Cluster) {
        self.settle(cluster, ROUNDS.1, (PACE.1, PACE.1));
    }

    /// What `node` is worth, in thousandths of a device.
    pub(super) fn worth(&self, node: &Node) -> f32 {
        let lanes = self.quotes.lanes(node);
        lanes.into_iter().fold(f32::MAX, f32::min) + self.guards.worth(node)
    }

    fn settle(&mut self, cluster: &Cluster, rounds: usize, pace: (f32, f32)) {
        let states = states(cluster);
        let stride = states.len().div_ceil(MOST_STATES).max(1);
        let some: Vec<(Node, f32)> = states
            .iter()
            .step_by(stride)
            .map(|(node, nodes)| (*node, nodes * stride as f32))
            .collect();
        let fits = |pod: &Typical| states.iter().any(|(node, _)| node_takes(node, &pod.demand));
        let open: Vec<bool> = self.typicals.iter().map(fits).collect();
        let mut sums = vec![0.0; self.typicals.len()];
        let mut to_come = 0.0;
        let late = rounds - rounds.div_ceil(2);
        for round in 0..rounds {
            self.quotes.reckon(&self.typicals);
            let sold = self.sold(&some);
            let pace = pace.0 * (pace.1 / pace.0).powf(round as f32 / rounds as f32);
            to_come = self.adjust(&sold, &open, pace);
            if round >= late {
                sums.iter_mut().zip(&self.typicals).for_each(|(sum, pod)| *sum += pod.log);
            }
        }
        // Prices circle around where they belong: their mean is closer.
        for (pod, sum) in self.typicals.iter_mut().zip(sums) {
            pod.log = sum / (rounds - late) as f32;
        }
        self.quotes.reckon(&self.typicals);
        self.guards = Guards::new(&self.typicals, &states, to_come);
    }

    /// How many of each pod the nodes would take at these prices.
    fn sold(&self, states: &[(Node, f32)]) -> Vec<f32> {
        let mut sold = vec![0.0; self.typicals.len()];
        let price = |pod: &Typical| pod.log.exp() / pod.demand.cpu_milli.max(1) as f32;
        let plain = self.typicals.iter().enumerate().filter(|(_, pod)| pod.demand.gpus == 0);
        let plain = plain.max_by(|a, b| price(a.1).total_cmp(&price(b.1)));
        for (node, nodes) in states {
            let lanes = self.quotes.lanes(node);
            let cores = node.cpu_milli as f32;
            let taken = |lane| self.quotes.fill(node, &self.typicals, lane, |_, _| ());
            // Around the best core price: the dearest fill that wants too many cores, and the next,
            // which does not. A mixture of both wants what there is.
            let best = (0..CORE_PRICES).min_by(|a, b| lanes[*a].total_cmp(&lanes[*b]));
            let mut low = best.unwrap_or_default();
            let mut high = low;
            let mut wants = (taken(low), taken(low));
            while wants.1 > cores && high + 1 < CORE_PRICES {
                (low, high) = (high, high + 1);
                wants = (wants.1, taken(high));
            }
            while wants.0 <= cores && low > 0 {
                (low, high) = (low - 1, low);
                wants = (taken(low), wants.0);
            }
            let mixed = low != high && wants.0 > cores && wants.0 - wants.1 >= 1.0;
            let part =
                if mixed { ((cores - wants.1) / (wants.0 - wants.1)).clamp(0.0, 1.0) } else { 0.0 };
            let (low, high) = if wants.0 <= cores { (low, low) } else { (low, high) };
            if part > 0.0 {
                self.quotes.fill(node, &self.typicals, low, |pod, count| {
                    sold[pod] += count * part * nodes
                });
            }
            let used = self.quotes.fill(node, &self.typicals, high, |pod, count| {
                sold[pod] += count * (1.0 - part) * nodes;
            });
            // Cores that are left at the least price go to pods that want nothing else.
            if let (Some((pod, typical)), 0) = (plain, high) {
                let left = (cores - used).max(0.0);
                sold[pod] += left / typical.demand.cpu_milli.max(1) as f32 * nodes;
            }
        }
        sold
    }

    /// Moves prices towards where supply meets demand. Returns how many pods the room is for.
    fn adjust(&mut self, sold: &[f32], open: &[bool], pace: f32) -> f32 {
        let all = || self.typicals.iter().zip(sold).zip(open).filter(|(_, open)| **open);
        let paid: f32 = all().map(|((pod, sold), _)| pod.base * sold).sum();
        let asked: f32 = all().map(|((pod, _), _)| pod.base * pod.share).sum();
        if asked <= 0.0 {
            return 0.0;
        }
        let to_come = (paid / asked).max(1e-6);
        let expected = |pod: &Typical| pod.share + MARGIN * (pod.share / to_come).sqrt();
        let asked_most: f32 = all().map(|((pod, _), _)| pod.base * expected(pod)).sum();
        let scale = (paid / asked_most).max(1e-6);
        let (mut drift, mut weights) = (0.0, 0.0);
        for ((pod, sold), _) in
            self.typicals.iter_mut().zip(sold).zip(open).filter(|(_, open)| **open)
        {
            let over = pod.log - pod.base.ln();
            let demand = scale * expected(pod) * (-over / PATIENCE).exp();
            pod.log -= pace * (sold / demand - 1.0).min(MOST_SURPLUS);
            let weight = pod.base * pod.share;
            drift += weight * (pod.log - pod.base.ln());
            weights += weight;
        }
        let drift = drift / weights;
        for pod in &mut self.typicals {
            let base = pod.base.ln();
            pod.log = (pod.log - drift).clamp(base - LIMIT, base + LIMIT);
        }
        to_come
    }
}

/// The states that nodes are in, with how many are in each, in an order that does not hang on theirs.
fn states(cluster: &Cluster) -> Vec<(Node, f32)> {
    let mut counts: HashMap<Node, f32> = HashMap::new();
    for node in cluster.nodes() {
        *counts.entry(node.state()).or_default() += 1.0;
    }
    let mut states: Vec<(Node, f32)> = counts.into_iter().collect();
    states.sort_by_key(|(node, _)| (node.kind, node.gpus, node.cpu_milli, node.devices));
    states
}

fn node_takes(node: &Node, demand: &Demand) -> bool {
    node.cpu_milli >= demand.cpu_milli
        && demand.takes(node.kind)
        && (demand.gpus == 0 || (demand.gpu_milli <= WHOLE && node.has_devices(demand)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Shape;

    fn share(gpu_milli: u16) -> Demand {
        Demand { cpu_milli: 1000, gpus: 1, gpu_milli, ..Demand::default() }
    }

    fn price(market: &Market, demand: &Demand) -> f32 {
        let pod = market.typicals.iter().find(|pod| pod.demand == *demand);
        pod.map_or(f32::NAN, |pod| pod.log.exp())
    }

    #[test]
    fn a_pod_pays_for_the_gap_it_leaves_and_hardly_anything_in_one() {
        let shape = Shape { cpu_milli: 64_000, pods: 100, gpus: 4, ..Shape::default() };
        let cluster = Cluster::new(vec![shape; 100]);
        let counts = [(share(600), 10.0), (share(500), 10.0), (share(400), 1.0)];
        let workload = Workload::from_counts(counts, 1.0);
        let market = Market::open(&workload, &cluster, None);
        let [large, half, small] = [600, 500, 400].map(|milli| price(&market, &share(milli)));
        assert!(large > half * 1.7, "one in a device, not two: {large} {half}");
        assert!(small < half / 3.0, "there are more gaps than such pods: {small} {half}");
        let empty = cluster.nodes()[0];
        let gap = empty.with(&share(600), 1);
        let lost = market.worth(&empty) - market.worth(&gap);
        assert!((lost - large).abs() < large * 0.1, "{lost} {large}");
    }

    #[test]
    fn what_few_nodes_can_take_is_dear_there() {
        let shape =
            |kind| Shape { cpu_milli: 64_000, pods: 100, gpus: 4, kind, ..Shape::default() };
        let shapes = (0..100).map(|node| shape(u8::from(node < 10)));
        let cluster = Cluster::new(shapes.collect());
        let any = share(1000);
        let picky = Demand { kinds: 2, ..any };
        let workload = Workload::from_counts([(any, 80.0), (picky, 20.0)], 1.0);
        let market = Market::open(&workload, &cluster, None);
        assert!(price(&market, &picky) > price(&market, &any) * 2.0);
        let worth = |node: usize| market.worth(&cluster.nodes()[node]);
        assert!(worth(0) > worth(99) * 2.0, "{} {}", worth(0), worth(99));
    }
}
