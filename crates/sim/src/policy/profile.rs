//! The scheduler's own core as a policy: the profiles, filters, scores and preemption of production.
//!
//! What a recording tells of a pod becomes the same snapshot that the live scheduler makes of it;
//! [`berth_scheduler::Cluster`] decides, and this keeps the books of the replay beside it.
//!
//! Refuses pods that ask for a share of a device: the core counts whole devices, and would put two
//! shares of 600 thousandths on one. Volumes, images and namespaces' labels are not in a recording;
//! pods of a gang are placed one by one.

mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Selector;
use berth_scheduler::gpu::{Cluster, Placed};
use berth_scheduler::preempt::{Budget, preempt};
use berth_scheduler::snapshot::{Node, Pod};
use berth_scheduler::{Cluster as Core, Profile};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde::Deserialize;

use super::Policy;
use super::packed::tightest;
use crate::recording::{RecordedBudget, RecordedPod, Recording};
use crate::trace::{Arrival, Trace};
use seen::{seen_node, seen_pod};

/// Why a recording cannot be judged by profiles.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The core has whole devices.
    #[error("{count} pods ask for a share of a device, {first} first; profiles know whole ones")]
    Shares {
        /// How many.
        count: usize,
        /// The first.
        first: String,
    },
    /// A pod's spec is none.
    #[error("the spec of {pod} cannot be read")]
    Spec {
        /// Its name.
        pod: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A budget's selector is none.
    #[error("the selector of budget {budget} cannot be read: {message}")]
    Selector {
        /// Its name.
        budget: String,
        /// What is wrong.
        message: String,
    },
}

/// A recording as the core sees it, with the profiles that judge it.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    name: String,
    profiles: Vec<Profile>,
    nodes: Arc<BTreeMap<String, Node>>,
    pods: Arc<Vec<Pod>>,
    budgets: Arc<Vec<Protected>>,
}

/// A budget, and what it asks.
#[derive(Clone, Debug)]
struct Protected {
    namespace: String,
    selector: Selector,
    min_available: Option<String>,
    max_unavailable: Option<String>,
}

impl Rehearsal {
    /// Profiles, under the name that tables show, for the pods of `recording`. Its seed and the
    /// profiles' own decide between equal nodes.
    ///
    /// # Errors
    /// [`RehearsalError`].
    pub fn new(
        name: &str,
        profiles: Vec<Profile>,
        recording: &Recording,
    ) -> Result<Self, RehearsalError> {
        let shared = |pod: &&RecordedPod| pod.gpus > 0 && pod.gpu_milli < 1000;
        if let Some(first) = recording.pods.iter().find(shared) {
            let count = recording.pods.iter().filter(shared).count();
            return Err(RehearsalError::Shares { count, first: first.name.clone() });
        }
        let nodes = recording.nodes.iter().map(|node| (node.name.clone(), seen_node(node)));
        let pods = recording.pods.iter().map(seen_pod).collect::<Result<_, _>>()?;
        let budgets = recording.budgets.iter().map(protected).collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            profiles,
            nodes: Arc::new(nodes.collect()),
            pods: Arc::new(pods),
            budgets: Arc::new(budgets),
        })
    }

    /// Its name in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn start(
        &self,
        trace: &Trace,
        nodes: &[usize],
        cluster: Cluster,
        seed: u64,
    ) -> Box<dyn Policy> {
        let mut profiles = self.profiles.clone();
        profiles.iter_mut().for_each(|each| each.seed = each.seed.wrapping_add(seed));
        let mut core = Core::new(profiles);
        let (mut indexes, mut names) = (BTreeMap::new(), Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            let name = &trace.nodes[*node];
            let mut node = self.nodes.get(name).cloned().unwrap_or_default();
            if indexes.contains_key(name) {
                node.name = format!("{name}/{index}");
                if let Some(host) = node.labels.get_mut("kubernetes.io/hostname") {
                    host.clone_from(&node.name);
                }
            }
            names.push(node.name.clone());
            indexes.insert(node.name.clone(), index);
            core.set_node(node);
        }
        for pod in self.pods.iter() {
            core.set_namespace(pod.namespace.clone(), Some(named(&pod.namespace)));
        }
        Box::new(Running {
            core,
            rehearsal: self.clone(),
            cluster,
            indexes,
            names,
            placed: BTreeMap::new(),
            asked: BTreeMap::new(),
            displaced: Vec::new(),
        })
    }
}

/// The one label that every namespace has.
fn named(namespace: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())])
}

struct Running {
    core: Core,
    rehearsal: Rehearsal,
    cluster: Cluster,
    indexes: BTreeMap<String, usize>,
    /// Nodes' names by number.
    names: Vec<String>,
    placed: BTreeMap<usize, (Arrival, Placed)>,
    /// Pods that are there or want to be, with what they are for budgets.
    asked: BTreeMap<usize, Arc<Pod>>,
    displaced: Vec<usize>,
}

impl Running {
    /// The pod of an arrival, which wants to be there from now on.
    fn pod(&mut self, index: usize, arrival: &Arrival) -> Option<Arc<Pod>> {
        let mut pod = self.rehearsal.pods.get(arrival.pod)?.clone();
        // A pod that comes again is another one.
        pod.uid = index.to_string();
        arrival.name.rsplit('/').next().unwrap_or_default().clone_into(&mut pod.name);
        pod.start = i64::try_from(arrival.arrived_s).ok();
        let pod = Arc::new(pod);
        self.asked.insert(index, Arc::clone(&pod));
        Some(pod)
    }

    /// What each budget still allows.
    fn allowed(&self) -> Vec<Budget> {
        let allowed = |budget: &Protected| {
            let means = |pod: &Pod| {
                pod.namespace == budget.namespace && budget.selector.matches(&pod.labels)
            };
            let there = self.asked.iter().filter(|(_, pod)| means(pod));
            let (mut wanted, mut healthy) = (0, 0);
            for (index, _) in there {
                wanted += 1;
                healthy += i64::from(self.placed.contains_key(index));
            }
            let least = match (&budget.min_available, &budget.max_unavailable) {
                (Some(least), _) => scaled(least, wanted),
                (None, Some(most)) => wanted - scaled(most, wanted),
                (None, None) => 0,
            };
            Budget {
                namespace: budget.namespace.clone(),
                selector: budget.selector.clone(),
                allowed: (healthy - least).max(0),
            }
        };
        self.rehearsal.budgets.iter().map(allowed).collect()
    }

    fn make_room(&mut self, pod: &Arc<Pod>) -> Option<String> {
        // Without anyone of lower priority there is nothing to try.
        self.placed.keys().find(|index| self.asked[*index].priority < pod.priority)?;
        let budgets = self.allowed();
        let preemption = preempt(&mut self.core, pod, &budgets).ok()?;
        for victim in &preemption.victims {
            let index: usize = victim.uid.parse().ok()?;
            self.core.remove(&victim.uid);
            if let Some((arrival, placed)) = self.placed.remove(&index) {
                self.cluster.give(placed.node, &arrival.demand, placed.devices);
                self.displaced.push(index);
            }
        }
        self.core.check(pod, &preemption.node).is_ok().then_some(preemption.node)
    }
}

impl Policy for Running {
    fn place(&mut self, index: usize, arrival: &Arrival) -> Option<Placed> {
        let pod = self.pod(index, arrival)?;
        let node = match self.core.decide(&pod) {
            Ok(placement) => placement.node,
            Err(_) => self.make_room(&pod)?,
        };
        let at = *self.indexes.get(&node)?;
        let devices = self.cluster.nodes()[at].tightest(&arrival.demand);
        if !self.cluster.take(at, &arrival.demand, devices) {
            return None;
        }
        self.core.place(pod, &node);
        let placed = Placed { node: at, devices };
        self.placed.insert(index, (arrival.clone(), placed));
        Some(placed)
    }

    fn put(&mut self, index: usize, arrival: &Arrival, node: usize) -> Option<Placed> {
        let pod = self.pod(index, arrival)?;
        let placed = tightest(&self.cluster, arrival, node)?;
        let name = self.names.get(node)?;
        if !self.cluster.take(node, &arrival.demand, placed.devices) {
            return None;
        }
        self.core.place(pod, name);
        self.placed.insert(index, (arrival.clone(), placed));
        Some(placed)
    }

    fn give_up(&mut self, index: usize) {
        self.asked.remove(&index);
    }

    fn meet(&mut self, pod: &RecordedPod) -> Result<(), RehearsalError> {
        if pod.gpus > 0 && pod.gpu_milli < 1000 {
            return Err(RehearsalError::Shares { count: 1, first: pod.name.clone() });
        }
        let pod = seen_pod(pod)?;
        self.core.set_namespace(pod.namespace.clone(), Some(named(&pod.namespace)));
        Arc::make_mut(&mut self.rehearsal.pods).push(pod);
        Ok(())
    }

    fn remove(&mut self, index: usize, arrival: &Arrival, placed: Placed) {
        self.core.remove(&index.to_string());
        self.placed.remove(&index);
        self.asked.remove(&index);
        self.cluster.give(placed.node, &arrival.demand, placed.devices);
    }

    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn displaced(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.displaced)
    }
}

/// A number, or a percentage of `whole`, rounded up as Kubernetes does.
fn scaled(text: &str, whole: i64) -> i64 {
    match text.strip_suffix('%').map(str::parse::<i64>) {
        Some(percent) => (whole * percent.unwrap_or(0) + 99).div_euclid(100),
        None => text.parse().unwrap_or(0),
    }
}

fn protected(budget: &RecordedBudget) -> Result<Protected, RehearsalError> {
    let wrong = |message: String| RehearsalError::Selector { budget: budget.name.clone(), message };
    let expressions: Result<Vec<_>, _> =
        budget.expressions.iter().map(LabelSelectorRequirement::deserialize).collect();
    let object = LabelSelector {
        match_labels: Some(budget.selector.clone()),
        match_expressions: Some(expressions.map_err(|error| wrong(error.to_string()))?),
    };
    let selector =
        Selector::from_object(Some(&object)).map_err(|error| wrong(error.to_string()))?;
    Ok(Protected {
        namespace: budget.name.split_once('/').map_or("default", |(space, _)| space).to_owned(),
        selector,
        min_available: budget.min_available.clone(),
        max_unavailable: budget.max_unavailable.clone(),
    })
}
