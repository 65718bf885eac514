//! The claims of a StatefulSet's pods: made before the pod, kept unless the set says otherwise.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{Wanted, identity, owner};

/// The name of the claim of `template` for the pod with this ordinal.
pub(super) fn name(wanted: &Wanted<'_>, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    let volume = template.metadata.name.as_deref().unwrap_or_default();
    format!("{volume}-{}", identity::name(wanted, ordinal))
}

/// The claims of this ordinal that are not there.
pub(super) fn missing(wanted: &Wanted<'_>, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = wanted.spec.volume_claim_templates.iter().flatten();
    let made = templates.map(|template| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(wanted.spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name(wanted, template, ordinal)),
                namespace: wanted.set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..Default::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    });
    let is_there = |claim: &PersistentVolumeClaim| {
        wanted.claims.iter().any(|one| one.metadata.name == claim.metadata.name)
    };
    made.filter(|claim| !is_there(claim)).collect()
}

/// Whether a claim of this ordinal, which has no pod now, is on its way out: being deleted, or about
/// to be because it belongs to a pod that is gone.
pub(super) fn are_leaving(wanted: &Wanted<'_>, ordinal: i32) -> bool {
    let templates = wanted.spec.volume_claim_templates.iter().flatten();
    let mut names = templates.map(|template| name(wanted, template, ordinal));
    names.any(|name| {
        let mut claims = wanted.claims.iter();
        let claim = claims.find(|claim| claim.metadata.name.as_ref() == Some(&name));
        claim.is_some_and(|claim| {
            let owners = claim.metadata.owner_references.iter().flatten();
            claim.metadata.deletion_timestamp.is_some()
                || owners.into_iter().any(|owner| owner.kind == "Pod")
        })
    })
}

/// The claims whose owners are not those that the set's retention policy asks for.
///
/// `whenDeleted: Delete` lets a claim go with the set, `whenScaled: Delete` lets the claim of a
/// condemned pod go with that pod: both by an owner reference, which the garbage collector follows.
pub(super) fn owners(
    wanted: &Wanted<'_>,
) -> Vec<(Arc<PersistentVolumeClaim>, Vec<OwnerReference>)> {
    let policy = wanted.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |rule: Option<&String>| rule.is_some_and(|rule| rule == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let set = &wanted.set.metadata;
    let mut changes = Vec::new();
    for template in wanted.spec.volume_claim_templates.iter().flatten() {
        let volume = template.metadata.name.as_deref().unwrap_or_default();
        for claim in wanted.claims {
            let rest = claim.metadata.name.as_deref().and_then(|name| name.strip_prefix(volume));
            let pod = rest.and_then(|rest| rest.strip_prefix('-')).unwrap_or_default();
            let named = ObjectMeta { name: Some(pod.to_owned()), ..Default::default() };
            let Some(ordinal) = identity::ordinal(set, &named) else { continue };
            let pod = wanted.pods.get(&ordinal);
            let mut owners = claim.metadata.owner_references.clone().unwrap_or_default();
            owners.retain(|one| {
                let ours = Some(&one.uid) == set.uid.as_ref();
                let pods = one.kind == "Pod" && one.name == named.name.as_deref().unwrap_or("");
                !ours && !pods
            });
            let condemned = !wanted.ordinals().contains(&ordinal);
            if condemned && when_scaled {
                owners.extend(pod.map(|pod| pod_owner(&pod.metadata)));
            } else if when_deleted {
                owners.push(OwnerReference {
                    controller: None,
                    block_owner_deletion: None,
                    ..owner(set)
                });
            }
            // A claim that belongs to a pod that is gone is the collector's.
            let of_pod = claim.metadata.owner_references.iter().flatten();
            let is_collected = pod.is_none() && of_pod.into_iter().any(|one| one.kind == "Pod");
            if !is_collected
                && claim.metadata.owner_references.clone().unwrap_or_default() != owners
            {
                changes.push((claim.clone(), owners));
            }
        }
    }
    changes
}

fn pod_owner(pod: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.name.clone().unwrap_or_default(),
        uid: pod.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}
