//! Patches: JSON patch, merge patch, strategic merge patch.

use serde_json::Value;

use crate::Resource;

/// Why a patch cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a test failed, a path is missing (422).
    #[error("{0}")]
    Unfit(String),
    /// Custom resources have no strategic merge patch (415).
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    NoStrategic,
}

/// Applies an RFC 6902 patch.
///
/// # Errors
/// When the patch is malformed or does not fit.
pub fn json(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_slice(patch).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut new = current.clone();
    json_patch::patch(&mut new, &patch).map_err(|e| PatchError::Unfit(e.to_string()))?;
    Ok(new)
}

/// Applies an RFC 7386 patch.
///
/// # Errors
/// When the patch is not JSON.
pub fn merge(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Value =
        serde_json::from_slice(patch).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut new = current.clone();
    json_patch::merge(&mut new, &patch);
    Ok(new)
}

/// Applies a strategic merge patch by the resource's merge keys.
///
/// # Errors
/// When the resource is a custom one, or the patch is malformed.
pub fn strategic(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    if resource.custom.is_some() {
        return Err(PatchError::NoStrategic);
    }
    let mut new = current.clone();
    json_patch::merge(&mut new, patch);
    Ok(new)
}
