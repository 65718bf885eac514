//! What differs between two objects, as sets of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::{self, Form};
use super::set::{self, Set, Step};
use crate::schema::Schema;

/// The fields that came, went and changed.
#[derive(Debug, Default)]
pub struct Changes {
    pub added: Set,
    pub removed: Set,
    pub modified: Set,
}

impl Changes {
    fn put(&mut self, step: &Step, below: Self) {
        self.added.put(step.clone(), below.added);
        self.removed.put(step.clone(), below.removed);
        self.modified.put(step.clone(), below.modified);
    }
}

/// What leads from `before` to `after`.
pub fn values(before: &Value, after: &Value, schema: Option<&Schema>) -> Changes {
    let mut changes = Changes::default();
    if before == after {
        return changes;
    }
    match (fields::form(before, schema), fields::form(after, schema)) {
        (Form::Map { map: before, .. }, Form::Map { map: after, .. }) => {
            maps(&mut changes, before, after, schema);
        }
        (Form::List(before), Form::List(after)) => {
            if let Some(schema) = schema {
                lists(&mut changes, before, after, schema);
            }
        }
        _ => changes.modified.mark(),
    }
    changes
}

fn maps(
    changes: &mut Changes,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    schema: Option<&Schema>,
) {
    let below = |key: &str| schema.and_then(|schema| schema.child(key));
    for (key, value) in before {
        let step = set::field(key);
        match after.get(key) {
            Some(after) => changes.put(&step, values(value, after, below(key))),
            None => changes.removed.put(step, whole(key, value, schema)),
        }
    }
    for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        changes.added.put(set::field(key), whole(key, value, schema));
    }
}

/// Objects that Go holds by value: they are always there, so that no one brings them.
const BY_VALUE: [&str; 9] = [
    "jobTemplate",
    "metadata",
    "names",
    "resources",
    "spec",
    "status",
    "strategy",
    "template",
    "updateStrategy",
];

/// Every field of a value that came or went as a whole, the maps and lists themselves included.
fn whole(key: &str, value: &Value, parent: Option<&Schema>) -> Set {
    let object = parent.and_then(Schema::object);
    let required =
        object.and_then(|object| object.fields.get(key)).is_some_and(|field| field.required);
    let schema = parent.and_then(|schema| schema.child(key));
    let mut set = contents(value, schema);
    let counts = match fields::form(value, schema) {
        Form::Leaf => true,
        Form::Map { named, .. } => !named || !BY_VALUE.contains(&key),
        Form::List(_) => !required,
    };
    if counts || set.is_empty() {
        set.mark();
    }
    set
}

fn contents(value: &Value, schema: Option<&Schema>) -> Set {
    let mut set = Set::default();
    match fields::form(value, schema) {
        Form::Leaf => {}
        Form::Map { map, .. } => {
            for (key, value) in map {
                set.put(set::field(key), whole(key, value, schema));
            }
        }
        Form::List(list) => {
            for item in list {
                let Some(schema) = schema else { continue };
                if let Ok(step) = fields::step(item, schema) {
                    set.put(step, whole_item(item, schema));
                }
            }
        }
    }
    set
}

fn whole_item(item: &Value, list: &Schema) -> Set {
    let mut set = contents(item, list.item());
    set.mark();
    set
}

fn lists(changes: &mut Changes, before: &[Value], after: &[Value], schema: &Schema) {
    let by_step = |list: &[Value]| -> BTreeMap<Step, Value> {
        let keyed = |item: &Value| Some((fields::step(item, schema).ok()?, item.clone()));
        list.iter().filter_map(keyed).collect()
    };
    let (before, after) = (by_step(before), by_step(after));
    for (step, value) in &before {
        match after.get(step) {
            Some(after) => changes.put(step, values(value, after, schema.item())),
            None => changes.removed.put(step.clone(), whole_item(value, schema)),
        }
    }
    for (step, value) in after.iter().filter(|(step, _)| !before.contains_key(*step)) {
        changes.added.put(step.clone(), whole_item(value, schema));
    }
}
