//! The writes that workload controllers share: ownership, pods in batches, status.
//!
//! Every write carries the resource version or the UID it was decided on, and what the server
//! answers goes into the cache at once: the next plan counts it although no watch brought it yet.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, NamespaceResourceScope};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde::Serialize;
use serde_json::{Value, json};

use crate::driver::{Cache, Error, Kept, Key, World};

/// Most pods asked for at a time, once the first ones went well.
const BATCH: usize = 64;

/// A namespaced kind that a cache holds.
pub(crate) trait Owned:
    Kept
    + Serialize
    + kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Metadata<Ty = ObjectMeta>
{
}

impl<K> Owned for K where
    K: Kept
        + Serialize
        + kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Metadata<Ty = ObjectMeta>
{
}

/// Makes pods one, two, four, … at a time, so that a template the server refuses is refused once
/// and not a hundred times.
///
/// # Errors
/// The first refusal; the pods made before it are in the cache.
pub(crate) async fn create(world: &World, mut pods: Vec<Pod>) -> (Vec<Pod>, Option<kube::Error>) {
    let mut made = Vec::with_capacity(pods.len());
    let mut batch = 1;
    while !pods.is_empty() {
        let now: Vec<Pod> = pods.drain(..batch.min(pods.len())).collect();
        let calls = now.iter().map(|pod| async move {
            let api: Api<Pod> = world.api(pod.metadata.namespace.as_deref().unwrap_or_default());
            api.create(&PostParams::default(), pod).await
        });
        let mut failure = None;
        for result in join_all(calls).await {
            match result {
                Ok(pod) => {
                    world.pods.remember(pod.clone());
                    made.push(pod);
                }
                Err(error) => failure = Some(error),
            }
        }
        if failure.is_some() {
            return (made, failure);
        }
        batch = (batch * 2).min(BATCH);
    }
    (made, None)
}

/// Removes pods; one that is gone already is what was wanted.
///
/// # Errors
/// The first refusal.
pub(crate) async fn delete(world: &World, pods: &[Arc<Pod>]) -> (Vec<String>, Option<kube::Error>) {
    let mut gone = Vec::with_capacity(pods.len());
    for batch in pods.chunks(BATCH) {
        let results = join_all(batch.iter().map(|pod| remove(world, &world.pods, pod))).await;
        for (pod, result) in batch.iter().zip(results) {
            match result {
                Ok(()) => gone.push(pod.metadata.name.clone().unwrap_or_default()),
                Err(error) => return (gone, Some(error)),
            }
        }
    }
    (gone, None)
}

/// Removes exactly this object, not another one that took its name.
///
/// # Errors
/// Any but "not found" and "is another one by now".
pub(crate) async fn remove<K: Owned>(
    world: &World,
    cache: &Cache<K>,
    object: &K,
) -> kube::Result<()> {
    let meta = object.metadata();
    let key = Key::of(meta);
    let uid = meta.uid.clone().unwrap_or_default();
    let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: None };
    let params = DeleteParams::background().preconditions(preconditions);
    let answer = world.api::<K>(&key.namespace).delete(&key.name, &params).await;
    match answer.map(|answer| answer.left()) {
        Ok(Some(left)) if left.metadata().deletion_timestamp.is_some() => cache.remember(left),
        Ok(_) => cache.forget(&key, &uid),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            cache.forget(&key, &uid)
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Writes our reference into orphans, after asking the server whether the owner still is who we
/// think: a cache may lag behind its end.
///
/// # Errors
/// Any refusal, a conflict among them.
pub(crate) async fn adopt<K: Owned, O: Owned>(
    world: &World,
    cache: &Cache<K>,
    orphans: &[Arc<K>],
    owner: &O,
    reference: &OwnerReference,
) -> Result<(), Error> {
    if orphans.is_empty() {
        return Ok(());
    }
    let meta = owner.metadata();
    let key = Key::of(meta);
    let live = world.api::<O>(&key.namespace).get(&key.name).await?;
    if live.metadata().uid != meta.uid || live.metadata().deletion_timestamp.is_some() {
        return Err(Error::Unfinished(format!("{key} is being deleted or was made anew")));
    }
    for orphan in orphans {
        let mut owners = orphan.metadata().owner_references.clone().unwrap_or_default();
        owners.push(reference.clone());
        let patch = json!({ "metadata": { "ownerReferences": owners } });
        change(world, cache, orphan.metadata(), patch).await?;
    }
    Ok(())
}

/// Takes our reference out of objects that we no longer pick.
///
/// # Errors
/// Any refusal, a conflict among them.
pub(crate) async fn release<K: Owned>(
    world: &World,
    cache: &Cache<K>,
    objects: &[Arc<K>],
    owner_uid: Option<&String>,
) -> Result<(), Error> {
    for object in objects {
        let mut owners = object.metadata().owner_references.clone().unwrap_or_default();
        owners.retain(|owner| Some(&owner.uid) != owner_uid);
        let patch = json!({ "metadata": { "ownerReferences": owners } });
        change(world, cache, object.metadata(), patch).await?;
    }
    Ok(())
}

/// A merge patch that is refused when the object is no longer the one at `meta`.
///
/// # Errors
/// Any refusal, a conflict among them.
pub(crate) async fn change<K: Owned>(
    world: &World,
    cache: &Cache<K>,
    meta: &ObjectMeta,
    mut patch: Value,
) -> Result<K, Error> {
    guard(meta, &mut patch);
    let key = Key::of(meta);
    let api = world.api::<K>(&key.namespace);
    let changed = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    cache.remember(changed.clone());
    Ok(changed)
}

/// Replaces the status, decided on the object at `meta`, where it differs.
///
/// # Errors
/// Any refusal, a conflict among them.
pub(crate) async fn status<K, S>(
    world: &World,
    cache: &Cache<K>,
    meta: &ObjectMeta,
    before: Option<&S>,
    after: &S,
) -> Result<(), Error>
where
    K: Owned,
    S: Serialize + PartialEq + Debug,
{
    if before == Some(after) {
        return Ok(());
    }
    let mut status = to_json(after);
    // A merge patch keeps what it does not name: name what went.
    if let (Some(after), Value::Object(before)) = (status.as_object_mut(), to_json(&before)) {
        for key in before.keys() {
            after.entry(key).or_insert(Value::Null);
        }
    }
    change_status(world, cache, meta, json!({ "status": status })).await
}

/// A merge patch of the status that is refused when the object is no longer the one at `meta`.
///
/// # Errors
/// Any refusal, a conflict among them.
pub(crate) async fn change_status<K: Owned>(
    world: &World,
    cache: &Cache<K>,
    meta: &ObjectMeta,
    mut patch: Value,
) -> Result<(), Error> {
    guard(meta, &mut patch);
    let key = Key::of(meta);
    let api = world.api::<K>(&key.namespace);
    let changed =
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    cache.remember(changed);
    Ok(())
}

fn guard(meta: &ObjectMeta, patch: &mut Value) {
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch["metadata"]["uid"] = json!(meta.uid);
}

fn to_json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
