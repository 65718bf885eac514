//! LimitRanges, the default storage class, runtime classes.

use serde_json::{Value, json};

use crate::server::{PODS, Server, pod, refused};

const RANGES: &str = "/api/v1/namespaces/default/limitranges";

fn range(item: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r"},
        "spec": {"limits": [item]}})
}

#[tokio::test]
async fn containers_get_defaults_and_stay_within_bounds() {
    let server = Server::start().await;
    let item = json!({"type": "Container", "default": {"cpu": "500m"},
        "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}, "min": {"cpu": "50m"}});
    server.create(RANGES, &range(item)).await.unwrap();
    let made = server.create(PODS, &pod("a")).await.unwrap();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}));
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let mut greedy = pod("b");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let message = refused(server.create(PODS, &greedy).await, 403, "Forbidden");
    assert!(message.contains("maximum cpu usage per Container is 1, but limit is 2"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn claims_get_the_default_class_and_grow_only_where_they_can() {
    let server = Server::start().await;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x/y",
        "metadata": {"name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    });
    server.create("/apis/storage.k8s.io/v1/storageclasses", &class).await.unwrap();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let made = server.create(claims, &claim).await.unwrap();
    assert_eq!(made["spec"]["storageClassName"], "local");
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let path = format!("{claims}/c");
    assert!(server.patch(&path, "merge-patch+json", &grow).await.is_err());
    let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}});
    server.create(RANGES, &range(item)).await.unwrap();
    let mut big = claim.clone();
    big["metadata"]["name"] = json!("d");
    big["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
    let message = refused(server.create(claims, &big).await, 403, "Forbidden");
    assert!(message.contains("maximum storage usage"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn a_runtime_class_must_be_there_and_brings_its_overhead() {
    let server = Server::start().await;
    let mut vm = pod("vm");
    vm["spec"]["runtimeClassName"] = json!("kata");
    let message = refused(server.create(PODS, &vm).await, 403, "Forbidden");
    assert!(message.contains("RuntimeClass \"kata\" not found"), "{message}");
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "kata"}, "handler": "kata",
        "overhead": {"podFixed": {"memory": "64Mi"}}});
    server.create("/apis/node.k8s.io/v1/runtimeclasses", &class).await.unwrap();
    let made = server.create(PODS, &vm).await.unwrap();
    assert_eq!(made["spec"]["overhead"]["memory"], "64Mi");
    server.stop().await;
}
