//! From Kubernetes' objects to the scheduler's own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_api::Selector;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};

use super::{Disk, Effect, Gang, HostPort, Near, Node, Pod, Rebuild, Spread, Taint, Toleration};
use crate::amount::{Amounts, Bytes, Millicores};
use crate::device;
use crate::selector::{NodeTerm, Operator, Requirement};

/// What a container without requests is taken to use when nodes are compared.
const UNSTATED_CPU: Millicores = Millicores(100);
const UNSTATED_MEMORY: Bytes = Bytes(200 * 1024 * 1024);

/// The gang that a pod belongs to, annotation or label.
const GANG: &str = "scheduling.berth.dev/gang";
/// How many of the gang must have a place at once.
const GANG_LEAST: &str = "scheduling.berth.dev/gang-min";
/// How long the gang waits for room, as Go writes durations: `90s`, `1h30m`.
const GANG_TIMEOUT: &str = "scheduling.berth.dev/gang-timeout";
/// Where the gang does not say: as long as Kubernetes' own groups wait.
const GANG_PATIENCE: Duration = Duration::from_secs(300);
/// `preferred` or `required`: back to the node of the pod it replaces.
const REBUILD: &str = "scheduling.berth.dev/rebuild";

/// What the scheduler reads of a node.
pub fn node(object: &core::Node) -> Node {
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let allocatable =
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let images = status.and_then(|status| status.images.as_ref()).into_iter().flatten();
    Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        allocatable: allocatable.map(amounts).unwrap_or_default(),
        pods: allocatable.and_then(|all| all.get("pods")).map_or(0, whole),
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        taints: spec
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten()
            .filter_map(taint)
            .collect(),
        images: images
            .flat_map(|image| {
                let size = Bytes(image.size_bytes.unwrap_or(0));
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect(),
        volume_limits: BTreeMap::new(),
        gpu_resource: object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(device::RESOURCE).cloned()),
    }
}

/// What the scheduler reads of a pod.
pub fn pod(object: &core::Pod) -> Pod {
    let meta = &object.metadata;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let labels = meta.labels.clone().unwrap_or_default();
    let mut pod = Pod {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        terminating: meta.deletion_timestamp.is_some(),
        preempts: true,
        ..Pod::default()
    };
    let owners = meta.owner_references.iter().flatten();
    pod.owner =
        owners.clone().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone());
    pod.line = line(meta);
    asked_beyond_kubernetes(meta, &mut pod);
    if let Some(status) = &object.status {
        pod.start = status.start_time.as_ref().map(|time| time.0.as_second());
        pod.nominated = status.nominated_node_name.clone().filter(|name| !name.is_empty());
    }
    if let Some(spec) = &object.spec {
        pod.node = spec.node_name.clone().filter(|name| !name.is_empty());
        pod.priority = spec.priority.unwrap_or(0);
        pod.scheduler =
            spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned());
        pod.preempts = spec.preemption_policy.as_deref() != Some("Never");
        pod.claims = claims(spec, &pod.name);
        let held = Held::of(object.status.as_ref());
        pod.requests = requests(spec, &held, false);
        pod.weighed = requests(spec, &held, true);
        devices(meta, spec, &mut pod);
        pod.host_ports = host_ports(spec);
        pod.disks = disks(spec);
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        pod.images = all.filter_map(|each| each.image.as_deref().map(tagged)).collect();
        pod.node_selector = spec.node_selector.clone().unwrap_or_default();
        pod.tolerations = spec.tolerations.iter().flatten().map(toleration).collect();
        pod.spread = spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|each| spread(each, &labels))
            .collect();
        if let Some(affinity) = &spec.affinity {
            node_affinity(affinity, &mut pod);
            pod_affinity(affinity, &namespace, &labels, &mut pod);
        }
    }
    pod.namespace = namespace;
    pod.labels = labels;
    pod
}

/// An image's name as nodes list it: with a tag.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Claims by name; an ephemeral volume's claim is named after the pod and the volume.
fn claims(spec: &core::PodSpec, pod: &str) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// Whom a pod with a drawn name continues. A Deployment's ReplicaSets are named after it and the hash
/// that their pods carry as a label.
fn line(meta: &ObjectMeta) -> Option<String> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    match owner.kind.as_str() {
        // Its pods' names come again.
        "StatefulSet" => None,
        "ReplicaSet" => {
            let hash = meta.labels.as_ref().and_then(|all| all.get("pod-template-hash"));
            let name = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
            Some(match name {
                Some(name) => format!("Deployment/{name}"),
                None => format!("ReplicaSet/{}", owner.name),
            })
        }
        kind => Some(format!("{kind}/{}", owner.name)),
    }
}

/// A duration as Go writes it, of whole hours, minutes and seconds; a bare number is seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let end = rest.find(|each: char| !each.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match &rest[end..=end] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

/// Gangs and rebuilding in place are asked for by annotations; a gang's name may be a label too.
fn asked_beyond_kubernetes(meta: &ObjectMeta, pod: &mut Pod) {
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
    let label = |key: &str| meta.labels.as_ref().and_then(|all| all.get(key));
    if let Some(name) = annotation(GANG).or_else(|| label(GANG)) {
        let least = annotation(GANG_LEAST).and_then(|text| text.parse().ok()).unwrap_or(1);
        let patience = annotation(GANG_TIMEOUT).and_then(|text| duration(text));
        let patience = patience.unwrap_or(GANG_PATIENCE);
        pod.gang = Some(Gang { name: name.clone(), least, patience });
    }
    pod.rebuild = match annotation(REBUILD).map(String::as_str) {
        Some("preferred") => Some(Rebuild::Preferred),
        Some("required") => Some(Rebuild::Required),
        _ => None,
    };
}

/// Shares are counted by device, not by number.
fn devices(meta: &ObjectMeta, spec: &core::PodSpec, pod: &mut Pod) {
    let annotations = meta.annotations.as_ref();
    pod.share = device::share(annotations, spec);
    pod.gpu_models = device::models(annotations);
    for name in [device::MILLI, device::COUNT] {
        pod.requests.extended.remove(name);
        pod.weighed.extended.remove(name);
    }
    // On a pod without a node it is a wish of whoever wrote it.
    if pod.node.is_some() {
        let index = annotations.and_then(|all| all.get(device::INDEX));
        pod.devices = index.map_or(0, |text| device::parse_index(text));
    }
}

fn amounts(list: &BTreeMap<String, Quantity>) -> Amounts {
    let mut amounts = Amounts::default();
    for (name, quantity) in list {
        match name.as_str() {
            "cpu" => amounts.cpu = Millicores(milli(quantity)),
            "memory" => amounts.memory = Bytes(whole(quantity)),
            "ephemeral-storage" => amounts.ephemeral_storage = Bytes(whole(quantity)),
            "pods" => {}
            _ => {
                amounts.extended.insert(name.clone(), whole(quantity));
            }
        }
    }
    amounts
}

fn milli(quantity: &Quantity) -> i64 {
    quantity.0.parse::<berth_api::Quantity>().map_or(0, |amount| amount.millis())
}

fn whole(quantity: &Quantity) -> i64 {
    quantity.0.parse::<berth_api::Quantity>().map_or(0, |amount| amount.whole())
}

/// The most that the pod asks for at any moment of its life: while init containers run one after the
/// other, beside the sidecars started before them, or afterwards; see KEP-753.
fn requests(spec: &core::PodSpec, held: &Held, weighed: bool) -> Amounts {
    let mut running = Amounts::default();
    let mut sidecars = Amounts::default();
    let mut starting = Amounts::default();
    for container in &spec.containers {
        running += &container_requests(container, held, weighed);
    }
    for container in spec.init_containers.iter().flatten() {
        let own = container_requests(container, held, weighed);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += &own;
            starting = starting.max(&sidecars);
        } else {
            starting = starting.max(&(own + &sidecars));
        }
    }
    running += &sidecars;
    let mut total = running.max(&starting);
    // Requests of the pod as a whole, where stated, stand above those of its containers.
    if let Some(stated) = spec.resources.as_ref().and_then(|all| all.requests.as_ref()) {
        let amounts = amounts(stated);
        if stated.contains_key("cpu") {
            total.cpu = amounts.cpu;
        }
        if stated.contains_key("memory") {
            total.memory = amounts.memory;
        }
        total.extended.extend(amounts.extended);
    }
    if let Some(overhead) = &spec.overhead {
        total += &amounts(overhead);
    }
    total
}

/// What containers have, where that is not what they ask for: a change of resources is under way.
///
/// Source: KEP-1287: until it is done the larger counts, and what cannot be done does not count.
#[derive(Default)]
struct Held {
    by_name: BTreeMap<String, Amounts>,
    /// The node is too small for the change.
    infeasible: bool,
}

impl Held {
    fn of(status: Option<&core::PodStatus>) -> Self {
        let Some(status) = status else { return Self::default() };
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let by_name = all.filter_map(|container| {
            let actual = container.resources.as_ref().and_then(|all| all.requests.as_ref());
            let allocated = container.allocated_resources.as_ref();
            let mut has = actual.or(allocated).map(amounts)?;
            if let Some(allocated) = allocated {
                has = has.max(&amounts(allocated));
            }
            Some((container.name.clone(), has))
        });
        let infeasible = status.conditions.iter().flatten().any(|each| {
            (each.type_.as_str(), each.reason.as_deref())
                == ("PodResizePending", Some("Infeasible"))
        });
        Self { by_name: by_name.collect(), infeasible }
    }
}

fn container_requests(container: &core::Container, held: &Held, weighed: bool) -> Amounts {
    let stated = container.resources.as_ref().and_then(|all| all.requests.as_ref());
    let mut own = stated.map(amounts).unwrap_or_default();
    if let Some(has) = held.by_name.get(&container.name) {
        own = if held.infeasible { has.clone() } else { own.max(has) };
    }
    if weighed {
        if !stated.is_some_and(|all| all.contains_key("cpu")) {
            own.cpu = UNSTATED_CPU;
        }
        if !stated.is_some_and(|all| all.contains_key("memory")) {
            own.memory = UNSTATED_MEMORY;
        }
    }
    own
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let on_host = spec.host_network.unwrap_or(false);
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.or(on_host.then_some(port.container_port))?;
            (number > 0).then(|| HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: port
                    .host_ip
                    .clone()
                    .filter(|address| !address.is_empty())
                    .unwrap_or_else(|| "0.0.0.0".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// A disk of Ceph is the same where a monitor, the pool and the image are.
fn disks(spec: &core::PodSpec) -> Vec<Disk> {
    let mut all = Vec::new();
    let mut add = |name: String, read_only: bool| all.push(Disk { name, read_only });
    for volume in spec.volumes.iter().flatten() {
        if let Some(disk) = &volume.gce_persistent_disk {
            add(format!("gce/{}", disk.pd_name), disk.read_only == Some(true));
        }
        if let Some(disk) = &volume.aws_elastic_block_store {
            add(format!("aws/{}", disk.volume_id), false);
        }
        if let Some(disk) = &volume.iscsi {
            add(format!("iscsi/{}", disk.iqn), disk.read_only == Some(true));
        }
        if let Some(disk) = &volume.rbd {
            let pool = disk.pool.as_deref().unwrap_or("rbd");
            for monitor in &disk.monitors {
                let name = format!("rbd/{monitor}/{pool}/{}", disk.image);
                add(name, disk.read_only == Some(true));
            }
        }
    }
    all
}

fn effect(name: &str) -> Option<Effect> {
    match name {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

fn taint(object: &core::Taint) -> Option<Taint> {
    Some(Taint {
        key: object.key.clone(),
        value: object.value.clone().unwrap_or_default(),
        effect: effect(&object.effect)?,
    })
}

fn toleration(object: &core::Toleration) -> Toleration {
    let exists = object.operator.as_deref() == Some("Exists");
    Toleration {
        key: object.key.clone().filter(|key| !key.is_empty()),
        value: (!exists).then(|| object.value.clone().unwrap_or_default()),
        effect: object.effect.as_deref().and_then(effect),
    }
}

fn requirement(key: &str, operator: &str, values: Option<&Vec<String>>) -> Requirement {
    Requirement {
        key: key.to_owned(),
        // The API server refuses other names; should one come, nothing matches.
        operator: Operator::parse(operator).unwrap_or(Operator::In),
        values: values.cloned().unwrap_or_default(),
    }
}

/// A selector that cannot be read selects nothing; the API server refuses to store one.
fn selector(object: Option<&LabelSelector>) -> Selector {
    Selector::from_object(object).unwrap_or_else(|_| Selector::nothing())
}

/// The selector with the pod's own values of `keys` added: to be alike, or to differ.
fn with_own(
    object: Option<&LabelSelector>,
    alike: Option<&Vec<String>>,
    differ: Option<&Vec<String>>,
    labels: &BTreeMap<String, String>,
) -> Selector {
    let Some(mut object) = object.cloned() else { return Selector::nothing() };
    for (keys, operator) in [(alike, "In"), (differ, "NotIn")] {
        for key in keys.into_iter().flatten() {
            if let Some(value) = labels.get(key) {
                object.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
    }
    selector(Some(&object))
}

fn spread(object: &core::TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Spread {
    let alike = object.match_label_keys.as_ref();
    Spread {
        selector: with_own(object.label_selector.as_ref(), alike, None, labels),
        topology_key: object.topology_key.clone(),
        max_skew: i64::from(object.max_skew),
        min_domains: object.min_domains.map_or(1, i64::from),
        required: object.when_unsatisfiable == "DoNotSchedule",
        honour_affinity: object.node_affinity_policy.as_deref() != Some("Ignore"),
        honour_taints: object.node_taints_policy.as_deref() == Some("Honor"),
    }
}

pub(crate) fn node_term(object: &core::NodeSelectorTerm) -> NodeTerm {
    let all = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
        list.iter()
            .flatten()
            .map(|each| requirement(&each.key, &each.operator, each.values.as_ref()))
            .collect()
    };
    NodeTerm { labels: all(&object.match_expressions), fields: all(&object.match_fields) }
}

fn node_affinity(affinity: &core::Affinity, pod: &mut Pod) {
    let Some(object) = &affinity.node_affinity else { return };
    pod.node_affinity = object
        .required_during_scheduling_ignored_during_execution
        .as_ref()
        .map(|required| required.node_selector_terms.iter().map(node_term).collect());
    pod.node_preferences = object
        .preferred_during_scheduling_ignored_during_execution
        .iter()
        .flatten()
        .map(|each| (i64::from(each.weight), node_term(&each.preference)))
        .collect();
}

fn pod_affinity(
    affinity: &core::Affinity,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    pod: &mut Pod,
) {
    let near = |term: &core::PodAffinityTerm| near(term, namespace, labels);
    let weighted = |list: &Option<Vec<core::WeightedPodAffinityTerm>>, sign: i64| {
        list.iter()
            .flatten()
            .map(|each| (sign * i64::from(each.weight), near(&each.pod_affinity_term)))
            .collect::<Vec<_>>()
    };
    if let Some(object) = &affinity.pod_affinity {
        let required = &object.required_during_scheduling_ignored_during_execution;
        pod.affinity = required.iter().flatten().map(near).collect();
        let wishes = &object.preferred_during_scheduling_ignored_during_execution;
        pod.near_preferences.extend(weighted(wishes, 1));
    }
    if let Some(object) = &affinity.pod_anti_affinity {
        let required = &object.required_during_scheduling_ignored_during_execution;
        pod.anti_affinity = required.iter().flatten().map(near).collect();
        let wishes = &object.preferred_during_scheduling_ignored_during_execution;
        pod.near_preferences.extend(weighted(wishes, -1));
    }
}

fn near(term: &core::PodAffinityTerm, namespace: &str, labels: &BTreeMap<String, String>) -> Near {
    let alike = term.match_label_keys.as_ref();
    let differ = term.mismatch_label_keys.as_ref();
    let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.insert(namespace.to_owned());
    }
    Near {
        selector: with_own(term.label_selector.as_ref(), alike, differ, labels),
        namespaces,
        namespace_selector: selector(term.namespace_selector.as_ref()),
        topology_key: term.topology_key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_and_sidecars_count_as_in_kep_753() {
        fn container(cpu: &str, restart: Option<&str>) -> serde_json::Value {
            json!({
                "name": "c", "restartPolicy": restart,
                "resources": { "requests": { "cpu": cpu } },
            })
        }
        let spec = |init: Vec<serde_json::Value>, main: Vec<serde_json::Value>| -> core::PodSpec {
            serde_json::from_value(json!({ "initContainers": init, "containers": main })).unwrap()
        };
        let cpu = |spec: &core::PodSpec| requests(spec, &Held::default(), false).cpu.0;
        assert_eq!(cpu(&spec(vec![], vec![container("1", None), container("500m", None)])), 1500);
        assert_eq!(cpu(&spec(vec![container("2", None)], vec![container("1", None)])), 2000);
        let always = Some("Always");
        let sidecar_first = vec![container("1", always), container("2", None)];
        assert_eq!(cpu(&spec(sidecar_first, vec![container("1", None)])), 3000);
        let sidecar_last = vec![container("2", None), container("1500m", always)];
        assert_eq!(cpu(&spec(sidecar_last, vec![container("1", None)])), 2500);
        let unstated: core::PodSpec =
            serde_json::from_value(json!({ "containers": [{ "name": "c" }] })).unwrap();
        assert_eq!(requests(&unstated, &Held::default(), false), Amounts::default());
        assert_eq!(requests(&unstated, &Held::default(), true).cpu, UNSTATED_CPU);
    }

    #[test]
    fn while_resources_change_the_larger_counts() {
        fn check(asked: &str, status: serde_json::Value, expected: i64) {
            let object = json!({
                "spec": { "containers": [{ "name": "c",
                    "resources": { "requests": { "cpu": asked } } }] },
                "status": status });
            let found = pod(&serde_json::from_value(object).unwrap());
            assert_eq!(found.requests.cpu.0, expected, "{asked} {status}");
        }
        let has = |actual: &str, allocated: &str| {
            json!([{ "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": { "cpu": allocated },
                "resources": { "requests": { "cpu": actual } } }])
        };
        check("1", json!({}), 1000);
        // It shrinks, and has not shrunk yet; then it has.
        check("1", json!({ "containerStatuses": has("2", "2") }), 2000);
        check("1", json!({ "containerStatuses": has("2", "1") }), 2000);
        check("1", json!({ "containerStatuses": has("1", "1") }), 1000);
        // It grows: its room is taken from when it asks.
        check("3", json!({ "containerStatuses": has("2", "2") }), 3000);
        let never =
            json!([{ "type": "PodResizePending", "status": "True", "reason": "Infeasible" }]);
        check("3", json!({ "containerStatuses": has("2", "2"), "conditions": never }), 2000);
    }
}
