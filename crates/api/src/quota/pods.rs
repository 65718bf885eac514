//! What a pod counts for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Usage, add, among, amount};
use crate::Quantity;

/// Names without a domain that a pod's resources may have.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Adds what `pod` counts for.
pub(super) fn count(pod: &Value, all: &mut Usage) {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return;
    }
    all.insert("pods".to_owned(), Quantity::from_whole(1));
    for (name, asked) in total(pod, "requests") {
        if PLAIN.contains(&name.as_str()) || name.starts_with("hugepages-") {
            all.insert(name.clone(), asked);
        }
        all.insert(format!("requests.{name}"), asked);
    }
    for (name, most) in total(pod, "limits") {
        if PLAIN.contains(&name.as_str()) {
            all.insert(format!("limits.{name}"), most);
        }
    }
}

/// What the whole pod asks for: what runs at once, at its highest, with the overhead; what is said
/// for the pod as a whole counts in place of its containers.
fn total(pod: &Value, which: &str) -> Usage {
    let mut sum = Usage::new();
    let spec = &pod["spec"];
    for container in list(&spec["containers"]) {
        add(&mut sum, &of_container(pod, container, "containerStatuses", which));
    }
    let mut sidecars = Usage::new();
    let mut highest = Usage::new();
    for container in list(&spec["initContainers"]) {
        let own = of_container(pod, container, "initContainerStatuses", which);
        let mut at_once = sidecars.clone();
        add(&mut at_once, &own);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &own);
            sidecars = at_once.clone();
        }
        raise(&mut highest, at_once);
    }
    raise(&mut sum, highest);
    sum.extend(resources(&spec["resources"][which]));
    let overhead = resources(&spec["overhead"]);
    for (name, more) in overhead {
        // A limit is only raised where there is one: no limit stays no limit.
        if which == "requests" || sum.contains_key(&name) {
            add(&mut sum, &BTreeMap::from([(name, more)]));
        }
    }
    sum
}

/// What a container asks for, or still holds while it is resized: the larger.
fn of_container(pod: &Value, container: &Value, statuses: &str, which: &str) -> Usage {
    let mut asked = resources(&container["resources"][which]);
    let name = &container["name"];
    let status = list(&pod["status"][statuses]).find(|status| status["name"] == *name);
    if let Some(status) = status {
        raise(&mut asked, resources(&status["resources"][which]));
        if which == "requests" {
            raise(&mut asked, resources(&status["allocatedResources"]));
        }
    }
    asked
}

fn resources(value: &Value) -> Usage {
    let all = value.as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

fn raise(all: &mut Usage, others: Usage) {
    for (name, other) in others {
        let before = all.get(&name).copied().unwrap_or(other);
        all.insert(name, before.max(other));
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a scope's expression holds for `pod`.
pub(super) fn holds(pod: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    let spec = &pod["spec"];
    match scope {
        "Terminating" => spec["activeDeadlineSeconds"].as_i64().is_some_and(|limit| limit >= 0),
        "NotTerminating" => spec["activeDeadlineSeconds"].as_i64().is_none_or(|limit| limit < 0),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|name| !name.is_empty());
            among(&class.into_iter().collect::<Vec<_>>(), operator, values)
        }
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    if let Some(class) = pod["status"]["qosClass"].as_str().filter(|class| !class.is_empty()) {
        return class == "BestEffort";
    }
    let spec = &pod["spec"];
    let containers = list(&spec["containers"]).chain(list(&spec["initContainers"]));
    let mut wants = containers.map(|container| &container["resources"]).chain([&spec["resources"]]);
    !wants.any(|wants| {
        ["requests", "limits"].iter().any(|which| {
            let named = resources(&wants[which]);
            ["cpu", "memory"].iter().any(|name| named.get(*name).is_some_and(|a| !a.is_zero()))
        })
    })
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        list(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = &affinity[kind];
        list(&terms["requiredDuringSchedulingIgnoredDuringExecution"]).any(crosses)
            || list(&terms["preferredDuringSchedulingIgnoredDuringExecution"])
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}
