//! Keeps the volumes of running pods as the API says, and their tokens fresh.
//!
//! A change of a ConfigMap or Secret reaches the pods that use it at once; every minute all pods are
//! looked at, which renews tokens in time and mends what a lost event left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_daemon::Tasks;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::{VolumeError, fill, kind, volume_dir};
use crate::Config;
use crate::pod::PodTable;

const LOOK: Duration = Duration::from_secs(60);

/// A kind, a namespace and a name: what changed, or what a pod uses.
type Reference = (&'static str, String, String);

/// Brings the volumes of a pod that runs up to date. One that cannot be filled keeps what it has.
///
/// Gives the time of the next token renewal.
///
/// # Errors
/// The first volume that could not be filled; the others are.
pub async fn refresh(
    config: &Config,
    client: &kube::Client,
    pod: &Pod,
) -> Result<Option<Timestamp>, VolumeError> {
    let dir = config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let mut next: Option<Timestamp> = None;
    let mut failed = None;
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Ok(kind) = kind(volume) else { continue };
        let path = volume_dir(&dir, &kind, &volume.name);
        // A volume that was never made is the worker's to make.
        let is_filled =
            matches!(kind.as_str(), "configMap" | "secret" | "downwardAPI" | "projected");
        if !is_filled || !path.exists() {
            continue;
        }
        match fill(config, client, pod, volume, &path).await {
            Ok(renewal) => next = next.into_iter().chain(renewal).min(),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(next), Err)
}

/// Keeps every pod of `pods` fresh until `tasks` stop.
pub fn start_refreshing(config: &Config, client: &kube::Client, pods: PodTable, tasks: &Tasks) {
    let (config, client) = (config.clone(), client.clone());
    tasks.spawn_until_stop("volumes", async move {
        let mut changes = std::pin::pin!(futures::stream::select(
            changes::<ConfigMap>(&client, "configmap"),
            changes::<Secret>(&client, "secret"),
        ));
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Pods whose last look is still true until their token wants renewal.
        let mut renewals: BTreeMap<String, Timestamp> = BTreeMap::new();
        loop {
            let changed = tokio::select! {
                Some(changed) = changes.next() => Some(changed),
                _ = looks.tick() => None,
            };
            let entries = pods.all();
            let uids: BTreeSet<String> =
                entries.iter().filter_map(|entry| entry.pod.metadata.uid.clone()).collect();
            renewals.retain(|uid, _| uids.contains(uid));
            for entry in entries {
                let pod = entry.pod.as_ref();
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let wanted = match &changed {
                    Some(reference) => references(pod).contains(reference),
                    None => renewals.get(&uid).is_none_or(|at| *at <= Timestamp::now()),
                };
                if !wanted || entry.sandbox_id.is_none() {
                    continue;
                }
                match refresh(&config, &client, &with_address(pod, &entry.pod_ip)).await {
                    Ok(next) => {
                        let never = Timestamp::MAX;
                        renewals.insert(uid, next.unwrap_or(never));
                    }
                    Err(error) => {
                        renewals.remove(&uid);
                        tracing::warn!(pod = %pod.name_any(), %error, "volume keeps its old content");
                    }
                }
            }
        }
    });
}

/// The pod with the address that this node knows before the API server does.
fn with_address(pod: &Pod, ip: &Option<String>) -> Pod {
    let mut pod = pod.clone();
    if let Some(ip) = ip {
        pod.status.get_or_insert_default().pod_ip = Some(ip.clone());
    }
    pod
}

/// Every object of one kind that was written or deleted since we began to watch.
fn changes<K>(client: &kube::Client, kind: &'static str) -> impl Stream<Item = Reference> + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    // Names only: a cluster's secrets have no business in this process's memory.
    let api = Api::<PartialObjectMeta<K>>::all(client.clone());
    watcher(api, watcher::Config::default()).default_backoff().filter_map(move |event| async move {
        let object = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => object,
            // The beginning is covered by the first look; errors by the backoff.
            Ok(_) => return None,
            Err(error) => {
                tracing::debug!(%error, kind, "watch interrupted");
                return None;
            }
        };
        Some((kind, object.namespace().unwrap_or_default(), object.name_any()))
    })
}

/// The ConfigMaps and Secrets that the volumes of `pod` are filled from.
fn references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .flat_map(objects)
        .map(|(kind, name)| (kind, namespace.clone(), name))
        .collect()
}

fn objects(volume: &Volume) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if let Some(map) = &volume.config_map {
        found.push(("configmap", map.name.clone()));
    }
    if let Some(secret) = &volume.secret {
        found.extend(secret.secret_name.clone().map(|name| ("secret", name)));
    }
    let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    for source in projected.into_iter().flatten() {
        if let Some(map) = &source.config_map {
            found.push(("configmap", map.name.clone()));
        }
        if let Some(secret) = &source.secret {
            found.push(("secret", secret.name.clone()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_a_pods_volumes_are_known() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "namespace": "shop" },
            "spec": { "containers": [], "volumes": [
                { "name": "a", "configMap": { "name": "settings" } },
                { "name": "b", "projected": { "sources": [
                    { "secret": { "name": "login" } },
                    { "serviceAccountToken": { "path": "token" } },
                ] } },
                { "name": "c", "emptyDir": {} },
            ] },
        }))
        .expect("a pod");
        let expected = [
            ("configmap", "shop".to_owned(), "settings".to_owned()),
            ("secret", "shop".to_owned(), "login".to_owned()),
        ];
        assert_eq!(references(&pod), expected.into());
    }
}
