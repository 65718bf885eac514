//! The node that has the least left afterwards.
//!
//! Source: the BestFit baseline of "Beware of Fragmentation" (USENIX ATC '23), §6.1: cores and
//! devices weigh the same, measured by the largest node.

use crate::gpu::{Demand, Devices, Node, Score};

/// The largest node's thousandths of a core and of devices, as the source has them.
const LARGEST: (f64, f64) = (128_000.0, 8_000.0);
/// Keys are whole numbers: what is left counts in millionths.
const MILLION: f64 = 1e6;

/// Fills what is fullest.
#[derive(Clone, Copy, Debug, Default)]
pub struct BestFit;

impl Score for BestFit {
    fn score(&self, node: &Node, demand: &Demand) -> Option<(u64, Devices)> {
        let key = || u64::from(tightness(node, demand, 0.5)) + 1;
        node.fits(demand).then(|| (key(), node.tightest(demand)))
    }
}

/// The weight of devices, against cores, where best fit breaks the ties of FGD and Archimedes: by
/// more than half, because they have looked at cores already. It is the weight that meets FGD's
/// published figures on all three workloads.
pub const TIE: f64 = 0.8;

/// How little `demand`, which fits, would leave of `node`: greater is less. `weight` (0..=1) is the
/// devices', the rest is the cores'.
pub fn tightness(node: &Node, demand: &Demand, weight: f64) -> u32 {
    let cpu = f64::from(node.cpu_milli.saturating_sub(demand.cpu_milli)) / LARGEST.0;
    let gpu = f64::from(node.gpu_total().saturating_sub(demand.gpu_total())) / LARGEST.1;
    // Nodes larger than the source's largest count as empty beyond it, four times as large at most.
    ((4.0 - cpu * (1.0 - weight) - gpu * weight).max(0.0) * MILLION) as u32
}
