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
use std::sync::Arc;

use berth_schema::Resource;
use berth_store::{Entry, Index};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::status::Failure;

const MARK: &[u8] = b"\"metadata\":{";
const REVISION: &[u8] = b"\"resourceVersion\":\"";

/// Pods by the node they run on. A term too many does no harm: what is found is looked at again.
pub(crate) const PODS_BY_NODE: Index = Index {
    name: "pods by node",
    prefix: b"/registry/core/pods/",
    terms: |value| {
        const FIELD: &[u8] = b"\"nodeName\":\"";
        let end = |rest: &[u8]| memchr::memchr(b'"', rest);
        memchr::memmem::find_iter(value, FIELD)
            .filter_map(|at| {
                let rest = &value[at + FIELD.len()..];
                Some(&rest[..end(rest)?])
            })
            .collect()
    },
};

/// Whether [`PODS_BY_NODE`] is about this resource.
pub(crate) fn is_pods(resource: &Resource) -> bool {
    resource.storage_group.is_empty() && resource.storage_plural == "pods"
}

/// Under which all objects of a resource are.
pub(crate) fn prefix(resource: &Resource, namespace: &str) -> String {
    path_of(resource, namespace, "")
}

/// Under which all objects of a resource are, in any namespace.
pub(crate) fn kind_prefix(group: &str, plural: &str) -> String {
    path(group, plural, "", "")
}

pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> Bytes {
    Bytes::from(path_of(resource, namespace, name))
}

fn path_of(resource: &Resource, namespace: &str, name: &str) -> String {
    let namespace = if resource.namespaced { namespace } else { "" };
    path(&resource.storage_group, &resource.storage_plural, namespace, name)
}

/// In one allocation: every request makes one.
fn path(group: &str, plural: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let between = if namespace.is_empty() { "" } else { "/" };
    ["/registry/", group, "/", plural, "/", namespace, between, name].concat()
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
pub(crate) fn head(resource: &Resource) -> String {
    format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{",
        api_version(resource),
        resource.kind
    )
}

/// Appends the object as this resource serves it, at a revision.
pub(crate) fn splice(out: &mut Vec<u8>, resource: &Arc<Resource>, value: &[u8], revision: u64) {
    Splice::new(resource).append(out, value, revision);
}

/// Appends a list's items, with commas between them; the head all have in common is made once.
pub(crate) fn splice_all(out: &mut Vec<u8>, resource: &Arc<Resource>, entries: &[Entry]) {
    let splice = Splice::items(resource);
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        splice.append(out, &entry.value, entry.modified.0);
    }
}

/// Writes objects of one resource out of stored bytes.
pub(crate) struct Splice {
    resource: Arc<Resource>,
    /// How a value of this version begins in the store.
    stored: String,
    /// How it begins in the answer.
    head: String,
    is_converted: bool,
    is_nameless: bool,
}

impl Splice {
    pub(crate) fn new(resource: &Arc<Resource>) -> Self {
        let (stored, head) = (head(resource), head(resource));
        let is_converted = is_converted(resource);
        Self { resource: resource.clone(), stored, head, is_converted, is_nameless: false }
    }

    /// Items of a list: those of built-in kinds leave out what the list says of them all.
    pub(crate) fn items(resource: &Arc<Resource>) -> Self {
        match resource.custom {
            Some(_) => Self::new(resource),
            None => Self {
                head: "{\"metadata\":{".to_owned(),
                is_nameless: true,
                ..Self::new(resource)
            },
        }
    }

    fn converted(&self, value: &[u8], revision: u64) -> String {
        let mut object = decode(&self.resource, value, revision);
        if self.is_nameless {
            nameless(&mut object);
        }
        object.to_string()
    }

    /// Appends an object at a revision.
    pub(crate) fn append(&self, out: &mut Vec<u8>, value: &[u8], revision: u64) {
        if self.is_converted {
            out.extend_from_slice(self.converted(value, revision).as_bytes());
            return;
        }
        let rest = self.rest(value);
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(REVISION);
        // Writing to a vector cannot fail.
        let _ = write!(out, "{revision}");
        out.push(b'"');
        if rest.first() != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    }

    /// How much [`Splice::append`] appends for an entry.
    pub(crate) fn length(&self, entry: &Entry) -> usize {
        let revision = entry.modified.0;
        if self.is_converted {
            return self.converted(&entry.value, revision).len();
        }
        let rest = self.rest(&entry.value);
        let digits = revision.checked_ilog10().map_or(1, |log| log as usize + 1);
        let comma = usize::from(rest.first() != Some(&b'}'));
        self.head.len() + REVISION.len() + digits + 1 + comma + rest.len()
    }

    /// What follows the opening brace of the metadata.
    fn rest<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        // As written in the version that is stored; only another one's values are searched.
        if let Some(rest) = value.strip_prefix(self.stored.as_bytes()) {
            return rest;
        }
        let start = memchr::memmem::find(value, MARK);
        start.map_or(b"}}", |start| &value[start + MARK.len()..])
    }
}

/// Takes off what an item of a list of a built-in kind leaves out.
pub(crate) fn nameless(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
}

/// The object as this resource serves it, at a revision.
pub(crate) fn decode(resource: &Resource, value: &[u8], revision: u64) -> Value {
    let mut object: Value = serde_json::from_slice(value).unwrap_or_default();
    object["apiVersion"] = Value::String(api_version(resource));
    object["kind"] = Value::String(resource.kind.clone());
    crate::object::set_meta(&mut object, "resourceVersion", Value::String(revision.to_string()));
    if is_converted(resource) {
        berth_schema::from_storage(resource, &mut object);
        berth_schema::complete(resource, &mut object);
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
