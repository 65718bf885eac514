//! What goes beyond Kubernetes and needs the API: measured use of nodes, and reservations.
//!
//! A reservation is a ConfigMap with the label `berth.dev/reservation`; see the decision record 0004.
//! Its slots are written back as an annotation, so that a restart finds them where they were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::{Quantity, Selector};
use berth_scheduler::amount::{Amounts, Bytes, Millicores};
use berth_scheduler::reservation::{Reservation, settle};
use berth_scheduler::{Load, snapshot};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Board, Hint};
use super::leader::Leadership;
use crate::driver::{Key, World, chain};

/// Marks the ConfigMaps that are reservations.
const LABEL: &str = "berth.dev/reservation";
/// Where the slots are, written by the scheduler.
const SLOTS: &str = "berth.dev/reservation-slots";
/// How often reservations and measured use are looked at.
const EVERY: Duration = Duration::from_secs(10);
/// How often a server without metrics is asked again.
const SELDOM: Duration = Duration::from_secs(300);
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(10);

type Shared = Arc<Mutex<Board>>;

/// Keeps what nodes are measured to use on the board, where metrics.k8s.io is served.
pub async fn follow_load(client: Client, world: Arc<World>, board: Shared) {
    loop {
        let wait = match limited(node_metrics(&client)).await {
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
    let wanted = limited(list(client)).await?;
    let measured = if load { limited(node_metrics(client)).await? } else { None };
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

/// Sets and keeps the slots of all reservations.
pub async fn follow_reservations(
    client: Client,
    board: Shared,
    changed: Arc<Notify>,
    leadership: Leadership,
) {
    let mut held = false;
    loop {
        if !leadership.holds() {
            tokio::time::sleep(EVERY).await;
            continue;
        }
        match limited(list(&client)).await {
            Ok(wanted) => {
                // Nothing to hold and nothing held: the lock is left to those who decide.
                if held || !wanted.is_empty() {
                    held = !wanted.is_empty();
                    let settled = {
                        let mut board = board.lock().expect("no holder of the lock panics");
                        let now = Timestamp::now().as_second();
                        let (settled, missing) = settle(&mut board.cluster, &wanted, now);
                        if missing > 0 {
                            tracing::info!(missing, "reserved slots without room");
                        }
                        board.wake(Hint::PodGone, Instant::now());
                        settled
                    };
                    changed.notify_one();
                    for (old, new) in pairs(&wanted, &settled) {
                        if let Err(error) = limited(store(&client, old, new)).await {
                            tracing::warn!(name = new.name, error = %chain(&error), "reservation");
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(error = %chain(&error), "reservations"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn pairs<'a>(
    old: &'a [Reservation],
    new: &'a [Reservation],
) -> impl Iterator<Item = (&'a Reservation, &'a Reservation)> {
    new.iter().filter_map(|new| {
        let old = old.iter().find(|old| (&old.namespace, &old.name) == (&new.namespace, &new.name));
        old.map(|old| (old, new))
    })
}

async fn list(client: &Client) -> kube::Result<Vec<Reservation>> {
    let api: Api<ConfigMap> = Api::all(client.clone());
    let list = api.list(&ListParams::default().labels(LABEL)).await?;
    let mut wanted: Vec<Reservation> = Vec::new();
    for object in list.items {
        match read(&object) {
            Ok(reservation) => wanted.push(reservation),
            Err(reason) => {
                let key = Key::of(&object.metadata);
                tracing::warn!(config_map = %key, reason, "no reservation");
            }
        }
    }
    Ok(wanted)
}

/// The reservation that a ConfigMap describes.
///
/// # Errors
/// Which key is wrong, and how.
fn read(object: &ConfigMap) -> Result<Reservation, String> {
    let data = object.data.clone().unwrap_or_default();
    let known = ["selector", "slots", "cpu", "memory", "until", "ttl"];
    if let Some(key) = data.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("{key} is not known; there are {}", known.join(", ")));
    }
    let amount = |key: &str| match data.get(key) {
        Some(text) => text
            .parse::<Quantity>()
            .map(Some)
            .map_err(|_| format!("{key} is {text}; a quantity is wanted")),
        None => Ok(None),
    };
    let slots = data.get("slots").map_or(Ok(1), |text| {
        text.parse::<i64>()
            .ok()
            .filter(|slots| (1..=10_000).contains(slots))
            .ok_or_else(|| format!("slots is {text}; 1 to 10000 is wanted"))
    })?;
    let selector = data.get("selector").ok_or("selector is missing: whose pods is it for?")?;
    let selector: Selector =
        selector.parse().map_err(|error| format!("selector is {selector}; {error}"))?;
    let until = match (data.get("until"), data.get("ttl")) {
        (Some(text), _) => {
            let at = text.parse::<Timestamp>();
            Some(at.map_err(|_| format!("until is {text}; a time is wanted"))?.as_second())
        }
        (None, Some(text)) => {
            let seconds = text.parse::<i64>();
            let seconds =
                seconds.map_err(|_| format!("ttl is {text}; whole seconds are wanted"))?;
            let created = object.metadata.creation_timestamp.as_ref();
            Some(created.map_or(0, |at| at.0.as_second()) + seconds)
        }
        (None, None) => None,
    };
    let (set, floors) = slots_of(object);
    Ok(Reservation {
        name: object.name_any(),
        namespace: object.namespace().unwrap_or_default(),
        selector,
        slots,
        slot: Amounts {
            cpu: Millicores(amount("cpu")?.map_or(0, |amount| amount.millis())),
            memory: Bytes(amount("memory")?.map_or(0, |amount| amount.whole())),
            ..Amounts::default()
        },
        until,
        floors,
        set,
        ..Reservation::default()
    })
}

#[derive(Deserialize)]
struct Slot {
    set: i64,
    floor: i64,
}

fn slots_of(object: &ConfigMap) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let stored = object.annotations().get(SLOTS);
    let slots: BTreeMap<String, Slot> =
        stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let set = slots.iter().map(|(node, slot)| (node.clone(), slot.set)).collect();
    (set, slots.into_iter().map(|(node, slot)| (node, slot.floor)).collect())
}

async fn store(client: &Client, old: &Reservation, new: &Reservation) -> kube::Result<()> {
    if (&old.set, &old.floors) == (&new.set, &new.floors) {
        return Ok(());
    }
    let slots: BTreeMap<&String, serde_json::Value> = new
        .set
        .iter()
        .map(|(node, set)| (node, json!({ "set": set, "floor": new.floors.get(node) })))
        .collect();
    let text = serde_json::to_string(&slots).map_err(kube::Error::SerdeError)?;
    let patch = json!({ "metadata": { "annotations": { SLOTS: text } } });
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &new.namespace);
    api.patch(&new.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn limited<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(CALL_LIMIT, call)
        .await
        .unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_is_read_as_a_reservation_or_refused_by_key() {
        let config_map = |data: serde_json::Value| -> ConfigMap {
            serde_json::from_value(json!({
                "metadata": { "name": "r", "namespace": "shop",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": { SLOTS: r#"{"a": {"set": 2, "floor": 3}}"# } },
                "data": data,
            }))
            .unwrap()
        };
        let whole = json!({ "selector": "app=web", "slots": "2", "cpu": "500m", "ttl": "60" });
        let found = read(&config_map(whole)).unwrap();
        assert_eq!((found.slots, found.slot.cpu), (2, Millicores(500)));
        assert_eq!((found.set["a"], found.floors["a"]), (2, 3));
        let created = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second();
        assert_eq!(found.until, Some(created + 60));
        let wrong = |data| read(&config_map(data)).unwrap_err();
        assert!(wrong(json!({})).contains("selector is missing"));
        assert!(wrong(json!({ "selector": "a=b", "slots": "0" })).contains("slots is 0"));
        assert!(wrong(json!({ "selector": "a=b", "gpu": "1" })).contains("gpu is not known"));
        assert!(wrong(json!({ "selector": "a=b", "cpu": "much" })).contains("cpu is much"));
    }
}
