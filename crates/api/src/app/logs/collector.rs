//! How what the collectors of another Kubernetes keep and count is asked for.
//!
//! ```text
//!  person ──TokenRequest──▶ API server: a token of the namespace's reader, for collectors alone
//!  person ──GET, token────▶ API server's service proxy ──▶ a collector ──▶ those of other nodes
//! ```
//!
//! The reader is a service account without any rights. Who may ask for a token of it in a
//! namespace may read what its Apps wrote and what its containers do, and that is all the token is
//! good for: no API server takes it, as it is meant for [`AUDIENCE`].

use serde_json::{Value, json};

/// Whom a token is for.
pub const AUDIENCE: &str = "logs.berth.dev";
/// The service account, one in each namespace of which something was collected.
pub const READER: &str = "berth-logs-reader";
/// The header with the token: the API server takes `Authorization` off what it passes on.
pub const TOKEN_HEADER: &str = "berth-logs-token";
/// Where the collectors are.
pub const NAMESPACE: &str = "berth-system";
/// Their Service, and the label `app.kubernetes.io/name` of their pods.
pub const NAME: &str = "berth-collector";
/// Their port's name.
pub const PORT: &str = "https";
/// How long a token is good, seconds: the least that Kubernetes gives.
const GOOD_FOR: u32 = 600;

/// Where a token of the namespace's reader is asked for (POST).
pub fn token_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts/{READER}/token")
}

/// What is asked for there.
pub fn token_request() -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": [AUDIENCE], "expirationSeconds": GOOD_FOR },
    })
}

/// The reader's name as a token says it.
pub fn reader(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{READER}")
}

/// More nodes are not asked by one request.
pub const NODES_AT_ONCE: usize = 100;

/// Where an App's log is, behind the API server.
pub fn log_path(namespace: &str, app: &str, query: &str) -> String {
    path(namespace, &format!("apps/{app}/log?{query}"))
}

/// Where load and I/O of a namespace's containers on `nodes` are, behind the API server: a
/// [`Summary`](crate::summary::Summary).
pub fn stats_path(namespace: &str, nodes: &[&str]) -> String {
    path(namespace, &format!("stats?nodes={}", nodes.join(",")))
}

fn path(namespace: &str, what: &str) -> String {
    let place = format!("/api/v1/namespaces/{NAMESPACE}/services/https:{NAME}:{PORT}/proxy");
    format!("{place}/v1/namespaces/{namespace}/{what}")
}

/// What stands before what a collector says itself, where others have pod and file.
pub const NOTICE: &str = "- - [berth: ";
