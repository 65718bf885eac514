//! Records a live cluster: nodes, pods that have not ended, budgets, measured use.
//!
//! Any Kubernetes will do. Use comes from `metrics.k8s.io`; a cluster without it is recorded without.
//! A pod's shares of a device are read from the extended resource `nvidia.com/gpu` (whole ones), or
//! from the annotations `berth.dev/gpu-milli` (thousandths of one device) and `berth.dev/gpu-models`.

mod spec;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::time::Duration;

use berth_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service, Toleration};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::Deserialize;

use crate::recording::{RecordedBudget, RecordedNode, RecordedPod, RecordedUse, Recording};

/// The extended resource of whole devices.
const DEVICES: &str = "nvidia.com/gpu";
/// The label that NVIDIA's feature discovery gives a node.
const MODEL: &str = "nvidia.com/gpu.product";
/// Thousandths of one device.
const SHARE: &str = "berth.dev/gpu-milli";
/// Models that will do, between commas.
const MODELS: &str = "berth.dev/gpu-models";
const PAGE: u32 = 500;
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a cluster was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A list was refused.
    #[error("listing {what}")]
    List {
        /// Of what.
        what: &'static str,
        /// What the API server says.
        #[source]
        source: kube::Error,
    },
    /// No answer.
    #[error("listing {what}: no answer within {} s", DEADLINE.as_secs())]
    Deadline {
        /// Of what.
        what: &'static str,
    },
    /// A pod's spec cannot be written.
    #[error("keeping the spec of {whose}")]
    Spec {
        /// The pod's name.
        whose: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An amount that is none.
    #[error("{whose} has an amount of {what} that cannot be read: `{text}`")]
    Amount {
        /// A node's or pod's name.
        whose: String,
        /// Which resource.
        what: String,
        /// What it says.
        text: String,
    },
}

/// Records what is there now. The recording's second 0 is when the oldest pod was made.
///
/// # Errors
/// [`RecordError`]: nothing is half recorded.
pub async fn record(client: &Client, source: &str) -> Result<Recording, RecordError> {
    let nodes = list(Api::<Node>::all(client.clone()), "nodes").await?;
    let pods = list(Api::<Pod>::all(client.clone()), "pods").await?;
    let budgets = budgets(client).await?;
    let services = list(Api::<Service>::all(client.clone()), "services").await?;
    let sets = list(Api::<ReplicaSet>::all(client.clone()), "replica sets").await?;
    let live: Vec<&Pod> = pods.iter().filter(|pod| !ended(pod)).collect();
    let made = |pod: &Pod| pod.creation_timestamp().map(|time| time.0.as_second());
    let start = live.iter().filter_map(|pod| made(pod)).min().unwrap_or_default();
    let mut recording = Recording { source: source.to_owned(), ..Recording::default() };
    for node in &nodes {
        recording.nodes.push(recorded_node(node)?);
    }
    let known: HashSet<String> = recording.nodes.iter().map(|node| node.name.clone()).collect();
    for pod in live {
        let arrived = made(pod).map_or(0, |made| made - start);
        let mut recorded = recorded_pod(pod, arrived.try_into().unwrap_or_default())?;
        // The node may have gone between the two lists, or before.
        recorded.node = recorded.node.filter(|node| known.contains(node));
        let set = set_of(pod).and_then(|name| {
            sets.iter().find(|set| set.namespace() == pod.namespace() && set.name_any() == name)
        });
        recorded.like = like(pod, &services, set);
        recording.pods.push(recorded);
    }
    recording.pods.sort_by(|a, b| (a.arrived_s, &a.name).cmp(&(b.arrived_s, &b.name)));
    recording.budgets = budgets.iter().map(recorded_budget).collect();
    let now = Timestamp::now().as_second() - start;
    let measured = uses(client, now.try_into().unwrap_or_default()).await?;
    let served = measured.is_some();
    let pods: HashSet<&str> = recording.pods.iter().map(|pod| pod.name.as_str()).collect();
    recording.uses = measured.unwrap_or_default();
    recording.uses.retain(|used| pods.contains(used.pod.as_str()));
    if !served {
        recording.missing.push("measured use: no metrics.k8s.io answers".to_owned());
    } else if recording.uses.is_empty() && !recording.pods.is_empty() {
        recording.missing.push("measured use: metrics.k8s.io knows none of the pods".to_owned());
    }
    Ok(recording)
}

/// Before Kubernetes 1.21 budgets were `policy/v1beta1`, of the same fields.
pub(crate) async fn budgets(client: &Client) -> Result<Vec<PodDisruptionBudget>, RecordError> {
    #[derive(Deserialize)]
    struct Budgets {
        items: Vec<PodDisruptionBudget>,
    }
    let what = "budgets";
    match list(Api::all(client.clone()), what).await {
        Err(RecordError::List { source: kube::Error::Api(status), .. }) if status.code == 404 => {}
        budgets => return budgets,
    }
    let request = http::Request::get("/apis/policy/v1beta1/poddisruptionbudgets").body(Vec::new());
    let request = request.map_err(kube::Error::HttpError);
    let request = request.map_err(|source| RecordError::List { what, source })?;
    let answer = tokio::time::timeout(DEADLINE, client.request::<Budgets>(request)).await;
    let answer = answer.map_err(|_| RecordError::Deadline { what })?;
    Ok(answer.map_err(|source| RecordError::List { what, source })?.items)
}

async fn list<K>(api: Api<K>, what: &'static str) -> Result<Vec<K>, RecordError>
where
    K: Clone + Debug + serde::de::DeserializeOwned,
{
    let mut page = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let found = tokio::time::timeout(DEADLINE, api.list(&page)).await;
        let found = found
            .map_err(|_| RecordError::Deadline { what })?
            .map_err(|source| RecordError::List { what, source })?;
        all.extend(found.items);
        match found.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(all),
        }
    }
}

pub(crate) fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(crate) fn recorded_node(node: &Node) -> Result<RecordedNode, RecordError> {
    let name = node.name_any();
    let empty = BTreeMap::new();
    let room = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let room = room.unwrap_or(&empty);
    let spec = node.spec.clone().unwrap_or_default();
    let gpus = whole(&name, room, DEVICES)?;
    let taints =
        spec.taints.unwrap_or_default().into_iter().map(|taint| {
            format!("{}={}:{}", taint.key, taint.value.unwrap_or_default(), taint.effect)
        });
    let other = |name: &&String| !["cpu", "memory", "pods", DEVICES].contains(&name.as_str());
    let mut resources = BTreeMap::new();
    for what in room.keys().filter(other) {
        let has = amount(&name, room, what)?.map_or(0, |has| has.whole());
        resources.insert(what.clone(), u64::try_from(has).unwrap_or_default());
    }
    Ok(RecordedNode {
        resources,
        cpu_milli: narrow(amount(&name, room, "cpu")?.map_or(0, |cpu| cpu.millis())),
        memory_mib: narrow(amount(&name, room, "memory")?.map_or(0, |memory| memory.whole() >> 20)),
        pods: whole(&name, room, "pods")?,
        gpus,
        model: node.labels().get(MODEL).filter(|_| gpus > 0).cloned().unwrap_or_default(),
        labels: node.labels().clone(),
        taints: taints.collect(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        name,
    })
}

pub(crate) fn recorded_pod(pod: &Pod, arrived_s: u64) -> Result<RecordedPod, RecordError> {
    let name = full_name(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let (mut cpu, mut memory, mut gpus) = (0, 0, 0);
    for container in &spec.containers {
        let asked = container.resources.as_ref().and_then(|asked| asked.requests.clone());
        let asked = asked.unwrap_or_default();
        cpu += amount(&name, &asked, "cpu")?.map_or(0, |cpu| cpu.millis());
        memory += amount(&name, &asked, "memory")?.map_or(0, |memory| memory.whole());
        gpus += whole(&name, &asked, DEVICES)?;
    }
    // Init containers run before the others: the pod asks for the larger of the two. Those that
    // stay (sidecars) run beside them.
    for container in spec.init_containers.iter().flatten() {
        let asked = container.resources.as_ref().and_then(|asked| asked.requests.clone());
        let asked = asked.unwrap_or_default();
        let own_cpu = amount(&name, &asked, "cpu")?.map_or(0, |cpu| cpu.millis());
        let own_memory = amount(&name, &asked, "memory")?.map_or(0, |memory| memory.whole());
        if container.restart_policy.as_deref() == Some("Always") {
            (cpu, memory) = (cpu + own_cpu, memory + own_memory);
        } else {
            (cpu, memory) = (cpu.max(own_cpu), memory.max(own_memory));
        }
    }
    let share = pod.annotations().get(SHARE);
    let share = share.map(|text| {
        let right = text.parse().ok().filter(|milli| (1..=1000).contains(milli));
        let whose = || name.clone();
        let wrong =
            || RecordError::Amount { whose: whose(), what: SHARE.to_owned(), text: text.clone() };
        right.ok_or_else(wrong)
    });
    let (gpus, gpu_milli) = match share.transpose()? {
        Some(milli) => (1, milli),
        None => (gpus, if gpus > 0 { 1000 } else { 0 }),
    };
    let models = pod.annotations().get(MODELS).map(String::as_str).unwrap_or_default();
    let kept = spec::kept(&spec);
    let kept = kept.map_err(|source| RecordError::Spec { whose: name.clone(), source })?;
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    Ok(RecordedPod {
        cpu_milli: narrow(cpu),
        memory_mib: narrow((memory + (1 << 20) - 1) >> 20),
        gpus,
        gpu_milli,
        models: models.split(',').filter(|model| !model.is_empty()).map(str::to_owned).collect(),
        arrived_s,
        gone_s: None,
        node: spec.node_name,
        priority: spec.priority.unwrap_or_default(),
        owner: owner.map(|owner| format!("{}/{}", owner.kind, owner.name)),
        labels: pod.labels().clone(),
        node_selector: spec.node_selector.unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
        like: BTreeMap::new(),
        spec: Some(kept),
        name,
    })
}

/// What Services of its namespace and its ReplicaSet, if it has one, select a pod by.
pub(crate) fn like<'a>(
    pod: &Pod,
    services: impl IntoIterator<Item = &'a Service>,
    set: Option<&ReplicaSet>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let here = pod.namespace();
    for service in services.into_iter().filter(|service| service.namespace() == here) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let means = |(key, value): (&String, &String)| pod.labels().get(key) == Some(value);
        if let Some(selector) = selector.filter(|asked| !asked.is_empty())
            && selector.iter().all(means)
        {
            all.extend(selector.clone());
        }
    }
    let own = set.and_then(|set| set.spec.as_ref()?.selector.match_labels.clone());
    all.extend(own.unwrap_or_default());
    all
}

/// The name of the ReplicaSet that a pod belongs to.
pub(crate) fn set_of(pod: &Pod) -> Option<&str> {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    owner.filter(|owner| owner.kind == "ReplicaSet").map(|owner| owner.name.as_str())
}

fn toleration(toleration: &Toleration) -> String {
    let key = toleration.key.as_deref().filter(|key| !key.is_empty()).unwrap_or("*");
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    let pair = if exists { key.to_owned() } else { format!("{key}={value}") };
    match toleration.effect.as_deref() {
        Some(effect) if !effect.is_empty() => format!("{pair}:{effect}"),
        _ => pair,
    }
}

pub(crate) fn recorded_budget(budget: &PodDisruptionBudget) -> RecordedBudget {
    let spec = budget.spec.clone().unwrap_or_default();
    let text = |number: IntOrString| match number {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text,
    };
    let selector = spec.selector.unwrap_or_default();
    let expressions = selector.match_expressions.iter().flatten();
    RecordedBudget {
        name: format!("{}/{}", budget.namespace().unwrap_or_default(), budget.name_any()),
        min_available: spec.min_available.map(text),
        max_unavailable: spec.max_unavailable.map(text),
        selector: selector.match_labels.unwrap_or_default(),
        expressions: expressions.filter_map(|each| serde_json::to_value(each).ok()).collect(),
    }
}

#[derive(Deserialize)]
struct Measured {
    items: Vec<MeasuredPod>,
}

#[derive(Deserialize)]
struct MeasuredPod {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    containers: Vec<MeasuredContainer>,
}

#[derive(Deserialize)]
struct MeasuredContainer {
    usage: BTreeMap<String, Text>,
}

async fn uses(client: &Client, at_s: u64) -> Result<Option<Vec<RecordedUse>>, RecordError> {
    let what = "measured use";
    let request = http::Request::get("/apis/metrics.k8s.io/v1beta1/pods").body(Vec::new());
    let Ok(request) = request else { return Ok(None) };
    let answer = tokio::time::timeout(DEADLINE, client.request::<Measured>(request)).await;
    let measured = match answer.map_err(|_| RecordError::Deadline { what })? {
        Ok(measured) => measured,
        // Nobody measures here.
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 503) => {
            tracing::info!("the cluster has no metrics.k8s.io, use is not recorded");
            return Ok(None);
        }
        Err(source) => return Err(RecordError::List { what, source }),
    };
    let mut uses = Vec::new();
    for pod in measured.items {
        let namespace = pod.metadata.namespace.unwrap_or_default();
        let name = format!("{namespace}/{}", pod.metadata.name.unwrap_or_default());
        let (mut cpu, mut memory) = (0, 0);
        for container in &pod.containers {
            cpu += amount(&name, &container.usage, "cpu")?.map_or(0, |cpu| cpu.millis());
            memory += amount(&name, &container.usage, "memory")?.map_or(0, |bytes| bytes.whole());
        }
        let (cpu_milli, memory_mib) = (narrow(cpu), narrow(memory >> 20));
        uses.push(RecordedUse { at_s, pod: name, cpu_milli, memory_mib });
    }
    Ok(Some(uses))
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn amount(
    whose: &str,
    room: &BTreeMap<String, Text>,
    what: &str,
) -> Result<Option<Quantity>, RecordError> {
    let Some(Text(text)) = room.get(what) else { return Ok(None) };
    let (whose, what) = (whose.to_owned(), what.to_owned());
    let read = text.parse().map_err(|_| RecordError::Amount { whose, what, text: text.clone() });
    read.map(Some)
}

fn whole(whose: &str, room: &BTreeMap<String, Text>, what: &str) -> Result<u32, RecordError> {
    Ok(amount(whose, room, what)?.map_or(0, |count| narrow(count.whole())))
}

/// Amounts below nothing are nothing, and beyond all measure the most there is.
fn narrow(amount: i64) -> u32 {
    u32::try_from(amount.max(0)).unwrap_or(u32::MAX)
}
