//! Carries autoscalers' plans out, every 15 seconds each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::Selector;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::EventType;
use serde_json::json;

use super::behavior::Memory;
use super::fetch;
use super::plan::{Plan, Scale, Snapshot, plan, rescaled};
use crate::driver::{Controller, Error, Key, Queue, World, chain};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, writes};

/// Kubernetes' own.
const PERIOD: Duration = Duration::from_secs(15);

/// Scales what HorizontalPodAutoscalers point at.
pub struct Autoscalers {
    recorder: Recorder,
    /// By UID.
    memories: Mutex<HashMap<String, Memory>>,
}

impl Autoscalers {
    /// None is known yet.
    pub fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME), memories: Mutex::default() }
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().expect("no holder of the lock panics")
    }
}

/// The target's scale, and how it is reached.
struct Target {
    api: Api<DynamicObject>,
    scale: Scale,
    selector: String,
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let waiting = queue.clone();
        world.autoscalers.subscribe(move |change| {
            // Its own status is not news.
            let spec = |one: &HorizontalPodAutoscaler| one.spec.clone();
            if change.old.map(|one| spec(one)) != change.new.map(|one| spec(one)) {
                waiting.add(Key::of(&change.latest().metadata));
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(autoscaler) = world.autoscalers.at(key) else {
            let known = world.autoscalers.all();
            let is_known = |uid: &String| {
                known.iter().any(|one| one.metadata.uid.as_deref() == Some(uid.as_str()))
            };
            self.memories().retain(|uid, _| is_known(uid));
            return Ok(None);
        };
        let spec = autoscaler.spec.clone();
        let target = target(world, &key.namespace, &spec).await;
        let mut pods: Vec<Arc<Pod>> = Vec::new();
        let mut readings = Vec::new();
        if let Ok(target) = &target
            && let Ok(selector) = target.selector.parse::<Selector>()
        {
            pods = world.pods.list(&key.namespace);
            pods.retain(|pod| selector.matches(&pod.metadata.labels.clone().unwrap_or_default()));
            let metrics = spec.metrics.as_deref().unwrap_or_default();
            let reads = metrics
                .iter()
                .map(|metric| fetch::read(&world.client, &key.namespace, &target.selector, metric));
            readings = join_all(reads).await;
        }
        let now = Timestamp::now();
        let uid = autoscaler.metadata.uid.clone().unwrap_or_default();
        let mut memory = self.memories().remove(&uid).unwrap_or_default();
        let snapshot = Snapshot {
            autoscaler: &autoscaler,
            scale: target.as_ref().map(|found| found.scale.clone()).map_err(Clone::clone),
            pods: &pods,
            readings: &readings,
        };
        let mut planned = plan(&snapshot, &mut memory, now);
        if let Ok(target) = &target {
            self.rescale(&autoscaler, &spec, target, &mut planned, &mut memory).await;
        }
        self.memories().insert(uid, memory);
        for note in planned.notes {
            self.recorder.tell(&*autoscaler, EventType::Warning, note).await;
        }
        let before = autoscaler.status.as_ref();
        writes::status(world, &world.autoscalers, &autoscaler.metadata, before, &planned.status)
            .await?;
        Ok(Some(PERIOD))
    }
}

impl Autoscalers {
    async fn rescale(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        target: &Target,
        planned: &mut Plan,
        memory: &mut Memory,
    ) {
        let Some((to, why)) = planned.rescale.take() else { return };
        let patch = Patch::Merge(json!({ "spec": { "replicas": to } }));
        let params = PatchParams::default();
        let name = &spec.scale_target_ref.name;
        let done = target.api.patch_scale(name, &params, &patch);
        let done = done.await.map(drop).map_err(|error| chain(&error));
        let (type_, note) = match &done {
            Ok(()) => {
                let message = format!("New size: {to}; reason: {why}");
                (EventType::Normal, Note { reason: "SuccessfulRescale", message })
            }
            Err(error) => {
                let message = format!("New size: {to}; reason: {why}; error: {error}");
                (EventType::Warning, Note { reason: "FailedRescale", message })
            }
        };
        self.recorder.tell(autoscaler, type_, note).await;
        let change = (target.scale.wanted, to);
        rescaled(&mut planned.status, memory, change, done, Timestamp::now());
    }
}

async fn target(
    world: &World,
    namespace: &str,
    spec: &HorizontalPodAutoscalerSpec,
) -> Result<Target, (&'static str, String)> {
    let reference = &spec.scale_target_ref;
    let failed = |error: kube::Error| match error {
        kube::Error::Api(status) => ("FailedGetScale", status.message.clone()),
        error => ("FailedGetScale", chain(&error)),
    };
    let gvk = fetch::gvk(reference.api_version.as_deref().unwrap_or_default(), &reference.kind);
    let (resource, _) = kube::discovery::pinned_kind(&world.client, &gvk).await.map_err(failed)?;
    let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), namespace, &resource);
    let found = api.get_scale(&reference.name).await.map_err(failed)?;
    let status = found.status.unwrap_or_default();
    let selector = status.selector.filter(|selector| !selector.is_empty());
    let Some(selector) = selector else {
        let message = "selector is required: the target's scale does not name its pods".to_owned();
        return Err(("InvalidSelector", message));
    };
    let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    Ok(Target { api, scale: Scale { wanted, running: status.replicas }, selector })
}
