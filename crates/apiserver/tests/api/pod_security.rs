//! A namespace's labels say how much its pods may do.

use serde_json::json;

use crate::server::{PODS, Server, pod, refused};

const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn label(server: &Server, mode: &str, level: &str) -> crate::server::Answer {
    let labels = json!({(format!("pod-security.kubernetes.io/{mode}")): level});
    let patch = json!({"metadata": {"labels": labels}});
    server.patch(NAMESPACE, "merge-patch+json", &patch).await
}

#[tokio::test]
async fn enforced_levels_refuse_pods_but_not_templates() {
    let server = Server::start().await;
    label(&server, "enforce", "restricted").await.unwrap();
    let message = refused(server.create(PODS, &pod("p")).await, 403, "Forbidden");
    let start = "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": \
                 allowPrivilegeEscalation != false (container \"c\" must set";
    assert!(message.starts_with(start), "{message}");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    server.create("/apis/apps/v1/namespaces/default/deployments", &deployment).await.unwrap();
    label(&server, "enforce", "baseline").await.unwrap();
    server.create(PODS, &pod("p")).await.unwrap();
    let mut host = pod("h");
    host["spec"]["hostNetwork"] = json!(true);
    let message = refused(server.create(PODS, &host).await, 403, "Forbidden");
    assert!(message.contains("host namespaces (hostNetwork=true)"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn unknown_levels_are_refused_and_warnings_are_sent() {
    let server = Server::start().await;
    refused(label(&server, "enforce", "lenient").await, 422, "Invalid");
    label(&server, "warn", "restricted").await.unwrap();
    let body = pod("p").to_string().into_bytes();
    let request = http::Request::post(PODS).header("content-type", "application/json");
    let request = request.body(kube::client::Body::from(body)).unwrap();
    let response = server.admin().send(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");

    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let patch = json!({"metadata": {"labels": labels}}).to_string().into_bytes();
    let request =
        http::Request::patch(NAMESPACE).header("content-type", "application/merge-patch+json");
    let request = request.body(kube::client::Body::from(patch)).unwrap();
    let response = server.admin().send(request).await.unwrap();
    let warnings: Vec<_> = response.headers().get_all("warning").iter().collect();
    assert!(warnings.len() >= 2, "{warnings:?}");
    assert!(warnings[0].to_str().unwrap().contains("existing pods in namespace"), "{warnings:?}");
    server.stop().await;
}
