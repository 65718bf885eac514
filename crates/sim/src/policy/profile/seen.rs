//! What a recording tells of a node and a pod, as the live scheduler sees them.

use berth_api::Selector;
use berth_scheduler::amount::{Bytes, Millicores};
use berth_scheduler::selector::{NodeTerm, Operator, Requirement};
use berth_scheduler::snapshot::{self, Node, Pod};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::RehearsalError;
use crate::recording::{RecordedNode, RecordedPod};

/// The extended resource of whole devices.
const DEVICES: &str = "nvidia.com/gpu";
/// The label of their model.
const MODEL: &str = "nvidia.com/gpu.product";

pub(super) fn seen_node(node: &RecordedNode) -> Node {
    let taints = node.taints.iter().map(|taint| {
        let (pair, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        core::Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            effect: effect.to_owned(),
            time_added: None,
        }
    });
    let spec = core::NodeSpec { taints: Some(taints.collect()), ..core::NodeSpec::default() };
    let meta = ObjectMeta {
        name: Some(node.name.clone()),
        labels: Some(node.labels.clone()),
        ..ObjectMeta::default()
    };
    let object = core::Node { metadata: meta, spec: Some(spec), status: None };
    let mut seen = snapshot::node(&object);
    if !node.model.is_empty() {
        seen.labels.entry(MODEL.to_owned()).or_insert_with(|| node.model.clone());
    }
    seen.pods = if node.pods == 0 { i64::from(u16::MAX) } else { i64::from(node.pods) };
    let room = &mut seen.allocatable;
    room.cpu = Millicores(i64::from(node.cpu_milli));
    room.memory = Bytes(i64::from(node.memory_mib) << 20);
    for (name, has) in &node.resources {
        let has = i64::try_from(*has).unwrap_or(i64::MAX);
        match name.as_str() {
            "ephemeral-storage" => room.ephemeral_storage = Bytes(has),
            _ => drop(room.extended.insert(name.clone(), has)),
        }
    }
    room.extended.insert(DEVICES.to_owned(), i64::from(node.gpus));
    seen
}

pub(super) fn seen_pod(pod: &RecordedPod) -> Result<Pod, RehearsalError> {
    let (namespace, name) = pod.name.split_once('/').unwrap_or(("default", &pod.name));
    let spec = match &pod.spec {
        Some(spec) => core::PodSpec::deserialize(spec)
            .map_err(|source| RehearsalError::Spec { pod: pod.name.clone(), source })?,
        None => core::PodSpec {
            node_selector: Some(pod.node_selector.clone()),
            tolerations: Some(pod.tolerations.iter().map(|word| toleration(word)).collect()),
            ..core::PodSpec::default()
        },
    };
    let meta = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        labels: Some(pod.labels.clone()),
        ..ObjectMeta::default()
    };
    let stated = pod.spec.is_some();
    let object = core::Pod { metadata: meta, spec: Some(spec), status: None };
    let mut seen = snapshot::pod(&object);
    // As recorded, in whole MiB: the replay's books and the core's must be the same.
    seen.requests.cpu = Millicores(i64::from(pod.cpu_milli));
    seen.requests.memory = Bytes(i64::from(pod.memory_mib) << 20);
    if pod.gpus > 0 {
        seen.requests.extended.insert(DEVICES.to_owned(), i64::from(pod.gpus));
    }
    if !stated {
        seen.weighed = seen.requests.clone();
    }
    seen.priority = pod.priority;
    seen.node = None;
    seen.like = (!pod.like.is_empty()).then(|| Selector::labels(&pod.like));
    // A gang waits for its like outside the core; alone, each is a pod.
    seen.gang = None;
    if !pod.models.is_empty() {
        let model = Requirement {
            key: MODEL.to_owned(),
            operator: Operator::In,
            values: pod.models.clone(),
        };
        let terms = seen
            .node_affinity
            .get_or_insert_with(|| vec![NodeTerm { labels: Vec::new(), fields: Vec::new() }]);
        terms.iter_mut().for_each(|term| term.labels.push(model.clone()));
    }
    Ok(seen)
}

/// A recorded toleration as Kubernetes words it.
fn toleration(word: &str) -> core::Toleration {
    let (pair, effect) =
        word.rsplit_once(':').map_or((word, None), |(pair, only)| (pair, Some(only)));
    let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
    core::Toleration {
        key: (key != "*").then(|| key.to_owned()),
        operator: Some(if value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value: value.map(str::to_owned),
        effect: effect.map(str::to_owned),
        ..core::Toleration::default()
    }
}
