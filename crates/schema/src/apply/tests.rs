//! The cases that a server-side apply has to get right.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Catalog;

const T0: &str = "2026-01-01T00:00:00Z";
const T1: &str = "2026-01-02T00:00:00Z";

fn resource(plural: &str) -> std::sync::Arc<Resource> {
    let group = if plural == "deployments" { "apps" } else { "" };
    Catalog::builtin().resource(group, "v1", plural).unwrap().clone()
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn pod(containers: Value) -> Value {
    let spec = json!({"containers": containers});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn apply_as(
    plural: &str,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
) -> Result<Value, ApplyError> {
    apply(&resource(plural), live, applied, manager, false, None, T0)
}

fn conflicts(result: Result<Value, ApplyError>) -> Vec<String> {
    match result {
        Err(ApplyError::Conflicts(all)) => {
            all.into_iter().map(|one| format!("{} {}", one.manager, one.field)).collect()
        }
        other => panic!("no conflict: {other:?}"),
    }
}

fn fields_of(object: &Value, manager: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    let found = list.iter().find(|one| one["manager"] == manager);
    found.map_or(Value::Null, |one| one["fieldsV1"].clone())
}

#[test]
fn the_applier_owns_what_it_names() {
    let ports = json!([{"containerPort": 80}]);
    let mut config = pod(json!([{"name": "a", "image": "1", "args": ["x"], "ports": ports}]));
    config["metadata"]["labels"] = json!({"l": "1"});
    config["metadata"]["finalizers"] = json!(["f"]);
    let live = apply_as("pods", None, &config, "me").unwrap();
    assert_eq!(
        fields_of(&live, "me"),
        json!({
            "f:metadata": {"f:labels": {"f:l": {}}, "f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {
                ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                    ".": {}, "f:containerPort": {},
                }},
            }}},
        })
    );
    let entry = &live["metadata"]["managedFields"][0];
    assert_eq!(
        (entry["operation"].as_str(), entry["apiVersion"].as_str()),
        (Some("Apply"), Some("v1"))
    );
}

#[test]
fn applying_again_changes_nothing() {
    let config = pod(json!([{"name": "a", "image": "1"}]));
    let live = apply_as("pods", None, &config, "me").unwrap();
    let again = apply(&resource("pods"), Some(&live), &config, "me", false, None, T1).unwrap();
    assert_eq!(live, again);
}

#[test]
fn what_others_own_is_a_conflict_unless_it_is_the_same() {
    let config = deployment(json!({"replicas": 1, "paused": true}));
    let live = apply_as("deployments", None, &config, "one").unwrap();
    let mine = deployment(json!({"replicas": 2}));
    let wrong = apply_as("deployments", Some(&live), &mine, "two");
    let sentence = wrong.clone().unwrap_err().to_string();
    assert_eq!(sentence, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    assert_eq!(conflicts(wrong), ["\"one\" .spec.replicas"]);
    let same = deployment(json!({"replicas": 1}));
    let shared = apply_as("deployments", Some(&live), &same, "two").unwrap();
    assert_eq!(fields_of(&shared, "two"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&shared, "one")["f:spec"]["f:replicas"], json!({}));
    let forced =
        apply(&resource("deployments"), Some(&live), &mine, "two", true, None, T1).unwrap();
    assert_eq!(forced["spec"], json!({"replicas": 2, "paused": true}));
    assert_eq!(fields_of(&forced, "one"), json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn what_an_applier_drops_goes_unless_another_owns_it() {
    let both = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    let live = apply_as("pods", None, &pod(both), "me").unwrap();
    let mut defaulted = live.clone();
    defaulted["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let only = pod(json!([{"name": "a", "image": "1"}]));
    let less = apply_as("pods", Some(&defaulted), &only, "me").unwrap();
    assert_eq!(less["spec"]["containers"], json!([{"name": "a", "image": "1"}]));

    let other = pod(json!([{"name": "b", "imagePullPolicy": "Always"}]));
    let shared = apply_as("pods", Some(&live), &other, "other").unwrap();
    let less = apply_as("pods", Some(&shared), &only, "me").unwrap();
    assert_eq!(
        less["spec"]["containers"],
        json!([{"name": "a", "image": "1"}, {"name": "b", "imagePullPolicy": "Always"}])
    );
    let none = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let gone = apply_as("pods", Some(&less), &none, "other").unwrap();
    assert_eq!(fields_of(&gone, "other"), Value::Null);
    assert_eq!(gone["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
}

#[test]
fn a_dropped_object_goes_with_its_defaults_and_metadata_stays() {
    let probe = json!([{"name": "a", "livenessProbe": {"httpGet": {"port": 80}}}]);
    let mut config = pod(probe);
    config["metadata"]["labels"] = json!({"l": "1"});
    let mut live = apply_as("pods", None, &config, "me").unwrap();
    live["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = json!(10);
    live["metadata"]["uid"] = json!("u");
    let less = apply_as("pods", Some(&live), &pod(json!([{"name": "a"}])), "me").unwrap();
    assert_eq!(less["spec"]["containers"], json!([{"name": "a"}]));
    assert_eq!(less["metadata"]["uid"], "u");
    assert_eq!(less["metadata"]["name"], "p");
    assert!(less["metadata"].get("labels").is_none());
}

#[test]
fn atomic_lists_and_maps_are_one_value() {
    let with = |args: Value| pod(json!([{"name": "a", "args": args}]));
    let live = apply_as("pods", None, &with(json!(["x"])), "one").unwrap();
    let wrong = apply_as("pods", Some(&live), &with(json!(["x", "y"])), "two");
    assert_eq!(conflicts(wrong), ["\"one\" .spec.containers[name=\"a\"].args"]);
    let selector = |labels: Value| deployment(json!({"selector": {"matchLabels": labels}}));
    let live = apply_as("deployments", None, &selector(json!({"a": "1"})), "one").unwrap();
    assert_eq!(fields_of(&live, "one"), json!({"f:spec": {"f:selector": {}}}));
    let wrong = apply_as("deployments", Some(&live), &selector(json!({"b": "1"})), "two");
    assert_eq!(conflicts(wrong), ["\"one\" .spec.selector"]);
}

#[test]
fn sets_and_granular_maps_are_shared() {
    let with = |finalizers: Value, labels: Value| {
        let mut one = pod(json!([{"name": "a"}]));
        one["metadata"]["finalizers"] = finalizers;
        one["metadata"]["labels"] = labels;
        one
    };
    let one = with(json!(["a"]), json!({"a": "1"}));
    let live = apply_as("pods", None, &one, "one").unwrap();
    let two = with(json!(["b"]), json!({"b": "1"}));
    let live = apply_as("pods", Some(&live), &two, "two").unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["a", "b"]));
    assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "1"}));
    let live = apply_as("pods", Some(&live), &pod(json!([{"name": "a"}])), "one").unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["b"]));
    assert_eq!(live["metadata"]["labels"], json!({"b": "1"}));
}

#[test]
fn ports_are_told_apart_by_number_and_protocol() {
    let with = |ports: Value| pod(json!([{"name": "a", "ports": ports}]));
    let live = with(json!([{"containerPort": 53, "protocol": "UDP"}]));
    let live = apply_as("pods", None, &live, "one").unwrap();
    let tcp = with(json!([{"containerPort": 53}]));
    let live = apply_as("pods", Some(&live), &tcp, "two").unwrap();
    assert_eq!(live["spec"]["containers"][0]["ports"].as_array().unwrap().len(), 2);
    let twice = with(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "TCP"}]));
    assert!(matches!(apply_as("pods", None, &twice, "x"), Err(ApplyError::Malformed(_))));
    let unnamed = pod(json!([{"image": "1"}]));
    assert!(matches!(apply_as("pods", None, &unnamed, "x"), Err(ApplyError::Malformed(_))));
}

#[test]
fn updates_are_tracked_and_take_fields_over() {
    let deployments = resource("deployments");
    let mut live = deployment(json!({"replicas": 1, "paused": false}));
    track(&deployments, None, &mut live, "create", None, T0);
    let spec = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
    assert_eq!(fields_of(&live, "create"), spec);
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    track(&deployments, Some(&live), &mut scaled, "scaler", None, T1);
    assert_eq!(fields_of(&scaled, "create"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(fields_of(&scaled, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    let mine = deployment(json!({"replicas": 2}));
    let wrong = apply_as("deployments", Some(&scaled), &mine, "me");
    assert_eq!(conflicts(wrong), ["\"scaler\" using apps/v1 .spec.replicas"]);
    let mut unset = scaled.clone();
    unset["spec"].as_object_mut().unwrap().remove("replicas");
    track(&deployments, Some(&scaled), &mut unset, "create", None, T1);
    assert_eq!(fields_of(&unset, "scaler"), Value::Null);
}

#[test]
fn a_write_that_changes_nothing_leaves_no_trace() {
    let deployments = resource("deployments");
    let mut live = deployment(json!({"replicas": 1}));
    track(&deployments, None, &mut live, "create", None, T0);
    let mut same = live.clone();
    track(&deployments, Some(&live), &mut same, "create", None, T1);
    assert_eq!(same, live);
    let mut bare = deployment(json!({"replicas": 1}));
    track(&deployments, Some(&live), &mut bare, "other", None, T1);
    assert_eq!(bare, live);
}

#[test]
fn status_belongs_to_those_who_come_by_its_door() {
    let deployments = resource("deployments");
    let mut live = deployment(json!({"replicas": 1}));
    live["status"] = json!({"replicas": 0});
    track(&deployments, None, &mut live, "create", None, T0);
    assert!(fields_of(&live, "create").get("f:status").is_none());
    let mut ready = live.clone();
    ready["status"] = json!({"replicas": 1, "conditions": [{"type": "Available"}]});
    track(&deployments, Some(&live), &mut ready, "controller", Some("status"), T1);
    let entry = &ready["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"]["f:status"]["f:conditions"],
        json!({".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:type": {}}})
    );
}

#[test]
fn entries_can_be_cleared_and_never_brought_to_an_apply() {
    let deployments = resource("deployments");
    let mut live = deployment(json!({"replicas": 1}));
    track(&deployments, None, &mut live, "create", None, T0);
    let mut cleared = live.clone();
    cleared["metadata"]["managedFields"] = json!([{}]);
    track(&deployments, Some(&live), &mut cleared, "create", None, T0);
    assert!(cleared["metadata"].get("managedFields").is_none());
    assert!(matches!(apply_as("deployments", None, &live, "x"), Err(ApplyError::Malformed(_))));
    let mine = deployment(json!({"replicas": 2}));
    let wrong = conflicts(apply_as("deployments", Some(&cleared), &mine, "me"));
    assert_eq!(wrong, ["\"before-first-apply\" using apps/v1 .spec.replicas"]);
}

#[test]
fn old_updates_are_joined() {
    let configs = resource("configmaps");
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    for at in 0..15 {
        let mut new = live.clone();
        new["data"][format!("k{at}")] = json!("1");
        let now = format!("2026-01-01T00:00:{at:02}Z");
        let old = Some(&live).filter(|_| at > 0);
        track(&configs, old, &mut new, &format!("m{at}"), None, &now);
        live = new;
    }
    assert_eq!(live["metadata"]["managedFields"].as_array().unwrap().len(), MOST);
    assert_eq!(fields_of(&live, "ancient-changes")["f:data"]["f:k0"], json!({}));
}
const MOST: usize = 10;

#[test]
fn lists_keep_their_order() {
    let named =
        |names: &[&str]| -> Value { pod(names.iter().map(|name| json!({"name": name})).collect()) };
    for (live, applied, expected) in [
        (&["a", "b"][..], &["b", "a"][..], &["b", "a"][..]),
        (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
        (&["x", "a"], &["a", "n"], &["x", "a", "n"]),
        (&["a", "b"], &["n", "b"], &["a", "n", "b"]),
        (&[], &["a", "b"], &["a", "b"]),
    ] {
        let mut base = named(live);
        track(&resource("pods"), None, &mut base, "create", None, T0);
        let new = apply_as("pods", Some(&base), &named(applied), "me").unwrap();
        assert_eq!(new["spec"], named(expected)["spec"], "{live:?} {applied:?}");
    }
}

fn config() -> impl Strategy<Value = Value> {
    let ports = prop::collection::btree_set(80_u16..84, 0..3).prop_map(|ports| {
        ports.into_iter().map(|port| json!({"containerPort": port})).collect::<Vec<_>>()
    });
    let containers = prop::collection::btree_map("[a-d]", (ports, "[0-3]"), 0..4).prop_map(|all| {
        let each = all.into_iter().map(|(name, (ports, image))| {
            let mut one = json!({"name": name, "image": image});
            if !ports.is_empty() {
                one["ports"] = ports.into();
            }
            one
        });
        each.collect::<Vec<Value>>()
    });
    (containers, prop::collection::btree_map("[a-c]", "[0-2]", 0..3)).prop_map(|(all, labels)| {
        let mut one = pod(all.into());
        if !labels.is_empty() {
            one["metadata"]["labels"] = json!(labels);
        }
        one
    })
}

proptest! {
    #[test]
    fn applying_the_same_twice_is_applying_it_once(first in config(), second in config()) {
        let pods = resource("pods");
        let live = apply(&pods, None, &first, "one", false, None, T0).unwrap();
        let once = apply(&pods, Some(&live), &second, "two", true, None, T0).unwrap();
        let twice = apply(&pods, Some(&once), &second, "two", false, None, T1).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_lone_applier_gets_what_it_says(first in config(), second in config()) {
        let pods = resource("pods");
        let live = apply(&pods, None, &first, "one", false, None, T0).unwrap();
        let new = apply(&pods, Some(&live), &second, "one", false, None, T1).unwrap();
        let fresh = apply(&pods, None, &second, "one", false, None, T1).unwrap();
        if second != first {
            prop_assert_eq!(new["metadata"].get("labels"), fresh["metadata"].get("labels"));
            let spec = |one: &Value| one["spec"]["containers"].clone();
            // An empty list is no field that anyone owns: it goes with what was in it.
            let count = |one: &Value| spec(one).as_array().map_or(0, Vec::len);
            prop_assert_eq!(count(&new), count(&fresh));
            for container in spec(&fresh).as_array().into_iter().flatten() {
                prop_assert!(spec(&new).as_array().is_some_and(|all| all.contains(container)));
            }
        }
    }

    #[test]
    fn field_sets_are_read_as_they_were_written(one in config(), two in config()) {
        let pods = resource("pods");
        let (one, two) = (fields::of(&one, Some(&pods.schema)), fields::of(&two, Some(&pods.schema)));
        let mut all = one.clone();
        all.absorb(two.clone());
        prop_assert_eq!(&Set::from_fields(&all.clone().into_fields()), &all);
        let mut rest = all.clone();
        rest.subtract(&one);
        rest.subtract(&two);
        prop_assert!(rest.is_empty());
        prop_assert_eq!(&one.intersection(&all), &one);
        prop_assert_eq!(&all.intersection(&two), &two);
        all.keep(&one);
        prop_assert_eq!(all, one);
    }

    #[test]
    fn the_short_way_to_note_a_change_ends_where_the_long_one_does(
        writes in prop::collection::vec((config(), 0..3_usize, any::<bool>()), 2..8),
    ) {
        let pods = resource("pods");
        let mut live: Option<Value> = None;
        for (at, (mut new, who, on_status)) in writes.into_iter().enumerate() {
            let (manager, now) = (["a", "b", "c"][who], format!("2026-01-01T00:00:{at:02}Z"));
            let subresource = (on_status && live.is_some()).then_some("status");
            if let (Some("status"), Some(live)) = (subresource, &live) {
                let phase = new["spec"]["containers"].as_array().map_or(0, Vec::len);
                new = live.clone();
                new["status"] = json!({"phase": phase.to_string()});
            }
            let list = live.as_ref().and_then(|live| live["metadata"]["managedFields"].as_array());
            let list = list.cloned().unwrap_or_default();
            // As the long way has it, with the sets read and written.
            let empty = json!({});
            let mut before = live.clone().unwrap_or(empty);
            managers::strip(&mut before);
            let mut long = new.clone();
            managers::strip(&mut long);
            let changes = compare::values(&before, &long, Some(&pods.schema));
            let removed = changes.removed.clone();
            let mut changed = changes.changed();
            owned(&mut changed, &pods, subresource);
            let mut all = Managers::of_list(&list, &pods.schema);
            let own = all.take_update(manager, subresource, "v1");
            all.lose(&changed);
            all.lose(&removed);
            let time = match &own {
                Some(own) if changed.is_empty() => own.time.clone(),
                _ => now.clone(),
            };
            let mut has = own.map(|own| own.set).unwrap_or_default();
            has.subtract_deep(&removed);
            has.absorb(changed);
            all.set(manager, Operation::Update, "v1", subresource, has, &time);
            all.join_old();
            if live.is_none() || !list.is_empty() {
                all.write(&mut long);
            }

            track(&pods, live.as_ref(), &mut new, manager, subresource, &now);
            prop_assert_eq!(&new, &long);
            live = Some(new);
        }
    }
}
