//! May a pod go to a node? One file a question.
//!
//! A filter is prepared once for a pod, where it looks at the whole cluster, and then asked of each
//! node. A pod that asks nothing of a filter skips it.

mod host_ports;
mod node_affinity;
mod node_name;
mod pod_affinity;
mod resources;
mod spread;
mod taints;
mod unschedulable;

use crate::snapshot::{Place, Pod, Snapshot};

pub(crate) use node_affinity::selects;
pub(crate) use spread::count as spread_counts;
pub(crate) use taints::untolerated;

/// Asks one node; the refusal is every reason, as people read it after a count of nodes.
pub type Check<'a> = Box<dyn Fn(&Place) -> Result<(), Vec<String>> + 'a>;

/// A question that a node must not fail.
pub struct Filter {
    /// Kubernetes' name for it.
    pub name: &'static str,
    /// Looks at the cluster once; `None` when the pod asks nothing.
    pub prepare: for<'a> fn(&'a Snapshot, &'a Pod) -> Option<Check<'a>>,
}

/// All filters, the cheap ones and those that refuse most first.
pub static ALL: &[Filter] = &[
    Filter { name: "NodeUnschedulable", prepare: unschedulable::prepare },
    Filter { name: "NodeName", prepare: node_name::prepare },
    Filter { name: "TaintToleration", prepare: taints::prepare },
    Filter { name: "NodeAffinity", prepare: node_affinity::prepare },
    Filter { name: "NodePorts", prepare: host_ports::prepare },
    Filter { name: "NodeResourcesFit", prepare: resources::prepare },
    Filter { name: "PodTopologySpread", prepare: spread::prepare },
    Filter { name: "InterPodAffinity", prepare: pod_affinity::prepare },
];

/// One reason, where one is all there can be.
fn refuse(reason: impl Into<String>) -> Result<(), Vec<String>> {
    Err(vec![reason.into()])
}
