//! Waiting for a rollout, and giving up early when it will not come by itself.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_api::app::App;
use berth_api::release::{self, Phase, Release};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};

use crate::failure::{Exit, Failure};
use crate::pods;
use crate::progress::Steps;

/// How long trouble may last before it is taken for final: a first pull may fail by chance.
const TROUBLE_FOR: Duration = Duration::from_secs(12);
/// How long the API may be away: a `berth up` that takes over is back within seconds, and the
/// pauses between tries grow to half of this.
const SILENT_FOR: Duration = Duration::from_secs(45);
/// Time goes on even when nothing changes.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until every replica of `app` runs what it says.
///
/// # Errors
/// [`Exit::Rollout`] when pods have trouble that lasts, or after `patience`.
pub async fn wait(
    client: &Client,
    namespace: &str,
    name: &str,
    app: &App,
    patience: Duration,
    steps: &mut Steps,
) -> Result<()> {
    let generation = app.metadata.generation;
    let (pods_seen, pods_written) = reflector::store::<Pod>();
    let (releases_seen, releases_written) = reflector::store::<Release>();
    let (apps_seen, apps_written) = reflector::store::<App>();
    let of_app = watcher::Config::default().labels(&pods::selector(name));
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let releases = format!("{}={name}", release::APP_LABEL);
    let releases = watcher::Config::default().labels(&releases);
    let mut changes = futures::stream::select_all([
        follow::<Pod>(client, namespace, of_app, pods_written),
        follow::<Release>(client, namespace, releases, releases_written),
        follow::<App>(client, namespace, named, apps_written),
    ]);
    let begun = Instant::now();
    let (mut trouble_since, mut said) = (None, String::new());
    let (mut silent_since, mut silence_said) = (None, false);
    loop {
        match tokio::time::timeout(LOOK, changes.next()).await {
            Ok(Some(Seen::Change)) => silent_since = None,
            Ok(Some(Seen::Silence)) => {
                silent_since.get_or_insert_with(Instant::now);
            }
            Ok(None) | Err(_) => {}
        }
        if let Some(since) = silent_since {
            if since.elapsed() > SILENT_FOR.min(patience) {
                let message = format!("the API has stopped answering; {name} is written: {said}");
                let hint = "start it: berth up, or ./dev up; the rollout then goes on by itself";
                return Err(Failure::new(Exit::NotRunning, message, hint).into());
            }
            if !silence_said {
                steps.note("the API does not answer, waiting for it");
                silence_said = true;
            }
            continue;
        }
        silence_said = false;
        let releases = releases_seen.state();
        let progress = match apps_seen.state().first() {
            Some(app) => progress(app, generation, &releases),
            None => Progress::waiting("waits for its controller"),
        };
        if let Some(why) = progress.failed {
            let message = format!("{name} was taken back: {why}");
            return Err(Failure::new(Exit::Rollout, message, hint(name, namespace)).into());
        }
        if progress.asks {
            steps.note(&progress.note);
            return Ok(());
        }
        if progress.done {
            return Ok(());
        }
        if progress.note != said {
            steps.note(&progress.note);
            said = progress.note;
        }
        let pods = pods_seen.state();
        let trouble = newest(&pods).find_map(|pod| Some((pod.name_any(), pods::trouble(pod)?)));
        let Some((pod, trouble)) = trouble else {
            trouble_since = None;
            if begun.elapsed() > patience {
                let message = format!("{name} did not come up within {patience:?}: {said}");
                return Err(Failure::new(Exit::Rollout, message, hint(name, namespace)).into());
            }
            continue;
        };
        if trouble_since.get_or_insert_with(Instant::now).elapsed() > TROUBLE_FOR {
            let message = format!("{name} does not come up: pod {pod}: {trouble}");
            return Err(Failure::new(Exit::Rollout, message, hint(name, namespace)).into());
        }
    }
}

/// Lets pods of `name` that wait for an image to come start anew, now that it is there: they would
/// try again only after minutes. A restored cluster has such pods, since images are in no backup.
/// Pods with a container that has run are left alone.
pub async fn renew_waiting(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_app = ListParams::default().labels(&pods::selector(name));
    for pod in api.list(&of_app).await?.items.iter().filter(|pod| pods::waits_for_image(pod)) {
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&pod.name_any(), &params).await {
            // It went, or another came in its place.
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn hint(name: &str, namespace: &str) -> String {
    format!(
        "what ran before goes on; see `berth status {name} -n {namespace}` and \
         `berth logs {name} -n {namespace}`, then deploy again"
    )
}

/// What a watch says.
enum Seen {
    Change,
    Silence,
}

#[derive(Debug, Default, PartialEq)]
struct Progress {
    note: String,
    done: bool,
    /// Somebody has to decide before it goes on.
    asks: bool,
    /// Why it will not come.
    failed: Option<String>,
}

impl Progress {
    fn waiting(note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::default() }
    }
}

/// How far the App's spec of this generation is.
fn progress(app: &App, generation: Option<i64>, releases: &[std::sync::Arc<Release>]) -> Progress {
    let status = app.status.clone().unwrap_or_default();
    if status.observed_generation < generation {
        return Progress::waiting("waits for its controller");
    }
    let newest = releases.iter().max_by_key(|one| one.spec.revision);
    let Some(newest) = newest else { return Progress::waiting("waits for its release") };
    let release = newest.status.clone().unwrap_or_default();
    match release.phase {
        // An App that went back to what runs has no part in what was taken back before.
        Phase::Aborted if !release.closed => {
            Progress { failed: Some(release.message), ..Progress::default() }
        }
        Phase::Paused => Progress {
            note: format!("{}: {}", release.at, release.message),
            asks: true,
            ..Progress::default()
        },
        phase if !phase.is_over() => {
            let note = if release.message.is_empty() { &release.at } else { &release.message };
            Progress::waiting(note)
        }
        _ => Progress {
            note: format!("{} of {} ready", status.ready_replicas, app.spec.replicas),
            done: status.ready_replicas >= app.spec.replicas
                && status.replicas == app.spec.replicas,
            ..Progress::default()
        },
    }
}

/// Pods that are not on their way out, newest template first.
fn newest(pods: &[std::sync::Arc<Pod>]) -> impl Iterator<Item = &Pod> {
    let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let newest = staying.clone().max_by_key(|pod| pod.metadata.creation_timestamp.clone());
    let template = newest.and_then(|pod| pod.labels().get("pod-template-hash").cloned());
    staying
        .filter(move |pod| pod.labels().get("pod-template-hash").cloned() == template)
        .map(AsRef::as_ref)
}

/// Keeps a store up to date; an item says that something changed.
fn follow<K>(
    client: &Client,
    namespace: &str,
    config: watcher::Config,
    written: reflector::store::Writer<K>,
) -> futures::stream::BoxStream<'static, Seen>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
    K::DynamicType: Default + Clone + Eq + std::hash::Hash + Send + Sync,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let backoff = watcher::DefaultBackoff::default();
    let changes = watcher(api, config).backoff(backoff).reflect(written);
    let seen = |change: Result<_, watcher::Error>| match change {
        Ok(_) | Err(watcher::Error::WatchError(_)) => Seen::Change,
        Err(_) => Seen::Silence,
    };
    changes.map(seen).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rollout_is_done_when_its_release_is_and_all_are_ready() {
        let check = |observed: i64, ready: i32, all: i32, phase: &str| {
            let app: App = serde_json::from_value(json!({
                "apiVersion": "berth.dev/v1", "kind": "App", "metadata": { "name": "a" },
                "spec": { "image": "a", "replicas": 3 },
                "status": { "observedGeneration": observed, "replicas": all,
                    "readyReplicas": ready },
            }))
            .unwrap();
            let release: Release = serde_json::from_value(json!({
                "apiVersion": "berth.dev/v1", "kind": "Release", "metadata": { "name": "a-1" },
                "spec": { "app": "a", "revision": 1, "image": "a", "template": "t",
                    "appSpec": { "image": "a" } },
                "status": { "phase": phase, "message": "why" },
            }))
            .unwrap();
            progress(&app, Some(2), &[std::sync::Arc::new(release)])
        };
        assert!(check(2, 3, 3, "Succeeded").done);
        assert!(!check(1, 3, 3, "Succeeded").done, "an older generation was observed");
        assert!(!check(2, 3, 4, "Succeeded").done, "an old replica is left");
        assert!(!check(2, 2, 3, "Succeeded").done, "one is not ready");
        assert!(!check(2, 3, 3, "Progressing").done);
        assert!(check(2, 3, 3, "Paused").asks);
        assert_eq!(check(2, 3, 3, "Aborted").failed.as_deref(), Some("why"));
    }
}
