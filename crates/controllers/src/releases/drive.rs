//! Carries releases' plans out, as a part of their App's run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_api::app::{App, AppSpec, StrategyType};
use berth_api::gateway::{Gateway, HTTPRoute};
use berth_api::labels;
use berth_api::release::{self, Phase, Release, ReleaseSpec, TRAFFIC};
use berth_daemon::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::plan::{Plan, Room, Snapshot, plan};
use super::swap::Touch;
use super::{balancer, freeze, prometheus, scene};
use crate::apps::template::{self, Target, Traffic};
use crate::driver::{Cache, Error, Key, Labelled, Objects, World, follow, gone_is_none};

/// Where freezes for everything are written: windows under `windows`, exceptions under `except`.
const FREEZES: (&str, &str) = ("kube-system", "berth-freeze");
/// The label of what Berth makes for Apps.
const OURS: &str = "app.kubernetes.io/managed-by=berth";
/// Releases that are over and kept beside the last that succeeded.
const KEPT: usize = 10;
/// A reservation outlives its release by no more, should nobody remove it.
const RESERVED_SECONDS: i64 = 24 * 3600;
/// What is wanted of the network, apart from releases' own: nothing.
const STEADY: Traffic =
    Traffic { only: None, marked: false, preview: None, header: None, weights: BTreeMap::new() };

/// What the releases of all Apps need beside the world.
pub struct Releases {
    /// All Releases.
    pub all: Cache<Release>,
    /// What Apps' own ConfigMaps hold: configurations and reservations.
    pub maps: Cache<ConfigMap>,
    /// Doors of canaries' own.
    pub gateways: Cache<Gateway>,
    /// The routes behind them.
    pub routes: Cache<HTTPRoute>,
    freezes: Cache<ConfigMap>,
    balancers: balancer::Balancers,
    /// Whether the pods' scheduler keeps reservations.
    reserves: bool,
}

/// What an App's run does with the outcome.
#[derive(Debug)]
pub struct Outcome {
    /// The main workload; `None` leaves it as it is.
    pub main: Option<(Target, Arc<Release>)>,
    /// The candidate and whose it is.
    pub candidate: Option<(i32, Arc<Release>)>,
    /// Who gets requests.
    pub traffic: Traffic,
    /// The release that the App shows.
    pub shown: Option<String>,
    /// Whether a release is on its way.
    pub active: bool,
    /// When to look again.
    pub again: Option<Duration>,
}

impl Releases {
    /// Begins to follow them, in `tasks`.
    pub fn follow(world: &World, reserves: bool, tasks: &Tasks) -> Self {
        let client = world.client.clone();
        let (all, maps, freezes) = (Cache::default(), Cache::default(), Cache::default());
        let feed = Objects { api: Api::all(client.clone()), fields: None };
        tasks.spawn_until_stop("follow", follow(feed, Cache::clone(&all)));
        let feed = Labelled { api: Api::all(client.clone()), labels: release::APP_LABEL };
        tasks.spawn_until_stop("follow", follow(feed, Cache::clone(&maps)));
        let api = Api::namespaced(client.clone(), FREEZES.0);
        let feed = Objects { api, fields: Some("metadata.name=berth-freeze") };
        tasks.spawn_until_stop("follow", follow(feed, Cache::clone(&freezes)));
        let (gateways, routes) = (Cache::default(), Cache::default());
        let feed = Labelled { api: Api::all(client.clone()), labels: OURS };
        tasks.spawn_until_stop("follow", follow(feed, Cache::clone(&gateways)));
        let feed = Labelled { api: Api::all(client), labels: OURS };
        tasks.spawn_until_stop("follow", follow(feed, Cache::clone(&routes)));
        let balancers = balancer::Balancers::default();
        Self { all, maps, gateways, routes, freezes, balancers, reserves }
    }

    /// Resolves when all of them are known.
    pub async fn ready(&self) {
        self.all.ready().await;
        self.maps.ready().await;
        self.freezes.ready().await;
        self.gateways.ready().await;
        self.routes.ready().await;
    }

    /// Takes the App's releases one step further.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn step(
        &self,
        world: &World,
        key: &Key,
        app: &App,
        pods: &[Arc<Pod>],
    ) -> Result<Outcome, Error> {
        let bare = template::pods(app, &app.spec).ok_or(Error::Incomplete("name or UID"))?;
        let wanted = template::short_name(&bare);
        let mut known = scene::releases(self.all.list(&key.namespace), app);
        let main = scene::main(world, key, app);
        let runs = main.as_ref().and_then(|main| main.release.clone());
        let current = known.iter().find(|one| Some(one.name_any()) == runs).cloned();
        if let Some(made) = self.open(world, app, &known, current.as_deref(), wanted).await? {
            known.push(made);
        }
        let active = known.iter().find(|one| !phase(one).is_over()).cloned();
        let Some(active) = active else {
            self.tidy(world, app, &known, current.as_deref()).await?;
            let main = current.map(|release| (steady(app, &release), release));
            let shown = main.as_ref().map(|(_, release)| release.name_any());
            return Ok(Outcome {
                main,
                candidate: None,
                traffic: STEADY,
                shown,
                active: false,
                again: None,
            });
        };
        let stable = known.iter().rev().find(|one| phase(one) == Phase::Succeeded).cloned();
        let newest = known.last().filter(|last| last.spec.revision > active.spec.revision);
        let candidates = scene::candidates(world, key, app);
        let ours = Some(active.name_any());
        let candidate = candidates.iter().find(|candidate| candidate.release == ours);
        let instances = scene::instances(pods, &key.name);
        let only_images = stable.as_deref().is_some_and(|before| {
            let (old, new) = (of(app, before), of(app, &active));
            old.zip(new).is_some_and(|(old, new)| scene::only_images(&old, &new))
        });
        let mut snapshot = Snapshot {
            replicas: app.spec.replicas,
            stateful: app.spec.is_stateful(),
            disks: !app.spec.storage.is_empty(),
            release: &active,
            newer: newest.map(|newest| newest.spec.strategy.kind),
            stable: stable.as_deref(),
            main,
            candidate: candidate.map(|candidate| candidate.side).unwrap_or_default(),
            has_candidate: candidate.is_some(),
            pods: &instances,
            only_images,
            loses_addresses: scene::loses_addresses(&world.nodes.all()),
            frozen: self.frozen(world, app, &active),
            room: Room::NotKept,
            readings: &[],
            counted: None,
        };
        if self.reserves || app.spec.scheduler_name.as_deref() == Some(labels::BERTH) {
            let map = self.maps.get(&key.namespace, &reservation(&active));
            let slots = map.as_ref().and_then(|map| map.data.as_ref()?.get("slots")?.parse().ok());
            // Nothing asked for yet is nothing held.
            snapshot.room = scene::room(map.as_deref(), slots.unwrap_or(i32::MAX));
            if map.is_none() {
                snapshot.room = Room::Missing("not asked for yet".to_owned());
            }
        }
        let mut decided = plan(&snapshot, Timestamp::now());
        let mut readings = prometheus::ask(world, key, &active, &decided.ask).await;
        readings.extend(self.balancers.ask(world, key, &active, &decided.ask, pods).await);
        if decided.count {
            // What came until a step's end is the step's.
            let is = active.status.clone().unwrap_or_default();
            let then = &decided.status;
            let ends =
                then.step != is.step || then.phase.is_over() || then.phase == Phase::Aborting;
            snapshot.counted = self.balancers.answered(world, key, &active, pods, ends).await;
        }
        if !readings.is_empty() || snapshot.counted.is_some() {
            snapshot.readings = &readings;
            decided = plan(&snapshot, Timestamp::now());
        }
        self.carry_out(world, key, app, &active, &decided, &known).await?;
        let by_name = |name: &str| known.iter().find(|one| one.name_any() == name).cloned();
        let target = decided.main.and_then(|target| {
            let release = by_name(target.release.as_deref()?)?;
            Some((target, release))
        });
        Ok(Outcome {
            main: target,
            candidate: decided.candidate.map(|count| (count, active.clone())),
            traffic: decided.traffic,
            shown: Some(active.name_any()),
            active: true,
            again: decided.again,
        })
    }

    /// A Release for what the App asks for now, where it needs one and has none.
    async fn open(
        &self,
        world: &World,
        app: &App,
        known: &[Arc<Release>],
        current: Option<&Release>,
        wanted: String,
    ) -> Result<Option<Arc<Release>>, Error> {
        let active = known.iter().find(|one| !phase(one).is_over());
        let newest = known.last();
        let runs = current.is_some_and(|current| current.spec.template == wanted);
        if let Some(active) = active {
            let before = known.iter().rev().find(|one| phase(one) == Phase::Succeeded);
            let newest_is = newest.is_some_and(|newest| newest.spec.template == wanted);
            let reverted = before.is_some_and(|before| before.spec.template == wanted);
            if newest_is {
                return Ok(None);
            }
            if reverted && active.spec.template != wanted {
                let last = newest.unwrap_or(active);
                if !last.spec.abort {
                    let wish = json!({ "spec": { "abort": true } });
                    self.change(world, last, &wish).await?;
                }
                return Ok(None);
            }
        } else if runs {
            // The App is what runs: a version that was taken back may be tried anew later.
            if let Some(newest) = newest.filter(|newest| phase(newest) == Phase::Aborted)
                && !newest.status.as_ref().is_some_and(|status| status.closed)
                && current.map(|one| one.spec.revision) != Some(newest.spec.revision)
            {
                self.tell(world, newest, &json!({ "closed": true })).await?;
            }
            return Ok(None);
        } else if let Some(newest) = newest
            && newest.spec.template == wanted
            && phase(newest) == Phase::Aborted
            && !newest.status.as_ref().is_some_and(|status| status.closed)
        {
            return Ok(None);
        }
        let revision = newest.map_or(1, |newest| newest.spec.revision + 1);
        let made = self.create(world, app, revision, wanted, known).await?;
        Ok(Some(made))
    }

    async fn create(
        &self,
        world: &World,
        app: &App,
        revision: i64,
        template: String,
        known: &[Arc<Release>],
    ) -> Result<Arc<Release>, Error> {
        let name = app.name_any();
        let namespace = app.namespace().unwrap_or_default();
        let said = |key: &str| app.annotations().get(key).cloned();
        let cause = said(release::CAUSE).unwrap_or_default();
        let back = known.iter().rev().skip_while(|one| phase(one) != Phase::Succeeded).skip(1);
        let rollback_to = cause
            .starts_with("rollback to ")
            .then(|| back.map(|one| one.spec.clone()).find(|spec| spec.template == template))
            .flatten()
            .map(|spec| spec.revision);
        let author = match said(release::AUTHOR) {
            Some(author) => author,
            None => self.writer(world, app).await?,
        };
        let strategy = app.spec.strategy.clone().unwrap_or_default();
        let before = known.iter().rev().find(|one| phase(one) == Phase::Succeeded);
        // Nothing but the image may change in place.
        let sized = strategy.kind != StrategyType::InPlace || before.is_none_or(|b| b.spec.sized);
        let mut release = Release::new(
            &format!("{name}-{revision}"),
            ReleaseSpec {
                app: name.clone(),
                revision,
                image: app.spec.image.clone(),
                commit: said(release::COMMIT)
                    .or_else(|| app.spec.source.as_ref().and_then(|source| source.commit.clone())),
                author,
                cause,
                template,
                strategy,
                rollback_to,
                sized,
                app_spec: app.spec.clone(),
                paused: false,
                promoted: 0,
                abort: false,
            },
        );
        release.metadata.namespace = Some(namespace.clone());
        release.metadata.owner_references = app.controller_owner_ref(&()).map(|owner| vec![owner]);
        let labels = release.metadata.labels.get_or_insert_default();
        labels.insert(release::APP_LABEL.to_owned(), name);
        labels.insert(release::LABEL.to_owned(), revision.to_string());
        let api = world.api::<Release>(&namespace);
        let made = api.create(&PostParams::default(), &release).await?;
        self.all.remember(made.clone());
        Ok(Arc::new(made))
    }

    /// Who wrote the App's spec last.
    async fn writer(&self, world: &World, app: &App) -> Result<String, Error> {
        let api = world.api::<App>(app.namespace().as_deref().unwrap_or_default());
        let whole = api.get(&app.name_any()).await?;
        let entries = whole.metadata.managed_fields.unwrap_or_default();
        let of_spec = entries.into_iter().filter(|entry| {
            entry.subresource.is_none()
                && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some())
        });
        let last = of_spec.max_by_key(|entry| entry.time.clone().map(|time| time.0));
        Ok(last.and_then(|entry| entry.manager).unwrap_or_default())
    }

    fn frozen(&self, world: &World, app: &App, active: &Release) -> Option<String> {
        let namespace = active.metadata.namespace.clone().unwrap_or_default();
        let of = world.namespaces.get("", &namespace);
        let all = self.freezes.get(FREEZES.0, FREEZES.1);
        let noted = |meta: &ObjectMeta, key: &str| {
            meta.annotations.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default()
        };
        let (app, of) = (&app.metadata, of.as_ref().map(|of| &of.metadata));
        let ours = (noted(app, release::FREEZE), noted(app, release::FREEZE_EXCEPT));
        let theirs = of.map_or_else(Default::default, |of| {
            (noted(of, release::FREEZE), noted(of, release::FREEZE_EXCEPT))
        });
        let data = all.and_then(|map| map.data.clone()).unwrap_or_default();
        let text = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
        let rules = [
            freeze::Rule { whose: "the App", windows: &ours.0, except: &ours.1 },
            freeze::Rule { whose: "the namespace", windows: &theirs.0, except: &theirs.1 },
            freeze::Rule { whose: "everything", windows: text("windows"), except: text("except") },
        ];
        freeze::frozen(&rules, active, Timestamp::now())
    }

    async fn carry_out(
        &self,
        world: &World,
        key: &Key,
        app: &App,
        active: &Arc<Release>,
        plan: &Plan,
        known: &[Arc<Release>],
    ) -> Result<(), Error> {
        // First what was decided: a step that began and was not written down would begin again.
        if active.status.as_ref() != Some(&plan.status) {
            let mut status = json!(plan.status);
            // A merge leaves what is not said as it was. Null and not "": some builds of Kubernetes
            // 1.20 take an empty string for no string.
            for field in ["at", "message"] {
                status[field] = status.get(field).cloned().unwrap_or_default();
            }
            self.tell(world, active, &status).await?;
        }
        self.keep_reservation(world, key, app, active, plan.reserve).await?;
        if let Some(name) = &plan.retemplate
            && let Some(goal) = known.iter().find(|one| one.name_any() == *name)
        {
            retemplate(world, key, app, goal).await?;
        }
        let goal = plan
            .goal
            .as_ref()
            .and_then(|name| known.iter().find(|one| one.name_any() == *name).map(AsRef::as_ref));
        for (pod, touch) in &plan.touch {
            touch_pod(world, key, pod, touch, goal).await?;
        }
        Ok(())
    }

    async fn keep_reservation(
        &self,
        world: &World,
        key: &Key,
        app: &App,
        active: &Release,
        slots: Option<i32>,
    ) -> Result<(), Error> {
        let name = reservation(active);
        let known = self.maps.get(&key.namespace, &name);
        let api = world.api::<ConfigMap>(&key.namespace);
        let Some(slots) = slots else {
            if known.is_some() {
                gone_is_none(api.delete(&name, &DeleteParams::default()).await)?;
            }
            return Ok(());
        };
        if known.is_some() {
            return Ok(());
        }
        let map = room_wanted(app, active, &name, slots);
        match api.create(&PostParams::default(), &map).await {
            Ok(made) => self.maps.remember(made),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes what no release needs any more.
    async fn tidy(
        &self,
        world: &World,
        app: &App,
        known: &[Arc<Release>],
        current: Option<&Release>,
    ) -> Result<(), Error> {
        let namespace = app.namespace().unwrap_or_default();
        let old = known.len().saturating_sub(KEPT);
        let (old, kept) = known.split_at(old);
        let runs = |one: &&Arc<Release>| Some(one.name_any()) != current.map(ResourceExt::name_any);
        for release in old.iter().filter(runs) {
            let api = world.api::<Release>(&namespace);
            gone_is_none(api.delete(&release.name_any(), &DeleteParams::default()).await)?;
        }
        let specs =
            kept.iter().map(|one| &one.spec.app_spec).chain(current.map(|c| &c.spec.app_spec));
        let needed: Vec<String> =
            specs.chain([&app.spec]).filter_map(|spec| template::config_name(app, spec)).collect();
        let uid = app.metadata.uid.as_ref();
        for map in self.maps.list(&namespace) {
            let ours = crate::driver::controller_of(&map.metadata).map(|owner| &owner.uid) == uid;
            if ours && !needed.contains(&map.name_any()) {
                let api = world.api::<ConfigMap>(&namespace);
                gone_is_none(api.delete(&map.name_any(), &DeleteParams::default()).await)?;
            }
        }
        Ok(())
    }

    async fn change(&self, world: &World, of: &Release, patch: &Value) -> Result<(), Error> {
        let api = world.api::<Release>(of.namespace().as_deref().unwrap_or_default());
        let params = PatchParams::default();
        self.all.remember(api.patch(&of.name_any(), &params, &Patch::Merge(patch)).await?);
        Ok(())
    }

    async fn tell(&self, world: &World, of: &Release, status: &Value) -> Result<(), Error> {
        let api = world.api::<Release>(of.namespace().as_deref().unwrap_or_default());
        let patch = Patch::Merge(json!({ "status": status }));
        let params = PatchParams::default();
        self.all.remember(api.patch_status(&of.name_any(), &params, &patch).await?);
        Ok(())
    }
}

fn phase(release: &Release) -> Phase {
    release.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// The pods of `release`.
pub fn of(app: &App, release: &Release) -> Option<PodTemplateSpec> {
    let spec = &release.spec.app_spec;
    let template = template::pods(app, spec)?;
    let template = if release.spec.sized { template::sized(template, spec) } else { template };
    Some(template::released(template, release.spec.revision))
}

fn steady(app: &App, release: &Release) -> Target {
    let release = Some(release.name_any());
    Target { release, replicas: app.spec.replicas, ..Target::default() }
}

fn reservation(release: &Release) -> String {
    format!("{}-room", release.name_any())
}

fn room_wanted(app: &App, release: &Release, name: &str, slots: i32) -> ConfigMap {
    let instance = format!("{}={}", labels::INSTANCE, release.spec.app);
    let selector = format!("{instance},{}={}", release::LABEL, release.spec.revision);
    let spec: &AppSpec = &release.spec.app_spec;
    let mut data = BTreeMap::from([
        ("selector".to_owned(), selector),
        ("slots".to_owned(), slots.to_string()),
        ("ttl".to_owned(), RESERVED_SECONDS.to_string()),
    ]);
    let (cpu, memory) = template::requested(spec);
    data.extend(cpu.map(|cpu| ("cpu".to_owned(), cpu)));
    data.extend(memory.map(|memory| ("memory".to_owned(), memory)));
    let labels = [
        ("berth.dev/reservation".to_owned(), String::new()),
        (release::APP_LABEL.to_owned(), release.spec.app.clone()),
    ];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: release.metadata.namespace.clone(),
            labels: Some(labels.into()),
            owner_references: app.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Gives the ReplicaSet of a paused Deployment the template of `goal`.
async fn retemplate(world: &World, key: &Key, app: &App, goal: &Release) -> Result<(), Error> {
    let Some(deployment) = world.deployments.at(key) else { return Ok(()) };
    let Some(set) = scene::largest_set(world, &deployment) else { return Ok(()) };
    let template = of(app, goal).ok_or(Error::Incomplete("name or UID"))?;
    let mut template = world.ground.fit(template);
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    // It keeps the label by which it knows its pods.
    labels.extend(selector.unwrap_or_default());
    let mut whole = (*set).clone();
    if let Some(spec) = &mut whole.spec {
        spec.template = Some(template);
    }
    let api = world.api::<k8s_openapi::api::apps::v1::ReplicaSet>(&key.namespace);
    let written = api.replace(&set.name_any(), &PostParams::default(), &whole).await?;
    world.replica_sets.remember(written);
    Ok(())
}

async fn touch_pod(
    world: &World,
    key: &Key,
    pod: &str,
    touch: &Touch,
    goal: Option<&Release>,
) -> Result<(), Error> {
    let patch = match (touch, goal) {
        (Touch::Serve, _) => json!({ "metadata": { "labels": { TRAFFIC: "on" },
            "annotations": { scene::DRAINED: null, scene::SWAPPED: null } } }),
        (Touch::Hold, _) => {
            json!({ "metadata": { "annotations": { release::KEEP_ADDRESS: "true" } } })
        }
        (Touch::Drain, _) => json!({ "metadata": { "labels": { TRAFFIC: "off" },
            "annotations": { scene::DRAINED: Timestamp::now().to_string() } } }),
        (Touch::Swap { from }, Some(goal)) => {
            let mut labels = json!({ release::LABEL: goal.spec.revision.to_string() });
            let set = world.stateful_sets.at(key);
            let revision = set.and_then(|set| set.status.clone()?.update_revision);
            if let Some(revision) = revision {
                labels["controller-revision-hash"] = json!(revision);
            }
            json!({
                "metadata": { "labels": labels, "annotations": { scene::SWAPPED: from } },
                "spec": { "containers": [{ "name": key.name, "image": goal.spec.image }] },
            })
        }
        (Touch::Swap { .. }, None) => return Ok(()),
    };
    let api = world.api::<Pod>(&key.namespace);
    let call = api.patch(pod, &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Some(written) = gone_is_none(call)? {
        world.pods.remember(written);
    }
    Ok(())
}
