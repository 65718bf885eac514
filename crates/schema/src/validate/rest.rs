//! Roles, claims, quotas and the other kinds that need a sentence or two.

use berth_api::names;
use serde_json::{Value, json};

use super::path::Path;
use super::rules::{Fields, amounts, at_least, list, named, number, object, text};
use crate::Cause;

/// Above this, priorities are the system's own.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

/// The classes that the system itself has.
const SYSTEM_PRIORITIES: [(&str, i64); 2] = [
    ("system-node-critical", 2 * HIGHEST_PRIORITY + 1000),
    ("system-cluster-critical", 2 * HIGHEST_PRIORITY),
];

pub fn cluster_role(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    policy_rules(path, fields, false, causes);
}

pub fn role(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    policy_rules(path, fields, true, causes);
}

fn policy_rules(path: &Path<'_>, fields: &Fields, in_namespace: bool, causes: &mut Vec<Cause>) {
    let all = path.field("rules");
    for (at, rule) in list(fields, "rules").iter().enumerate() {
        let Some(rule) = rule.as_object() else { continue };
        let here = all.index(at);
        if list(rule, "verbs").is_empty() {
            let wrong = "verbs must contain at least one value";
            causes.push(Cause::required(here.field("verbs"), wrong));
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            let found = &rule["nonResourceURLs"];
            if in_namespace {
                let wrong = "namespaced rules cannot apply to non-resource URLs";
                causes.push(Cause::invalid(here.field("nonResourceURLs"), found, wrong));
            }
            let both = ["apiGroups", "resources", "resourceNames"];
            if both.iter().any(|key| !list(rule, key).is_empty()) {
                let wrong = "rules cannot apply to both regular resources and non-resource URLs";
                causes.push(Cause::invalid(here.field("nonResourceURLs"), found, wrong));
            }
            continue;
        }
        for key in ["apiGroups", "resources"] {
            if list(rule, key).is_empty() {
                let wrong = format!(
                    "resource rules must supply at least one {}",
                    key.replace("apiGroups", "api group").trim_end_matches('s')
                );
                causes.push(Cause::required(here.field(key), &wrong));
            }
        }
    }
}

pub fn subject(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let group = text(fields, "apiGroup");
    match text(fields, "kind") {
        "ServiceAccount" => {
            named(path, fields, "name", names::dns_subdomain, causes);
            if !group.is_empty() {
                causes.push(Cause::not_supported(path.field("apiGroup"), &json!(group), &[""]));
            }
            if text(fields, "namespace").is_empty() {
                causes.push(Cause::required(path.field("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != "rbac.authorization.k8s.io" {
                let allowed = ["rbac.authorization.k8s.io"];
                causes.push(Cause::not_supported(path.field("apiGroup"), &json!(group), &allowed));
            }
        }
        "" => {}
        other => {
            let allowed = ["Group", "ServiceAccount", "User"];
            causes.push(Cause::not_supported(path.field("kind"), &json!(other), &allowed));
        }
    }
}

pub fn role_ref(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let group = text(fields, "apiGroup");
    if group != "rbac.authorization.k8s.io" {
        let allowed = ["rbac.authorization.k8s.io"];
        causes.push(Cause::not_supported(path.field("apiGroup"), &json!(group), &allowed));
    }
    let kind = text(fields, "kind");
    if !matches!(kind, "" | "Role" | "ClusterRole") {
        let allowed = ["ClusterRole", "Role"];
        causes.push(Cause::not_supported(path.field("kind"), &json!(kind), &allowed));
    }
}

pub fn claim(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    if list(fields, "accessModes").is_empty() {
        let wrong = "at least 1 access mode is required";
        causes.push(Cause::required(path.field("accessModes"), wrong));
    }
    let resources = path.field("resources");
    let requests = object(fields, "resources").and_then(|one| object(one, "requests"));
    match requests.and_then(|requests| requests.get("storage")) {
        None => causes.push(Cause::required(resources.key("storage"), "")),
        Some(_) => {
            let found =
                object(fields, "resources").map(|one| amounts(&resources, one, "requests", causes));
            let zero = found
                .into_iter()
                .flatten()
                .any(|(name, amount)| name == "storage" && amount.is_zero());
            if zero {
                let wrong = "must be greater than zero";
                causes.push(Cause::invalid(resources.key("storage"), &json!("0"), wrong));
            }
        }
    }
    // An empty class is one: it asks for a volume without any.
    named(path, fields, "storageClassName", names::dns_subdomain, causes);
}

pub fn volume(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    if list(fields, "accessModes").is_empty() {
        causes.push(Cause::required(path.field("accessModes"), ""));
    }
    match object(fields, "capacity") {
        Some(capacity) if capacity.contains_key("storage") => {
            amounts(path, fields, "capacity", causes);
        }
        _ => causes.push(Cause::required(path.field("capacity"), "")),
    }
    let plain = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let mut sources = fields.keys().filter(|key| !plain.contains(&key.as_str()));
    if sources.next().is_none() {
        causes.push(Cause::required(path, "must specify a volume type"));
    }
    for source in sources {
        let wrong = "may not specify more than 1 volume type";
        causes.push(Cause::forbidden(path.field(source), wrong));
    }
}

pub fn quota(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    amounts(path, fields, "hard", causes);
}

pub fn limit_range_item(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let most = amounts(path, fields, "max", causes);
    for name in ["min", "default", "defaultRequest"] {
        for (resource, amount) in amounts(path, fields, name, causes) {
            let limit = most.iter().find(|(other, _)| *other == resource);
            if let Some((_, limit)) = limit.filter(|(_, limit)| amount > *limit) {
                let wrong = format!("{name} value {amount} is greater than max value {limit}");
                let here = path.field(name);
                causes.push(Cause::invalid(here.key(resource), &json!(amount.to_string()), &wrong));
            }
        }
    }
}

pub fn taint(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "key", names::qualified_name, causes);
    named(path, fields, "value", names::label_value, causes);
}

/// An event stands where what it tells of does.
pub fn event(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let about =
        object(fields, "involvedObject").map(|one| text(one, "namespace")).unwrap_or_default();
    let own = object(fields, "metadata").map(|one| text(one, "namespace")).unwrap_or_default();
    let fits =
        if about.is_empty() { matches!(own, "" | "default" | "kube-system") } else { own == about };
    if !fits {
        let here = path.field("involvedObject");
        let wrong = "does not match event.namespace";
        causes.push(Cause::invalid(here.field("namespace"), &json!(about), wrong));
    }
}

pub fn lease(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    if let Some(found) = number(fields, "leaseDurationSeconds").filter(|found| *found <= 0) {
        let here = path.field("leaseDurationSeconds");
        causes.push(Cause::invalid(here, &json!(found), "must be greater than 0"));
    }
    at_least(path, fields, &["leaseTransitions"], 0, causes);
}

pub fn priority_class(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let name = object(fields, "metadata").map(|one| text(one, "name")).unwrap_or_default();
    let value = number(fields, "value").unwrap_or(0);
    if name.starts_with("system-") && !SYSTEM_PRIORITIES.contains(&(name, value)) {
        let wrong = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: \
             {name} is not a known system priority class"
        );
        causes.push(Cause::forbidden(path.field("metadata").field("name"), &wrong));
    }
    if value > HIGHEST_PRIORITY && !name.starts_with("system-") {
        let wrong =
            format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        causes.push(Cause::forbidden(path.field("value"), &wrong));
    }
}

pub fn ingress_class(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "controller");
    let good = found
        .split_once('/')
        .is_some_and(|(domain, rest)| names::dns_subdomain(domain).is_ok() && !rest.is_empty());
    if found.is_empty() {
        causes.push(Cause::required(path.field("controller"), ""));
    } else if !good || found.len() > 250 {
        let wrong = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        causes.push(Cause::invalid(path.field("controller"), &Value::from(found), wrong));
    }
}
