//! The shadow: policies beside a live scheduler, fed by the same changes, binding nothing.
//!
//! ```text
//!  watch of nodes, pods ──▶ Shadow ─┬─ live: what the scheduler did
//!                                   ├─ policy A: its own placements of the same pods
//!                                   └─ policy B: …            ──▶ Report (table, JSON, Prometheus)
//! ```
//!
//! Each policy fills a cluster of its own: the live nodes, with every pod where this policy put it
//! when it arrived. Pods that were there before the shadow, and pods that belong to their node
//! (daemons, static pods), are where they live. So the clusters part more and more, and after a
//! while show what the live one would look like under that policy.
//!
//! Refuses to write anything to the cluster. Volumes, images and measured use are not looked at;
//! pods of a gang are placed one by one.
//!
//! # Guarantees
//! Nothing is decided twice: a restart with the saved state goes on with the placements there were.
//!
//! Source: Borg's Fauxmaster (EuroSys '15, §3.1), run on line.

mod counts;
mod feed;
mod report;
mod serve;
mod side;
mod state;
mod verdict;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::policy::Candidate;
use crate::recording::{RecordedBudget, RecordedNode, RecordedPod};

pub use counts::{Counts, FirstFailure, Timing};
pub use feed::{FeedError, cluster_id, follow};
pub use report::{Report, Standing};
pub use serve::serve;
pub use state::{Saved, StateError};
pub use verdict::{Least, TooLittle, Verdict, judge};

use side::Side;
use state::SavedPod;

/// A pod as the live cluster shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sighting {
    /// What it is, and where.
    pub pod: RecordedPod,
    /// When it was made, seconds since 1970.
    pub created_s: i64,
    /// It belongs to its node, whoever schedules.
    pub pinned: bool,
    /// The live scheduler has said that it fits nowhere.
    pub refused: bool,
}

/// A pod that is followed.
#[derive(Clone, Debug)]
struct Known {
    pod: RecordedPod,
    created_s: i64,
    /// When it was first seen without a node.
    waiting_since: Option<Timestamp>,
    refused: bool,
    /// The live scheduler's choice has been counted.
    counted: bool,
    /// It was there before the shadow.
    older: bool,
}

/// See the module.
pub struct Shadow {
    cluster: String,
    since: Timestamp,
    /// Seconds watched before this run.
    watched_before_s: u64,
    /// When this run began.
    begun: Timestamp,
    seed: u64,
    nodes: BTreeMap<String, RecordedNode>,
    /// By uid.
    pods: BTreeMap<String, Known>,
    budgets: Vec<RecordedBudget>,
    live: Counts,
    sides: Vec<Side>,
    /// What a former run knew of pods that have not been seen yet in this one.
    saved: BTreeMap<String, SavedPod>,
}

impl Shadow {
    /// A shadow of the cluster with this id that has seen nothing yet.
    pub fn new(cluster: &str, candidates: Vec<Candidate>, seed: u64, now: Timestamp) -> Self {
        Self {
            cluster: cluster.to_owned(),
            since: now,
            watched_before_s: 0,
            begun: now,
            seed,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            budgets: Vec::new(),
            live: Counts::default(),
            sides: candidates.into_iter().map(Side::new).collect(),
            saved: BTreeMap::new(),
        }
    }

    /// A node came or changed.
    pub fn see_node(&mut self, node: RecordedNode) {
        if self.nodes.get(&node.name) != Some(&node) {
            self.nodes.insert(node.name.clone(), node);
            self.sides.iter_mut().for_each(Side::start_over);
        }
    }

    /// A node went.
    pub fn lose_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_some() {
            self.sides.iter_mut().for_each(Side::start_over);
        }
    }

    /// Loses the nodes that are not to be kept.
    pub fn keep_nodes(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.nodes.keys().filter(|name| !keep(name)).cloned().collect();
        gone.iter().for_each(|name| self.lose_node(name));
    }

    /// Loses the pods that are not to be kept.
    pub fn keep_pods(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.pods.keys().filter(|uid| !keep(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.lose_pod(uid));
    }

    /// The budgets there are now.
    pub fn see_budgets(&mut self, budgets: Vec<RecordedBudget>) {
        if self.budgets != budgets {
            self.budgets = budgets;
            self.sides.iter_mut().for_each(Side::start_over);
        }
    }

    /// A pod came or changed.
    pub fn see_pod(&mut self, uid: &str, sighting: Sighting, now: Timestamp) {
        let Sighting { pod, created_s, pinned, refused } = sighting;
        let node = pod.node.clone();
        if !self.pods.contains_key(uid) {
            let saved = self.saved.remove(uid);
            let known = Known {
                pod: RecordedPod { node: None, ..pod.clone() },
                created_s,
                waiting_since: (node.is_none() && saved.is_none()).then_some(now),
                refused: saved.is_some_and(|saved| saved.refused),
                counted: saved.is_some_and(|saved| saved.bound),
                older: saved.is_none() && created_s < self.since.as_second(),
            };
            self.pods.insert(uid.to_owned(), known);
        }
        let Some(known) = self.pods.get_mut(uid) else { return };
        let before = std::mem::replace(&mut known.pod, pod).node;
        if refused && !known.refused {
            known.refused = true;
            self.live.refused += 1;
            let first = || FirstFailure { at: now, pod: known.pod.name.clone() };
            self.live.first_failure.get_or_insert_with(first);
        }
        let Some(node) = node else {
            if !pinned {
                self.sides.iter_mut().for_each(|side| side.ask(uid));
            }
            return;
        };
        if before.is_some() {
            return;
        }
        known.refused = false;
        let already = std::mem::replace(&mut known.counted, true);
        if pinned || already || (known.waiting_since.is_none() && known.older) {
            let pod = &known.pod;
            self.sides.iter_mut().for_each(|side| side.adopt(uid, pod, &node));
        } else {
            self.live.decided += 1;
            self.sides.iter_mut().for_each(|side| side.ask(uid));
        }
        if let Some(since) = known.waiting_since.filter(|_| !pinned) {
            self.live.took.see(now.duration_since(since).unsigned_abs());
        }
        self.sides.iter_mut().for_each(|side| side.compare(uid, &node));
    }

    /// A pod ended or went.
    pub fn lose_pod(&mut self, uid: &str) {
        if self.pods.remove(uid).is_some() {
            self.sides.iter_mut().for_each(|side| side.forget(uid));
        }
    }

    /// Everything that there is has been seen: what was saved of pods that are gone goes too.
    pub fn seen_all(&mut self) {
        self.saved.clear();
        let pods = &self.pods;
        self.sides.iter_mut().for_each(|side| side.retain(|uid| pods.contains_key(uid)));
    }

    /// Lets every policy decide what there is to decide.
    pub fn settle(&mut self, now: Timestamp) {
        for side in &mut self.sides {
            side.settle(&self.nodes, &self.pods, &self.budgets, self.seed, now);
        }
    }

    /// Whether [`Shadow::settle`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        self.sides.iter().any(Side::is_unsettled)
    }
}
