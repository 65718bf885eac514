//! Carries DaemonSet plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::runtime::events::EventType;

use super::{Plan, Snapshot, owner, plan, pod_for};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::history::{self, Written};
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, wake, writes};

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    recorder: Recorder,
}

impl DaemonSets {
    pub(crate) fn new(world: &World) -> Self {
        Self { recorder: Recorder::new(world, Self::NAME) }
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.daemon_sets, queue);
        wake::owners(&world.pods, &world.daemon_sets, "DaemonSet", queue, |set| {
            set.spec.as_ref().map(|spec| &spec.selector)
        });
        wake::owners(&world.revisions, &world.daemon_sets, "DaemonSet", queue, |_| None);
        let (queue, sets) = (queue.clone(), world.daemon_sets.clone());
        world.nodes.subscribe(move |change| {
            // A node's heartbeat changes nothing for a DaemonSet.
            let shape = |node: &k8s_openapi::api::core::v1::Node| {
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
                (node.metadata.uid.clone(), node.metadata.labels.clone(), taints)
            };
            let (old, new) = (change.old.map(|n| shape(n)), change.new.map(|n| shape(n)));
            if old != new {
                for set in sets.all() {
                    queue.add(Key::of(&set.metadata));
                }
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = world.daemon_sets.at(key) else { return Ok(None) };
        let nodes = world.nodes.all();
        let pods = world.pods.list(&key.namespace);
        let revisions = history::of(world, &set.metadata);
        let snapshot = Snapshot { set: &set, nodes: &nodes, pods: &pods, revisions: &revisions };
        let plan = plan(&snapshot, Timestamp::now());
        self.revise(world, &set, &plan).await?;
        self.act(world, &set, &plan).await?;
        if let Some(status) = &plan.status {
            let before = set.status.as_ref();
            writes::status(world, &world.daemon_sets, &set.metadata, before, status).await?;
        }
        Ok(plan.again)
    }
}

impl DaemonSets {
    async fn revise(&self, world: &World, set: &DaemonSet, plan: &Plan) -> Result<(), Error> {
        let reference = owner(&set.metadata);
        if history::write(world, set, &reference, &plan.history).await? == Written::Collides {
            let count = set.status.as_ref().and_then(|status| status.collision_count);
            history::collide(world, &world.daemon_sets, &set.metadata, count).await?;
        }
        Ok(())
    }

    async fn act(&self, world: &World, set: &DaemonSet, plan: &Plan) -> Result<(), Error> {
        let reference = owner(&set.metadata);
        writes::adopt(world, &world.pods, &plan.adopt, set, &reference).await?;
        let uid = set.metadata.uid.as_ref();
        writes::release(world, &world.pods, &plan.release, uid).await?;
        let hash = history::hash_of(&plan.history.current);
        let pods = plan.create.iter().filter_map(|node| pod_for(set, hash, node)).collect();
        let (made, refused) = writes::create(world, pods).await;
        for pod in &made {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let note = Note { reason: "SuccessfulCreate", message: format!("Created pod: {name}") };
            self.recorder.tell(set, EventType::Normal, note).await;
        }
        if let Some(error) = refused {
            let note = Note { reason: "FailedCreate", message: format!("Error creating: {error}") };
            self.recorder.tell(set, EventType::Warning, note).await;
            return Err(error.into());
        }
        let (gone, refused) = writes::delete(world, &plan.delete).await;
        for name in gone {
            let note = Note { reason: "SuccessfulDelete", message: format!("Deleted pod: {name}") };
            self.recorder.tell(set, EventType::Normal, note).await;
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
    }
}
