//! Server-side apply: who owns which field.

use serde_json::Value;

use crate::Resource;

/// Someone else's field that an apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it, as Kubernetes words it: `"kubectl"`, `"kubectl" using apps/v1 at …`.
    pub manager: String,
    /// Its path, `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change (409); force takes it over.
    #[error("{} conflicts", .0.len())]
    Conflicts(Vec<Conflict>),
    /// The configuration is malformed (400).
    #[error("{0}")]
    Malformed(String),
}

/// Applies a configuration.
///
/// # Errors
/// When others own what it would change and `force` is not set, or it is malformed.
pub fn apply(
    _resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    _manager: &str,
    _force: bool,
    _subresource: Option<&str>,
    _now: &str,
) -> Result<Value, ApplyError> {
    let mut new = live.cloned().unwrap_or_default();
    json_patch::merge(&mut new, applied);
    Ok(new)
}

/// Notes in `new.metadata.managedFields` who changed what, for everything but an apply.
pub fn track(
    _resource: &Resource,
    _old: Option<&Value>,
    _new: &mut Value,
    _manager: &str,
    _subresource: Option<&str>,
    _now: &str,
) {
}
