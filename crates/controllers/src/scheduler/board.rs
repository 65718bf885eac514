//! What the scheduler knows and what waits: the cluster, and a queue of pods without a node.
//!
//! ```text
//!  new pod ─▶ active ──decide──▶ assumed ──bound, seen by the watch──▶ placed
//!               ▲                  │ binding failed
//!               │                  ▼
//!            waiting until ◀── parked, with the filters that refused it
//!                            woken only by a change that could change their minds
//! ```
//!
//! Pure but for the time that is passed in.
//!
//! Source: the three queues and the queueing hints of kube-scheduler (KEP-4247).

pub mod asked;
mod attempt;
mod devices;
mod homes;
mod incoming;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use berth_api::Selector;
use berth_scheduler::preempt::{Budget, Preemption};
use berth_scheduler::selector::Labels;
use berth_scheduler::snapshot::{Node, Pod};
use berth_scheduler::volumes::Volumes;
use berth_scheduler::{Cluster, Placement, Profile, Unschedulable, snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::driver::Key;
use homes::Homes;
use incoming::{Event, Queue};

pub use incoming::Incoming;

/// The wait of a pod that fitted nowhere, from the first time to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A pod that fits nowhere is looked at again after this even if nothing changed.
const PARKED: Duration = Duration::from_secs(300);

/// What changed, for those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A node came or changed, a namespace's labels did: anything may be possible now.
    Anything,
    /// A pod went: there is room, a port, a distance.
    PodGone,
    /// A pod came: someone to be near of, or another count of a spread.
    PodCame,
    /// Claims, volumes or classes changed.
    Volumes,
}

/// All that decisions are made of.
pub struct Board {
    pub cluster: Cluster,
    pub volumes: Volumes,
    pub budgets: BTreeMap<Key, Budget>,
    names: BTreeSet<String>,
    placed: HashMap<Key, Arc<Pod>>,
    assumed: HashMap<Key, Arc<Pod>>,
    waiting: HashMap<Key, Waiting>,
    active: BTreeSet<Rank>,
    due: BTreeSet<(Instant, Key)>,
    parked: BTreeSet<Key>,
    /// Those of the parked whom one more pod on a node may help: looked at on every binding, which
    /// must not cost more where many wait for room.
    near: BTreeSet<Key>,
    /// For whom each of the pods that must go makes room, by their UIDs.
    leaving: HashMap<String, Key>,
    /// How many placed pods have each priority.
    priorities: BTreeMap<i32, usize>,
    homes: Homes,
    incoming: Incoming,
}

/// The more important, then those that come back, then the older first.
type Rank = (Reverse<i32>, bool, Option<Timestamp>, Key);

struct Waiting {
    pod: Arc<Pod>,
    created: Option<Timestamp>,
    seen: Instant,
    attempts: u32,
    stage: Stage,
    /// No attempt before this, whatever happens.
    from: Option<Instant>,
    /// Who refused it last.
    refused_by: BTreeSet<&'static str>,
    /// The UIDs of those who still have to go so that it fits.
    victims: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    Due(Instant),
    Parked(Instant),
}

/// What was decided for one pod.
pub struct Decision {
    /// Which pod.
    pub key: Key,
    /// The pod as it was decided about.
    pub pod: Arc<Pod>,
    /// What comes of it.
    pub outcome: Outcome,
    /// How long it waited, counted from when it was first seen, and how often it was tried.
    pub waited: Duration,
    /// Attempts before this one.
    pub attempts: u32,
}

/// Where a pod goes, or why nowhere and what is done about it.
pub enum Outcome {
    /// There.
    Bind(Placement),
    /// Nowhere; others may have to go first.
    Refuse {
        /// Why.
        why: Unschedulable,
        /// Who must go, and from where.
        preemption: Option<Preemption>,
        /// What is said about it after the reason.
        note: Option<String>,
    },
}

/// How many pods wait, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Can be tried.
    pub active: usize,
    /// Must wait some time.
    pub backoff: usize,
    /// Wait for a change.
    pub unschedulable: usize,
}

impl Board {
    /// An empty board for these profiles; pods that name another scheduler are not ours.
    pub fn new(profiles: Vec<Profile>) -> Self {
        let names = profiles.iter().map(|profile| profile.scheduler_name.clone()).collect();
        Self {
            cluster: Cluster::new(profiles),
            volumes: Volumes::default(),
            budgets: BTreeMap::new(),
            names,
            placed: HashMap::new(),
            assumed: HashMap::new(),
            waiting: HashMap::new(),
            active: BTreeSet::new(),
            due: BTreeSet::new(),
            parked: BTreeSet::new(),
            near: BTreeSet::new(),
            leaving: HashMap::new(),
            priorities: BTreeMap::new(),
            homes: Homes::default(),
            incoming: Incoming::default(),
        }
    }

    /// A namespace came, changed, or went.
    pub fn see_namespace(&mut self, name: String, labels: Option<Labels>, now: Instant) {
        if self.cluster.set_namespace(name, labels) {
            self.wake(Hint::Anything, now);
        }
    }

    /// A node came, changed, or went; whether that can matter to anyone.
    pub fn see_node(&mut self, name: &str, node: Option<Node>, now: Instant) -> bool {
        let changed = match node {
            Some(node) => {
                let new = !self.cluster.has_node(name);
                // Heartbeats change nothing that is read here.
                let changed = self.cluster.set_node(node);
                if new {
                    self.put_back(name);
                }
                changed
            }
            None => self.cluster.remove_node(name),
        };
        if changed {
            self.wake(Hint::Anything, now);
        }
        changed
    }

    /// Pods that are known to be on a node that came only now.
    fn put_back(&mut self, name: &str) {
        let there = |pod: &&Arc<Pod>| pod.node.as_deref() == Some(name);
        let pods = self.placed.values().chain(self.assumed.values());
        for pod in pods.filter(there).cloned().collect::<Vec<_>>() {
            self.cluster.place(pod, name);
        }
    }

    /// A pod came, changed, or went; whether there is something to decide. `like` is what Services
    /// and its controller select it by.
    pub fn see_pod(
        &mut self,
        key: &Key,
        object: Option<&core::Pod>,
        like: Option<Selector>,
        now: Instant,
    ) -> bool {
        let Some(object) = object.filter(|object| !is_over(object)) else {
            return self.drop_pod(key, now);
        };
        let mut pod = snapshot::pod(object);
        pod.like = like;
        if pod.node.is_some() {
            return self.see_placed(key, pod, now);
        }
        if let Some(assumed) = self.assumed.get(key) {
            if assumed.uid == pod.uid && !pod.terminating {
                return false;
            }
            self.unassume(key);
        }
        if !self.is_ours(object) || pod.terminating {
            self.unqueue(key);
            return false;
        }
        let pod = Arc::new(pod);
        // Room that was made for it before this scheduler was started.
        if self.cluster_nominates(&pod) {
            self.cluster.nominate(&pod, pod.nominated.as_deref());
        }
        let event = match self.waiting.get_mut(key) {
            Some(waiting) if waiting.pod.uid == pod.uid => {
                // Our own report changes the pod's status; only what it asks for matters.
                let asks_the_same = asks_the_same(&waiting.pod, &pod);
                waiting.pod = pod;
                if asks_the_same {
                    return false;
                }
                Event::Changed
            }
            _ => {
                self.unqueue(key);
                let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
                let waiting = Waiting {
                    pod,
                    created,
                    seen: now,
                    attempts: 0,
                    stage: Stage::Parked(now),
                    from: None,
                    refused_by: BTreeSet::new(),
                    victims: BTreeSet::new(),
                };
                self.waiting.insert(key.clone(), waiting);
                Event::Came
            }
        };
        self.enqueue(key, Stage::Active, event);
        true
    }

    fn cluster_nominates(&self, pod: &Pod) -> bool {
        pod.nominated.as_deref().is_some_and(|node| self.cluster.has_node(node))
    }

    fn see_placed(&mut self, key: &Key, pod: Pod, now: Instant) -> bool {
        self.unqueue(key);
        self.assumed.remove(key);
        let pod = Arc::new(pod);
        self.cluster.nominate(&pod, None);
        let node = pod.node.clone().expect("the caller has looked");
        self.homes.placed(&pod, &node);
        let old = self.placed.get(key).filter(|old| old.uid == pod.uid);
        if pod.terminating && old.is_none_or(|old| !old.terminating) {
            self.homes.left(&pod);
        }
        self.cluster.place(Arc::clone(&pod), &node);
        *self.priorities.entry(pod.priority).or_default() += 1;
        match self.placed.insert(key.clone(), Arc::clone(&pod)) {
            Some(old) => {
                self.uncount(&old);
                if old.uid != pod.uid {
                    self.cluster.remove(&old.uid);
                }
                let shrank = old.requests != pod.requests || old.labels != pod.labels;
                shrank && self.wake(Hint::Anything, now)
            }
            // One more pod helps only those that want to be near it or count it.
            None => self.wake(Hint::PodCame, now),
        }
    }

    fn drop_pod(&mut self, key: &Key, now: Instant) -> bool {
        if let Some(waiting) = self.unqueue(key) {
            self.cluster.nominate(&waiting.pod, None);
        }
        self.unassume(key);
        let Some(pod) = self.placed.remove(key) else { return false };
        if !pod.terminating {
            self.homes.left(&pod);
        }
        self.uncount(&pod);
        self.cluster.remove(&pod.uid);
        let has_room = self.leave(&pod.uid);
        self.wake(Hint::PodGone, now) || has_room
    }

    /// One who had to go has gone; whether that was the last, so that the pod that it was for is
    /// tried at once: it need not wait for what it has been given.
    fn leave(&mut self, uid: &str) -> bool {
        let Some(key) = self.leaving.remove(uid) else { return false };
        let Some(waiting) = self.waiting.get_mut(&key) else { return false };
        let last = waiting.victims.remove(uid) && waiting.victims.is_empty();
        if last {
            waiting.from = None;
            self.enqueue(&key, Stage::Active, Event::Hint(Hint::PodGone));
        }
        last
    }

    fn uncount(&mut self, pod: &Pod) {
        if let Some(count) = self.priorities.get_mut(&pod.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&pod.priority);
            }
        }
    }

    fn unassume(&mut self, key: &Key) {
        if let Some(pod) = self.assumed.remove(key) {
            self.cluster.remove(&pod.uid);
        }
    }

    /// A placement did not come to be: the pod, as it is now, waits again.
    pub fn give_back(
        &mut self,
        key: &Key,
        object: Option<&core::Pod>,
        like: Option<Selector>,
        now: Instant,
    ) {
        if self.assumed.contains_key(key) {
            self.unassume(key);
            self.see_pod(key, object, like, now);
            self.wait_longer(key, now, BTreeSet::new());
            if let Some(waiting) = self.waiting.get(key)
                && let Some(from) = waiting.from
            {
                self.enqueue(key, Stage::Due(from), Event::Failed);
            }
        }
    }

    /// When the next waiting pod is due, if any waits.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.active.is_empty() {
            return Some(now);
        }
        self.due.first().map(|(at, _)| *at)
    }

    /// How many pods wait.
    pub fn pending(&self) -> Pending {
        let unschedulable = self.parked.len();
        let backoff = self.due.len() - unschedulable;
        Pending { active: self.active.len(), backoff, unschedulable }
    }

    /// Something changed: those whom it could help are tried again; whether there are any.
    pub fn wake(&mut self, hint: Hint, now: Instant) -> bool {
        let among = if hint == Hint::PodCame { &self.near } else { &self.parked };
        let helped: Vec<Key> = among
            .iter()
            .filter(|key| self.waiting.get(*key).is_some_and(|each| helps(hint, &each.refused_by)))
            .cloned()
            .collect();
        for key in &helped {
            let from = self.waiting.get(key).and_then(|waiting| waiting.from);
            match from.filter(|from| *from > now) {
                Some(from) => self.enqueue(key, Stage::Due(from), Event::Hint(hint)),
                None => self.enqueue(key, Stage::Active, Event::Hint(hint)),
            }
        }
        !helped.is_empty()
    }

    /// How many pods came to each part of the queue since the begin, and why.
    pub fn incoming(&self) -> Incoming {
        self.incoming
    }

    /// Moves a waiting pod to another part of the queue, and counts that.
    fn enqueue(&mut self, key: &Key, stage: Stage, event: Event) {
        let queue = match stage {
            Stage::Active => Queue::Active,
            Stage::Due(_) => Queue::Backoff,
            Stage::Parked(_) => Queue::Unschedulable,
        };
        self.incoming.count(queue, event);
        self.stage(key, stage);
    }

    /// Moves a waiting pod to another part of the queue.
    fn stage(&mut self, key: &Key, stage: Stage) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        let old = std::mem::replace(&mut waiting.stage, stage);
        let rank = rank(key, waiting, &self.homes);
        match old {
            Stage::Active => {
                // Its rank may have changed with it.
                if !self.active.remove(&rank) {
                    self.active.retain(|(.., known)| known != key);
                }
            }
            Stage::Due(at) => {
                self.due.remove(&(at, key.clone()));
            }
            Stage::Parked(at) => {
                self.due.remove(&(at, key.clone()));
                self.parked.remove(key);
                self.near.remove(key);
            }
        }
        match stage {
            Stage::Active => {
                self.active.insert(rank);
            }
            Stage::Due(at) => {
                self.due.insert((at, key.clone()));
            }
            Stage::Parked(at) => {
                self.due.insert((at, key.clone()));
                if helps(Hint::PodCame, &waiting.refused_by) {
                    self.near.insert(key.clone());
                }
                self.parked.insert(key.clone());
            }
        }
    }

    fn unqueue(&mut self, key: &Key) -> Option<Waiting> {
        self.waiting.get(key)?;
        // Out of every part, by way of one that is cheap to leave.
        let at = Instant::now();
        self.stage(key, Stage::Due(at));
        self.due.remove(&(at, key.clone()));
        self.waiting.remove(key)
    }

    fn wait_longer(&mut self, key: &Key, now: Instant, refused_by: BTreeSet<&'static str>) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            let wait = FIRST_WAIT.saturating_mul(1 << waiting.attempts.min(8)).min(LAST_WAIT);
            waiting.attempts += 1;
            waiting.from = Some(now + wait);
            waiting.refused_by = refused_by;
            self.enqueue(key, Stage::Parked(now + PARKED), Event::Failed);
        }
    }

    /// Whether this scheduler is asked for, and nothing holds the pod back.
    fn is_ours(&self, pod: &core::Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let name = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
        self.names.contains(name) && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
    }
}

fn rank(key: &Key, waiting: &Waiting, homes: &Homes) -> Rank {
    let pod = &waiting.pod;
    let stranger = !homes.has(pod);
    (Reverse(pod.priority), stranger, waiting.created, key.clone())
}

/// Whether a change can matter to a pod that these filters refused; none known, any change can.
fn helps(hint: Hint, refused_by: &BTreeSet<&'static str>) -> bool {
    let any = |names: &[&str]| {
        refused_by.is_empty() || refused_by.iter().any(|name| names.contains(name))
    };
    match hint {
        Hint::Anything => true,
        Hint::PodGone => any(&[
            "NodeResourcesFit",
            "DeviceShares",
            "NodePorts",
            "NodeVolumeLimits",
            "VolumeRestrictions",
            "PodTopologySpread",
            "InterPodAffinity",
        ]),
        Hint::PodCame => any(&["PodTopologySpread", "InterPodAffinity"]),
        Hint::Volumes => any(&["VolumeBinding", "VolumeZone"]),
    }
}

fn is_over(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn asks_the_same(one: &Pod, other: &Pod) -> bool {
    one.labels == other.labels
        && one.requests == other.requests
        && one.tolerations == other.tolerations
        && one.node_selector == other.node_selector
        && one.node_affinity == other.node_affinity
        && one.priority == other.priority
        && one.gang == other.gang
        && one.share == other.share
        && one.gpu_models == other.gpu_models
}

#[cfg(test)]
mod tests;
