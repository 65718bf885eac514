//! What a decision says.

use std::collections::BTreeMap;
use std::fmt;

use crate::class::Class;
use crate::profile::Filter;
use crate::world::{NONE, World};

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// How many nodes passed the filters.
    pub candidates: usize,
    /// All scores by weight.
    pub score: i64,
}

/// Why a pod goes nowhere. Displays as Kubernetes words it:
/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes each filter refused.
    pub by_filter: BTreeMap<&'static str, usize>,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// How many nodes could be made to take the pod by taking others off.
    pub resolvable: usize,
    /// Something about the pod itself, before any node was asked.
    pub prior: Option<String>,
}

impl Unschedulable {
    pub(crate) fn of(class: &Class, world: &World) -> Self {
        let mut own = Self { nodes: world.alive, ..Self::default() };
        for (refusal, count, at) in class.refusals(world) {
            *own.by_filter.entry(refusal.filter.name()).or_default() += count;
            let node = (at != NONE).then(|| &*world.nodes[at as usize].node);
            for words in class.ask.words(refusal, node) {
                *own.reasons.entry(words).or_default() += count;
            }
            if refusal.is_resolvable() {
                own.resolvable += count;
            }
        }
        own
    }

    pub(crate) fn claimed(nodes: usize) -> Self {
        let words = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        Self {
            nodes,
            by_filter: BTreeMap::from([(Filter::VolumeRestrictions.name(), nodes)]),
            reasons: BTreeMap::from([(words.to_owned(), nodes)]),
            resolvable: nodes,
            prior: None,
        }
    }

    /// The pod itself must change, or what it names must come to be.
    pub fn prior(nodes: usize, reason: String) -> Self {
        Self { nodes, prior: Some(reason), ..Self::default() }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.prior {
            return write!(f, "0/{} nodes are available: {reason}.", self.nodes);
        }
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

impl std::error::Error for Unschedulable {}

/// A node that would do, with what each score gives it, by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    /// Its name.
    pub node: String,
    /// All scores together.
    pub total: i64,
    /// Each score by name.
    pub scores: Vec<(&'static str, i64)>,
}

/// How a decision comes about, by the very numbers that it is made with.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision.
    pub outcome: Result<Placement, Unschedulable>,
    /// Nodes that fell, by filter and by reason.
    pub refused: Unschedulable,
    /// The best five, best first.
    pub best: Vec<Rated>,
}

impl Explanation {
    /// What would have to change for a pod that goes nowhere, the most promising first.
    pub fn remedies(&self) -> Vec<String> {
        let Err(why) = &self.outcome else { return Vec::new() };
        if let Some(reason) = &why.prior {
            return vec![reason.clone()];
        }
        let mut reasons: Vec<_> = why.reasons.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
        reasons
            .into_iter()
            .map(|(reason, count)| format!("{count} of {} nodes: {}", why.nodes, remedy(reason)))
            .collect()
    }
}

fn remedy(reason: &str) -> String {
    let fixed = |text: &str| text.to_owned();
    if let Some(resource) = reason.strip_prefix("Insufficient ") {
        return format!("ask for less {resource}, or free some by removing pods or adding nodes");
    }
    if let Some(taint) = reason.strip_prefix("node(s) had untolerated taint ") {
        return format!("tolerate the taint {taint}, or take it off");
    }
    match reason {
        text if text.ends_with("thousandths free") || text.ends_with("that nobody shares") => {
            fixed("ask for a smaller share or fewer devices, or remove pods that have shares there")
        }
        "Too many pods" => fixed("remove pods, or raise the node's limit of pods"),
        "node(s) were unschedulable" => fixed("uncordon the node"),
        "node(s) didn't match Pod's node affinity/selector" => {
            fixed("label the node as the pod's selector and affinity ask, or ask for less")
        }
        "node(s) didn't have free ports for the requested pod ports" => {
            fixed("use another host port, or remove the pod that has it")
        }
        other => format!("resolve: {other}"),
    }
}
