//! What a pod's claims ask of a node, and what is done about them once a node is chosen.
//!
//! A bound claim holds the pod to where its volume is. A claim that waits for its first consumer
//! takes a free volume that fits, or has one made where its class allows; any other unbound claim
//! keeps the pod waiting.
//!
//! Source: KEP-490 (volume binding by topology), KEP-2485 (`ReadWriteOncePod`).

use std::collections::{BTreeMap, BTreeSet};

use berth_api::Selector;
use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1 as storage;

use crate::selector::{NodeTerm, Operator, Requirement};
use crate::snapshot::{Needs, Node, Pod, VolumeRefusal, node_term};

/// Labels of volumes that nodes must share.
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// What a zone label's values are parted by, where there are several.
const BETWEEN_ZONES: &str = "__";

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// The volume it has, or is meant to have.
    pub volume: Option<String>,
    /// Whether both sides agree.
    pub bound: bool,
    /// Its class.
    pub class: String,
    /// One pod alone may use it.
    pub exclusive: bool,
    /// What it asks for.
    pub modes: BTreeSet<String>,
    /// How large, in bytes.
    pub size: i64,
    /// Which volumes will do.
    pub selector: Option<Selector>,
    /// `Filesystem` or `Block`.
    pub form: String,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// Which nodes reach it; `None` for all.
    pub nodes: Option<Vec<NodeTerm>>,
    /// Zones and regions, as its labels tell.
    pub zones: Vec<Requirement>,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its class.
    pub class: String,
    /// The claim it is for, as `namespace/name`.
    pub claim: Option<String>,
    /// How it may be used.
    pub modes: BTreeSet<String>,
    /// How large, in bytes.
    pub size: i64,
    /// `Filesystem` or `Block`.
    pub form: String,
    /// Whether it waits for a claim.
    pub available: bool,
    /// Storage driver and handle.
    pub attach: Option<(String, String)>,
}

/// A class of volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// Whether claims wait for their first consumer.
    pub waits: bool,
    /// Whether volumes are made when none is free.
    pub makes: bool,
    /// Where they can be made; empty for everywhere.
    pub topologies: Vec<NodeTerm>,
}

/// All that concerns volumes; claims by `namespace/name`, the others by name.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    /// Claims.
    pub claims: BTreeMap<String, Claim>,
    /// Volumes.
    pub volumes: BTreeMap<String, Volume>,
    /// Classes.
    pub classes: BTreeMap<String, Class>,
}

/// What is done for a claim before its pod is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This volume becomes the claim's.
    Take {
        /// The claim's name.
        claim: String,
        /// The volume's name.
        volume: String,
    },
    /// A volume is made on the chosen node.
    Make {
        /// The claim's name.
        claim: String,
    },
}

impl Volumes {
    /// What the claims of `pod` ask of a node.
    ///
    /// # Errors
    /// Why no node will do, as Kubernetes words it.
    pub fn needs(&self, pod: &Pod) -> Result<Needs, String> {
        let mut needs = Needs::default();
        for name in &pod.claims {
            let key = format!("{}/{name}", pod.namespace);
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.exclusive {
                needs.exclusive.push(key.clone());
            }
            if claim.bound {
                let volume = claim.volume.as_deref().unwrap_or_default();
                let Some(volume) = self.volumes.get(volume) else {
                    return Err(format!("persistentvolume \"{volume}\" not found"));
                };
                if let Some(terms) = &volume.nodes {
                    needs.all_of.push((VolumeRefusal::Conflict, terms.clone()));
                }
                for zone in &volume.zones {
                    let term = NodeTerm { labels: vec![zone.clone()], fields: Vec::new() };
                    needs.all_of.push((VolumeRefusal::Zone, vec![term]));
                }
                needs.attach.extend(volume.attach.clone());
                continue;
            }
            let Some(class) = self.classes.get(&claim.class).filter(|class| class.waits) else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            };
            if class.makes && class.topologies.is_empty() {
                continue;
            }
            let mut terms = if class.makes { class.topologies.clone() } else { Vec::new() };
            for (_, volume) in self.fitting(&key, claim) {
                match &volume.nodes {
                    Some(nodes) => terms.extend(nodes.iter().cloned()),
                    None => terms.push(anywhere()),
                }
            }
            needs.all_of.push((VolumeRefusal::Unbound, terms));
        }
        needs.attach.sort();
        needs.attach.dedup();
        Ok(needs)
    }

    /// What is to be done for the claims of `pod` once it goes to `node`.
    ///
    /// # Errors
    /// The first claim that nothing can be done for there.
    pub fn choose(&self, pod: &Pod, node: &Node) -> Result<Vec<Choice>, String> {
        let mut choices = Vec::new();
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for name in &pod.claims {
            let key = format!("{}/{name}", pod.namespace);
            let Some(claim) = self.claims.get(&key).filter(|claim| !claim.bound) else { continue };
            let here = |volume: &Volume| {
                let mut terms = volume.nodes.iter().flatten();
                volume.nodes.is_none() || terms.any(|term| term.matches(&node.name, &node.labels))
            };
            // The smallest that is large enough, as Kubernetes does.
            let best = self
                .fitting(&key, claim)
                .filter(|(volume, found)| here(found) && !taken.contains(*volume))
                .min_by_key(|(volume, found)| (found.claim.is_none(), found.size, *volume))
                .map(|(volume, _)| volume.to_owned());
            match best {
                Some(volume) => {
                    taken.insert(volume.clone());
                    choices.push(Choice::Take { claim: name.clone(), volume });
                }
                None if self.classes.get(&claim.class).is_some_and(|class| {
                    let mut terms = class.topologies.iter();
                    class.makes
                        && (class.topologies.is_empty()
                            || terms.any(|term| term.matches(&node.name, &node.labels)))
                }) =>
                {
                    choices.push(Choice::Make { claim: name.clone() });
                }
                None => return Err(name.clone()),
            }
        }
        Ok(choices)
    }

    /// Free volumes that would do for a claim, wherever they are.
    fn fitting<'a>(
        &'a self,
        key: &'a str,
        claim: &'a Claim,
    ) -> impl Iterator<Item = (&'a str, &'a Volume)> {
        self.volumes.iter().map(|(name, volume)| (name.as_str(), volume)).filter(
            move |(_, volume)| match &volume.claim {
                Some(other) => other == key,
                None => {
                    volume.available
                        && volume.class == claim.class
                        && volume.size >= claim.size
                        && volume.form == claim.form
                        && claim.modes.is_subset(&volume.modes)
                        && claim
                            .selector
                            .as_ref()
                            .is_none_or(|selector| selector.matches(&volume.labels))
                }
            },
        )
    }
}

/// A term that every node meets: no node has that label.
fn anywhere() -> NodeTerm {
    let key = "scheduling.berth.dev/no-such-label".to_owned();
    let none = Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() };
    NodeTerm { labels: vec![none], fields: Vec::new() }
}

/// What is read of a claim.
pub fn claim(object: &PersistentVolumeClaim) -> Claim {
    let spec = object.spec.clone().unwrap_or_default();
    let annotations = object.metadata.annotations.as_ref();
    let completed =
        annotations.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"));
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = spec.volume_name.filter(|name| !name.is_empty());
    let modes: BTreeSet<String> = spec.access_modes.into_iter().flatten().collect();
    let size =
        spec.resources.and_then(|all| all.requests).and_then(|all| all.get("storage").cloned());
    Claim {
        bound: volume.is_some() && (completed || phase == Some("Bound")),
        volume,
        class: spec.storage_class_name.unwrap_or_default(),
        exclusive: modes.contains("ReadWriteOncePod"),
        modes,
        size: size.map_or(0, |size| bytes(&size.0)),
        selector: spec
            .selector
            .map(|own| Selector::from_object(Some(&own)).unwrap_or_else(|_| Selector::nothing())),
        form: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
    }
}

/// What is read of a volume.
pub fn volume(object: &PersistentVolume) -> Volume {
    let spec = object.spec.clone().unwrap_or_default();
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let zones = ZONES.iter().filter_map(|key| labels.get_key_value(*key));
    let terms = |affinity: VolumeNodeAffinity| {
        let terms: Vec<NodeSelectorTerm> =
            affinity.required.map(|required| required.node_selector_terms).unwrap_or_default();
        (!terms.is_empty()).then(|| terms.iter().map(node_term).collect())
    };
    let size = spec.capacity.and_then(|all| all.get("storage").cloned());
    Volume {
        nodes: spec.node_affinity.and_then(terms),
        zones: zones
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: value.split(BETWEEN_ZONES).map(str::to_owned).collect(),
            })
            .collect(),
        labels,
        class: spec.storage_class_name.unwrap_or_default(),
        claim: spec.claim_ref.map(|claim| {
            format!("{}/{}", claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default())
        }),
        modes: spec.access_modes.into_iter().flatten().collect(),
        size: size.map_or(0, |size| bytes(&size.0)),
        form: spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
        available: object.metadata.deletion_timestamp.is_none()
            && !matches!(
                object.status.as_ref().and_then(|status| status.phase.as_deref()),
                Some("Released" | "Failed")
            ),
        attach: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
    }
}

/// What is read of a class.
pub fn class(object: &storage::StorageClass) -> Class {
    let topologies = object.allowed_topologies.iter().flatten().map(|term| {
        let labels = term.match_label_expressions.iter().flatten().map(|each| Requirement {
            key: each.key.clone(),
            operator: Operator::In,
            values: each.values.clone(),
        });
        NodeTerm { labels: labels.collect(), fields: Vec::new() }
    });
    Class {
        waits: object.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        makes: object.provisioner != "kubernetes.io/no-provisioner",
        topologies: topologies.collect(),
    }
}

/// How many volumes each driver can attach to a node.
pub fn limits(object: &storage::CSINode) -> BTreeMap<String, i64> {
    let drivers = object.spec.drivers.iter();
    drivers
        .filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), i64::from(count)))
        })
        .collect()
}

fn bytes(text: &str) -> i64 {
    text.parse::<berth_api::Quantity>().map_or(0, |amount| amount.whole())
}

#[cfg(test)]
mod tests;
