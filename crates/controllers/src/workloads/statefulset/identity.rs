//! Who a pod of a StatefulSet is: its name, host name, labels and claims follow from its ordinal.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Wanted, claims, owner};
use crate::workloads::{history, pod};

/// The label with a pod's name.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with a pod's ordinal.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in the name of an object that may be a pod of the set at `meta`.
pub(super) fn ordinal(meta: &ObjectMeta, pod: &ObjectMeta) -> Option<i32> {
    let rest = pod.name.as_deref()?.strip_prefix(meta.name.as_deref()?)?.strip_prefix('-')?;
    let ordinal: i32 = rest.parse().ok()?;
    // `+1` and `01` are numbers too, and no ordinals.
    (ordinal.to_string() == rest).then_some(ordinal)
}

/// The name of the pod with this ordinal.
pub(super) fn name(wanted: &Wanted<'_>, ordinal: i32) -> String {
    format!("{}-{ordinal}", wanted.set.metadata.name.as_deref().unwrap_or_default())
}

/// The pod with this ordinal, of the template that is its due.
pub(super) fn pod_for(wanted: &Wanted<'_>, ordinal: i32) -> Option<Pod> {
    let keeps_old = wanted.rolls() && ordinal < wanted.updated_from();
    let revision = if keeps_old { &wanted.current } else { &wanted.update };
    let template = if keeps_old && wanted.current != wanted.update {
        let kept = |one: &&k8s_openapi::api::apps::v1::ControllerRevision| {
            one.metadata.name.as_ref() == Some(&wanted.current)
        };
        history::template_of(wanted.revisions.iter().find(kept)?)?
    } else {
        wanted.spec.template.clone()
    };
    Some(made(wanted, ordinal, revision, &template))
}

fn made(wanted: &Wanted<'_>, ordinal: i32, revision: &str, template: &PodTemplateSpec) -> Pod {
    let meta = &wanted.set.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = name(wanted, ordinal);
    let index = ordinal.to_string();
    let labels =
        [(history::HASH, revision), (POD_NAME, name.as_str()), (POD_INDEX, index.as_str())];
    let mut pod = pod::from_template(template, namespace, owner(meta), &labels);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name);
        spec.subdomain = wanted.spec.service_name.clone().filter(|service| !service.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for template in wanted.spec.volume_claim_templates.iter().flatten() {
            let volume = template.metadata.name.clone().unwrap_or_default();
            // The claim takes the place of what the template may say under its name.
            volumes.retain(|one| one.name != volume);
            volumes.push(Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claims::name(wanted, template, ordinal),
                    read_only: None,
                }),
                name: volume,
                ..Default::default()
            });
        }
    }
    pod
}

/// The labels that a pod must have and has not.
pub(super) fn corrected(pod: &Pod) -> Option<BTreeMap<String, String>> {
    let name = pod.metadata.name.clone()?;
    let index = name.rsplit('-').next()?.to_owned();
    let wanted = BTreeMap::from([(POD_NAME.to_owned(), name), (POD_INDEX.to_owned(), index)]);
    let has = |(key, value): (&String, &String)| pod::label(&pod.metadata, key) == value;
    (!wanted.iter().all(has)).then_some(wanted)
}
