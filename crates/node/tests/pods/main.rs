//! Pods on a real containerd under a real API server. Needs root, containerd, runc, the CNI plugins
//! and busybox-static; says so where one is missing, and fails where CI expects them.

mod apps;
mod node;
mod refused;
mod running;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use node::Node;
use serde_json::json;

/// A web server that ends when asked to.
const SERVER: &str = "trap 'exit 0' TERM; mkdir -p /www; echo hi > /www/index.html; \
                      httpd -p 8080 -h /www; while true; do sleep 0.05; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_becomes_ready_restarts_and_leaves_nothing_behind() {
    let Some(mut node) = Node::start(1).await else { return };
    let bridge = format!("/sys/class/net/{}/address", node.config.instance);
    let gateway = || std::fs::read_to_string(&bridge).expect("there is a bridge");
    let before = gateway();
    node.create(
        "web",
        json!({
            "containers": [{
                "name": "web", "image": node::IMAGE, "command": ["sh", "-c", SERVER],
                "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}},
            }],
        }),
    )
    .await;
    let pod = node.wait("web", "ready", node::is_ready).await;
    let id = node::container_id(&pod);
    assert_eq!(gateway(), before, "pods need not look for their gateway anew");
    assert!(pod.status.expect("a status").pod_ip.expect("an address").starts_with("10.88.1."));

    let kill = ["sh".to_owned(), "-c".to_owned(), "kill -TERM 1".to_owned()];
    node.cri().exec_sync(&id, &kill, Duration::from_secs(5)).await.expect("told to end");
    let pod = node
        .wait("web", "restarted", |pod| node::is_ready(pod) && node::container_id(pod) != id)
        .await;
    let status = &pod.status.expect("a status").container_statuses.expect("containers")[0];
    assert_eq!(status.restart_count, 1);
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert_eq!(last.and_then(|end| end.reason.as_deref()), Some("Completed"));

    let uid = pod.metadata.uid.expect("an uid");
    node.pods().delete("web", &DeleteParams::default()).await.expect("deleted");
    node.wait_gone("web").await;
    assert!(node.cri().list_containers(&[]).await.expect("a list").is_empty());
    assert!(!node.config.pod_dir(&uid).exists());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restarted_when_agent_and_containerd_come_back() {
    let Some(mut node) = Node::start(2).await else { return };
    node.create(
        "stays",
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": node::IMAGE, "command": ["sleep", "1000"]}],
        }),
    )
    .await;
    let id = node::container_id(&node.wait("stays", "ready", node::is_ready).await);
    node.stop_agent().await;
    node.kill_containerd();
    node.start_agent().await;
    // The agent has taken the pod up once it does again what it is told.
    node.pods().delete("stays", &DeleteParams::default()).await.expect("deleted");
    node.wait("stays", "ending", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(node::container_id(&node.pod("stays").await.expect("still there")), id);
    node.wait_gone("stays").await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_api_forgot_meanwhile_is_ended() {
    let Some(mut node) = Node::start(3).await else { return };
    node.create(
        "forgotten",
        json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": node::IMAGE, "command": ["sleep", "1000"]}],
        }),
    )
    .await;
    node.wait("forgotten", "ready", node::is_ready).await;
    node.stop_agent().await;
    let now = DeleteParams::default().grace_period(0);
    node.pods().delete("forgotten", &now).await.expect("deleted");
    let containers = node.cri().list_containers(&[]).await.expect("a list");
    assert_eq!(containers.len(), 1, "ended by nobody so far");
    node.start_agent().await;
    node.until("the container is gone", async |node| {
        node.cri().list_containers(&[]).await.is_ok_and(|all| all.is_empty())
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let Some(mut node) = Node::start(4).await else { return };
    let missing =
        json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}});
    for (name, container, reason) in [
        ("image", json!({"name": "c", "image": "127.0.0.1:9/no:1"}), "ErrImagePull"),
        ("name", json!({"name": "c", "image": "NO::x"}), "InvalidImageName"),
        (
            "never",
            json!({"name": "c", "image": "test.local/no:1", "imagePullPolicy": "Never"}),
            "ErrImageNeverPull",
        ),
        (
            "env",
            json!({"name": "c", "image": node::IMAGE, "env": [missing]}),
            "CreateContainerConfigError",
        ),
        (
            "root",
            json!({"name": "c", "image": node::IMAGE, "securityContext": {"runAsNonRoot": true}}),
            "CreateContainerConfigError",
        ),
    ] {
        node.create(name, json!({"containers": [container]})).await;
        let waits = |pod: &Pod| node::waiting_reason(pod).as_deref() == Some(reason);
        node.wait(name, reason, waits).await;
        node.pods().delete(name, &DeleteParams::default()).await.expect("deleted");
        node.wait_gone(name).await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_before_and_a_job_ends() {
    let Some(mut node) = Node::start(5).await else { return };
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    node.create(
        "job",
        json!({
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "one", "image": node::IMAGE, "volumeMounts": mount,
                 "command": ["sh", "-c", "echo 1 > /v/a"]},
                {"name": "two", "image": node::IMAGE, "volumeMounts": mount,
                 "command": ["sh", "-c", "test -f /v/a"]}
            ],
            "containers": [{"name": "c", "image": node::IMAGE, "volumeMounts": mount,
                "command": ["sh", "-c", "echo said > /dev/termination-log; test -f /v/a"]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }),
    )
    .await;
    let over =
        |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
    let status = node.wait("job", "done", over).await.status.expect("a status");
    let ended = status.container_statuses.expect("containers")[0].state.clone();
    let ended = ended.and_then(|state| state.terminated).expect("an end");
    assert_eq!((ended.exit_code, ended.message.as_deref()), (0, Some("said\n")));
    node.end().await;
}
