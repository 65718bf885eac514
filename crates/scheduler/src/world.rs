//! The cluster, dense: nodes by index, pods counted per node by whoever may ask.
//!
//! ```text
//!  place(pod, node) ─▶ Place.used         one node's numbers
//!                   ─▶ Counter.on[node]   "pods that this selector means", kept for each asker
//!                   ─▶ log                which node changed; classes read on from where they were
//! ```
//!
//! Refuses to decide: that is [`crate::class`].
//!
//! Source: a log that readers follow at their own pace instead of invalidating them all; Borg
//! (EuroSys '15, §3.4) for classes of equal pods.

mod counters;
mod devices;
mod place;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use berth_api::Selector;

use crate::amount::Amounts;
use crate::device;
use crate::gpu::Node as Room;
use crate::profile::DevicePolicy;
use crate::reservation::Reservation;
use crate::selector::Labels;
use crate::snapshot::{Node, Pod};

pub(crate) use counters::{Carried, Counters, Like, Who};
pub(crate) use devices::Market;
pub use place::Load;
pub(crate) use place::Place;

/// No domain: the node lacks the label.
pub(crate) const NONE: u32 = u32::MAX;

/// The values of one node label.
#[derive(Default)]
pub(crate) struct Topology {
    /// The domain of each node, or [`NONE`].
    pub of: Vec<u32>,
    /// How many domains there are.
    pub domains: usize,
    /// Whether each domain is a single node.
    pub single: bool,
}

/// See the module.
pub(crate) struct World {
    pub nodes: Vec<Place>,
    pub by_name: HashMap<String, u32>,
    free: Vec<u32>,
    nominations: HashMap<String, u32>,
    pub reservations: Vec<Reservation>,
    pub alive: usize,
    pub namespaces: BTreeMap<String, Labels>,
    pub counters: Counters,
    topologies: HashMap<String, Arc<Topology>>,
    pods: HashMap<String, (Arc<Pod>, u32)>,
    pub images: HashMap<String, i64>,
    pub market: Market,
    log: Vec<u32>,
    log_start: u64,
    /// Counts changes after which classes must begin anew.
    pub epoch: u64,
    seed: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            by_name: HashMap::new(),
            free: Vec::new(),
            nominations: HashMap::new(),
            reservations: Vec::new(),
            alive: 0,
            namespaces: BTreeMap::new(),
            counters: Counters::default(),
            topologies: HashMap::new(),
            pods: HashMap::new(),
            images: HashMap::new(),
            market: Market::new(DevicePolicy::default()),
            log: Vec::new(),
            log_start: 0,
            epoch: 0,
            seed,
        }
    }

    /// Whether anything changed that is read here.
    pub fn set_node(&mut self, node: Node) -> bool {
        let node = Arc::new(node);
        let Some(&at) = self.by_name.get(&node.name) else {
            self.add_node(node);
            return true;
        };
        let known = Arc::clone(&self.nodes[at as usize].node);
        if known == node {
            return false;
        }
        self.count_images(&known, -1);
        self.count_images(&node, 1);
        if known.labels != node.labels {
            self.begin_anew();
        }
        let before = self.nodes[at as usize].devices;
        self.nodes[at as usize].set_node(node);
        self.market.learn_model(&self.nodes[at as usize]);
        self.count_devices(at, before);
        self.touch(at);
        true
    }

    fn add_node(&mut self, node: Arc<Node>) {
        let name = node.name.clone();
        let rank = mix(self.seed, &name);
        self.count_images(&node, 1);
        let place = Place::new(node, rank);
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = place;
                at
            }
            None => {
                self.nodes.push(place);
                (self.nodes.len() - 1) as u32
            }
        };
        self.by_name.insert(name, at);
        self.market.learn_model(&self.nodes[at as usize]);
        self.count_devices(at, None);
        self.alive += 1;
        self.begin_anew();
    }

    /// Forgets a node and the pods on it.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(at) = self.by_name.remove(name) else { return false };
        let place = &mut self.nodes[at as usize];
        let pods = std::mem::take(&mut place.pods);
        self.market.changed(place.devices.take(), None);
        place.alive = false;
        for pod in place.nominated.drain(..) {
            self.nominations.remove(&pod.uid);
        }
        let node = Arc::clone(&place.node);
        for pod in pods {
            self.pods.remove(&pod.uid);
            self.counters.count(&pod, at, -1, &self.namespaces);
        }
        self.count_images(&node, -1);
        self.alive -= 1;
        self.free.push(at);
        self.begin_anew();
        true
    }

    pub fn set_namespace(&mut self, name: String, labels: Option<Labels>) -> bool {
        let changed = match labels {
            Some(labels) => self.namespaces.insert(name, labels.clone()) != Some(labels),
            None => self.namespaces.remove(&name).is_some(),
        };
        if changed {
            self.recount();
        }
        changed
    }

    /// Counts `pod` on `node` from now on, and nowhere else; whether there is such a node.
    pub fn place(&mut self, pod: Arc<Pod>, node: &str) -> bool {
        let Some(&at) = self.by_name.get(node) else { return false };
        self.remove(&pod.uid);
        self.counters.count(&pod, at, 1, &self.namespaces);
        self.pods.insert(pod.uid.clone(), (Arc::clone(&pod), at));
        self.market.saw(&pod);
        let before = self.nodes[at as usize].devices;
        self.nodes[at as usize].put(pod);
        self.count_devices(at, before);
        self.touch(at);
        if self.counters.is_overgrown() {
            self.recount();
        }
        true
    }

    fn count_devices(&mut self, at: u32, before: Option<Room>) {
        let place = &self.nodes[at as usize];
        let after = place.devices;
        if before != after {
            self.market.changed(before, after);
        }
    }

    /// `pod` with the devices that it had best take on the node `name`, if it asks for any.
    pub fn with_devices(&self, pod: &Arc<Pod>, name: &str) -> Arc<Pod> {
        let Some(&at) = self.by_name.get(name) else { return Arc::clone(pod) };
        let place = &self.nodes[at as usize];
        if place.devices.is_none() || device::asked(pod, &place.node).is_none() {
            return Arc::clone(pod);
        }
        let given = |devices| Arc::new(Pod { devices, ..Pod::clone(pod) });
        if let Some((known, there)) = self.find(&pod.uid)
            && there == at
        {
            if known.devices != 0 {
                return given(known.devices);
            }
            let mut without = Place::new(Arc::clone(&place.node), place.rank);
            for other in place.pods.iter().filter(|other| other.uid != pod.uid) {
                without.put(Arc::clone(other));
            }
            return given(self.market.devices(&without, pod));
        }
        given(self.market.devices(place, pod))
    }

    /// Forgets where a pod was.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let (pod, at) = self.pods.remove(uid)?;
        let before = self.nodes[at as usize].devices;
        self.nodes[at as usize].take(uid);
        self.count_devices(at, before);
        self.counters.count(&pod, at, -1, &self.namespaces);
        self.touch(at);
        Some(pod)
    }

    pub fn find(&self, uid: &str) -> Option<(&Arc<Pod>, u32)> {
        self.pods.get(uid).map(|(pod, at)| (pod, *at))
    }

    /// Room on `node` is meant for `pod`; `None` takes the mark away.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: Option<&str>) {
        if let Some(at) = self.nominations.remove(&pod.uid) {
            self.nodes[at as usize].nominated.retain(|known| known.uid != pod.uid);
            self.touch(at);
        }
        if let Some(&at) = node.and_then(|node| self.by_name.get(node)) {
            self.nodes[at as usize].nominated.push(Arc::clone(pod));
            self.nominations.insert(pod.uid.clone(), at);
            // Whom it keeps away must know before it is there.
            self.counters.know(pod, &self.namespaces);
            self.touch(at);
        }
    }

    pub fn touch(&mut self, at: u32) {
        self.log.push(at);
        if self.log.len() > 4 * self.nodes.len() + 4096 {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.log_start += half as u64;
        }
    }

    pub fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// Nodes that changed since `from`; `None` when that is too long ago.
    pub fn since(&self, from: u64) -> Option<&[u32]> {
        let skip = usize::try_from(from.checked_sub(self.log_start)?).ok()?;
        let changed = self.log.get(skip..)?;
        // Past this, looking at every node once is less work.
        (changed.len() <= self.nodes.len().max(64)).then_some(changed)
    }

    pub fn topology(&mut self, key: &str) -> Arc<Topology> {
        if let Some(known) = self.topologies.get(key) {
            return Arc::clone(known);
        }
        let mut values: HashMap<&str, u32> = HashMap::new();
        let mut topology = Topology::default();
        for place in &self.nodes {
            let value = place.node.labels.get(key).filter(|_| place.alive);
            topology.of.push(value.map_or(NONE, |value| {
                let next = values.len() as u32;
                *values.entry(value).or_insert(next)
            }));
        }
        topology.domains = values.len();
        let labelled = topology.of.iter().filter(|domain| **domain != NONE).count();
        topology.single = labelled == topology.domains;
        let topology = Arc::new(topology);
        self.topologies.insert(key.to_owned(), Arc::clone(&topology));
        topology
    }

    /// Whether room is being made somewhere for the pod of this UID, and where.
    pub fn nominated(&self, uid: &str) -> Option<u32> {
        self.nominations.get(uid).copied()
    }

    /// What other reservations than the pod's own hold on a node, and whether its own holds room.
    pub fn reserved(&self, at: u32, pod: &Pod) -> (Amounts, i64, bool) {
        let name = &self.nodes[at as usize].node.name;
        let (mut others, mut slots, mut own) = (Amounts::default(), 0, false);
        for reservation in &self.reservations {
            let Some(floor) = reservation.floors.get(name) else { continue };
            let held = floor - self.counters.on(reservation.counter, at);
            if held <= 0 {
                continue;
            }
            if reservation.is_for(pod) {
                own = true;
            } else {
                slots += held;
                (0..held).for_each(|_| others += &reservation.slot);
            }
        }
        (others, slots, own)
    }

    /// Replaces all reservations.
    pub fn set_reservations(&mut self, reservations: Vec<Reservation>) {
        let touched: BTreeSet<String> = self
            .reservations
            .iter()
            .chain(&reservations)
            .flat_map(|each| each.floors.keys().cloned())
            .collect();
        let whose = |all: &[Reservation]| -> Vec<(String, Selector)> {
            all.iter().map(|each| (each.namespace.clone(), each.selector.clone())).collect()
        };
        if whose(&self.reservations) != whose(&reservations) {
            // Pods that nothing told apart may be told apart now.
            self.begin_anew();
        }
        self.reservations = reservations;
        self.count_reservations();
        for name in touched {
            if let Some(&at) = self.by_name.get(&name) {
                self.touch(at);
            }
        }
    }

    fn count_reservations(&mut self) {
        for at in 0..self.reservations.len() {
            let each = &self.reservations[at];
            let who = Who::Spread(each.namespace.clone(), each.selector.clone());
            self.reservations[at].counter = self.counter(who);
        }
    }

    /// The counter for `who`, counted if it is new.
    pub fn counter(&mut self, who: Who) -> usize {
        self.counters.ensure(who, &self.namespaces)
    }

    fn begin_anew(&mut self) {
        self.epoch += 1;
        self.topologies.clear();
    }

    /// Counts everything again: after namespaces changed, or to drop what no pod is like any more.
    fn recount(&mut self) {
        self.counters = Counters::default();
        for (pod, at) in self.pods.values() {
            self.counters.count(pod, *at, 1, &self.namespaces);
        }
        for pod in self.nodes.iter().flat_map(|place| &place.nominated) {
            self.counters.know(pod, &self.namespaces);
        }
        self.count_reservations();
        self.begin_anew();
    }

    fn count_images(&mut self, node: &Node, by: i64) {
        for image in node.images.keys() {
            if let Some(known) = self.images.get_mut(image) {
                *known += by;
                if *known <= 0 {
                    self.images.remove(image);
                }
            } else if by > 0 {
                self.images.insert(image.clone(), by);
            }
        }
    }
}

/// A number that is the same for the same two, and spread evenly otherwise (FNV-1a, then mixed).
fn mix(seed: u64, text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
