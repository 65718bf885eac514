//! Which nodes are alive, and what becomes of pods on those that are not.
//!
//! A node that gives no sign of life for the grace is marked `Unknown` and tainted; pods that do not
//! tolerate a `NoExecute` taint are removed in their time.
//!
//! Two rules stand above it. Time during which nobody watched does not count: on start every grace
//! begins anew. And when no node at all is ready, the fault is more likely ours than theirs (on one
//! machine it always is): then nothing is evicted.
//!
//! Source: Kubernetes' node lifecycle and taint eviction controllers, "full disruption".

pub mod evict;
mod health;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use crate::driver::{Controller, Error, Key, Queue, World};
use health::Sign;

/// Where node leases are.
const LEASES: &str = "kube-node-lease";

/// Marks and taints nodes.
pub struct NodeLifecycle {
    grace: Duration,
    signs: Arc<Mutex<HashMap<String, Seen>>>,
}

/// The last sign of life of a node, and when it was new to us.
struct Seen {
    sign: Sign,
    at: Instant,
    silent: bool,
}

impl NodeLifecycle {
    /// A node that is silent for `grace` is taken for lost.
    pub fn new(grace: Duration) -> Self {
        Self { grace, signs: Arc::default() }
    }

    /// Names of silent nodes, and when the next one would become silent.
    fn silent(&self, world: &World) -> (Vec<String>, Option<Duration>) {
        let now = Instant::now();
        let mut signs = self.signs.lock().expect("no holder of the lock panics");
        signs.retain(|name, _| world.nodes.get("", name).is_some());
        for seen in signs.values_mut() {
            seen.silent = now.duration_since(seen.at) >= self.grace;
        }
        let silent = signs.iter().filter(|(_, seen)| seen.silent).map(|(name, _)| name.clone());
        let next =
            signs.values().filter(|seen| !seen.silent).map(|seen| seen.at + self.grace).min();
        (silent.collect(), next.map(|at| at.saturating_duration_since(now)))
    }
}

/// Takes note of a sign; whether it comes from a node that was taken for lost.
fn note(signs: &Mutex<HashMap<String, Seen>>, name: &str, change: impl FnOnce(&mut Sign)) -> bool {
    let mut signs = signs.lock().expect("no holder of the lock panics");
    let now = Instant::now();
    let seen = signs.entry(name.to_owned()).or_insert_with(|| Seen {
        sign: Sign::default(),
        at: now,
        silent: false,
    });
    let before = seen.sign.clone();
    change(&mut seen.sign);
    if before == seen.sign {
        return false;
    }
    seen.at = now;
    std::mem::take(&mut seen.silent)
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle";
    const WORKERS: usize = 1;
    /// All nodes are looked at together: whether one is lost depends on the others.
    type Key = ();

    fn wire(&self, world: &World, queue: &Queue<()>) {
        let (own, signs) = (queue.clone(), Arc::clone(&self.signs));
        world.nodes.subscribe(move |change| {
            let node = change.latest();
            let name = Key::of(&node.metadata).name;
            let back = note(&signs, &name, |sign| sign.heartbeat = health::heartbeat(node));
            let matters = match (change.old, change.new) {
                (Some(old), Some(new)) => health::state(old) != health::state(new),
                _ => true,
            };
            if back || matters {
                own.add(());
            }
        });
        // A lease is renewed every ten seconds: only one from a lost node wakes the controller.
        let (own, signs) = (queue.clone(), Arc::clone(&self.signs));
        world.leases.subscribe(move |change| {
            let lease = change.latest();
            let key = Key::of(&lease.metadata);
            if key.namespace != LEASES || change.new.is_none() {
                return;
            }
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            if note(&signs, &key.name, |sign| sign.lease = renewed.map(|time| time.0)) {
                own.add(());
            }
        });
    }

    async fn reconcile(&self, world: &World, (): &()) -> Result<Option<Duration>, Error> {
        let nodes = world.nodes.all();
        let (silent, next) = self.silent(world);
        let now = Timestamp::now();
        let api: Api<Node> = Api::all(world.client.clone());
        for change in health::plan(&nodes, &silent, now) {
            let params = PatchParams::default();
            if !change.conditions.is_empty() {
                tracing::warn!(node = %change.node, "no sign of life within the grace");
                let patch =
                    Patch::Strategic(json!({ "status": { "conditions": change.conditions } }));
                let node = api.patch_status(&change.node, &params, &patch).await?;
                world.nodes.remember(node);
            }
            if let Some(taints) = change.taints {
                // The version as planned on: a taint that another adds meanwhile is not lost.
                let patch = Patch::Merge(json!({
                    "metadata": { "resourceVersion": world
                        .nodes
                        .get("", &change.node)
                        .and_then(|node| node.metadata.resource_version.clone()) },
                    "spec": { "taints": taints },
                }));
                world.nodes.remember(api.patch(&change.node, &params, &patch).await?);
            }
        }
        Ok(next)
    }
}

/// For conditions and taints.
fn stamp(now: Timestamp) -> Time {
    Time(now)
}
