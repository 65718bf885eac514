//! Which volume fits a claim. Pure.

use std::sync::Arc;

use berth_api::{Quantity, Selector};
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim,
};

use crate::workloads::pod::label;

/// The class a claim asks for; empty for none at all.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let legacy = claim.metadata.annotations.as_ref();
    let legacy = legacy.and_then(|all| all.get("volume.beta.kubernetes.io/storage-class"));
    legacy.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// How much a claim asks for.
pub(super) fn asked(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let storage = resources.and_then(|all| all.requests.as_ref()?.get("storage"));
    storage.and_then(|amount| amount.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// How much a volume holds.
pub(super) fn size(volume: &PersistentVolume) -> Quantity {
    let storage = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    storage.and_then(|amount| amount.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// Whether the reference names this claim, or the next one of its name.
pub(super) fn names(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.namespace == claim.metadata.namespace
        && reference.name == claim.metadata.name
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// Whether the volume is what the claim asks for, whoever has it; else why not.
pub(super) fn fits(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<(), &'static str> {
    let (Some(own), Some(wanted)) = (&volume.spec, &claim.spec) else { return Err("has no spec") };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = own.access_modes.clone().unwrap_or_default();
    if size(volume) < asked(claim) {
        Err("is too small")
    } else if mode(&own.volume_mode) != mode(&wanted.volume_mode) {
        Err("has another volumeMode")
    } else if !wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        Err("lacks an access mode")
    } else if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        Err("is of another storage class")
    } else {
        Ok(())
    }
}

/// The volume for the claim: one that waits for it by name, else the smallest free one that fits.
/// With a node only volumes that the node reaches; without one those that wait by name alone when
/// `by_name`.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    node: Option<&Node>,
    by_name: bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let reference =
        |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
    let suits = |volume: &&Arc<PersistentVolume>| {
        volume.metadata.deletion_timestamp.is_none() && fits(volume, claim).is_ok()
    };
    let waits = volumes
        .iter()
        .filter(suits)
        .find(|volume| reference(volume).is_some_and(|reference| names(&reference, claim)));
    if waits.is_some() || (by_name && node.is_none()) {
        return waits;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(|wanted| Selector::from_object(Some(wanted)));
    let free = volumes.iter().filter(suits).filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let labels = volume.metadata.labels.clone().unwrap_or_default();
        reference(volume).is_none()
            && matches!(phase, None | Some("Pending" | "Available"))
            && node.is_none_or(|node| reaches(node, volume))
            && match &selector {
                None => true,
                Some(Ok(selector)) => selector.matches(&labels),
                Some(Err(_)) => false,
            }
    });
    free.min_by_key(|volume| (size(volume), volume.metadata.name.clone()))
}

/// Whether the node may use the volume.
fn reaches(node: &Node, volume: &PersistentVolume) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| holds(term, node))
}

fn holds(term: &NodeSelectorTerm, node: &Node) -> bool {
    let fields = term.match_fields.iter().flatten().map(|wanted| {
        let name = node.metadata.name.as_deref().filter(|_| wanted.key == "metadata.name");
        (wanted, name)
    });
    let labels = term.match_expressions.iter().flatten().map(|wanted| {
        let value = label(&node.metadata, &wanted.key);
        let is_there =
            node.metadata.labels.as_ref().is_some_and(|all| all.contains_key(&wanted.key));
        (wanted, is_there.then_some(value))
    });
    let mut all = fields.chain(labels).peekable();
    // An empty term selects nothing.
    all.peek().is_some()
        && all.all(|(wanted, found)| {
            let values = wanted.values.clone().unwrap_or_default();
            let listed = found.is_some_and(|found| values.iter().any(|value| value == found));
            let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
            let (own, other) = (number(found), number(values.first().map(String::as_str)));
            match wanted.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                "Gt" => matches!((own, other), (Some(own), Some(other)) if own > other),
                "Lt" => matches!((own, other), (Some(own), Some(other)) if own < other),
                _ => false,
            }
        })
}
