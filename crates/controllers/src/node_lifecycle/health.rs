//! What a node's silence or its own word means for its conditions and taints.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::jiff::Timestamp;

use super::stamp;

/// On a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// On a node that says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// On a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that become a taint where they have the status.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only the node can know.
const OWN_WORD: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What a node gives as signs of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sign {
    /// When it last renewed its lease.
    pub lease: Option<Timestamp>,
    /// When it last told its state.
    pub heartbeat: Option<Timestamp>,
}

/// What is to change on one node.
#[derive(Debug, PartialEq)]
pub struct Change {
    /// Its name.
    pub node: String,
    /// Conditions to set.
    pub conditions: Vec<NodeCondition>,
    /// All its taints, if they are to change.
    pub taints: Option<Vec<Taint>>,
}

/// What is to change, with the nodes named in `silent` taken for lost.
pub fn plan(nodes: &[Arc<Node>], silent: &[String], now: Timestamp) -> Vec<Change> {
    let lost = |node: &Node| silent.contains(&name(node));
    let nobody_ready =
        nodes.iter().all(|node| lost(node) || condition(node, "Ready") != Some("True"));
    nodes
        .iter()
        .filter_map(|node| {
            let conditions = if lost(node) { unknown(node, now) } else { Vec::new() };
            let taints = taints(node, lost(node), nobody_ready, now);
            let change = Change { node: name(node), conditions, taints };
            (!change.conditions.is_empty() || change.taints.is_some()).then_some(change)
        })
        .collect()
}

/// When the node last told its state.
pub fn heartbeat(node: &Node) -> Option<Timestamp> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|it| it.type_ == "Ready")?;
    // What this controller wrote itself is no sign of life.
    (ready.status != "Unknown").then_some(ready.last_heartbeat_time.as_ref()?.0)
}

/// What plans are made of: heartbeats leave it as it is.
pub fn state(node: &Node) -> impl PartialEq + use<> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let conditions: Vec<_> = conditions.map(|it| (it.type_.clone(), it.status.clone())).collect();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
    (conditions, taints, node.spec.as_ref().and_then(|spec| spec.unschedulable))
}

fn name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let status = node.status.as_ref()?;
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
    Some(found.status.as_str())
}

fn unknown(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    OWN_WORD
        .into_iter()
        .filter(|kind| condition(node, kind) != Some("Unknown"))
        .filter(|kind| *kind == "Ready" || condition(node, kind).is_some())
        .map(|kind| NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_transition_time: Some(stamp(now)),
            last_heartbeat_time: None,
        })
        .collect()
}

/// All taints of the node, ours as they should be and those of others as they are; `None` if that is
/// what it has.
fn taints(node: &Node, lost: bool, nobody_ready: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let has = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let ready = if lost { Some("Unknown") } else { condition(node, "Ready") };
    let key = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(key) = key {
        wanted.push((key, "NoSchedule"));
        if !nobody_ready {
            wanted.push((key, "NoExecute"));
        }
    }
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, taint)| *taint == key)
    };
    let same =
        |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut all: Vec<Taint> = has
        .iter()
        .filter(|taint| !ours(&taint.key) || wanted.iter().any(|it| same(taint, *it)))
        .cloned()
        .collect();
    for want in wanted {
        if !all.iter().any(|taint| same(taint, want)) {
            all.push(Taint {
                key: want.0.to_owned(),
                effect: want.1.to_owned(),
                value: None,
                time_added: (want.1 == "NoExecute").then(|| stamp(now)),
            });
        }
    }
    (all != has).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, ready: &str, taints: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "spec": { "taints": taints },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap(),
        )
    }

    /// Taints of each changed node, and whether its conditions change.
    fn check(nodes: &[Arc<Node>], silent: &[&str], expected: &[(&str, bool, &[&str])]) {
        let silent: Vec<String> = silent.iter().map(|name| (*name).to_owned()).collect();
        let changes = plan(nodes, &silent, Timestamp::UNIX_EPOCH);
        let found: Vec<(String, bool, Vec<String>)> = changes
            .into_iter()
            .map(|change| {
                let taints = change.taints.into_iter().flatten();
                let taints = taints.map(|taint| format!("{}:{}", taint.key, taint.effect));
                (change.node, !change.conditions.is_empty(), taints.collect())
            })
            .collect();
        let expected: Vec<(String, bool, Vec<String>)> = expected
            .iter()
            .map(|(name, marked, taints)| {
                ((*name).to_owned(), *marked, taints.iter().map(|it| (*it).to_owned()).collect())
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_ready_node_loses_our_taints_and_keeps_those_of_others() {
        check(&[node("a", "True", json!([]))], &[], &[]);
        let taints = json!([
            { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
            { "key": "gpu", "effect": "NoSchedule" },
        ]);
        check(&[node("a", "True", taints)], &[], &[("a", false, &["gpu:NoSchedule"])]);
    }

    #[test]
    fn a_lost_node_among_others_is_marked_and_emptied() {
        let nodes = [node("a", "True", json!([])), node("b", "True", json!([]))];
        let taints: &[&str] = &[
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/unreachable:NoExecute",
        ];
        check(&nodes, &["b"], &[("b", true, taints)]);
    }

    #[test]
    fn when_no_node_is_ready_nothing_is_evicted() {
        let only: &[&str] = &["node.kubernetes.io/unreachable:NoSchedule"];
        let nodes = [node("a", "True", json!([]))];
        check(&nodes, &["a"], &[("a", true, only)]);
        let before = json!([
            { "key": "node.kubernetes.io/unreachable", "effect": "NoSchedule" },
            { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
        ]);
        let nodes = [node("a", "Unknown", before), node("b", "True", json!([]))];
        let not_ready: &[&str] = &["node.kubernetes.io/unreachable:NoSchedule"];
        check(&nodes, &["a", "b"], &[("a", false, not_ready), ("b", true, only)]);
    }

    #[test]
    fn a_new_node_takes_no_pods_until_it_is_ready() {
        let fresh: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
        let taints: &[&str] = &["node.kubernetes.io/not-ready:NoSchedule"];
        check(&[Arc::new(fresh)], &[], &[("a", false, taints)]);
    }
}
