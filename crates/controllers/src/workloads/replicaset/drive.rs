//! Carries ReplicaSet plans out.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::EventType;

use super::{Plan, Snapshot, plan, with_outcome};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::claim::controller_of;
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, pod, wake, writes};

/// The ReplicaSet controller.
pub(crate) struct ReplicaSets {
    recorder: Recorder,
}

impl ReplicaSets {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.replica_sets, queue);
        wake::owners(&world.pods, &world.replica_sets, "ReplicaSet", queue, |set| {
            set.spec.as_ref().map(|spec| &spec.selector)
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = world.replica_sets.at(key) else { return Ok(None) };
        let pods = world.pods.list(&key.namespace);
        let siblings = siblings(world, &set);
        let now = Timestamp::now();
        let plan = plan(&Snapshot { set: &set, pods: &pods, siblings: &siblings }, now);
        let again = plan.again;
        let failure = if plan.acts() { self.act(world, &set, &plan).await? } else { None };
        // What was made or removed wakes this set again, and then its status is counted.
        if plan.acts() && failure.is_none() {
            return Ok(again);
        }
        let status = plan.status.or_else(|| set.status.clone()).unwrap_or_default();
        let reason = failure.as_ref().map(|(reason, error)| (*reason, error.to_string()));
        let status = with_outcome(status, reason, now);
        let before = set.status.as_ref();
        writes::status(world, &world.replica_sets, &set.metadata, before, &status).await?;
        match failure {
            Some((_, error)) => Err(error.into()),
            None => Ok(again),
        }
    }
}

impl ReplicaSets {
    /// The reason and error of what the server refused, if it did.
    async fn act(
        &self,
        world: &World,
        set: &ReplicaSet,
        plan: &Plan,
    ) -> Result<Option<(&'static str, kube::Error)>, Error> {
        let owner = owner(set);
        writes::adopt(world, &world.pods, &plan.adopt, set, &owner).await?;
        writes::release(world, &world.pods, &plan.release, set.metadata.uid.as_ref()).await?;
        if plan.create > 0 {
            let pod = new_pod(set, owner).ok_or(Error::Incomplete("spec.template"))?;
            let (made, refused) = writes::create(world, vec![pod; plan.create]).await;
            for pod in &made {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Created pod: {name}");
                self.tell(set, EventType::Normal, "SuccessfulCreate", message).await;
            }
            if let Some(error) = refused {
                let message = format!("Error creating: {error}");
                self.tell(set, EventType::Warning, "FailedCreate", message).await;
                return Ok(Some(("FailedCreate", error)));
            }
        }
        let (gone, refused) = writes::delete(world, &plan.delete).await;
        for name in gone {
            let message = format!("Deleted pod: {name}");
            self.tell(set, EventType::Normal, "SuccessfulDelete", message).await;
        }
        if let Some(error) = refused {
            let message = format!("Error deleting: {error}");
            self.tell(set, EventType::Warning, "FailedDelete", message).await;
            return Ok(Some(("FailedDelete", error)));
        }
        Ok(None)
    }

    async fn tell(
        &self,
        set: &ReplicaSet,
        type_: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.recorder.tell(set, type_, Note { reason, message }).await;
    }
}

fn siblings(world: &World, set: &ReplicaSet) -> BTreeSet<String> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let parent = controller_of(&set.metadata).map(|owner| &owner.uid);
    let mut all: BTreeSet<String> = set.metadata.uid.iter().cloned().collect();
    if parent.is_some() {
        let sets = world.replica_sets.list(namespace);
        let same = sets.iter().filter(|s| controller_of(&s.metadata).map(|o| &o.uid) == parent);
        all.extend(same.filter_map(|s| s.metadata.uid.clone()));
    }
    all
}

fn owner(set: &ReplicaSet) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "ReplicaSet".into(),
        name: set.metadata.name.clone().unwrap_or_default(),
        uid: set.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn new_pod(set: &ReplicaSet, owner: OwnerReference) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    Some(pod::from_template(template, namespace, owner, &[]))
}
