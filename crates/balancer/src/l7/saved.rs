//! The routes of last time, in a file.
//!
//! A balancer that restarts while the API server is away serves from it. Written whole beside its
//! place and renamed, so that a reader finds the old or the new one; readable by us only, because
//! TLS keys are in it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::{Deserialize, Serialize};

use super::{GatewayObjects, Snapshot};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Owned {
    ingresses: Vec<Ingress>,
    classes: Vec<IngressClass>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    secrets: Vec<Secret>,
    #[serde(default)]
    config_maps: Vec<ConfigMap>,
    #[serde(default)]
    gateway: GatewayObjects,
}

#[derive(Serialize)]
struct Borrowed<'a> {
    ingresses: Vec<&'a Ingress>,
    classes: Vec<&'a IngressClass>,
    services: Vec<&'a Service>,
    slices: Vec<&'a EndpointSlice>,
    secrets: Vec<&'a Secret>,
    config_maps: Vec<&'a ConfigMap>,
    gateway: &'a GatewayObjects,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    #[error("access the saved routes {path}")]
    Access { path: String, source: std::io::Error },
    #[error("understand the saved routes {path}")]
    Understand { path: String, source: serde_json::Error },
}

/// What was saved at `path`; `None` when nothing was.
pub(super) fn load(path: &Path) -> Result<Option<Snapshot>, SavedError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SavedError::Access { path: path.display().to_string(), source }),
    };
    let saved: Owned = serde_json::from_slice(&text)
        .map_err(|source| SavedError::Understand { path: path.display().to_string(), source })?;
    Ok(Some(Snapshot {
        ingresses: saved.ingresses.into_iter().map(Arc::new).collect(),
        classes: saved.classes.into_iter().map(Arc::new).collect(),
        services: saved.services.into_iter().map(Arc::new).collect(),
        slices: saved.slices.into_iter().map(Arc::new).collect(),
        secrets: saved.secrets.into_iter().map(Arc::new).collect(),
        config_maps: saved.config_maps.into_iter().map(Arc::new).collect(),
        gateway: saved.gateway,
        // Whoever follows the other clusters says where they are.
        sites: super::Sites::default(),
    }))
}

/// Replaces what is saved at `path`.
pub(super) fn save(path: &Path, snapshot: &Snapshot) -> Result<(), SavedError> {
    fn plain<K>(objects: &[Arc<K>]) -> Vec<&K> {
        objects.iter().map(Arc::as_ref).collect()
    }
    let access = |source| SavedError::Access { path: path.display().to_string(), source };
    let parts = Borrowed {
        ingresses: plain(&snapshot.ingresses),
        classes: plain(&snapshot.classes),
        services: plain(&snapshot.services),
        slices: plain(&snapshot.slices),
        secrets: plain(&snapshot.secrets),
        config_maps: plain(&snapshot.config_maps),
        gateway: &snapshot.gateway,
    };
    let text = serde_json::to_vec(&parts)
        .map_err(|source| SavedError::Understand { path: path.display().to_string(), source })?;
    let draft = path.with_extension("new");
    let mut file: File = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(access)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(access)?;
    std::fs::rename(&draft, path).map_err(access)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_saved_is_loaded_and_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routes.json");
        assert!(load(&path).unwrap().is_none());
        let ingress = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"ingressClassName": "berth", "rules": [{"host": "web.example"}]}
        }));
        let ingresses = vec![Arc::new(ingress.unwrap())];
        save(&path, &Snapshot { ingresses: ingresses.clone(), ..Snapshot::default() }).unwrap();
        assert_eq!(load(&path).unwrap().unwrap().ingresses, ingresses);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert!(load(&path).is_err());
    }
}
