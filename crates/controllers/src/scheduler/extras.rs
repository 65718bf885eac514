//! What nodes are measured to use, from `metrics.k8s.io`; and one look at all that goes beyond
//! Kubernetes, for who only asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::Quantity;
use berth_scheduler::reservation::settle;
use berth_scheduler::{Load, snapshot};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::board::{Board, Hint};
use super::reservations;
use crate::driver::{World, chain, within};

/// How often measured use is looked at: as often as anybody measures it.
const EVERY: Duration = Duration::from_secs(10);
/// How often a server without metrics is asked again.
const SELDOM: Duration = Duration::from_secs(300);
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(10);

type Shared = Arc<Mutex<Board>>;

/// Keeps what nodes are measured to use on the board, where metrics.k8s.io is served.
pub async fn follow_load(client: Client, world: Arc<World>, board: Shared) {
    loop {
        let wait = match within(CALL_LIMIT, node_metrics(&client)).await {
            Ok(Some(measured)) => {
                let mut board = board.lock().expect("no holder of the lock panics");
                for node in world.nodes.all() {
                    let name = node.name_any();
                    let load = measured.get(&name).and_then(|used| share(used, &node));
                    board.cluster.set_load(&name, load);
                }
                board.wake(Hint::Anything, Instant::now());
                EVERY
            }
            Ok(None) => {
                forget_load(&world, &board);
                SELDOM
            }
            Err(error) => {
                // What is not known is not held against a node.
                forget_load(&world, &board);
                tracing::debug!(error = %chain(&error), "node metrics");
                EVERY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn forget_load(world: &World, board: &Shared) {
    let mut board = board.lock().expect("no holder of the lock panics");
    for node in world.nodes.all() {
        board.cluster.set_load(&node.name_any(), None);
    }
}

type Usage = BTreeMap<String, BTreeMap<String, String>>;

/// What each node uses; `None` where nobody serves it.
async fn node_metrics(client: &Client) -> kube::Result<Option<Usage>> {
    let kind = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "NodeMetrics");
    let resource = ApiResource::from_gvk_with_plural(&kind, "nodes");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(Some(
            list.items
                .into_iter()
                .map(|each| {
                    let usage = serde_json::from_value(each.data["usage"].clone());
                    (each.name_any(), usage.unwrap_or_default())
                })
                .collect(),
        )),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 503) => Ok(None),
        Err(error) => Err(error),
    }
}

fn share(used: &BTreeMap<String, String>, node: &Node) -> Option<Load> {
    let all = snapshot::node(node).allocatable;
    let read = |name: &str| used.get(name)?.parse::<Quantity>().ok();
    let percent = |used: i64, all: i64| (all > 0).then(|| used as f64 * 100.0 / all as f64);
    Some(Load {
        cpu: percent(read("cpu")?.millis(), all.cpu.0)?,
        memory: percent(read("memory")?.whole(), all.memory.0)?,
    })
}

/// Puts reservations and, where asked for, measured use on a board once; nothing is written.
///
/// # Errors
/// What could not be listed.
pub async fn look(client: &Client, world: &World, board: &Shared, load: bool) -> kube::Result<()> {
    let wanted = reservations::list(client).await?;
    let measured = if load { within(CALL_LIMIT, node_metrics(client)).await? } else { None };
    let mut board = board.lock().expect("no holder of the lock panics");
    if !wanted.is_empty() {
        settle(&mut board.cluster, &wanted, Timestamp::now().as_second());
    }
    for node in world.nodes.all() {
        let name = node.name_any();
        let used = measured.as_ref().and_then(|measured| measured.get(&name));
        board.cluster.set_load(&name, used.and_then(|used| share(used, &node)));
    }
    Ok(())
}
