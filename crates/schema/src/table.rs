//! Tables: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Resource;

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// A `meta.k8s.io` Table of `objects`.
#[must_use]
pub fn render(
    resource: &Resource,
    objects: &[Value],
    _include: IncludeObject,
    version: &str,
    _now: Timestamp,
    list_meta: Value,
    _omit_headers: bool,
) -> Value {
    let _ = (resource, objects);
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": list_meta,
        "columnDefinitions": [], "rows": []})
}
