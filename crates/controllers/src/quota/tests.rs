//! Tables of what a namespace uses.

use serde_json::json;

use super::*;

#[test]
fn a_namespace_uses_what_its_objects_count_for() {
    let pod = |cpu: &str, phase: &str| {
        let spec = json!({ "containers": [
            { "name": "a", "resources": { "requests": { "cpu": cpu } } } ] });
        ("", "pods", json!({ "spec": spec, "status": { "phase": phase } }))
    };
    let claim = (
        "",
        "persistentvolumeclaims",
        json!({ "spec": {
        "storageClassName": "local-path", "resources": { "requests": { "storage": "2Gi" } } } }),
    );
    let service = (
        "",
        "services",
        json!({ "spec": {
        "type": "LoadBalancer", "ports": [{ "port": 80, "nodePort": 30000 }] } }),
    );
    let objects =
        [pod("250m", "Running"), pod("1", "Running"), pod("4", "Succeeded"), claim, service];
    let check = |quota: Value, names: &[&str], expected: &[&str]| {
        let found = total(&quota, names, &objects);
        let found: Vec<String> = names.iter().map(|name| found[*name].to_string()).collect();
        assert_eq!(found, expected, "{quota} {names:?}");
    };
    check(json!({}), &["pods", "requests.cpu", "count/pods"], &["2", "1250m", "3"]);
    check(
        json!({}),
        &["services.loadbalancers", "services.nodeports", "limits.memory"],
        &["1", "1", "0"],
    );
    check(
        json!({}),
        &["requests.storage", "local-path.storageclass.storage.k8s.io/requests.storage"],
        &["2Gi", "2Gi"],
    );
    let scoped = json!({ "spec": { "scopes": ["BestEffort"] } });
    check(scoped, &["pods"], &["0"]);
}

#[test]
fn kinds_that_nothing_wakes_us_for_are_counted_by_themselves() {
    let names = ["pods", "count/deployments.apps", "secrets", "cpu", "count/services"];
    assert_eq!(others(&names), ["count/deployments.apps", "secrets"]);
}

#[test]
fn amounts_are_compared_and_not_their_texts() {
    let status = |cpu: &str| -> ResourceQuotaStatus {
        serde_json::from_value(json!({ "hard": { "cpu": "2" }, "used": { "cpu": cpu } })).unwrap()
    };
    assert!(is_same(&status("1000m"), &status("1")));
    assert!(!is_same(&status("1"), &status("2")));
}
