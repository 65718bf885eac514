//! What may not change once an object is there.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{Cause, Resource};

const IMMUTABLE: &str = "field is immutable";

/// Kind, field: never changed.
const FROZEN: [(&str, &str); 20] = [
    ("Deployment", "/spec/selector"),
    ("ReplicaSet", "/spec/selector"),
    ("DaemonSet", "/spec/selector"),
    ("Job", "/spec/selector"),
    ("Job", "/spec/template"),
    ("Job", "/spec/completionMode"),
    ("Job", "/spec/podFailurePolicy"),
    ("Job", "/spec/backoffLimitPerIndex"),
    ("Secret", "/type"),
    ("RoleBinding", "/roleRef"),
    ("ClusterRoleBinding", "/roleRef"),
    ("StorageClass", "/volumeBindingMode"),
    ("IngressClass", "/spec/controller"),
    ("PriorityClass", "/preemptionPolicy"),
    ("RuntimeClass", "/handler"),
    ("EndpointSlice", "/addressType"),
    ("CustomResourceDefinition", "/spec/group"),
    ("CustomResourceDefinition", "/spec/scope"),
    ("CustomResourceDefinition", "/spec/names/kind"),
    ("ControllerRevision", "/data"),
];

/// Kind, field, what is said of it: never changed either, in words of their own.
const FORBIDDEN: [(&str, &str, &str); 4] = [
    ("StorageClass", "provisioner", "updates to provisioner are forbidden."),
    ("StorageClass", "parameters", "updates to parameters are forbidden."),
    ("StorageClass", "reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ("PriorityClass", "value", "may not be changed in an update."),
];

pub fn check(resource: &Resource, new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if resource.custom.is_some() {
        return;
    }
    for (_, pointer) in FROZEN.iter().filter(|(kind, _)| *kind == resource.kind) {
        let (before, after) = (old.pointer(pointer), new.pointer(pointer));
        if before.is_some() && before != after {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            causes.push(Cause::invalid(path, after.unwrap_or(&Value::Null), IMMUTABLE));
        }
    }
    for (_, field, wrong) in FORBIDDEN.iter().filter(|(kind, ..)| *kind == resource.kind) {
        if old[*field] != new[*field] {
            causes.push(Cause::forbidden(*field, wrong));
        }
    }
    match resource.kind.as_str() {
        "ConfigMap" | "Secret" => sealed(new, old, causes),
        "Service" => service(new, old, causes),
        "Pod" => pod(new, old, causes),
        "Job" => job(new, old, causes),
        "StatefulSet" => stateful_set(new, old, causes),
        "PersistentVolumeClaim" => claim(new, old, causes),
        "Node" => node(new, old, causes),
        _ => {}
    }
}

fn sealed(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if old["immutable"] != true {
        return;
    }
    for field in ["immutable", "data", "binaryData", "stringData"] {
        if new[field] != old[field] {
            causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
        }
    }
}

/// A cluster address stays for the life of the Service, except to and from an external name.
fn service(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let outside = |one: &Value| one["spec"]["type"] == "ExternalName";
    if outside(new) || outside(old) {
        return;
    }
    let (before, after) = (&old["spec"]["clusterIP"], &new["spec"]["clusterIP"]);
    let had = before.as_str().is_some_and(|address| !address.is_empty());
    if had && before != after {
        let wrong = "may not change once set";
        let after = if after.is_null() { json!([]) } else { json!([after]) };
        causes.push(Cause::invalid("spec.clusterIPs[0]", &after, wrong));
    }
}

/// Of a pod that is there, only images, deadline, further tolerations and gates may change.
fn pod(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let count = |one: &Value, list: &str| one["spec"][list].as_array().map_or(0, Vec::len);
    for list in ["containers", "initContainers"] {
        if count(new, list) != count(old, list) {
            let wrong = "pod updates may not add or remove containers";
            causes.push(Cause::forbidden(format!("spec.{list}"), wrong));
            return;
        }
    }
    let (mut mutable, before) = (new["spec"].clone(), &old["spec"]);
    for list in ["containers", "initContainers"] {
        let containers = mutable.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (at, container) in containers.enumerate() {
            if container["image"].as_str().is_some_and(|image| !image.is_empty()) {
                copy(container, &before[list][at], "image");
            }
        }
    }
    deadline(new, old, causes);
    copy(&mut mutable, before, "activeDeadlineSeconds");
    let kept = |list: &str, more: bool| {
        let all = |one: &Value| one["spec"][list].as_array().cloned().unwrap_or_default();
        let (before, after) = (all(old), all(new));
        let (less, larger) = if more { (before, after) } else { (after, before) };
        let larger: HashSet<&Value> = larger.iter().collect();
        less.iter().all(|one| larger.contains(one))
    };
    if kept("tolerations", true) {
        copy(&mut mutable, before, "tolerations");
    }
    let gated = before["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if kept("schedulingGates", false) {
        copy(&mut mutable, before, "schedulingGates");
    }
    if gated {
        // Where it may run can still be narrowed while it may not be placed.
        copy(&mut mutable, before, "nodeSelector");
        copy(&mut mutable, before, "affinity");
    }
    if before["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0)
        && mutable["terminationGracePeriodSeconds"] == 1
    {
        copy(&mut mutable, before, "terminationGracePeriodSeconds");
    }
    if mutable != *before {
        let wrong = "pod updates may not change fields other than `spec.containers[*].image`,\
                     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                     `spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                     previously negative)";
        causes.push(Cause::forbidden("spec", wrong));
    }
}

/// A deadline may be set, and come nearer.
fn deadline(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let of = |one: &Value| one["spec"]["activeDeadlineSeconds"].as_i64();
    let wrong = match (of(old), of(new)) {
        (Some(before), Some(after)) if after > before => {
            "must be less than or equal to previous value"
        }
        (Some(_), None) => "must not update from a positive integer to nil value",
        _ => return,
    };
    let found = &new["spec"]["activeDeadlineSeconds"];
    causes.push(Cause::invalid("spec.activeDeadlineSeconds", found, wrong));
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => {
            fields.insert(field.to_owned(), value.clone());
        }
        None => {
            fields.remove(field);
        }
    }
}

/// How often a job is to succeed stays, unless its pods are counted out and it grows with them.
fn job(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let (before, after) = (&old["spec"]["completions"], &new["spec"]["completions"]);
    let elastic =
        new["spec"]["completionMode"] == "Indexed" && *after == new["spec"]["parallelism"];
    if before != after && !elastic {
        causes.push(Cause::invalid("spec.completions", after, IMMUTABLE));
    }
}

fn stateful_set(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let mut mutable = new["spec"].clone();
    for field in free {
        copy(&mut mutable, &old["spec"], field);
    }
    if mutable != old["spec"] {
        let wrong = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                     'template', 'updateStrategy', 'revisionHistoryLimit', \
                     'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", wrong));
    }
}

fn claim(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut mutable = new["spec"].clone();
    let before = &old["spec"];
    copy(&mut mutable, before, "resources");
    copy(&mut mutable, before, "volumeAttributesClassName");
    // Binding is what fills these in.
    for field in ["volumeName", "storageClassName"] {
        if before[field].as_str().unwrap_or_default().is_empty() {
            copy(&mut mutable, before, field);
        }
    }
    if mutable != *before {
        let wrong = "spec is immutable after creation except resources.requests and \
                     volumeAttributesClassName for bound claims";
        causes.push(Cause::forbidden("spec", wrong));
    }
}

fn node(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    for field in ["podCIDR", "podCIDRs", "providerID"] {
        let before = &old["spec"][field];
        if !before.is_null() && *before != new["spec"][field] {
            let wrong = "node updates may not change once set";
            causes.push(Cause::forbidden(format!("spec.{field}"), wrong));
        }
    }
}
