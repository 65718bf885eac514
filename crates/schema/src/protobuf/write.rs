//! Objects in Kubernetes' protobuf form, for typed clients that ask for it.
//!
//! ```text
//! "k8s\0"  Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: the object's message }
//! watch    length, 4 bytes, then WatchEvent { 1: type, 2: RawExtension { 1: "k8s\0" … } }
//! ```
//!
//! What the JSON says is written, what it does not say is left out: a reader takes an absent field
//! for its zero, as with JSON. Go's encoder writes plain zeros too, so the bytes may differ from its
//! own; what they are read as does not. A value that does not fit its field is left out as well: the
//! schema has been held against every object before it comes here.
//!
//! # Source
//! The API concepts page, "Kubernetes protobuf encoding"; protobuf's encoding document.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{MAGIC, message_name, messages};

const LIST_META: &str = "meta.v1.ListMeta";
const VARINT: u64 = 0;
const FIXED: u64 = 1;
const BYTES: u64 = 2;

struct Field {
    number: u64,
    json: &'static str,
    kind: &'static str,
}

/// The fields of every message by their number.
fn ordered() -> &'static HashMap<&'static str, Vec<Field>> {
    static ORDERED: OnceLock<HashMap<&'static str, Vec<Field>>> = OnceLock::new();
    ORDERED.get_or_init(|| {
        let ordered = messages().iter().map(|(name, message)| {
            let fields = message.iter();
            let mut fields: Vec<Field> = fields
                .map(|(number, field)| Field {
                    number: *number,
                    json: field.json,
                    kind: field.kind,
                })
                .collect();
            fields.sort_by_key(|field| field.number);
            (*name, fields)
        });
        ordered.collect()
    })
}

/// How an object's fields are written.
enum Form {
    Message(String),
    /// A list of these, which the facts do not name: metadata, then items.
    List(String),
}

fn form(api_version: &str, kind: &str) -> Option<Form> {
    let meta = api_version == "v1" || api_version.starts_with("meta.k8s.io/");
    let known = |kind: &str| {
        let own = message_name(api_version, kind);
        if ordered().contains_key(own.as_str()) {
            return Some(own);
        }
        let general = format!("meta.v1.{kind}");
        (meta && ordered().contains_key(general.as_str())).then_some(general)
    };
    known(kind).map(Form::Message).or_else(|| known(kind.strip_suffix("List")?).map(Form::List))
}

/// Whether objects of a kind have a protobuf form.
pub fn is_known(api_version: &str, kind: &str) -> bool {
    form(api_version, kind).is_some()
}

/// The object with its envelope; none where its kind has no protobuf form.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    // Discovery's oldest documents do not say their version.
    let api_version = object["apiVersion"].as_str().unwrap_or("v1");
    let kind = object["kind"].as_str()?;
    let form = form(api_version, kind)?;
    let mut out = MAGIC.to_vec();
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
    });
    nested(&mut out, 2, |out| match &form {
        Form::Message(name) => message(out, name, object),
        Form::List(name) => {
            nested(out, 1, |out| message(out, LIST_META, &object["metadata"]));
            for item in object["items"].as_array().into_iter().flatten() {
                nested(out, 2, |out| message(out, name, item));
            }
        }
    });
    Some(out)
}

/// One frame of a watch; none where the object's kind has no protobuf form.
pub fn watch_frame(event: &str, object: &Value) -> Option<Vec<u8>> {
    let object = encode(object)?;
    let mut out = vec![0; 4];
    bytes(&mut out, 1, event.as_bytes());
    nested(&mut out, 2, |out| bytes(out, 1, &object));
    let length = u32::try_from(out.len() - 4).ok()?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Some(out)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(out, number << 3 | BYTES);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn number(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3 | VARINT);
    varint(out, value);
}

/// A message within a message: its length comes first and is known last.
fn nested(out: &mut Vec<u8>, number: u64, write: impl FnOnce(&mut Vec<u8>)) {
    varint(out, number << 3 | BYTES);
    let start = out.len();
    write(out);
    let mut length = Vec::with_capacity(4);
    varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
}

fn message(out: &mut Vec<u8>, name: &str, object: &Value) {
    let Some(fields) = ordered().get(name) else { return };
    for field in fields {
        if field.json == "-" {
            let start = out.len();
            nested(out, field.number, |out| message(out, field.kind, object));
            // Two bytes are the tag and a length of nothing: nothing of it was said.
            if out.len() - start <= 2 {
                out.truncate(start);
            }
            continue;
        }
        let Some(value) = object.get(field.json).filter(|value| !value.is_null()) else { continue };
        if let Some(kind) = field.kind.strip_prefix("[]") {
            for item in value.as_array().into_iter().flatten() {
                single(out, field.number, kind, item);
            }
        } else if let Some(kind) = field.kind.strip_prefix("{}") {
            for (key, value) in value.as_object().into_iter().flatten() {
                nested(out, field.number, |out| {
                    bytes(out, 1, key.as_bytes());
                    single(out, 2, kind, value);
                });
            }
        } else {
            single(out, field.number, field.kind, value);
        }
    }
}

fn single(out: &mut Vec<u8>, field: u64, kind: &str, value: &Value) {
    match kind {
        "s" => {
            if let Some(text) = value.as_str() {
                bytes(out, field, text.as_bytes());
            }
        }
        "b" => {
            if let Some(content) = value.as_str().and_then(|text| STANDARD.decode(text).ok()) {
                bytes(out, field, &content);
            }
        }
        "t" => {
            if let Some(truth) = value.as_bool() {
                number(out, field, u64::from(truth));
            }
        }
        "i" => {
            if let Some(integer) = integer(value) {
                number(out, field, integer.cast_unsigned());
            }
        }
        "d" => {
            if let Some(double) = value.as_f64() {
                varint(out, field << 3 | FIXED);
                out.extend_from_slice(&double.to_bits().to_le_bytes());
            }
        }
        _ => nested(out, field, |out| special(out, kind, value)),
    }
}

/// An integer, also one that somebody wrote with a point.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let double = value.as_f64().filter(|double| double.fract() == 0.0)?;
        Some(double as i64)
    })
}

/// Messages whose JSON is no object of their fields; the others.
fn special(out: &mut Vec<u8>, kind: &str, value: &Value) {
    let schema = |out: &mut Vec<u8>, field: u64, value: &Value| {
        nested(out, field, |out| message(out, "apiextensions.v1.JSONSchemaProps", value));
    };
    match (kind, value) {
        ("quantity", Value::String(text)) => bytes(out, 1, text.as_bytes()),
        // A quantity may be written as a number.
        ("quantity", other) => bytes(out, 1, other.to_string().as_bytes()),
        ("intstr", Value::String(text)) => {
            number(out, 1, 1);
            bytes(out, 3, text.as_bytes());
        }
        ("intstr", other) => {
            number(out, 1, 0);
            number(out, 2, integer(other).unwrap_or_default().cast_unsigned());
        }
        ("time", Value::String(text)) => {
            if let Ok(at) = text.parse::<Timestamp>() {
                // The nanoseconds count forwards, also before 1970.
                let nanos = at.subsec_nanosecond();
                let seconds = at.as_second() - i64::from(nanos < 0);
                number(out, 1, seconds.cast_unsigned());
                number(out, 2, i64::from(nanos).rem_euclid(1_000_000_000).cast_unsigned());
            }
        }
        ("raw", other) => bytes(out, 1, other.to_string().as_bytes()),
        ("duration", Value::String(text)) => {
            let length = text.parse::<jiff::SignedDuration>().unwrap_or_default();
            let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
            number(out, 1, nanos.cast_unsigned());
        }
        ("wrap[]s", Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).for_each(|text| bytes(out, 1, text.as_bytes()));
        }
        ("apiextensions.v1.JSONSchemaPropsOrBool", Value::Bool(truth)) => {
            number(out, 1, u64::from(*truth));
        }
        ("apiextensions.v1.JSONSchemaPropsOrBool", other) => {
            number(out, 1, 1);
            schema(out, 2, other);
        }
        ("apiextensions.v1.JSONSchemaPropsOrArray", Value::Array(items)) => {
            items.iter().for_each(|item| schema(out, 2, item));
        }
        ("apiextensions.v1.JSONSchemaPropsOrStringArray", Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).for_each(|text| bytes(out, 2, text.as_bytes()));
        }
        (
            "apiextensions.v1.JSONSchemaPropsOrArray"
            | "apiextensions.v1.JSONSchemaPropsOrStringArray",
            other,
        ) => schema(out, 1, other),
        (name, object) => message(out, name, object),
    }
}

#[cfg(test)]
mod tests;
