//! Volumes behind a claim: directories of this node that a PersistentVolume names.
//!
//! `local` and `hostPath` volumes; every other kind is refused by name. A directory that Berth's own
//! provisioner gave out is made here, open to all, when the first pod wants it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume,
};
use kube::Api;

use super::{VolumeError, fs_group, host_path, ownership};
use crate::Config;

/// The provisioner whose directories are made and removed here; also its finalizer.
pub(super) const LOCAL_PATH: &str = "berth.dev/local-path";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const API_LIMIT: Duration = Duration::from_secs(10);

/// Where the claim's volume is, and whether it may only be read.
pub(super) async fn prepare(
    config: &Config,
    client: &kube::Client,
    pod: &Pod,
    volume: &Volume,
) -> Result<(PathBuf, bool), VolumeError> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let (name, read_only) = match &volume.persistent_volume_claim {
        Some(source) => (source.claim_name.clone(), source.read_only == Some(true)),
        None => (format!("{own}-{}", volume.name), false),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = get(&claims, &volume.name, "persistentvolumeclaim", &name).await?;
    let refused = |why: &str| VolumeError::Claim {
        volume: volume.name.clone(),
        claim: name.clone(),
        why: why.to_owned(),
    };
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        let is_ours = owners.clone().any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
        if !is_ours {
            return Err(refused("was not created for the pod"));
        }
    }
    let bound = claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
    let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    let Some(volume_name) = volume_name.filter(|name| bound && !name.is_empty()) else {
        return Err(refused("is not bound"));
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = get(&volumes, &volume.name, "persistentvolume", &volume_name).await?;
    let spec = found.spec.clone().unwrap_or_default();
    let is_mutual = spec.claim_ref.as_ref().is_some_and(|own| own.uid == claim.metadata.uid);
    if !is_mutual {
        return Err(refused("is bound to a volume that another claim has"));
    }
    if !reaches(&spec, &config.name) {
        return Err(refused("is bound to a volume of another node"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(refused("asks for a block device, which is not supported"));
    }
    let path = place(config, &volume.name, &found, &spec)?;
    if let (Some(_), Some(group), false) = (&spec.local, fs_group(pod), read_only) {
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        give(&path, group, policy == Some("OnRootMismatch")).map_err(VolumeError::io(
            &volume.name,
            "change the group of",
            &path,
        ))?;
    }
    Ok((path, read_only))
}

fn place(
    config: &Config,
    volume: &str,
    found: &PersistentVolume,
    spec: &PersistentVolumeSpec,
) -> Result<PathBuf, VolumeError> {
    if let Some(source) = &spec.host_path {
        return host_path::prepare(volume, source);
    }
    let Some(local) = &spec.local else {
        let value = serde_json::to_value(spec).unwrap_or_default();
        let kinds = value.as_object().into_iter().flatten();
        // A source is the one object that none of the plain fields is.
        let plain = ["capacity", "claimRef", "nodeAffinity"];
        let kind = kinds
            .filter(|(name, value)| value.is_object() && !plain.contains(&name.as_str()))
            .map(|(name, _)| format!("persistentVolume {name}"))
            .next()
            .unwrap_or_default();
        return Err(VolumeError::Unsupported { volume: volume.to_owned(), kind });
    };
    let path = PathBuf::from(&local.path);
    if is_ours(config, found) && !path.exists() {
        fs::create_dir_all(&path).map_err(VolumeError::io(volume, "create", &path))?;
        ownership::open_to_all(&path).map_err(VolumeError::io(
            volume,
            "change the mode of",
            &path,
        ))?;
    }
    if !path.is_absolute() || !path.is_dir() {
        let wanted = "directory".to_owned();
        return Err(VolumeError::HostPath { volume: volume.to_owned(), path, wanted });
    }
    Ok(path)
}

/// Whether the volume is a directory that this node gave out: of our provisioner, on this node, and
/// at its own place and no other.
pub(super) fn is_ours(config: &Config, volume: &PersistentVolume) -> bool {
    let notes = volume.metadata.annotations.as_ref();
    let by = notes.and_then(|notes| notes.get(PROVISIONED_BY)).map(String::as_str);
    let Some(spec) = &volume.spec else { return false };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let place = config.volumes_dir().join(name);
    let is_there = spec.local.as_ref().is_some_and(|local| Path::new(&local.path) == place);
    by == Some(LOCAL_PATH) && plain && is_there && reaches(spec, &config.name)
}

/// Whether a node of this name may use the volume: as far as host names tell, the rest is the
/// scheduler's.
fn reaches(spec: &PersistentVolumeSpec, node: &str) -> bool {
    let affinity = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let Some(required) = affinity else { return true };
    required.node_selector_terms.iter().any(|term| {
        term.match_expressions.iter().flatten().all(|wanted| {
            let values = wanted.values.clone().unwrap_or_default();
            let listed = values.iter().any(|value| value == node);
            match (wanted.key.as_str(), wanted.operator.as_str()) {
                ("kubernetes.io/hostname", "In") => listed,
                ("kubernetes.io/hostname", "NotIn") => !listed,
                _ => true,
            }
        })
    })
}

fn give(path: &Path, group: u32, on_mismatch: bool) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path)?;
    if on_mismatch && meta.gid() == group && meta.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    ownership::give(path, group, false)
}

async fn get<K>(
    api: &Api<K>,
    volume: &str,
    kind: &'static str,
    name: &str,
) -> Result<K, VolumeError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let (volume, name) = (volume.to_owned(), name.to_owned());
    match tokio::time::timeout(API_LIMIT, api.get_opt(&name)).await {
        Ok(Ok(Some(found))) => Ok(found),
        Ok(Ok(None)) => Err(VolumeError::Missing { volume, kind, name }),
        Ok(Err(source)) => Err(VolumeError::Api { volume, kind, name, source: Box::new(source) }),
        Err(_) => Err(VolumeError::Late { volume, kind, name }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_directory_at_its_own_place_is_ours() {
        let config = crate::sample::config(Path::new("/data"));
        let check = |by: &str, path: &str, host: &str, expected: bool| {
            let volume: PersistentVolume = serde_json::from_value(json!({
                "metadata": { "name": "pvc-1", "annotations": { PROVISIONED_BY: by } },
                "spec": {
                    "local": { "path": path },
                    "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                        { "key": "kubernetes.io/hostname", "operator": "In", "values": [host] },
                    ] }] } },
                },
            }))
            .expect("a volume");
            assert_eq!(is_ours(&config, &volume), expected, "{by} {path} {host}");
        };
        let node = config.name.clone();
        check(LOCAL_PATH, "/data/volumes/pvc-1", &node, true);
        check(LOCAL_PATH, "/data/volumes/pvc-2", &node, false);
        check(LOCAL_PATH, "/data/volumes/../pki", &node, false);
        check(LOCAL_PATH, "/data/volumes/pvc-1", "another", false);
        check("example.com/disks", "/data/volumes/pvc-1", &node, false);
    }
}
