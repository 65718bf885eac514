//! Budgets and pods, and what may be taken away.

use serde_json::{Value, json};

use super::*;

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let mut value = json!({
        "metadata": {"name": "b", "namespace": "default", "generation": 3},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    if !status.is_null() {
        value["status"] = status;
    }
    serde_json::from_value(value).expect("a budget")
}

fn pod(name: &str, owner: Option<(&str, &str)>, ready: bool) -> Arc<Pod> {
    let owners: Vec<Value> = owner
        .iter()
        .map(|(kind, uid)| {
            json!({"apiVersion": "apps/v1", "kind": kind, "name": uid, "uid": uid,
                "controller": true})
        })
        .collect();
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "ownerReferences": owners},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn run(budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Plan {
    let set = json!({
        "metadata": {"name": "r", "uid": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d",
                "controller": true}]},
        "spec": {"replicas": 3, "selector": {}},
    });
    let deployment = json!({
        "metadata": {"name": "d", "uid": "d"},
        "spec": {"replicas": 4, "selector": {}, "template": {}},
    });
    let sets = [Arc::new(serde_json::from_value(set).expect("a set"))];
    let deployments = [Arc::new(serde_json::from_value(deployment).expect("a deployment"))];
    let value = json!({"metadata": {"name": "db", "uid": "db"}, "spec": {"replicas": 4,
        "selector": {}, "serviceName": "db", "template": {}}});
    let stateful_sets = [Arc::new(serde_json::from_value(value).expect("a set"))];
    let snapshot = Snapshot {
        budget,
        pods,
        sets: &sets,
        deployments: &deployments,
        stateful_sets: &stateful_sets,
    };
    plan(&snapshot, moment("00:10:00"))
}

fn moment(time: &str) -> Timestamp {
    format!("2026-01-01T{time}Z").parse().expect("a time")
}

#[test]
fn what_may_go_is_what_is_healthy_above_what_must_stay() {
    let check = |spec: Value, healthy: usize, sick: usize, expected: (i32, i32, i32)| {
        let owner = Some(("ReplicaSet", "r"));
        let pods: Vec<_> = (0..healthy + sick)
            .map(|number| pod(&format!("p{number}"), owner, number < healthy))
            .collect();
        let status = run(&budget(spec.clone(), Value::Null), &pods).status;
        let found = (status.expected_pods, status.desired_healthy, status.disruptions_allowed);
        let expected = (Some(expected.0), Some(expected.1), Some(expected.2));
        assert_eq!(found, expected, "{spec} {healthy} {sick}");
        assert_eq!(status.observed_generation, Some(3));
    };
    check(json!({"minAvailable": 1}), 1, 0, (1, 1, 0));
    check(json!({"minAvailable": 1}), 2, 0, (2, 1, 1));
    check(json!({"minAvailable": 1}), 1, 1, (2, 1, 0));
    check(json!({"minAvailable": "50%"}), 4, 0, (4, 2, 2));
    check(json!({"maxUnavailable": 1}), 4, 0, (4, 3, 1));
    check(json!({"maxUnavailable": 1}), 3, 1, (4, 3, 0));
    check(json!({"maxUnavailable": "30%"}), 4, 0, (4, 2, 2));
    check(json!({"minAvailable": 0}), 0, 0, (0, 0, 0));
}

#[test]
fn a_share_of_what_has_no_size_is_refused() {
    let pods = [pod("p", Some(("Job", "j")), true)];
    let status = run(&budget(json!({"maxUnavailable": 1}), Value::Null), &pods).status;
    let condition = &status.conditions.expect("there is one")[0];
    assert_eq!((condition.reason.as_str(), status.disruptions_allowed), ("SyncFailed", Some(0)));
}

#[test]
fn an_evicted_pod_counts_as_gone_until_the_eviction_is_old() {
    let check = |since: &str, allowed: i32, noted: bool| {
        let status = json!({
            "currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 2,
            "disruptedPods": {"a": format!("2026-01-01T{since}Z"), "gone": "2026-01-01T00:09:59Z"},
        });
        let pods = [pod("a", None, true), pod("b", None, true)];
        let plan = run(&budget(json!({"minAvailable": 1}), status), &pods);
        assert_eq!(plan.status.disruptions_allowed, Some(allowed), "{since}");
        assert_eq!(plan.status.disrupted_pods.is_some(), noted, "{since}");
        assert_eq!(plan.again.is_some(), noted, "{since}");
    };
    check("00:09:50", 0, true);
    check("00:07:00", 1, false);
}

#[test]
fn no_selector_covers_nothing_and_an_empty_one_everything() {
    let check = |selector: Value, expected| {
        let one = budget(json!({"selector": selector}), Value::Null);
        assert_eq!(covers(&one, &pod("a", None, true)), expected);
    };
    check(Value::Null, false);
    check(json!({}), true);
    check(json!({"matchLabels": {"app": "db"}}), false);
}
