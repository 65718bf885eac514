//! Devices of live nodes and the shares of them that pods ask for.
//!
//! A node has as many devices as it lists of an extended resource, `nvidia.com/gpu` unless its
//! annotation `berth.dev/gpu-resource` names another. A pod asks for whole ones by that resource, or
//! for thousandths of each of some by `berth.dev/gpu-milli` and `berth.dev/gpu-count`. Which devices
//! it was given is written on it with its binding (`berth.dev/gpu-index`), so that whoever reads the
//! pods knows what is free on each device: after a restart, on the node, and in another scheduler.
//!
//! # Guarantees
//! No device is given out beyond a thousand thousandths. A pod that does not say which devices it has
//! (somebody else bound it) is taken to have those that it fits on best, after all who say it.
//!
//! Refuses shares on nodes with more than [`MOST_DEVICES`] devices: those take whole ones alone, by
//! number.
//!
//! Source: shares of devices in thousandths as in "Beware of Fragmentation" (USENIX ATC '23).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use crate::gpu::{Demand, Devices, MOST_DEVICES, Node as Room, Shape, WHOLE, bits};
use crate::snapshot::{Node, Pod};

/// Thousandths of each device that the pod asks for: an annotation, or a resource of its containers.
pub const MILLI: &str = "berth.dev/gpu-milli";
/// Of how many devices; one unless it is said.
pub const COUNT: &str = "berth.dev/gpu-count";
/// Models that will do, between commas.
pub const MODELS: &str = "berth.dev/gpu-models";
/// The devices that the pod was given, between commas, counted from 0.
pub const INDEX: &str = "berth.dev/gpu-index";
/// On a node: the extended resource that its devices are listed by.
pub const RESOURCE: &str = "berth.dev/gpu-resource";
/// What that is unless the node says otherwise.
pub const STANDARD: &str = "nvidia.com/gpu";
/// Labels of a node that tell its devices' model; the first that is there.
const MODEL_LABELS: [&str; 2] = ["berth.dev/gpu-model", "nvidia.com/gpu.product"];

/// What a pod asks of a node's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// How many devices.
    pub count: u8,
    /// Thousandths of each, at most [`WHOLE`].
    pub milli: u16,
    /// What it says cannot be meant.
    pub wrong: bool,
}

/// Why a node's devices do not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The pod's words cannot be meant, wherever.
    Wrong,
    /// The node has none, or too many to be shared.
    Without,
    /// They are of another model.
    Model,
    /// So many have enough free, and that is too few.
    Full {
        /// How many would do.
        enough: u8,
        /// Whether the node is too small even when it is empty.
        too_small: bool,
    },
}

/// What the pod's own words ask for; `None` where they ask for no share.
pub(crate) fn share(
    annotations: Option<&BTreeMap<String, String>>,
    spec: &core::PodSpec,
) -> Option<Share> {
    let annotation = |key: &str| annotations.and_then(|all| all.get(key));
    let number = |text: &String| text.trim().parse::<i64>().unwrap_or(-1);
    let stated = |key: &str| annotation(key).map(number).or_else(|| requested(spec, key));
    let (milli, count) = (stated(MILLI), stated(COUNT));
    if milli.is_none() && count.is_none() {
        return None;
    }
    let (milli, count) = (milli.unwrap_or(i64::from(WHOLE)), count.unwrap_or(1));
    let right =
        (1..=i64::from(WHOLE)).contains(&milli) && (1..=MOST_DEVICES as i64).contains(&count);
    Some(match right {
        true => Share { count: count as u8, milli: milli as u16, wrong: false },
        false => Share { count: 1, milli: WHOLE, wrong: true },
    })
}

/// What containers ask for as a resource: those that run together together, or the largest of those
/// that run before.
fn requested(spec: &core::PodSpec, key: &str) -> Option<i64> {
    let of = |container: &core::Container| {
        let all = container.resources.as_ref()?;
        let stated = all.requests.as_ref().and_then(|all| all.get(key));
        let stated = stated.or_else(|| all.limits.as_ref()?.get(key))?;
        Some(stated.0.parse::<berth_api::Quantity>().map_or(-1, |amount| amount.whole()))
    };
    let running = spec.containers.iter().filter_map(of).reduce(|sum, each| sum + each);
    let starting = spec.init_containers.iter().flatten().filter_map(of).max();
    running.max(starting)
}

/// The models that will do; none for any.
pub(crate) fn models(annotations: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let text = annotations.and_then(|all| all.get(MODELS)).map(String::as_str).unwrap_or_default();
    let mut models: Vec<String> =
        text.split(',').map(str::trim).filter(|each| !each.is_empty()).map(str::to_owned).collect();
    models.sort();
    models
}

/// The devices that an annotation lists; none where it cannot be read.
pub fn parse_index(text: &str) -> Devices {
    let mut devices: Devices = 0;
    for part in text.split(',') {
        match part.trim().parse::<usize>() {
            Ok(index) if index < MOST_DEVICES => devices |= 1 << index,
            _ => return 0,
        }
    }
    devices
}

/// As the annotation lists them.
pub fn write_index(devices: Devices) -> String {
    let all: Vec<String> = bits(devices).map(|index| index.to_string()).collect();
    all.join(",")
}

impl Node {
    /// The extended resource that its devices are listed by.
    pub fn device_resource(&self) -> &str {
        self.gpu_resource.as_deref().unwrap_or(STANDARD)
    }

    /// How many devices it has.
    pub fn device_count(&self) -> i64 {
        self.allocatable.extended.get(self.device_resource()).copied().unwrap_or(0).max(0)
    }

    /// Their model; empty where no label tells.
    pub fn device_model(&self) -> &str {
        let mut labels = MODEL_LABELS.iter().filter_map(|label| self.labels.get(*label));
        labels.next().map_or("", String::as_str)
    }
}

impl Pod {
    /// Whether it asks for devices anywhere: a share, or something that nodes count by number.
    pub fn may_have_devices(&self) -> bool {
        self.share.is_some() || !self.requests.extended.is_empty()
    }
}

/// What `pod` asks of the devices of `node`: its share, or whole ones by number.
pub fn asked(pod: &Pod, node: &Node) -> Option<Share> {
    if !pod.may_have_devices() {
        return None;
    }
    let whole = pod.requests.extended.get(node.device_resource()).copied().unwrap_or(0);
    match pod.share {
        Some(share) => Some(Share { wrong: share.wrong || whole > 0, ..share }),
        None if whole > 0 => {
            let count = u8::try_from(whole).unwrap_or(u8::MAX);
            Some(Share { count, milli: WHOLE, wrong: false })
        }
        None => None,
    }
}

/// What is free on each device of `node` beside `pods`; `None` where it has none, or too many to be
/// told apart.
pub fn room<'a>(node: &Node, pods: impl IntoIterator<Item = &'a Pod>) -> Option<Room> {
    let count = u8::try_from(node.device_count()).ok()?;
    if count == 0 || usize::from(count) > MOST_DEVICES {
        return None;
    }
    let mut room = Room::empty(Shape { gpus: count, pods: u16::MAX, ..Shape::default() });
    let mut untold: Vec<(u32, &str, Share)> = Vec::new();
    for pod in pods {
        let Some(share) = asked(pod, node) else { continue };
        let told = pod.devices != 0
            && pod.devices.count_ones() == u32::from(share.count)
            && bits(pod.devices).all(|index| index < usize::from(count));
        if told {
            take(&mut room, pod.devices, share.milli);
        } else {
            untold.push((u32::from(share.milli), &pod.uid, share));
        }
    }
    // The largest first, so that all find room where all can.
    untold.sort_by(|(one, first, _), (other, second, _)| (other, first).cmp(&(one, second)));
    for (.., share) in untold {
        let demand = demand(share);
        let devices = match room.has_devices(&demand) {
            true => room.tightest(&demand),
            false => emptiest(&room, share.count),
        };
        take(&mut room, devices, share.milli);
    }
    Some(room)
}

fn take(room: &mut Room, devices: Devices, milli: u16) {
    for index in bits(devices) {
        room.devices[index] = room.devices[index].saturating_sub(milli);
    }
}

/// Where somebody gave out more than there is, the emptiest are taken to be used.
fn emptiest(room: &Room, count: u8) -> Devices {
    let mut order: Vec<usize> = (0..room.free().len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(room.devices[*index]));
    order.into_iter().take(usize::from(count)).fold(0, |all, index| all | 1 << index)
}

pub(crate) fn demand(share: Share) -> Demand {
    Demand { gpus: share.count, gpu_milli: share.milli, ..Demand::default() }
}

/// Why `node`, with so much `room` on its devices, does not do for `pod`, which asks for `share`.
pub(crate) fn refuses(
    pod: &Pod,
    node: &Node,
    share: Share,
    room: Option<&Room>,
) -> Option<Refused> {
    if share.wrong {
        return Some(Refused::Wrong);
    }
    let models = &pod.gpu_models;
    if !models.is_empty() && !models.iter().any(|model| model == node.device_model()) {
        return Some(Refused::Model);
    }
    let Some(room) = room else {
        // Whole ones are counted by number, where there are so many.
        let by_number = pod.share.is_none() && node.device_count() > MOST_DEVICES as i64;
        return (!by_number).then_some(Refused::Without);
    };
    let demand = demand(share);
    if room.has_devices(&demand) {
        return None;
    }
    let enough = room.free().iter().filter(|free| **free >= share.milli).count() as u8;
    Some(Refused::Full { enough, too_small: share.count > room.gpus })
}

impl Refused {
    const WRONG: u64 = 1;
    const WITHOUT: u64 = 2;
    const MODEL: u64 = 3;
    const FULL: u64 = 4;
    const TOO_SMALL: u64 = 5;

    /// In the detail of a refusal.
    pub fn detail(self) -> u64 {
        match self {
            Self::Wrong => Self::WRONG,
            Self::Without => Self::WITHOUT,
            Self::Model => Self::MODEL,
            Self::Full { enough, too_small } => {
                let what = if too_small { Self::TOO_SMALL } else { Self::FULL };
                what | u64::from(enough) << 8
            }
        }
    }

    /// Whether taking pods off could help.
    pub fn is_resolvable(detail: u64) -> bool {
        detail & 0xff == Self::FULL
    }

    /// As people read it after a count of nodes.
    pub fn words(detail: u64, pod: &Pod) -> String {
        let enough = detail >> 8;
        match (detail & 0xff, pod.share) {
            (Self::WRONG, Some(Share { wrong: false, .. })) => {
                format!("pod asks for whole devices and for shares ({MILLI}) at once")
            }
            (Self::WRONG, _) => format!(
                "pod's {MILLI} is not within 1 to {WHOLE}, or its {COUNT} not within 1 to {MOST_DEVICES}"
            ),
            (Self::WITHOUT, _) => "node(s) had no devices to share".to_owned(),
            (Self::MODEL, _) => format!("node(s) had devices of other models than {MODELS} names"),
            (_, Some(Share { count, milli, .. })) => format!(
                "node(s) had {enough} of {count} devices with {milli} of {WHOLE} thousandths free"
            ),
            _ => format!("node(s) had only {enough} devices that nobody shares"),
        }
    }
}

#[cfg(test)]
mod tests;
