//! Berth's own: a pod displaces what the cluster could still have held, and goes where that is least.
//!
//! A node's worth is what its free devices could still give to typical pods: half of it the share
//! of free devices that a next pod can use (as in FGD), half of it what the node would hold if it
//! were filled with each typical pod alone. The second half sees what the first cannot: cores that
//! run out before devices do, and crumbs that are too small for a second pod.
//!
//! Typical pods do not weigh the same. The less room the cluster has left for one, against all that
//! is free, the more it counts; and pods of several devices count steeply more once the slots left
//! for them come near to what is expected of them. So room for every size runs out at about the
//! same time, when the cluster is full, and not for the largest first.
//!
//! Which pods are typical is told (a recording of last week) or learned from arrivals, and learned on
//! in either case. Told nothing, it gives away the rarest pods' room before it has seen one. Worths are compared in steps of a hundredth of a
//! device; ties go to the tightest node.

use std::collections::BTreeMap;

use super::{TIE, choices, key, tightness};
use crate::gpu::{Cluster, Demand, Devices, Learner, Node, Packer, Placed, Score, WHOLE, Workload};

/// Room counts by this power of its scarcity: 0 not at all, 1 as in proportional fairness.
const SCARCITY: f64 = -0.5;
/// Slots for pods of several devices are scarce when they are so many times what is expected …
const MARGIN: f64 = 2.0;
/// … and count more by this power of how scarce they are: little before, much after …
const STEEPNESS: i32 = 4;
/// … but no more than so many times their devices: beyond it everything else would be a tie.
const MOST_EXTRA: f64 = 1.0;
/// Losses below this many thousandths of a device are ties.
const STEP: f64 = 10.0;
/// Weights are set anew when free devices changed by so much of themselves …
const DRIFT: f64 = 0.03;
/// … and by so much of all devices.
const LEAST_DRIFT: f64 = 0.001;

/// The policy with the cluster that it fills.
#[derive(Clone, Debug)]
pub struct Archimedes {
    packer: Packer<Worth>,
    learner: Learner,
    workload: Workload,
    /// Free thousandths when the weights were set.
    weighed_at: f64,
    /// Free thousandths now.
    free: f64,
}

impl Archimedes {
    /// On this cluster, knowing nothing of what will come.
    pub fn new(cluster: Cluster) -> Self {
        let free = free(&cluster);
        Self {
            packer: Packer::new(cluster, Worth::default()),
            learner: Learner::default(),
            workload: Workload::default(),
            weighed_at: free,
            free,
        }
    }

    /// On this cluster, knowing what came before, such as last week's pods: worth as much as if so
    /// many `pods` had arrived here.
    pub fn told(cluster: Cluster, workload: Workload, pods: u32) -> Self {
        let mut told = Self::new(cluster);
        told.learner = Learner::told(&workload, pods);
        told.workload = workload;
        told.weigh();
        told
    }

    /// A pod that was not there before has come. Call it once for each, before it is placed.
    pub fn arrived(&mut self, demand: &Demand) {
        self.learner.saw(demand);
        if let Some(news) = self.learner.news(1.0) {
            self.workload = news;
            self.weigh();
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

    fn moved(&mut self, change: f64) {
        self.free += change;
        let drift = (self.free - self.weighed_at).abs();
        let capacity = self.cluster().gpu_capacity() as f64;
        if drift > self.weighed_at * DRIFT && drift > capacity * LEAST_DRIFT {
            self.weigh();
        }
    }

    fn weigh(&mut self) {
        self.weighed_at = self.free;
        let worth = Worth::new(&self.workload, self.packer.cluster());
        self.packer.rescore(worth);
    }
}

fn free(cluster: &Cluster) -> f64 {
    cluster.nodes().iter().map(|node| f64::from(node.gpu_total())).sum()
}

/// What nodes are worth under one set of weights.
#[derive(Clone, Debug, Default)]
pub struct Worth {
    sizes: Vec<Size>,
}

/// Typical pods alike but for their cores.
#[derive(Clone, Debug)]
struct Size {
    demand: Demand,
    /// By cores.
    pods: Vec<Weighed>,
    /// What one more of each of the first so many is worth together.
    sums: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Weighed {
    cpu_milli: u32,
    /// Of this and all that ask for fewer cores: what a free thousandth is worth to a next pod.
    next: f64,
    /// What one more of these is worth.
    filled: f64,
}

impl Worth {
    /// Weighs the typical pods by what room `cluster` has left for each.
    pub fn new(workload: &Workload, cluster: &Cluster) -> Self {
        let typical: Vec<&(Demand, f64)> =
            workload.typical.iter().filter(|(demand, _)| demand.gpus > 0).collect();
        let shares: f64 = typical.iter().map(|(_, share)| share).sum();
        let mass = |(demand, share): &(Demand, f64)| share * f64::from(demand.gpu_total());
        let masses: f64 = typical.iter().copied().map(mass).sum();
        let whole = f64::from(WHOLE);
        let free = free(cluster);
        let mut sizes: BTreeMap<Demand, Vec<Weighed>> = BTreeMap::new();
        for (demand, share) in &typical {
            let slots: f64 =
                cluster.nodes().iter().map(|node| f64::from(slots(node, demand))).sum();
            let room = slots * f64::from(demand.gpu_total());
            let room = ((room + whole) / (free + whole)).min(1.0);
            let extra = if demand.gpus > 1 {
                let as_large = typical.iter().filter(|(other, _)| other.gpus >= demand.gpus);
                let expected = as_large.copied().map(mass).sum::<f64>() / masses;
                let scarce = (MARGIN * expected / room).powi(STEEPNESS).min(MOST_EXTRA);
                1.0 + scarce * f64::from(demand.gpus)
            } else {
                1.0
            };
            let next = share / shares * extra / 2.0;
            let filled = next * room.powf(SCARCITY) * f64::from(demand.gpu_total());
            let size = Demand { cpu_milli: 0, memory_mib: 0, ..*demand };
            let cpu_milli = demand.cpu_milli.max(1);
            sizes.entry(size).or_default().push(Weighed { cpu_milli, next, filled });
        }
        let sizes = sizes.into_iter().map(|(demand, mut pods)| {
            pods.sort_by_key(|pod| pod.cpu_milli);
            let mut sum = 0.0;
            for pod in &mut pods {
                sum += pod.next;
                pod.next = sum;
            }
            let mut sum = 0.0;
            let sums = std::iter::once(0.0).chain(pods.iter().map(|pod| {
                sum += pod.filled;
                sum
            }));
            let sums = sums.collect();
            Size { demand, pods, sums }
        });
        Self { sizes: sizes.collect() }
    }

    /// Thousandths of devices that `node` could still give.
    pub fn of(&self, node: &Node) -> f64 {
        let mut worth = 0.0;
        for Size { demand, pods, sums } in &self.sizes {
            if !demand.takes(node.kind) {
                continue;
            }
            let (most, usable) = most(node, demand);
            if most == 0 {
                continue;
            }
            let some = pods.partition_point(|pod| pod.cpu_milli <= node.cpu_milli);
            let Some(last) = some.checked_sub(1) else { continue };
            // Those that run out of devices before cores need no division; most are of these.
            let ample = pods[..some].partition_point(|pod| pod.cpu_milli <= node.cpu_milli / most);
            worth += sums[ample] * f64::from(most);
            for pod in &pods[ample..some] {
                worth += pod.filled * f64::from(node.cpu_milli / pod.cpu_milli);
            }
            worth += pods[last].next * f64::from(usable);
        }
        worth
    }
}

impl Score for Worth {
    fn score(&self, node: &Node, demand: &Demand) -> Option<(u64, Devices)> {
        if !node.fits(demand) {
            return None;
        }
        let before = self.of(node);
        let tie = tightness(node, demand, TIE);
        let mut best: Option<(u64, Devices)> = None;
        choices(node, demand, |devices| {
            let loss = before - self.of(&node.with(demand, devices));
            let key = key(loss / STEP, tie);
            if best.is_none_or(|(best, _)| key > best) {
                best = Some((key, devices));
            }
        });
        best
    }
}

/// How many of `demand` the devices of `node` hold by themselves, and the free thousandths of the
/// devices that can hold one.
fn most(node: &Node, demand: &Demand) -> (u32, u32) {
    let (mut copies, mut devices, mut usable) = (0, 0, 0);
    for free in node.free().iter().filter(|free| **free >= demand.gpu_milli) {
        copies += u32::from(free / demand.gpu_milli.max(1));
        devices += 1;
        usable += u32::from(*free);
    }
    let most = if demand.gpus == 1 { copies } else { devices / u32::from(demand.gpus.max(1)) };
    (most, usable)
}

/// How many of `demand` fit on `node` one after another.
fn slots(node: &Node, demand: &Demand) -> u32 {
    if !demand.takes(node.kind) {
        return 0;
    }
    most(node, demand).0.min(node.cpu_milli / demand.cpu_milli.max(1))
}
