//! Types as OpenAPI schemas.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::schema::{Field, ListType, ObjectRef, ObjectType, Schema, Shape};
use crate::{Gvk, Resource, default, facts};

const META: &str = "meta.v1.ObjectMeta";
const LIST_META: &str = "meta.v1.ListMeta";
/// Types that every document names in its operations.
const ALWAYS: [&str; 3] = ["meta.v1.DeleteOptions", "meta.v1.Status", "meta.v1.WatchEvent"];

/// The schemas of a document; what one refers to comes with it.
pub struct Models {
    dialect: Dialect,
    done: Map<String, Value>,
    waiting: Vec<usize>,
    seen: BTreeSet<usize>,
}

impl Models {
    pub fn new(dialect: Dialect) -> Self {
        let mut models =
            Self { dialect, done: Map::new(), waiting: Vec::new(), seen: BTreeSet::new() };
        for name in ALWAYS {
            models.want(name);
        }
        models.done.insert(long("meta.v1.Patch"), json!({"type": "object"}));
        models
    }

    /// Adds the type of a resource, of its list and of its subresources.
    pub fn add_resource(&mut self, resource: &Resource) {
        match (&resource.custom, &resource.schema.shape) {
            (Some(custom), _) => self.add_custom(resource, &custom.openapi),
            (None, Shape::Object(ObjectRef::Builtin(place))) => {
                self.want_place(*place);
                let name = &facts::types().at(*place).name;
                self.want(&format!("{name}List"));
            }
            _ => {}
        }
        for sub in &resource.subresources {
            if let Some(place) = facts::types().of_kind(&sub.kind) {
                self.want_place(place);
            }
        }
    }

    fn add_custom(&mut self, resource: &Resource, openapi: &Value) {
        let kind = gvk(&resource.group, &resource.version, &resource.kind);
        let mut schema = openapi.clone();
        if self.dialect == Dialect::V2 {
            simplify(&mut schema);
        }
        let meta = self.object(META);
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
        schema["properties"]["metadata"] = meta;
        schema["x-kubernetes-group-version-kind"] = json!([kind]);
        let name = custom_name(resource);
        let list = format!("{}List", resource.kind);
        let list_meta = self.object(LIST_META);
        self.done.insert(
            format!("{name}List"),
            json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": list_meta,
                    "items": {"type": "array", "items": self.dialect.reference(&name)},
                },
                "x-kubernetes-group-version-kind":
                    [gvk(&resource.group, &resource.version, &list)],
            }),
        );
        self.done.insert(name, schema);
    }

    /// All schemas, by their long names.
    pub fn finish(mut self) -> Value {
        while let Some(place) = self.waiting.pop() {
            let object = facts::types().at(place);
            let schema = self.type_schema(object, place);
            self.done.insert(long(&object.name), schema);
        }
        Value::Object(self.done)
    }

    fn want(&mut self, name: &str) {
        if let Some(place) = facts::types().place(name) {
            self.want_place(place);
        }
    }

    fn want_place(&mut self, place: usize) {
        if self.seen.insert(place) {
            self.waiting.push(place);
        }
    }

    fn object(&mut self, name: &str) -> Value {
        self.want(name);
        self.dialect.reference(&long(name))
    }

    fn type_schema(&mut self, object: &ObjectType, place: usize) -> Value {
        let owner = Schema::plain(Shape::Object(ObjectRef::Builtin(place)));
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, field) in &object.fields {
            properties.insert(name.clone(), self.field_schema(&owner, name, field));
            if field.required {
                required.push(json!(name));
            }
        }
        let mut schema = json!({"type": "object"});
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = Value::Array(required);
        }
        if object.atomic {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        if !object.kinds.is_empty() {
            let kinds =
                object.kinds.iter().map(|Gvk { group, version, kind }| gvk(group, version, kind));
            schema["x-kubernetes-group-version-kind"] = kinds.collect();
        }
        schema
    }

    fn field_schema(&mut self, owner: &Schema, name: &str, field: &Field) -> Value {
        let mut schema = self.shape(&field.schema.shape);
        let mut extra = Map::new();
        let mut put = |key: &str, value: Value| {
            extra.insert(key.to_owned(), value);
        };
        if !field.schema.allowed.is_empty() && field.schema.item().is_none() {
            put("enum", json!(field.schema.allowed));
        }
        if let Shape::List(_) = field.schema.shape {
            match &field.schema.list {
                ListType::Atomic => put("x-kubernetes-list-type", json!("atomic")),
                ListType::Set => put("x-kubernetes-list-type", json!("set")),
                ListType::Map(keys) => {
                    put("x-kubernetes-list-type", json!("map"));
                    put("x-kubernetes-list-map-keys", json!(keys));
                }
            }
        }
        if field.schema.atomic {
            put("x-kubernetes-map-type", json!("atomic"));
        }
        let merge = &field.schema.merge;
        let words =
            [(merge.merge, "merge"), (merge.retain_keys, "retainKeys"), (merge.replace, "replace")];
        let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if !words.is_empty() {
            put("x-kubernetes-patch-strategy", json!(words.join(",")));
        }
        if let Some(key) = &merge.key {
            put("x-kubernetes-patch-merge-key", json!(key));
        }
        // The key of a list may be left out: those who merge have to know what it is then.
        if name == "protocol"
            && let Some(value) = default::of_field(owner, name)
        {
            put("default", value.clone());
        }
        if extra.is_empty() {
            return schema;
        }
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        if let Value::Object(fields) = &mut schema {
            fields.extend(extra);
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        let known = match shape {
            Shape::Bool => return json!({"type": "boolean"}),
            Shape::Int32 => return json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => return json!({"type": "integer", "format": "int64"}),
            Shape::Double => return json!({"type": "number", "format": "double"}),
            Shape::String => return json!({"type": "string"}),
            Shape::Bytes => return json!({"type": "string", "format": "byte"}),
            Shape::List(item) => {
                return json!({"type": "array", "items": self.shape(&item.shape)});
            }
            Shape::Map(item) => {
                let below = self.shape(&item.shape);
                return json!({"type": "object", "additionalProperties": below});
            }
            Shape::Object(ObjectRef::Builtin(place)) => {
                self.want_place(*place);
                let name = &facts::types().at(*place).name;
                return self.dialect.reference(&long(name));
            }
            Shape::Object(ObjectRef::Own(_)) => return json!({"type": "object"}),
            Shape::Any => "apiextensions.v1.JSON",
            Shape::Raw => "apimachinery.runtime.RawExtension",
            Shape::Fields => "meta.v1.FieldsV1",
            Shape::Time => "meta.v1.Time",
            Shape::MicroTime => "meta.v1.MicroTime",
            Shape::Quantity => "apimachinery.api.resource.Quantity",
            Shape::IntOrString => "apimachinery.util.intstr.IntOrString",
        };
        let name = long(known);
        let reference = self.dialect.reference(&name);
        self.done.entry(name).or_insert_with(|| basic(shape, self.dialect));
        reference
    }
}

/// A type that is no object to us.
fn basic(shape: &Shape, dialect: Dialect) -> Value {
    let either = |one: &str| json!({"oneOf": [{"type": "string"}, {"type": one}]});
    match (shape, dialect) {
        (Shape::Raw | Shape::Fields, _) => json!({"type": "object"}),
        (Shape::Time | Shape::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Shape::Quantity, Dialect::V3) => either("number"),
        (Shape::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Shape::IntOrString, dialect) => {
            let mut schema = match dialect {
                Dialect::V2 => json!({"type": "string"}),
                Dialect::V3 => either("integer"),
            };
            schema["format"] = json!("int-or-string");
            schema
        }
        _ => json!({}),
    }
}

/// Takes out what the older dialect has no word for; where a null is allowed it says nothing.
fn simplify(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let nullable = fields.remove("nullable") == Some(Value::Bool(true));
    for word in ["allOf", "anyOf", "oneOf", "not"] {
        fields.remove(word);
    }
    if nullable {
        for word in ["type", "items", "properties", "additionalProperties", "required", "enum"] {
            fields.remove(word);
        }
    }
    for word in ["items", "additionalProperties"] {
        if let Some(below) = fields.get_mut(word) {
            simplify(below);
        }
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    for (_, below) in properties.into_iter().flatten() {
        simplify(below);
    }
}

/// The name by which the type of a resource is known.
pub fn name_of(resource: &Resource) -> String {
    match resource.schema.object() {
        Some(object) if resource.custom.is_none() => long(&object.name),
        _ => custom_name(resource),
    }
}

/// The name of a built-in type by its short one.
pub fn long(name: &str) -> String {
    facts::types().long_name(name)
}

/// A custom kind's name: its group from the back, version and kind.
fn custom_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.extend([resource.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

pub fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}
