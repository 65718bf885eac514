//! Claims: the cluster's default storage class, and that only what can grow grows.
//!
//! # Source
//! Kubernetes' `DefaultStorageClass` and `PersistentVolumeClaimResize` plugins.

use berth_api::Quantity;
use serde_json::{Value, json};

use super::{Asked, Operation};
use crate::status::Failure;
use crate::{object, record};

const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const LEGACY: &str = "volume.beta.kubernetes.io/storage-class";

/// Names the default class in a claim that names none. An empty name is a name: no class.
pub(super) async fn default(asked: &Asked<'_>, new: &mut Value) -> Result<(), Failure> {
    let named = !new["spec"]["storageClassName"].is_null()
        || !new["metadata"]["annotations"][LEGACY].is_null();
    if !asked.is_new("", "persistentvolumeclaims") || named || !new["spec"].is_object() {
        return Ok(());
    }
    let classes = asked.core.resource("storage.k8s.io", "v1", "storageclasses")?;
    let prefix = record::prefix(&classes, "");
    let page = asked.core.store.list(prefix.as_bytes(), None, 0, None).await?;
    let all: Vec<Value> =
        page.entries.iter().map(|entry| record::object(&classes, entry)).collect();
    if let Some(name) = chosen(&all) {
        new["spec"]["storageClassName"] = json!(name);
    }
    Ok(())
}

/// The newest class that is marked, by name when two are as new.
fn chosen(classes: &[Value]) -> Option<&str> {
    let is_default =
        |class: &&Value| DEFAULT.iter().any(|key| class["metadata"]["annotations"][*key] == "true");
    let age = |class: &Value| object::meta(class, "creationTimestamp").to_owned();
    let newest = classes
        .iter()
        .filter(is_default)
        .min_by(|a, b| age(b).cmp(&age(a)).then_with(|| object::name(a).cmp(object::name(b))));
    newest.map(object::name)
}

/// Refuses to grow a claim whose class does not let it.
pub(super) async fn check(asked: &Asked<'_>, new: &Value) -> Result<(), Failure> {
    let Some(old) = asked.old else { return Ok(()) };
    let is_claim = asked.kind() == ("", "persistentvolumeclaims") && asked.subresource.is_none();
    if !is_claim || asked.operation != Operation::Update {
        return Ok(());
    }
    let size = |claim: &Value| -> Option<Quantity> {
        claim["spec"]["resources"]["requests"]["storage"].as_str()?.parse().ok()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    let bound = old["status"]["phase"] == "Bound" || !old["spec"]["volumeName"].is_null();
    if !bound {
        return Err(asked.forbid("only bound persistent volume claims can be expanded"));
    }
    let class = old["metadata"]["annotations"][LEGACY]
        .as_str()
        .or(old["spec"]["storageClassName"].as_str())
        .unwrap_or_default();
    let classes = asked.core.resource("storage.k8s.io", "v1", "storageclasses")?;
    let found = asked.core.store.get(&record::key(&classes, "", class)).await?.0;
    let grows = found.is_some_and(|entry| {
        record::object(&classes, &entry)["allowVolumeExpansion"] == Value::Bool(true)
    });
    if grows {
        return Ok(());
    }
    Err(asked.forbid(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the \
         pvc must support resize",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_marked_class_is_the_default() {
        let class = |name: &str, at: &str, is: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": at,
                "annotations": {DEFAULT[0]: is}}})
        };
        let old = class("old", "2024-01-01T00:00:00Z", "true");
        let new = class("new", "2025-01-01T00:00:00Z", "true");
        let other = class("other", "2026-01-01T00:00:00Z", "false");
        assert_eq!(chosen(&[old.clone(), new, other.clone()]), Some("new"));
        assert_eq!(chosen(&[other]), None);
        assert_eq!(chosen(&[old]), Some("old"));
    }
}
