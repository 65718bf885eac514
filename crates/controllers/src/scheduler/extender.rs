//! The scheduler as another scheduler's extender: `POST /filter`, `/prioritize`, `/preempt`, `/bind`.
//!
//! ```text
//!  kube-scheduler ──/filter──▶ which of these nodes take the pod, by all our filters
//!                 ──/prioritize──▶ 0 to 10 for each
//!                 ──/preempt──▶ on which of these nodes these victims would be enough
//!                 ──/bind──▶ room is counted under our lock, then bound: or refused
//! ```
//!
//! # Guarantees
//! Who binds by `/bind` shares this scheduler's view of free room with it, so that the two never
//! give the same room twice.
//!
//! # Assumptions
//! Whoever reaches the port is trusted: the protocol knows no user.
//!
//! Refuses to choose victims: who preempts answers for them; and `managedResources`.
//!
//! Source: `k8s.io/kube-scheduler/extender/v1`, whose fields have Go's names; readers of it ignore
//! their case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use berth_daemon::Tasks;
use berth_scheduler::{Placement, snapshot};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ObjectList;
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::board::asked::unplaced;
use super::board::{Decision, Outcome};
use super::{Scheduler, health, wire};
use crate::driver::{Key, chain};

/// Five thousand whole nodes are some fifty MiB.
const BODY_LIMIT: usize = 128 * 1024 * 1024;
/// What the protocol calls `MaxExtenderPriority`.
const MOST: i64 = 10;
/// kube-scheduler itself waits five seconds unless told otherwise.
const READ_LIMIT: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Args {
    #[serde(rename = "Pod", alias = "pod")]
    pod: Pod,
    #[serde(rename = "Nodes", alias = "nodes", default)]
    nodes: Option<ObjectList<Node>>,
    #[serde(rename = "NodeNames", alias = "nodenames", alias = "nodeNames", default)]
    names: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Filtered {
    nodes: Option<ObjectList<Node>>,
    node_names: Option<Vec<String>>,
    failed_nodes: BTreeMap<String, String>,
    error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Priority {
    host: String,
    score: i64,
}

/// Victims by node: whole pods, or their UIDs alone where the asker trusts our cache.
#[derive(Deserialize)]
struct PreemptArgs {
    #[serde(rename = "Pod", alias = "pod")]
    pod: Pod,
    #[serde(rename = "NodeNameToVictims", alias = "nodeNameToVictims", default)]
    whole: Option<BTreeMap<String, Victims<Pod>>>,
    #[serde(rename = "NodeNameToMetaVictims", alias = "nodeNameToMetaVictims", default)]
    named: Option<BTreeMap<String, Victims<Named>>>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Victims<T> {
    #[serde(rename = "Pods", alias = "pods", default = "Vec::new")]
    pods: Vec<T>,
    #[serde(rename = "NumPDBViolations", alias = "numPDBViolations", default)]
    violations: i64,
}

#[derive(Clone, Deserialize, Serialize)]
struct Named {
    #[serde(rename = "UID", alias = "uid")]
    uid: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Preempted {
    node_name_to_meta_victims: BTreeMap<String, Victims<Named>>,
}

#[derive(Deserialize)]
struct BindArgs {
    #[serde(rename = "PodName", alias = "podName")]
    name: String,
    #[serde(rename = "PodNamespace", alias = "podNamespace")]
    namespace: String,
    #[serde(rename = "PodUID", alias = "podUID")]
    uid: String,
    #[serde(rename = "Node", alias = "node")]
    node: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Bound {
    error: String,
}

/// Answers on `listener` until `tasks` stop.
pub fn serve(scheduler: Scheduler, listener: TcpListener, tasks: &Tasks) {
    let router = Router::new()
        .route("/filter", post(filter))
        .route("/prioritize", post(prioritize))
        .route("/preempt", post(preempt))
        .route("/bind", post(bind))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(scheduler);
    health::run(router, listener, tasks);
}

async fn filter(State(scheduler): State<Scheduler>, body: Bytes) -> Response {
    let args: Args = match read(&scheduler, &body) {
        Ok(args) => args,
        Err(refusal) => return *refusal,
    };
    let names = names(&args);
    let pod = unplaced(&args.pod, wire::like(&scheduler.act.world, &args.pod));
    let failed = {
        let mut board = scheduler.act.board.lock().expect("no holder of the lock panics");
        board.refusals(&pod, &names)
    };
    let nodes = args.nodes.map(|mut nodes| {
        nodes.items.retain(|node| !failed.contains_key(&node.name_any()));
        nodes
    });
    let fit = |name: &String| !failed.contains_key(name);
    let node_names = args.names.map(|names| names.into_iter().filter(fit).collect());
    answer(&Filtered { nodes, node_names, failed_nodes: failed, error: String::new() })
}

async fn prioritize(State(scheduler): State<Scheduler>, body: Bytes) -> Response {
    let args: Args = match read(&scheduler, &body) {
        Ok(args) => args,
        Err(refusal) => return *refusal,
    };
    let pod = unplaced(&args.pod, wire::like(&scheduler.act.world, &args.pod));
    let rated: BTreeMap<String, i64> = {
        let mut board = scheduler.act.board.lock().expect("no holder of the lock panics");
        board.rate(&pod).into_iter().collect()
    };
    let scores = scale(&names(&args), &rated);
    let priorities: Vec<Priority> =
        scores.into_iter().map(|(host, score)| Priority { host, score }).collect();
    answer(&priorities)
}

/// The worst of those asked for gets 0, the best 10; one that would not do gets 0.
fn scale(names: &[String], rated: &BTreeMap<String, i64>) -> Vec<(String, i64)> {
    let known = || names.iter().filter_map(|name| rated.get(name).copied());
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let score = |name: &String| match rated.get(name) {
        Some(_) if most == least => MOST,
        Some(worth) => (worth - least) * MOST / (most - least),
        None => 0,
    };
    names.iter().map(|name| (name.clone(), score(name))).collect()
}

/// Keeps the nodes on which the pod would fit by our filters too once the victims are gone.
async fn preempt(State(scheduler): State<Scheduler>, body: Bytes) -> Response {
    let args: PreemptArgs = match read(&scheduler, &body) {
        Ok(args) => args,
        Err(refusal) => return *refusal,
    };
    let pod = unplaced(&args.pod, wire::like(&scheduler.act.world, &args.pod));
    let mut victims = victims(args);
    {
        let mut board = scheduler.act.board.lock().expect("no holder of the lock panics");
        victims.retain(|node, victims| {
            let uids: Vec<String> = victims.pods.iter().map(|named| named.uid.clone()).collect();
            board.fits_without(&pod, node, &uids)
        });
    }
    answer(&Preempted { node_name_to_meta_victims: victims })
}

fn victims(args: PreemptArgs) -> BTreeMap<String, Victims<Named>> {
    let mut all = args.named.unwrap_or_default();
    for (node, Victims { pods, violations }) in args.whole.unwrap_or_default() {
        let named = |pod: Pod| Named { uid: pod.metadata.uid.unwrap_or_default() };
        all.insert(node, Victims { pods: pods.into_iter().map(named).collect(), violations });
    }
    all
}

async fn bind(State(scheduler): State<Scheduler>, body: Bytes) -> Response {
    let args: BindArgs = match read(&scheduler, &body) {
        Ok(args) => args,
        Err(refusal) => return *refusal,
    };
    let error = bind_to(&scheduler, args).await.err().unwrap_or_default();
    answer(&Bound { error })
}

async fn bind_to(scheduler: &Scheduler, args: BindArgs) -> Result<(), String> {
    let act = &scheduler.act;
    let key = Key::new(args.namespace, args.name);
    // The watch may be behind whoever asks.
    let object = match act.world.pods.at(&key) {
        Some(object) if object.metadata.uid.as_deref() == Some(&args.uid) => object,
        _ => {
            let api: Api<Pod> = Api::namespaced(act.client.clone(), &key.namespace);
            let read = tokio::time::timeout(READ_LIMIT, api.get_opt(&key.name)).await;
            let read = read.map_err(|_| format!("pod {key} could not be read in time"))?;
            let found = read.map_err(|error| chain(&error))?;
            Arc::new(found.ok_or_else(|| format!("pod {key} not found"))?)
        }
    };
    let pod =
        Arc::new(snapshot::Pod { like: wire::like(&act.world, &object), ..snapshot::pod(&object) });
    if pod.uid != args.uid {
        return Err(format!("pod {key} is another one by now"));
    }
    if let Some(node) = &pod.node {
        return Err(format!("pod {key} is on {node} already"));
    }
    let waited = Duration::ZERO;
    let node = args.node;
    {
        let mut board = act.board.lock().expect("no holder of the lock panics");
        board.assume_at(&key, &pod, &node)?;
    }
    let outcome = Outcome::Bind(Placement { node, candidates: 1, score: 0 });
    // To the end, even where the caller goes away: it has room that would else be kept for ever.
    let decision = Decision { key, pod, outcome, waited, attempts: 0 };
    act.bind(decision).await.map_err(|error| chain(&error))
}

fn names(args: &Args) -> Vec<String> {
    match (&args.names, &args.nodes) {
        (Some(names), _) => names.clone(),
        (None, Some(nodes)) => nodes.items.iter().map(ResourceExt::name_any).collect(),
        (None, None) => Vec::new(),
    }
}

fn read<T: serde::de::DeserializeOwned>(
    scheduler: &Scheduler,
    body: &Bytes,
) -> Result<T, Box<Response>> {
    if !scheduler.is_ready() {
        let text = "the cluster has not been read yet";
        return Err(Box::new((StatusCode::SERVICE_UNAVAILABLE, text).into_response()));
    }
    serde_json::from_slice(body).map_err(|error| {
        Box::new(
            (StatusCode::BAD_REQUEST, format!("reading the arguments: {error}")).into_response(),
        )
    })
}

fn answer(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_span_the_whole_range_of_those_asked_for() {
        let rated: BTreeMap<String, i64> =
            [("a", 100), ("b", 150), ("c", 200)].map(|(name, worth)| (name.into(), worth)).into();
        let scores = |names: &[&str]| -> Vec<i64> {
            let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
            scale(&names, &rated).into_iter().map(|(_, score)| score).collect()
        };
        assert_eq!(scores(&["a", "b", "c", "full"]), [0, 5, 10, 0]);
        assert_eq!(scores(&["b"]), [10]);
        assert_eq!(scores(&["full"]), [0]);
        assert!(scores(&[]).is_empty());
    }

    #[test]
    fn arguments_are_read_in_go_s_case_and_in_json_s() {
        for text in [
            r#"{"Pod":{"metadata":{"name":"p"}},"Nodes":null,"NodeNames":["a"]}"#,
            r#"{"pod":{"metadata":{"name":"p"}},"nodenames":["a"]}"#,
            r#"{"Pod":{"metadata":{"name":"p"}},"Nodes":{"metadata":{},"items":[{"metadata":{"name":"a"}}]},"NodeNames":null}"#,
        ] {
            let args: Args = serde_json::from_str(text).unwrap();
            assert_eq!(names(&args), ["a"], "{text}");
        }
    }
}
