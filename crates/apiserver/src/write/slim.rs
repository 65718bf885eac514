//! Writes that leave a pod's spec as it is: its status, and its binding to a node.
//!
//! Most of what a cluster writes is that. Most of a pod is its spec and the field sets of its
//! managers, and building trees of both, to copy, compare, default and write out again, is most of
//! what a write costs. Here they stay text: of the spec only the node's name is looked at, of the
//! field sets those that the change touches.
//!
//! Refuses what is not certain to end as [`Write::update`] does: whatever a webhook or a policy may
//! want to see, a dry run, the last write before an object's end, and everything that fails. Who
//! asks goes that way then, which also words the refusals.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use berth_api::names;
use berth_schema::{Resource, apply};
use berth_store::{Entry, Expect, WriteError};
use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::{Error, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{TRIES, Write, keep_identity, same, same_managers};
use crate::admission::{self, Asked, Operation};
use crate::status::Failure;
use crate::{object, record, rules};

const MANAGED: &str = "managedFields";
const FIELDS: &str = "fieldsV1";

/// A stored pod, read in part.
struct Slim<'a> {
    /// Without its managers' entries, and with no more of the spec than the node's name.
    object: Value,
    /// The managers' entries; `fieldsV1` is the text of it.
    entries: Vec<Value>,
    spec: &'a RawValue,
}

impl Write<'_> {
    /// Whether such a write may be for [`Self::update_slim`].
    pub(crate) fn is_slim(&self) -> bool {
        record::is_pods(self.resource)
            && matches!(self.subresource, Some("status" | "binding"))
            && !record::is_converted(self.resource)
            && !self.dry_run
            && self.core.guards.want_nothing()
    }

    /// As [`Self::update`], where `change` sees a pod whose spec is no more than the node's name.
    /// None when it is not for this way; nothing has been written then.
    pub(crate) async fn update_slim<F>(
        &self,
        namespace: &str,
        name: &str,
        mut change: F,
    ) -> Result<Option<Entry>, Failure>
    where
        F: FnMut(&Value) -> Result<Value, Failure> + Send,
    {
        if !self.is_slim() {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let entry = self.live(namespace, name).await?;
            let Some(slim) = Slim::of(self.resource, &entry) else { return Ok(None) };
            let changed = change(&slim.object).ok().and_then(|new| self.changed(&slim, new));
            let Some(new) = changed else { return Ok(None) };
            let asked = Asked {
                core: self.core,
                call: self.call,
                resource: self.resource,
                subresource: self.subresource,
                operation: Operation::Update,
                namespace,
                name,
                dry_run: self.dry_run,
                old: Some(&slim.object),
            };
            if admission::validate(&asked, Some(&new)).await.is_err() {
                return Ok(None);
            }
            let value = slim.encode(self.resource, &new).map_err(Failure::internal)?;
            if value == entry.value || slim.is_same(&new) {
                return Ok(Some(entry));
            }
            let expect = Expect::Modified(entry.modified);
            match self.core.store.put(entry.key.clone(), value, expect).await {
                Ok(written) => return Ok(Some(written)),
                Err(WriteError::Conflict { .. } | WriteError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::modified_meanwhile(self.resource, name))
    }

    /// What is to be stored: the steps of [`Self::replace`], as far as they are about such a write.
    fn changed(&self, slim: &Slim<'_>, mut new: Value) -> Option<Value> {
        let (resource, old) = (self.resource, &slim.object);
        let wanted = object::meta(&new, "resourceVersion");
        if !wanted.is_empty() && wanted != object::meta(old, "resourceVersion") {
            return None;
        }
        keep_identity(resource, old, &mut new).ok()?;
        rules::confine(resource, self.subresource, old, &mut new);
        // A stored spec has its defaults.
        let spec = new["spec"].take();
        berth_schema::default(resource, &mut new);
        new["spec"] = spec;
        let entries = slim.entries.clone();
        let (manager, subresource) = (self.manager?, self.subresource?);
        apply::track_unread(resource, entries, old, &mut new, manager, subresource, &object::now());
        rules::bump_generation(resource, old, &mut new);
        let node = &new["spec"]["nodeName"];
        let is_named = *node == old["spec"]["nodeName"]
            || node.as_str().is_some_and(|node| names::dns_subdomain(node).is_ok());
        let is_fine = berth_schema::validate(resource, &new, Some(old), Some("status")).is_empty();
        (is_named && is_fine && !rules::is_finished(resource, &new)).then_some(new)
    }
}

impl<'a> Slim<'a> {
    /// None when it is stored in a form of which this knows nothing.
    fn of(resource: &Resource, entry: &'a Entry) -> Option<Self> {
        #[derive(Deserialize)]
        struct OnNode<'a> {
            #[serde(borrow, rename = "nodeName")]
            node: Option<Cow<'a, str>>,
        }
        let stored: Stored<'a> = serde_json::from_slice(&entry.value).ok()?;
        let on: OnNode<'_> = serde_json::from_str(stored.spec.get()).ok()?;
        let mut spec = Map::new();
        spec.extend(on.node.map(|node| ("nodeName".to_owned(), Value::from(node))));
        let Meta { mut fields, entries } = stored.metadata;
        fields.insert("resourceVersion".to_owned(), json!(entry.modified.0.to_string()));
        let mut whole = Map::new();
        whole.insert("apiVersion".to_owned(), json!(record::api_version(resource)));
        whole.insert("kind".to_owned(), json!(resource.kind));
        whole.insert("metadata".to_owned(), Value::Object(fields));
        whole.insert("spec".to_owned(), Value::Object(spec));
        whole.extend(stored.status.map(|status| ("status".to_owned(), status)));
        Some(Self { object: Value::Object(whole), entries, spec: stored.spec })
    }

    /// Whether no more than the times of managers differ.
    fn is_same(&self, new: &Value) -> bool {
        let is_same = same(&self.object, new, |key, old, new| match key {
            "metadata" => {
                let mut new = new.clone();
                new.as_object_mut().and_then(|fields| fields.remove(MANAGED));
                *old == new
            }
            _ => old == new,
        });
        is_same && same_managers(&json!(self.entries), &new["metadata"][MANAGED])
    }

    /// The value to store, as [`record::encode`] would make it of the whole.
    fn encode(&self, resource: &Resource, new: &Value) -> serde_json::Result<Bytes> {
        let mut out = record::head(resource).into_bytes();
        out.reserve(self.spec.get().len() + 4096);
        let mut is_first = true;
        for (name, value) in new["metadata"].as_object().into_iter().flatten() {
            if matches!(name.as_str(), "resourceVersion" | "selfLink") {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            match value.as_array().filter(|_| name == MANAGED) {
                Some(entries) => put(&mut out, name, &Managers(entries))?,
                None => put(&mut out, name, value)?,
            }
        }
        out.push(b'}');
        for (name, value) in new.as_object().into_iter().flatten() {
            match name.as_str() {
                "apiVersion" | "kind" | "metadata" => continue,
                "spec" => {
                    out.push(b',');
                    put(&mut out, name, &*self.spec(value)?)?;
                }
                _ => {
                    out.push(b',');
                    put(&mut out, name, value)?;
                }
            }
        }
        out.push(b'}');
        Ok(Bytes::from(out))
    }

    /// The whole spec, with the node's name out of a new one.
    fn spec(&self, new: &Value) -> serde_json::Result<Cow<'a, RawValue>> {
        if *new == self.object["spec"] {
            return Ok(Cow::Borrowed(self.spec));
        }
        let node = serde_json::value::to_raw_value(&new["nodeName"])?;
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(self.spec.get())?;
        fields.insert("nodeName".to_owned(), &node);
        serde_json::value::to_raw_value(&fields).map(Cow::Owned)
    }
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    serde_json::to_writer(out, value)
}

/// Managers' entries; `fieldsV1` is JSON, though it may be a text of it.
struct Managers<'a>(&'a [Value]);

impl Serialize for Managers<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(Manager))
    }
}

struct Manager<'a>(&'a Value);

impl Serialize for Manager<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.as_object().into_iter().flatten();
        let mut map = to.serialize_map(None)?;
        for (name, value) in fields {
            match value {
                Value::String(text) if name == FIELDS => {
                    let text: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
                    map.serialize_entry(name, text)?;
                }
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

/// A pod as it lies in the store; one with anything else in it is not for this way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Meta,
    #[serde(borrow)]
    spec: &'a RawValue,
    status: Option<Value>,
}

/// Metadata, and apart from it what it says of managers.
struct Meta {
    fields: Map<String, Value>,
    entries: Vec<Value>,
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Meta;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta, A::Error> {
                let mut meta = Meta { fields: Map::new(), entries: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == MANAGED {
                        let entries: Vec<Unread> = map.next_value()?;
                        meta.entries = entries.into_iter().map(|entry| entry.0).collect();
                    } else {
                        meta.fields.insert(name, map.next_value()?);
                    }
                }
                Ok(meta)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// A manager's entry whose fields are left as text.
struct Unread(Value);

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Unread;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a manager's entry")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unread, A::Error> {
                let mut entry = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = if name == FIELDS {
                        let text: &RawValue = map.next_value()?;
                        Value::from(text.get())
                    } else {
                        map.next_value()?
                    };
                    entry.insert(name, value);
                }
                Ok(Unread(Value::Object(entry)))
            }
        }
        from.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests;
