//! What a node tells at `/stats/summary` of its pods: Kubernetes' fields that are read here, and those
//! that Berth's nodes and collectors add. What is not told is `None`.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

/// The whole answer.
#[derive(Deserialize)]
pub struct Summary {
    /// Those that run.
    #[serde(default)]
    pub pods: Vec<PodStats>,
    /// Collectors ask several nodes: those that did not answer.
    #[serde(default)]
    pub silent: Vec<Silent>,
}

/// A node that does not tell.
#[derive(Deserialize)]
pub struct Silent {
    /// Its name.
    pub node: String,
    /// For people.
    pub reason: String,
}

/// One pod.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStats {
    /// Which.
    pub pod_ref: PodRef,
    /// Those that run.
    #[serde(default)]
    pub containers: Vec<ContainerStats>,
}

/// A pod's names.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct PodRef {
    /// Of the object.
    pub name: String,
    /// Of the object.
    pub namespace: String,
    /// Of the object.
    pub uid: String,
}

/// One container.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStats {
    /// As the pod calls it.
    pub name: String,
    /// When it began to run.
    pub start_time: Option<Timestamp>,
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Told by Berth's nodes and collectors alone.
    pub load: Option<Load>,
    /// A kubelet's has none of the counts.
    pub io: Io,
}

/// Processor time.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cpu {
    /// When it was counted.
    pub time: Option<Timestamp>,
    /// Billionths of a core, over the kubelet's own last seconds.
    pub usage_nano_cores: Option<u64>,
    /// Nanoseconds of a core since the container runs.
    pub usage_core_nano_seconds: Option<u64>,
}

/// Bytes.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Memory {
    /// Of the processes alone.
    pub rss_bytes: Option<u64>,
    /// With all that the kernel keeps of files for them.
    pub usage_bytes: Option<u64>,
    /// Without what the kernel may drop at once.
    pub working_set_bytes: Option<u64>,
}

/// Tasks that want a processor or wait for a disk.
#[derive(Deserialize)]
pub struct Load {
    /// Over 1, 5 and 15 minutes.
    pub averages: [f64; 3],
}

/// Reads and writes since the container runs.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Io {
    /// When they were counted.
    pub time: Option<Timestamp>,
    /// Bytes.
    pub read_bytes: Option<u64>,
    /// Bytes.
    pub written_bytes: Option<u64>,
    /// Operations.
    pub reads: Option<u64>,
    /// Operations.
    pub writes: Option<u64>,
}
