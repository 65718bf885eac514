//! What containers do of which a kubelet says nothing: load and I/O, from the accounts of their
//! processes. The answer is a part of what Berth's own nodes tell at `/stats/summary`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_api::app::logs::collector::{NODES_AT_ONCE, TOKEN_HEADER};
use berth_daemon::Tasks;
use futures::future::join_all;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::peers::{Peer, Peers};
use super::pods::Pods;
use super::processes;
use crate::meters::{Meters, Place, Reading, Running};
use crate::server::Refusal;

/// Whoever asks more often gets the same again.
const FRESH: Duration = Duration::from_secs(1);
/// For another node's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// No other node's answer is longer, bytes.
const LONGEST: usize = 4 << 20;

/// When processes were looked at, and what was read by the runtime's id.
type Last = Option<(Instant, Timestamp, Arc<HashMap<String, Reading>>)>;

/// Knows what the containers of this node's pods do.
pub(super) struct Stats {
    pods: Pods,
    meters: Meters,
    last: Mutex<Last>,
}

impl Stats {
    /// Looks at them until `tasks` stop.
    pub fn start(pods: Pods, tasks: &Tasks) -> Arc<Self> {
        let own = pods.clone();
        let meters = Meters::start(Box::new(move || running(&own)), tasks);
        Arc::new(Self { pods, meters, last: Mutex::default() })
    }

    /// The pods of `namespace` on this node.
    pub async fn here(self: &Arc<Self>, namespace: &str) -> Vec<Value> {
        let (stats, namespace) = (self.clone(), namespace.to_owned());
        let reading = tokio::task::spawn_blocking(move || stats.read(&namespace)).await;
        reading.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look at what containers do");
            Vec::new()
        })
    }

    fn read(&self, namespace: &str) -> Vec<Value> {
        let (at, readings) = self.readings();
        let at = at.to_string();
        let pod = |pod: &Arc<Pod>| {
            let containers: Vec<Value> = runs(pod)
                .filter_map(|(name, id, _)| {
                    let mut container = json!({ "name": name });
                    readings.get(&id)?.tell(&mut container, &at);
                    Some(container)
                })
                .collect();
            json!({
                "podRef": { "name": pod.name_any(), "namespace": namespace, "uid": pod.uid() },
                "containers": containers,
            })
        };
        let pods = self.pods.all();
        pods.iter().filter(|one| one.namespace().as_deref() == Some(namespace)).map(pod).collect()
    }

    fn readings(&self) -> (Timestamp, Arc<HashMap<String, Reading>>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, at, readings)) = last.as_ref().filter(|(at, ..)| at.elapsed() < FRESH) {
            return (*at, readings.clone());
        }
        let (at, readings) = (Timestamp::now(), Arc::new(self.meters.readings()));
        *last = Some((Instant::now(), at, readings.clone()));
        (at, readings)
    }

    /// The pods of `namespace` on `nodes`, and which of these do not tell.
    ///
    /// # Errors
    /// 400 with too many nodes, 503 when the collectors are not known.
    pub async fn gather(
        self: &Arc<Self>,
        peers: &Peers,
        namespace: &str,
        nodes: &[&str],
        token: &str,
    ) -> Result<Value, Refusal> {
        if nodes.len() > NODES_AT_ONCE {
            let text = format!("more than {NODES_AT_ONCE} nodes");
            return Err(Refusal(StatusCode::BAD_REQUEST, text));
        }
        let known = match nodes.iter().all(|node| *node == peers.own()) {
            true => Vec::new(),
            false => peers.recent().await?,
        };
        let answers = nodes.iter().map(async |node| {
            if *node == peers.own() {
                return Ok(self.here(namespace).await);
            }
            let peer = known.iter().find(|peer| peer.node == *node);
            let peer = peer.ok_or_else(|| "it has no collector".to_owned())?;
            there(peers, peer, namespace, token).await
        });
        let (mut pods, mut silent) = (Vec::new(), Vec::new());
        for (node, answer) in nodes.iter().zip(join_all(answers).await) {
            match answer {
                Ok(found) => pods.extend(found),
                Err(reason) => silent.push(json!({ "node": node, "reason": reason })),
            }
        }
        Ok(json!({ "pods": pods, "silent": silent }))
    }
}

/// What another node's collector tells.
async fn there(
    peers: &Peers,
    peer: &Peer,
    namespace: &str,
    token: &str,
) -> Result<Vec<Value>, String> {
    let address = peer.address.ok_or("its collector is not ready")?;
    let client = peers.client_of(address).map_err(|error| error.to_string())?;
    let path = format!("/v1/namespaces/{namespace}/stats/here");
    let request = http::Request::get(path).header(TOKEN_HEADER, token).body(Body::empty());
    let request = request.map_err(|error| error.to_string())?;
    let asked = tokio::time::timeout(ANSWER, async {
        let answer = client.send(request).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("its collector answers {}", answer.status()));
        }
        let read = Limited::new(answer.into_body(), LONGEST).collect().await;
        let bytes = read.map_err(|error| error.to_string())?.to_bytes();
        let mut answer: Value =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        Ok(answer["pods"].as_array_mut().map(std::mem::take).unwrap_or_default())
    });
    asked.await.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?
}

/// The containers of `pods` that have a process.
fn running(pods: &Pods) -> Vec<Running> {
    let pods = pods.all();
    let all: Vec<_> = pods.iter().flat_map(|pod| runs(pod)).collect();
    let ids: HashSet<String> = all.iter().map(|(_, id, _)| id.clone()).collect();
    let mut numbers = processes::numbers(&ids);
    let running = |(_, id, started_at): (String, String, Option<Timestamp>)| {
        let place = Some(Place::Processes(numbers.remove(&id)?));
        Some(Running { id, place, started_at })
    };
    all.into_iter().filter_map(running).collect()
}

/// Name, the runtime's id, and since when it runs, of each container that does.
fn runs(pod: &Pod) -> impl Iterator<Item = (String, String, Option<Timestamp>)> {
    let status = pod.status.iter();
    let all = status.flat_map(|status| {
        let first = status.init_container_statuses.iter().flatten();
        let later = status.ephemeral_container_statuses.iter().flatten();
        first.chain(status.container_statuses.iter().flatten()).chain(later)
    });
    all.filter_map(|status: &ContainerStatus| {
        let running = status.state.as_ref()?.running.as_ref()?;
        // `containerd://ID`
        let (_, id) = status.container_id.as_ref()?.split_once("://")?;
        let since = running.started_at.as_ref().map(|time| time.0);
        Some((status.name.clone(), id.to_owned(), since))
    })
}
