//! What makes an object acceptable.

use serde_json::Value;

use crate::{Cause, Resource};

/// All that is wrong with `new`, as a change of `old`; empty when it is fine.
#[must_use]
pub fn validate(
    _resource: &Resource,
    _new: &Value,
    _old: Option<&Value>,
    _subresource: Option<&str>,
) -> Vec<Cause> {
    Vec::new()
}
