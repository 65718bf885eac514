//! An API server of its own for each test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Config, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use berth_store::{Embedded, Options, Store};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The administrator's group.
pub const MASTERS: &str = "system:masters";

/// A running server, its store and its directory.
pub struct Server {
    pub api: ApiServer,
    pub pki: Pki,
    pub store: Arc<dyn Store>,
    pub address: SocketAddr,
    tasks: Tasks,
    dir: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let names = Sans { ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: Vec::new() };
        let pki = Pki::load_or_create(&dir.path().join("pki"), &names, "node-1").unwrap();
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            advertise: address,
            service_range: ServiceRange::new("10.43.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki: pki.clone(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let api = ApiServer::open(config, store.clone(), &tasks).await.unwrap();
        api.serve(listener, &tasks);
        let kubeconfig = pki.kubeconfig(&format!("https://{address}"));
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig).unwrap();
        let server = Self { api, pki, store, address, tasks, dir };
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
        });
        server.create("/api/v1/namespaces/default/serviceaccounts", &account).await.unwrap();
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn admin(&self) -> Client {
        self.api.client(User::new("admin", &[MASTERS]))
    }

    pub fn user(&self, name: &str) -> Client {
        self.api.client(User::new(name, &[]))
    }

    /// Sends a request as the administrator.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        send(&self.admin(), method, path, "application/json", body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn create(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}");
        send(&self.admin(), "PATCH", path, &kind, Some(body)).await
    }

    pub async fn stop(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// The object, or the refusal's code, reason and message.
pub type Answer = Result<Value, Refusal>;

#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: String,
    pub message: String,
}

pub async fn send(
    client: &Client,
    method: &str,
    path: &str,
    kind: &str,
    body: Option<&Value>,
) -> Answer {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("user-agent", "test/1")
        .body(body)
        .unwrap();
    match client.request_text(request).await {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        Err(kube::Error::Api(status)) => Err(Refusal {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        }),
        Err(other) => panic!("{method} {path}: {other}"),
    }
}

/// Asserts that a request was refused with this code and reason, and answers the message.
#[track_caller]
pub fn refused(answer: Answer, code: u16, reason: &str) -> String {
    match answer {
        Ok(object) => panic!("not refused: {object}"),
        Err(refusal) => {
            assert_eq!((refusal.code, refusal.reason.as_str()), (code, reason), "{refusal:?}");
            refusal.message
        }
    }
}

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// Tries until it holds; the condition is checked, not waited for blindly.
pub async fn eventually<F, Fut>(what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}
