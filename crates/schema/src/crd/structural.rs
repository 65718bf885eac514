//! Structural schemas: what they may not say, and the model that they become.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use super::{list, text, words};
use crate::schema::{Field, ListType, ObjectRef, ObjectType, Schema, Shape};
use crate::validate::Rules;
use crate::{Cause, Gvk, facts};

/// Deeper schemas than this are refused: they would outgrow the stack.
const DEEPEST: usize = 64;
/// Words of JSON schema that a structural one may not use.
const FORBIDDEN: [&str; 6] =
    ["$ref", "definitions", "dependencies", "deprecated", "patternProperties", "additionalItems"];
const COMBINED: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// All that keeps a version's schema from being structural.
pub fn check(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if text(schema, "type") != "object" {
        let wrong =
            Cause::invalid(format!("{path}.type"), &schema["type"], "must be object at the root");
        causes.push(wrong);
    }
    node(schema, path, 0, causes);
}

fn node(schema: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    let Some(fields) = schema.as_object() else {
        causes.push(Cause::type_invalid(path, schema, "must be a schema"));
        return;
    };
    if depth > DEEPEST {
        causes.push(Cause::forbidden(path, "schemas may not be nested so deeply"));
        return;
    }
    for word in FORBIDDEN.iter().filter(|word| fields.contains_key(**word)) {
        causes.push(Cause::forbidden(
            format!("{path}.{word}"),
            "must not be used in a structural schema",
        ));
    }
    let free = schema["x-kubernetes-int-or-string"] == true
        || schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = text(schema, "type");
    match kind {
        "" if free => {}
        "" => {
            let path = format!("{path}.type");
            causes.push(Cause::required(path, "must not be empty for specified object fields"));
        }
        "object" | "array" | "string" | "integer" | "number" | "boolean" => {}
        _ => {
            let allowed = ["array", "boolean", "integer", "number", "object", "string"];
            causes.push(Cause::not_supported(format!("{path}.type"), &schema["type"], &allowed));
        }
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && Regex::new(pattern).is_err()
    {
        let wrong = "must be a valid regular expression";
        causes.push(Cause::invalid(format!("{path}.pattern"), &schema["pattern"], wrong));
    }
    if schema["uniqueItems"] == true {
        let wrong =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(format!("{path}.uniqueItems"), wrong));
    }
    if schema["additionalProperties"] == false {
        let wrong = "additionalProperties cannot be set to false";
        causes.push(Cause::forbidden(format!("{path}.additionalProperties"), wrong));
    }
    let default = &schema["default"];
    if !default.is_null() {
        let none = BTreeMap::new();
        let rules = Rules { patterns: &none };
        causes.extend(rules.check(&format!("{path}.default"), default, schema));
    }
    if schema["x-kubernetes-int-or-string"] != true {
        for word in COMBINED {
            for (at, below) in list(&schema[word]).iter().enumerate() {
                branch(below, &format!("{path}.{word}[{at}]"), causes);
            }
        }
        branch(&schema["not"], &format!("{path}.not"), causes);
    }
    let properties = schema["properties"].as_object();
    for (name, below) in properties.into_iter().flatten() {
        // The object's own metadata has a schema already.
        if depth > 0 || !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
            node(below, &format!("{path}.properties[{name}]"), depth + 1, causes);
        }
    }
    let additional = &schema["additionalProperties"];
    if additional.is_object() {
        if properties.is_some_and(|all| !all.is_empty()) {
            let wrong = "additionalProperties and properties are mutually exclusive";
            causes.push(Cause::forbidden(format!("{path}.additionalProperties"), wrong));
        }
        node(additional, &format!("{path}.additionalProperties"), depth + 1, causes);
    }
    if kind == "array" {
        if schema["items"].is_object() {
            node(&schema["items"], &format!("{path}.items"), depth + 1, causes);
        } else {
            causes.push(Cause::required(format!("{path}.items"), "must be specified"));
        }
        list_type(schema, path, causes);
    }
}

/// What a branch of a logical combination may not say: only the structure around it may.
fn branch(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    for word in ["type", "default", "additionalProperties", "nullable"] {
        if schema.get(word).is_some_and(|found| *found != false) {
            let wrong = "must be empty to be structural";
            causes.push(Cause::forbidden(format!("{path}.{word}"), wrong));
        }
    }
}

fn list_type(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let keys = list(&schema["x-kubernetes-list-map-keys"]);
    match text(schema, "x-kubernetes-list-type") {
        "" | "atomic" | "set" => {}
        "map" if keys.is_empty() => {
            let path = format!("{path}.x-kubernetes-list-map-keys");
            causes.push(Cause::required(path, "must not be empty if list type is map"));
        }
        "map" => {
            for key in keys.iter().filter_map(Value::as_str) {
                if schema["items"]["properties"].get(key).is_none() {
                    let path = format!("{path}.x-kubernetes-list-map-keys");
                    let wrong = "entries must all be names of item properties";
                    causes.push(Cause::invalid(path, &Value::from(key), wrong));
                }
            }
        }
        _ => {
            let path = format!("{path}.x-kubernetes-list-type");
            let allowed = ["atomic", "map", "set"];
            causes.push(Cause::not_supported(path, &schema["x-kubernetes-list-type"], &allowed));
        }
    }
}

/// The model of a version's objects.
pub fn root(schema: &Value, kind: Gvk) -> Schema {
    let mut object = object(schema, true);
    object.kinds.push(kind);
    Schema::plain(Shape::Object(ObjectRef::Own(Arc::new(object))))
}

fn model(schema: &Value) -> Schema {
    let mut made = Schema::plain(shape(schema));
    made.nullable = schema["nullable"] == true;
    made.default = schema.get("default").cloned();
    made.atomic = text(schema, "x-kubernetes-map-type") == "atomic";
    made.list = match text(schema, "x-kubernetes-list-type") {
        "set" => ListType::Set,
        "map" => ListType::Map(words(&schema["x-kubernetes-list-map-keys"])),
        _ => ListType::Atomic,
    };
    made
}

fn shape(schema: &Value) -> Shape {
    if schema["x-kubernetes-int-or-string"] == true {
        return Shape::IntOrString;
    }
    match text(schema, "type") {
        "object" => {
            let additional = &schema["additionalProperties"];
            if additional.is_object() {
                Shape::Map(Box::new(model(additional)))
            } else if *additional == true {
                Shape::Map(Box::new(Schema::ANY))
            } else {
                let embedded = schema["x-kubernetes-embedded-resource"] == true;
                Shape::Object(ObjectRef::Own(Arc::new(object(schema, embedded))))
            }
        }
        "array" => Shape::List(Box::new(model(&schema["items"]))),
        "string" => Shape::String,
        "integer" => Shape::Int64,
        "number" => Shape::Double,
        "boolean" => Shape::Bool,
        _ => Shape::Any,
    }
}

/// An object; a whole one (the root, or an embedded one) has a version, a kind and metadata.
fn object(schema: &Value, whole: bool) -> ObjectType {
    let required = list(&schema["required"]);
    let mut object = ObjectType {
        preserve_unknown: schema["x-kubernetes-preserve-unknown-fields"] == true,
        ..ObjectType::default()
    };
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let required = required.iter().any(|one| one.as_str() == Some(name));
        object.fields.insert(name.clone(), Field { schema: model(below), required });
    }
    if whole {
        for name in ["apiVersion", "kind"] {
            let schema = Schema::plain(Shape::String);
            object.fields.insert(name.to_owned(), Field { schema, required: false });
        }
        if let Some(place) = facts::types().place("meta.v1.ObjectMeta") {
            let schema = Schema::plain(Shape::Object(ObjectRef::Builtin(place)));
            object.fields.insert("metadata".to_owned(), Field { schema, required: false });
        }
    }
    object
}

/// Every pattern of a schema, made ready.
pub fn patterns(schema: &Value, found: &mut BTreeMap<String, Regex>) {
    if let Some(pattern) = schema["pattern"].as_str()
        && let Ok(ready) = Regex::new(pattern)
    {
        found.insert(pattern.to_owned(), ready);
    }
    for below in schema["properties"].as_object().into_iter().flatten().map(|(_, below)| below) {
        patterns(below, found);
    }
    for word in ["items", "additionalProperties", "not"] {
        if schema[word].is_object() {
            patterns(&schema[word], found);
        }
    }
    for below in COMBINED.iter().flat_map(|word| list(&schema[*word])) {
        patterns(below, found);
    }
}
