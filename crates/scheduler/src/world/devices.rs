//! How much a pod harms what is left of the nodes' devices: prices that follow what comes and goes.
//!
//! Which pods are typical is learned from those that are seen, whether they find room or not. Prices
//! are made anew when a quarter more has come, or when what is free has changed by a few hundredths;
//! classes that were scored by older ones look at all nodes again.
//!
//! Source: [`crate::policy`], which the simulator runs too.

use std::collections::HashSet;

use super::{Place, mix};
use crate::device;
use crate::gpu::{Cluster, Demand, Devices, Learner, Node as Room, Score, Shape, WHOLE};
use crate::policy::{Archimedes, Fgd, Prices, TIE, loss, tightness};
use crate::profile::DevicePolicy;
use crate::snapshot::{Node, Pod};

/// So many pods are known to have been seen; past it all are forgotten, and may be counted again.
const MOST_SEEN: usize = 65_536;
/// Models of devices that are told apart; what is beyond counts as the last.
const MOST_MODELS: usize = 62;
/// A model that no node has.
const NOWHERE: u64 = 1 << 63;
/// How steep points fall with the loss, in thousandths of a device.
const SLOPE: f64 = 250.0;

/// See the module.
pub(crate) struct Market {
    policy: DevicePolicy,
    worth: Worth,
    learner: Learner,
    seen: HashSet<u64>,
    models: Vec<String>,
    /// How many nodes have devices that are told apart.
    nodes: usize,
    free: f64,
    capacity: f64,
    priced_at: f64,
    /// Counts prices.
    pub version: u64,
}

enum Worth {
    Prices(Prices),
    Fgd(Fgd),
    Nothing,
}

impl Market {
    pub fn new(policy: DevicePolicy) -> Self {
        Self {
            policy,
            worth: Worth::Nothing,
            learner: Learner::default(),
            seen: HashSet::new(),
            models: Vec::new(),
            nodes: 0,
            free: 0.0,
            capacity: 0.0,
            priced_at: 0.0,
            version: 0,
        }
    }

    /// Goes by another policy from now on.
    pub fn set_policy(&mut self, policy: DevicePolicy) {
        if self.policy != policy {
            self.policy = policy;
            self.worth = Worth::Nothing;
            self.learner.forget_telling();
            self.version += 1;
        }
    }

    /// Whether any node has devices.
    pub fn is_open(&self) -> bool {
        self.nodes > 0
    }

    /// A place's devices, or what is free on them, are others than before.
    pub fn changed(&mut self, before: Option<Room>, after: Option<Room>) {
        let sum = |room: &Option<Room>| room.map_or(0.0, |room| f64::from(room.gpu_total()));
        let all =
            |room: &Option<Room>| room.map_or(0.0, |room| f64::from(room.gpus) * f64::from(WHOLE));
        self.free += sum(&after) - sum(&before);
        self.capacity += all(&after) - all(&before);
        self.nodes = self.nodes + usize::from(after.is_some()) - usize::from(before.is_some());
        if before.is_some() != after.is_some() {
            self.version += 1;
        }
    }

    /// A pod was seen: once, however often it is tried.
    pub fn saw(&mut self, pod: &Pod) {
        if !self.is_open() {
            return;
        }
        if self.seen.len() >= MOST_SEEN {
            self.seen.clear();
        }
        if self.seen.insert(mix(0, &pod.uid)) {
            let demand = self.demand_anywhere(pod);
            self.learner.saw(&demand);
        }
    }

    /// Makes prices anew where it is time.
    pub fn follow(&mut self, places: &[Place]) {
        if !self.is_open() || self.policy == DevicePolicy::BestFit {
            return;
        }
        if let Some(news) = self.learner.news(1.0) {
            self.worth = match (self.policy, &self.worth) {
                (DevicePolicy::Fgd, _) => Worth::Fgd(Fgd::new(&news)),
                (_, Worth::Prices(before)) => {
                    Worth::Prices(Prices::open(&news, &self.cluster(places), Some(before)))
                }
                _ => Worth::Prices(Prices::open(&news, &self.cluster(places), None)),
            };
        } else if Archimedes::has_drifted(self.priced_at, self.free, self.capacity) {
            if !matches!(self.worth, Worth::Prices(_)) {
                return;
            }
            let cluster = self.cluster(places);
            if let Worth::Prices(prices) = &mut self.worth {
                prices.follow(&cluster);
            }
        } else {
            return;
        }
        self.priced_at = self.free;
        self.version += 1;
    }

    fn cluster(&self, places: &[Place]) -> Cluster {
        let alive = places.iter().filter(|place| place.alive);
        let all = alive.map(|place| {
            let room = self.room_of(place);
            let all = &place.node.allocatable;
            let shape = Shape {
                cpu_milli: narrow(all.cpu.0),
                memory_mib: narrow(all.memory.0 >> 20),
                pods: u16::MAX,
                gpus: room.gpus,
                kind: room.kind,
            };
            (shape, room)
        });
        let (shapes, rooms): (Vec<Shape>, Vec<Room>) = all.collect();
        Cluster::with_rooms(shapes, rooms)
    }

    /// What scores see of a place.
    pub fn room_of(&self, place: &Place) -> Room {
        let mut room = place.devices.unwrap_or_else(|| Room::empty(Shape::default()));
        room.cpu_milli = narrow(place.node.allocatable.cpu.0 - place.used.cpu.0);
        room.kind = self.kind(&place.node);
        room.pods = u16::MAX;
        room
    }

    fn kind(&self, node: &Node) -> u8 {
        let model = node.device_model();
        let known = self.models.iter().position(|known| known == model);
        known.unwrap_or(MOST_MODELS) as u8
    }

    /// A model that was not there before is told apart from now on.
    pub fn learn_model(&mut self, place: &Place) {
        let model = place.node.device_model();
        if place.devices.is_none() {
            return;
        }
        if self.models.len() < MOST_MODELS && !self.models.iter().any(|known| known == model) {
            self.models.push(model.to_owned());
        }
    }

    fn kinds(&self, pod: &Pod) -> u64 {
        let known = pod.gpu_models.iter().filter_map(|model| {
            let at = self.models.iter().position(|known| known == model)?;
            Some(1_u64 << at)
        });
        match (pod.gpu_models.is_empty(), known.fold(0, |all, bit| all | bit)) {
            (true, _) => 0,
            (false, 0) => NOWHERE,
            (false, kinds) => kinds,
        }
    }

    /// What `pod` asks of `node`.
    pub fn demand(&self, pod: &Pod, node: &Node) -> Demand {
        let asked = device::asked(pod, node).map(device::demand).unwrap_or_default();
        Demand { cpu_milli: narrow(pod.requests.cpu.0), kinds: self.kinds(pod), ..asked }
    }

    fn demand_anywhere(&self, pod: &Pod) -> Demand {
        let mut standard = Node::default();
        if let Some(name) = pod.requests.extended.keys().find(|name| name.ends_with("/gpu")) {
            standard.gpu_resource = Some(name.clone());
        }
        self.demand(pod, &standard)
    }

    /// 0..=100 for what a pod leaves of a place, and the devices that it had best take there. A pod
    /// that does no harm has 50, one that fills what nothing else could fill more.
    pub fn judge(&self, place: &Place, pod: &Pod) -> Option<(i64, Devices)> {
        let demand = self.demand(pod, &place.node);
        if place.devices.is_none() {
            return (demand.gpus == 0).then_some((50, 0));
        }
        let mut room = self.room_of(place);
        // What it asks for was found to fit; memory says nothing more.
        room.cpu_milli = room.cpu_milli.max(demand.cpu_milli);
        match &self.worth {
            Worth::Fgd(fgd) => {
                let (key, devices) = fgd.score(&room, &demand)?;
                Some((-loss(key) as i64, devices))
            }
            Worth::Prices(prices) => {
                let (key, devices) = prices.score(&room, &demand)?;
                let excess = loss(key) * Prices::STEP - f64::from(demand.gpu_total());
                Some(((100.0 / (1.0 + (excess / SLOPE).exp())) as i64, devices))
            }
            Worth::Nothing => room.has_devices(&demand).then(|| (50, room.tightest(&demand))),
        }
    }

    /// The devices that `pod` had best take on a place; those that hold it most tightly where no
    /// policy has a view, 0 where it does not fit.
    pub fn devices(&self, place: &Place, pod: &Pod) -> Devices {
        if let Some((_, devices)) = self.judge(place, pod) {
            return devices;
        }
        let demand = self.demand(pod, &place.node);
        let room = place.devices.filter(|room| room.has_devices(&demand));
        room.map_or(0, |room| room.tightest(&demand))
    }

    /// 0..=100, more where less is left; `None` for pods that ask for no device.
    pub fn tightness(&self, place: &Place, pod: &Pod) -> Option<i64> {
        let demand = self.demand(pod, &place.node);
        place.devices.filter(|_| demand.gpus > 0)?;
        // Of four millionths of the largest node's room; see [`tightness`].
        let left = f64::from(tightness(&self.room_of(place), &demand, TIE)) / 4e6;
        let most = 1.0 - 1.0 / 4.0;
        Some((((left - most) / (1.0 - most)).clamp(0.0, 1.0) * 100.0) as i64)
    }
}

fn narrow(amount: i64) -> u32 {
    u32::try_from(amount.max(0)).unwrap_or(u32::MAX)
}
