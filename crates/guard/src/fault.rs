//! What is wrong with an object, where.

use serde_json::Value;

/// One fault: a machine-readable reason, the field, and the sentence after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `FieldValueInvalid` and its kin.
    pub reason: &'static str,
    /// Such as `spec.size`.
    pub field: String,
    /// The sentence, without the field's name.
    pub message: String,
}

impl Fault {
    /// The value is malformed.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {value}: {detail}");
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// The value is missing.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// The value may not be set here.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        let message = format!("Forbidden: {detail}");
        Self { reason: "FieldValueForbidden", field: field.into(), message }
    }

    /// Another item has the same value.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {value}");
        Self { reason: "FieldValueDuplicate", field: field.into(), message }
    }

    /// The value is none of those there are.
    #[must_use]
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let words: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", words.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// The list has more items than it may.
    #[must_use]
    pub fn too_many(field: impl Into<String>, found: usize, most: usize) -> Self {
        let message = format!("Too many: {found}: must have at most {most} items");
        Self { reason: "FieldValueTooMany", field: field.into(), message }
    }
}
