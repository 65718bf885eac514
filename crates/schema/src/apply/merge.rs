//! Merging a configuration into an object, and pruning what it names no more.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::{self, Form};
use super::set::{self, Set, Step};
use crate::schema::Schema;

/// `live` with all that `applied` says.
pub fn values(live: &Value, applied: &Value, schema: Option<&Schema>) -> Value {
    match (fields::form(live, schema), fields::form(applied, schema)) {
        (Form::Map { map: live, .. }, Form::Map { map: applied, .. }) => {
            let mut merged = live.clone();
            for (key, value) in applied {
                let below = schema.and_then(|schema| schema.child(key));
                let new = match live.get(key) {
                    Some(live) => values(live, value, below),
                    None => value.clone(),
                };
                merged.insert(key.clone(), new);
            }
            Value::Object(merged)
        }
        (Form::List(live), Form::List(applied)) => match schema {
            Some(schema) => Value::Array(lists(live, applied, schema)),
            None => Value::Array(applied.to_vec()),
        },
        // A null in a configuration says nothing about maps and lists that are there.
        (Form::Map { .. } | Form::List(_), Form::Leaf) if applied.is_null() => live.clone(),
        _ => applied.clone(),
    }
}

/// Items of the configuration in its order; the others stay behind what they stood behind.
fn lists(live: &[Value], applied: &[Value], schema: &Schema) -> Vec<Value> {
    let keyed = |item: &Value| fields::step(item, schema).unwrap_or_default();
    let wanted: Vec<(Step, &Value)> = applied.iter().map(|item| (keyed(item), item)).collect();
    let place: BTreeMap<&Step, usize> =
        wanted.iter().enumerate().map(|(at, (step, _))| (step, at)).collect();
    let found: Vec<(Step, &Value)> = live.iter().map(|item| (keyed(item), item)).collect();
    let by_step: BTreeMap<&Step, &Value> = found.iter().map(|(step, item)| (step, *item)).collect();
    let merged = |step: &Step, item: &Value| match by_step.get(step) {
        Some(live) => values(live, item, schema.item()),
        None => item.clone(),
    };
    let mut all = Vec::with_capacity(live.len().max(applied.len()));
    let mut next = 0;
    for (step, item) in &found {
        match place.get(step) {
            None => all.push((*item).clone()),
            Some(at) => {
                // All that the configuration puts before this one comes first.
                while next <= *at {
                    let (step, item) = &wanted[next];
                    all.push(merged(step, item));
                    next += 1;
                }
            }
        }
    }
    all.extend(wanted[next..].iter().map(|(step, item)| merged(step, item)));
    all
}

/// Takes out of `value` what was in `had` and is not in `kept`.
///
/// An object or item of which no one owns anything any more goes whole, with what no one ever
/// owned in it (defaults).
pub fn prune(value: &mut Value, had: &Set, kept: &Set, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => {
            for (step, had) in had.children() {
                let Some(name) = step.strip_prefix("f:") else { continue };
                match kept.child(step) {
                    None if !is_root(name, had, map) => {
                        map.remove(name);
                    }
                    None => {}
                    Some(kept) => {
                        let below = schema.and_then(|schema| schema.child(name));
                        if let Some(value) = map.get_mut(name) {
                            prune(value, had, kept, below);
                        }
                    }
                }
            }
        }
        Value::Array(list) => {
            let Some(schema) = schema else { return };
            list.retain_mut(|item| {
                let Ok(step) = fields::step(item, schema) else { return true };
                let Some(had) = had.child(&step) else { return true };
                let Some(kept) = kept.child(&step) else { return false };
                prune(item, had, kept, schema.item());
                true
            });
        }
        _ => {}
    }
}

/// An object's metadata stays, whoever owned what in it; only the owned parts go.
fn is_root(name: &str, had: &Set, map: &mut Map<String, Value>) -> bool {
    if name != "metadata" || !map.contains_key("apiVersion") {
        return false;
    }
    if let Some(metadata) = map.get_mut(name) {
        for (step, _) in had.children() {
            if let (Some(name), Value::Object(fields)) = (step.strip_prefix("f:"), &mut *metadata) {
                debug_assert_eq!(set::field(name), *step);
                fields.remove(name);
            }
        }
    }
    true
}
