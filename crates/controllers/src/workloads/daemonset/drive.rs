//! Carries DaemonSet plans out.

use std::time::Duration;

use berth_daemon::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use kube::api::{Api, PostParams};
use kube::runtime::events::EventType;
use serde_json::json;

use super::{Plan, Snapshot, owner, plan, pod_for, template_hash};
use crate::driver::{Cache, Controller, Error, Key, Objects, Queue, World, follow};
use crate::workloads::claim::controller_of;
use crate::workloads::recorder::Recorder;
use crate::workloads::{Note, wake, writes};

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    recorder: Recorder,
    revisions: Cache<ControllerRevision>,
}

impl DaemonSets {
    pub(crate) fn new(world: &World, tasks: &Tasks) -> Self {
        let revisions = Cache::default();
        let feed = Objects { api: Api::all(world.client.clone()), fields: None };
        tasks.spawn_until_stop("follow", follow(feed, revisions.clone()));
        Self { recorder: Recorder::new(world, Self::NAME), revisions }
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
        wake::owners(&self.revisions, &world.daemon_sets, "DaemonSet", queue, |_| None);
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
        self.revisions.ready().await;
        let Some(set) = world.daemon_sets.at(key) else { return Ok(None) };
        let nodes = world.nodes.all();
        let pods = world.pods.list(&key.namespace);
        let revisions: Vec<_> = self
            .revisions
            .list(&key.namespace)
            .iter()
            .filter(|r| controller_of(&r.metadata).map(|o| &o.uid) == set.metadata.uid.as_ref())
            .map(|revision| (**revision).clone())
            .collect();
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
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(revision) = &plan.revision {
            if revision.metadata.uid.is_some() {
                let patch = json!({ "revision": revision.revision });
                writes::change(world, &self.revisions, &revision.metadata, patch).await?;
            } else {
                self.record(world, set, revision).await?;
            }
        }
        for name in &plan.forget {
            if let Some(old) = self.revisions.get(namespace, name) {
                writes::remove(world, &self.revisions, &old).await?;
            }
        }
        Ok(())
    }

    /// Writes a new revision down; a foreign one of the same name means that the hash collides.
    async fn record(
        &self,
        world: &World,
        set: &DaemonSet,
        revision: &ControllerRevision,
    ) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ControllerRevision> = world.api(namespace);
        let error = match api.create(&PostParams::default(), revision).await {
            Ok(made) => {
                self.revisions.remember(made);
                return Ok(());
            }
            Err(error) => error,
        };
        if !matches!(&error, kube::Error::Api(status) if status.code == 409) {
            return Err(error.into());
        }
        let there = api.get(revision.metadata.name.as_deref().unwrap_or_default()).await?;
        if there.data == revision.data {
            if controller_of(&there.metadata).is_none() {
                let orphans = [std::sync::Arc::new(there)];
                let reference = owner(&set.metadata);
                writes::adopt(world, &self.revisions, &orphans, set, &reference).await?;
            }
            return Ok(());
        }
        tracing::debug!(hash = template_hash(set), "template hash collides");
        let mut status = set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        let before = set.status.as_ref();
        writes::status(world, &world.daemon_sets, &set.metadata, before, &status).await?;
        Err(error.into())
    }

    async fn act(&self, world: &World, set: &DaemonSet, plan: &Plan) -> Result<(), Error> {
        let reference = owner(&set.metadata);
        writes::adopt(world, &world.pods, &plan.adopt, set, &reference).await?;
        let uid = set.metadata.uid.as_ref();
        writes::release(world, &world.pods, &plan.release, uid).await?;
        let pods = plan.create.iter().filter_map(|node| pod_for(set, node)).collect();
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
