//! The little that Kubernetes does for single kinds, hooked into the writes that are the same for
//! all.
//!
//! ```text
//! create:  prepare_create ─ default ─ before_create ─ validate ─ store
//! update:  confine ─ default ─ before_update ─ bump_generation ─ validate ─ store ─ after_update
//! delete:  may_delete ─ mark_deleting / grace ─ is_finished ─ store ─ after_delete
//! ```

pub(crate) mod advice;
pub(crate) mod crd;
mod daemon_set;
mod escalation;
mod ingress;
mod job;
pub(crate) mod namespace;
mod node;
mod pod;
mod secret;
pub(crate) mod service;
pub(crate) mod signing_request;

use std::sync::Arc;

use berth_schema::Resource;
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::object;
use crate::server::Core;
use crate::status::Failure;
use crate::user::User;
pub(crate) use pod::{bind as bind_pod, find as find_pod};
use service::Reserved;

/// Group and plural as stored, to match on.
fn kind(resource: &Resource) -> (&str, &str) {
    (resource.storage_group.as_str(), resource.storage_plural.as_str())
}

fn has_status(resource: &Resource) -> bool {
    resource.subresource("status").is_some()
}

const SIGNING_REQUESTS: (&str, &str) = ("certificates.k8s.io", "certificatesigningrequests");

/// Kinds with a spec that Kubernetes nevertheless does not count.
const UNCOUNTED: &[(&str, &str)] = &[
    ("", "services"),
    ("", "nodes"),
    ("", "namespaces"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "resourcequotas"),
    ("", "limitranges"),
    ("coordination.k8s.io", "leases"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csidrivers"),
];

/// Whether changes of the object are counted in `metadata.generation`.
pub(crate) fn has_generation(resource: &Resource, object: &Value) -> bool {
    resource.custom.is_some()
        || (object.get("spec").is_some() && !UNCOUNTED.contains(&kind(resource)))
        || kind(resource) == ("scheduling.k8s.io", "priorityclasses")
}

/// Reads what a kind lets one say in two ways as the one that is kept.
pub(crate) fn fold(resource: &Resource, new: &mut Value) {
    match kind(resource) {
        ("", "secrets") => secret::fold(new),
        ("", "nodes") => node::fold(new),
        ("", "pods") => pod::fold(new),
        ("apps", "daemonsets") => daemon_set::fold(new),
        _ => {}
    }
}

/// Takes out of a new object what it may not bring along.
pub(crate) fn prepare_create(resource: &Resource, new: &mut Value) {
    // A node registers with its status, the rest get theirs from whoever is responsible.
    if has_status(resource)
        && !matches!(kind(resource), ("", "nodes"))
        && let Some(fields) = new.as_object_mut()
    {
        fields.remove("status");
    }
    match kind(resource) {
        ("", "pods") => new["status"] = json!({"phase": "Pending"}),
        ("", "namespaces") => namespace::prepare(new),
        ("", "persistentvolumeclaims") => protect(new, "kubernetes.io/pvc-protection"),
        ("", "persistentvolumes") => protect(new, "kubernetes.io/pv-protection"),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::prepare(new),
        ("batch", "jobs") => job::prepare(new),
        ("apps", "daemonsets") => daemon_set::count(None, new),
        _ => {}
    }
}

/// What needs the rest of the cluster to complete or judge a new object.
pub(crate) async fn before_create(
    core: &Arc<Core>,
    call: &Call,
    resource: &Arc<Resource>,
    new: &mut Value,
) -> Result<Reserved, Failure> {
    match kind(resource) {
        ("", "pods") => pod::admit(core, resource, new).await?,
        ("networking.k8s.io", "ingresses") => ingress::default_class(core, new).await?,
        ("", "services") => return service::allocate(core, resource, new, None),
        ("rbac.authorization.k8s.io", _) => escalation::check(core, &call.user, resource, new)?,
        SIGNING_REQUESTS => signing_request::complete(&call.user, resource, new)?,
        _ => {}
    }
    Ok(Reserved::none())
}

/// What needs the rest of the cluster to complete or judge a change.
pub(crate) async fn before_update(
    core: &Arc<Core>,
    user: &User,
    resource: &Arc<Resource>,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
) -> Result<Reserved, Failure> {
    match kind(resource) {
        ("", "services") if subresource.is_none() => {
            return service::allocate(core, resource, new, Some(old));
        }
        ("", "pods") if subresource.is_none() => pod::tolerate(new),
        ("apps", "daemonsets") => daemon_set::count(Some(old), new),
        ("rbac.authorization.k8s.io", _)
            if differs(old, new, &["rules", "subjects", "roleRef"]) =>
        {
            escalation::check(core, user, resource, new)?;
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::complete(new),
        SIGNING_REQUESTS => signing_request::check_update(resource, subresource, old, new)?,
        _ => {}
    }
    Ok(Reserved::none())
}

/// Notes the quality of service that a pod's requests and limits make.
pub(crate) fn set_pod_quality(pod: &mut Value) {
    pod["status"]["qosClass"] = json!(pod::quality(pod));
}

/// What is in use is not removed: a controller takes the finalizer away once it is not.
fn protect(new: &mut Value, finalizer: &str) {
    let mut finalizers = object::finalizers(new);
    if !finalizers.iter().any(|one| one == finalizer) {
        finalizers.push(finalizer.to_owned());
        object::set_finalizers(new, finalizers);
    }
}

fn differs(old: &Value, new: &Value, fields: &[&str]) -> bool {
    fields.iter().any(|field| old[*field] != new[*field])
}

/// Keeps what this request may not touch as it was.
///
/// A plain write leaves the status alone; a subresource changes only the part it is named for.
pub(crate) fn confine(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
) {
    let Some(subresource) = subresource else {
        if has_status(resource) {
            take(new, old, "status");
        }
        match kind(resource) {
            ("", "namespaces") => new["spec"] = old["spec"].clone(),
            ("apps", "daemonsets") => daemon_set::keep(old, new),
            SIGNING_REQUESTS => signing_request::confine(None, old, new),
            _ => fold(resource, new),
        }
        return;
    };
    let managed = new["metadata"]["managedFields"].clone();
    let asked = std::mem::replace(new, old.clone());
    object::set_meta(new, "managedFields", managed);
    match subresource {
        "status" => {
            take(new, &asked, "status");
            fold(resource, new);
            // Whoever reports on an object may note that on it.
            if resource.custom.is_none() {
                for field in ["annotations", "labels"] {
                    object::set_meta(new, field, asked["metadata"][field].clone());
                }
            }
        }
        "finalize" => new["spec"] = asked["spec"].clone(),
        "approval" => new["status"]["conditions"] = asked["status"]["conditions"].clone(),
        "ephemeralcontainers" => {
            let list = &asked["spec"]["ephemeralContainers"];
            if !list.is_null() {
                new["spec"]["ephemeralContainers"] = list.clone();
            }
        }
        "resize" => pod::take_resources(new, &asked),
        // Made by ourselves from the live object, not by the client.
        "binding" | "scale" => *new = asked,
        _ => new["spec"] = asked["spec"].clone(),
    }
    if kind(resource) == SIGNING_REQUESTS {
        signing_request::confine(Some(subresource), old, new);
    }
}

fn take(new: &mut Value, from: &Value, field: &str) {
    if let Some(fields) = new.as_object_mut() {
        match from.get(field) {
            Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
            None => drop(fields.remove(field)),
        }
    }
}

/// Counts a change of what is wanted.
pub(crate) fn bump_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if !has_generation(resource, new) {
        return;
    }
    let changed = if resource.custom.is_some() {
        let without = |object: &Value| -> Map<String, Value> {
            let mut fields = object.as_object().cloned().unwrap_or_default();
            fields.remove("metadata");
            if has_status(resource) {
                fields.remove("status");
            }
            fields
        };
        without(old) != without(new)
    } else {
        old["spec"] != new["spec"]
    };
    if changed {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
        object::set_meta(new, "generation", json!(generation + 1));
    }
}

/// Whether an object was only waiting, and waits no more.
pub(crate) fn is_finished(resource: &Resource, object: &Value) -> bool {
    if !object::is_deleting(object) || !object::finalizers(object).is_empty() {
        return false;
    }
    match kind(resource) {
        ("", "namespaces") => {
            object["spec"]["finalizers"].as_array().is_none_or(|list| list.is_empty())
        }
        ("", "pods") => {
            object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() <= 0
        }
        _ => true,
    }
}

/// Seconds between the wish to delete and the end.
pub(crate) fn grace(resource: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    match kind(resource) {
        ("", "pods") => pod::grace(object, asked),
        _ => 0,
    }
}

/// Kinds whose end is told by its time alone.
pub(crate) fn ends_without_grace(resource: &Resource) -> bool {
    matches!(
        kind(resource),
        ("", "namespaces") | ("apiextensions.k8s.io", "customresourcedefinitions")
    )
}

/// What else shows that an object is going away.
pub(crate) fn mark_deleting(resource: &Resource, new: &mut Value) {
    match kind(resource) {
        ("", "namespaces") => new["status"]["phase"] = json!("Terminating"),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::mark_terminating(new),
        _ => {}
    }
}

/// Refuses to delete what the cluster cannot be without.
pub(crate) fn may_delete(resource: &Resource, object: &Value) -> Result<(), Failure> {
    match kind(resource) {
        ("", "namespaces") => namespace::may_delete(resource, object),
        _ => Ok(()),
    }
}

/// After a change is stored.
pub(crate) fn after_update(core: &Core, resource: &Resource, old: &Value, new: &Value) {
    if kind(resource) == ("", "services") {
        service::release_difference(core, old, new);
    }
}

/// After an object is gone.
pub(crate) fn after_delete(core: &Core, resource: &Resource, last: &Value) {
    if kind(resource) == ("", "services") {
        service::release_difference(core, last, &Value::Null);
    }
}
