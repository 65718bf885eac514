//! What the scheduler knows: nodes, pods on them, pods that wait. Kept in step by the caches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_scheduler::selector::Labels;
use berth_scheduler::{Node, Placement, Pod, Profile, Snapshot, Unschedulable, schedule, snapshot};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::driver::{Key, World};

/// The wait of a pod that fitted nowhere, from the first time to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A pod that fits nowhere is looked at again after this even if nothing changed.
const PARKED: Duration = Duration::from_secs(300);
/// The names under which pods ask for this scheduler.
const NAMES: [&str; 2] = ["default-scheduler", "berth"];

/// All that decisions are made of.
#[derive(Default)]
pub struct Board {
    nodes: BTreeMap<String, Arc<Node>>,
    placed: BTreeMap<Key, Arc<Pod>>,
    assumed: BTreeMap<Key, Arc<Pod>>,
    waiting: BTreeMap<Key, Waiting>,
    namespaces: BTreeMap<String, Labels>,
}

struct Waiting {
    pod: Arc<Pod>,
    created: Option<Timestamp>,
    attempts: u32,
    /// Not before this.
    from: Option<Instant>,
    /// Fitted nowhere: only a change in the cluster, or much time, makes it worth another look.
    parked_until: Option<Instant>,
}

/// What was decided for one pod.
pub struct Decision {
    /// Which pod.
    pub key: Key,
    /// That very pod, and no later one of its name.
    pub uid: String,
    /// Where it goes, or why nowhere.
    pub outcome: Result<Placement, Unschedulable>,
}

/// Keeps `board` in step with `world` and tells `changed`.
pub fn wire(world: &World, board: &Arc<Mutex<Board>>, changed: &Arc<Notify>) {
    let lock = |board: &Arc<Mutex<Board>>| Arc::clone(board);
    let (own, wake) = (lock(board), Arc::clone(changed));
    world.namespaces.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let labels = change.new.map(|new| new.metadata.labels.clone().unwrap_or_default());
        own.lock().expect("no holder panics").see_namespace(name, labels);
        wake.notify_one();
    });
    let (own, wake) = (lock(board), Arc::clone(changed));
    world.nodes.subscribe(move |change| {
        let name = Key::of(&change.latest().metadata).name;
        let node = change.new.map(|new| snapshot::node(new));
        if own.lock().expect("no holder panics").see_node(name, node) {
            wake.notify_one();
        }
    });
    let (own, wake) = (lock(board), Arc::clone(changed));
    world.pods.subscribe(move |change| {
        let key = Key::of(&change.latest().metadata);
        if own.lock().expect("no holder panics").see_pod(key, change.new.map(|new| &**new)) {
            wake.notify_one();
        }
    });
}

impl Board {
    /// A namespace came, changed, or went.
    pub fn see_namespace(&mut self, name: String, labels: Option<Labels>) {
        let changed = match labels {
            Some(labels) => self.namespaces.insert(name, labels.clone()) != Some(labels),
            None => self.namespaces.remove(&name).is_some(),
        };
        if changed {
            self.unpark();
        }
    }

    /// A node came, changed, or went; whether that can matter to anyone.
    pub fn see_node(&mut self, name: String, node: Option<Node>) -> bool {
        match node {
            Some(node) => {
                // Heartbeats change nothing that is read here.
                if self.nodes.get(&name).is_some_and(|known| **known == node) {
                    return false;
                }
                self.nodes.insert(name, Arc::new(node));
            }
            None => {
                self.nodes.remove(&name);
            }
        }
        self.unpark();
        true
    }

    /// A pod came, changed, or went; whether there is something to decide.
    pub fn see_pod(&mut self, key: Key, object: Option<&core::Pod>) -> bool {
        let Some(object) = object.filter(|object| !is_over(object)) else {
            self.waiting.remove(&key);
            self.assumed.remove(&key);
            if self.placed.remove(&key).is_some() {
                self.unpark();
                return true;
            }
            return false;
        };
        let pod = Arc::new(snapshot::pod(object));
        if pod.node.is_some() {
            self.waiting.remove(&key);
            self.assumed.remove(&key);
            let new = self.placed.insert(key, pod).is_none();
            // One more pod helps only those that want to be near it.
            let social = |waiting: &Waiting| {
                !waiting.pod.affinity.is_empty() || !waiting.pod.spread.is_empty()
            };
            if new && self.waiting.values().any(social) {
                self.unpark();
                return true;
            }
            return false;
        }
        if let Some(assumed) = self.assumed.get(&key) {
            if assumed.uid == pod.uid && !pod.terminating {
                return false;
            }
            self.assumed.remove(&key);
        }
        if !is_ours(object) || pod.terminating {
            self.waiting.remove(&key);
            return false;
        }
        let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        match self.waiting.get_mut(&key) {
            Some(waiting) if waiting.pod.uid == pod.uid => {
                // Our own report changes the pod's status; only what it asks for matters.
                let asks_the_same = same_wishes(&waiting.pod, &pod);
                waiting.pod = pod;
                if asks_the_same {
                    return false;
                }
                waiting.parked_until = None;
            }
            _ => {
                let waiting = Waiting { pod, created, attempts: 0, from: None, parked_until: None };
                self.waiting.insert(key, waiting);
            }
        }
        true
    }

    /// Decides for at most `limit` pods that are due, by priority and age, and counts each placement.
    pub fn decide(&mut self, profile: &Profile, now: Instant, limit: usize) -> Vec<Decision> {
        let mut due: Vec<(Key, Arc<Pod>, Option<Timestamp>)> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.due().is_none_or(|at| at <= now))
            .map(|(key, waiting)| (key.clone(), Arc::clone(&waiting.pod), waiting.created))
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        due.sort_by(|one, other| {
            (other.1.priority, one.2, &one.0).cmp(&(one.1.priority, other.2, &other.0))
        });
        due.truncate(limit);
        let mut world = Snapshot::new(
            self.nodes.values().cloned(),
            self.placed.values().chain(self.assumed.values()).cloned(),
            self.namespaces.clone(),
        );
        let mut decisions = Vec::with_capacity(due.len());
        for (key, pod, _) in due {
            let outcome = schedule(&world, &pod, profile);
            match &outcome {
                Ok(placement) => {
                    let mut placed = Pod::clone(&pod);
                    placed.node = Some(placement.node.clone());
                    let placed = Arc::new(placed);
                    world.put(Arc::clone(&placed), &placement.node);
                    self.waiting.remove(&key);
                    self.assumed.insert(key.clone(), placed);
                }
                Err(_) => self.wait_longer(&key, now, true),
            }
            decisions.push(Decision { key, uid: pod.uid.clone(), outcome });
        }
        decisions
    }

    /// A placement did not come to be: the pod, as it is now, waits again.
    pub fn give_back(&mut self, key: &Key, object: Option<&core::Pod>, now: Instant) {
        if self.assumed.remove(key).is_some() {
            self.see_pod(key.clone(), object);
            self.wait_longer(key, now, false);
        }
    }

    /// When the next waiting pod is due, if any waits.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(Waiting::due).min()
    }

    /// Something changed that may make room: parked pods are due when their wait is over.
    fn unpark(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.parked_until = None;
        }
    }

    fn wait_longer(&mut self, key: &Key, now: Instant, parked: bool) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            let wait = FIRST_WAIT.saturating_mul(1 << waiting.attempts.min(8)).min(LAST_WAIT);
            waiting.attempts += 1;
            waiting.from = Some(now + wait);
            waiting.parked_until = parked.then(|| now + PARKED);
        }
    }
}

impl Waiting {
    fn due(&self) -> Option<Instant> {
        self.from.max(self.parked_until)
    }
}

fn is_over(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether this scheduler is asked for, and nothing holds the pod back.
fn is_ours(pod: &core::Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let name = spec.scheduler_name.as_deref().unwrap_or(NAMES[0]);
    NAMES.contains(&name) && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn same_wishes(one: &Pod, other: &Pod) -> bool {
    one.labels == other.labels
        && one.requests == other.requests
        && one.tolerations == other.tolerations
        && one.node_selector == other.node_selector
        && one.node_affinity == other.node_affinity
        && one.priority == other.priority
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, more: serde_json::Value) -> core::Pod {
        let mut spec = json!({ "priority": priority, "containers": [{ "name": "c",
            "resources": { "requests": { "cpu": "1" } } }] });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name, "uid": name },
            "spec": spec,
        }))
        .unwrap()
    }

    fn see(board: &mut Board, pod: &core::Pod) -> bool {
        board.see_pod(Key::of(&pod.metadata), Some(pod))
    }

    fn board_with_room_for(cores: i64) -> Board {
        let mut board = Board::default();
        let node = json!({ "metadata": { "name": "a" },
            "status": { "allocatable": { "cpu": cores.to_string(), "pods": "9" } } });
        let node = snapshot::node(&serde_json::from_value(node).unwrap());
        assert!(board.see_node("a".into(), Some(node.clone())));
        assert!(!board.see_node("a".into(), Some(node)), "a heartbeat wakes no one");
        board
    }

    fn outcomes(board: &mut Board, now: Instant) -> Vec<(String, bool)> {
        let decisions = board.decide(&Profile::standard(0), now, 10);
        decisions.into_iter().map(|each| (each.key.name, each.outcome.is_ok())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn two_pods_never_get_the_same_room_and_the_more_important_goes_first() {
        let mut board = board_with_room_for(1);
        assert!(see(&mut board, &pod("low", 0, json!({}))));
        assert!(see(&mut board, &pod("high", 5, json!({}))));
        let now = Instant::now();
        assert_eq!(outcomes(&mut board, now), [("high".into(), true), ("low".into(), false)]);
        assert!(!see(&mut board, &pod("high", 5, json!({}))), "assumed until the watch shows it");
        assert_eq!(outcomes(&mut board, now), []);
        see(&mut board, &pod("high", 5, json!({ "nodeName": "a" })));
        assert_eq!(outcomes(&mut board, now + LAST_WAIT), [], "nothing changed that helps");
        board.see_pod(Key::new("default", "high"), None);
        assert_eq!(outcomes(&mut board, now), [], "its wait is not over");
        assert_eq!(outcomes(&mut board, now + FIRST_WAIT), [("low".into(), true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_binding_gives_the_room_back() {
        let mut board = board_with_room_for(1);
        let one = pod("one", 0, json!({}));
        see(&mut board, &one);
        let now = Instant::now();
        assert_eq!(outcomes(&mut board, now), [("one".into(), true)]);
        board.give_back(&Key::new("default", "one"), Some(&one), now);
        assert_eq!(outcomes(&mut board, now + FIRST_WAIT), [("one".into(), true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn gated_foreign_and_ending_pods_are_left_alone() {
        let mut board = board_with_room_for(9);
        see(&mut board, &pod("gated", 0, json!({ "schedulingGates": [{ "name": "g" }] })));
        see(&mut board, &pod("foreign", 0, json!({ "schedulerName": "other" })));
        see(&mut board, &pod("ours", 0, json!({ "schedulerName": "berth" })));
        assert_eq!(outcomes(&mut board, Instant::now()), [("ours".into(), true)]);
        assert!(see(&mut board, &pod("gated", 0, json!({}))), "the gate opened");
        assert_eq!(outcomes(&mut board, Instant::now()), [("gated".into(), true)]);
    }
}
