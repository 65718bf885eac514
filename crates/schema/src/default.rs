//! What stands where nothing was said.

use serde_json::Value;

use crate::Resource;

/// Fills in what Kubernetes fills in.
pub fn default(_resource: &Resource, _object: &mut Value) {}
