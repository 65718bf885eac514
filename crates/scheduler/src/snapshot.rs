//! The cluster as the scheduler sees it: only what some filter or score reads.

mod build;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_api::Selector;

use crate::amount::{Amounts, Bytes};
use crate::device::Share;
use crate::gpu::Devices;
use crate::selector::{Labels, NodeTerm};

pub(crate) use build::node_term;
pub use build::{node, pod};

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// What pods may use.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub pods: i64,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods must tolerate.
    pub taints: Vec<Taint>,
    /// Images on its disk, by every name, with their sizes.
    pub images: BTreeMap<String, Bytes>,
    /// How many volumes each storage driver can attach here.
    pub volume_limits: BTreeMap<String, i64>,
    /// The extended resource of its devices, where it names one; see [`crate::device`].
    pub gpu_resource: Option<String>,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None are placed.
    NoSchedule,
    /// None are placed if there is another node.
    PreferNoSchedule,
    /// None are placed and those there must go.
    NoExecute,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// A pod's toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// `None` tolerates every key.
    pub key: Option<String>,
    /// `None` tolerates every value.
    pub value: Option<String>,
    /// `None` tolerates every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Whether it covers `taint`.
    pub fn covers(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
    }
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The address, `0.0.0.0` for all.
    pub address: String,
    /// The port.
    pub port: i32,
}

/// A network disk that a pod names without a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Kind and identity.
    pub name: String,
    /// Whether those who only read may share it, and this pod does.
    pub read_only: bool,
}

/// One pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The node it is on, or is bound to.
    pub node: Option<String>,
    /// Higher goes first.
    pub priority: i32,
    /// It is being deleted: it takes room, and nothing else looks at it.
    pub terminating: bool,
    /// What it asks for.
    pub requests: Amounts,
    /// The same with a small amount for each container that asks for none: for scores.
    pub weighed: Amounts,
    /// Ports of the node.
    pub host_ports: Vec<HostPort>,
    /// Disks that pods on one node cannot simply share.
    pub disks: Vec<Disk>,
    /// Its images, one a container.
    pub images: Vec<String>,
    /// Labels that the node must have, all of them.
    pub node_selector: Labels,
    /// Alternatives of which the node must meet one; `None` asks nothing.
    pub node_affinity: Option<Vec<NodeTerm>>,
    /// Weighted wishes.
    pub node_preferences: Vec<(i64, NodeTerm)>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// How evenly its like must spread.
    pub spread: Vec<Spread>,
    /// Pods that it must be near.
    pub affinity: Vec<Near>,
    /// Pods that it must be away from.
    pub anti_affinity: Vec<Near>,
    /// Weighted wishes, below zero for being away.
    pub near_preferences: Vec<(i64, Near)>,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// Whether it may displace pods of lower priority.
    pub preempts: bool,
    /// When it started, seconds since 1970.
    pub start: Option<i64>,
    /// Where room was made for it.
    pub nominated: Option<String>,
    /// Its claims, by name.
    pub claims: Vec<String>,
    /// What its volumes ask of a node; filled in by [`crate::volumes`].
    pub volumes: Needs,
    /// Its like as Services and its controller select them: what default constraints spread.
    pub like: Option<Selector>,
    /// The gang it belongs to.
    pub gang: Option<Gang>,
    /// Whether it wants the node its predecessor was on.
    pub rebuild: Option<Rebuild>,
    /// UID of the controller that owns it.
    pub owner: Option<String>,
    /// The share of devices that it asks for; whole ones are among its requests.
    pub share: Option<Share>,
    /// Models of devices that will do; none for any.
    pub gpu_models: Vec<String>,
    /// The devices that it was given, 0 where nobody says.
    pub devices: Devices,
    /// Whom it continues where its name does not tell: `Deployment/web`, `Job/sum`.
    pub line: Option<String>,
}

/// What volumes ask of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Each list needs one term that means the node.
    pub all_of: Vec<(VolumeRefusal, Vec<NodeTerm>)>,
    /// Claims, as `namespace/name`, that one pod alone may use.
    pub exclusive: Vec<String>,
    /// Storage driver and volume to attach.
    pub attach: Vec<(String, String)>,
}

/// Why a node does not suit a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeRefusal {
    /// The bound volume is elsewhere.
    Conflict,
    /// The bound volume is in another zone.
    Zone,
    /// Nothing free suits, and nothing can be made there.
    Unbound,
}

/// Pods that are placed all or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gang {
    /// Its name within the namespace.
    pub name: String,
    /// How many must have a place at once.
    pub least: usize,
    /// How long its pods wait together before they make way for others.
    pub patience: Duration,
}

/// How much a pod wants its predecessor's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rebuild {
    /// There if it fits, else elsewhere.
    Preferred,
    /// There or nowhere, as long as that node exists.
    Required,
}

/// "Near these pods", in a domain that a node label tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Which pods.
    pub selector: Selector,
    /// In these namespaces by name,
    pub namespaces: BTreeSet<String>,
    /// and in those with such labels.
    pub namespace_selector: Selector,
    /// The node label whose values are the domains.
    pub topology_key: String,
}

impl Near {
    /// Whether `pod` is one of those meant.
    pub fn means(&self, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let listed = self.namespaces.contains(&pod.namespace)
            || namespaces
                .get(&pod.namespace)
                .is_some_and(|labels| self.namespace_selector.matches(labels));
        listed && self.selector.matches(&pod.labels)
    }
}

/// How evenly pods must be spread over domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Which pods count.
    pub selector: Selector,
    /// The node label whose values are the domains.
    pub topology_key: String,
    /// By how many pods the fullest and the emptiest domain may differ.
    pub max_skew: i64,
    /// With fewer domains than this, the emptiest counts as holding none.
    pub min_domains: i64,
    /// Whether the constraint refuses nodes or only weighs them.
    pub required: bool,
    /// Whether nodes that the pod's selectors exclude are no domains.
    pub honour_affinity: bool,
    /// Whether nodes whose taints the pod does not bear are no domains.
    pub honour_taints: bool,
}
