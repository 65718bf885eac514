//! Lends what online pods leave unused to batch pods, and takes it back in time.
//!
//! ```text
//!  ConfigMap kube-system/berth-reclaim: pools, hours, ceilings ─┐
//!  metrics.k8s.io: what nodes and batch pods use ───────────────┼─▶ plan ─▶ nodes' status: offers
//!  nodes, pods that ask for batch resources ────────────────────┘      └──▶ evictions, budgets asked
//! ```
//!
//! Any Kubernetes with `metrics.k8s.io` will do: offers are extended resources, which every scheduler
//! counts, and who goes is evicted by the API. What is decided is in `berth_scheduler::reclaim`.
//!
//! # Guarantees
//! Without the ConfigMap nothing is offered, and what was offered is taken away. A text that cannot
//! be meant changes nothing, and is told.
//!
//! # Assumptions
//! One process at a time works (the scheduler's Lease, where there are several). After a change of
//! process offers are raised only after another quiet while.

mod measured;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use berth_scheduler::amount::{Amounts, Bytes, Millicores};
use berth_scheduler::reclaim::{
    Amount, BatchPod, CPU, Eviction, MEMORY, Plan, Pool, Reclaimer, Rules, View, Why,
};
use berth_scheduler::snapshot;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::driver::{Key, World, chain, post, within};
use measured::Measured;

/// The ConfigMap's namespace and name.
pub const CONFIG_MAP: (&str, &str) = ("kube-system", "berth-reclaim");
/// The key of the rules in it.
pub const CONFIG_KEY: &str = "reclaim.yaml";
/// No call takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Calls under way at once.
const AT_ONCE: usize = 16;

/// How it looks.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often.
    pub every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { every: Duration::from_secs(10) }
    }
}

/// Lends in `tasks`, but only while `leads` says so.
pub fn start(
    client: Client,
    world: &Arc<World>,
    config: Config,
    leads: impl Fn() -> bool + Send + Sync + 'static,
    tasks: &Tasks,
) {
    let reporter = Reporter { controller: "berth-reclaim".to_owned(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    let mut lender = Lender {
        client,
        recorder,
        world: Arc::clone(world),
        rules: Rules::default(),
        zones: Vec::new(),
        text: None,
        reclaimer: Reclaimer::default(),
    };
    tasks.spawn_until_stop("reclaim", async move {
        lender.world.pods.ready().await;
        lender.world.nodes.ready().await;
        loop {
            if !leads() {
                lender.reclaimer = Reclaimer::default();
            } else if let Err(error) = lender.look().await {
                tracing::debug!(error = %chain(&error), "lending to batch pods");
            }
            tokio::time::sleep(config.every).await;
        }
    });
}

struct Lender {
    client: Client,
    recorder: Recorder,
    world: Arc<World>,
    rules: Rules,
    /// The clock of each pool.
    zones: Vec<TimeZone>,
    /// What the rules were read of.
    text: Option<String>,
    reclaimer: Reclaimer,
}

impl Lender {
    async fn look(&mut self) -> kube::Result<()> {
        self.read_rules().await?;
        let nodes = self.world.nodes.all();
        if self.rules.pools.is_empty() && !nodes.iter().any(|node| offered(node).is_some()) {
            return Ok(());
        }
        let measured = within(CALL_LIMIT, measured::read(&self.client)).await;
        let measured = measured.unwrap_or_else(|error| {
            // What is not known is offered to nobody.
            tracing::debug!(error = %chain(&error), "measured use");
            Measured::default()
        });
        let mut batch = batch_pods(&self.world.pods.all(), &measured);
        let views: Vec<View> = nodes
            .iter()
            .map(|node| view(node, &measured, batch.remove(&node.name_any()).unwrap_or_default()))
            .collect();
        let now = Timestamp::now();
        let (pools, zones) = (&self.rules.pools, &self.zones);
        let minute = |pool: &Pool| {
            let zone = pools.iter().position(|each| each == pool).and_then(|at| zones.get(at));
            let clock = now.to_zoned(zone.cloned().unwrap_or(TimeZone::UTC));
            u16::try_from(i32::from(clock.hour()) * 60 + i32::from(clock.minute())).unwrap_or(0)
        };
        let plan = self.reclaimer.plan(&self.rules, &views, now.as_second(), minute);
        self.act(plan, now.as_second()).await;
        Ok(())
    }

    async fn read_rules(&mut self) -> kube::Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), CONFIG_MAP.0);
        let found = within(CALL_LIMIT, maps.get_opt(CONFIG_MAP.1)).await?;
        let text = found.and_then(|map| map.data?.remove(CONFIG_KEY)).unwrap_or_default();
        if self.text.as_ref() != Some(&text) {
            match read(&text) {
                Ok((rules, zones)) => (self.rules, self.zones) = (rules, zones),
                Err(error) => {
                    tracing::warn!(error, "{}/{} is not followed", CONFIG_MAP.0, CONFIG_MAP.1);
                }
            }
            self.text = Some(text);
        }
        Ok(())
    }

    async fn act(&mut self, plan: Plan, now: i64) {
        for some in plan.offers.chunks(AT_ONCE) {
            let mut calls = Vec::new();
            for (node, offer) in some {
                calls.push(self.offer(node, *offer));
            }
            futures::future::join_all(calls).await;
        }
        for each in &plan.evictions {
            // Once it is evicted it may be gone at once.
            let pod = self.world.pods.get(&each.namespace, &each.name);
            match within(CALL_LIMIT, self.evict(each)).await {
                Ok(()) => self.tell(each, pod.as_deref()).await,
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    let pod = format!("{}/{}", each.namespace, each.name);
                    tracing::debug!(pod, error = %chain(&error), "eviction");
                    self.reclaimer.refused(&each.uid, now);
                }
            }
        }
    }

    async fn offer(&self, name: &str, offer: Option<Amount>) {
        let amounts = match offer {
            Some(Amount { cpu, memory }) => {
                json!({ CPU: cpu.0.to_string(), MEMORY: memory.0.to_string() })
            }
            None => json!({ CPU: Value::Null, MEMORY: Value::Null }),
        };
        let status = json!({ "status": { "capacity": amounts, "allocatable": amounts } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(status);
        let params = PatchParams::default();
        match within(CALL_LIMIT, nodes.patch_status(name, &params, &patch)).await {
            Ok(node) => self.world.nodes.remember(node),
            Err(error) => tracing::debug!(node = name, error = %chain(&error), "offer"),
        }
    }

    /// As the very pod that was meant; its budget is asked. Without a version, which differs between
    /// Kubernetes': the server knows what is posted there.
    async fn evict(&self, each: &Eviction) -> kube::Result<()> {
        let Eviction { namespace, name, uid, .. } = each;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let body = json!({ "metadata": { "namespace": namespace, "name": name },
            "deleteOptions": { "preconditions": { "uid": uid } } });
        post(&self.client, &path, &body).await
    }

    async fn tell(&self, each: &Eviction, object: Option<&Pod>) {
        let why = match each.why {
            Why::Pressure => "uses more than it may while batch pods are there",
            Why::Over => "lends nothing at this hour",
        };
        let pod = format!("{}/{}", each.namespace, each.name);
        tracing::info!(pod, node = each.node, "evicted: the node {why}");
        let Some(object) = object else { return };
        let event = Event {
            type_: EventType::Normal,
            reason: "BatchEvicted".to_owned(),
            note: Some(format!("The node {} {why}", each.node)),
            action: "Evicting".to_owned(),
            secondary: None,
        };
        let about = object.object_ref(&());
        let told = self.recorder.publish(&event, &about);
        if let Err(error) = within(CALL_LIMIT, told).await {
            tracing::debug!(error = %chain(&error), "event");
        }
    }
}

/// Rules and the clock of each of their pools.
fn read(text: &str) -> Result<(Rules, Vec<TimeZone>), String> {
    if text.trim().is_empty() {
        return Ok((Rules::default(), Vec::new()));
    }
    let rules: Rules = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let rules = rules.validate().map_err(|error| error.to_string())?;
    let zone = |pool: &Pool| {
        let wrong = |_| format!("timeZone is `{}`; one as Europe/Berlin is meant", pool.time_zone);
        TimeZone::get(&pool.time_zone).map_err(wrong)
    };
    let zones = rules.pools.iter().map(zone).collect::<Result<Vec<_>, _>>()?;
    Ok((rules, zones))
}

/// What a node offers now; `None` where it offers nothing, not even none.
fn offered(node: &Node) -> Option<Amount> {
    let all = node.status.as_ref()?.allocatable.as_ref()?;
    if !all.contains_key(CPU) && !all.contains_key(MEMORY) {
        return None;
    }
    Some(batch(&snapshot::node(node).allocatable))
}

fn batch(amounts: &Amounts) -> Amount {
    let of = |name: &str| amounts.extended.get(name).copied().unwrap_or(0);
    Amount { cpu: Millicores(of(CPU)), memory: Bytes(of(MEMORY)) }
}

fn view(node: &Node, measured: &Measured, batch: Vec<BatchPod>) -> View {
    let seen = snapshot::node(node);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|each| each.type_ == "Ready" && each.status == "True");
    let (measured, used) = match measured.nodes.get(&seen.name) {
        Some((at, used)) => (*at, Some(*used)),
        None => (0, None),
    };
    View {
        room: Amount { cpu: seen.allocatable.cpu, memory: seen.allocatable.memory },
        open: ready && !seen.unschedulable,
        offered: offered(node),
        name: seen.name,
        labels: seen.labels,
        used,
        measured,
        batch,
    }
}

/// Batch pods that have not ended, by node.
fn batch_pods(pods: &[Arc<Pod>], measured: &Measured) -> BTreeMap<String, Vec<BatchPod>> {
    let mut all: BTreeMap<String, Vec<BatchPod>> = BTreeMap::new();
    for object in pods {
        let Some(spec) = &object.spec else { continue };
        let Some(node) = spec.node_name.clone() else { continue };
        let asks = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|own| {
            let requests = own.resources.as_ref().and_then(|all| all.requests.as_ref());
            requests.is_some_and(|all| all.contains_key(CPU) || all.contains_key(MEMORY))
        });
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        if !asks || matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let pod = snapshot::pod(object);
        let used = measured.pods.get(&Key::of(&object.metadata)).copied();
        let created = object.metadata.creation_timestamp.as_ref();
        all.entry(node).or_default().push(BatchPod {
            asked: batch(&pod.requests),
            used,
            created: created.map_or(0, |time| time.0.as_second()),
            priority: pod.priority,
            terminating: pod.terminating,
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_whole_or_not_at_all() {
        assert_eq!(read("").unwrap(), (Rules::default(), Vec::new()));
        let text = "pools:\n- hours: 22:00-07:00\n  timeZone: Europe/Berlin\n  nodeSelector: {a: b}\n- {}\n";
        let (rules, zones) = read(text).unwrap();
        assert_eq!((rules.pools.len(), zones[0].iana_name()), (2, Some("Europe/Berlin")));
        for (wrong, expected) in [
            ("pools: [{timeZone: Mars/Base}]", "timeZone is `Mars/Base`"),
            ("pools: [{hours: 7}]", "hours"),
            ("pool: []", "unknown field `pool`"),
            ("pools: [{ceiling: 0}]", "ceiling is 0"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn only_pods_that_ask_for_batch_resources_are_batch_pods() {
        let pod = |name: &str, requests: Value, phase: &str| {
            let object = json!({ "metadata": { "namespace": "d", "name": name, "uid": name },
                "spec": { "nodeName": "n", "priority": 3, "containers": [
                    { "name": "c", "resources": { "requests": requests } }] },
                "status": { "phase": phase } });
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let pods = [
            pod("online", json!({ "cpu": "1" }), "Running"),
            pod("idle", json!({}), "Running"),
            pod("batch", json!({ CPU: "1500", MEMORY: "1Gi" }), "Running"),
            pod("over", json!({ CPU: "1500" }), "Succeeded"),
        ];
        let found = batch_pods(&pods, &Measured::default());
        let found: Vec<&BatchPod> = found["n"].iter().collect();
        assert_eq!(found.len(), 1);
        let asked = Amount { cpu: Millicores(1500), memory: Bytes(1 << 30) };
        assert_eq!((found[0].name.as_str(), found[0].priority), ("batch", 3));
        assert_eq!((found[0].asked, found[0].used), (asked, None));
    }
}
