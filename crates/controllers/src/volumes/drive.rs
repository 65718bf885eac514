//! Carries the plans for claims and volumes out.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::EventType;
use serde_json::{Value, json};

use super::claims::{self, claims_of};
use super::{matching, released};
use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};
use crate::workloads::recorder::Recorder;
use crate::workloads::{pod, wake, writes};

/// Binds claims.
pub(super) struct Claims {
    recorder: Recorder,
}

impl Claims {
    pub(super) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for Claims {
    const NAME: &'static str = "persistentvolume-controller";
    // Two claims at a time would look for the same free volume; the second would only fail.
    const WORKERS: usize = 1;
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.claims, queue);
        let (waiting, known) = (queue.clone(), world.claims.clone());
        world.volumes.subscribe(move |change| {
            let reference = [change.old, change.new].into_iter().flatten();
            for reference in reference.filter_map(|one| one.spec.as_ref()?.claim_ref.clone()) {
                let (namespace, name) = (reference.namespace, reference.name);
                waiting.add(Key::new(namespace.unwrap_or_default(), name.unwrap_or_default()));
            }
            // One that is new or free may be what somebody waits for.
            for claim in known.all().iter().filter(|claim| !is_bound(claim)) {
                waiting.add(Key::of(&claim.metadata));
            }
        });
        let (waiting, known) = (queue.clone(), world.claims.clone());
        world.storage_classes.subscribe(move |_| {
            for claim in known.all().iter().filter(|claim| !is_bound(claim)) {
                waiting.add(Key::of(&claim.metadata));
            }
        });
        let (waiting, known) = (queue.clone(), world.claims.clone());
        world.nodes.subscribe(move |change| {
            let place = |node: &k8s_openapi::api::core::v1::Node| {
                pod::annotation(&node.metadata, super::PLACE).map(str::to_owned)
            };
            if change.old.map(|node| place(node)) == change.new.map(|node| place(node)) {
                return;
            }
            for claim in known.all().iter().filter(|claim| !is_bound(claim)) {
                waiting.add(Key::of(&claim.metadata));
            }
        });
        let waiting = queue.clone();
        world.pods.subscribe(move |change| {
            if change.new.is_some() && change.old.is_some() {
                return;
            }
            let namespace = change.latest().metadata.namespace.clone().unwrap_or_default();
            for name in claims_of(change.latest()) {
                waiting.add(Key::new(&namespace, name));
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(claim) = world.claims.at(key) else { return Ok(None) };
        let plan = claims::plan(&claims::Snapshot {
            claim: &claim,
            volumes: &world.volumes.all(),
            classes: &world.storage_classes.all(),
            nodes: &world.nodes.all(),
            pods: &world.pods.list(&key.namespace),
        });
        if let Some((warning, note)) = plan.note {
            let type_ = if warning { EventType::Warning } else { EventType::Normal };
            self.recorder.tell(&*claim, type_, note).await;
        }
        match plan.step {
            None => {}
            Some(claims::Step::Change(patch)) => {
                writes::change(world, &world.claims, &claim.metadata, patch).await?;
            }
            Some(claims::Step::Status(status)) => {
                let before = claim.status.as_ref();
                writes::status(world, &world.claims, &claim.metadata, before, &status).await?;
            }
            Some(claims::Step::Take(volume, patch)) => {
                change_volume(world, &volume, patch).await?;
            }
            Some(claims::Step::Provision(volume)) => {
                self.provision(world, &claim, &volume).await?;
            }
        }
        Ok(None)
    }
}

impl Claims {
    async fn provision(
        &self,
        world: &World,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let api: Api<PersistentVolume> = Api::all(world.client.clone());
        match api.create(&PostParams::default(), volume).await {
            Ok(made) => {
                let name = made.metadata.name.clone().unwrap_or_default();
                world.volumes.remember(made);
                let message = format!("Successfully provisioned volume {name}");
                let note = crate::workloads::Note { reason: "ProvisioningSucceeded", message };
                self.recorder.tell(claim, EventType::Normal, note).await;
                Ok(())
            }
            // Ours of an earlier run: the watch brings it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
}

async fn change_volume(
    world: &World,
    volume: &PersistentVolume,
    mut patch: Value,
) -> Result<(), Error> {
    let meta = &volume.metadata;
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch["metadata"]["uid"] = json!(meta.uid);
    let api: Api<PersistentVolume> = Api::all(world.client.clone());
    let name = meta.name.as_deref().unwrap_or_default();
    let changed = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    world.volumes.remember(changed);
    Ok(())
}

/// Keeps volumes' phases, and deletes what is released.
pub(super) struct Volumes {
    recorder: Recorder,
}

impl Volumes {
    pub(super) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for Volumes {
    const NAME: &'static str = "persistentvolume-binder";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let waiting = queue.clone();
        world.volumes.subscribe(move |change| waiting.add(Key::of(&change.latest().metadata)));
        let (waiting, known) = (queue.clone(), world.volumes.clone());
        world.claims.subscribe(move |change| {
            for volume in known.all() {
                let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                let named = |claim: &PersistentVolumeClaim| {
                    reference.is_some_and(|reference| {
                        reference.namespace == claim.metadata.namespace
                            && reference.name == claim.metadata.name
                    })
                };
                if named(change.latest()) {
                    waiting.add(Key::of(&volume.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(volume) = world.volumes.at(key) else { return Ok(None) };
        let claim = claim_of(world, &volume).await?;
        let plan = released::plan(&volume, claim.as_ref());
        if let Some(note) = plan.note {
            self.recorder.tell(&*volume, EventType::Warning, note).await;
        }
        let api: Api<PersistentVolume> = Api::all(world.client.clone());
        match plan.step {
            None => {}
            Some(released::Step::Change(patch)) => change_volume(world, &volume, patch).await?,
            Some(released::Step::Status(status)) => {
                let patch = json!({
                    "metadata": { "resourceVersion": volume.metadata.resource_version },
                    "status": {
                        "phase": status.phase,
                        "message": status.message,
                        "reason": status.reason,
                    },
                });
                let params = PatchParams::default();
                let changed = api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await?;
                world.volumes.remember(changed);
            }
            Some(released::Step::Delete) => {
                let preconditions =
                    Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams::default().preconditions(preconditions);
                gone_is_none(api.delete(&key.name, &params).await)?;
            }
        }
        Ok(None)
    }
}

/// The claim that the volume names. That it is gone is asked of the server itself: a cache that
/// lags behind must not cost data.
async fn claim_of(
    world: &World,
    volume: &PersistentVolume,
) -> Result<Option<PersistentVolumeClaim>, Error> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else { return Ok(None) };
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let name = reference.name.as_deref().unwrap_or_default();
    if let Some(claim) = world.claims.get(namespace, name)
        && matching::names(reference, &claim)
    {
        return Ok(Some((*claim).clone()));
    }
    Ok(world.api::<PersistentVolumeClaim>(namespace).get_opt(name).await?)
}
