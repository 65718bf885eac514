//! Namespaces: their life cycle, and that nothing is created in one that is not there to stay.

use std::borrow::Cow;

use berth_schema::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::server::Core;
use crate::status::Failure;
use crate::{object, record};

/// What the cluster itself lives in.
const PROTECTED: [&str; 3] = ["default", "kube-system", "kube-public"];

/// A new namespace is held by the namespace controller until it is empty.
pub(super) fn prepare(new: &mut Value) {
    let name = object::name(new).to_owned();
    let mut finalizers = new["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|one| one == "kubernetes") {
        finalizers.push(json!("kubernetes"));
    }
    new["spec"] = json!({"finalizers": finalizers});
    new["status"] = json!({"phase": "Active"});
    let meta = object::meta_mut(new);
    let labels = meta.entry("labels").or_insert_with(|| json!({}));
    if labels.is_object() {
        labels["kubernetes.io/metadata.name"] = json!(name);
    }
}

pub(super) fn may_delete(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let name = object::name(object);
    if PROTECTED.contains(&name) {
        return Err(Failure::forbidden_object(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// Refuses to create in a namespace that is absent or going away.
pub(crate) async fn must_be_active(
    core: &Core,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    /// What of a namespace decides; the rest is skipped over, not built.
    #[derive(Default, Deserialize)]
    struct Found<'a> {
        #[serde(borrow, default)]
        metadata: Meta<'a>,
        #[serde(borrow, default)]
        status: Status<'a>,
    }
    #[derive(Default, Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "deletionTimestamp")]
        deleted: Option<Cow<'a, str>>,
    }
    #[derive(Default, Deserialize)]
    struct Status<'a> {
        #[serde(borrow, default)]
        phase: Option<Cow<'a, str>>,
    }
    let key = format!("{}{namespace}", record::kind_prefix("", "namespaces"));
    let (entry, _) = core.store.get(key.as_bytes()).await?;
    let entry = entry.ok_or_else(|| Failure::no_such("namespaces", namespace))?;
    let found: Found<'_> = serde_json::from_slice(&entry.value).map_err(Failure::internal)?;
    if found.metadata.deleted.is_some() || found.status.phase.as_deref() == Some("Terminating") {
        return Err(Failure::namespace_terminating(resource, name, namespace));
    }
    Ok(())
}
