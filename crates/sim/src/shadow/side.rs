//! One policy of a shadow: its own placements, and the cluster that results.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Instant;

use berth_scheduler::gpu::{Devices, Placed};
use jiff::Timestamp;

use super::counts::{Counts, FirstFailure};
use super::{Known, Saved};
use crate::policy::{Candidate, Policy};
use crate::recording::{RecordedBudget, RecordedNode, RecordedPod, Recording};
use crate::trace::{Arrival, Trace};

/// Pods that found no place are tried again so many at a time.
const RETRIES: usize = 256;
/// A model that has met so many pods more than there are is built anew.
const FORGETTING: usize = 10_000;

/// See the module.
pub(super) struct Side {
    pub(super) candidate: Candidate,
    /// The node of each pod, by uid.
    pub(super) placements: BTreeMap<String, String>,
    /// Pods that found no place.
    pub(super) waiting: BTreeSet<String>,
    /// Pods whose node nobody compared yet with the live one.
    pub(super) open: BTreeSet<String>,
    pub(super) counts: Counts,
    /// Why it cannot judge this cluster.
    pub(super) fault: Option<String>,
    /// Pods to decide.
    new: BTreeSet<String>,
    /// How many of the waiting are to be tried again, and after whom.
    retries: usize,
    tried: String,
    model: Option<Model>,
    /// The model is of another cluster.
    stale: bool,
}

impl Side {
    pub(super) fn new(candidate: Candidate) -> Self {
        Self {
            candidate,
            placements: BTreeMap::new(),
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
            counts: Counts::default(),
            fault: None,
            new: BTreeSet::new(),
            retries: 0,
            tried: String::new(),
            model: None,
            stale: true,
        }
    }

    pub(super) fn start_over(&mut self) {
        self.stale = true;
    }

    fn has(&self, uid: &str) -> bool {
        self.placements.contains_key(uid) || self.waiting.contains(uid)
    }

    /// A pod wants a node; once is enough.
    pub(super) fn ask(&mut self, uid: &str) {
        if !self.has(uid) && self.new.insert(uid.to_owned()) {
            self.open.insert(uid.to_owned());
        }
    }

    /// A pod is where it is, whatever the policy thinks.
    pub(super) fn adopt(&mut self, uid: &str, pod: &RecordedPod, node: &str) {
        if self.has(uid) {
            return;
        }
        self.new.remove(uid);
        self.open.remove(uid);
        self.placements.insert(uid.to_owned(), node.to_owned());
        if let Some(model) = self.model.as_mut().filter(|_| !self.stale) {
            self.stale = !model.put(uid, pod, node);
        }
    }

    /// The live scheduler chose `node`.
    pub(super) fn compare(&mut self, uid: &str, node: &str) {
        let Some(own) = self.placements.get(uid) else { return };
        if self.open.remove(uid) {
            match own == node {
                true => self.counts.same += 1,
                false => self.counts.other += 1,
            }
        }
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.new.remove(uid);
        self.waiting.remove(uid);
        self.open.remove(uid);
        // Without it the policy may be able to judge the rest.
        self.stale |= self.fault.is_some();
        if self.placements.remove(uid).is_some() {
            self.retries = self.waiting.len();
        }
        if let Some(model) = &mut self.model {
            model.remove(uid);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let known = self.placements.keys().chain(&self.waiting).chain(&self.open);
        let gone: Vec<String> = known.filter(|uid| !keep(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.stale || !self.new.is_empty() || (self.retries > 0 && !self.waiting.is_empty())
    }

    pub(super) fn settle(
        &mut self,
        nodes: &BTreeMap<String, RecordedNode>,
        pods: &BTreeMap<String, Known>,
        budgets: &[RecordedBudget],
        seed: u64,
        now: Timestamp,
    ) {
        let crowded = |model: &Model| model.uids.len() > pods.len() * 2 + FORGETTING;
        if self.stale || self.model.as_ref().is_some_and(crowded) {
            self.build(nodes, pods, budgets, seed);
        }
        let asked = std::mem::take(&mut self.new);
        let mut queue: Vec<String> = asked.iter().cloned().collect();
        queue.extend(self.next_waiting());
        queue.retain(|uid| pods.contains_key(uid));
        queue.sort_by_cached_key(|uid| {
            let known = &pods[uid];
            (-i64::from(known.pod.priority), known.created_s, known.pod.name.clone())
        });
        for uid in queue {
            let Some(model) = &mut self.model else {
                self.new.extend(asked);
                return;
            };
            let pod = &pods[&uid].pod;
            let Some(arrival) = model.meet(&uid, pod) else {
                // Nobody knew that nodes differ in what this pod asks for.
                self.build(nodes, pods, budgets, seed);
                self.new.insert(uid);
                continue;
            };
            let begun = Instant::now();
            let placed = model.place(&uid, arrival);
            self.counts.took.see(begun.elapsed());
            let displaced = model.displaced();
            match placed {
                Some(node) => {
                    self.waiting.remove(&uid);
                    self.counts.decided += 1;
                    self.placements.insert(uid.clone(), node);
                }
                None if asked.contains(&uid) => {
                    self.counts.refused += 1;
                    let first = || FirstFailure { at: now, pod: pod.name.clone() };
                    self.counts.first_failure.get_or_insert_with(first);
                    self.waiting.insert(uid.clone());
                }
                None => {}
            }
            for victim in displaced {
                self.placements.remove(&victim);
                self.waiting.insert(victim);
                self.counts.displaced += 1;
                self.retries = self.waiting.len();
            }
            if let Some(node) = &pod.node {
                self.compare(&uid, node);
            }
        }
    }

    /// The next of the waiting, each in its turn.
    fn next_waiting(&mut self) -> Vec<String> {
        let count = self.retries.min(RETRIES).min(self.waiting.len());
        let after = (Bound::Excluded(self.tried.as_str()), Bound::Unbounded);
        let next = self.waiting.range::<str, _>(after).chain(&self.waiting).take(count);
        let next: Vec<String> = next.cloned().collect();
        self.retries -= count;
        self.tried = next.last().cloned().unwrap_or_default();
        next
    }

    /// Makes the model of this cluster with every pod where the policy has put it.
    fn build(
        &mut self,
        nodes: &BTreeMap<String, RecordedNode>,
        pods: &BTreeMap<String, Known>,
        budgets: &[RecordedBudget],
        seed: u64,
    ) {
        self.stale = false;
        let recording = Recording {
            source: "a live cluster".to_owned(),
            nodes: nodes.values().cloned().collect(),
            pods: pods.values().map(|known| known.pod.clone()).collect(),
            budgets: budgets.to_vec(),
            ..Recording::default()
        };
        let uids: Vec<String> = pods.keys().cloned().collect();
        self.model = match Model::new(&self.candidate, &recording, uids, seed) {
            Ok(model) => {
                self.fault = None;
                Some(model)
            }
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        };
        let Some(model) = &mut self.model else { return };
        // Pods go with their node; those of a node that is only cordoned stay and are not counted.
        let gone = |(_, node): &(&String, &String)| !nodes.contains_key(*node);
        let gone: Vec<String> =
            self.placements.iter().filter(gone).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.placements.remove(&uid);
            self.waiting.insert(uid);
            self.counts.displaced += 1;
        }
        self.retries = self.waiting.len();
        for (uid, node) in &self.placements {
            if let Some(known) = pods.get(uid) {
                model.put(uid, &known.pod, node);
            }
        }
    }

    /// The devices that a pod has here.
    pub(super) fn devices(&self, uid: &str) -> Option<Devices> {
        self.model.as_ref()?.placed.get(uid).map(|(_, placed)| placed.devices)
    }

    pub(super) fn restore(&mut self, saved: &Saved) {
        let same = |side: &&super::state::SavedSide| side.candidate == self.candidate;
        if let Some(saved) = saved.sides.iter().find(same) {
            self.placements.clone_from(&saved.placements);
            self.waiting.clone_from(&saved.waiting);
            self.open.clone_from(&saved.open);
            self.counts.clone_from(&saved.counts);
        }
    }
}

/// The cluster as the policy fills it.
struct Model {
    policy: Box<dyn Policy>,
    trace: Trace,
    /// Nodes' numbers.
    index: HashMap<String, usize>,
    /// Pods' numbers, and whose they are.
    numbers: HashMap<String, usize>,
    uids: Vec<String>,
    placed: HashMap<String, (Arrival, Placed)>,
}

impl Model {
    fn new(
        candidate: &Candidate,
        recording: &Recording,
        uids: Vec<String>,
        seed: u64,
    ) -> Result<Self, String> {
        let mut trace = candidate.trace(recording).map_err(|error| error.to_string())?;
        let contender = candidate.ready(recording).map_err(|error| error.to_string())?;
        let policy = contender.start(&trace, seed);
        let index = trace.nodes.iter().enumerate().map(|(index, name)| (name.clone(), index));
        let numbers = uids.iter().enumerate().map(|(number, uid)| (uid.clone(), number));
        let (index, numbers) = (index.collect(), numbers.collect());
        // The arrivals served to tell the workload; pods are asked for one by one from here on.
        trace.arrivals.clear();
        Ok(Self { policy, trace, index, numbers, uids, placed: HashMap::new() })
    }

    /// The pod as it arrives here; none when the model cannot tell what it asks for.
    fn meet(&mut self, uid: &str, pod: &RecordedPod) -> Option<Arrival> {
        let number = match self.numbers.get(uid) {
            Some(number) => *number,
            None => {
                self.policy.meet(pod).ok()?;
                let number = self.uids.len();
                self.numbers.insert(uid.to_owned(), number);
                self.uids.push(uid.to_owned());
                number
            }
        };
        self.trace.arrival(number, pod)
    }

    fn place(&mut self, uid: &str, arrival: Arrival) -> Option<String> {
        let placed = self.policy.place(arrival.pod, &arrival)?;
        self.placed.insert(uid.to_owned(), (arrival, placed));
        self.trace.nodes.get(placed.node).cloned()
    }

    /// Whether it can tell what the pod asks for. What does not fit on its node is left out of the
    /// sums: more than fits was there before.
    fn put(&mut self, uid: &str, pod: &RecordedPod, node: &str) -> bool {
        let Some(node) = self.index.get(node).copied() else { return true };
        let Some(arrival) = self.meet(uid, pod) else { return false };
        if let Some(placed) = self.policy.put(arrival.pod, &arrival, node) {
            self.placed.insert(uid.to_owned(), (arrival, placed));
        }
        true
    }

    fn remove(&mut self, uid: &str) {
        match (self.placed.remove(uid), self.numbers.get(uid)) {
            (Some((arrival, placed)), _) => self.policy.remove(arrival.pod, &arrival, placed),
            (None, Some(number)) => self.policy.give_up(*number),
            (None, None) => {}
        }
    }

    fn displaced(&mut self) -> Vec<String> {
        let victims = self.policy.displaced();
        let victims: Vec<String> =
            victims.into_iter().map(|number| self.uids[number].clone()).collect();
        victims.iter().for_each(|uid| drop(self.placed.remove(uid)));
        victims
    }
}
