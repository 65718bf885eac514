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
    /// What came or changed.
    pub fn changed(mut self) -> Set {
        self.modified.absorb(self.added);
        self.modified
    }

    fn put(&mut self, step: impl Fn() -> Step, below: Self) {
        let sets = [&mut self.added, &mut self.removed, &mut self.modified];
        for (set, below) in sets.into_iter().zip([below.added, below.removed, below.modified]) {
            if !below.is_empty() {
                set.put(step(), below);
            }
        }
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
        let step = || set::field(key);
        match after.get(key) {
            Some(after) => changes.put(step, values(value, after, below(key))),
            None => changes.removed.put(step(), whole(key, value, schema, false)),
        }
    }
    for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        changes.added.put(set::field(key), whole(key, value, schema, false));
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

/// Held by reference in spite of its name.
const BY_REFERENCE: (&str, &str) = ("core.v1.ReplicationControllerSpec", "template");

/// Every field of a value that came or went as a whole, the maps and lists themselves included.
///
/// `fresh`: what holds it came or went too, so that nothing in it was there by value.
fn whole(key: &str, value: &Value, parent: Option<&Schema>, fresh: bool) -> Set {
    let object = parent.and_then(Schema::object);
    let required =
        object.and_then(|object| object.fields.get(key)).is_some_and(|field| field.required);
    let schema = parent.and_then(|schema| schema.child(key));
    let is_custom = object.is_none_or(|object| object.name.is_empty());
    let by_reference =
        object.is_some_and(|object| (object.name.as_str(), key) == BY_REFERENCE) || is_custom;
    let counts = fresh
        || match fields::form(value, schema) {
            Form::Leaf => true,
            Form::Map { named, .. } => !named || by_reference || !BY_VALUE.contains(&key),
            Form::List(_) => is_custom || !required,
        };
    if !fresh && !is_custom && key == "podSelector" && value.as_object().is_some_and(Map::is_empty)
    {
        // A NetworkPolicy holds its selector by value too, and owns it as one.
        return Set::default();
    }
    let mut set = contents(value, schema, counts);
    if counts || set.is_empty() {
        set.mark();
    }
    set
}

fn contents(value: &Value, schema: Option<&Schema>, fresh: bool) -> Set {
    let mut set = Set::default();
    match fields::form(value, schema) {
        Form::Leaf => {}
        Form::Map { map, .. } => {
            for (key, value) in map {
                set.put(set::field(key), whole(key, value, schema, fresh));
            }
        }
        Form::List(list) => {
            let Some(schema) = schema else { return set };
            for (step, item) in by_step(list, schema) {
                set.put(step, item.whole(schema));
            }
        }
    }
    set
}

/// What a list has under one step.
#[derive(Clone, Copy)]
enum Item<'a> {
    One(&'a Value),
    /// More than one item has it: together they are one value.
    Several,
}

impl Item<'_> {
    /// All of it, when it came or went.
    fn whole(self, list: &Schema) -> Set {
        let mut set = match self {
            Self::One(item) => contents(item, list.item(), true),
            Self::Several => Set::default(),
        };
        set.mark();
        set
    }
}

fn lists(changes: &mut Changes, before: &[Value], after: &[Value], schema: &Schema) {
    let (old, new) = (by_step(before, schema), by_step(after, schema));
    for (step, item) in &old {
        match (item, new.get(step)) {
            (Item::One(item), Some(Item::One(after))) => {
                changes.put(|| step.clone(), values(item, after, schema.item()));
            }
            (Item::Several, Some(Item::Several)) => {
                let is_it = |item: &&Value| fields::step(item, schema).as_ref() == Ok(step);
                if !before.iter().filter(is_it).eq(after.iter().filter(is_it)) {
                    changes.modified.put(step.clone(), Item::Several.whole(schema));
                }
            }
            (_, after) => {
                changes.removed.put(step.clone(), item.whole(schema));
                if let Some(after) = after {
                    changes.added.put(step.clone(), after.whole(schema));
                }
            }
        }
    }
    for (step, item) in new.iter().filter(|(step, _)| !old.contains_key(*step)) {
        changes.added.put(step.clone(), item.whole(schema));
    }
}

fn by_step<'a>(list: &'a [Value], schema: &Schema) -> BTreeMap<Step, Item<'a>> {
    let mut found = BTreeMap::new();
    for item in list {
        if let Ok(step) = fields::step(item, schema) {
            found.entry(step).and_modify(|item| *item = Item::Several).or_insert(Item::One(item));
        }
    }
    found
}
