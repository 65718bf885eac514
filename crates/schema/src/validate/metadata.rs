//! An object's own metadata.

use berth_api::names;
use serde_json::{Value, json};

use super::labels;
use super::path::Path;
use super::rules::{Fields, list, object, text};
use crate::{Cause, Resource};

pub fn check(resource: &Resource, new: &Value, causes: &mut Vec<Cause>) {
    let root = Path::root();
    let path = root.field("metadata");
    let Some(fields) = new["metadata"].as_object() else {
        causes.push(Cause::required(path.field("name"), "name or generateName is required"));
        return;
    };
    name(resource, &path, fields, causes);
    let namespace = text(fields, "namespace");
    if resource.namespaced {
        if let (false, Err(wrong)) = (namespace.is_empty(), names::dns_label(namespace)) {
            causes.push(Cause::invalid(path.field("namespace"), &json!(namespace), &wrong));
        }
    } else if !namespace.is_empty() {
        causes.push(Cause::forbidden(path.field("namespace"), "not allowed on this type"));
    }
    labels::labels(&path.field("labels"), object(fields, "labels"), causes);
    labels::annotations(&path.field("annotations"), object(fields, "annotations"), causes);
    owners(&path.field("ownerReferences"), list(fields, "ownerReferences"), causes);
    let plain = resource.custom.is_some() || resource.group == "apiextensions.k8s.io";
    finalizers(&path.field("finalizers"), list(fields, "finalizers"), plain, causes);
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];

/// `plain`: of a kind whose finalizers need no domain, only a name.
fn finalizers(path: &Path<'_>, all: &[Value], plain: bool, causes: &mut Vec<Cause>) {
    for (at, finalizer) in all.iter().enumerate() {
        let found = finalizer.as_str().unwrap_or_default();
        if let Err(wrong) = names::qualified_name(found) {
            causes.push(Cause::invalid(path, finalizer, &wrong));
        } else if !plain && !found.contains('/') && !STANDARD_FINALIZERS.contains(&found) {
            let wrong = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(path.index(at), finalizer, wrong));
        }
    }
}

fn name(resource: &Resource, path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let name = text(fields, "name");
    if name.is_empty() {
        if text(fields, "generateName").is_empty() {
            causes.push(Cause::required(path.field("name"), "name or generateName is required"));
        }
        return;
    }
    if let Err(wrong) = name_rule(resource)(name) {
        causes.push(Cause::invalid(path.field("name"), &json!(name), &wrong));
    }
    // A CronJob's Jobs are named after it, with the minute behind.
    if resource.plural == "cronjobs" && name.len() > 52 {
        let wrong = "must be no more than 52 characters";
        causes.push(Cause::invalid(path.field("name"), &json!(name), wrong));
    }
}

/// What names of this resource may be.
fn name_rule(resource: &Resource) -> fn(&str) -> Result<(), String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => names::dns_label,
        ("", "services") => names::dns1035_label,
        ("rbac.authorization.k8s.io", _)
        | ("certificates.k8s.io", _)
        | ("apps", "controllerrevisions") => match resource.plural.as_str() {
            "controllerrevisions" => names::dns_subdomain,
            _ => names::path_segment,
        },
        // Names that other systems give.
        ("networking.k8s.io", "ipaddresses") => names::path_segment,
        _ => names::dns_subdomain,
    }
}

fn owners(path: &Path<'_>, owners: &[Value], causes: &mut Vec<Cause>) {
    let mut controllers = 0;
    for owner in owners {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                let shown = if key == "apiVersion" { "version" } else { key };
                let wrong = format!("{shown} must not be empty");
                causes.push(Cause::invalid(path.field(key), &owner[key], &wrong));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let wrong = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid(path, &json!(owners), wrong));
    }
}
