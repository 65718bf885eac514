//! Berth's own: a pod goes where it displaces least of what the cluster could still have sold.
//!
//! A market sets prices for typical pods by what room is left for them, and a node is worth what its
//! room would fetch. A pod goes where a node's worth falls least: into a gap that nothing else
//! fills, beside the share that completes its device, onto cores that no device needs. Where the
//! fluid market is too coarse, for pods that are large and rare, single slots are guarded.
//!
//! Which pods are typical is told (a recording of last week) or learned from arrivals, and learned on
//! in either case. Losses are compared in steps of a hundredth of a device; ties go to the tightest
//! node. Memory decides only whether a pod fits.

mod guard;
mod market;
mod quotes;

use market::Market;

use super::{TIE, choices, key, tightness};
use crate::gpu::{Cluster, Demand, Devices, Learner, Node, Packer, Placed, Score, Workload};

/// Losses below this many thousandths of a device are ties.
const STEP: f32 = 10.0;
/// Prices follow when free devices changed by so much of themselves …
const DRIFT: f64 = 0.04;
/// … and by so much of all devices.
const LEAST_DRIFT: f64 = 0.001;

/// The policy with the cluster that it fills.
#[derive(Clone, Debug)]
pub struct Archimedes {
    packer: Packer<Prices>,
    learner: Learner,
    /// Free thousandths when prices were set.
    priced_at: f64,
    /// Free thousandths now.
    free: f64,
}

impl Archimedes {
    /// On this cluster, knowing nothing of what will come.
    pub fn new(cluster: Cluster) -> Self {
        let free = cluster.nodes().iter().map(|node| f64::from(node.gpu_total())).sum();
        let packer = Packer::new(cluster, Prices::default());
        Self { packer, learner: Learner::default(), priced_at: free, free }
    }

    /// On this cluster, knowing what came before, such as last week's pods: worth as much as if so
    /// many `pods` had arrived here.
    pub fn told(cluster: Cluster, workload: Workload, pods: u32) -> Self {
        let mut told = Self::new(cluster);
        told.learner = Learner::told(&workload, pods);
        told.open(&workload);
        told
    }

    /// A pod that was not there before has come. Call it once for each, before it is placed.
    pub fn arrived(&mut self, demand: &Demand) {
        self.learner.saw(demand);
        if let Some(news) = self.learner.news(1.0) {
            self.open(&news);
        }
    }

    /// The best node for `demand`, and takes it; none when it fits nowhere.
    pub fn place(&mut self, demand: &Demand) -> Option<Placed> {
        let placed = self.packer.place(demand)?;
        self.moved(-f64::from(demand.gpu_total()));
        Some(placed)
    }

    /// Gives back what a pod had.
    pub fn remove(&mut self, demand: &Demand, placed: Placed) {
        self.packer.remove(demand, placed);
        self.moved(f64::from(demand.gpu_total()));
    }

    /// Puts a pod where it already is; `false` when it does not fit there.
    pub fn put(&mut self, demand: &Demand, placed: Placed) -> bool {
        let put = self.packer.put(demand, placed);
        if put {
            self.moved(-f64::from(demand.gpu_total()));
        }
        put
    }

    /// What is free.
    pub fn cluster(&self) -> &Cluster {
        self.packer.cluster()
    }

    /// Whether prices made when `before` thousandths were free are too old now that `now` are.
    pub fn has_drifted(before: f64, now: f64, capacity: f64) -> bool {
        let drift = (now - before).abs();
        drift > before * DRIFT && drift > capacity * LEAST_DRIFT
    }

    fn moved(&mut self, change: f64) {
        self.free += change;
        let capacity = self.cluster().gpu_capacity() as f64;
        if Self::has_drifted(self.priced_at, self.free, capacity) {
            let mut worth = self.packer.score().clone();
            worth.follow(self.packer.cluster());
            self.price(worth);
        }
    }

    fn open(&mut self, workload: &Workload) {
        let before = self.packer.score().0.as_ref();
        let market = Market::open(workload, self.packer.cluster(), before);
        self.price(Prices(Some(market)));
    }

    fn price(&mut self, worth: Prices) {
        self.priced_at = self.free;
        self.packer.rescore(worth);
    }
}

/// What nodes are worth at one set of prices; without any, all are worth nothing.
#[derive(Clone, Debug, Default)]
pub struct Prices(Option<Market>);

impl Prices {
    /// Losses are compared in steps of so many thousandths of a device.
    pub const STEP: f64 = STEP as f64;

    /// For this workload on this cluster; pods that `before` knew begin with the prices they had.
    pub fn open(workload: &Workload, cluster: &Cluster, before: Option<&Self>) -> Self {
        Self(Some(Market::open(workload, cluster, before.and_then(|before| before.0.as_ref()))))
    }

    /// Follows what became of the cluster.
    pub fn follow(&mut self, cluster: &Cluster) {
        if let Some(market) = &mut self.0 {
            market.follow(cluster);
        }
    }

    fn of(&self, node: &Node) -> f32 {
        self.0.as_ref().map_or(0.0, |market| market.worth(node))
    }
}

impl Score for Prices {
    fn score(&self, node: &Node, demand: &Demand) -> Option<(u64, Devices)> {
        if !node.fits(demand) {
            return None;
        }
        let before = self.of(node);
        let tie = tightness(node, demand, TIE);
        let mut best: Option<(u64, Devices)> = None;
        choices(node, demand, |devices| {
            let loss = before - self.of(&node.with(demand, devices));
            let key = key(f64::from(loss / STEP), tie);
            if best.is_none_or(|(best, _)| key > best) {
                best = Some((key, devices));
            }
        });
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Shape;

    fn pod(cpu_milli: u32, gpus: u8, gpu_milli: u16) -> Demand {
        Demand { cpu_milli, gpus, gpu_milli, ..Demand::default() }
    }

    #[test]
    fn a_share_goes_where_it_completes_a_device() {
        let shape = Shape { cpu_milli: 64_000, pods: 100, gpus: 2, ..Shape::default() };
        let cluster = Cluster::new(vec![shape; 3]);
        let counts = [(pod(1000, 1, 700), 1.0), (pod(1000, 1, 300), 1.0), (pod(1000, 1, 400), 1.0)];
        let workload = Workload::from_counts(counts, 1.0);
        let mut policy = Archimedes::told(cluster, workload, 1000);
        for (node, gpu_milli) in [(0, 600), (1, 700)] {
            assert!(policy.put(&pod(1000, 1, gpu_milli), Placed { node, devices: 1 }));
        }
        let placed = |policy: &mut Archimedes, gpu_milli| policy.place(&pod(1000, 1, gpu_milli));
        assert_eq!(placed(&mut policy, 300), Some(Placed { node: 1, devices: 1 }));
        assert_eq!(placed(&mut policy, 400), Some(Placed { node: 0, devices: 1 }));
    }

    #[test]
    fn same_pods_same_places_and_nothing_is_taken_twice() {
        let fill = |told: bool| {
            let shape = |kind| Shape {
                cpu_milli: 32_000_u32 << kind,
                memory_mib: 1 << 18,
                pods: 100,
                gpus: 2_u8 << kind,
                kind,
            };
            let cluster = Cluster::new((0..60).map(|node| shape(node % 3)).collect());
            let kinds =
                [pod(4000, 1, 250), pod(8000, 1, 1000), pod(60_000, 8, 1000), pod(2000, 0, 0)];
            let kinds = kinds.map(|demand| Demand { memory_mib: 512, ..demand });
            let workload = Workload::from_counts(kinds.map(|demand| (demand, 1.0)), 1.0);
            let mut policy = match told {
                true => Archimedes::told(cluster, workload, 100),
                false => Archimedes::new(cluster),
            };
            let mut places = Vec::new();
            for step in 0..600_usize {
                let demand = kinds[step * step % 7 % 4];
                policy.arrived(&demand);
                places.push((demand, policy.place(&demand)));
            }
            let all = places.clone();
            let placed = all.iter().filter_map(|(demand, placed)| Some((demand, (*placed)?)));
            placed.for_each(|(demand, placed)| policy.remove(demand, placed));
            assert_eq!(
                policy.cluster().nodes(),
                Cluster::new(policy.cluster().shapes().to_vec()).nodes()
            );
            places
        };
        for told in [true, false] {
            let first = fill(told);
            assert_eq!(first, fill(told));
            assert!(first.iter().any(|(_, placed)| placed.is_none()), "the cluster fills");
        }
    }
}
