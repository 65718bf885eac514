//! OpenAPI documents of the served resources.

use serde_json::{Value, json};

use crate::Catalog;

/// The index at `/openapi/v3`.
#[must_use]
pub fn v3_index(_catalog: &Catalog) -> Value {
    json!({"paths": {}})
}

/// The document of one group and version.
#[must_use]
pub fn v3(_catalog: &Catalog, _group: &str, _version: &str) -> Option<Value> {
    None
}

/// The document at `/openapi/v2`.
#[must_use]
pub fn v2(_catalog: &Catalog) -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": {}, "definitions": {}})
}
