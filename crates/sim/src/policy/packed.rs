//! The scheduler's own packers as policies.

use berth_scheduler::gpu::{Cluster, Demand, Packer, Placed, Score};
use berth_scheduler::policy::Archimedes;

use super::Policy;

impl<S: Score> Policy for Packer<S> {
    fn place(&mut self, demand: &Demand) -> Option<Placed> {
        Self::place(self, demand)
    }

    fn remove(&mut self, demand: &Demand, placed: Placed) {
        Self::remove(self, demand, placed);
    }

    fn cluster(&self) -> &Cluster {
        Self::cluster(self)
    }
}

impl Policy for Archimedes {
    fn place(&mut self, demand: &Demand) -> Option<Placed> {
        self.arrived(demand);
        Self::place(self, demand)
    }

    fn remove(&mut self, demand: &Demand, placed: Placed) {
        Self::remove(self, demand, placed);
    }

    fn cluster(&self) -> &Cluster {
        Self::cluster(self)
    }
}
