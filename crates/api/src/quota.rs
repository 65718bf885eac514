//! What an object counts for against a ResourceQuota, and which quotas it is counted by.
//!
//! Pure, over objects as they are stored: the API server asks before a write, the quota controller
//! when it counts a namespace anew, and both must get the same answer.
//!
//! Not counted: devices of ResourceClaims by class; a pod in the seconds between the end of its
//! grace period and its removal still counts.
//!
//! # Source
//! Kubernetes' quota evaluators (`pkg/quota/v1/evaluator/core`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Quantity;

mod pods;

const CLASS: &str = ".storageclass.storage.k8s.io/";
const LEGACY_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Amounts by the names that a quota's `hard` may have.
pub type Usage = BTreeMap<String, Quantity>;

/// What `object` of `resource` (the plural) in `group` counts for: `count/RESOURCE[.GROUP]` for
/// every kind, and for pods, services and claims what they ask for.
///
/// A pod that is over counts for nothing but `count/pods`.
pub fn usage(group: &str, resource: &str, object: &Value) -> Usage {
    let mut all = Usage::new();
    let one = Quantity::from_whole(1);
    if group.is_empty() {
        all.insert(format!("count/{resource}"), one);
    } else {
        all.insert(format!("count/{resource}.{group}"), one);
        return all;
    }
    match resource {
        "pods" => pods::count(object, &mut all),
        "services" => services(object, &mut all),
        "persistentvolumeclaims" => claims(object, &mut all),
        "configmaps" | "replicationcontrollers" | "resourcequotas" | "secrets" => {
            all.insert(resource.to_owned(), one);
        }
        _ => {}
    }
    all
}

/// Whether every scope of `quota` holds for `object`. A quota with scopes counts only pods, and
/// claims by their attributes class.
pub fn matches_scopes(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten();
    let plain = scopes.map(|scope| (scope.as_str().unwrap_or_default(), "Exists", Vec::new()));
    let wanted = quota["spec"]["scopeSelector"]["matchExpressions"].as_array();
    let selected = wanted.into_iter().flatten().map(|wanted| {
        let values = wanted["values"].as_array().into_iter().flatten();
        let scope = wanted["scopeName"].as_str().unwrap_or_default();
        let operator = wanted["operator"].as_str().unwrap_or_default();
        (scope, operator, values.filter_map(Value::as_str).collect())
    });
    plain.chain(selected).all(|(scope, operator, values)| {
        let holds = match (group, resource) {
            ("", "pods") => pods::holds,
            ("", "persistentvolumeclaims") => claim_holds,
            _ => return false,
        };
        holds(object, scope, operator, &values)
    })
}

/// Whether a quota with this name in its `hard` counts objects of `resource` in `group`.
pub fn counts(name: &str, group: &str, resource: &str) -> bool {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, of) = counted.split_once('.').unwrap_or((counted, ""));
        return plural == resource && of == group;
    }
    if !group.is_empty() {
        return false;
    }
    match name {
        "requests.storage" => resource == "persistentvolumeclaims",
        "services.nodeports" | "services.loadbalancers" => resource == "services",
        "configmaps"
        | "persistentvolumeclaims"
        | "pods"
        | "replicationcontrollers"
        | "resourcequotas"
        | "secrets"
        | "services" => resource == name,
        _ if name.contains(CLASS) => resource == "persistentvolumeclaims",
        "cpu" | "memory" | "ephemeral-storage" => resource == "pods",
        _ => {
            let of_pods = ["requests.", "limits.", "hugepages-"];
            resource == "pods" && of_pods.iter().any(|start| name.starts_with(start))
        }
    }
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        let before = sum.get(name).copied();
        sum.insert(name.clone(), before.map_or(*amount, |before| before + *amount));
    }
}

fn services(service: &Value, all: &mut Usage) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let taken = ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == Value::Bool(false) => {
            (taken, 1)
        }
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    all.insert("services".to_owned(), Quantity::from_whole(1));
    all.insert("services.nodeports".to_owned(), Quantity::from_whole(node_ports));
    all.insert("services.loadbalancers".to_owned(), Quantity::from_whole(balancers));
}

fn claims(claim: &Value, all: &mut Usage) {
    let one = Quantity::from_whole(1);
    let asked = amount(&claim["spec"]["resources"]["requests"]["storage"]);
    let allocated = amount(&claim["status"]["allocatedResources"]["storage"]);
    let storage = asked.into_iter().chain(allocated).max().unwrap_or(Quantity::ZERO);
    all.insert("persistentvolumeclaims".to_owned(), one);
    all.insert("requests.storage".to_owned(), storage);
    let class = claim["metadata"]["annotations"][LEGACY_CLASS]
        .as_str()
        .or(claim["spec"]["storageClassName"].as_str())
        .unwrap_or_default();
    if !class.is_empty() {
        all.insert(format!("{class}{CLASS}persistentvolumeclaims"), one);
        all.insert(format!("{class}{CLASS}requests.storage"), storage);
    }
}

fn claim_holds(claim: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    if scope != "VolumeAttributesClass" {
        return false;
    }
    let places = [
        &claim["spec"]["volumeAttributesClassName"],
        &claim["status"]["currentVolumeAttributesClassName"],
        &claim["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    let names = places.iter().filter_map(|place| place.as_str()).filter(|name| !name.is_empty());
    among(&names.collect::<Vec<_>>(), operator, values)
}

/// Whether any of `found` is what a scope's expression asks for.
fn among(found: &[&str], operator: &str, values: &[&str]) -> bool {
    match operator {
        "Exists" => !found.is_empty(),
        "DoesNotExist" => found.is_empty(),
        "In" => found.iter().any(|name| values.contains(name)),
        "NotIn" => found.iter().all(|name| !values.contains(name)),
        _ => false,
    }
}

/// An amount as JSON has it: a text, or a plain number.
fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
