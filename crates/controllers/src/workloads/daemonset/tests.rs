//! Nodes and pods, and what a DaemonSet does about them.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2030-01-01T00:10:00Z".parse().expect("a time")
}

fn set(strategy: serde_json::Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "log", "namespace": "default", "uid": "d1", "generation": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}
        }
    }))
    .expect("a DaemonSet")
}

fn node(name: &str, disk: &str, taints: serde_json::Value) -> Arc<Node> {
    let value = json!({
        "metadata": {"name": name, "labels": {"disk": disk}}, "spec": {"taints": taints}
    });
    Arc::new(serde_json::from_value(value).expect("a node"))
}

fn nodes() -> Vec<Arc<Node>> {
    ["n1", "n2", "n3"].map(|name| node(name, "ssd", json!([]))).to_vec()
}

fn pod(set: &DaemonSet, name: &str, node: &str, hash: Option<&str>, ready: bool) -> Arc<Pod> {
    let current = check(set, &[], &[]).history;
    let mut pod = pod_for(set, history::hash_of(&current.current), node).expect("a template");
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    if let Some(hash) = hash {
        pod.metadata.labels.get_or_insert_default().insert(HASH.into(), hash.into());
    }
    pod.spec.get_or_insert_default().node_name = Some(node.into());
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    pod.status = serde_json::from_value(status).ok();
    Arc::new(pod)
}

fn check(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
    plan(&Snapshot { set, nodes, pods, revisions: &[] }, now())
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[test]
fn every_node_that_fits_gets_one_pod() {
    let set = set(json!({}));
    let taint = |effect: &str| json!([{"key": "k", "effect": effect}]);
    let mut nodes = nodes();
    nodes.push(node("hdd", "hdd", json!([])));
    nodes.push(node("tainted", "ssd", taint("NoSchedule")));
    nodes.push(node(
        "cordoned",
        "ssd",
        json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]),
    ));
    let plan = check(&set, &nodes, &[pod(&set, "a", "n1", None, true)]);
    assert_eq!(plan.create, ["cordoned", "n2", "n3"]);
    let status = plan.status.expect("a status");
    assert_eq!((status.desired_number_scheduled, status.number_ready), (4, 1));
}

#[test]
fn a_pod_leaves_a_node_that_no_longer_fits_but_not_for_no_schedule() {
    let set = set(json!({}));
    let nodes = [
        node("n1", "hdd", json!([])),
        node("n2", "ssd", json!([{"key": "k", "effect": "NoSchedule"}])),
        node("n3", "ssd", json!([{"key": "k", "effect": "NoExecute"}])),
    ];
    let pods = ["n1", "n2", "n3"].map(|node| pod(&set, node, node, None, true));
    assert_eq!(names(&check(&set, &nodes, &pods).delete), ["n1", "n3"]);
}

#[test]
fn pods_of_an_old_template_go_as_many_at_a_time_as_allowed() {
    let check_strategy = |strategy, ready: [bool; 3], deleted: &[&str], created: &[&str]| {
        let set = set(strategy);
        let pods: Vec<_> = ["n1", "n2", "n3"]
            .iter()
            .zip(ready)
            .map(|(node, ready)| pod(&set, node, node, Some("old"), ready))
            .collect();
        let plan = check(&set, &nodes(), &pods);
        assert_eq!(names(&plan.delete), deleted);
        assert_eq!(plan.create, created);
    };
    let rolling =
        |field: &str, value: i32| json!({"type": "RollingUpdate", "rollingUpdate": {field: value}});
    check_strategy(json!({}), [true; 3], &["n1"], &[]);
    check_strategy(rolling("maxUnavailable", 2), [true; 3], &["n1", "n2"], &[]);
    check_strategy(json!({}), [true, false, true], &["n2"], &[]);
    check_strategy(json!({"type": "OnDelete"}), [true; 3], &[], &[]);
    let surge =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
    check_strategy(surge, [true; 3], &[], &["n1", "n2"]);
}

#[test]
fn in_a_surge_the_old_pod_goes_when_the_new_one_is_available() {
    let set = set(
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
    );
    let nodes = &nodes()[..1];
    let old = pod(&set, "old", "n1", Some("old"), true);
    let waiting = check(&set, nodes, &[old.clone(), pod(&set, "new", "n1", None, false)]);
    assert!(waiting.delete.is_empty() && waiting.create.is_empty());
    let plan = check(&set, nodes, &[old, pod(&set, "new", "n1", None, true)]);
    assert_eq!(names(&plan.delete), ["old"]);
}

#[test]
fn a_template_is_kept_as_a_revision_that_undo_can_send() {
    let set = set(json!({}));
    let history = check(&set, &[], &[]).history;
    assert!(history.write && history.current.revision == 1);
    let mut other = history.current.clone();
    let data = other.data.as_mut().expect("data");
    assert_eq!(data.0["spec"]["template"]["$patch"], "replace");
    data.0["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    other.metadata.name = Some("log-other".into());
    other.revision = 7;
    let revisions = [other, history.current];
    let snapshot = Snapshot { set: &set, nodes: &[], pods: &[], revisions: &revisions };
    let again = plan(&snapshot, now()).history;
    assert!(again.write && again.current.revision == 8, "its number rises");
}

#[test]
fn a_failed_pod_is_replaced_but_not_at_once() {
    let set = set(json!({}));
    let mut failed = (*pod(&set, "f", "n1", None, false)).clone();
    failed.status.get_or_insert_default().phase = Some("Failed".into());
    let at = |text: &str| {
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(text.parse().expect("a time")))
    };
    failed.metadata.creation_timestamp = at("2030-01-01T00:09:59Z");
    let young = check(&set, &nodes()[..1], &[Arc::new(failed.clone())]);
    assert!(young.delete.is_empty() && young.again.is_some());
    failed.metadata.creation_timestamp = at("2030-01-01T00:00:00Z");
    assert_eq!(names(&check(&set, &nodes()[..1], &[Arc::new(failed)]).delete), ["f"]);
}
