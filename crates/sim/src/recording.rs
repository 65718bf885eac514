//! What was in a cluster: nodes, pods, budgets and measured use, in one file.
//!
//! A gzip stream of JSON lines. The first says the format's version, the last how many lines there
//! were and the SHA-256 of all bytes before it; between them one line for each thing:
//!
//! ```text
//! {"berth":"recording","version":2,"source":"openb default"}
//! {"node":{"name":"n0","cpu_milli":96000,"memory_mib":393216,"pods":110,"gpus":8,"model":"G2"}}
//! {"pod":{"name":"p0","cpu_milli":11400,"memory_mib":61440,"gpus":1,"gpu_milli":1000}}
//! {"budget":{"name":"web","min_available":2,"selector":{"app":"web"}}}
//! {"use":{"at_s":60,"pod":"p0","cpu_milli":2100,"memory_mib":50112}}
//! {"end":{"lines":5,"sha256":"…"}}
//! ```
//!
//! A pod of a live cluster also has `spec`: what of its own spec a scheduler reads, as Kubernetes
//! words it, so that any profile can judge it. Version 1 had none.
//!
//! Nodes come before pods, pods by arrival. Fields left out mean nothing was said. A newer version,
//! an unknown field, a pod on a node that is not there, a cut-off or changed file are refused whole,
//! by line and column: a rehearsal on half a cluster would mislead.

mod anonymise;
mod read;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use read::ReadError;

/// The version written, and the newest one read.
pub const VERSION: u32 = 2;

/// A cluster as it was, or a stretch of its life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// Where it is from, for people.
    pub source: String,
    /// What the cluster did not tell, for people.
    pub missing: Vec<String>,
    /// Its nodes.
    pub nodes: Vec<RecordedNode>,
    /// Its pods, by arrival.
    pub pods: Vec<RecordedPod>,
    /// Its disruption budgets.
    pub budgets: Vec<RecordedBudget>,
    /// What pods used when it was measured.
    pub uses: Vec<RecordedUse>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedNode {
    /// Its name, its own in the recording.
    pub name: String,
    /// Allocatable thousandths of a core.
    pub cpu_milli: u32,
    /// Allocatable MiB of memory.
    pub memory_mib: u32,
    /// Most pods; 0 for no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pods: u32,
    /// Devices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u32,
    /// Their model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What else it has by name, in whole units: local disk, huge pages, other devices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u64>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints as `key=value:effect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<String>,
    /// Whether new pods were kept away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedPod {
    /// Its name with its namespace, its own in the recording.
    pub name: String,
    /// Asked thousandths of a core.
    pub cpu_milli: u32,
    /// Asked MiB of memory.
    pub memory_mib: u32,
    /// Asked devices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u32,
    /// Thousandths of each device; 1000 for whole ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpu_milli: u32,
    /// Models that will do; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Seconds from the recording's start to its arrival.
    #[serde(default, skip_serializing_if = "is_zero_64")]
    pub arrived_s: u64,
    /// Seconds from the recording's start to its end, when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_s: Option<u64>,
    /// The node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its priority.
    #[serde(default, skip_serializing_if = "is_zero_i32")]
    pub priority: i32,
    /// Who owns it, as `Kind/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Labels that its node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints it bears: `*`, `key`, `key=value`, each with `:effect` when only that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<String>,
    /// The labels that Services and its controller select it by: what default constraints spread.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub like: BTreeMap<String, String>,
    /// What of its spec a scheduler reads, as Kubernetes words it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
}

/// One disruption budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedBudget {
    /// Its name with its namespace.
    pub name: String,
    /// How many must stay available: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<String>,
    /// How many may be away: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<String>,
    /// The labels of its pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// What else its selector asks, as `matchExpressions` words it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<Value>,
}

/// What one pod used at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedUse {
    /// Seconds from the recording's start.
    pub at_s: u64,
    /// The pod's name.
    pub pod: String,
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// MiB of memory.
    pub memory_mib: u32,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    berth: String,
    version: u32,
    #[serde(default)]
    source: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Node(RecordedNode),
    Pod(RecordedPod),
    Budget(RecordedBudget),
    Use(RecordedUse),
    End(End),
}

/// The last line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    lines: usize,
    sha256: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_zero_64(number: &u64) -> bool {
    *number == 0
}

fn is_zero_i32(number: &i32) -> bool {
    *number == 0
}
