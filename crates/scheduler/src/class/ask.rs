//! What one node answers of its own: filters that look at it alone, and scores likewise.
//!
//! Source: the default plugins of kube-scheduler as their documentation describes them; filters are
//! asked in its order, and the first that refuses is the one that is told.

use std::sync::Arc;

use crate::amount::Amounts;
use crate::device;
use crate::profile::{Filter, Profile, Score, Strategy, Weighed};
use crate::snapshot::{Effect, HostPort, Node, Pod, Taint, VolumeRefusal};
use crate::world::{Place, World};

/// Images smaller than this are pulled in no time.
const LEAST_IMAGE: i64 = 23 * 1024 * 1024;
/// More than this an image does not count.
const MOST_IMAGE: i64 = 1000 * 1024 * 1024;
/// The taint that Kubernetes puts on a cordoned node.
const CORDON: &str = "node.kubernetes.io/unschedulable";
/// A slot that is reserved for the pod is better than anything else.
const RESERVED: i64 = 1_000_000;
/// Bits of a [`Refusal`] of `NodeResourcesFit`, then one for each extended resource.
const LACKS: [(u64, &str); 4] = [
    (1, "Too many pods"),
    (2, "Insufficient cpu"),
    (4, "Insufficient memory"),
    (8, "Insufficient ephemeral-storage"),
];
/// Detail of a refusal of `VolumeRestrictions` for a disk, not for a claim.
const DISK: u64 = 1;
/// Even the empty node is too small.
const TOO_SMALL: u64 = 1 << 63;

/// Why a node refuses, small enough to keep for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Refusal {
    pub filter: Filter,
    pub detail: u64,
}

impl Refusal {
    pub fn of(filter: Filter) -> Self {
        Self { filter, detail: 0 }
    }

    /// Whether taking pods off the node could change its mind.
    pub fn is_resolvable(self) -> bool {
        match self.filter {
            Filter::NodePorts | Filter::VolumeRestrictions | Filter::NodeVolumeLimits => true,
            Filter::NodeResourcesFit => self.detail & TOO_SMALL == 0,
            Filter::DeviceShares => device::Refused::is_resolvable(self.detail),
            Filter::PodTopologySpread | Filter::InterPodAffinity => self.detail < 8,
            _ => false,
        }
    }
}

/// A pod's questions, prepared once.
pub(crate) struct Ask {
    pub pod: Arc<Pod>,
    pub profile: Arc<Profile>,
    bears_cordon: bool,
    asks_nothing: bool,
    images: Vec<(String, i64)>,
    nodes: i64,
}

impl Ask {
    pub fn new(pod: &Arc<Pod>, profile: &Arc<Profile>, world: &World) -> Self {
        let cordon =
            Taint { key: CORDON.to_owned(), value: String::new(), effect: Effect::NoSchedule };
        let holders = |image: &String| world.images.get(image).copied().unwrap_or(0);
        Self {
            pod: Arc::clone(pod),
            profile: Arc::clone(profile),
            bears_cordon: pod.tolerations.iter().any(|each| each.covers(&cordon)),
            asks_nothing: pod.requests == Amounts::default(),
            images: pod.images.iter().map(|image| (image.clone(), holders(image))).collect(),
            nodes: world.alive as i64,
        }
    }

    /// Whether images are on other numbers of nodes than scores were made with.
    pub fn images_changed(&self, world: &World) -> bool {
        self.images
            .iter()
            .any(|(image, holders)| world.images.get(image).copied().unwrap_or(0) != *holders)
    }

    /// The first filter that refuses, of those that look at one node.
    pub fn refuses(&self, world: &World, at: u32, place: &Place) -> Option<Refusal> {
        let (pod, node) = (&*self.pod, &*place.node);
        let asks = |filter| self.profile.asks(filter);
        if node.unschedulable && !self.bears_cordon && asks(Filter::NodeUnschedulable) {
            return Some(Refusal::of(Filter::NodeUnschedulable));
        }
        if pod.node.as_ref().is_some_and(|name| *name != node.name) && asks(Filter::NodeName) {
            return Some(Refusal::of(Filter::NodeName));
        }
        if !node.taints.is_empty()
            && asks(Filter::TaintToleration)
            && let Some(taint) = untolerated(pod, node)
        {
            let detail = hash(&[&taint.key, &taint.value]);
            return Some(Refusal { filter: Filter::TaintToleration, detail });
        }
        if asks(Filter::NodeAffinity) && !selects(pod, node) {
            return Some(Refusal::of(Filter::NodeAffinity));
        }
        let awaited = || place.nominated.iter().filter(|each| each.priority >= pod.priority);
        if !pod.host_ports.is_empty() && asks(Filter::NodePorts) {
            let taken = || place.pods.iter().chain(awaited()).flat_map(|other| &other.host_ports);
            if pod.host_ports.iter().any(|own| taken().any(|other| clash(own, other))) {
                return Some(Refusal::of(Filter::NodePorts));
            }
        }
        if asks(Filter::NodeResourcesFit) {
            let (mut more, mut count) = (Amounts::default(), 0);
            for other in awaited() {
                more += &other.requests;
                count += 1;
            }
            if !world.reservations.is_empty() {
                let (held, slots, _) = world.reserved(at, pod);
                more += &held;
                count += slots;
            }
            let detail = lacks(pod, place, &more, count);
            if detail != 0 {
                return Some(Refusal { filter: Filter::NodeResourcesFit, detail });
            }
        }
        if asks(Filter::DeviceShares)
            && let Some(share) = device::asked(pod, node)
        {
            let room = match awaited().next() {
                None => place.devices,
                Some(_) => {
                    device::room(node, place.pods.iter().chain(awaited()).map(|each| &**each))
                }
            };
            if let Some(refused) = device::refuses(pod, node, share, room.as_ref()) {
                let detail = refused.detail();
                return Some(Refusal { filter: Filter::DeviceShares, detail });
            }
        }
        self.refuses_volumes(place).or_else(|| self.refuses_load(place))
    }

    fn refuses_volumes(&self, place: &Place) -> Option<Refusal> {
        let needs = &self.pod.volumes;
        let asks = |filter| self.profile.asks(filter);
        let own = &self.pod.disks;
        if !own.is_empty() && asks(Filter::VolumeRestrictions) {
            let mut there = place.pods.iter().flat_map(|other| &other.disks);
            let shared = there.any(|disk| {
                let same = own.iter().filter(|own| own.name == disk.name);
                same.into_iter().any(|own| !(own.read_only && disk.read_only))
            });
            if shared {
                return Some(Refusal { filter: Filter::VolumeRestrictions, detail: DISK });
            }
        }
        if !needs.attach.is_empty() && asks(Filter::NodeVolumeLimits) {
            for (driver, limit) in &place.node.volume_limits {
                let mut volumes: Vec<&str> = place
                    .pods
                    .iter()
                    .flat_map(|other| &other.volumes.attach)
                    .chain(&needs.attach)
                    .filter(|(own, _)| own == driver)
                    .map(|(_, volume)| volume.as_str())
                    .collect();
                volumes.sort_unstable();
                volumes.dedup();
                if volumes.len() as i64 > *limit
                    && needs.attach.iter().any(|(own, _)| own == driver)
                {
                    return Some(Refusal::of(Filter::NodeVolumeLimits));
                }
            }
        }
        needs.all_of.iter().find_map(|(why, terms)| {
            let filter = match why {
                VolumeRefusal::Zone => Filter::VolumeZone,
                VolumeRefusal::Conflict | VolumeRefusal::Unbound => Filter::VolumeBinding,
            };
            let met = terms.iter().any(|term| term.matches(&place.node.name, &place.node.labels));
            (!met && asks(filter)).then_some(Refusal { filter, detail: *why as u64 })
        })
    }

    fn refuses_load(&self, place: &Place) -> Option<Refusal> {
        let (ceiling, load) = (f64::from(self.profile.load_ceiling?), place.load?);
        let over = load.cpu > ceiling || load.memory > ceiling;
        (over && self.profile.asks(Filter::LoadCeiling)).then_some(Refusal::of(Filter::LoadCeiling))
    }

    /// Intolerable taints of preference, and wishes of node affinity by weight.
    pub fn wishes(&self, place: &Place) -> [i64; 2] {
        let (pod, node) = (&self.pod, &place.node);
        let bears = |taint: &Taint| pod.tolerations.iter().any(|each| each.covers(taint));
        let disliked = if node.taints.is_empty() {
            0
        } else {
            let soft = node.taints.iter().filter(|each| each.effect == Effect::PreferNoSchedule);
            soft.filter(|taint| !bears(taint)).count() as i64
        };
        let met = pod
            .node_preferences
            .iter()
            .filter(|(_, term)| term.matches(&node.name, &node.labels))
            .map(|(weight, _)| weight)
            .sum();
        [disliked, met]
    }

    /// What the node scores of its own, by weight.
    pub fn score(&self, world: &World, at: u32, place: &Place) -> i64 {
        let own = || !world.reservations.is_empty() && world.reserved(at, &self.pod).2;
        let mut total = if own() { RESERVED } else { 0 };
        for (score, weight) in &self.profile.scores {
            if *weight > 0
                && let Some(value) = self.rate(*score, world, place)
            {
                total += weight * value;
            }
        }
        total
    }

    /// One score, 0..=100; `None` for those that compare nodes, or have nothing to say.
    pub fn rate(&self, score: Score, world: &World, place: &Place) -> Option<i64> {
        match score {
            Score::NodeResourcesFit => Some(self.fit(place)),
            Score::NodeResourcesBalancedAllocation if !self.asks_nothing => {
                Some(self.balance(place))
            }
            Score::ImageLocality if !self.images.is_empty() => Some(self.image_locality(place)),
            Score::LoadAware => {
                let load = place.load?;
                Some((100.0 - load.cpu.max(load.memory)).clamp(0.0, 100.0) as i64)
            }
            Score::DeviceFragmentation if world.market.is_open() => {
                world.market.judge(place, &self.pod).map(|(points, _)| points)
            }
            Score::DeviceTightness if world.market.is_open() => {
                world.market.tightness(place, &self.pod)
            }
            _ => None,
        }
    }

    fn fit(&self, place: &Place) -> i64 {
        let (mut total, mut weights) = (0, 0);
        let by_line = matches!(self.profile.strategy, Strategy::RequestedToCapacityRatio { .. });
        for Weighed { name, weight } in &self.profile.resources {
            let all = amount(&place.node.allocatable, name);
            if all == 0 {
                continue;
            }
            let asked = amount(&place.weighed, name) + amount(&self.pod.weighed, name);
            let value = match &self.profile.strategy {
                Strategy::LeastAllocated if asked > all => 0,
                Strategy::LeastAllocated => (all - asked) * 100 / all,
                Strategy::MostAllocated => asked.min(all) * 100 / all,
                Strategy::RequestedToCapacityRatio { shape } => {
                    let full = if asked > all { 100 } else { asked * 100 / all };
                    along(shape.iter().map(|at| (at.utilization, at.score * 10)), full)
                }
            };
            // Along a line, what is worth nothing does not count at all.
            if value > 0 || !by_line {
                total += value * weight;
                weights += weight;
            }
        }
        match weights {
            0 => 0,
            _ if by_line => (total + weights / 2) / weights,
            _ => total / weights,
        }
    }

    /// How much more even the node's use becomes: 75 for no change, 50 for the worst, 100 for the
    /// best. Kubernetes 1.36 rates the change (pull request 135573); before, it rated what comes out.
    fn balance(&self, place: &Place) -> i64 {
        let (mut with, mut without) = ([0.0; 8], [0.0; 8]);
        let mut count = 0;
        for Weighed { name, .. } in self.profile.balanced_resources.iter().take(8) {
            let all = amount(&place.node.allocatable, name);
            if all > 0 {
                let used = amount(&place.used, name);
                let share = |used: i64| (used as f64 / all as f64).min(1.0);
                with[count] = share(used + amount(&self.pod.requests, name));
                without[count] = share(used);
                count += 1;
            }
        }
        50 + (50 + evenness(&with[..count]) - evenness(&without[..count])) / 2
    }

    fn image_locality(&self, place: &Place) -> i64 {
        // An image on few nodes weighs less, lest all its pods crowd onto the one that has it.
        let held: i64 = self
            .images
            .iter()
            .filter_map(|(image, holders)| {
                let size = place.node.images.get(image)?.0;
                Some((size as f64 * (*holders as f64 / self.nodes as f64)) as i64)
            })
            .sum();
        let most = MOST_IMAGE * self.images.len() as i64;
        (held.clamp(LEAST_IMAGE, most) - LEAST_IMAGE) * 100 / (most - LEAST_IMAGE)
    }

    /// A refusal as people read it after a count of nodes.
    pub fn words(&self, refusal: Refusal, node: Option<&Node>) -> Vec<String> {
        let text = match (refusal.filter, refusal.detail) {
            (Filter::NodeUnschedulable, _) => "node(s) were unschedulable",
            (Filter::NodeName, _) => "node(s) didn't match the requested node name",
            (Filter::TaintToleration, _) => {
                let taint = node.and_then(|node| untolerated(&self.pod, node));
                return vec![match taint {
                    Some(Taint { key, value, .. }) => {
                        format!("node(s) had untolerated taint {{{key}: {value}}}")
                    }
                    None => "node(s) had untolerated taint".to_owned(),
                }];
            }
            (Filter::NodeAffinity, _) => "node(s) didn't match Pod's node affinity/selector",
            (Filter::NodePorts, _) => "node(s) didn't have free ports for the requested pod ports",
            (Filter::NodeResourcesFit, bits) => return self.lacking(bits),
            (Filter::DeviceShares, detail) => {
                return vec![device::Refused::words(detail, &self.pod)];
            }
            (Filter::VolumeRestrictions, DISK) => "node(s) had no available disk",
            (Filter::VolumeRestrictions, _) => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            (Filter::NodeVolumeLimits, _) => "node(s) exceed max volume count",
            (Filter::VolumeZone, _) => "node(s) had no available volume zone",
            (Filter::VolumeBinding, 0) => "node(s) had volume node affinity conflict",
            (Filter::VolumeBinding, _) => {
                "node(s) didn't find available persistent volumes to bind"
            }
            (Filter::LoadCeiling, _) => "node(s) were measured above the load ceiling",
            (Filter::PodTopologySpread, 8) => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            (Filter::PodTopologySpread, _) => {
                "node(s) didn't match pod topology spread constraints"
            }
            (Filter::InterPodAffinity, 8) => "node(s) didn't match pod affinity rules",
            (Filter::InterPodAffinity, 1) => "node(s) didn't match pod anti-affinity rules",
            (Filter::InterPodAffinity, _) => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        };
        vec![text.to_owned()]
    }

    fn lacking(&self, bits: u64) -> Vec<String> {
        let known = LACKS.iter().filter(|(bit, _)| bits & bit != 0);
        let extended = self.pod.requests.extended.keys().enumerate();
        known
            .map(|(_, text)| (*text).to_owned())
            .chain(
                extended
                    .filter(|(index, _)| bits & (16 << index.min(&40)) != 0)
                    .map(|(_, name)| format!("Insufficient {name}")),
            )
            .collect()
    }
}

fn lacks(pod: &Pod, place: &Place, more: &Amounts, count: i64) -> u64 {
    let (asked, used, all) = (&pod.requests, &place.used, &place.node.allocatable);
    let mut bits = 0;
    if place.pods.len() as i64 + count >= place.node.pods {
        bits |= LACKS[0].0;
    }
    // Who asks for nothing fits even where more is used than there is.
    let mut compare = |bit: u64, asked: i64, used: i64, all: i64| {
        if asked > 0 && asked > all - used {
            bits |= bit | if asked > all { TOO_SMALL } else { 0 };
        }
    };
    compare(2, asked.cpu.0, used.cpu.0 + more.cpu.0, all.cpu.0);
    compare(4, asked.memory.0, used.memory.0 + more.memory.0, all.memory.0);
    let disk = used.ephemeral_storage.0 + more.ephemeral_storage.0;
    compare(8, asked.ephemeral_storage.0, disk, all.ephemeral_storage.0);
    for (index, (name, asked)) in asked.extended.iter().enumerate() {
        let of = |amounts: &Amounts| amounts.extended.get(name).copied().unwrap_or_default();
        compare(16 << index.min(40), *asked, of(used) + of(more), of(all));
    }
    bits
}

fn amount(amounts: &Amounts, name: &str) -> i64 {
    match name {
        "cpu" => amounts.cpu.0,
        "memory" => amounts.memory.0,
        "ephemeral-storage" => amounts.ephemeral_storage.0,
        _ => amounts.extended.get(name).copied().unwrap_or(0),
    }
}

/// 100 where all shares are equal, 50 where they differ most.
fn evenness(shares: &[f64]) -> i64 {
    let deviation = match shares {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        _ => {
            let count = shares.len() as f64;
            let mean = shares.iter().sum::<f64>() / count;
            let squares = shares.iter().map(|share| (share - mean) * (share - mean));
            (squares.sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * 100.0) as i64
}

/// The height of a line through `points` at `x`, flat before the first and after the last.
fn along(points: impl Iterator<Item = (i64, i64)>, x: i64) -> i64 {
    let mut last: Option<(i64, i64)> = None;
    for (at, height) in points {
        match last {
            _ if x > at => last = Some((at, height)),
            None => return height,
            Some((from, low)) => return low + (height - low) * (x - from) / (at - from),
        }
    }
    last.map_or(0, |(_, height)| height)
}

/// Whether `pod` may go to `node` as far as names and labels go.
pub(crate) fn selects(pod: &Pod, node: &Node) -> bool {
    pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod
            .node_affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

/// The first taint that keeps `pod` off `node`.
pub(crate) fn untolerated<'n>(pod: &Pod, node: &'n Node) -> Option<&'n Taint> {
    node.taints.iter().find(|taint| {
        taint.effect != Effect::PreferNoSchedule
            && !pod.tolerations.iter().any(|toleration| toleration.covers(taint))
    })
}

/// Whether two ports cannot be on one node.
pub(crate) fn clash(one: &HostPort, other: &HostPort) -> bool {
    let everywhere = |port: &HostPort| matches!(port.address.as_str(), "0.0.0.0" | "::");
    one.port == other.port
        && one.protocol == other.protocol
        && (one.address == other.address || everywhere(one) || everywhere(other))
}

fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
