//! The volume that a claim of our class gets. Pure.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::matching::asked;
use super::{BOUND_BY_CONTROLLER, LOCAL_PATH, PLACE, PROVISIONED_BY, VOLUME_PROTECTION, hostname};
use crate::workloads::pod::annotation;

/// A directory of `node`, named after the claim's UID, so that trying again makes no second one.
///
/// # Errors
/// What the claim asks for that a directory is not, in words for an Event.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let place = annotation(&node.metadata, PLACE).filter(|place| place.starts_with('/'));
    let Some(place) = place else {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("node {name} does not say where it keeps volumes"));
    };
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("a directory is no block device: volumeMode Block is not supported".to_owned());
    }
    if spec.selector.is_some() {
        return Err("a claim with a selector only takes volumes that are there".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("volumes are not filled from a data source".to_owned());
    }
    let apart = ["ReadWriteOnce", "ReadWriteOncePod"];
    let wide = spec.access_modes.iter().flatten().find(|mode| !apart.contains(&mode.as_str()));
    if let Some(mode) = wide {
        return Err(format!("a directory of one node cannot be {mode}"));
    }
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let made = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": { PROVISIONED_BY: LOCAL_PATH, BOUND_BY_CONTROLLER: "yes" },
            "finalizers": [VOLUME_PROTECTION, LOCAL_PATH],
        },
        "spec": {
            "capacity": { "storage": asked(claim).to_string() },
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "storageClassName": class.metadata.name,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": uid,
            },
            "local": { "path": format!("{}/{name}", place.trim_end_matches('/')) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [hostname(node)],
            }] }] } },
        },
    });
    serde_json::from_value(made).map_err(|error| error.to_string())
}
