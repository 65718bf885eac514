//! The scheduler's own packers as policies.

use berth_scheduler::gpu::{Cluster, Packer, Placed, Score};
use berth_scheduler::policy::Archimedes;

use super::Policy;
use crate::trace::Arrival;

impl<S: Score + Send> Policy for Packer<S> {
    fn place(&mut self, _: usize, arrival: &Arrival) -> Option<Placed> {
        Self::place(self, &arrival.demand)
    }

    fn put(&mut self, _: usize, arrival: &Arrival, node: usize) -> Option<Placed> {
        let placed = tightest(Self::cluster(self), arrival, node)?;
        Self::put(self, &arrival.demand, placed).then_some(placed)
    }

    fn remove(&mut self, _: usize, arrival: &Arrival, placed: Placed) {
        Self::remove(self, &arrival.demand, placed);
    }

    fn cluster(&self) -> &Cluster {
        Self::cluster(self)
    }
}

impl Policy for Archimedes {
    fn place(&mut self, _: usize, arrival: &Arrival) -> Option<Placed> {
        self.arrived(&arrival.demand);
        Self::place(self, &arrival.demand)
    }

    fn put(&mut self, _: usize, arrival: &Arrival, node: usize) -> Option<Placed> {
        let placed = tightest(Self::cluster(self), arrival, node)?;
        Self::put(self, &arrival.demand, placed).then_some(placed)
    }

    fn remove(&mut self, _: usize, arrival: &Arrival, placed: Placed) {
        Self::remove(self, &arrival.demand, placed);
    }

    fn cluster(&self) -> &Cluster {
        Self::cluster(self)
    }
}

/// The fullest devices of a node that hold a pod; whether the rest holds it is not looked at.
pub(super) fn tightest(cluster: &Cluster, arrival: &Arrival, node: usize) -> Option<Placed> {
    let devices = cluster.nodes().get(node)?.tightest(&arrival.demand);
    Some(Placed { node, devices })
}
