//! Single values: their canonical form, their zero, what Go calls their type.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_api::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::schema::{Schema, Shape};

/// Text as a value of the shape.
///
/// # Errors
/// Nothing when the shape holds no text, else what is wrong with it.
pub fn text(shape: &Shape, text: String) -> Result<Value, Option<String>> {
    match shape {
        Shape::Any | Shape::String | Shape::IntOrString => Ok(Value::String(text)),
        Shape::Quantity => {
            let amount: Quantity = text.trim().parse().map_err(|wrong| Some(format!("{wrong}")))?;
            Ok(Value::String(amount.to_string()))
        }
        Shape::Bytes => {
            let plain = text.replace(['\r', '\n'], "");
            match STANDARD.decode(&plain) {
                Ok(_) => Ok(Value::String(plain)),
                Err(wrong) => Err(Some(format!(
                    "illegal base64 data at input byte {}",
                    place(&wrong, &plain)
                ))),
            }
        }
        Shape::Time => {
            moment(&text).map(|time| json!(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
        }
        Shape::MicroTime => {
            moment(&text).map(|time| json!(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
        }
        _ => Err(None),
    }
}

fn moment(text: &str) -> Result<Timestamp, Option<String>> {
    text.parse().map_err(|_| {
        Some(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \
             \"2006\""
        ))
    })
}

fn place(wrong: &base64::DecodeError, text: &str) -> usize {
    match wrong {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            *at
        }
        _ => text.len(),
    }
}

/// What stands for a null inside a list or map of typed values.
pub fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => json!(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => json!(0),
        Shape::String | Shape::Bytes => json!(""),
        Shape::Quantity => json!("0"),
        Shape::Object(_) | Shape::Raw | Shape::Map(_) => json!({}),
        Shape::List(_) => json!([]),
        Shape::Any | Shape::Fields | Shape::Time | Shape::MicroTime => Value::Null,
    }
}

/// Whether a typed object would not show this value: a list or map of nothing.
pub fn is_empty(schema: &Schema, value: &Value) -> bool {
    match (&schema.shape, value) {
        (Shape::List(_), Value::Array(list)) => list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// The name of a type in Go, for messages that people know.
pub fn go_type(schema: &Schema) -> String {
    match &schema.shape {
        Shape::Any | Shape::Raw => "interface {}".to_owned(),
        Shape::Fields => "v1.FieldsV1".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Double => "float64".to_owned(),
        Shape::String => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(item) => format!("map[string]{}", go_type(item)),
        Shape::Object(object) => {
            let mut words = object.get().name.rsplit('.');
            match (words.next(), words.next()) {
                (Some(name), Some(version)) => format!("{version}.{name}"),
                _ => "object".to_owned(),
            }
        }
    }
}
