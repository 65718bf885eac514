//! Patches: JSON patch, merge patch, strategic merge patch.
//!
//! Only the text of the object changes here; what comes out is to be read again by
//! [`retype`](crate::retype), defaulted and validated.
//!
//! # Source
//! RFC 6902, RFC 7386, and Kubernetes' strategic merge patch.

use serde_json::Value;

use crate::Resource;

mod bounded;
mod strategic;

/// More operations than this in a JSON patch are refused, as Kubernetes does.
const MOST_OPERATIONS: usize = 10_000;

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a test failed, a path is missing (422).
    #[error("{0}")]
    Unfit(String),
    /// Custom resources have no strategic merge patch (415).
    #[error(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    NoStrategic,
    /// It has more operations than are allowed (413).
    #[error("the allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {0}")]
    TooMany(usize),
}

/// Applies an RFC 6902 patch.
///
/// # Errors
/// When the patch is malformed, has too many operations, would make far more of the object than
/// it is, or does not fit.
pub fn json(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: json_patch::Patch = serde_json::from_slice(patch).map_err(malformed)?;
    if patch.0.len() > MOST_OPERATIONS {
        return Err(PatchError::TooMany(patch.0.len()));
    }
    let mut new = current.clone();
    bounded::apply(&mut new, &patch.0)?;
    Ok(new)
}

/// Applies an RFC 7386 patch.
///
/// # Errors
/// When the patch is not a JSON object.
pub fn merge(current: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(patch).map_err(malformed)?;
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be a JSON object".to_owned()));
    }
    let mut new = current.clone();
    json_patch::merge(&mut new, &patch);
    Ok(new)
}

/// Applies a strategic merge patch by the resource's merge keys.
///
/// # Errors
/// When the resource is a custom one, or the patch's directives are malformed.
pub fn strategic(resource: &Resource, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    if resource.custom.is_some() {
        return Err(PatchError::NoStrategic);
    }
    strategic::object(current, patch, Some(&resource.schema))
}

fn malformed(wrong: serde_json::Error) -> PatchError {
    PatchError::Malformed(format!("error decoding patch: {wrong}"))
}

#[cfg(test)]
mod tests;
