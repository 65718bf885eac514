//! A node must carry the labels of the pod's node selector and meet its required node affinity.

use super::{Check, refuse};
use crate::snapshot::{Node, Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    if pod.node_selector.is_empty() && pod.node_affinity.is_none() {
        return None;
    }
    Some(Box::new(move |place| {
        if selects(pod, &place.node) {
            Ok(())
        } else {
            refuse("node(s) didn't match Pod's node affinity/selector")
        }
    }))
}

/// Whether `pod` may go to `node` as far as names and labels go.
pub(crate) fn selects(pod: &Pod, node: &Node) -> bool {
    pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod
            .node_affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}
