//! One client in a loop does not starve another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_apiserver::User;
use serde_json::json;

use crate::server::{CONFIG_MAPS, Server, config_map, eventually, send};

/// Far above what a list takes, far below what hundreds of them in a row take.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_greedy_account_leaves_others_their_share() {
    let server = Arc::new(Server::start().await);
    for index in 0..50 {
        let body = config_map(&format!("m{index}"), json!({"text": "x".repeat(2000)}));
        server.create(CONFIG_MAPS, &body).await.unwrap();
    }
    for (binding, account) in [("greedy", "greedy"), ("modest", "modest")] {
        let body = json!({
            "metadata": {"name": binding},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": account}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "view"},
        });
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        server.create(path, &body).await.unwrap();
    }
    let client = |name: &str| server.api.client(User::service_account("default", name, ""));
    let modest = client("modest");
    eventually("allowed", async || {
        send(&modest, "GET", CONFIG_MAPS, "application/json", None).await.is_ok()
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (client, stop) = (client("greedy"), stop.clone());
        loops.spawn(async move {
            let mut answered = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                match send(&client, "GET", CONFIG_MAPS, "application/json", None).await {
                    Ok(_) => answered += 1,
                    Err(refusal) => {
                        assert_eq!(refusal.code, 429, "{refusal:?}");
                        tokio::task::yield_now().await;
                    }
                }
            }
            answered
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        send(&modest, "GET", CONFIG_MAPS, "application/json", None).await.unwrap();
        slowest = slowest.max(started.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let answered: u32 = loops.join_all().await.into_iter().sum();
    eprintln!("the slowest of 20 took {slowest:?} beside {answered} of the greedy one");
    assert!(slowest < BOUND, "{slowest:?}");
    assert!(answered > 0);
    let metrics = server.get("/metrics").await.unwrap();
    let metrics = metrics.as_str().unwrap();
    let dispatched =
        "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"workload-low\"}";
    assert!(metrics.contains(dispatched), "{metrics}");
}

#[tokio::test]
async fn answers_name_their_schema_and_level() {
    let server = Server::start().await;
    let request = http::Request::get("/version").body(kube::client::Body::empty()).unwrap();
    let response = server.user("bob").send(request).await.unwrap();
    let level = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/global-default";
    let level = server.get(level).await.unwrap();
    let shown = response.headers()["x-kubernetes-pf-prioritylevel-uid"].to_str().unwrap();
    assert_eq!(level["metadata"]["uid"], shown);
    assert!(response.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    server.stop().await;
}
