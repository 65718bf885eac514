//! A node agent reads and writes what belongs to its node.

use berth_apiserver::User;
use kube::Client;
use serde_json::{Value, json};

use crate::server::{PODS, Server, pod, refused, send};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const NODES: &str = "/api/v1/nodes";

async fn by(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> crate::server::Answer {
    let kind = if method == "PATCH" { "merge-patch+json" } else { "json" };
    send(client, method, path, &format!("application/{kind}"), body).await
}

#[tokio::test]
async fn agents_read_the_secrets_of_their_own_pods() {
    let server = Server::start().await;
    let agent =
        |node: &str| server.api.client(User::new(format!("system:node:{node}"), &["system:nodes"]));
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}});
    server.create(SECRETS, &secret).await.unwrap();
    let path = format!("{SECRETS}/s");
    let (one, two) = (agent("one"), agent("two"));
    let message = refused(by(&one, "GET", &path, None).await, 403, "Forbidden");
    assert!(message.contains("no relationship found between node 'one'"), "{message}");
    let mut user = pod("p");
    user["spec"]["nodeName"] = json!("one");
    user["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    server.create(PODS, &user).await.unwrap();
    by(&one, "GET", &path, None).await.unwrap();
    refused(by(&two, "GET", &path, None).await, 403, "Forbidden");
    refused(by(&one, "GET", SECRETS, None).await, 403, "Forbidden");
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    refused(by(&two, "POST", token, Some(&json!({"spec": {}}))).await, 403, "Forbidden");
    let status = format!("{PODS}/p/status");
    let running = json!({"status": {"message": "hello"}});
    by(&one, "PATCH", &status, Some(&running)).await.unwrap();
    refused(by(&two, "PATCH", &status, Some(&running)).await, 403, "Forbidden");
    server.stop().await;
}

#[tokio::test]
async fn agents_write_their_own_node_without_restricted_labels() {
    let server = Server::start().await;
    let agent = server.api.client(User::new("system:node:one", &["system:nodes"]));
    let node = |name: &str| json!({"metadata": {"name": name}});
    by(&agent, "POST", NODES, Some(&node("one"))).await.unwrap();
    let message = refused(by(&agent, "POST", NODES, Some(&node("two"))).await, 403, "Forbidden");
    assert!(message.contains("node \"one\" is not allowed to modify node \"two\""), "{message}");
    let label = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let path = format!("{NODES}/one");
    by(&agent, "PATCH", &path, Some(&label("kubernetes.io/arch"))).await.unwrap();
    let own = label("node-restriction.kubernetes.io/team");
    let message = refused(by(&agent, "PATCH", &path, Some(&own)).await, 403, "Forbidden");
    assert!(message.contains("not allowed to modify labels"), "{message}");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    by(&agent, "POST", leases, Some(&node("one"))).await.unwrap();
    refused(by(&agent, "POST", leases, Some(&node("two"))).await, 403, "Forbidden");
    refused(by(&agent, "POST", PODS, Some(&pod("p"))).await, 403, "Forbidden");
    server.stop().await;
}
