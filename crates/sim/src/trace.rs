//! A recording as the packer sees it: dense numbers, and who they were.
//!
//! Whatever tells nodes apart for a pod (the devices' model, labels that a selector names, taints)
//! makes a kind of node; a pod allows some of the at most 63 kinds. What the packer does not know is
//! left out and counted in [`Trace::left_out`]; (anti-)affinity, spread, ports and priorities only
//! a [`crate::policy::Rehearsal`] knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use berth_scheduler::gpu::{Cluster, Demand, MOST_DEVICES, Shape};

use crate::chance::Chance;
use crate::recording::{RecordedNode, RecordedPod, Recording};

/// Dense numbers of a recording.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Where it is from.
    pub source: String,
    /// Nodes that take pods.
    pub shapes: Vec<Shape>,
    /// Their names.
    pub nodes: Vec<String>,
    /// Pods by arrival.
    pub arrivals: Vec<Arrival>,
    /// Nodes that were kept out: unschedulable when recorded.
    pub left_out: usize,
    kinds: Vec<Kind>,
    /// Labels that tell kinds apart.
    keys: BTreeSet<String>,
}

/// One pod on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its name.
    pub name: String,
    /// Its number in the recording.
    pub pod: usize,
    /// What it asks for.
    pub demand: Demand,
    /// Virtual seconds.
    pub arrived_s: u64,
    /// When it ends, if it does.
    pub gone_s: Option<u64>,
}

/// Why a recording cannot be packed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A node with too many devices.
    #[error("node {node} has {gpus} devices, {MOST_DEVICES} is the most")]
    Devices {
        /// Its name.
        node: String,
        /// How many.
        gpus: u32,
    },
    /// Too many kinds of node.
    #[error("the nodes are of {kinds} kinds by model, selected labels and taints, 63 is the most")]
    Kinds {
        /// How many.
        kinds: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    model: String,
    labels: BTreeMap<String, String>,
    taints: BTreeSet<String>,
}

impl Kind {
    fn of(node: &RecordedNode, keys: &BTreeSet<&String>) -> Self {
        let labels = node.labels.iter().filter(|(key, _)| keys.contains(key));
        let taints = node.taints.iter().filter(|taint| !taint.ends_with(":PreferNoSchedule"));
        Self {
            model: node.model.clone(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            taints: taints.cloned().collect(),
        }
    }

    fn takes(&self, pod: &RecordedPod) -> bool {
        let model = pod.models.is_empty() || pod.models.contains(&self.model);
        let labels =
            pod.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let tolerated = |taint: &String| pod.tolerations.iter().any(|word| tolerates(word, taint));
        model && labels && self.taints.iter().all(tolerated)
    }
}

/// Whether a recorded toleration (`*`, `key`, `key:effect`, `key=value`, `key=value:effect`) bears
/// a recorded taint (`key=value:effect`).
fn tolerates(word: &str, taint: &str) -> bool {
    let (pair, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
    let key = pair.split_once('=').map_or(pair, |(key, _)| key);
    let (wanted, only) = word.rsplit_once(':').unwrap_or((word, effect));
    only == effect && (wanted == "*" || wanted == pair || wanted == key)
}

impl Trace {
    /// The recording in dense numbers.
    ///
    /// # Errors
    /// [`TraceError`] when the nodes are too many-sided.
    pub fn of(recording: &Recording) -> Result<Self, TraceError> {
        Self::make(recording, true)
    }

    /// The recording in numbers that do not tell kinds of node apart: for a scheduler that looks at
    /// labels and taints itself.
    ///
    /// # Errors
    /// [`TraceError::Devices`].
    pub fn without_kinds(recording: &Recording) -> Result<Self, TraceError> {
        Self::make(recording, false)
    }

    fn make(recording: &Recording, by_kind: bool) -> Result<Self, TraceError> {
        let keys: BTreeSet<&String> =
            recording.pods.iter().flat_map(|pod| pod.node_selector.keys()).collect();
        let open = || recording.nodes.iter().filter(|node| !node.unschedulable);
        let kinds: BTreeSet<Kind> =
            open().filter(|_| by_kind).map(|node| Kind::of(node, &keys)).collect();
        if kinds.len() > 63 {
            return Err(TraceError::Kinds { kinds: kinds.len() });
        }
        let kinds: Vec<Kind> = kinds.into_iter().collect();
        let mut trace = Self { source: recording.source.clone(), ..Self::default() };
        trace.left_out = recording.nodes.len() - open().count();
        for node in open() {
            if node.gpus as usize > MOST_DEVICES {
                return Err(TraceError::Devices { node: node.name.clone(), gpus: node.gpus });
            }
            let kind = Kind::of(node, &keys);
            let kind = kinds.binary_search(&kind).unwrap_or_default();
            trace.nodes.push(node.name.clone());
            trace.shapes.push(Shape {
                cpu_milli: node.cpu_milli,
                memory_mib: node.memory_mib,
                pods: if node.pods == 0 { u16::MAX } else { node.pods.min(65_535) as u16 },
                gpus: node.gpus as u8,
                kind: kind as u8,
            });
        }
        let mut masks: HashMap<_, u64> = HashMap::new();
        trace.keys = keys.into_iter().filter(|_| by_kind).cloned().collect();
        for (index, pod) in recording.pods.iter().enumerate() {
            let sides = (&pod.models, &pod.node_selector, &pod.tolerations);
            let kinds = *masks.entry(sides).or_insert_with(|| mask(&kinds, pod));
            trace.arrivals.push(arrival(index, pod, kinds));
        }
        trace.kinds = kinds;
        trace.arrivals.sort_by_key(|arrival| arrival.arrived_s);
        Ok(trace)
    }

    /// A pod that came later, as number `index`; none when it names a label that no pod of the
    /// recording selected nodes by, so that its kinds are not told apart.
    pub fn arrival(&self, index: usize, pod: &RecordedPod) -> Option<Arrival> {
        let known = |key: &String| self.kinds.is_empty() || self.keys.contains(key);
        pod.node_selector.keys().all(known).then(|| arrival(index, pod, mask(&self.kinds, pod)))
    }

    /// All nodes, empty.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.shapes.clone())
    }

    /// The published protocol: the pods in an order of `seed`, then random ones of them again until
    /// `percent` % of the devices' capacity has arrived; nobody leaves.
    ///
    /// # Source
    /// "Beware of Fragmentation" (USENIX ATC '23), §6.
    #[must_use]
    pub fn saturated(&self, percent: u64, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let mut arrivals = self.arrivals.clone();
        chance.shuffle(&mut arrivals);
        let most = self.cluster().gpu_capacity() * percent / 100;
        let gpus = |arrival: &Arrival| u64::from(arrival.demand.gpu_total());
        let mut arrived: u64 = arrivals.iter().map(gpus).sum();
        // Without a pod that asks for devices the mark would never come.
        while arrived > 0 {
            let again = &self.arrivals[chance.below(self.arrivals.len())];
            arrived += gpus(again);
            if arrived > most {
                break;
            }
            let name = format!("{}-again-{}", again.name, arrivals.len());
            arrivals.push(Arrival { name, ..again.clone() });
        }
        for (second, arrival) in arrivals.iter_mut().enumerate() {
            arrival.arrived_s = second as u64;
            arrival.gone_s = None;
        }
        Self { arrivals, ..self.clone() }
    }
}

fn arrival(index: usize, pod: &RecordedPod, kinds: u64) -> Arrival {
    Arrival {
        name: pod.name.clone(),
        pod: index,
        demand: Demand {
            cpu_milli: pod.cpu_milli,
            memory_mib: pod.memory_mib,
            // More than any node has stays more than any node has.
            gpus: pod.gpus.min(255) as u8,
            gpu_milli: pod.gpu_milli.min(1000) as u16,
            kinds,
        },
        arrived_s: pod.arrived_s,
        gone_s: pod.gone_s,
    }
}

/// The kinds of node that take `pod`; 0 when all do, a bit nobody has when none does.
fn mask(kinds: &[Kind], pod: &RecordedPod) -> u64 {
    let some = kinds.iter().enumerate().filter(|(_, kind)| kind.takes(pod));
    let bits = some.fold(0, |bits, (index, _)| bits | 1_u64 << index);
    match bits {
        _ if bits.count_ones() as usize == kinds.len() => 0,
        0 => 1 << 63,
        bits => bits,
    }
}
