//! The same objects under two versions.

use serde_json::{Value, json};

use crate::Resource;

/// Turns an object of `resource` into the version in which it is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    let version = crate::catalog::join(&resource.storage_group, &resource.storage_version);
    object["apiVersion"] = json!(version);
}

/// Turns a stored object into the version of `resource`.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.kind);
}
