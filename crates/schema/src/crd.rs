//! Custom resource definitions.

use serde_json::Value;

use crate::{Cause, Resource};

/// Why a definition is not taken up.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {}", causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct CrdError {
    /// The definition.
    pub name: String,
    /// All that is wrong with it.
    pub causes: Vec<Cause>,
}

pub(crate) fn resources(_definition: &Value) -> Result<Vec<Resource>, CrdError> {
    Ok(Vec::new())
}

/// The names that the definition's status should say are accepted.
#[must_use]
pub fn condition_names(definition: &Value) -> Value {
    definition["spec"]["names"].clone()
}
