//! The group `scheduler`: decisions a second in process, pods bound a second through the API, and
//! pods that become Ready a second with the whole control plane.
//!
//! In process, by the number of nodes and by what pods ask: each run begins with an empty cluster
//! of three zones, and every placement is counted before the next decision, as in production. Pods
//! exist before the clock starts; finding out what a new kind of pod may do on each node does not.

mod live;
mod whole;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use berth_scheduler::snapshot::{node, pod};
use berth_scheduler::{Cluster, Pod, Profile};
use serde_json::{Value, json};

use crate::budget::Budget;

/// The stated budget, at the sizes it is stated for.
const GOAL: f64 = 50_000.0;
const SIZES: [usize; 4] = [5_000, 10_000, 20_000, 30_000];
const RUNS: u64 = 3;
/// Objects, 50,000 pods and forty classes, by the node.
const MIB_PER_NODE: f64 = 0.02;
const MIB: f64 = 1024.0 * 1024.0;

/// What pods ask for.
const KINDS: [(&str, Kind); 5] = [
    ("plain", Kind::Plain),
    ("node-affinity", Kind::NodeAffinity),
    ("spread", Kind::Spread),
    ("anti-affinity", Kind::AntiAffinity),
    ("mixed", Kind::Mixed),
];

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    NodeAffinity,
    Spread,
    AntiAffinity,
    Mixed,
}

pub fn measure() -> Result<Vec<Budget>> {
    let mut budgets = if is_wanted("decisions") { decisions()? } else { Vec::new() };
    budgets.extend(live::measure()?);
    if is_wanted("whole") {
        budgets.extend(whole::measure()?);
    }
    Ok(budgets)
}

/// Whether `BERTH_SCHEDULER_PARTS`, names with commas between them, asks for a part; unset, for all.
fn is_wanted(part: &str) -> bool {
    let parts = std::env::var("BERTH_SCHEDULER_PARTS");
    parts.map_or(true, |parts| parts.split(',').any(|one| one == part))
}

/// Whether `BERTH_SCHEDULER_NODES` asks for so many nodes through the API; unset, for all sizes.
fn is_wanted_size(nodes: usize) -> bool {
    let sizes = std::env::var("BERTH_SCHEDULER_NODES");
    sizes.map_or(true, |sizes| sizes.split(',').any(|one| one.parse() == Ok(nodes)))
}

fn decisions() -> Result<Vec<Budget>> {
    let mut budgets = memory()?;
    for nodes in SIZES {
        // Stated for ten thousand nodes; past that, time may grow with them and no faster.
        let goal = GOAL * (10_000.0 / nodes as f64).min(1.0);
        for (name, kind) in KINDS {
            let pods = pods(kind, nodes)?;
            let mut rates = Vec::new();
            for seed in 0..RUNS {
                rates.push(rate(&mut cluster(nodes, seed)?, &pods)?);
            }
            let label = format!("scheduler-{name}-{nodes}-decisions_per_s");
            budgets.push(Budget::at_least(&label, goal, rates));
        }
    }
    Ok(budgets)
}

/// What a cluster with the pods of the mixed run takes, the pods themselves not counted.
///
/// All are kept until the last is measured, lest one be made of memory that another gave back.
fn memory() -> Result<Vec<Budget>> {
    let pods = pods(Kind::Mixed, 0)?;
    let (mut kept, mut budgets) = (Vec::new(), Vec::new());
    for nodes in SIZES {
        let before = resident()?;
        let mut cluster = cluster(nodes, 0)?;
        rate(&mut cluster, &pods)?;
        let taken = (resident()? - before) / MIB;
        kept.push(cluster);
        let goal = MIB_PER_NODE * nodes as f64;
        let label = format!("scheduler-mixed-{nodes}-memory_mib");
        budgets.push(Budget::at_most(&label, goal, vec![taken]));
    }
    Ok(budgets)
}

fn rate(cluster: &mut Cluster, pods: &[Arc<Pod>]) -> Result<f64> {
    let begun = Instant::now();
    for pod in pods {
        let placement = cluster.decide(pod).with_context(|| format!("placing {}", pod.name))?;
        cluster.place(Arc::clone(pod), &placement.node);
    }
    let rate = pods.len() as f64 / begun.elapsed().as_secs_f64();
    let placed: usize =
        cluster.nodes().map(|node| cluster.pods_on(&node.name).len()).sum::<usize>();
    ensure!(placed == pods.len(), "{placed} of {} pods are placed", pods.len());
    Ok(rate)
}

fn cluster(nodes: usize, seed: u64) -> Result<Cluster> {
    let mut cluster = Cluster::new(vec![Profile::standard(seed)]);
    for at in 0..nodes {
        let name = format!("node-{at:05}");
        let object = json!({
            "metadata": { "name": name, "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone-{}", at % 3),
                "disk": if at % 2 == 0 { "ssd" } else { "hdd" } } },
            "status": { "allocatable": { "cpu": "32", "memory": "256Gi", "pods": "110" } } });
        cluster.set_node(node(&serde_json::from_value(object)?));
    }
    Ok(cluster)
}

fn pods(kind: Kind, nodes: usize) -> Result<Vec<Arc<Pod>>> {
    let count = match kind {
        Kind::AntiAffinity => nodes * 4 / 5,
        _ => 50_000,
    };
    (0..count)
        .map(|at| {
            let object = match kind {
                Kind::Plain => object(at, "web", &[]),
                Kind::NodeAffinity => object(at, "web", &[affinity()]),
                Kind::Spread => object(at, "web", &[spread("web")]),
                Kind::AntiAffinity => object(at, "web", &[away("web")]),
                Kind::Mixed => {
                    let app = format!("app-{}", at % 40);
                    match at % 40 {
                        0..20 => object(at, &app, &[]),
                        20..28 => object(at, &app, &[affinity()]),
                        28..36 => object(at, &app, &[spread(&app)]),
                        _ => object(at, &app, &[away(&app)]),
                    }
                }
            };
            Ok(Arc::new(pod(&serde_json::from_value(object)?)))
        })
        .collect()
}

fn object(at: usize, app: &str, parts: &[Value]) -> Value {
    let mut spec = json!({ "containers": [{ "name": "c", "image": "web:1",
        "resources": { "requests": { "cpu": "100m", "memory": "500Mi" } } }] });
    for (key, value) in parts.iter().filter_map(Value::as_object).flatten() {
        spec[key] = value.clone();
    }
    let name = format!("{app}-{at:06}");
    json!({
        "metadata": { "namespace": "default", "name": name, "uid": name, "labels": { "app": app } },
        "spec": spec,
    })
}

fn alike(app: &str) -> Value {
    json!({ "matchLabels": BTreeMap::from([("app", app)]) })
}

fn affinity() -> Value {
    json!({ "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{
            "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }] }] } } } })
}

fn spread(app: &str) -> Value {
    json!({ "topologySpreadConstraints": [
        { "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
          "whenUnsatisfiable": "DoNotSchedule", "labelSelector": alike(app) },
        { "maxSkew": 3, "topologyKey": "kubernetes.io/hostname",
          "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": alike(app) } ] })
}

fn away(app: &str) -> Value {
    json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": alike(app) }] } } })
}

/// This process's memory, bytes.
fn resident() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is a number")?;
    Ok(kib * 1024.0)
}
