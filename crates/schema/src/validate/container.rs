//! One container: its image, ports, environment, probes and resources.

use std::net::IpAddr;

use berth_api::{Quantity, names};
use serde_json::{Value, json};

use super::path::Path;
use super::pod;
use super::rules::{
    Fields, amounts, at_least, list, named, not_negative, number, object, port as any_port, text,
    unique,
};
use crate::Cause;

pub fn container(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::dns_label, causes);
    let image = text(fields, "image");
    if image.is_empty() {
        causes.push(Cause::required(path.field("image"), ""));
    } else if image.trim() != image {
        let wrong = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(path.field("image"), &json!(image), wrong));
    }
    unique(&path.field("ports"), list(fields, "ports"), "name", causes);
    let policy = text(fields, "restartPolicy");
    if !matches!(policy, "" | "Always" | "OnFailure" | "Never") {
        let allowed = ["Always", "Never", "OnFailure"];
        causes.push(Cause::not_supported(path.field("restartPolicy"), &json!(policy), &allowed));
    }
    for name in ["livenessProbe", "startupProbe"] {
        let probe = object(fields, name);
        let found = probe.and_then(|probe| number(probe, "successThreshold"));
        if let Some(found) = found.filter(|found| *found != 1) {
            let path = path.field(name);
            causes.push(Cause::invalid(path.field("successThreshold"), &json!(found), "must be 1"));
        }
    }
    if let Some(probe) = object(fields, "readinessProbe")
        && probe.contains_key("terminationGracePeriodSeconds")
    {
        let path = path.field("readinessProbe");
        let wrong = "must not be set for readinessProbes";
        let found = &probe["terminationGracePeriodSeconds"];
        causes.push(Cause::invalid(path.field("terminationGracePeriodSeconds"), found, wrong));
    }
}

pub fn port(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::port_name, causes);
    match number(fields, "containerPort") {
        None | Some(0) => causes.push(Cause::required(path.field("containerPort"), "")),
        Some(number) => any_port(&path.field("containerPort"), &json!(number), causes),
    }
    if let Some(number) = number(fields, "hostPort").filter(|number| *number != 0) {
        any_port(&path.field("hostPort"), &json!(number), causes);
    }
    let ip = text(fields, "hostIP");
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        let wrong = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid(path.field("hostIP"), &json!(ip), wrong));
    }
}

pub fn variable(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::env_name, causes);
    let Some(from) = object(fields, "valueFrom") else { return };
    let path = path.field("valueFrom");
    if from.is_empty() {
        let allowed = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        causes.push(Cause::invalid(&path, &json!(""), allowed));
    } else if !text(fields, "value").is_empty() {
        let wrong = "may not be specified when `value` is not empty";
        causes.push(Cause::invalid(&path, &json!(""), wrong));
    } else if from.len() > 1 {
        let wrong = "may not have more than one field specified at a time";
        causes.push(Cause::invalid(&path, &json!(""), wrong));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(from) = object(from, key) {
            let here = path.field(key);
            named(&here, from, "key", names::config_key, causes);
            if text(from, "name").is_empty() {
                causes.push(Cause::required(here.field("name"), ""));
            }
        }
    }
}

pub fn variables_from(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let sources = ["configMapRef", "secretRef"];
    let found: Vec<_> = sources.iter().filter(|key| fields.contains_key(**key)).collect();
    match found.len() {
        0 => {
            let wrong = "must specify one of: `configMapRef` or `secretRef`";
            causes.push(Cause::invalid(path, &json!(""), wrong));
        }
        1 => {
            let here = path.field(found[0]);
            if object(fields, found[0]).is_some_and(|from| text(from, "name").is_empty()) {
                causes.push(Cause::required(here.field("name"), ""));
            }
        }
        _ => {
            let wrong = "may not have more than one field specified at a time";
            causes.push(Cause::invalid(path, &json!(""), wrong));
        }
    }
    named(path, fields, "prefix", names::env_name, causes);
}

const HANDLERS: [&str; 5] = ["exec", "grpc", "httpGet", "sleep", "tcpSocket"];

pub fn probe(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    handler(path, fields, causes);
    not_negative(path, fields, &["initialDelaySeconds"], causes);
    let counts = ["timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    at_least(path, fields, &counts, 1, causes);
    at_least(path, fields, &["terminationGracePeriodSeconds"], 1, causes);
}

/// Exactly one thing is done.
pub fn handler(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let mut found = HANDLERS.iter().filter(|key| fields.contains_key(**key));
    if found.next().is_none() {
        causes.push(Cause::required(path, "must specify a handler type"));
    }
    for key in found {
        let wrong = "may not specify more than 1 handler type";
        causes.push(Cause::forbidden(path.field(key), wrong));
    }
}

pub fn action(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    match fields.get("port") {
        Some(found) => any_port(&path.field("port"), found, causes),
        None => causes.push(Cause::required(path.field("port"), "")),
    }
    for (at, header) in list(fields, "httpHeaders").iter().enumerate() {
        let name = header["name"].as_str().unwrap_or_default();
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if !name.bytes().all(fits) {
            let wrong = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                         'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            causes.push(Cause::invalid(path.field("httpHeaders").index(at), &json!(name), wrong));
        }
    }
}

pub fn exec(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    if list(fields, "command").is_empty() {
        causes.push(Cause::required(path.field("command"), ""));
    }
}

/// What is asked for is within what is allowed; what cannot be overcommitted is exactly it.
pub fn resources(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let limits = amounts(path, fields, "limits", causes);
    let requests = amounts(path, fields, "requests", causes);
    for list in ["limits", "requests"] {
        for name in object(fields, list).into_iter().flatten().map(|(name, _)| name) {
            resource_name(&path.field(list).key(name), name, causes);
        }
    }
    for (name, wanted) in &requests {
        let limit = limits.iter().find(|(limit, _)| limit == name).map(|(_, limit)| *limit);
        let here = path.field("requests");
        let shown = json!(wanted.to_string());
        match limit {
            Some(limit) if *wanted > limit => {
                let wrong = format!("must be less than or equal to {name} limit of {limit}");
                causes.push(Cause::invalid(here, &shown, &wrong));
            }
            Some(limit) if *wanted != limit && !overcommits(name) => {
                let wrong = format!("must be equal to {name} limit of {limit}");
                causes.push(Cause::invalid(here, &shown, &wrong));
            }
            None if !overcommits(name) => {
                causes.push(Cause::required(
                    path.field("limits"),
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
    for (name, amount) in limits.iter().chain(&requests) {
        if name.contains('/') && *amount != Quantity::from_whole(amount.whole()) {
            let shown = json!(amount.to_string());
            causes.push(Cause::invalid(
                path.field("limits").key(name),
                &shown,
                "must be an integer",
            ));
        }
    }
}

fn overcommits(name: &str) -> bool {
    !name.contains('/') && !name.starts_with("hugepages-")
}

fn resource_name(path: &Path<'_>, name: &str, causes: &mut Vec<Cause>) {
    let known =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if known {
        return;
    }
    if let Err(wrong) = names::qualified_name(name) {
        causes.push(Cause::invalid(path, &json!(name), &wrong));
    } else if !name.contains('/') {
        for wrong in [
            "must be a standard resource type or fully qualified",
            "must be a standard resource for containers",
        ] {
            causes.push(Cause::invalid(path, &json!(name), wrong));
        }
    }
}

pub fn security(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    pod::ids(path, fields, &["runAsUser", "runAsGroup"], causes);
    let is = |name: &str, word: bool| fields.get(name) == Some(&Value::Bool(word));
    if is("allowPrivilegeEscalation", false) && is("privileged", true) {
        let wrong = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        causes.push(Cause::invalid(path, &Value::Object(fields.clone()), wrong));
    }
    let added = object(fields, "capabilities").map(|all| list(all, "add")).unwrap_or_default();
    if is("allowPrivilegeEscalation", false) && added.iter().any(|one| one == "CAP_SYS_ADMIN") {
        let wrong =
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        causes.push(Cause::invalid(path, &Value::Object(fields.clone()), wrong));
    }
}
