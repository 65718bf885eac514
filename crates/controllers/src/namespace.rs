//! A namespace that is going takes everything in it along, whatever its kind; only then it goes.
//!
//! Source: Kubernetes' namespace lifecycle controller: the `kubernetes` finalizer in `spec`.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};

use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};
use crate::kinds::{Kind, discover};

/// The finalizer that is this controller's to remove.
const FINALIZER: &str = "kubernetes";
/// Kinds emptied at once.
const AT_ONCE: usize = 8;

/// Empties and removes namespaces that are being deleted.
pub struct Namespaces;

/// Whether `namespace` is to be emptied and let go.
pub fn plan(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|all| all.iter().any(|name| name == FINALIZER))
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace";
    type Key = String;

    fn wire(&self, world: &World, queue: &Queue<String>) {
        let own = queue.clone();
        world.namespaces.subscribe(move |change| {
            if change.new.is_some_and(|new| plan(new)) {
                own.add(Key::of(&change.latest().metadata).name);
            }
        });
        // Pods take longest to go: the last one wakes us, rather than the clock.
        let own = queue.clone();
        let namespaces = world.namespaces.clone();
        world.pods.subscribe(move |change| {
            let name = Key::of(&change.latest().metadata).namespace;
            if change.new.is_none() && namespaces.get("", &name).is_some_and(|found| plan(&found)) {
                own.add(name);
            }
        });
    }

    async fn reconcile(&self, world: &World, name: &String) -> Result<Option<Duration>, Error> {
        let api: Api<Namespace> = Api::all(world.client.clone());
        let Some(mut namespace) = api.get_opt(name).await?.filter(plan) else { return Ok(None) };
        let kinds = discover(&world.client).await?;
        let left: Vec<Option<String>> =
            futures::stream::iter(kinds.into_iter().filter(|kind| kind.namespaced))
                .map(|kind| empty(world.client.clone(), name, kind))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
        let left: Vec<String> = left.into_iter().flatten().collect();
        if !left.is_empty() {
            tracing::debug!(namespace = %name, left = ?left, "not empty yet");
            return Err(Error::Unfinished(format!("wait for {} to go", left.join(", "))));
        }
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let params = PostParams::default();
        gone_is_none(api.replace_subresource("finalize", name, &params, &namespace).await)?;
        Ok(None)
    }
}

/// Deletes all objects of `kind` in the namespace; its plural if some are still there.
async fn empty(client: Client, namespace: &str, kind: Kind) -> kube::Result<Option<String>> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &kind.resource);
    let one = ListParams::default().limit(1);
    let is_empty = async || -> kube::Result<bool> {
        let page = gone_is_none(api.list_metadata(&one).await)?;
        Ok(page.is_none_or(|page| page.items.is_empty()))
    };
    if is_empty().await? {
        return Ok(None);
    }
    let params = DeleteParams::background();
    if kind.deletes_collections {
        gone_is_none(api.delete_collection(&params, &ListParams::default()).await)?;
    } else {
        for object in api.list_metadata(&ListParams::default()).await?.items {
            let name = object.metadata.name.unwrap_or_default();
            gone_is_none(api.delete(&name, &params).await)?;
        }
    }
    Ok((!is_empty().await?).then_some(kind.resource.plural))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_namespace_that_is_going_is_emptied() {
        let check = |value: serde_json::Value, expected: bool| {
            let namespace: Namespace = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(plan(&namespace), expected, "{value}");
        };
        let going = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        let held = json!({ "finalizers": ["kubernetes"] });
        check(json!({ "metadata": {}, "spec": held }), false);
        check(json!({ "metadata": going, "spec": held }), true);
        check(json!({ "metadata": going, "spec": { "finalizers": ["other"] } }), false);
        check(json!({ "metadata": going }), false);
    }
}
