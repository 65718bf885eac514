//! Pods as they stand, and which are made or deleted.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2030-01-01T00:10:00Z".parse().expect("a time")
}

fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s1", "generation": 4},
        "spec": {
            "replicas": replicas, "minReadySeconds": min_ready,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
        }
    }))
    .expect("a set")
}

fn pod(
    name: &str,
    owner: Option<&str>,
    labels: serde_json::Value,
    phase: &str,
    ready: bool,
) -> Arc<Pod> {
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}])
    });
    let status = if ready { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": labels, "ownerReferences": owners},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2030-01-01T00:09:50Z"}]}
        }))
        .expect("a pod"),
    )
}

fn ours(name: &str) -> Arc<Pod> {
    pod(name, Some("s1"), json!({"app": "web"}), "Running", true)
}

fn check(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Plan {
    let siblings = BTreeSet::from(["s1".to_owned()]);
    plan(&Snapshot { set, pods, siblings: &siblings }, now())
}

#[test]
fn it_makes_what_is_missing_and_removes_what_is_too_much() {
    assert_eq!(check(&set(3, 0), &[ours("a")]).create, 2);
    assert_eq!(check(&set(1, 0), &[ours("a")]).create, 0);
    assert_eq!(check(&set(0, 0), &[ours("a"), ours("b")]).delete.len(), 2);
    assert_eq!(check(&set(100_000, 0), &[]).create, BURST);
}

#[test]
fn finished_and_ending_pods_do_not_count() {
    let failed = pod("f", Some("s1"), json!({"app": "web"}), "Failed", false);
    let mut ending = (*ours("e")).clone();
    ending.metadata.deletion_timestamp = Some(Time(now()));
    let plan = check(&set(2, 0), &[failed, Arc::new(ending), ours("a")]);
    assert_eq!(plan.create, 1);
    assert_eq!(plan.status.expect("a status").terminating_replicas, Some(1));
}

#[test]
fn orphans_are_adopted_and_relabelled_pods_released() {
    let orphan = pod("o", None, json!({"app": "web"}), "Running", true);
    let foreign = pod("x", Some("s2"), json!({"app": "web"}), "Running", true);
    let renamed = pod("r", Some("s1"), json!({"app": "other"}), "Running", true);
    let plan = check(&set(2, 0), &[orphan.clone(), foreign, renamed.clone()]);
    assert_eq!((plan.adopt, plan.release, plan.create), (vec![orphan], vec![renamed], 1));
}

#[test]
fn a_pod_is_available_once_it_was_ready_long_enough() {
    let plan = check(&set(1, 30), &[ours("a")]);
    let status = plan.status.expect("a status");
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), Some(0)));
    assert_eq!(plan.again, Some(Duration::from_millis(20_020)));
    let status = check(&set(1, 10), &[ours("a")]).status.expect("a status");
    assert_eq!(status.available_replicas, Some(1));
    assert_eq!(status.observed_generation, Some(4));
}

#[test]
fn a_set_on_its_way_out_makes_nothing() {
    let mut leaving = set(3, 0);
    leaving.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(check(&leaving, &[]).create, 0);
}

#[test]
fn a_failure_stands_in_the_status_until_it_is_over() {
    let failure = Some(("FailedCreate", "quota".to_owned()));
    let failed = with_outcome(ReplicaSetStatus::default(), failure.clone(), now());
    let later = "2030-01-01T01:00:00Z".parse().expect("a time");
    assert_eq!(with_outcome(failed.clone(), failure, later), failed);
    assert_eq!(with_outcome(failed, None, later).conditions, None);
}
