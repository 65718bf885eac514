//! The workloads of Kubernetes' scheduler_perf, as objects: what is there, and what is measured.
//!
//! Names, shapes and requests follow its templates (nodes of 4 cores, 32 GiB and 110 pods; pods of
//! 100m and 500Mi); pods that its set-up schedules first are made with a node already, evenly.

use serde_json::{Value, json};

/// What pods ask for, and what happens meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    Basic,
    NodeAffinity,
    TopologySpreading,
    PodAntiAffinity,
    Unschedulable,
    MixedChurn,
    Preemption,
}

/// All of them, in the order they are measured.
pub const ALL: [Workload; 7] = [
    Workload::Basic,
    Workload::NodeAffinity,
    Workload::TopologySpreading,
    Workload::PodAntiAffinity,
    Workload::Unschedulable,
    Workload::MixedChurn,
    Workload::Preemption,
];

/// Pods that fit nowhere, ahead of those that are measured.
const BACKLOG: usize = 200;
/// Pods with a node beforehand, a fifth of the nodes' number; all fillers where room is wanted.
const PART: usize = 5;

impl Workload {
    /// As scheduler_perf calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Basic => "SchedulingBasic",
            Self::NodeAffinity => "SchedulingNodeAffinity",
            Self::TopologySpreading => "TopologySpreading",
            Self::PodAntiAffinity => "SchedulingPodAntiAffinity",
            Self::Unschedulable => "Unschedulable",
            Self::MixedChurn => "SchedulingWithMixedChurn",
            Self::Preemption => "PreemptionBasic",
        }
    }

    /// How many pods are measured on so many nodes; of a slow scheduler no more than give a steady
    /// rate within half a minute.
    pub fn measured(self, nodes: usize, slow: bool) -> usize {
        let all = match self {
            Self::PodAntiAffinity => nodes / 2,
            Self::Preemption => nodes / 5,
            _ => 2 * nodes.min(2_500),
        };
        match self {
            _ if !slow => all,
            Self::Preemption => all.min(MOST_OF_SLOW / 10),
            _ => all.min(MOST_OF_SLOW),
        }
    }

    /// Whether the pods that are measured are made when the scheduler is at work: they have others
    /// displaced, which nobody could see the begin of.
    pub fn is_made_late(self) -> bool {
        self == Self::Preemption
    }

    /// The pods with a node, and those that fit nowhere.
    pub fn before(self, nodes: usize, scheduler: &str) -> Vec<Value> {
        let on = |at: usize, parts: Value, cpu: &str| {
            let mut pod = pod(&format!("before-{at:06}"), scheduler, parts, cpu);
            pod["spec"]["nodeName"] = json!(node_name(at % nodes));
            pod
        };
        match self {
            Self::Unschedulable => (0..BACKLOG)
                .map(|at| pod(&format!("large-{at:04}"), scheduler, json!({}), "9"))
                .collect(),
            // Four fill a node.
            Self::Preemption => (0..4 * nodes)
                .map(|at| {
                    let parts = json!({ "terminationGracePeriodSeconds": 0 });
                    on(at, parts, "900m")
                })
                .collect(),
            Self::PodAntiAffinity => {
                (0..nodes / PART).map(|at| on(at, self.parts(), "100m")).collect()
            }
            _ => (0..nodes / PART).map(|at| on(at, json!({}), "100m")).collect(),
        }
    }

    /// A pod that is measured.
    pub fn pod(self, at: usize, scheduler: &str) -> Value {
        let cpu = if self == Self::Preemption { "3" } else { "100m" };
        let mut pod = pod(&format!("{MEASURED}{at:06}"), scheduler, self.parts(), cpu);
        pod["metadata"]["labels"] = json!({ "color": "green" });
        pod
    }

    fn parts(self) -> Value {
        let alike = json!({ "matchLabels": { "color": "green" } });
        match self {
            Self::NodeAffinity => json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{
                    "matchExpressions": [{ "key": "topology.kubernetes.io/zone",
                        "operator": "In", "values": ["zone-1", "zone-2"] }] }] } } } }),
            Self::TopologySpreading => json!({ "topologySpreadConstraints": [{ "maxSkew": 5,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": alike }] }),
            Self::PodAntiAffinity => json!({ "affinity": { "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{
                    "topologyKey": "kubernetes.io/hostname", "labelSelector": alike }] } } }),
            Self::Preemption => json!({ "priorityClassName": PRIORITY_CLASS }),
            _ => json!({}),
        }
    }
}

/// What the names of the pods that are measured begin with; a number of so many digits follows.
const MEASURED: &str = "measured-";
pub const DIGITS: usize = 6;
/// Most pods measured of a slow scheduler; a tenth of it where each displaces others.
const MOST_OF_SLOW: usize = 2_000;
/// The class of those that preempt.
pub const PRIORITY_CLASS: &str = "important";

/// The name of a node.
pub fn node_name(at: usize) -> String {
    format!("hollow-{at:05}")
}

/// A node of scheduler_perf's, in one of three zones.
pub fn node(name: &str, zone: usize) -> Value {
    let room = json!({ "cpu": "4", "memory": "32Gi", "pods": "110" });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{zone}") } },
        "status": {
            "capacity": room, "allocatable": room,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    })
}

/// A small pod that shows that a scheduler is at work, with a number that no measured one has.
pub fn probe(scheduler: &str) -> Value {
    pod(&format!("{MEASURED}999999"), scheduler, json!({}), "100m")
}

/// A pod of `default`, with what is asked beside the cores.
pub fn pod(name: &str, scheduler: &str, parts: Value, cpu: &str) -> Value {
    let mut spec = json!({
        "schedulerName": scheduler,
        "automountServiceAccountToken": false,
        "containers": [{ "name": "pause", "image": "registry.k8s.io/pause:3.10",
            "ports": [{ "containerPort": 80 }],
            "resources": { "requests": { "cpu": cpu, "memory": "500Mi" },
                "limits": { "cpu": cpu, "memory": "500Mi" } } }],
    });
    for (key, value) in parts.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": spec,
    })
}
