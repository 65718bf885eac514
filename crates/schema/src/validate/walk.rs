//! The walk through an object along its types: what the facts demand, and each type's own rule.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::path::Path;
use super::rules;
use crate::schema::{ObjectRef, ObjectType, Schema, Shape};
use crate::{Cause, facts};

/// Fields that the documents call required and that servers have always done without.
/// Others have a rule that words it better.
const OPTIONAL: [(&str, &str); 14] = [
    ("core.v1.HTTPHeader", "value"),
    ("core.v1.Sysctl", "value"),
    ("core.v1.Event", "metadata"),
    ("events.v1.Event", "eventTime"),
    ("storage.v1.CSINodeSpec", "drivers"),
    ("core.v1.LimitRangeSpec", "limits"),
    ("rbac.v1.PolicyRule", "verbs"),
    ("core.v1.PodAffinityTerm", "topologyKey"),
    ("core.v1.NodeSelector", "nodeSelectorTerms"),
    ("networking.v1.HTTPIngressPath", "pathType"),
    ("apps.v1.DeploymentSpec", "selector"),
    ("apps.v1.ReplicaSetSpec", "selector"),
    ("apps.v1.DaemonSetSpec", "selector"),
    ("apps.v1.StatefulSetSpec", "selector"),
];

/// What is to be done for objects of one type.
#[derive(Default)]
struct Plan {
    required: Vec<&'static str>,
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
    let mut plans: Vec<Plan> = types.iter().map(plan).collect();
    loop {
        let mut changed = false;
        for (place, object) in types.iter().enumerate() {
            if !plans[place].deep
                && object.fields.values().any(|field| is_deep(&field.schema, &plans))
            {
                plans[place].deep = true;
                changed = true;
            }
        }
        if !changed {
            return plans;
        }
    }
}

fn plan(object: &'static ObjectType) -> Plan {
    let counts = |name: &str, schema: &Schema| {
        let number =
            matches!(schema.shape, Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double);
        !number && !OPTIONAL.contains(&(object.name.as_str(), name))
    };
    let required = object
        .fields
        .iter()
        .filter(|(name, field)| field.required && counts(name, &field.schema))
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>();
    let rule = rules::of(&object.name);
    let enums = object.fields.values().any(|field| !field.schema.allowed.is_empty());
    let deep = !required.is_empty() || rule.is_some() || enums;
    Plan { required, rule, deep }
}

fn is_deep(schema: &Schema, plans: &[Plan]) -> bool {
    match &schema.shape {
        Shape::Object(ObjectRef::Builtin(place)) => plans[*place].deep,
        Shape::List(item) | Shape::Map(item) => is_deep(item, plans),
        _ => false,
    }
}

/// Checks a value and all below it.
pub fn value(path: &Path<'_>, value: &Value, schema: &Schema, causes: &mut Vec<Cause>) {
    if causes.len() > super::MOST {
        return;
    }
    match (&schema.shape, value) {
        (Shape::Object(ObjectRef::Builtin(place)), Value::Object(found)) => {
            if plans()[*place].deep {
                object(path, found, *place, causes);
            }
        }
        (Shape::List(item), Value::Array(list)) => {
            for (at, one) in list.iter().enumerate() {
                let here = path.index(at);
                allowed(&here, one, &schema.allowed, causes);
                self::value(&here, one, item, causes);
            }
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (key, one) in map {
                self::value(&path.key(key), one, item, causes);
            }
        }
        _ => allowed(path, value, &schema.allowed, causes),
    }
}

fn object(path: &Path<'_>, found: &Map<String, Value>, place: usize, causes: &mut Vec<Cause>) {
    let plan = &plans()[place];
    for name in &plan.required {
        let missing = match found.get(*name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if missing {
            causes.push(Cause::required(path.field(name), ""));
        }
    }
    if let Some(rule) = plan.rule {
        rule(path, found, causes);
    }
    let types = facts::types().at(place);
    for (name, one) in found {
        // A status is what controllers saw, and an object's own metadata is checked already.
        let is_root = path.parent().is_none();
        if is_root && matches!(name.as_str(), "status" | "metadata") {
            continue;
        }
        if let Some(field) = types.fields.get(name) {
            value(&path.field(name), one, &field.schema, causes);
        }
    }
}

fn allowed(path: &Path<'_>, value: &Value, allowed: &[String], causes: &mut Vec<Cause>) {
    if let (Value::String(text), false) = (value, allowed.is_empty())
        && !text.is_empty()
        && !allowed.contains(text)
    {
        causes.push(Cause::not_supported(path, &json!(text), allowed));
    }
}
