//! Objects as the store keeps them.
//!
//! ```text
//! key    /registry/GROUP/PLURAL/NAMESPACE/NAME     (core for the group without a name)
//! value  {"apiVersion":…,"kind":…,"metadata":{ … without resourceVersion … },…}
//! ```
//!
//! The revision is known only once the value is written, so it is not in it. Because the first
//! three fields always come in this order, reading an object is two copies: a head with the version
//! asked for and the revision, then the rest as it is. Nothing is parsed for a plain get or list.

use std::collections::BTreeMap;
use std::io::Write;

use berth_schema::Resource;
use berth_store::Entry;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::status::Failure;

const MARK: &[u8] = b"\"metadata\":{";

/// Under which all objects of a resource are.
pub(crate) fn prefix(resource: &Resource, namespace: &str) -> String {
    let all = kind_prefix(&resource.storage_group, &resource.storage_plural);
    if resource.namespaced && !namespace.is_empty() { format!("{all}{namespace}/") } else { all }
}

/// Under which all objects of a resource are, in any namespace.
pub(crate) fn kind_prefix(group: &str, plural: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{plural}/")
}

pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Bytes {
    Bytes::from(format!("{}{name}", prefix(resource, namespace)))
}

/// Namespace (empty when cluster-scoped) and name of a key.
pub(crate) fn identity<'a>(resource: &Resource, key: &'a [u8]) -> (&'a str, &'a str) {
    let key = std::str::from_utf8(key).unwrap_or_default();
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or_default();
    let namespace = if resource.namespaced { parts.next().unwrap_or_default() } else { "" };
    (namespace, name)
}

pub(crate) fn api_version(resource: &Resource) -> String {
    resource.api_version()
}

/// The value to store.
pub(crate) fn encode(resource: &Resource, object: &Value) -> Result<Bytes, Failure> {
    let converted;
    let object = if is_converted(resource) {
        let mut stored = object.clone();
        berth_schema::to_storage(resource, &mut stored);
        converted = stored;
        &converted
    } else {
        object
    };
    let mut out = head(resource).into_bytes();
    out.reserve(1024);
    let mut is_first = true;
    for (field, value) in object["metadata"].as_object().into_iter().flatten() {
        if matches!(field.as_str(), "resourceVersion" | "selfLink") {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, field).map_err(Failure::internal)?;
        out.push(b':');
        serde_json::to_writer(&mut out, value).map_err(Failure::internal)?;
    }
    out.push(b'}');
    for (field, value) in object.as_object().into_iter().flatten() {
        if matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        out.push(b',');
        serde_json::to_writer(&mut out, field).map_err(Failure::internal)?;
        out.push(b':');
        serde_json::to_writer(&mut out, value).map_err(Failure::internal)?;
    }
    out.push(b'}');
    Ok(Bytes::from(out))
}

/// Whether objects are stored in another form than this resource serves: the versions of a custom
/// resource all have the same one.
pub(crate) fn is_converted(resource: &Resource) -> bool {
    resource.custom.is_none()
        && (resource.group != resource.storage_group
            || resource.version != resource.storage_version)
}

/// `{"apiVersion":…,"kind":…,"metadata":{`
fn head(resource: &Resource) -> String {
    format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{",
        api_version(resource),
        resource.kind
    )
}

/// Appends the object as this resource serves it, at a revision.
pub(crate) fn splice(out: &mut Vec<u8>, resource: &Resource, value: &[u8], revision: u64) {
    splice_behind(out, &head(resource), resource, value, revision);
}

/// Appends a list's items, with commas between them; the head all have in common is made once.
pub(crate) fn splice_all(out: &mut Vec<u8>, resource: &Resource, entries: &[Entry]) {
    let head = head(resource);
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        splice_behind(out, &head, resource, &entry.value, entry.modified.0);
    }
}

fn splice_behind(out: &mut Vec<u8>, head: &str, resource: &Resource, value: &[u8], revision: u64) {
    if is_converted(resource) {
        let object = decode(resource, value, revision);
        out.extend_from_slice(object.to_string().as_bytes());
        return;
    }
    out.extend_from_slice(head.as_bytes());
    let rest = rest(value);
    // Writing to a vector cannot fail.
    let _ = write!(out, "\"resourceVersion\":\"{revision}\"");
    if rest.first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// What follows the opening brace of the metadata.
fn rest(value: &[u8]) -> &[u8] {
    let start = memchr::memmem::find(value, MARK);
    start.map_or(b"}}", |start| &value[start + MARK.len()..])
}

/// The object as this resource serves it, at a revision.
pub(crate) fn decode(resource: &Resource, value: &[u8], revision: u64) -> Value {
    let mut object: Value = serde_json::from_slice(value).unwrap_or_default();
    object["apiVersion"] = Value::String(api_version(resource));
    object["kind"] = Value::String(resource.kind.clone());
    crate::object::set_meta(&mut object, "resourceVersion", Value::String(revision.to_string()));
    if is_converted(resource) {
        berth_schema::from_storage(resource, &mut object);
    }
    object
}

/// An entry's object at its own revision.
pub(crate) fn object(resource: &Resource, entry: &Entry) -> Value {
    decode(resource, &entry.value, entry.modified.0)
}

/// The labels alone; the rest is skipped over, not built.
pub(crate) fn labels(value: &[u8]) -> BTreeMap<String, String> {
    #[derive(Deserialize, Default)]
    struct Whole {
        #[serde(default)]
        metadata: Meta,
    }
    #[derive(Deserialize, Default)]
    struct Meta {
        #[serde(default)]
        labels: Option<BTreeMap<String, String>>,
    }
    let whole: Whole = serde_json::from_slice(value).unwrap_or_default();
    whole.metadata.labels.unwrap_or_default()
}
