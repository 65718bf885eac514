//! A namespace that is going takes everything in it along, whatever its kind; only then it goes.
//!
//! Source: Kubernetes' namespace lifecycle controller: the `kubernetes` finalizer in `spec`.

mod progress;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::json;

use crate::driver::{Controller, Error, Key, Queue, World, gone_is_none};
use crate::kinds::{Kind, discover};
use progress::Left;

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
        let left: Vec<Option<Left>> =
            futures::stream::iter(kinds.into_iter().filter(|kind| kind.namespaced))
                .map(|kind| empty(world.client.clone(), name, kind))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
        let mut left: Vec<Left> = left.into_iter().flatten().collect();
        left.sort_by(|a, b| a.resource.cmp(&b.resource));
        if !left.is_empty() {
            let status = namespace.status.unwrap_or_default();
            let conditions = progress::conditions(&status, &left, Timestamp::now());
            if status.conditions.as_ref() != Some(&conditions) {
                let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
                gone_is_none(api.patch_status(name, &PatchParams::default(), &patch).await)?;
            }
            let kinds: Vec<&str> = left.iter().map(|left| left.resource.as_str()).collect();
            tracing::debug!(namespace = %name, left = ?kinds, "not empty yet");
            return Err(Error::Unfinished(format!("wait for {} to go", kinds.join(", "))));
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

/// Deletes all objects of `kind` in the namespace; tells what is still there.
async fn empty(client: Client, namespace: &str, kind: Kind) -> kube::Result<Option<Left>> {
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
    let Some(page) = gone_is_none(api.list_metadata(&ListParams::default()).await)? else {
        return Ok(None);
    };
    let finalizers =
        page.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten());
    let left = Left {
        resource: match kind.resource.group.as_str() {
            "" => kind.resource.plural,
            group => format!("{}.{group}", kind.resource.plural),
        },
        count: page.items.len(),
        finalizers: finalizers.cloned().collect(),
    };
    Ok((left.count > 0).then_some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

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
