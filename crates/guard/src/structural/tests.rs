//! An operator's schema, and objects that keep its rules or break them.

use serde_json::json;

use super::*;

/// A database as an operator would define it.
fn schema() -> Value {
    json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.minReplicas <= self.replicas", "fieldPath": ".replicas",
             "messageExpression": "'at least %d replicas'.format([self.minReplicas])"},
            {"rule": "!has(oldSelf.engine) || has(self.engine)", "message": "engine may not be removed"},
        ],
        "properties": {
            "replicas": {"type": "integer", "default": 1},
            "minReplicas": {"type": "integer", "default": 1},
            "engine": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "engine is immutable", "reason": "FieldValueForbidden"}]},
            "users": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {
                    "name": {"type": "string"},
                    "uid": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}},
            "limits": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "isQuantity(self)", "message": "no quantity"}]}},
            "until": {"type": "string", "format": "date-time", "x-kubernetes-validations": [
                {"rule": "self > timestamp('2020-01-01T00:00:00Z')", "message": "too early"}]},
            "revision": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() ? self > oldSelf.value() : self == 1",
                 "optionalOldSelf": true, "message": "revisions count up from 1"}]},
        },
    }}})
}

fn check(new: Value, old: Option<Value>, expected: &[&str]) {
    let mut faults = Vec::new();
    let rules = Rules::compile(&schema(), "schema", &mut faults).unwrap();
    assert_eq!(faults, []);
    let (new, old) = (json!({"spec": new}), old.map(|old| json!({"spec": old})));
    let found: Vec<String> = rules
        .judge(&new, old.as_ref(), Instant::now())
        .iter()
        .map(|fault| format!("{}: {}", fault.field, fault.message))
        .collect();
    assert_eq!(found, expected, "{new}");
}

#[test]
fn rules_hold_at_every_level() {
    let sized = |more: Value| {
        let mut spec = json!({"replicas": 3, "minReplicas": 2});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    check(sized(json!({})), None, &[]);
    let few = json!({"replicas": 1, "minReplicas": 2});
    check(few.clone(), None, &["spec.replicas: Invalid value: \"object\": at least 2 replicas"]);
    check(few.clone(), Some(few), &[]);
    let mysql = sized(json!({"engine": "mysql"}));
    check(mysql.clone(), None, &[]);
    check(
        mysql.clone(),
        Some(sized(json!({"engine": "postgres"}))),
        &["spec.engine: Forbidden: engine is immutable"],
    );
    check(
        sized(json!({})),
        Some(mysql),
        &["spec: Invalid value: \"object\": engine may not be removed"],
    );
    let users = |a: i64, b: i64| {
        sized(json!({"users": [{"name": "b", "uid": b}, {"name": "a", "uid": a}]}))
    };
    let turned = sized(json!({"users": [{"name": "a", "uid": 1}, {"name": "b", "uid": 2}]}));
    check(users(1, 2), Some(turned.clone()), &[]);
    check(
        users(9, 2),
        Some(turned),
        &["spec.users[1].uid: Invalid value: \"integer\": failed rule: self == oldSelf"],
    );
    check(sized(json!({"limits": {"cpu": "1"}})), None, &[]);
    check(
        sized(json!({"limits": {"cpu": "many"}})),
        None,
        &["spec.limits[cpu]: Invalid value: \"string\": no quantity"],
    );
    let early = "spec.until: Invalid value: \"string\": too early";
    check(sized(json!({"until": "2019-12-31T00:00:00Z"})), None, &[early]);
    check(sized(json!({"until": "2021-12-31T00:00:00Z"})), None, &[]);
    let count = "spec.revision: Invalid value: \"integer\": revisions count up from 1";
    check(sized(json!({"revision": 2})), None, &[count]);
    check(sized(json!({"revision": 2})), Some(sized(json!({"revision": 1}))), &[]);
    check(sized(json!({"revision": 2})), Some(sized(json!({"revision": 2}))), &[count]);
}

#[test]
fn a_rule_that_does_not_compile_is_named_by_its_path() {
    let check = |rule: Value, expected: &[&str]| {
        let schema = json!({"type": "object", "properties": {"list": {"type": "array", "items": {
            "type": "object", "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [rule]}}}});
        let mut faults = Vec::new();
        let _ = Rules::compile(&schema, "s", &mut faults);
        let found: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(found, expected, "{faults:?}");
    };
    let here =
        |field: &str| format!("s.properties[list].items.x-kubernetes-validations[0].{field}");
    check(json!({"rule": "self.n > 0"}), &[]);
    check(json!({"rule": "self.m > 0"}), &[&here("rule")]);
    check(json!({"rule": "self.n >"}), &[&here("rule")]);
    check(json!({"rule": "self.n == oldSelf.n"}), &[&here("rule")]);
    check(json!({"rule": "self.n > 0", "reason": "Nope"}), &[&here("reason")]);
    check(json!({"rule": "self.n > 0", "fieldPath": ".m"}), &[&here("fieldPath")]);
    check(json!({"rule": "self.n > 0", "messageExpression": "1"}), &[&here("messageExpression")]);
    check(json!({"rule": ""}), &[&here("rule")]);
}
