//! What kube-scheduler's default profile does with resources: the emptiest and most even node.
//!
//! `NodeResourcesFit` with `LeastAllocated` and `NodeResourcesBalancedAllocation`, each over cores and
//! memory, each 0..=100 with weight 1. Devices are an extended resource, which neither looks at.
//!
//! Source: Kubernetes' defaults for `kubescheduler.config.k8s.io/v1`.

use crate::gpu::{Cluster, Demand, Devices, Node, Shape};

/// Spreads pods out. Knows the size of each kind of node by its shape.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpreadOut;

impl SpreadOut {
    /// 0..=200 for `demand` on `node` of `shape`.
    pub fn points(shape: &Shape, node: &Node, demand: &Demand) -> f64 {
        let share = |free: u32, asked: u32, all: u32| {
            f64::from(free.saturating_sub(asked)) / f64::from(all.max(1))
        };
        let cpu = share(node.cpu_milli, demand.cpu_milli, shape.cpu_milli);
        let memory = share(node.memory_mib, demand.memory_mib, shape.memory_mib);
        // The standard deviation of two numbers is half their distance.
        let even = 1.0 - (cpu - memory).abs() / 2.0;
        ((cpu + memory) * 50.0).floor() + (even * 100.0).floor()
    }

    /// The best node with its devices, by a scan of `cluster`; `prefer` breaks ties, greater first.
    pub fn best(
        cluster: &Cluster,
        demand: &Demand,
        mut prefer: impl FnMut() -> u64,
    ) -> Option<(usize, Devices)> {
        let nodes = cluster.nodes().iter().zip(cluster.shapes()).enumerate();
        let fitting = nodes.filter(|(_, (node, _))| node.fits(demand));
        let scored = fitting.map(|(index, (node, shape))| {
            (Self::points(shape, node, demand) as u64, prefer(), index)
        });
        let (_, _, best) = scored.max()?;
        Some((best, cluster.nodes()[best].tightest(demand)))
    }
}
