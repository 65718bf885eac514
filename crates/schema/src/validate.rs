//! What makes an object acceptable.
//!
//! Three layers: what the facts say of every type (required fields, enums), a rule a type for what
//! they do not say, and what may not change. The sentences and reasons are Kubernetes', so that
//! people and tools recognise them. Refuses what needs other objects to decide: that is admission.

use serde_json::Value;

use crate::{Cause, Resource, crd};

mod config;
mod container;
mod custom;
mod frozen;
mod labels;
mod metadata;
mod network;
mod path;
mod pod;
mod rest;
mod rules;
mod volumes;
mod walk;
mod workloads;

pub(crate) use custom::Rules;
use path::Path;

/// More causes than this help no one.
const MOST: usize = 64;

/// All that is wrong with `new`, as a change of `old` through `subresource`; empty when it is
/// fine. `new` is read and defaulted.
#[must_use]
pub fn validate(
    resource: &Resource,
    new: &Value,
    old: Option<&Value>,
    subresource: Option<&str>,
) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata::check(resource, new, &mut causes);
    if let Some(own) = &resource.custom {
        let rules = custom::Rules { patterns: &own.patterns };
        causes.extend(rules.check("", new, &own.openapi));
    } else if resource.plural == "customresourcedefinitions" {
        causes.extend(crd::check(new));
    } else if subresource != Some("status") {
        walk::value(&Path::root(), new, &resource.schema, &mut causes);
    }
    if let (Some(old), None) = (old, subresource) {
        frozen::check(resource, new, old, &mut causes);
    }
    if resource.kind == "StatefulSet" {
        claimed(new, &mut causes);
    }
    if resource.kind == "Node" {
        // Kubernetes reports a node's taints where they stood long ago.
        for cause in causes.iter_mut().filter(|cause| cause.field.starts_with("spec.taints[")) {
            cause.field = cause.field.replacen("spec.", "metadata.", 1);
        }
    }
    causes.truncate(MOST);
    causes
}

/// A StatefulSet's pods get a volume of each claim template, which the pod's template cannot name.
fn claimed(set: &Value, causes: &mut Vec<Cause>) {
    let templates = set["spec"]["volumeClaimTemplates"].as_array();
    let names = templates.into_iter().flatten().map(|one| &one["metadata"]["name"]);
    let fine: Vec<Cause> = names.map(|name| Cause::not_found("", name)).collect();
    let of_mount =
        |field: &str| field.contains("].volumeMounts[") || field.contains("].volumeDevices[");
    causes.retain(|cause| {
        let known = fine.iter().any(|one| one.message == cause.message);
        !(known && cause.reason == "FieldValueNotFound" && of_mount(&cause.field))
    });
}

#[cfg(test)]
mod tests;
