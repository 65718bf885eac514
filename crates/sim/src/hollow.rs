//! Hollow nodes: they register, beat and acknowledge pods, and run nothing.
//!
//! Each is a Node with a Lease. Its pods become Running and Ready at once, with an address out of
//! 100.64.0.0/10 that nobody answers at; a deletion is confirmed at once. They load a control plane
//! as real nodes would: a lease each 10 s, a status each 5 min, spread evenly over time. They say
//! nothing about containers, and a Job's pod never ends on one.
//!
//! One watch of pods serves all nodes. What is in flight is bounded; a slow API server makes the
//! acknowledgements late, never more.
//!
//! Source: kubemark's hollow nodes; the kubelet's defaults `nodeStatusReportFrequency` and
//! `nodeLeaseDurationSeconds`.

mod heartbeat;
mod nodes;
mod pods;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::Client;

pub use nodes::{clean, register};

/// The label of a hollow node and its lease.
pub const LABEL: &str = "berth.dev/hollow";
/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Which nodes there are.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub nodes: usize,
    /// Their names: this, a hyphen and a number.
    pub prefix: String,
    /// Cores of each.
    pub cores: u32,
    /// GiB of memory of each.
    pub memory_gib: u32,
    /// Most pods of each.
    pub pods: u32,
    /// Devices (`nvidia.com/gpu`) of each.
    pub gpus: u32,
    /// Whether they carry the taint [`LABEL`]`=true:NoSchedule`, so that only pods come that bear it.
    pub taint: bool,
    /// Most requests in flight.
    pub in_flight: usize,
}

impl Options {
    /// The name of node `index`.
    pub fn name(&self, index: usize) -> String {
        format!("{}-{index}", self.prefix)
    }

    /// Whether a node is one of these.
    fn owns(&self, node: &str) -> bool {
        let number = node.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('-'));
        let index = number.and_then(|number| number.parse::<usize>().ok());
        index.is_some_and(|index| index < self.nodes)
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Nodes registered.
    pub nodes: AtomicU64,
    /// Pods that were told to be Running.
    pub running: AtomicU64,
    /// Pods whose deletion was confirmed.
    pub removed: AtomicU64,
    /// Heartbeats: leases and statuses.
    pub beats: AtomicU64,
    /// Requests that failed and were not repeated.
    pub failed: AtomicU64,
}

impl Counts {
    fn one_more(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Beats and acknowledges until it is dropped. The nodes are registered.
pub async fn live(client: Client, options: &Options, counts: &Counts) {
    tokio::join!(
        heartbeat::beat(client.clone(), options, counts),
        pods::acknowledge(client, options, counts)
    );
}

/// `request`, or an error when no answer comes in time.
async fn answered<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    Ok(tokio::time::timeout(DEADLINE, request).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_nodes_are_its_own() {
        let options = Options {
            nodes: 10,
            prefix: "hollow".to_owned(),
            cores: 1,
            memory_gib: 1,
            pods: 1,
            gpus: 0,
            taint: false,
            in_flight: 1,
        };
        for (node, wanted) in
            [("hollow-0", true), ("hollow-9", true), ("hollow-10", false), ("worker-1", false)]
        {
            assert_eq!(options.owns(node), wanted, "{node}");
        }
    }
}
