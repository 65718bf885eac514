//! What to do about a claim. Pure: one step at a time, each leads to the next.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::matching::{self, class_of_claim, names};
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLAIM_PROTECTION, DEFAULT_CLASS, LOCAL_PATH,
    SELECTED_NODE, STORAGE_PROVISIONER, provision,
};
use crate::workloads::Note;
use crate::workloads::pod::annotation;

/// Everything that a decision about one claim is made from.
pub(super) struct Snapshot<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    pub classes: &'a [Arc<StorageClass>],
    pub nodes: &'a [Arc<Node>],
    /// Those of the claim's namespace.
    pub pods: &'a [Arc<Pod>],
}

/// One step.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A merge patch of the claim.
    Change(Value),
    /// The claim's new status.
    Status(PersistentVolumeClaimStatus),
    /// The claim's name goes into this volume.
    Take(Arc<PersistentVolume>, Value),
    /// A volume is made for the claim.
    Provision(Box<PersistentVolume>),
}

/// What is to be done, and what to tell.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub step: Option<Step>,
    pub note: Option<(bool, Note)>,
}

impl From<Step> for Plan {
    fn from(step: Step) -> Self {
        Self { step: Some(step), note: None }
    }
}

/// Decides the next step for a claim.
pub(super) fn plan(world: &Snapshot<'_>) -> Plan {
    let claim = world.claim;
    let meta = &claim.metadata;
    let finalizers = meta.finalizers.clone().unwrap_or_default();
    let protected = finalizers.iter().any(|name| name == CLAIM_PROTECTION);
    if meta.deletion_timestamp.is_some() {
        if protected && !is_used(claim, world.pods) {
            let left: Vec<_> =
                finalizers.into_iter().filter(|name| name != CLAIM_PROTECTION).collect();
            return Step::Change(json!({ "metadata": { "finalizers": left } })).into();
        }
        return Plan::default();
    }
    if !protected {
        let all: Vec<_> = finalizers.into_iter().chain([CLAIM_PROTECTION.to_owned()]).collect();
        return Step::Change(json!({ "metadata": { "finalizers": all } })).into();
    }
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    match wanted.filter(|name| !name.is_empty()) {
        Some(name) => named(world, name),
        None => unnamed(world),
    }
}

/// Whether a pod that is bound to a node mounts the claim.
fn is_used(claim: &PersistentVolumeClaim, pods: &[Arc<Pod>]) -> bool {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    pods.iter().any(|pod| {
        crate::workloads::pod::node(pod).is_some() && claims_of(pod).any(|used| used == name)
    })
}

/// The names of the claims that a pod mounts.
pub(super) fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{own}-{}", volume.name)),
        (None, None) => None,
    })
}

/// A claim that names its volume: by its author, or because it was bound.
fn named(world: &Snapshot<'_>, name: &str) -> Plan {
    let claim = world.claim;
    let completed = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    let is_it = |volume: &&Arc<PersistentVolume>| volume.metadata.name.as_deref() == Some(name);
    let Some(volume) = world.volumes.iter().find(is_it) else {
        if !completed {
            return pending(claim);
        }
        let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", why);
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match reference {
        Some(reference) if !names(reference, claim) => {
            if completed {
                let why = "Two claims are bound to the same volume, this one is bound incorrectly";
                return lost(claim, "ClaimMisbound", why);
            }
            let message = format!("volume \"{name}\" already bound to a different claim.");
            told(claim, true, "FailedBinding", message)
        }
        Some(reference) if reference.uid.as_deref().is_some_and(|uid| !uid.is_empty()) => {
            complete(claim, volume)
        }
        None if completed => {
            // Somebody took the reference away, or the volume was restored without it.
            take(claim, volume, false)
        }
        _ => match matching::fits(volume, claim) {
            Ok(()) => take(claim, volume, false),
            Err(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": it {why}");
                told(claim, true, "VolumeMismatch", message)
            }
        },
    }
}

/// Both sides name each other: the claim says so.
fn complete(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        return Step::Change(json!({ "metadata": { "annotations": { BIND_COMPLETED: "yes" } } }))
            .into();
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Bound".to_owned());
    status.access_modes = spec.access_modes;
    status.capacity = spec.capacity;
    status_of(claim, status)
}

fn take(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>, ours: bool) -> Plan {
    let mut patch = json!({ "spec": { "claimRef": {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace,
        "name": claim.metadata.name,
        "uid": claim.metadata.uid,
    } } });
    if ours {
        patch["metadata"] = json!({ "annotations": { BOUND_BY_CONTROLLER: "yes" } });
    }
    Step::Take(Arc::clone(volume), patch).into()
}

/// A claim that leaves the choice to us.
fn unnamed(world: &Snapshot<'_>) -> Plan {
    let claim = world.claim;
    let Some(class_name) = class_of_claim(claim) else {
        // Asked for by no name: the default class, as soon as there is one.
        if let Some(class) = default_class(world.classes) {
            let patch = json!({ "spec": { "storageClassName": class.metadata.name } });
            return Step::Change(patch).into();
        }
        return choose(world, None);
    };
    let class = world.classes.iter().find(|one| one.metadata.name.as_deref() == Some(class_name));
    choose(world, class.map(AsRef::as_ref))
}

/// The newest of those that are marked so.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let marked =
        classes.iter().filter(|class| annotation(&class.metadata, DEFAULT_CLASS) == Some("true"));
    marked.max_by(|a, b| {
        let at = |class: &StorageClass| class.metadata.creation_timestamp.clone();
        at(a).cmp(&at(b)).then_with(|| b.metadata.name.cmp(&a.metadata.name))
    })
}

fn choose(world: &Snapshot<'_>, class: Option<&StorageClass>) -> Plan {
    let claim = world.claim;
    let waits = class
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let chosen = annotation(&claim.metadata, SELECTED_NODE);
    let node = chosen.and_then(|name| {
        world.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    });
    if let (Some(name), None) = (chosen, node) {
        // The node went before its volume was made: the scheduler chooses another.
        let message = format!("node \"{name}\" is gone, another one has to be selected");
        return Plan {
            note: Some((true, Note { reason: "ProvisioningFailed", message })),
            ..Step::Change(json!({ "metadata": { "annotations": { SELECTED_NODE: Value::Null } } }))
                .into()
        };
    }
    let node = node.map(AsRef::as_ref).filter(|_| waits);
    if let Some(volume) = matching::best(claim, world.volumes, node, waits) {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let has_uid = reference.is_some_and(|reference| reference.uid == claim.metadata.uid);
        if !has_uid {
            return take(claim, volume, reference.is_none());
        }
        let patch = json!({
            "metadata": { "annotations": { BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes" } },
            "spec": { "volumeName": volume.metadata.name },
        });
        return Step::Change(patch).into();
    }
    if waits && node.is_none() {
        let message = "waiting for first consumer to be created before binding".to_owned();
        return told(claim, false, "WaitForFirstConsumer", message);
    }
    let Some(class) = class else { return no_class(claim) };
    let provisioner = class.provisioner.as_str();
    if provisioner == "kubernetes.io/no-provisioner" {
        let message = "no volume fits, and the storage class makes none".to_owned();
        return told(claim, false, "FailedBinding", message);
    }
    if annotation(&claim.metadata, STORAGE_PROVISIONER) != Some(provisioner) {
        let patch = json!({ "metadata": { "annotations": { STORAGE_PROVISIONER: provisioner } } });
        return Step::Change(patch).into();
    }
    if provisioner != LOCAL_PATH {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner \
             '{provisioner}' or manually by the system administrator. If volume creation is \
             delayed, please verify that the provisioner is running and correctly registered."
        );
        return told(claim, false, "ExternalProvisioning", message);
    }
    // A class of ours that does not wait: any node would do, so the first by name.
    let any = || world.nodes.iter().min_by_key(|node| node.metadata.name.clone());
    let Some(node) = node.or_else(|| any().map(AsRef::as_ref)) else { return pending(claim) };
    match provision::volume(claim, class, node) {
        Ok(volume) => Step::Provision(Box::new(volume)).into(),
        Err(message) => told(claim, true, "ProvisioningFailed", message),
    }
}

fn no_class(claim: &PersistentVolumeClaim) -> Plan {
    match class_of_claim(claim).filter(|name| !name.is_empty()) {
        Some(name) => {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            told(claim, true, "ProvisioningFailed", message)
        }
        None => {
            let message = "no persistent volumes available for this claim and no storage class is \
                           set";
            told(claim, false, "FailedBinding", message.to_owned())
        }
    }
}

fn pending(claim: &PersistentVolumeClaim) -> Plan {
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Pending".to_owned());
    status_of(claim, status)
}

fn told(
    claim: &PersistentVolumeClaim,
    warning: bool,
    reason: &'static str,
    message: String,
) -> Plan {
    Plan { note: Some((warning, Note { reason, message })), ..pending(claim) }
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Plan {
    let mut status = claim.status.clone().unwrap_or_default();
    let already = status.phase.as_deref() == Some("Lost");
    status.phase = Some("Lost".to_owned());
    status.access_modes = None;
    status.capacity = None;
    let note = (true, Note { reason, message: message.to_owned() });
    Plan { note: (!already).then_some(note), ..status_of(claim, status) }
}

fn status_of(claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) -> Plan {
    let step = (claim.status.as_ref() != Some(&status)).then_some(Step::Status(status));
    Plan { step, note: None }
}
