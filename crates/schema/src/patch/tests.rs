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
        json!({}),
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
