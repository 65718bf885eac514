//! One reason why an object is refused, as a `Status` carries it.

use serde::Serialize;
use serde_json::Value;

/// One fault of an object: what is wrong, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `FieldValueInvalid` and its kin.
    pub reason: &'static str,
    /// The sentence without the field's name: `Invalid value: "x": must be …`.
    pub message: String,
    /// The field's path, `spec.containers[0].name`.
    pub field: String,
}

impl Cause {
    /// The value is malformed.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", shown(value));
        Self { reason: "FieldValueInvalid", message, field: field.into() }
    }

    /// The value is missing.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// The value may not be set here.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        let message = format!("Forbidden: {detail}");
        Self { reason: "FieldValueForbidden", message, field: field.into() }
    }

    /// Another item has the same value.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown(value));
        Self { reason: "FieldValueDuplicate", message, field: field.into() }
    }

    /// The value is none of those there are.
    #[must_use]
    pub fn not_supported<T: AsRef<str>>(
        field: impl Into<String>,
        value: &Value,
        allowed: &[T],
    ) -> Self {
        let mut words: Vec<&str> = allowed.iter().map(AsRef::as_ref).collect();
        words.sort_unstable();
        let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        let message =
            format!("Unsupported value: {}: supported values: {}", shown(value), words.join(", "));
        Self { reason: "FieldValueNotSupported", message, field: field.into() }
    }

    /// The value names something that is not there.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Not found: {}", shown(value));
        Self { reason: "FieldValueNotFound", message, field: field.into() }
    }

    /// The value is longer than it may be.
    #[must_use]
    pub fn too_long(field: impl Into<String>, most: usize) -> Self {
        let message = format!("Too long: may not be more than {most} bytes");
        Self { reason: "FieldValueTooLong", message, field: field.into() }
    }

    /// The list has more items than it may.
    #[must_use]
    pub fn too_many(field: impl Into<String>, found: usize, most: usize) -> Self {
        let message = format!("Too many: {found}: must have at most {most} items");
        Self { reason: "FieldValueTooMany", message, field: field.into() }
    }

    /// The value is of another type.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", shown(value));
        Self { reason: "FieldValueTypeInvalid", message, field: field.into() }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
