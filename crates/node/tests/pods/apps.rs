//! What a node does for Apps: an address that stays, logs without a sidecar.

use std::time::Duration;

use berth_node::app_logs;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::node::{self, Node};

/// Creates a pod of the App `web` on the node.
async fn create(node: &Node, name: &str, annotations: Value, mut spec: Value) {
    spec["nodeName"] = json!(node.config.name);
    spec["automountServiceAccountToken"] = json!(false);
    spec["serviceAccountName"] = json!("default");
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "default", "annotations": annotations,
            "labels": { "app.kubernetes.io/managed-by": "berth",
                        "app.kubernetes.io/instance": "web" },
        },
        "spec": spec,
    });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    node.pods().create(&PostParams::default(), &pod).await.expect("created");
}

fn address(pod: &Pod) -> String {
    let status = pod.status.as_ref().expect("a status");
    status.pod_ip.clone().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pods_of_an_app_come_into_the_addresses_of_those_before() {
    let Some(mut node) = Node::start(31).await else { return };
    let keeps = json!({ "berth.dev/keep-address": "true" });
    // Ends two seconds after it is told to: the next ones have to wait for it.
    let script = "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done";
    let spec = json!({ "containers": [
        { "name": "c", "image": node::IMAGE, "command": ["sh", "-c", script] }] });
    let mut before = Vec::new();
    for name in ["one", "two"] {
        create(&node, name, keeps.clone(), spec.clone()).await;
        before.push(address(&node.wait(name, "ready", node::is_ready).await));
    }
    let (pods, gently) = (node.pods(), DeleteParams::default());
    for name in ["one", "two"] {
        pods.delete(name, &gently).await.expect("told to end");
    }
    for name in ["three", "four"] {
        create(&node, name, keeps.clone(), spec.clone()).await;
    }
    // One of nobody takes any address but theirs.
    node.create("stranger", spec.clone()).await;
    let mut after = Vec::new();
    for name in ["three", "four"] {
        after.push(address(&node.wait(name, "ready", node::is_ready).await));
    }
    let stranger = address(&node.wait("stranger", "ready", node::is_ready).await);
    before.sort();
    after.sort();
    assert_eq!(after, before);
    assert!(!before.contains(&stranger), "{stranger} is one of {before:?}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_writes_into_its_log_directories_outlives_it() {
    let Some(mut node) = Node::start(32).await else { return };
    let tasks = berth_daemon::Tasks::new();
    app_logs::start_collecting(&node.config, &tasks);
    let said = json!({ "app": "web", "volumes": { "logs-0": "/var/log/web" } }).to_string();
    let script = "echo of the volume > /var/log/web/a.log; echo named > /export/Logs/b.log; \
                  ln -s /etc/passwd /var/log/web/link.log; exec sleep 1000";
    create(
        &node,
        "one",
        json!({ "berth.dev/logs": said }),
        json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": node::IMAGE, "command": ["sh", "-c", script],
                "env": [{ "name": "KUBERNETES_FILELOGS", "value": "/export/Logs" }],
                "volumeMounts": [{ "name": "logs-0", "mountPath": "/var/log/web" }] }],
            "volumes": [{ "name": "logs-0", "emptyDir": {} }],
        }),
    )
    .await;
    let log = node.config.node_dir().join("app-logs/default_web/log");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    node.until("both are collected", async |_| {
        text().contains(" one /var/log/web/a.log of the volume\n")
            && text().contains(" one /export/Logs/b.log named\n")
    })
    .await;
    assert!(!text().contains("root:"), "links are not followed");
    node.pods().delete("one", &DeleteParams::default()).await.expect("deleted");
    node.wait_gone("one").await;
    assert!(text().contains("of the volume"));
    let dirs = std::fs::read_dir(node.config.node_dir().join("app-logs/default_web/dirs"));
    assert_eq!(dirs.expect("a directory").count(), 1, "the files stay until they are old");
    tasks.stop(Duration::from_secs(5)).await;
    node.end().await;
}
