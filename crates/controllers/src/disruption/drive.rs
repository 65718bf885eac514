//! Carries disruption plans out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Snapshot, covers, plan};
use crate::driver::{Controller, Error, Key, Queue, World};
use crate::workloads::{pod, wake, writes};

/// Keeps the status of PodDisruptionBudgets.
pub struct Disruptions;

impl Controller for Disruptions {
    const NAME: &'static str = "disruption-controller";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        wake::themselves(&world.budgets, queue);
        let (waiting, budgets) = (queue.clone(), world.budgets.clone());
        world.pods.subscribe(move |change| {
            if change.old.map(|pod| relevant(pod)) == change.new.map(|pod| relevant(pod)) {
                return;
            }
            let namespace = change.latest().metadata.namespace.as_deref().unwrap_or_default();
            for budget in budgets.list(namespace) {
                if [change.old, change.new].into_iter().flatten().any(|pod| covers(&budget, pod)) {
                    waiting.add(Key::of(&budget.metadata));
                }
            }
        });
        // A size that changes changes what is expected; budgets are few, all are counted anew.
        let (waiting, budgets) = (queue.clone(), world.budgets.clone());
        world.deployments.subscribe(move |change| {
            let size = |one: &k8s_openapi::api::apps::v1::Deployment| {
                one.spec.as_ref().and_then(|spec| spec.replicas)
            };
            if change.old.map(|old| size(old)) != change.new.map(|new| size(new)) {
                let namespace = change.latest().metadata.namespace.as_deref().unwrap_or_default();
                budgets.list(namespace).iter().for_each(|b| waiting.add(Key::of(&b.metadata)));
            }
        });
        let (waiting, budgets) = (queue.clone(), world.budgets.clone());
        world.stateful_sets.subscribe(move |change| {
            let size = |one: &k8s_openapi::api::apps::v1::StatefulSet| {
                one.spec.as_ref().and_then(|spec| spec.replicas)
            };
            if change.old.map(|old| size(old)) != change.new.map(|new| size(new)) {
                let namespace = change.latest().metadata.namespace.as_deref().unwrap_or_default();
                budgets.list(namespace).iter().for_each(|b| waiting.add(Key::of(&b.metadata)));
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(budget) = world.budgets.at(key) else { return Ok(None) };
        let plan = plan(
            &Snapshot {
                budget: &budget,
                pods: &world.pods.list(&key.namespace),
                sets: &world.replica_sets.list(&key.namespace),
                deployments: &world.deployments.list(&key.namespace),
                stateful_sets: &world.stateful_sets.list(&key.namespace),
            },
            Timestamp::now(),
        );
        let before = budget.status.as_ref();
        writes::status(world, &world.budgets, &budget.metadata, before, &plan.status).await?;
        // A little more: read in whole seconds, the limit is not over at the very moment.
        Ok(plan.again.map(|wait| wait.unsigned_abs() + Duration::from_secs(1)))
    }
}

/// What of a pod a budget counts.
fn relevant(pod: &Pod) -> impl PartialEq + use<> {
    (
        (pod.metadata.uid.clone(), pod.metadata.labels.clone()),
        (pod::is_ready(pod), pod::is_terminating(pod), pod::is_finished(pod)),
    )
}
