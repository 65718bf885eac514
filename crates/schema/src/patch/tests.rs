//! Tables of patches.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Catalog;

fn patched(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let catalog = Catalog::builtin();
    let resource = catalog.resource("apps", "v1", "deployments").unwrap();
    super::strategic(resource, current, patch)
}

/// Patches a pod template's spec.
fn check(current: Value, patch: Value, expected: Value) {
    let wrap = |spec: &Value| json!({"spec": {"template": {"spec": spec}}});
    let found = patched(&wrap(&current), &wrap(&patch)).unwrap();
    assert_eq!(found["spec"]["template"]["spec"], expected, "{current} with {patch}");
}

#[test]
fn lists_merge_by_their_key() {
    let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
    check(
        two.clone(),
        json!({"containers": [{"name": "b", "image": "2"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
    );
    check(
        two.clone(),
        json!({"containers": [{"name": "c", "image": "3"}]}),
        json!({"containers": [
            {"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "1"},
        ]}),
    );
    check(
        two.clone(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "1"}]}),
    );
    check(
        two,
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "x"}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 81}]}]}),
        json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 81}, {"containerPort": 80, "name": "x"},
        ]}]}),
    );
}

#[test]
fn the_order_is_the_patchs() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "2"}]}),
        json!({"containers": [{"name": "b"}, {"name": "c", "image": "2"}, {"name": "a"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new", "image": "1"}]}),
        json!({"containers": [{"name": "b"}, {"name": "new", "image": "1"}, {"name": "a"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}],
            "containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
}

#[test]
fn objects_merge_replace_and_retain() {
    check(
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeSelector": {"a": null, "c": "3"}}),
        json!({"nodeSelector": {"b": "2", "c": "3"}}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
        json!({"nodeSelector": {"c": "3"}}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}}),
        json!({"nodeSelector": {"$patch": "delete"}}),
        json!({"nodeSelector": {}}),
    );
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"],
            "configMap": {"name": "x"}}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "x"}}]}),
    );
    let strategy =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"x": 1}}}});
    let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let found = patched(&strategy, &recreate).unwrap();
    assert_eq!(found["spec"]["strategy"], json!({"type": "Recreate"}));
    check(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
}

#[test]
fn lists_of_values_merge_and_shrink() {
    let with = |finalizers| json!({"metadata": {"finalizers": finalizers}});
    let found = patched(&with(json!(["a", "b"])), &with(json!(["c", "b"]))).unwrap();
    assert_eq!(found, with(json!(["c", "a", "b"])));
    let shrink = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(patched(&with(json!(["a", "b"])), &shrink).unwrap(), with(json!(["b"])));
}

#[test]
fn what_is_new_carries_no_directives_or_nulls() {
    check(
        json!({}),
        json!({"containers": [{"name": "a", "image": null, "$retainKeys": ["name"],
            "$setElementOrder/env": [{"name": "X"}], "env": [{"name": "X", "value": "1"}]}]}
        )
        .as_object()
        .map(|one| {
            let mut one = one.clone();
            one["containers"][0]["$retainKeys"] = json!(["name", "env"]);
            Value::Object(one)
        })
        .unwrap(),
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}),
    );
}

#[test]
fn malformed_patches_are_refused() {
    let spec = |inner| json!({"spec": {"template": {"spec": inner}}});
    for patch in [
        json!([]),
        json!({"$patch": "explode"}),
        spec(json!({"containers": [{"image": "1"}]})),
        spec(json!({"containers": ["a"]})),
        spec(json!({"containers": [{"$patch": "delete"}]})),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
        json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
    ] {
        assert!(matches!(patched(&json!({}), &patch), Err(PatchError::Malformed(_))), "{patch}");
    }
}

#[test]
fn json_and_merge_patches() {
    let current = json!({"a": {"b": 1}, "c": [1, 2]});
    let read = |patch: Value| json(&current, patch.to_string().as_bytes());
    let set = json!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "remove", "path": "/c/0"}]);
    assert_eq!(read(set), Ok(json!({"a": {"b": 1}, "c": [2]})));
    let failing = json!([{"op": "test", "path": "/a/b", "value": 2}]);
    assert!(matches!(read(failing), Err(PatchError::Unfit(_))));
    let missing = json!([{"op": "remove", "path": "/x"}]);
    assert!(matches!(read(missing), Err(PatchError::Unfit(_))));
    assert!(matches!(read(json!({})), Err(PatchError::Malformed(_))));
    let many = vec![json!({"op": "test", "path": "/a/b", "value": 1}); MOST_OPERATIONS + 1];
    assert!(matches!(read(Value::from(many)), Err(PatchError::TooMany(_))));
    let merged = merge(&current, br#"{"a":{"b":null,"d":2},"c":[3]}"#);
    assert_eq!(merged, Ok(json!({"a": {"d": 2}, "c": [3]})));
    assert!(merge(&current, b"[]").is_err());
}

fn pod_spec() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[a-c]", "[0-9]", 0..3).prop_map(|pairs| {
        let pairs = pairs.into_iter().map(|(name, value)| json!({"name": name, "value": value}));
        pairs.collect::<Vec<Value>>()
    });
    let containers = prop::collection::btree_map("[a-d]", env, 0..4).prop_map(|pairs| {
        let pairs = pairs.into_iter().map(|(name, env)| json!({"name": name, "env": env}));
        pairs.collect::<Vec<Value>>()
    });
    (containers, prop::collection::btree_map("[a-c]", "[0-9]", 0..3)).prop_map(
        |(containers, labels)| {
            json!({"metadata": {"labels": labels},
                "spec": {"template": {"spec": {"containers": containers}}}})
        },
    )
}

proptest! {
    #[test]
    fn patching_with_itself_changes_nothing(object in pod_spec()) {
        prop_assert_eq!(patched(&object, &object).unwrap(), object);
    }

    #[test]
    fn a_patch_twice_is_a_patch_once(current in pod_spec(), patch in pod_spec()) {
        let once = patched(&current, &patch).unwrap();
        prop_assert_eq!(patched(&once, &patch).unwrap(), once);
    }

    #[test]
    fn the_merge_diff_leads_to_the_other(from in pod_spec(), to in pod_spec()) {
        let diff = json_patch::diff(&from, &to);
        let patch = serde_json::to_vec(&diff).unwrap();
        prop_assert_eq!(json(&from, &patch).unwrap(), to);
    }
}

/// What an operation list makes of `{"x": []}`.
fn json_patched(operations: &Value) -> Result<Value, PatchError> {
    super::json(&json!({"x": [], "text": "x".repeat(1000)}), operations.to_string().as_bytes())
}

#[track_caller]
fn unfit(operations: &Value, why: &str) {
    match json_patched(operations) {
        Err(PatchError::Unfit(said)) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_cannot_double_an_object_without_end() {
    let copy = json!({"op": "copy", "from": "/x", "path": "/x/-"});
    let mut operations = vec![json!({"op": "copy", "from": "/text", "path": "/x/-"})];
    operations.extend(std::iter::repeat_n(copy, 60));
    unfit(&Value::Array(operations.clone()), "accumulated size increase");
    operations.truncate(10);
    assert!(json_patched(&Value::Array(operations)).is_ok());
}

#[test]
fn no_operation_nests_deeper_than_can_be_read() {
    let mut path = "/y/k".to_owned();
    let mut copies = vec![json!({"op": "add", "path": "/y", "value": {"k": {}}})];
    for _ in 0..17 {
        copies.push(json!({"op": "copy", "from": "/y", "path": format!("{path}/k")}));
        path = format!("{path}/k{}", &path[2..]);
    }
    unfit(&Value::Array(copies), "levels deep");
    let mut deep = json!({});
    for _ in 0..60 {
        deep = json!({ "k": deep });
    }
    let leaf = |of: &str| format!("/{of}{}", "/k".repeat(60));
    unfit(
        &json!([
            {"op": "add", "path": "/a", "value": deep.clone()},
            {"op": "add", "path": leaf("a") + "/k", "value": deep.clone()},
        ]),
        "levels deep",
    );
    unfit(
        &json!([
            {"op": "add", "path": "/a", "value": deep.clone()},
            {"op": "add", "path": "/b", "value": deep},
            {"op": "move", "from": "/b", "path": leaf("a") + "/k"},
        ]),
        "levels deep",
    );
}

#[test]
fn long_lists_are_not_shifted_thousands_of_times() {
    let long: Vec<u32> = (0..300_000).collect();
    let mut operations = vec![json!({"op": "add", "path": "/x", "value": long})];
    operations.extend(std::iter::repeat_n(json!({"op": "add", "path": "/x/0", "value": 1}), 9_000));
    unfit(&Value::Array(operations), "long lists");
}

#[test]
fn the_operation_that_fails_is_named() {
    unfit(
        &json!([{"op": "test", "path": "/x", "value": []}, {"op": "remove", "path": "/y"}]),
        "operation '/1' failed at path '/y'",
    );
}

#[test]
fn a_merge_of_two_long_lists_does_not_multiply_them() {
    let env = |prefix: &str| -> Vec<Value> {
        (0..20_000).map(|at| json!({"name": format!("{prefix}{at}"), "value": "1"})).collect()
    };
    let containers = |env: Vec<Value>| json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "env": env}]}}}});
    let started = std::time::Instant::now();
    let merged = patched(&containers(env("a")), &containers(env("b"))).unwrap();
    let env = &merged["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().map(Vec::len), Some(40_000));
    // Comparing each with each took more than a minute.
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}
