//! What a node says to a pod that was bound to it: the last word, after any scheduler's.
//!
//! Two schedulers that do not ask each other can give the same room twice. The node then takes the
//! first pod and refuses the second, by the same counting that the schedulers do. Pure: who is on the
//! node already is told by the caller.
//!
//! Refuses to judge what only schedulers weigh: affinity between pods, spread, cordons, taints that
//! do not end pods, volumes, reservations.
//!
//! Source: the kubelet's general predicates and its rule for critical pods; its words.

use std::sync::Arc;

use crate::amount::Amounts;
use crate::class::{clash, selects};
use crate::device::{self, INDEX, MILLI};
use crate::gpu::{WHOLE, bits};
use crate::snapshot::{Effect, Node, Pod};

/// Pods of this priority and above may displace others on their node: `system-cluster-critical`.
pub const CRITICAL: i32 = 2_000_000_000;

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is not enough of something.
    #[error(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
         capacity: {capacity}"
    )]
    Lacks {
        /// Of what, as resources are named; `pods` for places.
        resource: String,
        /// What the pod asks for: thousandths of a core, bytes, or pieces.
        requested: i64,
        /// What the pods that are there ask for.
        used: i64,
        /// What there is.
        capacity: i64,
    },
    /// Another pod has what it was given of a device, or the node has no such device.
    #[error(
        "Node didn't have enough resource: {MILLI} of device {device}, requested: {requested}, \
         used: {used}, capacity: {capacity}"
    )]
    Device {
        /// Which device; the first, where nobody gave it any that it fits on.
        device: usize,
        /// Thousandths of it.
        requested: i64,
        /// Thousandths that others have.
        used: i64,
        /// A thousand, or nothing where there is no such device.
        capacity: i64,
    },
    /// It asks for a share of a device, and says nothing of which.
    #[error("Pod asks for {MILLI} and nobody has given it devices by {INDEX}, or not as many")]
    NoDevice,
    /// The pod's selector or affinity means other nodes.
    #[error("Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")]
    Affinity,
    /// Another pod has one of its ports.
    #[error(
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    )]
    Ports,
    /// The pod does not bear a taint that ends pods.
    #[error("Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate")]
    Taint,
}

impl Rejection {
    /// The word for the pod's status: `OutOfcpu`, `NodeAffinity`, …
    pub fn reason(&self) -> String {
        match self {
            Self::Lacks { resource, .. } => format!("OutOf{resource}"),
            Self::Device { .. } => format!("OutOf{MILLI}"),
            Self::NoDevice => "UnexpectedAdmissionError".to_owned(),
            Self::Affinity => "NodeAffinity".to_owned(),
            Self::Ports => "NodePorts".to_owned(),
            Self::Taint => "TaintToleration".to_owned(),
        }
    }
}

/// Everything that speaks against taking `pod` onto `node` beside `others`; nothing when it may come.
///
/// Devices that the node does not list at all are somebody else's and not counted.
pub fn rejections(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Vec<Rejection> {
    let mut used = Amounts::default();
    for other in others {
        used += &other.requests;
    }
    let mut found = Vec::new();
    let mut compare = |resource: &str, requested: i64, used: i64, capacity: i64| {
        if requested > 0 && requested > capacity - used {
            let resource = resource.to_owned();
            found.push(Rejection::Lacks { resource, requested, used, capacity });
        }
    };
    let (asked, all) = (&pod.requests, &node.allocatable);
    compare("pods", 1, others.len() as i64, node.pods);
    compare("cpu", asked.cpu.0, used.cpu.0, all.cpu.0);
    compare("memory", asked.memory.0, used.memory.0, all.memory.0);
    let (own, taken) = (asked.ephemeral_storage.0, used.ephemeral_storage.0);
    compare("ephemeral-storage", own, taken, all.ephemeral_storage.0);
    for (name, requested) in &asked.extended {
        if let Some(capacity) = all.extended.get(name) {
            let used = used.extended.get(name).copied().unwrap_or(0);
            compare(name, *requested, used, *capacity);
        }
    }
    found.extend(refused_devices(pod, node, others));
    if !selects(pod, node) {
        found.push(Rejection::Affinity);
    }
    let taken = || others.iter().flat_map(|other| &other.host_ports);
    if pod.host_ports.iter().any(|own| taken().any(|other| clash(own, other))) {
        found.push(Rejection::Ports);
    }
    let ends = node.taints.iter().filter(|taint| taint.effect == Effect::NoExecute);
    if ends.clone().any(|taint| !pod.tolerations.iter().any(|each| each.covers(taint))) {
        found.push(Rejection::Taint);
    }
    found
}

/// Whole devices are counted by number where nobody says which they are.
fn refused_devices(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<Rejection> {
    let share = device::asked(pod, node)?;
    let (requested, capacity) = (i64::from(share.milli), i64::from(WHOLE));
    if pod.share.is_some() && (share.wrong || pod.devices.count_ones() != u32::from(share.count)) {
        return Some(Rejection::NoDevice);
    }
    let room = device::room(node, others.iter().map(|other| &**other));
    for index in bits(pod.devices) {
        let there = room.as_ref().and_then(|room| room.free().get(index));
        let (free, capacity) = there.map_or((0, 0), |free| (i64::from(*free), capacity));
        if free < requested && (pod.share.is_some() || room.is_some()) {
            let used = capacity - free;
            return Some(Rejection::Device { device: index, requested, used, capacity });
        }
    }
    None
}

/// Who of `others` ends so that a critical `pod` can come, by position; `None` where that is not its
/// right or would not help. `others` are in the order in which they would go.
///
/// Nobody ends who need not, and nobody who is as important.
pub fn make_room(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Option<Vec<usize>> {
    let is_room = |each: &Rejection| {
        matches!(each, Rejection::Lacks { .. } | Rejection::Device { capacity: 1.., .. })
    };
    let lacks_only = |all: &[Rejection]| all.iter().all(is_room);
    if pod.priority < CRITICAL || !lacks_only(&rejections(pod, node, others)) {
        return None;
    }
    let may_go = |other: &Pod| other.priority < pod.priority;
    let fits_without = |gone: &[usize]| {
        let kept = others.iter().enumerate().filter(|(at, _)| !gone.contains(at));
        let kept: Vec<Arc<Pod>> = kept.map(|(_, other)| Arc::clone(other)).collect();
        rejections(pod, node, &kept).is_empty()
    };
    let mut gone = Vec::new();
    for at in (0..others.len()).filter(|at| may_go(&others[*at])) {
        if fits_without(&gone) {
            break;
        }
        gone.push(at);
    }
    if !fits_without(&gone) {
        return None;
    }
    // Those whose going turned out not to be needed stay, the last in the order first.
    for at in gone.clone().into_iter().rev() {
        let fewer: Vec<usize> = gone.iter().copied().filter(|other| *other != at).collect();
        if fits_without(&fewer) {
            gone = fewer;
        }
    }
    Some(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot;
    use serde_json::{Value, json};

    fn node(value: Value) -> Node {
        let mut object = json!({
            "metadata": { "name": "n", "labels": { "disk": "ssd" } },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3",
                "ephemeral-storage": "10Gi", "example.com/card": "1" } } });
        object["spec"] = value;
        snapshot::node(&serde_json::from_value(object).unwrap())
    }

    fn pod(name: &str, requests: Value, spec: Value) -> Arc<Pod> {
        let mut object = json!({ "metadata": { "name": name, "uid": name }, "spec": {
            "containers": [{ "name": "c", "resources": { "requests": requests } }] } });
        let merged = object["spec"].as_object_mut().unwrap();
        merged.extend(spec.as_object().unwrap().clone());
        Arc::new(snapshot::pod(&serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn a_node_refuses_what_the_kubelet_refuses_in_its_words() {
        fn check(requests: Value, spec: Value, others: &[Arc<Pod>], expected: &[(&str, &str)]) {
            let found =
                rejections(&pod("p", requests.clone(), spec.clone()), &node(json!({})), others);
            let said: Vec<(String, String)> =
                found.iter().map(|each| (each.reason(), each.to_string())).collect();
            let said: Vec<(&str, &str)> =
                said.iter().map(|(reason, text)| (reason.as_str(), text.as_str())).collect();
            assert_eq!(said, expected, "{requests} {spec}");
        }
        let small = |name: &str| pod(name, json!({ "cpu": "750m", "memory": "256Mi" }), json!({}));
        let two = [small("a"), small("b")];
        let three = [small("a"), small("b"), pod("c", json!({}), json!({}))];
        check(json!({ "cpu": "500m" }), json!({}), &two, &[]);
        check(
            json!({ "cpu": "501m" }),
            json!({}),
            &two,
            &[(
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
            )],
        );
        check(
            json!({ "memory": "768Mi" }),
            json!({}),
            &two,
            &[(
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: 805306368, \
                 used: 536870912, capacity: 1073741824",
            )],
        );
        check(
            json!({}),
            json!({}),
            &three,
            &[(
                "OutOfpods",
                "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
            )],
        );
        check(
            json!({ "ephemeral-storage": "11Gi", "example.com/card": "2", "example.com/none": "1" }),
            json!({}),
            &[],
            &[
                (
                    "OutOfephemeral-storage",
                    "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, \
                     used: 0, capacity: 10737418240",
                ),
                (
                    "OutOfexample.com/card",
                    "Node didn't have enough resource: example.com/card, requested: 2, used: 0, \
                     capacity: 1",
                ),
            ],
        );
        check(
            json!({}),
            json!({ "nodeSelector": { "disk": "hdd" } }),
            &[],
            &[(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            )],
        );
        let port = |ip: &str| {
            let ports = json!([{ "containerPort": 80, "hostPort": 80, "hostIP": ip }]);
            json!({ "containers": [{ "name": "c", "ports": ports }] })
        };
        let listens = [pod("a", json!({}), port("10.0.0.1"))];
        check(json!({}), port("10.0.0.2"), &listens, &[]);
        let taken = "Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                     pod ports";
        check(json!({}), port(""), &listens, &[("NodePorts", taken)]);
    }

    #[test]
    fn only_taints_that_end_pods_refuse_them() {
        let tainted = |effect: &str| {
            node(json!({ "unschedulable": true, "taints": [{ "key": "k", "effect": effect }] }))
        };
        let plain = pod("p", json!({}), json!({}));
        assert!(rejections(&plain, &tainted("NoSchedule"), &[]).is_empty());
        assert_eq!(rejections(&plain, &tainted("NoExecute"), &[]), [Rejection::Taint]);
        let bears = json!({ "tolerations": [{ "key": "k", "operator": "Exists" }] });
        assert!(rejections(&pod("p", json!({}), bears), &tainted("NoExecute"), &[]).is_empty());
    }

    #[test]
    fn a_critical_pod_displaces_no_more_than_it_must() {
        fn check(priority: i32, cpu: &str, others: &[(&str, i32)], expected: Option<&[usize]>) {
            let own = pod("p", json!({ "cpu": cpu }), json!({ "priority": priority }));
            let others: Vec<Arc<Pod>> = others
                .iter()
                .map(|(cpu, priority)| {
                    pod("o", json!({ "cpu": cpu }), json!({ "priority": priority }))
                })
                .collect();
            assert_eq!(make_room(&own, &node(json!({})), &others).as_deref(), expected, "{cpu}");
        }
        let mixed = [("100m", 0), ("900m", 0), ("1", 7)];
        check(CRITICAL, "100m", &mixed, Some(&[0]));
        // The first was taken in vain.
        check(CRITICAL, "900m", &mixed, Some(&[1]));
        check(CRITICAL, "2", &mixed, Some(&[0, 1, 2]));
        check(CRITICAL, "3", &mixed, None);
        check(CRITICAL - 1, "1", &mixed, None);
        check(CRITICAL, "2", &[("1", CRITICAL), ("1", 0)], None);
        check(CRITICAL + 1000, "2", &[("1", CRITICAL), ("1", 0)], Some(&[0, 1]));
    }

    #[test]
    fn a_device_is_not_given_out_twice() {
        fn check(index: &str, asks: Value, others: &[(&str, &str)], expected: Option<&str>) {
            let made = |name: &str, asks: &Value, index: &str| {
                let mut all = asks.clone();
                all["berth.dev/gpu-index"] = json!(index);
                let object = json!({ "metadata": { "name": name, "uid": name, "annotations": all },
                    "spec": { "nodeName": "n", "containers": [] } });
                Arc::new(snapshot::pod(&serde_json::from_value(object).unwrap()))
            };
            let mut node = node(json!({}));
            node.pods = 9;
            node.allocatable.extended.insert("nvidia.com/gpu".to_owned(), 2);
            let others: Vec<Arc<Pod>> = others
                .iter()
                .map(|(index, milli)| made(index, &json!({ "berth.dev/gpu-milli": milli }), index))
                .collect();
            let found = rejections(&made("p", &asks, index), &node, &others);
            let said = found.first().map(ToString::to_string);
            assert_eq!(said.as_deref(), expected, "{asks} at {index}");
        }
        let half = || json!({ "berth.dev/gpu-milli": "500" });
        check("0", half(), &[], None);
        check("0", half(), &[("0", "500"), ("1", "900")], None);
        let text = "Node didn't have enough resource: berth.dev/gpu-milli of device 1, requested: 500, \
                    used: 900, capacity: 1000";
        check("1", half(), &[("0", "500"), ("1", "900")], Some(text));
        let text = "Node didn't have enough resource: berth.dev/gpu-milli of device 2, requested: 500, \
                    used: 0, capacity: 0";
        check("2", half(), &[], Some(text));
        let text = "Pod asks for berth.dev/gpu-milli and nobody has given it devices by \
                    berth.dev/gpu-index, or not as many";
        check("", half(), &[], Some(text));
        let pair = || json!({ "berth.dev/gpu-milli": "500", "berth.dev/gpu-count": "2" });
        check("0", pair(), &[], Some(text));
        check("0,1", pair(), &[("0", "500")], None);
        check("0", json!({}), &[("0", "500")], None);
    }
}
