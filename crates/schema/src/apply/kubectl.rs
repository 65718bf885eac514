//! From `kubectl apply` to `kubectl apply --server-side`.
//!
//! A client-side apply leaves what it applied in an annotation. What it set there, and nobody has
//! changed since, is no conflict for kubectl's server-side apply, though an update owns it; and as
//! long as the annotation is there, it is kept true.
//!
//! # Source
//! KEP-555, "upgrade from client-side to server-side apply".

use serde_json::Value;

use super::set::Set;
use super::{compare, fields};
use crate::Resource;

const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What kubectl's client-side apply set and is still so; none when somebody else applies.
pub fn applied_before(resource: &Resource, manager: &str, live: &Value) -> Option<Set> {
    if manager != KUBECTL {
        return None;
    }
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last["apiVersion"].as_str() != Some(resource.api_version().as_str()) {
        return None;
    }
    let schema = Some(&resource.schema);
    let mut set = fields::of(&last, schema);
    let changes = compare::values(&last, live, schema);
    set.subtract(&changes.removed);
    set.subtract(&changes.changed());
    Some(set)
}

/// Brings the annotation to what kubectl applies now, where there is one.
pub fn note(manager: &str, applied: &Value, new: &mut Value) {
    if manager != KUBECTL || annotation(new).is_none() {
        return;
    }
    let mut config = applied.clone();
    if let Some(Value::Object(metadata)) = config.get_mut("metadata")
        && let Some(Value::Object(annotations)) = metadata.get_mut("annotations")
    {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    new["metadata"]["annotations"][LAST_APPLIED] = Value::from(format!("{config}\n"));
}

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}
