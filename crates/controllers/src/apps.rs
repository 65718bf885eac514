//! The App controller: an App is a Deployment, a Service and an Ingress, and tells how they are.
//!
//! What is asked for is written by server-side apply under one field manager, so whatever others add
//! to the objects stays theirs. The App owns all three: they go with it.

pub mod status;
pub mod template;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_api::app::App;
use berth_api::labels;
use berth_daemon::{Backoff, Tasks};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::driver::{
    Cache, Controller, Error, Kept, Key, Queue, World, chain, controller_of, gone_is_none,
};
use template::{Domain, Wanted};

/// The field manager of all that is applied for an App.
pub const MANAGER: &str = "berth-apps";

/// Makes every App what it says.
pub struct Apps {
    domain: Domain,
    // What was applied last for each App, with how the objects looked then: while both are the same
    // there is nothing to apply.
    applied: Mutex<HashMap<Key, (u64, u64)>>,
}

impl Apps {
    /// With the addresses under which Apps are reached.
    pub fn new(domain: Domain) -> Self {
        Self { domain, applied: Mutex::default() }
    }

    async fn apply(
        &self,
        world: &World,
        key: &Key,
        app: &App,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let desired = digest(wanted);
        let known = self.applied.lock().expect("no holder of the lock panics").get(key).copied();
        if known == Some((desired, live(world, key))) {
            return Ok(());
        }
        put(world, key, &world.deployments, &wanted.deployment).await?;
        match &wanted.service {
            Some(service) => put(world, key, &world.services, service).await?,
            None => remove(world, key, app, &world.services).await?,
        }
        match &wanted.ingress {
            Some(ingress) => put(world, key, &world.ingresses, ingress).await?,
            None => remove(world, key, app, &world.ingresses).await?,
        }
        let now = (desired, live(world, key));
        self.applied.lock().expect("no holder of the lock panics").insert(key.clone(), now);
        Ok(())
    }
}

impl Controller for Apps {
    const NAME: &'static str = "app";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let own = queue.clone();
        world.apps.subscribe(move |change| own.add(Key::of(&change.latest().metadata)));
        wake_owner(&world.deployments, queue);
        wake_owner(&world.services, queue);
        wake_owner(&world.ingresses, queue);
        let own = queue.clone();
        world.pods.subscribe(move |change| {
            if let Some(key) = app_of(change.latest()) {
                own.add(key);
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(app) = world.apps.at(key) else {
            self.applied.lock().expect("no holder of the lock panics").remove(key);
            return Ok(None);
        };
        if app.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let wanted = template::plan(&app, &self.domain).ok_or(Error::Incomplete("name or UID"))?;
        self.apply(world, key, &app, &wanted).await?;
        let deployment = world.deployments.at(key).filter(|found| owned(found.as_ref(), &app));
        let pods: Vec<Arc<Pod>> = world
            .pods
            .list(&key.namespace)
            .into_iter()
            .filter(|pod| app_of(pod).as_ref() == Some(key))
            .collect();
        let now = Timestamp::now();
        let status = status::plan(&app, deployment.as_deref(), &pods, wanted.url, now);
        if app.status.as_ref() != Some(&status) {
            let params = PatchParams::default();
            // A merge leaves what is not said as it was: an address that is no more has to be said.
            let url = json!(status.url);
            let mut status = json!(status);
            status["url"] = url;
            let patch = Patch::Merge(json!({ "status": status }));
            let app =
                world.api::<App>(&key.namespace).patch_status(&key.name, &params, &patch).await?;
            world.apps.remember(app);
        }
        Ok(None)
    }
}

/// Brings the kind's definition to the server, until it takes it.
pub fn define(client: Client, tasks: &Tasks) {
    tasks.spawn_until_stop("define apps", async move {
        let definitions: Api<CustomResourceDefinition> = Api::all(client);
        let definition = berth_api::app::definition();
        let name = definition.metadata.name.clone().unwrap_or_default();
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&definition);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let call = definitions.patch(&name, &params, &patch);
            match tokio::time::timeout(Duration::from_secs(30), call).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => tracing::warn!(error = %chain(&error), "define apps"),
                Err(_) => tracing::warn!("define apps: no answer"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    });
}

fn wake_owner<K: Kept>(cache: &Cache<K>, queue: &Queue<Key>) {
    let queue = queue.clone();
    cache.subscribe(move |change| {
        let meta = change.latest().meta();
        if let Some(owner) = controller_of(meta)
            && owner.kind == "App"
        {
            queue.add(Key::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
        }
    });
}

/// The App whose pod this is, by its labels.
fn app_of(pod: &Pod) -> Option<Key> {
    let labels = pod.metadata.labels.as_ref()?;
    let ours = labels.get(labels::MANAGED_BY).is_some_and(|by| by == labels::BERTH);
    let instance = labels.get(labels::INSTANCE).filter(|_| ours)?;
    Some(Key::new(pod.metadata.namespace.clone()?, instance.clone()))
}

fn owned<K: Resource>(object: &K, app: &App) -> bool {
    controller_of(object.meta()).is_some_and(|owner| Some(&owner.uid) == app.metadata.uid.as_ref())
}

async fn put<K>(world: &World, key: &Key, cache: &Cache<K>, object: &K) -> Result<(), Error>
where
    K: Kept + Serialize + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let params = PatchParams::apply(MANAGER).force();
    let api: Api<K> = world.api(&key.namespace);
    cache.remember(api.patch(&key.name, &params, &Patch::Apply(object)).await?);
    Ok(())
}

/// Removes what an earlier spec asked for, if it is the App's own.
async fn remove<K>(world: &World, key: &Key, app: &App, cache: &Cache<K>) -> Result<(), Error>
where
    K: Kept + DeserializeOwned + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let Some(object) = cache.at(key).filter(|object| owned(object.as_ref(), app)) else {
        return Ok(());
    };
    let uid = object.meta().uid.clone();
    let params =
        DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
    gone_is_none(world.api::<K>(&key.namespace).delete(&key.name, &params).await)?;
    Ok(())
}

/// How the three objects look, as far as an App decides it.
fn live(world: &World, key: &Key) -> u64 {
    let deployment = world.deployments.at(key);
    let service = world.services.at(key);
    let ingress = world.ingresses.at(key);
    digest(&(
        deployment
            .as_ref()
            .map(|it: &Arc<Deployment>| (&it.metadata.uid, &it.spec, &it.metadata.labels)),
        service.as_ref().map(|it: &Arc<Service>| (&it.metadata.uid, &it.spec, &it.metadata.labels)),
        ingress.as_ref().map(|it: &Arc<Ingress>| (&it.metadata.uid, &it.spec, &it.metadata.labels)),
    ))
}

fn digest(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // What cannot be written down differs from everything: it is applied again.
    serde_json::to_vec(value).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
