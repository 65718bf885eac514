//! Fragmentation gradient descent: the node whose devices become least useless to typical pods.
//!
//! A device's free share is fragment to a typical pod that the node cannot take, or that this device
//! alone cannot. A node's fragmentation is the mean over typical pods, weighted by how often they
//! come; a pod goes where it grows least.
//!
//! Source: "Beware of Fragmentation" (USENIX ATC '23), §4; its steps of score (a logistic curve in
//! hundredths) are kept, because the ties that they make, broken by [`tightness`], are worth half a
//! point of allocation.

use std::collections::BTreeMap;

use super::{TIE, choices, key, tightness};
use crate::gpu::{Demand, Devices, Node, Score, Workload};

/// FGD over a known workload.
#[derive(Clone, Debug, Default)]
pub struct Fgd {
    sizes: Vec<Size>,
}

/// Typical pods alike but for their cores.
#[derive(Clone, Debug)]
struct Size {
    demand: Demand,
    /// Thousandths of a core, and the share of pods that ask for at most these.
    shares: Vec<(u32, f64)>,
}

impl Fgd {
    /// For these typical pods.
    pub fn new(workload: &Workload) -> Self {
        let mut sizes: BTreeMap<Demand, Vec<(u32, f64)>> = BTreeMap::new();
        for (demand, share) in workload.typical.iter().filter(|(demand, _)| demand.gpus > 0) {
            let size = Demand { cpu_milli: 0, memory_mib: 0, ..*demand };
            sizes.entry(size).or_default().push((demand.cpu_milli, *share));
        }
        let sizes = sizes.into_iter().map(|(demand, mut shares)| {
            shares.sort_by_key(|(cpu, _)| *cpu);
            let mut sum = 0.0;
            for (_, share) in &mut shares {
                sum += *share;
                *share = sum;
            }
            Size { demand, shares }
        });
        Self { sizes: sizes.collect() }
    }

    /// Free thousandths of `node`'s devices that are of use to a typical pod, on average.
    pub fn useful(&self, node: &Node) -> f64 {
        let mut useful = 0.0;
        for Size { demand, shares } in &self.sizes {
            let some = shares.partition_point(|(cpu, _)| *cpu <= node.cpu_milli);
            if some == 0 || !demand.takes(node.kind) {
                continue;
            }
            let (mut devices, mut free) = (0, 0);
            for device in node.free().iter().filter(|free| **free >= demand.gpu_milli) {
                devices += 1;
                free += u32::from(*device);
            }
            if devices >= demand.gpus {
                useful += shares[some - 1].1 * f64::from(free);
            }
        }
        useful
    }

    /// Free thousandths of `node`'s devices that are of no use to a typical pod, on average.
    pub fn fragments(&self, node: &Node) -> f64 {
        f64::from(node.gpu_total()) - self.useful(node)
    }
}

impl Score for Fgd {
    fn score(&self, node: &Node, demand: &Demand) -> Option<(u64, Devices)> {
        if !node.fits(demand) {
            return None;
        }
        let before = self.fragments(node);
        let tie = tightness(node, demand, TIE);
        let mut best: Option<(u64, Devices)> = None;
        choices(node, demand, |devices| {
            let growth = self.fragments(&node.with(demand, devices)) - before;
            let points = (100.0 / (1.0 + (growth / 1000.0).exp())).floor();
            let key = key(-points, tie);
            if best.is_none_or(|(best, _)| key > best) {
                best = Some((key, devices));
            }
        });
        best
    }
}
