//! Pods as a whole: their containers together, where they may run, who they are.

use std::collections::HashSet;
use std::net::IpAddr;

use berth_api::names;
use serde_json::{Value, json};

use super::path::Path;
use super::rules::{Fields, list, named, not_negative, number, object, text, unique};
use crate::Cause;

pub fn spec(path: &Path<'_>, spec: &Fields, causes: &mut Vec<Cause>) {
    let volumes = list(spec, "volumes");
    unique(&path.field("volumes"), volumes, "name", causes);
    one_name_each(path, spec, causes);
    for group in ["containers", "initContainers", "ephemeralContainers"] {
        let all = path.field(group);
        for (at, container) in list(spec, group).iter().enumerate() {
            let here = all.index(at);
            mounts(&here, container, volumes, causes);
            if group == "initContainers" {
                init(&here, container, causes);
            }
        }
    }
    host_ports(path, spec, causes);
    not_negative(path, spec, &["terminationGracePeriodSeconds"], causes);
    if number(spec, "activeDeadlineSeconds").is_some_and(|seconds| seconds < 1) {
        let found = spec["activeDeadlineSeconds"].clone();
        let wrong = "must be between 1 and 2147483647, inclusive";
        causes.push(Cause::invalid(path.field("activeDeadlineSeconds"), &found, wrong));
    }
    named(path, spec, "serviceAccountName", names::dns_subdomain, causes);
    named(path, spec, "nodeName", names::dns_subdomain, causes);
    named(path, spec, "hostname", names::dns_label, causes);
    named(path, spec, "subdomain", names::dns_label, causes);
    named(path, spec, "priorityClassName", names::dns_subdomain, causes);
    named(path, spec, "runtimeClassName", names::dns_subdomain, causes);
    super::labels::labels(&path.field("nodeSelector"), object(spec, "nodeSelector"), causes);
    if text(spec, "dnsPolicy") == "None"
        && object(spec, "dnsConfig").is_none_or(|config| list(config, "nameservers").is_empty())
    {
        let wrong = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.push(Cause::required(path.field("dnsConfig").field("nameservers"), wrong));
    }
}

/// Containers of all sorts share one space of names.
fn one_name_each(path: &Path<'_>, spec: &Fields, causes: &mut Vec<Cause>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in list(spec, group).iter().enumerate() {
            let Some(name) = container["name"].as_str() else { continue };
            if seen.contains(&name) {
                let all = path.field(group);
                causes.push(Cause::duplicate(all.index(at).field("name"), &json!(name)));
            }
            seen.insert(name);
        }
    }
}

/// Each mount names a volume that there is, and no two stand at one place.
fn mounts(path: &Path<'_>, container: &Value, volumes: &[Value], causes: &mut Vec<Cause>) {
    let there: HashSet<&Value> = volumes.iter().map(|volume| &volume["name"]).collect();
    for list in ["volumeMounts", "volumeDevices"] {
        let all = path.field(list);
        let mut seen: HashSet<&Value> = HashSet::new();
        for (at, mount) in container[list].as_array().into_iter().flatten().enumerate() {
            if mount["name"].is_string() && !there.contains(&mount["name"]) {
                causes.push(Cause::not_found(all.index(at).field("name"), &mount["name"]));
            }
            let place = if list == "volumeMounts" { "mountPath" } else { "devicePath" };
            if seen.contains(&mount[place]) {
                let wrong = "must be unique";
                causes.push(Cause::invalid(all.index(at).field(place), &mount[place], wrong));
            }
            seen.insert(&mount[place]);
        }
    }
}

/// Init containers end by themselves, unless they restart always.
fn init(path: &Path<'_>, container: &Value, causes: &mut Vec<Cause>) {
    if container["restartPolicy"] == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container[field].is_object() {
            let wrong = "may not be set for init containers without restartPolicy=Always";
            causes.push(Cause::forbidden(path.field(field), wrong));
        }
    }
}

/// No two containers of a pod want the same port of the node; on its network they are the same.
fn host_ports(path: &Path<'_>, spec: &Fields, causes: &mut Vec<Cause>) {
    let on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    let mut seen = HashSet::new();
    let all = path.field("containers");
    for (at, container) in list(spec, "containers").iter().enumerate() {
        let here = all.index(at);
        let ports = here.field("ports");
        for (at, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else {
                continue;
            };
            if on_host && port["containerPort"].as_i64() != Some(number) {
                let wrong = "must match `hostPort` when `hostNetwork` is true";
                causes.push(Cause::invalid(
                    ports.index(at).field("containerPort"),
                    &port["containerPort"],
                    wrong,
                ));
            }
            let taken = (number, port["protocol"].as_str(), port["hostIP"].as_str());
            if seen.contains(&taken) {
                let shown = json!(format!(
                    "{}/{}/{number}",
                    taken.1.unwrap_or("TCP"),
                    taken.2.unwrap_or_default()
                ));
                causes.push(Cause::duplicate(ports.index(at).field("hostPort"), &shown));
            }
            seen.insert(taken);
        }
    }
}

pub fn toleration(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "key", names::qualified_name, causes);
    let operator = text(fields, "operator");
    if text(fields, "key").is_empty() && operator != "Exists" {
        let wrong = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.push(Cause::invalid(path.field("operator"), &json!(operator), wrong));
    }
    if operator == "Exists" && !text(fields, "value").is_empty() {
        let wrong = "value must be empty when `operator` is 'Exists'";
        causes.push(Cause::invalid(path.field("operator"), &fields["value"], wrong));
    }
    if fields.contains_key("tolerationSeconds") && text(fields, "effect") != "NoExecute" {
        let wrong = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        causes.push(Cause::invalid(path.field("effect"), &json!(text(fields, "effect")), wrong));
    }
}

pub fn spread(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    for name in ["maxSkew", "minDomains"] {
        let found = number(fields, name);
        if found.is_some_and(|found| found < 1) || (name == "maxSkew" && found.is_none()) {
            let shown = json!(found.unwrap_or(0));
            causes.push(Cause::invalid(path.field(name), &shown, "must be greater than zero"));
        }
    }
    named(path, fields, "topologyKey", names::qualified_name, causes);
}

pub fn weight(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = number(fields, "weight").unwrap_or(0);
    if !(1..=100).contains(&found) {
        causes.push(Cause::invalid(
            path.field("weight"),
            &json!(found),
            "must be in the range 1-100",
        ));
    }
}

/// A demand on nodes has terms, of which one must hold.
pub fn node_selector(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    if list(fields, "nodeSelectorTerms").is_empty() {
        let wrong = "must have at least one node selector term";
        causes.push(Cause::required(path.field("nodeSelectorTerms"), wrong));
    }
}

pub fn affinity_term(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let here = path.field("topologyKey");
    let found = text(fields, "topologyKey");
    if found.is_empty() {
        causes.push(Cause::required(&here, "can not be empty"));
    }
    if let Err(wrong) = names::qualified_name(found) {
        causes.push(Cause::invalid(&here, &json!(found), &wrong));
    }
    for (at, namespace) in list(fields, "namespaces").iter().enumerate() {
        if let Err(wrong) = names::dns_label(namespace.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(path.field("namespaces").index(at), namespace, &wrong));
        }
    }
}

pub fn host_alias(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let ip = text(fields, "ip");
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        let wrong = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid(path.field("ip"), &json!(ip), wrong));
    }
    for (at, host) in list(fields, "hostnames").iter().enumerate() {
        if let Err(wrong) = names::dns_subdomain(host.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(path.field("hostnames").index(at), host, &wrong));
        }
    }
}

/// Numbers of users and groups.
pub fn ids(path: &Path<'_>, fields: &Fields, names: &[&str], causes: &mut Vec<Cause>) {
    for name in names {
        let found = number(fields, name);
        if let Some(found) = found.filter(|found| !(0..=i64::from(i32::MAX)).contains(found)) {
            let wrong = "must be between 0 and 2147483647, inclusive";
            causes.push(Cause::invalid(path.field(name), &json!(found), wrong));
        }
    }
}

pub fn security(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    ids(path, fields, &["runAsUser", "runAsGroup", "fsGroup"], causes);
    for (at, group) in list(fields, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_some_and(|group| group < 0) {
            let wrong = "must be between 0 and 2147483647, inclusive";
            causes.push(Cause::invalid(path.field("supplementalGroups").index(at), group, wrong));
        }
    }
}
