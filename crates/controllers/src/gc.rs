//! The garbage collector: what is owned goes when its last owner has gone.
//!
//! Works on metadata alone, for every kind that discovery tells of; kinds that the controllers hold
//! anyway are taken from their caches, the rest is watched, and custom kinds are found when their
//! definitions come. Owners are told apart by UID: a namesake owns nothing. An owner that is not in
//! the graph counts as gone only when the API server itself says so.
//!
//! Source: Kubernetes' garbage collector (KEP "garbage collection", `foregroundDeletion`, `orphan`).

mod graph;
mod plan;
pub mod pods;
mod sources;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_daemon::Tasks;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::DynamicObject;
use kube::{Api, Resource};
use serde_json::{Value, json};

use crate::driver::{Controller, Error, Queue, World, gone_is_none};
use graph::{Graph, Item};
use plan::{Action, Owner, Policy};
use sources::Sources;

/// The garbage collector.
pub struct Garbage {
    graph: Arc<Mutex<Graph>>,
    sources: Sources,
}

impl Garbage {
    /// Watches in `tasks`.
    pub fn new(world: &Arc<World>, tasks: &Tasks) -> Self {
        let graph = Arc::default();
        let sources = Sources::new(Arc::clone(world), Arc::clone(&graph), tasks.clone());
        Self { graph, sources }
    }

    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().expect("no holder of the lock panics")
    }

    /// Whether the owner is there, going, or gone: from the graph, else from the server.
    async fn owner(
        &self,
        world: &World,
        item: &Item,
        reference: &OwnerReference,
    ) -> Result<Owner, Error> {
        {
            let graph = self.graph();
            if let Some(owner) = graph.get(&reference.uid) {
                // An owner in another namespace is none.
                let reaches =
                    owner.key.namespace.is_empty() || owner.key.namespace == item.key.namespace;
                return Ok(if reaches { Owner::of(owner) } else { Owner::Gone });
            }
            if graph.is_known_gone(&reference.uid) {
                return Ok(Owner::Gone);
            }
        }
        let kind = self.sources.kind_of(&reference.api_version, &reference.kind);
        let Some(kind) = kind else { return Ok(Owner::Unknown) };
        if kind.namespaced && item.key.namespace.is_empty() {
            return Ok(Owner::Unknown);
        }
        let resource = kind.at_version(&reference.api_version);
        let api: Api<DynamicObject> = if kind.namespaced {
            Api::namespaced_with(world.client.clone(), &item.key.namespace, &resource)
        } else {
            Api::all_with(world.client.clone(), &resource)
        };
        let found = api.get_metadata_opt(&reference.name).await?;
        Ok(match found.filter(|found| found.metadata.uid.as_ref() == Some(&reference.uid)) {
            Some(found) => Owner::of_meta(&found.metadata),
            None => {
                self.graph().note_gone(&reference.uid);
                Owner::Gone
            }
        })
    }

    fn api(&self, world: &World, item: &Item) -> Api<DynamicObject> {
        if item.key.namespace.is_empty() {
            Api::all_with(world.client.clone(), &item.kind.resource)
        } else {
            Api::namespaced_with(world.client.clone(), &item.key.namespace, &item.kind.resource)
        }
    }

    async fn delete(&self, world: &World, item: &Item, policy: Policy) -> Result<(), Error> {
        let api = self.api(world, item);
        // The graph may be behind: what is deleted is what was looked at, and nothing newer.
        let live = api.get_metadata_opt(&item.key.name).await?;
        let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(&item.uid)) else {
            return Ok(());
        };
        let owners = live.metadata.owner_references.clone().unwrap_or_default();
        if owners.len() != item.owners.len() || live.metadata.deletion_timestamp.is_some() {
            return Err(Error::Unfinished(format!("{} changed meanwhile", item.key)));
        }
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.clone()),
                resource_version: live.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        gone_is_none(api.delete(&item.key.name, &params).await)?;
        tracing::debug!(kind = %item.kind.resource.kind, object = %item.key, "deleted with its owners");
        Ok(())
    }

    /// Takes owners off an object's list.
    async fn release(&self, world: &World, item: &Item, owners: &[String]) -> Result<(), Error> {
        self.edit(world, item, |live| {
            let kept: Vec<&OwnerReference> = live
                .owner_references
                .iter()
                .flatten()
                .filter(|it| !owners.contains(&it.uid))
                .collect();
            json!({ "ownerReferences": kept })
        })
        .await
    }

    async fn drop_finalizer(&self, world: &World, item: &Item, name: &str) -> Result<(), Error> {
        self.edit(world, item, |live| {
            let kept: Vec<&String> =
                live.finalizers.iter().flatten().filter(|it| it.as_str() != name).collect();
            json!({ "finalizers": kept })
        })
        .await
    }

    /// Changes metadata as it is now on the server; a change by another in between is a conflict.
    async fn edit(
        &self,
        world: &World,
        item: &Item,
        change: impl Fn(&kube::api::ObjectMeta) -> Value,
    ) -> Result<(), Error> {
        let api = self.api(world, item);
        let live = api.get_metadata_opt(&item.key.name).await?;
        let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(&item.uid)) else {
            return Ok(());
        };
        let mut metadata = change(live.meta());
        metadata["uid"] = json!(item.uid);
        metadata["resourceVersion"] = json!(live.metadata.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let params = PatchParams::default();
        gone_is_none(api.patch_metadata(&item.key.name, &params, &patch).await)?;
        Ok(())
    }

    async fn act(&self, world: &World, item: &Item, action: Action) -> Result<(), Error> {
        match action {
            Action::Delete(policy) => self.delete(world, item, policy).await,
            Action::Release(owners) => self.release(world, item, &owners).await,
            Action::Orphan(dependents) => {
                for dependent in dependents {
                    let found = self.graph().get(&dependent).cloned();
                    if let Some(dependent) = found {
                        self.release(world, &dependent, std::slice::from_ref(&item.uid)).await?;
                    }
                }
                self.drop_finalizer(world, item, plan::ORPHAN).await
            }
            Action::Finish => self.drop_finalizer(world, item, plan::FOREGROUND).await,
            Action::DeleteDependents(dependents) => {
                for dependent in dependents {
                    let (found, has_dependents) = {
                        let graph = self.graph();
                        (graph.get(&dependent).cloned(), graph.has_dependents(&dependent))
                    };
                    let policy =
                        if has_dependents { Policy::Foreground } else { Policy::Background };
                    if let Some(dependent) = found.filter(|found| !found.deleting) {
                        self.delete(world, &dependent, policy).await?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Controller for Garbage {
    const NAME: &'static str = "garbage-collector";
    const WORKERS: usize = 8;
    /// The UID of an object that may have to go.
    type Key = String;

    fn wire(&self, _: &World, queue: &Queue<String>) {
        self.graph().wake(queue.clone());
        self.sources.start();
    }

    async fn reconcile(&self, world: &World, uid: &String) -> Result<Option<Duration>, Error> {
        let Some(item) = self.graph().get(uid).cloned() else { return Ok(None) };
        let mut owners = Vec::with_capacity(item.owners.len());
        if !item.deleting {
            for reference in &item.owners {
                owners.push((reference.uid.clone(), self.owner(world, &item, reference).await?));
            }
        }
        let action = plan::plan(&item, &owners, &self.graph().dependents(uid));
        if let Some(action) = action {
            self.act(world, &item, action).await?;
        }
        Ok(None)
    }
}
