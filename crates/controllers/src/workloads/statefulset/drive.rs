//! Carries StatefulSet plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, PostParams};
use kube::runtime::events::EventType;
use serde_json::json;

use super::{Plan, Snapshot, owner, plan};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::history::{self, Written};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, pod, wake, writes};

/// The StatefulSet controller.
pub(crate) struct StatefulSets {
    recorder: Recorder,
}

impl StatefulSets {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.stateful_sets, queue);
        wake::owners(&world.pods, &world.stateful_sets, "StatefulSet", queue, |set| {
            set.spec.as_ref().map(|spec| &spec.selector)
        });
        wake::owners(&world.revisions, &world.stateful_sets, "StatefulSet", queue, |_| None);
        // A claim carries the labels that the set's selector names.
        wake::owners(&world.claims, &world.stateful_sets, "StatefulSet", queue, |set| {
            set.spec.as_ref().map(|spec| &spec.selector)
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = world.stateful_sets.at(key) else { return Ok(None) };
        let (pods, claims) = (world.pods.list(&key.namespace), world.claims.list(&key.namespace));
        let revisions = history::of(world, &set.metadata);
        let snapshot = Snapshot { set: &set, pods: &pods, claims: &claims, revisions: &revisions };
        let plan = plan(&snapshot, Timestamp::now());
        let reference = owner(&set.metadata);
        if set.metadata.deletion_timestamp.is_some() {
            self.act(world, &set, &plan).await?;
            return Ok(None);
        }
        if history::write(world, &*set, &reference, &plan.history).await? == Written::Collides {
            let count = set.status.as_ref().and_then(|status| status.collision_count);
            history::collide(world, &world.stateful_sets, &set.metadata, count).await?;
        }
        // Before the pods: a pod of the old template is told from one of the new by what the status
        // says about the last finished rollout.
        if let Some(status) = &plan.status {
            let before = set.status.as_ref();
            writes::status(world, &world.stateful_sets, &set.metadata, before, status).await?;
        }
        self.act(world, &set, &plan).await?;
        Ok(plan.again)
    }
}

impl StatefulSets {
    async fn act(&self, world: &World, set: &StatefulSet, plan: &Plan) -> Result<(), Error> {
        let reference = owner(&set.metadata);
        writes::adopt(world, &world.pods, &plan.adopt, set, &reference).await?;
        let uid = set.metadata.uid.as_ref();
        writes::release(world, &world.pods, &plan.release, uid).await?;
        for (claim, owners) in &plan.owners {
            let patch = json!({ "metadata": { "ownerReferences": owners } });
            writes::change(world, &world.claims, &claim.metadata, patch).await?;
        }
        for (pod, labels) in &plan.relabel {
            let patch = json!({ "metadata": { "labels": labels } });
            writes::change(world, &world.pods, &pod.metadata, patch).await?;
        }
        for claim in &plan.claims {
            self.claim(world, set, claim).await?;
        }
        let (made, refused) = writes::create(world, plan.create.clone()).await;
        for pod in &made {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            self.tell(set, "SuccessfulCreate", format!("create Pod {name} successful")).await;
        }
        if let Some(error) = refused {
            self.warn(set, "FailedCreate", format!("create Pod failed: {error}")).await;
            return Err(error.into());
        }
        for pod in plan.delete.iter().filter(|pod| pod::is_finished(pod)) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Pod {name} has ended and is made anew");
            self.warn(set, "RecreatingFailedPod", message).await;
        }
        let (gone, refused) = writes::delete(world, &plan.delete).await;
        for name in gone {
            self.tell(set, "SuccessfulDelete", format!("delete Pod {name} successful")).await;
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn claim(
        &self,
        world: &World,
        set: &StatefulSet,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = world.api(namespace);
        match api.create(&PostParams::default(), claim).await {
            Ok(made) => {
                world.claims.remember(made);
                self.tell(set, "SuccessfulCreate", format!("create Claim {name} successful")).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => {
                let message = format!("create Claim {name} failed: {error}");
                self.warn(set, "FailedCreate", message).await;
                Err(error.into())
            }
        }
    }

    async fn tell(&self, set: &StatefulSet, reason: &'static str, message: String) {
        self.recorder.tell(set, EventType::Normal, Note { reason, message }).await;
    }

    async fn warn(&self, set: &StatefulSet, reason: &'static str, message: String) {
        self.recorder.tell(set, EventType::Warning, Note { reason, message }).await;
    }
}
