//! The fields that a value sets, under its schema.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::set::{self, Set, Step};
use crate::default;
use crate::schema::{ListType, Schema, Shape};

/// How a value takes part in merging.
pub enum Form<'a> {
    /// One value as a whole.
    Leaf,
    /// A map or object, by key; `named` when its keys are a type's fields.
    Map { map: &'a Map<String, Value>, named: bool },
    /// A list whose items are told apart.
    List(&'a [Value]),
}

/// How this value takes part. Without a schema, objects are merged and lists are not.
pub fn form<'a>(value: &'a Value, schema: Option<&Schema>) -> Form<'a> {
    match value {
        Value::Object(map) => match schema.map(|schema| (&schema.shape, schema.is_atomic())) {
            Some((_, true)) => Form::Leaf,
            Some((Shape::Raw | Shape::Fields, _)) => Form::Leaf,
            Some((Shape::Object(_), _)) => Form::Map { map, named: true },
            _ => Form::Map { map, named: false },
        },
        Value::Array(list) => match schema {
            Some(schema) if schema.list != ListType::Atomic => Form::List(list),
            _ => Form::Leaf,
        },
        _ => Form::Leaf,
    }
}

/// The step from a list to one of its items, or what is wrong with the item.
pub fn step(item: &Value, schema: &Schema) -> Result<Step, String> {
    match &schema.list {
        ListType::Map(names) => {
            let mut keys = Map::new();
            for name in names {
                let default = || {
                    let item = schema.item()?;
                    let own = item.child(name).and_then(|field| field.default.as_ref());
                    own.or_else(|| default::of_field(item, name))
                };
                match item.get(name).filter(|value| !value.is_null()).or_else(default) {
                    Some(value) => keys.insert(name.clone(), value.clone()),
                    // A missing key is a value of its own, as long as another one is there.
                    None => None,
                };
            }
            if keys.is_empty() {
                let names = names.join(", ");
                return Err(format!(
                    "associative list with keys has an element that omits key field \"{names}\""
                ));
            }
            Ok(set::keys(keys))
        }
        _ => Ok(set::value(item)),
    }
}

/// Every field that a value sets.
pub fn of(value: &Value, schema: Option<&Schema>) -> Set {
    let mut found = Set::default();
    match form(value, schema) {
        Form::Leaf => found.mark(),
        Form::Map { map, named } => {
            for (key, value) in map {
                let below = schema.and_then(|schema| schema.child(key));
                let mut set = of(value, below);
                let bare = match value {
                    Value::Null => true,
                    Value::Object(map) => map.is_empty(),
                    _ => false,
                };
                if bare || !named || below.is_none() {
                    set.mark();
                }
                found.put(set::field(key), set);
            }
        }
        Form::List(list) => {
            let Some(schema) = schema else { return found };
            for item in list {
                let Ok(step) = step(item, schema) else { continue };
                // An item that is there twice is one value.
                let twice = found.child(&step).is_some();
                let mut set = if twice { Set::default() } else { of(item, schema.item()) };
                set.mark();
                found.put(step, set);
            }
        }
    }
    found
}

/// Brings a set that was written under an older schema to this one: what is one value now is owned
/// as one.
pub fn settle(set: &mut Set, schema: &Schema) {
    match &schema.shape {
        Shape::Object(_) | Shape::Map(_) if schema.is_atomic() => set.close(),
        Shape::List(_) if schema.list == ListType::Atomic => set.close(),
        Shape::List(item) => set.children_mut().for_each(|(_, below)| settle(below, item)),
        Shape::Object(_) | Shape::Map(_) => {
            for (step, below) in set.children_mut() {
                if let Some(schema) = step.strip_prefix("f:").and_then(|name| schema.child(name)) {
                    settle(below, schema);
                }
            }
        }
        _ => {}
    }
}

/// Whether a configuration's lists tell their items apart.
///
/// # Errors
/// Names the list and the item.
pub fn check(value: &Value, schema: Option<&Schema>) -> Result<(), String> {
    check_at("", value, schema)
}

fn check_at(path: &str, value: &Value, schema: Option<&Schema>) -> Result<(), String> {
    match form(value, schema) {
        Form::Leaf => Ok(()),
        Form::Map { map, .. } => {
            for (key, value) in map {
                let below = schema.and_then(|schema| schema.child(key));
                check_at(&format!("{path}.{key}"), value, below)?;
            }
            Ok(())
        }
        Form::List(list) => {
            let Some(schema) = schema else { return Ok(()) };
            let mut seen = HashSet::new();
            for (at, item) in list.iter().enumerate() {
                let step = step(item, schema).map_err(|wrong| {
                    format!("failed to create typed patch object: {path}: element {at}: {wrong}")
                })?;
                if seen.contains(&step) {
                    let key = step.split_once(':').map_or("", |(_, key)| key);
                    return Err(format!(
                        "failed to create typed patch object: {path}: duplicate entries for key {key}"
                    ));
                }
                check_at(&format!("{path}[{at}]"), item, schema.item())?;
                seen.insert(step);
            }
            Ok(())
        }
    }
}
