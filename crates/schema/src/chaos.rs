//! Every kind, with objects made at random along its schema, through everything there is: nothing
//! panics, and what should change nothing changes nothing.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::schema::{Schema, Shape};
use crate::table::{self, IncludeObject};
use crate::{Catalog, FieldValidation, Resource, apply, patch};

const NOW: &str = "2026-01-01T00:00:00Z";

/// A small generator of its own, so that a failure is one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let sides = u64::try_from(words.len()).unwrap();
        words[usize::try_from(self.roll(sides)).unwrap()]
    }
}

/// A value that mostly fits a schema.
fn value(dice: &mut Dice, schema: &Schema, depth: u32) -> Value {
    if dice.roll(400) == 0 {
        return [json!(null), json!("x"), json!(-1), json!([]), json!({}), json!(1.5)]
            [usize::try_from(dice.roll(6)).unwrap()]
        .clone();
    }
    if !schema.allowed.is_empty() && schema.item().is_none() {
        let words: Vec<&str> = schema.allowed.iter().map(String::as_str).collect();
        return json!(dice.pick(&words));
    }
    let many = if depth > 7 { 1 } else { dice.roll(3) };
    match &schema.shape {
        Shape::Bool => json!(dice.roll(2) == 0),
        Shape::Int32 | Shape::Int64 => json!(dice.roll(100)),
        Shape::Double => json!(0.5),
        Shape::String => {
            json!(dice.pick(&["a", "b-1", "c.d/e", "", "Upper", "10.0.0.1", "/x", "%"]))
        }
        Shape::Bytes => json!(dice.pick(&["", "YQ==", "YWI="])),
        Shape::Time | Shape::MicroTime => json!("2026-01-01T00:00:00.5Z"),
        Shape::Quantity => json!(dice.pick(&["1", "500m", "1Gi", "0.1", "1e3", "-2"])),
        Shape::IntOrString => {
            [json!(80), json!("25%"), json!("http")][usize::try_from(dice.roll(3)).unwrap()].clone()
        }
        Shape::Any => json!({"any": [1, null]}),
        Shape::Raw | Shape::Fields => json!({"f:x": {}}),
        Shape::List(item) => (0..many).map(|_| value(dice, item, depth + 1)).collect(),
        Shape::Map(item) => {
            (0..many).map(|at| (format!("k{at}"), value(dice, item, depth + 1))).collect()
        }
        Shape::Object(object) => {
            let mut fields = Map::new();
            for (name, field) in &object.get().fields {
                let wanted = if field.required { 10 } else { 3 };
                if name != "managedFields" && dice.roll(12) < wanted && depth < 9 {
                    fields.insert(name.clone(), value(dice, &field.schema, depth + 1));
                }
            }
            Value::Object(fields)
        }
    }
}

fn object(dice: &mut Dice, resource: &Resource) -> Option<Value> {
    let mut made = value(dice, &resource.schema, 0);
    let fields = made.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), json!(resource.api_version()));
    fields.insert("kind".to_owned(), json!(resource.kind));
    let read = crate::retype(resource, made, FieldValidation::Ignore).ok()?;
    let again = crate::retype(resource, read.object.clone(), FieldValidation::Strict);
    assert_eq!(again.unwrap().object, read.object, "reading again changes nothing");
    let mut object = read.object;
    crate::default(resource, &mut object);
    let mut twice = object.clone();
    crate::default(resource, &mut twice);
    assert_eq!(twice, object, "defaulting again changes nothing");
    Some(object)
}

fn run(resource: &Resource, seed: u64) {
    let mut dice = Dice(seed);
    let (Some(one), Some(two)) = (object(&mut dice, resource), object(&mut dice, resource)) else {
        return;
    };
    drop(crate::validate(resource, &one, None, None));
    drop(crate::validate(resource, &two, Some(&one), None));
    let now: Timestamp = NOW.parse().unwrap();
    let objects = [one.clone(), two.clone()];
    let shown =
        table::render(resource, &objects, IncludeObject::Object, "v1", now, json!({}), false);
    assert_eq!(shown["rows"].as_array().map(Vec::len), Some(2));
    if let Ok(patched) = patch::strategic(resource, &one, &two) {
        let again = patch::strategic(resource, &patched, &two).unwrap();
        assert_eq!(again, patched, "a patch twice is a patch once");
    }
    let mut live = one;
    apply::track(resource, None, &mut live, "maker", None, NOW);
    let mut same = live.clone();
    apply::track(resource, Some(&live), &mut same, "maker", None, "2026-01-02T00:00:00Z");
    assert_eq!(same, live, "a write of the same leaves no trace");
    if let Ok(once) = apply::apply(resource, Some(&live), &two, "me", true, None, NOW) {
        let again =
            apply::apply(resource, Some(&once), &two, "me", false, None, "2026-01-02T00:00:00Z");
        // Of an object that nobody owns anything of, the next apply notes what was there before.
        if once["metadata"]["managedFields"].is_array() {
            assert_eq!(again.unwrap(), once, "applying again changes nothing");
        }
        let mut changed = once.clone();
        apply::track(resource, Some(&live), &mut changed, "other", Some("status"), NOW);
    }
    let mut stored = two.clone();
    crate::to_storage(resource, &mut stored);
    crate::from_storage(resource, &mut stored);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_kind_goes_through_everything(seed in 1_u64..) {
        for resource in Catalog::builtin().resources() {
            run(resource, seed);
        }
    }
}
