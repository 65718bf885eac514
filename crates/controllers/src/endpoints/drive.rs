//! Carries endpoint plans out.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::{Plan, Snapshot, members, plan, slices, subsets};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::{pod, writes};

/// The controller of EndpointSlices and Endpoints; its keys are Services.
pub(crate) struct ServiceEndpoints;

impl Controller for ServiceEndpoints {
    const NAME: &'static str = "endpointslice-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let waiting = queue.clone();
        world.services.subscribe(move |change| waiting.add(Key::of(&change.latest().metadata)));
        let (waiting, services) = (queue.clone(), world.services.clone());
        world.pods.subscribe(move |change| {
            if change.old.map(|pod| relevant(pod)) == change.new.map(|pod| relevant(pod)) {
                return;
            }
            let namespace = change.latest().metadata.namespace.as_deref().unwrap_or_default();
            for service in services.list(namespace) {
                let picks = |pod: &Pod| members::selects(&service, pod);
                if [change.old, change.new].into_iter().flatten().any(|pod| picks(pod)) {
                    waiting.add(Key::of(&service.metadata));
                }
            }
        });
        let waiting = queue.clone();
        world.endpoint_slices.subscribe(move |change| {
            let meta = &change.latest().metadata;
            if pod::label(meta, slices::MANAGED_BY) == slices::OURS {
                let namespace = meta.namespace.clone().unwrap_or_default();
                waiting.add(Key::new(namespace, pod::label(meta, slices::SERVICE)));
            }
        });
        let waiting = queue.clone();
        world.endpoints.subscribe(move |change| waiting.add(Key::of(&change.latest().metadata)));
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let slices = world.endpoint_slices.list(&key.namespace);
        let endpoints = world.endpoints.at(key);
        let Some(service) = world.services.at(key) else {
            return sweep(world, key, &slices, endpoints.as_deref()).await;
        };
        let pods = world.pods.list(&key.namespace);
        let plan = plan(&Snapshot {
            service: &service,
            pods: &pods,
            slices: &slices,
            endpoints: endpoints.as_deref(),
        });
        act(world, key, &plan).await?;
        if let Some(wanted) = &plan.endpoints {
            write(world, key, wanted, endpoints.as_deref()).await?;
        }
        Ok(None)
    }
}

/// What of a pod an endpoint shows; a change of anything else wakes nobody.
fn relevant(pod: &Pod) -> impl PartialEq + use<> {
    let status = pod.status.as_ref();
    (
        (pod.metadata.uid.clone(), pod.metadata.labels.clone()),
        pod.spec.as_ref().map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone())),
        status.map(|s| (s.pod_ip.clone(), s.pod_ips.clone())),
        (pod::is_ready(pod), pod::is_terminating(pod), pod::is_finished(pod)),
    )
}

async fn act(world: &World, key: &Key, plan: &Plan) -> Result<(), Error> {
    let cache = &world.endpoint_slices;
    // Changes before additions before removals: no member is missing from all slices in between.
    for slice in &plan.update {
        let before = cache.get(&key.namespace, slice.metadata.name.as_deref().unwrap_or_default());
        let labels = patch_of(
            before.as_ref().and_then(|before| before.metadata.labels.as_ref()),
            slice.metadata.labels.as_ref(),
        );
        let patch = json!({ "metadata": { "labels": labels }, "endpoints": slice.endpoints });
        writes::change(world, cache, &slice.metadata, patch).await?;
    }
    let api = world.api::<EndpointSlice>(&key.namespace);
    for slice in &plan.create {
        cache.remember(api.create(&PostParams::default(), slice).await?);
    }
    for slice in &plan.delete {
        writes::remove(world, cache, &**slice).await?;
    }
    Ok(())
}

async fn write(
    world: &World,
    key: &Key,
    wanted: &Endpoints,
    before: Option<&Endpoints>,
) -> Result<(), Error> {
    let Some(before) = before else {
        let api = world.api::<Endpoints>(&key.namespace);
        world.endpoints.remember(api.create(&PostParams::default(), wanted).await?);
        return Ok(());
    };
    let (old, new) = (&before.metadata, &wanted.metadata);
    let patch = json!({
        "metadata": {
            "labels": patch_of(old.labels.as_ref(), new.labels.as_ref()),
            "annotations": patch_of(old.annotations.as_ref(), new.annotations.as_ref()),
        },
        "subsets": wanted.subsets,
    });
    writes::change(world, &world.endpoints, old, patch).await?;
    Ok(())
}

/// Removes what a Service left behind.
async fn sweep(
    world: &World,
    key: &Key,
    slices: &[std::sync::Arc<EndpointSlice>],
    endpoints: Option<&Endpoints>,
) -> Result<Option<Duration>, Error> {
    for slice in slices.iter().filter(|slice| slices::is_ours(slice, &key.name)) {
        writes::remove(world, &world.endpoint_slices, &**slice).await?;
    }
    let ours = |e: &&Endpoints| pod::label(&e.metadata, subsets::MANAGED_BY) == subsets::OURS;
    if let Some(endpoints) = endpoints.filter(ours) {
        writes::remove(world, &world.endpoints, endpoints).await?;
    }
    Ok(None)
}

/// A merge patch from one map to another.
fn patch_of(
    before: Option<&BTreeMap<String, String>>,
    after: Option<&BTreeMap<String, String>>,
) -> Value {
    let gone = before.into_iter().flatten().map(|(key, _)| (key.clone(), Value::Null));
    let kept = after.into_iter().flatten().map(|(key, value)| (key.clone(), json!(value)));
    Value::Object(gone.chain(kept).collect())
}
