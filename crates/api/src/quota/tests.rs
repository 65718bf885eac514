//! What objects count for, case by case.

use serde_json::json;

use super::*;

fn check(group: &str, resource: &str, object: Value, expected: &[(&str, &str)]) {
    let found: BTreeMap<String, String> = usage(group, resource, &object)
        .into_iter()
        .map(|(name, amount)| (name, amount.to_string()))
        .collect();
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, amount)| ((*name).into(), (*amount).into())).collect();
    assert_eq!(found, expected, "{object}");
}

#[test]
fn an_object_of_any_kind_counts_once() {
    check("apps", "deployments", json!({}), &[("count/deployments.apps", "1")]);
    check("", "secrets", json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
    check("", "endpoints", json!({}), &[("count/endpoints", "1")]);
}

#[test]
fn a_pod_counts_for_what_runs_at_once() {
    let spec = json!({
        "overhead": {"memory": "10Mi"},
        "initContainers": [
            {"name": "side", "restartPolicy": "Always",
             "resources": {"requests": {"cpu": "100m"}}},
            {"name": "big", "resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}},
        ],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"},
                                        "limits": {"memory": "128Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": 0.5}}},
        ],
    });
    let expected = [
        ("count/pods", "1"),
        ("pods", "1"),
        ("cpu", "1100m"),
        ("requests.cpu", "1100m"),
        ("memory", "74Mi"),
        ("requests.memory", "74Mi"),
        ("limits.memory", "138Mi"),
        ("requests.example.com/gpu", "1"),
    ];
    check("", "pods", json!({ "spec": spec }), &expected);
    let over = json!({"spec": spec, "status": {"phase": "Succeeded"}});
    check("", "pods", over, &[("count/pods", "1")]);
}

#[test]
fn a_pod_that_shrinks_counts_for_what_it_still_holds() {
    let pod = json!({
        "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "1"}}]},
    });
    let expected = [("count/pods", "1"), ("pods", "1"), ("cpu", "1"), ("requests.cpu", "1")];
    check("", "pods", pod, &expected);
}

#[test]
fn services_count_by_their_type() {
    let with = |kind: &str, ports: i64, balancers: &str, allocate: bool| {
        let service = json!({"spec": {
            "type": kind, "allocateLoadBalancerNodePorts": allocate,
            "ports": [{"port": 80, "nodePort": 30000}, {"port": 443}],
        }});
        check(
            "",
            "services",
            service,
            &[
                ("count/services", "1"),
                ("services", "1"),
                ("services.nodeports", &ports.to_string()),
                ("services.loadbalancers", balancers),
            ],
        );
    };
    with("ClusterIP", 0, "0", true);
    with("NodePort", 2, "0", true);
    with("LoadBalancer", 2, "1", true);
    with("LoadBalancer", 1, "1", false);
}

#[test]
fn claims_count_by_their_class() {
    let claim = json!({"spec": {
        "storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}},
    }});
    let expected = [
        ("count/persistentvolumeclaims", "1"),
        ("persistentvolumeclaims", "1"),
        ("requests.storage", "5Gi"),
        ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
        ("fast.storageclass.storage.k8s.io/requests.storage", "5Gi"),
    ];
    check("", "persistentvolumeclaims", claim, &expected);
}

#[test]
fn scopes_choose_pods() {
    let scoped = |scope: &str, pod: &Value| {
        matches_scopes(&json!({"spec": {"scopes": [scope]}}), "", "pods", pod)
    };
    let plain = json!({"spec": {"containers": [{"name": "a"}]}});
    let bound = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [
        {"name": "a", "resources": {"limits": {"cpu": "1"}}},
    ]}});
    for (scope, of_plain, of_bound) in [
        ("BestEffort", true, false),
        ("NotBestEffort", false, true),
        ("Terminating", false, true),
        ("NotTerminating", true, false),
        ("CrossNamespacePodAffinity", false, false),
    ] {
        assert_eq!(scoped(scope, &plain), of_plain, "{scope}");
        assert_eq!(scoped(scope, &bound), of_bound, "{scope}");
    }
    let selected = |operator: &str, pod: &Value| {
        let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]},
        ]}}});
        matches_scopes(&quota, "", "pods", pod)
    };
    let high = json!({"spec": {"priorityClassName": "high"}});
    for (operator, of_plain, of_high) in
        [("In", false, true), ("NotIn", true, false), ("Exists", false, true)]
    {
        assert_eq!(selected(operator, &plain), of_plain, "{operator}");
        assert_eq!(selected(operator, &high), of_high, "{operator}");
    }
    let best_effort = json!({"spec": {"scopes": ["BestEffort"]}});
    assert!(!matches_scopes(&best_effort, "", "services", &json!({})));
    assert!(matches_scopes(&json!({"spec": {}}), "", "services", &json!({})));
}

#[test]
fn a_name_in_a_quota_says_what_it_counts() {
    for (name, group, resource, expected) in [
        ("pods", "", "pods", true),
        ("cpu", "", "pods", true),
        ("limits.memory", "", "pods", true),
        ("requests.example.com/gpu", "", "pods", true),
        ("requests.storage", "", "pods", false),
        ("requests.storage", "", "persistentvolumeclaims", true),
        ("x.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims", true),
        ("count/jobs.batch", "batch", "jobs", true),
        ("count/jobs.batch", "", "jobs", false),
        ("services.nodeports", "", "services", true),
        ("secrets", "", "configmaps", false),
    ] {
        assert_eq!(counts(name, group, resource), expected, "{name} {group} {resource}");
    }
}
