//! Carries Deployment plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::PostParams;
use kube::runtime::events::EventType;
use serde_json::json;

use super::{Snapshot, collides, owner, plan, revision, size, status};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::claim::controller_of;
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, pod, wake, writes};

/// The Deployment controller.
pub(crate) struct Deployments {
    recorder: Recorder,
}

impl Deployments {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.deployments, queue);
        wake::owners(&world.replica_sets, &world.deployments, "Deployment", queue, |deployment| {
            deployment.spec.as_ref().map(|spec| &spec.selector)
        });
        // Recreate waits for the last old pod to be gone, which no ReplicaSet's status tells.
        let (queue, sets) = (queue.clone(), world.replica_sets.clone());
        world.pods.subscribe(move |change| {
            let Some(gone) = change.old.filter(|_| change.new.is_none_or(|p| pod::is_finished(p)))
            else {
                return;
            };
            let namespace = gone.metadata.namespace.as_deref().unwrap_or_default();
            let set = controller_of(&gone.metadata).and_then(|o| sets.get(namespace, &o.name));
            let parent = set.as_ref().and_then(|set| controller_of(&set.metadata));
            if let Some(parent) = parent.filter(|parent| parent.kind == "Deployment") {
                queue.add(Key::new(namespace, &parent.name));
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(deployment) = world.deployments.at(key) else { return Ok(None) };
        let sets = world.replica_sets.list(&key.namespace);
        let pods = world.pods.list(&key.namespace);
        let now = Timestamp::now();
        let snapshot = Snapshot { deployment: &deployment, sets: &sets, pods: &pods };
        let plan = plan(&snapshot, now);

        let uid = deployment.metadata.uid.as_ref();
        let reference = owner(&deployment.metadata);
        let cache = &world.replica_sets;
        writes::adopt(world, cache, &plan.adopt, &*deployment, &reference).await?;
        writes::release(world, cache, &plan.release, uid).await?;
        if let Some(set) = &plan.create {
            self.create(world, &deployment, set, now).await?;
        }
        for set in &plan.update {
            resize(world, set).await?;
        }
        for set in &plan.delete {
            writes::remove(world, cache, set).await?;
        }
        for note in plan.notes {
            self.recorder.tell(&*deployment, EventType::Normal, note).await;
        }
        let mut meta = deployment.metadata.clone();
        if let Some(number) = plan.revision {
            let annotations = json!({ revision::REVISION: number.to_string() });
            let patch = json!({ "metadata": { "annotations": annotations } });
            meta = writes::change(world, &world.deployments, &meta, patch).await?.metadata;
        }
        if let Some(status) = &plan.status {
            let before = deployment.status.as_ref();
            writes::status(world, &world.deployments, &meta, before, status).await?;
        }
        Ok(plan.again)
    }
}

impl Deployments {
    async fn create(
        &self,
        world: &World,
        deployment: &Deployment,
        set: &ReplicaSet,
        now: Timestamp,
    ) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = world.api::<ReplicaSet>(namespace);
        let error = match api.create(&PostParams::default(), set).await {
            Ok(made) => {
                world.replica_sets.remember(made);
                return Ok(());
            }
            Err(error) => error,
        };
        let taken = matches!(&error, kube::Error::Api(status) if status.code == 409);
        let before = deployment.status.as_ref();
        let mut after = before.cloned().unwrap_or_default();
        if taken {
            let there = api.get(set.metadata.name.as_deref().unwrap_or_default()).await?;
            if !collides(deployment, &there) {
                world.replica_sets.remember(there);
                return Ok(());
            }
            // Another template has our name: the next hash is another one.
            after.collision_count = Some(after.collision_count.unwrap_or(0) + 1);
        } else {
            status::create_failed(&mut after, &error.to_string(), now);
            let message = format!("Failed to create new replica set: {error}");
            let note = Note { reason: "ReplicaSetCreateError", message };
            self.recorder.tell(deployment, EventType::Warning, note).await;
        }
        writes::status(world, &world.deployments, &deployment.metadata, before, &after).await?;
        Err(error.into())
    }
}

async fn resize(world: &World, set: &ReplicaSet) -> Result<(), Error> {
    let patch = json!({
        "metadata": { "annotations": set.metadata.annotations },
        "spec": {
            "replicas": size(set),
            "minReadySeconds": set.spec.as_ref().and_then(|spec| spec.min_ready_seconds),
        },
    });
    writes::change(world, &world.replica_sets, &set.metadata, patch).await?;
    Ok(())
}
