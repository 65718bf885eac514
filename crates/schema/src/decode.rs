//! Bytes → an object of a resource.

use serde_json::Value;

use crate::Resource;

/// What to do about fields that a type does not have, or that come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML, of which JSON is a part.
    Yaml,
}

/// An object and what is to be said about it.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The object, without what its type does not know.
    pub object: Value,
    /// A sentence for each unknown or duplicate field.
    pub warnings: Vec<String>,
}

/// Why a body is no object of the resource.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The text is no JSON or YAML.
    #[error("{0}")]
    Syntax(String),
}

/// Reads an object of `resource`.
///
/// # Errors
/// When it is malformed.
pub fn decode(
    _resource: &Resource,
    body: &[u8],
    _format: Format,
    _validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let object = serde_json::from_slice(body).map_err(|e| DecodeError::Syntax(e.to_string()))?;
    Ok(Decoded { object, warnings: Vec::new() })
}

/// Reads an object of `resource` that is a value already, such as a patch's outcome.
///
/// # Errors
/// As [`decode`].
pub fn retype(
    _resource: &Resource,
    object: Value,
    _validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    Ok(Decoded { object, warnings: Vec::new() })
}
