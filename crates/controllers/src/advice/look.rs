//! What is advised now, for who asks: the written histories beside what live pods ask for.

use std::collections::BTreeMap;

use berth_api::Quantity;
use berth_scheduler::advice::{Advice, Asked, Confidence, advise};
use berth_scheduler::amount::{Bytes, Millicores};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use super::{CALL_LIMIT, Histories, Subject, Workload, keep, today};
use crate::driver::{Cache, Kept, Sink, pages, within};

const PAGE: u32 = 500;

/// One resource of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// What it asks for; nothing where it does not say.
    pub requested: Option<i64>,
    /// Half of the samples are at or below it.
    pub p50: i64,
    /// 95 of 100.
    pub p95: i64,
    /// 99 of 100.
    pub p99: i64,
    /// What it should ask for.
    pub recommended: i64,
    /// What all its pods ask for too much; below nothing, what they lack.
    pub saved: i64,
}

/// A container of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its workload's namespace.
    pub namespace: String,
    /// The workload, `Kind/name`.
    pub workload: String,
    /// The container.
    pub container: String,
    /// How many pods there are now.
    pub pods: i64,
    /// In thousandths of a core.
    pub cpu_milli: Amount,
    /// In bytes.
    pub memory_bytes: Amount,
    /// The most memory that was seen.
    pub memory_peak_bytes: i64,
    /// The limit at which it was killed for want of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_at_bytes: Option<i64>,
    /// How many samples this stands on.
    pub samples: u64,
    /// What they are worth.
    pub confidence: Confidence,
}

/// What is advised for every workload that has pods, in one namespace or in all; the most to save
/// first. `days` is how far back is looked.
///
/// # Errors
/// What could not be listed.
pub async fn look(client: &Client, namespace: Option<&str>, days: i64) -> kube::Result<Vec<Row>> {
    let histories = within(CALL_LIMIT, keep::read(client)).await?;
    let sets: Cache<ReplicaSet> = cached(client, namespace).await?;
    let jobs: Cache<Job> = cached(client, namespace).await?;
    let pods = list::<Pod>(client, namespace).await?;
    Ok(rows(&histories, &pods, &sets, &jobs, today(), days))
}

async fn cached<K>(client: &Client, namespace: Option<&str>) -> kube::Result<Cache<K>>
where
    K: Kept + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let cache = Cache::default();
    cache.replace(list(client, namespace).await?, 0);
    Ok(cache)
}

async fn list<K>(client: &Client, namespace: Option<&str>) -> kube::Result<Vec<K>>
where
    K: Kept + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    within(CALL_LIMIT, pages(&api, ListParams::default().limit(PAGE))).await
}

fn rows(
    histories: &Histories,
    pods: &[Pod],
    sets: &Cache<ReplicaSet>,
    jobs: &Cache<Job>,
    today: i64,
    days: i64,
) -> Vec<Row> {
    // The newest pod of a workload tells what it asks for, all together how many there are.
    let mut live: BTreeMap<Subject, (i64, &Pod)> = BTreeMap::new();
    let made = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        let Some(workload) = Workload::of(pod, sets, jobs) else { continue };
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let container = container.name.clone();
            let subject = Subject { workload: workload.clone(), container };
            let (count, newest) = live.entry(subject).or_insert((0, pod));
            *count += 1;
            if made(pod) > made(newest) {
                *newest = pod;
            }
        }
    }
    let mut rows = Vec::new();
    for (subject, (pods, newest)) in live {
        let Some(history) = histories.get(&subject) else { continue };
        let asked = newest.spec.as_ref().map(|spec| asked(spec, &subject.container));
        let asked = asked.unwrap_or_default();
        if let Some(advice) = advise(history, today, days, &asked) {
            rows.push(row(subject, pods, &asked, &advice));
        }
    }
    // A core is worth some 4 GiB, as machines are sold.
    rows.sort_by_key(|row| {
        std::cmp::Reverse(row.cpu_milli.saved + (row.memory_bytes.saved >> 20) * 1000 / 4096)
    });
    rows
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

fn asked(spec: &PodSpec, container: &str) -> Asked {
    let own = spec.containers.iter().find(|own| own.name == container);
    let requests = own.and_then(|own| own.resources.as_ref()?.requests.as_ref());
    let read = |what: &str| requests?.get(what)?.0.parse::<Quantity>().ok();
    Asked {
        cpu: read("cpu").map(|cpu| Millicores(cpu.millis())),
        memory: read("memory").map(|memory| Bytes(memory.whole())),
    }
}

fn row(subject: Subject, pods: i64, asked: &Asked, advice: &Advice) -> Row {
    let saved = advice.saved(asked, pods);
    let amount = |requested, used: berth_scheduler::advice::Used, recommended, saved| Amount {
        requested,
        p50: used.p50,
        p95: used.p95,
        p99: used.p99,
        recommended,
        saved,
    };
    Row {
        cpu_milli: amount(asked.cpu.map(|own| own.0), advice.cpu, advice.ask_cpu.0, saved.0.0),
        memory_bytes: amount(
            asked.memory.map(|own| own.0),
            advice.memory,
            advice.ask_memory.0,
            saved.1.0,
        ),
        memory_peak_bytes: advice.peak.0,
        killed_at_bytes: advice.killed_at.map(|at| at.0),
        samples: advice.samples,
        confidence: advice.confidence,
        workload: format!("{}/{}", subject.workload.kind, subject.workload.name),
        namespace: subject.workload.namespace,
        container: subject.container,
        pods,
    }
}
