//! Quotas hold, also against many at once.

use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod, refused};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn quota(name: &str, hard: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name},
        "spec": {"hard": hard}})
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_creates_never_go_over() {
    let server = Server::start().await;
    server.create(QUOTAS, &quota("q", json!({"count/configmaps": "5"}))).await.unwrap();
    let all = (0..40).map(|index| {
        let body = config_map(&format!("m{index}"), json!({}));
        let server = &server;
        async move { server.create(CONFIG_MAPS, &body).await }
    });
    let answers = futures::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
    for refusal in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refusal.code, 403, "{refusal:?}");
    }
    let stored = server.get(CONFIG_MAPS).await.unwrap();
    assert_eq!(stored["items"].as_array().unwrap().len(), 5);
    let own = server.get(&format!("{QUOTAS}/q")).await.unwrap();
    assert_eq!(own["status"]["used"]["count/configmaps"], "5");
    server.stop().await;
}

#[tokio::test]
async fn what_is_over_is_told_and_dry_runs_are_free() {
    let server = Server::start().await;
    server.create(PODS, &asking("before", "300m")).await.unwrap();
    let hard = json!({"requests.cpu": "1", "pods": "3"});
    server.create(QUOTAS, &quota("q", hard)).await.unwrap();
    server.create(PODS, &asking("a", "500m")).await.unwrap();
    let message = refused(server.create(PODS, &asking("b", "300m")).await, 403, "Forbidden");
    assert_eq!(
        message,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: \
         requests.cpu=800m, limited: requests.cpu=1"
    );
    let dry = format!("{PODS}?dryRun=All");
    server.create(&dry, &asking("b", "100m")).await.unwrap();
    let own = server.get(&format!("{QUOTAS}/q")).await.unwrap();
    assert_eq!(own["status"]["used"]["requests.cpu"], "800m");
    let message = refused(server.create(PODS, &pod("c")).await, 403, "Forbidden");
    assert!(message.contains("failed quota: q: must specify requests.cpu for: c"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn a_claim_that_grows_is_charged_the_difference_and_scopes_count() {
    let server = Server::start().await;
    let claims = "/api/v1/namespaces/default/services";
    server.create(QUOTAS, &quota("q", json!({"services.nodeports": "1"}))).await.unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    server.create(claims, &service).await.unwrap();
    let patch = json!({"spec": {"type": "NodePort"}});
    let path = format!("{claims}/s");
    server.patch(&path, "merge-patch+json", &patch).await.unwrap();
    let mut two = service.clone();
    two["metadata"]["name"] = json!("t");
    two["spec"]["type"] = json!("NodePort");
    refused(server.create(claims, &two).await, 403, "Forbidden");

    let mut scoped = quota("scoped", json!({"pods": "0"}));
    scoped["spec"]["scopes"] = json!(["BestEffort"]);
    server.create(QUOTAS, &scoped).await.unwrap();
    refused(server.create(PODS, &pod("best-effort")).await, 403, "Forbidden");
    server.create(PODS, &asking("burstable", "1m")).await.unwrap();
    server.stop().await;
}
