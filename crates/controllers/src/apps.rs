//! The App controller: an App is a workload, Services, Ingresses, an autoscaler, CronJobs and
//! ConfigMaps, and tells how they are.
//!
//! What is asked for is written by server-side apply under one field manager, so whatever others add
//! to the objects stays theirs; what they change of ours is put right or taken over, as the App says.
//! The App owns all of it: it goes with the App. Which version runs, and how much of it, is decided
//! by [`crate::releases`].

pub mod drift;
mod put;
pub mod serve;
pub mod status;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use berth_api::app::App;
use berth_api::labels;
use berth_api::release::Release;
use berth_daemon::{Backoff, Tasks};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::driver::{Cache, Controller, Error, Kept, Key, Queue, World, chain, controller_of};
use crate::releases::drive::{self, Outcome, Releases};
use crate::releases::scene;
use put::{Found, Put};
use template::{Domain, Target, Wanted};

/// The field manager of all that is applied for an App.
pub const MANAGER: &str = "berth-apps";

/// Makes every App what it says.
pub struct Apps {
    domain: Domain,
    releases: Releases,
}

impl Apps {
    /// With the addresses under which Apps are reached, and whether their pods' scheduler keeps
    /// reservations. Follows Releases in `tasks`.
    pub fn new(domain: Domain, reserves: bool, world: &World, tasks: &Tasks) -> Self {
        Self { domain, releases: Releases::follow(world, reserves, tasks) }
    }

    /// Makes the objects as `outcome` and the App say; what others had done to them.
    async fn apply(
        &self,
        world: &World,
        key: &Key,
        app: &App,
        outcome: &Outcome,
        wanted: &Wanted,
    ) -> Result<Found, Error> {
        // While a release is on its way its plan decides, and differences are put right.
        let drift = app.spec.drift.filter(|_| !outcome.active).unwrap_or_default();
        let mut put = Put { world, app, key, drift, found: Found::default() };
        let name = key.name.as_str();
        if let Some(map) = &wanted.config {
            put.put(&self.releases.maps, map).await?;
        }
        if let Some((target, release)) = &outcome.main {
            self.workload(&mut put, target, release).await?;
        }
        if let Some((count, release)) = &outcome.candidate {
            let template = drive::of(app, release).ok_or(Error::Incomplete("name or UID"))?;
            let template = world.ground.fit(template);
            let (name, strategy) = (release.name_any(), &release.spec.strategy);
            let set = template::candidate(app, template, &name, *count, strategy);
            let set = set.ok_or(Error::Incomplete("name or UID"))?;
            if app.spec.is_stateful() {
                let mut set = template::stateful_candidate(app, set);
                world.ground.fit_stateful_set(&mut set);
                put.put(&world.stateful_sets, &set).await?;
            } else {
                put.put(&world.replica_sets, &set).await?;
            }
        }
        // Requests are led to what is there by now, and only then what they leave may go.
        let preview = format!("{name}-preview");
        put.put_or_remove(&world.services, wanted.service.as_ref(), name).await?;
        put.put_or_remove(&world.services, wanted.preview.as_ref(), &preview).await?;
        let (pods, doors) = (format!("{name}-pods"), format!("{name}-tcp"));
        put.put_or_remove(&world.services, wanted.headless.as_ref(), &pods).await?;
        put.put_or_remove(&world.services, wanted.doors.as_ref(), &doors).await?;
        put.put_or_remove(&world.ingresses, wanted.ingress.as_ref(), name).await?;
        put.put_or_remove(&world.ingresses, wanted.preview_ingress.as_ref(), &preview).await?;
        put.put_or_remove(&self.releases.gateways, wanted.trial.as_ref(), &format!("{name}-trial"))
            .await?;
        for route in &wanted.trial_routes {
            put.put(&self.releases.routes, route).await?;
        }
        put.put_or_remove(&world.autoscalers, wanted.autoscaler.as_ref(), name).await?;
        for job in &wanted.cron_jobs {
            put.put(&world.cron_jobs, job).await?;
        }
        self.remove_others(&put, outcome, wanted).await?;
        Ok(put.found)
    }

    async fn workload(
        &self,
        put: &mut Put<'_>,
        target: &Target,
        release: &Release,
    ) -> Result<(), Error> {
        let (app, world) = (put.app, put.world);
        let template = drive::of(app, release).ok_or(Error::Incomplete("name or UID"))?;
        let template = world.ground.fit(template);
        let (spec, strategy) = (&release.spec.app_spec, &release.spec.strategy);
        if app.spec.is_stateful() {
            let set = template::stateful_set(app, spec, template, target, strategy);
            let mut set = set.ok_or(Error::Incomplete("name or UID"))?;
            world.ground.fit_stateful_set(&mut set);
            put.put(&world.stateful_sets, &set).await
        } else {
            let made = template::deployment(app, template, target, strategy);
            put.put(&world.deployments, &made.ok_or(Error::Incomplete("name or UID"))?).await
        }
    }

    /// What earlier specs and releases left.
    async fn remove_others(
        &self,
        put: &Put<'_>,
        outcome: &Outcome,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let (app, world, key) = (put.app, put.world, put.key);
        let trials = &wanted.trial_routes;
        let wanted: Vec<String> = wanted.cron_jobs.iter().map(ResourceExt::name_any).collect();
        for job in world.cron_jobs.list(&key.namespace) {
            if owned(job.as_ref(), app) && !wanted.contains(&job.name_any()) {
                put.remove(&world.cron_jobs, &job.name_any()).await?;
            }
        }
        let routes: Vec<String> = trials.iter().map(ResourceExt::name_any).collect();
        for route in self.releases.routes.list(&key.namespace) {
            if owned(route.as_ref(), app) && !routes.contains(&route.name_any()) {
                put.remove(&self.releases.routes, &route.name_any()).await?;
            }
        }
        let candidate = outcome.candidate.as_ref().map(|(_, release)| release.name_any());
        for set in world.replica_sets.list(&key.namespace) {
            if owned(set.as_ref(), app) && Some(set.name_any()) != candidate {
                put.remove(&world.replica_sets, &set.name_any()).await?;
            }
        }
        let candidate = candidate.as_deref().map(template::stateful_candidate_name);
        for set in world.stateful_sets.list(&key.namespace) {
            let name = set.name_any();
            if owned(set.as_ref(), app) && name != key.name && Some(&name) != candidate.as_ref() {
                put.remove(&world.stateful_sets, &name).await?;
            }
        }
        // The other kind of workload goes once this one is there.
        if !outcome.active {
            if app.spec.is_stateful() {
                put.remove(&world.deployments, &key.name).await?;
            } else {
                put.remove(&world.stateful_sets, &key.name).await?;
            }
        }
        Ok(())
    }

    /// Takes into the App what others did to its objects.
    async fn adopt(&self, world: &World, key: &Key, adopt: &[Value]) -> Result<(), Error> {
        for spec in adopt {
            let patch = Patch::Merge(json!({ "spec": spec }));
            let api = world.api::<App>(&key.namespace);
            let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
            world.apps.remember(api.patch(&key.name, &params, &patch).await?);
        }
        Ok(())
    }
}

impl Controller for Apps {
    const NAME: &'static str = "app";
    type Key = Key;

    fn wire(&self, world: &World, queue: &Queue<Key>) {
        let own = queue.clone();
        world.apps.subscribe(move |change| own.add(Key::of(&change.latest().metadata)));
        wake_owner(&self.releases.all, queue);
        wake_owner(&self.releases.maps, queue);
        wake_owner(&self.releases.gateways, queue);
        wake_owner(&self.releases.routes, queue);
        wake_owner(&world.deployments, queue);
        wake_owner(&world.stateful_sets, queue);
        wake_owner(&world.replica_sets, queue);
        wake_owner(&world.services, queue);
        wake_owner(&world.ingresses, queue);
        wake_owner(&world.autoscalers, queue);
        wake_owner(&world.cron_jobs, queue);
        let own = queue.clone();
        world.pods.subscribe(move |change| {
            if let Some(key) = app_of(change.latest()) {
                own.add(key);
            }
        });
    }

    async fn reconcile(&self, world: &World, key: &Key) -> Result<Option<Duration>, Error> {
        self.releases.ready().await;
        let Some(app) = world.apps.at(key) else { return Ok(None) };
        if app.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods: Vec<Arc<Pod>> = world
            .pods
            .list(&key.namespace)
            .into_iter()
            .filter(|pod| app_of(pod).as_ref() == Some(key))
            .collect();
        let outcome = self.releases.step(world, key, &app, &pods).await?;
        let wanted = template::plan(&app, &self.domain, &outcome.traffic)
            .ok_or(Error::Incomplete("name or UID"))?;
        let found = self.apply(world, key, &app, &outcome, &wanted).await?;
        self.adopt(world, key, &found.adopt).await?;
        let seen = status::Seen {
            deployment: world.deployments.at(key).filter(|one| owned(one.as_ref(), &app)),
            stateful_set: world.stateful_sets.at(key).filter(|one| owned(one.as_ref(), &app)),
            candidate: scene::candidates(world, key, &app).first().map(|one| one.side),
            pods,
            url: wanted.url,
            release: outcome.shown,
            only: outcome.traffic.only,
            drifted: found.drifted,
        };
        let status = status::plan(&app, &seen, Timestamp::now());
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
        Ok(outcome.again)
    }
}

/// Brings the definitions of App and Release to the server, until it takes them.
pub fn define(client: Client, tasks: &Tasks) {
    tasks.spawn_until_stop("define apps", async move {
        for definition in [berth_api::app::definition(), berth_api::release::definition()] {
            bring(&client, &definition).await;
        }
    });
}

async fn bring(client: &Client, definition: &CustomResourceDefinition) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition.metadata.name.clone().unwrap_or_default();
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(definition);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let call = definitions.patch(&name, &params, &patch);
        match tokio::time::timeout(Duration::from_secs(30), call).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => tracing::warn!(name, error = %chain(&error), "define"),
            Err(_) => tracing::warn!(name, "define: no answer"),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
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
