//! What to do about a volume: its phase, its protection, and its end. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use serde_json::{Value, json};

use super::{BOUND_BY_CONTROLLER, LOCAL_PATH, PROVISIONED_BY, VOLUME_PROTECTION};
use crate::workloads::Note;
use crate::workloads::pod::annotation;

/// One step.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A merge patch of the volume.
    Change(Value),
    /// The volume's new status.
    Status(PersistentVolumeStatus),
    /// The volume goes: its claim has, and its policy is `Delete`.
    Delete,
}

/// What is to be done, and what to tell.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub step: Option<Step>,
    pub note: Option<Note>,
}

/// Decides the next step for a volume; `claim` is the one of the name in its reference, if there
/// is one.
pub(super) fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let meta = &volume.metadata;
    let spec = volume.spec.clone().unwrap_or_default();
    let finalizers = meta.finalizers.clone().unwrap_or_default();
    let protected = finalizers.iter().any(|name| name == VOLUME_PROTECTION);
    let phase = phase(volume, claim);
    if meta.deletion_timestamp.is_some() {
        if protected && phase != "Bound" {
            let left: Vec<_> =
                finalizers.into_iter().filter(|name| name != VOLUME_PROTECTION).collect();
            return step(Step::Change(json!({ "metadata": { "finalizers": left } })));
        }
        return Plan::default();
    }
    if !protected {
        let all: Vec<_> = finalizers.into_iter().chain([VOLUME_PROTECTION.to_owned()]).collect();
        return step(Step::Change(json!({ "metadata": { "finalizers": all } })));
    }
    // A reference of ours to a claim that took another volume is taken back.
    let ours = annotation(meta, BOUND_BY_CONTROLLER).is_some();
    let provisioned = annotation(meta, PROVISIONED_BY).is_some();
    if ours && !provisioned && phase == "Available" && spec.claim_ref.is_some() {
        let other = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
        if other.is_some_and(|other| !other.is_empty() && Some(other) != meta.name.as_deref()) {
            return step(Step::Change(json!({
                "metadata": { "annotations": { BOUND_BY_CONTROLLER: Value::Null } },
                "spec": { "claimRef": Value::Null },
            })));
        }
    }
    if phase != "Released" {
        return status(volume, phase, None);
    }
    let failed = volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Failed"));
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain");
    match policy {
        _ if !failed && !was(volume, "Released") => status(volume, "Released", None),
        "Delete" if annotation(meta, PROVISIONED_BY) == Some(LOCAL_PATH) => step(Step::Delete),
        // What another provisioner made is that one's to delete.
        "Delete" if provisioned => Plan::default(),
        "Delete" => fail(volume, "VolumeFailedDelete", "nothing that made this volume is known"),
        "Recycle" => fail(volume, "VolumeFailedRecycle", "volumes are not recycled"),
        _ => Plan::default(),
    }
}

fn was(volume: &PersistentVolume, phase: &str) -> bool {
    volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some(phase))
}

fn phase(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> &'static str {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else { return "Available" };
    let Some(uid) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return "Available";
    };
    let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
    let Some(claim) = claim else { return "Released" };
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    match named.unwrap_or_default() {
        "" => "Available",
        name if Some(name) == volume.metadata.name.as_deref() => "Bound",
        // One that was made for a claim which found another meanwhile.
        _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() => "Released",
        _ => "Available",
    }
}

fn fail(volume: &PersistentVolume, reason: &'static str, message: &str) -> Plan {
    let planned = status(volume, "Failed", Some(message));
    let note = planned.step.is_some().then(|| Note { reason, message: message.to_owned() });
    Plan { note, ..planned }
}

fn status(volume: &PersistentVolume, phase: &str, message: Option<&str>) -> Plan {
    let mut status = volume.status.clone().unwrap_or_default();
    status.phase = Some(phase.to_owned());
    status.message = message.map(str::to_owned);
    let step = (volume.status.as_ref() != Some(&status)).then_some(Step::Status(status));
    Plan { step, note: None }
}

fn step(step: Step) -> Plan {
    Plan { step: Some(step), note: None }
}
