//! Policies that draw lots: a random node, and kube-scheduler's, whose ties are drawn.

use berth_scheduler::gpu::{Cluster, Demand, Devices, Node, Placed, WHOLE};
use berth_scheduler::policy::SpreadOut;

use super::Policy;
use super::packed::tightest;
use crate::chance::Chance;
use crate::trace::Arrival;

/// Any node where the pod fits, any of its devices that hold the share.
pub(super) struct Random {
    cluster: Cluster,
    chance: Chance,
    fitting: Vec<usize>,
}

impl Random {
    pub(super) fn new(cluster: Cluster, seed: u64) -> Self {
        Self { cluster, chance: Chance::new(seed), fitting: Vec::new() }
    }
}

impl Policy for Random {
    fn place(&mut self, _: usize, arrival: &Arrival) -> Option<Placed> {
        let demand = &arrival.demand;
        let nodes = self.cluster.nodes();
        self.fitting.clear();
        self.fitting.extend((0..nodes.len()).filter(|node| nodes[*node].fits(demand)));
        let drawn = self.chance.below(self.fitting.len());
        let node = *self.fitting.get(drawn)?;
        let devices = any_devices(&nodes[node], demand, &mut self.chance);
        self.cluster.take(node, demand, devices).then_some(Placed { node, devices })
    }

    fn put(&mut self, _: usize, arrival: &Arrival, node: usize) -> Option<Placed> {
        let placed = tightest(&self.cluster, arrival, node)?;
        self.cluster.take(node, &arrival.demand, placed.devices).then_some(placed)
    }

    fn remove(&mut self, _: usize, arrival: &Arrival, placed: Placed) {
        self.cluster.give(placed.node, &arrival.demand, placed.devices);
    }

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

/// A device drawn among those that hold a share; whole devices are all alike.
fn any_devices(node: &Node, demand: &Demand, chance: &mut Chance) -> Devices {
    if demand.gpus != 1 || demand.gpu_milli >= WHOLE {
        return node.tightest(demand);
    }
    let holds = |(_, free): &(usize, &u16)| **free >= demand.gpu_milli;
    let open = || node.free().iter().enumerate().filter(holds);
    let drawn = chance.below(open().count());
    open().nth(drawn).map_or(0, |(index, _)| 1 << index)
}

/// kube-scheduler's default scores for resources.
pub(super) struct Kube {
    cluster: Cluster,
    chance: Chance,
}

impl Kube {
    pub(super) fn new(cluster: Cluster, seed: u64) -> Self {
        Self { cluster, chance: Chance::new(seed) }
    }
}

impl Policy for Kube {
    fn place(&mut self, _: usize, arrival: &Arrival) -> Option<Placed> {
        let demand = &arrival.demand;
        let (node, devices) = SpreadOut::best(&self.cluster, demand, || self.chance.draw())?;
        self.cluster.take(node, demand, devices).then_some(Placed { node, devices })
    }

    fn put(&mut self, _: usize, arrival: &Arrival, node: usize) -> Option<Placed> {
        let placed = tightest(&self.cluster, arrival, node)?;
        self.cluster.take(node, &arrival.demand, placed.devices).then_some(placed)
    }

    fn remove(&mut self, _: usize, arrival: &Arrival, placed: Placed) {
        self.cluster.give(placed.node, &arrival.demand, placed.devices);
    }

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}
