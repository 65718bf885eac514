//! What is written is read again the same, for every kind and every field that has a number.

use std::collections::{BTreeSet, HashSet};

use crate::{Catalog, Schema, Shape};
use serde_json::{Map, json};

use super::*;
use crate::protobuf::decode;

/// Alpha fields that were renumbered since 1.36 before anything could set them.
const WITHOUT: [&str; 2] = [
    "core.v1.NodeAllocatableResourceClaimStatus.resources",
    "resource.v1.Device.nodeAllocatableResourceMappings",
];

/// A small generator, so that a failure is one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick(&mut self, values: Value) -> Value {
        let values = values.as_array().unwrap().clone();
        let at = self.roll(values.len() as u64);
        values[usize::try_from(at).unwrap()].clone()
    }
}

/// A value of a kind of field, none of them a zero, which comes back only from a pointer.
fn value(dice: &mut Dice, kind: &str, depth: u32) -> Value {
    let many = dice.roll(2) + 1;
    if let Some(item) = kind.strip_prefix("[]") {
        return (0..many).map(|_| value(dice, item, depth)).collect();
    }
    if let Some(item) = kind.strip_prefix("{}") {
        return (0..many).map(|at| (format!("k{at}"), value(dice, item, depth))).collect();
    }
    match kind {
        "s" => dice.pick(json!(["a", "ünï", "with space"])),
        "b" => dice.pick(json!(["YQ==", "/wA=", "YWI="])),
        "t" => json!(true),
        "i" => dice.pick(json!([1, 127, 128, 300, -1, i64::MAX, i64::MIN])),
        "d" => dice.pick(json!([0.5, -2.25])),
        "quantity" => dice.pick(json!(["1", "500m", "1Gi"])),
        "intstr" => dice.pick(json!([80, -1, "25%"])),
        "time" => dice.pick(json!(["2026-01-01T00:00:00Z", "1969-01-01T00:00:00.250000Z"])),
        "duration" => json!("1500ns"),
        "raw" => dice.pick(json!([{"f:a": {}}, {"any": [1, null]}])),
        "wrap[]s" => json!(["a", "b"]),
        "apiextensions.v1.JSONSchemaPropsOrBool" => json!(true),
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => json!(["a"]),
        "apiextensions.v1.JSONSchemaPropsOrArray" => {
            Value::Object(object(dice, "apiextensions.v1.JSONSchemaProps", depth + 1))
        }
        name => Value::Object(object(dice, name, depth + 1)),
    }
}

fn object(dice: &mut Dice, name: &str, depth: u32) -> Map<String, Value> {
    let mut made = Map::new();
    for field in ordered().get(name).into_iter().flatten() {
        if field.json == "-" {
            made.extend(object(dice, field.kind, depth));
        } else if depth < 5 && dice.roll(10) < 4 {
            made.insert(field.json.to_owned(), value(dice, field.kind, depth));
        }
    }
    made
}

#[test]
fn what_is_written_is_read_as_it_was_for_every_kind() {
    let mut kinds = 0;
    for resource in Catalog::builtin().resources() {
        let api_version = resource.api_version();
        let Some(Form::Message(name)) = form(&api_version, &resource.kind) else { continue };
        kinds += 1;
        for seed in 1..40 {
            let mut made = object(&mut Dice(seed * 7919), &name, 0);
            made.insert("apiVersion".to_owned(), json!(api_version));
            made.insert("kind".to_owned(), json!(resource.kind));
            let made = Value::Object(made);
            let read = decode(&encode(&made).unwrap()).unwrap();
            assert_eq!(read, made, "{name}, seed {seed}");
        }
    }
    assert!(kinds > 50, "{kinds}");
}

/// The JSON names of a message's fields, those of inlined messages too, with their kinds.
fn names(name: &str) -> HashMap<&'static str, &'static str> {
    let mut found = HashMap::new();
    for field in ordered().get(name).into_iter().flatten() {
        match field.json {
            "-" => found.extend(names(field.kind)),
            json => drop(found.insert(json, field.kind)),
        }
    }
    found
}

/// Fields of a schema that its message has no number for; each message is looked at once.
fn missing(schema: &Schema, kind: &str, seen: &mut HashSet<String>, out: &mut BTreeSet<String>) {
    let inner = kind.trim_start_matches("[]").trim_start_matches("{}");
    match &schema.shape {
        Shape::List(item) | Shape::Map(item) => missing(item, inner, seen, out),
        Shape::Object(object) => {
            let names = names(inner);
            if names.is_empty() || !seen.insert(inner.to_owned()) {
                return;
            }
            for (name, field) in &object.get().fields {
                match names.get(name.as_str()) {
                    Some(kind) => missing(&field.schema, kind, seen, out),
                    // The envelope says what an object is.
                    None if matches!(name.as_str(), "apiVersion" | "kind") => {}
                    None => drop(out.insert(format!("{inner}.{name}"))),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_of_every_kind_has_a_number() {
    let (mut unknown, mut lost, mut seen) = (Vec::new(), BTreeSet::new(), HashSet::new());
    for resource in Catalog::builtin().resources() {
        let api_version = resource.api_version();
        match form(&api_version, &resource.kind) {
            Some(Form::Message(name)) => {
                missing(&resource.schema, &name, &mut seen, &mut lost);
            }
            _ => unknown.push(format!("{api_version} {}", resource.kind)),
        }
    }
    assert_eq!(lost.iter().collect::<Vec<_>>(), WITHOUT);
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn lists_and_frames_hold_their_objects() {
    let list = json!({
        "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}],
    });
    let item = |name: &[u8]| [b"\x12\x05\x0a\x03\x0a\x01", name].concat();
    let body = [b"\x0a\x03\x12\x017".to_vec(), item(b"a"), item(b"b")].concat();
    let length = [0x12, u8::try_from(body.len()).unwrap()];
    let head = b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07PodList";
    let expected = [&head[..], &length, &body].concat();
    assert_eq!(encode(&list).unwrap(), expected);

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let frame = watch_frame("ADDED", &pod).unwrap();
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4);
    let inside = encode(&pod).unwrap();
    assert!(frame.ends_with(&inside) && frame[4..].starts_with(b"\x0a\x05ADDED\x12"));

    let discovery = json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": []});
    assert!(encode(&discovery).unwrap().ends_with(b"\x12\x04\x0a\x02v1"));
    assert_eq!(encode(&json!({"major": "1", "minor": "36"})), None, "it comes as JSON");
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget"});
    assert_eq!(encode(&widget), None);
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "code": 404});
    assert!(encode(&status).is_some());
}
