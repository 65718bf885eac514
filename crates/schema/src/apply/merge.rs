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

/// Items of the configuration in its order, and the others in theirs: an item that only `live` has
/// comes before what it stood before, as far as both orders allow.
///
/// Of an item that `live` has more than once, all give way to the configuration's.
fn lists(live: &[Value], applied: &[Value], schema: &Schema) -> Vec<Value> {
    let keyed = |item: &Value| fields::step(item, schema).unwrap_or_default();
    let wanted: Vec<(Step, &Value)> = applied.iter().map(|item| (keyed(item), item)).collect();
    let place: BTreeMap<&Step, usize> =
        wanted.iter().enumerate().map(|(at, (step, _))| (step, at)).collect();
    let found: Vec<(Step, &Value)> = live.iter().map(|item| (keyed(item), item)).collect();
    let mut by_step: BTreeMap<&Step, Option<&Value>> = BTreeMap::new();
    for (step, item) in &found {
        by_step.entry(step).and_modify(|item| *item = None).or_insert(Some(*item));
    }
    // From each place of the configuration, the next item that both have.
    let mut shared = vec![None; wanted.len() + 1];
    for (at, (step, _)) in wanted.iter().enumerate().rev() {
        shared[at] = if by_step.contains_key(step) { Some(at) } else { shared[at + 1] };
    }
    let merged = |(step, item): &(Step, &Value)| match by_step.get(step) {
        Some(Some(live)) => values(live, item, schema.item()),
        _ => (*item).clone(),
    };
    let mut all = Vec::with_capacity(live.len().max(applied.len()));
    let (mut at, mut next) = (0, 0);
    while at < found.len() || next < wanted.len() {
        if let Some((step, item)) = found.get(at) {
            match place.get(step) {
                None => {
                    all.push((*item).clone());
                    at += 1;
                    continue;
                }
                // It comes where the configuration has it.
                Some(own) if shared[next].is_some_and(|shared| shared != *own) => {
                    at += 1;
                    continue;
                }
                Some(own) if *own <= next => at += 1,
                Some(_) => {}
            }
        }
        if let Some(wanted) = wanted.get(next) {
            all.push(merged(wanted));
            next += 1;
        }
    }
    all
}

/// Takes out of `value` what was in `had` and is not in `kept`.
///
/// A map's key or a list's item that was in `had` goes whole when no one else has it, with all that
/// others put into it; a type's field stays as long as anyone has something in it.
pub fn prune(value: &mut Value, had: &Set, kept: Option<&Set>, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => {
            let object = schema.and_then(Schema::object);
            for (step, had) in had.children() {
                let Some(name) = step.strip_prefix("f:") else { continue };
                let named = object.is_some_and(|object| object.fields.contains_key(name));
                let kept = kept.and_then(|kept| kept.child(step));
                let stays = kept.is_some_and(|kept| named || kept.is_marked());
                if stays || !(named || had.is_marked()) {
                    let below = schema.and_then(|schema| schema.child(name));
                    if let Some(value) = map.get_mut(name) {
                        prune(value, had, kept, below);
                    }
                } else if !is_root(name, had, map) {
                    map.remove(name);
                }
            }
        }
        Value::Array(list) => {
            let Some(schema) = schema else { return };
            list.retain_mut(|item| {
                let Ok(step) = fields::step(item, schema) else { return true };
                let Some(had) = had.child(&step) else { return true };
                let kept = kept.and_then(|kept| kept.child(&step));
                if had.is_marked() && !kept.is_some_and(Set::is_marked) {
                    return false;
                }
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
