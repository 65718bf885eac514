//! Who changed what is in the audit log, and what is in secrets is not.

use berth_apiserver::audit::Options;
use berth_daemon::Tasks;
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, Server, config_map, refused, send};

fn lines(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.path("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn changes_are_logged_with_who_what_and_why() {
    let server = Server::start().await;
    let tasks = Tasks::new();
    server.api.audit(Options::new(server.path("audit.log")), &tasks).unwrap();
    let generated = json!({"metadata": {"generateName": "m-"}, "data": {"a": "b"}});
    server.create(CONFIG_MAPS, &generated).await.unwrap();
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    server.create("/api/v1/namespaces/default/secrets", &secret).await.unwrap();
    server.get(CONFIG_MAPS).await.unwrap();
    let bob = server.user("bob");
    let body = config_map("x", json!({}));
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    refused(send(&bob, "POST", &dry, "application/json", Some(&body)).await, 403, "Forbidden");
    let request = http::Request::post(CONFIG_MAPS)
        .header("impersonate-user", "ann")
        .header("impersonate-group", "system:masters")
        .header("content-type", "application/json")
        .header("audit-id", "mine");
    let body = kube::client::Body::from(config_map("y", json!({})).to_string().into_bytes());
    let response = server.admin().send(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.headers()["audit-id"], "mine");
    tasks.stop(std::time::Duration::from_secs(5)).await;

    let text = std::fs::read_to_string(server.path("audit.log")).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    let lines = lines(&server);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let name = lines[0]["objectRef"]["name"].as_str().unwrap();
    assert!(name.starts_with("m-"), "{name}");
    assert_eq!(lines[0]["responseStatus"]["code"], 201);
    assert_eq!(lines[0]["user"]["username"], "admin");
    assert_eq!(lines[0]["userAgent"], "test/1");
    assert_eq!(lines[2]["responseStatus"], json!({"code": 403, "reason": "Forbidden"}));
    assert_eq!(lines[2]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(lines[2]["dryRun"], true);
    assert_eq!(lines[3]["auditID"], "mine");
    assert_eq!(lines[3]["impersonatedUser"]["username"], "ann");
    server.stop().await;
}

#[tokio::test]
async fn the_binding_that_allows_is_named() {
    let server = Server::start().await;
    let body = json!({
        "metadata": {"name": "editors"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    server.create(path, &body).await.unwrap();
    let bob = server.user("bob");
    crate::server::eventually("allowed", async || {
        send(&bob, "GET", CONFIG_MAPS, "application/json", None).await.is_ok()
    })
    .await;
    let tasks = Tasks::new();
    server.api.audit(Options::new(server.path("audit.log")), &tasks).unwrap();
    let map = config_map("x", json!({}));
    send(&bob, "POST", CONFIG_MAPS, "application/json", Some(&map)).await.unwrap();
    tasks.stop(std::time::Duration::from_secs(5)).await;
    assert_eq!(
        lines(&server)[0]["annotations"]["authorization.k8s.io/reason"],
        "RBAC: allowed by RoleBinding \"editors/default\" of ClusterRole \"edit\" to User \"bob\""
    );
    server.stop().await;
}
