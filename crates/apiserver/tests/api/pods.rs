//! What pods get on their way in, and how they end.

use serde_json::json;

use crate::server::{PODS, Server, pod, refused};

#[tokio::test]
async fn a_new_pod_gets_its_account_token_tolerations_and_priority() {
    let server = Server::start().await;
    let made = server.create(PODS, &pod("a")).await.unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"), "{volume}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(made["status"]["phase"], "Pending");

    let mut critical = pod("b");
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    let made = server.create(PODS, &critical).await.unwrap();
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    critical["spec"]["priorityClassName"] = json!("made-up");
    refused(server.create(PODS, &critical).await, 403, "Forbidden");
    let mut orphan = pod("c");
    orphan["spec"]["serviceAccountName"] = json!("nobody");
    let message = refused(server.create(PODS, &orphan).await, 403, "Forbidden");
    assert!(message.contains("serviceaccount \"nobody\" not found"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn a_pod_is_bound_once_and_deleted_by_its_node() {
    let server = Server::start().await;
    server.create(PODS, &pod("a")).await.unwrap();
    let bind = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n1"},
    });
    server.create(&format!("{PODS}/a/binding"), &bind).await.unwrap();
    let bound = server.get(&format!("{PODS}/a")).await.unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    refused(server.create(&format!("{PODS}/a/binding"), &bind).await, 409, "Conflict");

    let going = server.send("DELETE", &format!("{PODS}/a"), None).await.unwrap();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    server.get(&format!("{PODS}/a")).await.unwrap();
    let shorter = json!({"gracePeriodSeconds": 5});
    let going = server.send("DELETE", &format!("{PODS}/a"), Some(&shorter)).await.unwrap();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 5);
    let longer = json!({"gracePeriodSeconds": 50});
    let going = server.send("DELETE", &format!("{PODS}/a"), Some(&longer)).await.unwrap();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 5);
    let now = json!({"gracePeriodSeconds": 0});
    server.send("DELETE", &format!("{PODS}/a"), Some(&now)).await.unwrap();
    refused(server.get(&format!("{PODS}/a")).await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test]
async fn an_unscheduled_pod_goes_at_once() {
    let server = Server::start().await;
    server.create(PODS, &pod("a")).await.unwrap();
    server.send("DELETE", &format!("{PODS}/a"), None).await.unwrap();
    refused(server.get(&format!("{PODS}/a")).await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_asks_the_disruption_budget() {
    let server = Server::start().await;
    server.create(PODS, &pod("a")).await.unwrap();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}},
    });
    server.create(budgets, &budget).await.unwrap();
    let status = |allowed: i64| {
        json!({"status": {
            "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1,
            "desiredHealthy": 1, "expectedPods": 1,
        }})
    };
    let path = format!("{budgets}/keep/status");
    server.patch(&path, "merge-patch+json", &status(0)).await.unwrap();
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
    });
    let evict = format!("{PODS}/a/eviction");
    let of_pod = |phase: &str, ready: &str| json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    let pod_status = format!("{PODS}/a/status");
    let running = of_pod("Running", "True");
    server.patch(&pod_status, "strategic-merge-patch+json", &running).await.unwrap();
    refused(server.create(&evict, &eviction).await, 429, "TooManyRequests");
    server.patch(&path, "merge-patch+json", &status(1)).await.unwrap();
    server.create(&evict, &eviction).await.unwrap();
    refused(server.get(&format!("{PODS}/a")).await, 404, "NotFound");
    let spent = server.get(&format!("{budgets}/keep")).await.unwrap();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);

    // What serves nobody is not counted while the others keep the budget.
    for phase in ["Pending", "Running"] {
        server.create(PODS, &pod("a")).await.unwrap();
        let sick = of_pod(phase, "False");
        server.patch(&pod_status, "strategic-merge-patch+json", &sick).await.unwrap();
        server.create(&evict, &eviction).await.unwrap();
        refused(server.get(&format!("{PODS}/a")).await, 404, "NotFound");
    }
    server.stop().await;
}
