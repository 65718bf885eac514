//! The scheduler's own packers as policies.

use berth_scheduler::gpu::{Cluster, Packer, Placed, Score};
use berth_scheduler::policy::Archimedes;

use super::Policy;
use crate::trace::Arrival;

impl<S: Score> Policy for Packer<S> {
    fn place(&mut self, _: usize, arrival: &Arrival) -> Option<Placed> {
        Self::place(self, &arrival.demand)
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

    fn remove(&mut self, _: usize, arrival: &Arrival, placed: Placed) {
        Self::remove(self, &arrival.demand, placed);
    }

    fn cluster(&self) -> &Cluster {
        Self::cluster(self)
    }
}
