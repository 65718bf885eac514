//! The end of directories that this node gave out: data first, then the finalizer.
//!
//! A PersistentVolume of our provisioner carries a finalizer, so its object outlives its data. What
//! is interrupted between the two is done again at the next look: removing is idempotent, and until
//! the finalizer has gone the API says that there is something to remove.
//!
//! A volume whose policy is `Retain` leaves its directory behind when somebody deletes it.

use std::path::Path;
use std::time::Duration;

use berth_daemon::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use super::claim::{LOCAL_PATH, is_ours};
use crate::{Config, mounts};

/// What could not be removed is tried again with the next full list, at the latest.
const AGAIN: Duration = Duration::from_secs(30);
const API_LIMIT: Duration = Duration::from_secs(10);

/// Removes the data of volumes that are deleted, until `tasks` stop.
pub fn start_reclaiming(config: &Config, client: &kube::Client, tasks: &Tasks) {
    let (config, api) = (config.clone(), Api::<PersistentVolume>::all(client.clone()));
    tasks.spawn_until_stop("reclaim volumes", async move {
        loop {
            let all = watcher(api.clone(), watcher::Config::default()).default_backoff();
            let mut news = std::pin::pin!(all.applied_objects());
            while let Some(seen) = news.next().await {
                let volume = match seen {
                    Ok(volume) => volume,
                    Err(error) => {
                        tracing::debug!(%error, "watching volumes; tried again");
                        continue;
                    }
                };
                if let Err(why) = reclaim(&config, &api, &volume).await {
                    let name = volume.metadata.name.unwrap_or_default();
                    tracing::warn!(volume = name, why, "volume not removed; tried again");
                    tokio::time::sleep(AGAIN).await;
                    // A new list brings it again.
                    break;
                }
            }
        }
    });
}

async fn reclaim(
    config: &Config,
    api: &Api<PersistentVolume>,
    volume: &PersistentVolume,
) -> Result<(), String> {
    let finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    let asked = volume.metadata.deletion_timestamp.is_some();
    // Protected means that it may still be mounted.
    let is_last = finalizers.iter().all(|name| name == LOCAL_PATH) && !finalizers.is_empty();
    if !asked || !is_last || !is_ours(config, volume) {
        return Ok(());
    }
    let name = volume.metadata.name.clone().unwrap_or_default();
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    if policy == Some("Delete") {
        let path = config.volumes_dir().join(&name);
        let removed = tokio::task::spawn_blocking(move || remove(&path)).await;
        removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        tracing::info!(volume = name, "volume removed");
    }
    let patch = Patch::Merge(json!({ "metadata": {
        "resourceVersion": volume.metadata.resource_version,
        "uid": volume.metadata.uid,
        "finalizers": [],
    } }));
    let params = PatchParams::default();
    match tokio::time::timeout(API_LIMIT, api.patch(&name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Removes a directory that no container of this node has mounted any more.
fn remove(path: &Path) -> std::io::Result<()> {
    if !mounts::below(path).is_empty() {
        return Err(std::io::Error::other(format!(
            "something is mounted below {}",
            path.display()
        )));
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
