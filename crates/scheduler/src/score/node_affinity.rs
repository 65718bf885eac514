//! Nodes that the pod prefers, by weight.

use super::Rate;
use crate::snapshot::{Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    if pod.node_preferences.is_empty() {
        return None;
    }
    Some(Box::new(move |place| {
        let met = pod
            .node_preferences
            .iter()
            .filter(|(_, term)| term.matches(&place.node.name, &place.node.labels));
        met.map(|(weight, _)| weight).sum()
    }))
}
