//! What stands where nothing was said.
//!
//! Plain values are facts (`facts/defaults.txt`: a type, a path, a value); what depends on other
//! fields is a named rule in `rules`. A custom resource brings its own. Refuses what an API server
//! does from its state: addresses, generated names, service accounts.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::schema::{ObjectRef, ObjectType, Schema, Shape};
use crate::{Resource, facts};

mod rules;

const DEFAULTS: &str = include_str!("../facts/defaults.txt");

/// Fills in what Kubernetes, or the resource's own definition, fills in.
pub fn default(resource: &Resource, object: &mut Value) {
    fill(&resource.schema, object);
}

/// The default of one field of a type, as a key of a list may need it.
#[must_use]
pub(crate) fn of_field(schema: &Schema, field: &str) -> Option<&'static Value> {
    match &schema.shape {
        Shape::Object(ObjectRef::Builtin(place)) => {
            let facts = &plans()[*place].facts;
            let found = facts.iter().find(|(path, _)| path.len() == 1 && path[0] == field);
            found.map(|(_, value)| value)
        }
        _ => None,
    }
}

/// What is to be done for objects of one type.
#[derive(Default)]
struct Plan {
    facts: Vec<(Vec<&'static str>, Value)>,
    rule: Option<rules::Rule>,
    /// Something is to be done here or below.
    deep: bool,
}

fn plans() -> &'static [Plan] {
    static MADE: OnceLock<Vec<Plan>> = OnceLock::new();
    MADE.get_or_init(make)
}

fn make() -> Vec<Plan> {
    let types = facts::types();
    let mut plans: Vec<Plan> = types
        .iter()
        .map(|object| Plan { rule: rules::of(&object.name), ..Plan::default() })
        .collect();
    for line in DEFAULTS.lines() {
        let fact = line.split_once(" = ").and_then(|(left, right)| {
            let (name, path) = left.split_once(' ')?;
            Some((types.place(name)?, path.split('.').collect(), serde_json::from_str(right).ok()?))
        });
        if let Some((place, path, value)) = fact {
            plans[place].facts.push((path, value));
        }
    }
    for plan in &mut plans {
        plan.deep = !plan.facts.is_empty() || plan.rule.is_some();
    }
    loop {
        let mut changed = false;
        for (place, object) in types.iter().enumerate() {
            if !plans[place].deep && fields_are_deep(object, &plans) {
                plans[place].deep = true;
                changed = true;
            }
        }
        if !changed {
            return plans;
        }
    }
}

fn fields_are_deep(object: &ObjectType, plans: &[Plan]) -> bool {
    object.fields.values().any(|field| is_deep(&field.schema, plans))
}

fn is_deep(schema: &Schema, plans: &[Plan]) -> bool {
    match &schema.shape {
        Shape::Object(ObjectRef::Builtin(place)) => plans[*place].deep,
        Shape::List(item) | Shape::Map(item) => is_deep(item, plans),
        _ => false,
    }
}

fn fill(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object(ObjectRef::Builtin(place)), Value::Object(found)) => {
            let plan = &plans()[*place];
            if plan.deep {
                for (path, default) in &plan.facts {
                    put(found, path, default);
                }
                if let Some(rule) = plan.rule {
                    rule(found);
                }
                fill_fields(facts::types().at(*place), found);
            }
        }
        (Shape::Object(ObjectRef::Own(object)), Value::Object(found)) => {
            for (name, field) in &object.fields {
                let missing = match found.get(name) {
                    None => true,
                    Some(Value::Null) => !field.schema.nullable,
                    Some(_) => false,
                };
                if let (true, Some(default)) = (missing, &field.schema.default) {
                    found.insert(name.clone(), default.clone());
                }
            }
            fill_fields(object, found);
        }
        (Shape::List(item), Value::Array(list)) => {
            list.iter_mut().for_each(|value| fill(item, value));
        }
        (Shape::Map(item), Value::Object(map)) => {
            for value in map.values_mut() {
                if let (Value::Null, false, Some(default)) = (&value, item.nullable, &item.default)
                {
                    *value = default.clone();
                }
                fill(item, value);
            }
        }
        _ => {}
    }
}

fn fill_fields(object: &ObjectType, found: &mut Map<String, Value>) {
    for (name, value) in found.iter_mut() {
        if let Some(field) = object.fields.get(name) {
            fill(&field.schema, value);
        }
    }
}

/// Puts a default where nothing is, making the objects on the way.
fn put(found: &mut Map<String, Value>, path: &[&str], default: &Value) {
    match path {
        [last] => {
            found.entry(*last).or_insert_with(|| default.clone());
        }
        [first, rest @ ..] => {
            let next = found.entry(*first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(next) = next {
                put(next, rest, default);
            }
        }
        [] => {}
    }
}

#[cfg(test)]
mod tests;
