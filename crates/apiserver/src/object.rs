//! Reading and setting what all objects have in common.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A string field of the metadata, empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

/// The metadata to write to, made when absent or of another type.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    section_mut(object, "metadata")
}

/// A top-level object to write to, made when absent or of another type.
pub(crate) fn section_mut<'a>(object: &'a mut Value, section: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object[section].is_object() {
        object[section] = json!({});
    }
    match &mut object[section] {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Sets a metadata field, or removes it when the value is null.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: Value) {
    let meta = meta_mut(object);
    if value.is_null() {
        meta.remove(field);
    } else {
        meta.insert(field.to_owned(), value);
    }
}

pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object();
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Whether deletion was asked for.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

pub(crate) fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let value = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    set_meta(object, "finalizers", value);
}

/// A time in the form of `metav1.Time`: whole seconds, UTC.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A UID as no other object has; from the process's generator, which spares a system call.
pub(crate) fn new_uid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// Five letters and digits that form no words, for generated names.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}
