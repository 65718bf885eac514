//! The kubelet API: logs, exec, attach, port-forward, statistics, for the API server only.
//!
//! HTTPS with a client certificate of a member of `system:masters`, which is what the API server
//! shows; it has authenticated and authorized whoever asked before it comes here.
//!
//! | path | |
//! | --- | --- |
//! | `/healthz` | `ok` |
//! | `/pods` | the pods of this node |
//! | `/containerLogs/NS/POD/CONTAINER` | `follow`, `tailLines`, `sinceSeconds`, … |
//! | `/appLogs/NS/APP` | what an App wrote into its log directories; the same options |
//! | `/exec/NS/POD[/UID]/CONTAINER`, `/attach/…` | WebSocket v4 and v5, SPDY/3.1 |
//! | `/portForward/NS/POD[/UID]` | SPDY/3.1, plain or inside WebSocket messages |
//! | `/metrics/resource`, `/stats/summary` | what containers use |

mod connections;
mod containers;
mod log;
mod session;
pub(crate) mod spdy;
mod stats;
mod streams;
mod upgrade;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{StatusCode, header};
use serde_json::json;
use tokio::sync::Semaphore;

use berth_daemon::Tasks;

use crate::Config;
use crate::cri::Cri;
use crate::meters::Meters;
use crate::pod::PodTable;

pub use connections::ServerError;
pub(crate) use connections::{Door, listen, tls_for_all};
pub(crate) use log::{Asked, options};

/// Streams open at the same time; more are refused with 429.
const SESSIONS: usize = 256;

/// What every request can see.
#[derive(Clone)]
struct Node {
    config: Config,
    cri: Cri,
    pods: PodTable,
    meters: Meters,
    sessions: Arc<Semaphore>,
    tasks: Tasks,
}

/// Serves the kubelet API on the node's address until `tasks` stop.
///
/// # Errors
/// When the certificates cannot be used or the port is taken.
pub(crate) async fn start(
    config: Config,
    cri: Cri,
    pods: PodTable,
    meters: Meters,
    tasks: &Tasks,
) -> Result<(), ServerError> {
    let sessions = Arc::new(Semaphore::new(SESSIONS));
    let own = tasks.clone();
    let node = Node { config: config.clone(), cri, pods, meters, sessions, tasks: own };
    connections::serve(&config, routes(node), tasks).await
}

fn routes(node: Node) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log::show))
        .route("/appLogs/{namespace}/{app}", get(log::show_app))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward))
        .route("/metrics/resource", get(stats::metrics))
        .route("/stats/summary", get(stats::summary))
        .with_state(node)
}

async fn pods(State(node): State<Node>) -> Response {
    let items: Vec<_> = node.pods.all().iter().map(|entry| json!(*entry.pod)).collect();
    let list = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items });
    ([(header::CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

/// A request that cannot be served, in one line of plain text: the API server makes a Status of it.
#[derive(Debug)]
pub(crate) struct Refusal(pub StatusCode, pub String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}
