//! Slots that are kept for rare pods.
//!
//! A pod of eight devices and nearly all cores of the largest node fits on few nodes, and comes
//! seldom: prices reckon with averages and with parts of pods, and would sell a corner of its room.
//! So each slot of a rare pod is worth something by itself, the more the nearer the number of slots
//! comes to what may still arrive.
//!
//! Source: the booking limits of airlines (Littlewood, 1972) ask the same: what is the chance that
//! this seat will be wanted by one who cannot take another?

use super::quotes::Typical;
use crate::gpu::{Demand, Node};

/// Slots are scarce when they are as many as are expected, so many deviations more, and so many pods.
const DEVIATIONS: f32 = 3.0;
/// They count by this power of how scarce they are: little before, much after.
const STEEPNESS: i32 = 4;
/// Pods are rare when no more than about so many are expected: of the others prices take care.
const RARE: f32 = 50.0;
/// What a scarce slot is worth, of its devices.
const VALUE: f32 = 0.3;
/// Guards of slots worth less, in thousandths of a device, are left out …
const LEAST: f32 = 5.0;
/// … and all beyond the most valuable so many.
const MOST: usize = 96;

/// The slots worth keeping.
#[derive(Clone, Debug, Default)]
pub(super) struct Guards(Vec<(Demand, f32)>);

impl Guards {
    /// On `states`, with how many nodes are in each, for so many pods that are still to come.
    pub(super) fn new(typicals: &[Typical], states: &[(Node, f32)], to_come: f32) -> Self {
        let mut guards: Vec<(Demand, f32)> = Vec::new();
        for Typical { demand, .. } in typicals.iter().filter(|pod| pod.demand.gpus > 0) {
            let harder = typicals.iter().filter(|other| is_harder(&other.demand, demand));
            let due = harder.map(|other| other.share * f32::from(other.demand.gpus / demand.gpus));
            let due = due.sum::<f32>() * to_come;
            let rare = 1.0 / (1.0 + due / RARE);
            let most = rare * VALUE * demand.gpu_total() as f32;
            if most < LEAST {
                continue;
            }
            let free = states.iter().map(|(node, nodes)| slots(node, demand) as f32 * nodes);
            let free = free.sum::<f32>();
            if free < 1.0 {
                continue;
            }
            let scarce = (due + DEVIATIONS * due.sqrt() + DEVIATIONS) / free;
            let value = most * scarce.min(1.0).powi(STEEPNESS);
            if value >= LEAST {
                guards.push((*demand, value));
            }
        }
        guards.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        guards.truncate(MOST);
        Self(guards)
    }

    /// What the slots of `node` are worth.
    pub(super) fn worth(&self, node: &Node) -> f32 {
        self.0.iter().map(|(demand, value)| slots(node, demand) as f32 * value).sum()
    }
}

/// Whether each slot of `other` is one of `demand` too.
fn is_harder(other: &Demand, demand: &Demand) -> bool {
    other.gpus >= demand.gpus
        && other.cpu_milli >= demand.cpu_milli
        && other.gpu_milli >= demand.gpu_milli
        && (demand.kinds == 0 || (other.kinds != 0 && other.kinds & !demand.kinds == 0))
}

/// How many of `demand` fit on `node` one after another.
pub(super) fn slots(node: &Node, demand: &Demand) -> u32 {
    if node.cpu_milli < demand.cpu_milli || !demand.takes(node.kind) {
        return 0;
    }
    let (mut copies, mut devices) = (0, 0);
    for free in node.free().iter().filter(|free| **free >= demand.gpu_milli) {
        copies += u32::from(free / demand.gpu_milli.max(1));
        devices += 1;
    }
    let most = if demand.gpus == 1 { copies } else { devices / u32::from(demand.gpus.max(1)) };
    most.min(node.cpu_milli / demand.cpu_milli.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Shape;

    fn typical(cpu_milli: u32, gpus: u8, share: f32) -> Typical {
        let demand = Demand { cpu_milli, gpus, gpu_milli: 1000, ..Demand::default() };
        Typical { demand, share, base: 1.0, log: 0.0 }
    }

    #[test]
    fn the_last_slots_of_a_rare_pod_are_worth_most() {
        let shape = Shape { cpu_milli: 128_000, pods: 100, gpus: 8, ..Shape::default() };
        let node = Node::empty(shape);
        let typicals = [typical(120_000, 8, 0.001), typical(4_000, 1, 0.999)];
        let worth = |nodes: f32, to_come: f32| {
            Guards::new(&typicals, &[(node, nodes)], to_come).worth(&node)
        };
        assert_eq!(worth(1000.0, 1000.0), 0.0, "plenty");
        let (some, few) = (worth(12.0, 1000.0), worth(4.0, 1000.0));
        assert!(0.0 < some && some < few, "{some} {few}");
        let common = worth(4.0, 2_000_000.0);
        assert!(common < few / 10.0, "what is not rare is left to prices: {common}");
        let begun = node.with(&typicals[1].demand, 1);
        assert_eq!(slots(&node, &typicals[0].demand), 1);
        assert_eq!(slots(&begun, &typicals[0].demand), 0);
        assert_eq!(slots(&begun, &typicals[1].demand), 7);
    }
}
