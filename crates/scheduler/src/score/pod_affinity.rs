//! Near the pods it likes, away from those it does not; and what the pods there think of it.

use std::collections::BTreeMap;

use super::Rate;
use crate::snapshot::{Pod, Snapshot};

/// What a pod's required affinity towards a newcomer weighs, as in Kubernetes.
const REQUIRED_WEIGHT: i64 = 1;

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    let mut weights: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for place in snapshot.places.values() {
        let labels = &place.node.labels;
        let mut add = |key: &'a str, weight: i64| {
            if let Some(value) = labels.get(key) {
                *weights.entry((key, value.as_str())).or_default() += weight;
            }
        };
        for other in &place.pods {
            for (weight, near) in &pod.near_preferences {
                if near.means(other, &snapshot.namespaces) {
                    add(&near.topology_key, *weight);
                }
            }
            for (weight, near) in &other.near_preferences {
                if near.means(pod, &snapshot.namespaces) {
                    add(&near.topology_key, *weight);
                }
            }
            for near in &other.affinity {
                if near.means(pod, &snapshot.namespaces) {
                    add(&near.topology_key, REQUIRED_WEIGHT);
                }
            }
        }
    }
    if weights.is_empty() {
        return None;
    }
    Some(Box::new(move |place| {
        let own = place.node.labels.iter();
        own.filter_map(|(key, value)| weights.get(&(key.as_str(), value.as_str()))).sum()
    }))
}
