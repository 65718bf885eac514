//! Looks once a minute at what all pods use, and writes hours.
//!
//! What pods ask for comes from a watch, what they use from `metrics.k8s.io`. Of several consoles of
//! one database, the first to claim a minute takes its sample; each writes rows of its own, which
//! the report adds up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::Quantity;
use berth_daemon::Tasks;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::MissedTickBehavior;

use super::tally::{Amount, Seen, Tally};
use super::{HOUR, MINUTE, Usage};
use crate::database::now;

const EVERY: Duration = Duration::from_secs(60);
/// Samples between two writes.
const WRITE_EVERY: u32 = 5;
const CALL: Duration = Duration::from_secs(30);
/// What a page of a list has.
const PAGE: u32 = 500;
/// Under which an App's pods are known.
const APP: &str = "app.kubernetes.io/name";

/// What a pod asks for, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    app: Arc<str>,
    node: Arc<str>,
    requested: Amount,
}

type Pods = HashMap<(Arc<str>, String), Asked>;

#[derive(Deserialize)]
struct Measured {
    items: Vec<MeasuredPod>,
}

#[derive(Deserialize)]
struct MeasuredPod {
    metadata: Name,
    #[serde(default)]
    containers: Vec<MeasuredContainer>,
}

#[derive(Deserialize)]
struct MeasuredNodes {
    items: Vec<MeasuredNode>,
}

#[derive(Deserialize)]
struct MeasuredNode {
    metadata: Name,
    #[serde(default)]
    usage: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct MeasuredContainer {
    #[serde(default)]
    usage: HashMap<String, String>,
}

/// Follows the pods; ends never.
pub(super) async fn follow(client: Client, pods: Arc<Mutex<Option<Followed>>>) {
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client), config).default_backoff());
    let mut next = Pods::default();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "following pods for the usage report");
                continue;
            }
        };
        let mut held = pods.lock().expect("nothing panics under this lock");
        match event {
            watcher::Event::Init => next.clear(),
            watcher::Event::InitApply(pod) => put(&mut next, &pod),
            watcher::Event::InitDone => *held = Some(Followed(std::mem::take(&mut next))),
            watcher::Event::Apply(pod) => {
                if let Some(held) = held.as_mut() {
                    put(&mut held.0, &pod);
                }
            }
            watcher::Event::Delete(pod) => {
                if let Some(held) = held.as_mut() {
                    held.0.remove(&key(&pod));
                }
            }
        }
    }
}

/// The pods that hold room on a node.
#[derive(Debug, Default)]
pub(super) struct Followed(Pods);

fn key(pod: &Pod) -> (Arc<str>, String) {
    (pod.namespace().unwrap_or_default().into(), pod.name_any())
}

fn put(pods: &mut Pods, pod: &Pod) {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let (Some(node), false) = (node, matches!(phase, Some("Succeeded" | "Failed"))) else {
        pods.remove(&key(pod));
        return;
    };
    let app = pod.labels().get(APP).map(String::as_str).unwrap_or_default();
    let requested = spec.map(requested).unwrap_or_default();
    pods.insert(key(pod), Asked { app: app.into(), node: node.into(), requested });
}

/// As the scheduler counts: all containers and sidecars, or the largest init container.
fn requested(spec: &k8s_openapi::api::core::v1::PodSpec) -> Amount {
    let of = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|all| all.requests.as_ref());
        let read = |what: &str| requests?.get(what)?.0.parse::<Quantity>().ok();
        Amount {
            cpu: read("cpu").map_or(0, |cpu| cpu.millis()),
            memory: read("memory").map_or(0, |memory| memory.whole()),
        }
    };
    let add = |a: Amount, b: Amount| Amount { cpu: a.cpu + b.cpu, memory: a.memory + b.memory };
    let (mut sidecars, mut largest) = (Amount::default(), Amount::default());
    for init in spec.init_containers.iter().flatten() {
        let own = add(of(init), sidecars);
        largest.cpu = largest.cpu.max(own.cpu);
        largest.memory = largest.memory.max(own.memory);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = own;
        }
    }
    let all = spec.containers.iter().map(of).fold(sidecars, add);
    Amount { cpu: all.cpu.max(largest.cpu), memory: all.memory.max(largest.memory) }
}

/// Takes samples until `tasks` stop, and writes what it has.
pub(super) async fn run(
    usage: Usage,
    client: Client,
    pods: Arc<Mutex<Option<Followed>>>,
    tasks: Tasks,
) {
    let writer = format!("{:016x}", rand::random::<u64>());
    let mut turn = tokio::time::interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut hour, mut tally, mut unwritten) = (now() / HOUR, Tally::default(), 0);
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = tasks.stopping() => break,
        }
        let at = now();
        if at / HOUR != hour {
            match usage.write(hour, &writer, &tally).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "an hour of use cannot be written"),
            }
            (hour, tally, unwritten) = (at / HOUR, Tally::default(), 0);
            if let Err(error) = usage.prune(at).await {
                tracing::warn!(%error, "cannot remove old hours of use");
            }
        }
        match usage.claim(at / MINUTE).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::warn!(%error, "use is not looked at");
                continue;
            }
        }
        let looked = tokio::select! {
            seen = look(&client, &pods) => seen,
            () = tasks.stopping() => break,
        };
        let Some(seen) = looked else { continue };
        if let Err(error) = usage.keep(at / MINUTE, &seen).await {
            tracing::warn!(%error, "a minute of use cannot be written");
        }
        tally.sample(seen);
        unwritten += 1;
        if unwritten >= WRITE_EVERY {
            match usage.write(hour, &writer, &tally).await {
                Ok(()) => unwritten = 0,
                Err(error) => tracing::warn!(%error, "use cannot be written"),
            }
        }
    }
    if unwritten > 0
        && let Err(error) = usage.write(hour, &writer, &tally).await
    {
        tracing::warn!(%error, "the last minutes of use cannot be written");
    }
}

/// All pods now; nothing where nobody measures.
async fn look(client: &Client, pods: &Mutex<Option<Followed>>) -> Option<Vec<Seen>> {
    let used = measured(client).await?;
    seen(pods, &used)
}

/// What pods use, by namespace and name; nothing where nobody measures.
pub(super) type Used = HashMap<(String, String), Amount>;

/// What all pods use now.
pub(super) async fn measured(client: &Client) -> Option<Used> {
    let all: Measured = measurements(client, "pods").await?;
    let of = |pod: MeasuredPod| ((pod.metadata.namespace, pod.metadata.name), sum(&pod.containers));
    Some(all.items.into_iter().map(of).collect())
}

/// What nodes use now, by name; nothing where nobody measures.
pub(super) async fn measured_nodes(client: &Client) -> Option<HashMap<String, Amount>> {
    let all: MeasuredNodes = measurements(client, "nodes").await?;
    let of =
        |node: MeasuredNode| (node.metadata.name, sum(&[MeasuredContainer { usage: node.usage }]));
    Some(all.items.into_iter().map(of).collect())
}

async fn measurements<T: DeserializeOwned>(client: &Client, what: &str) -> Option<T> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/{what}");
    let request = http::Request::get(path).body(Vec::new()).expect("the path is one");
    match tokio::time::timeout(CALL, client.request::<T>(request)).await {
        Ok(Ok(measured)) => Some(measured),
        Ok(Err(error)) => {
            tracing::debug!(%error, what, "what is used");
            None
        }
        Err(_) => {
            tracing::debug!(what, "what is used does not come");
            None
        }
    }
}

/// What holds room now, and what of it is `used`; nothing before the pods are known.
pub(super) fn seen(pods: &Mutex<Option<Followed>>, used: &Used) -> Option<Vec<Seen>> {
    let held = pods.lock().expect("nothing panics under this lock");
    let seen = held.as_ref()?.0.iter().map(|((namespace, name), asked)| Seen {
        namespace: namespace.clone(),
        app: asked.app.clone(),
        node: asked.node.clone(),
        requested: asked.requested,
        used: used.get(&(namespace.to_string(), name.clone())).copied().unwrap_or_default(),
    });
    Some(seen.collect())
}

fn sum(containers: &[MeasuredContainer]) -> Amount {
    let read = |one: &MeasuredContainer, what| one.usage.get(what)?.parse::<Quantity>().ok();
    Amount {
        cpu: containers.iter().filter_map(|one| read(one, "cpu")).map(|cpu| cpu.millis()).sum(),
        memory: containers.iter().filter_map(|one| read(one, "memory")).map(|m| m.whole()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(cpu: &str, memory: &str) -> Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_start() {
        let check = |spec: Value, cpu: i64, mib: i64| {
            let amount = requested(&serde_json::from_value(spec.clone()).unwrap());
            assert_eq!((amount.cpu, amount.memory >> 20), (cpu, mib), "{spec}");
        };
        let two = json!([container("500m", "64Mi"), container("1", "64Mi")]);
        check(json!({ "containers": two }), 1500, 128);
        check(json!({ "containers": [{ "name": "c" }] }), 0, 0);
        let init = container("2", "32Mi");
        check(json!({ "containers": two, "initContainers": [init] }), 2000, 128);
        let mut sidecar = container("100m", "16Mi");
        sidecar["restartPolicy"] = json!("Always");
        check(json!({ "containers": two, "initContainers": [sidecar] }), 1600, 144);
    }

    #[test]
    fn pods_without_a_node_and_those_that_ended_hold_no_room() {
        let mut pods = Pods::default();
        let pod = |node: Option<&str>, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "namespace": "n", "labels": { APP: "web" } },
                "spec": { "nodeName": node, "containers": [container("1", "1Mi")] },
                "status": { "phase": phase },
            }))
            .unwrap()
        };
        put(&mut pods, &pod(None, "Pending"));
        assert!(pods.is_empty());
        put(&mut pods, &pod(Some("a"), "Running"));
        assert_eq!(pods.values().next().unwrap().app.as_ref(), "web");
        put(&mut pods, &pod(Some("a"), "Succeeded"));
        assert!(pods.is_empty());
    }
}
