//! A Deployment moves its pods from one template to the next through ReplicaSets.
//!
//! ```text
//! template ──hash──▶ new ReplicaSet ◀── scaled up   ┐ never more than replicas + maxSurge pods,
//!                    old ReplicaSets ── scaled down ┘ never fewer than replicas − maxUnavailable ready
//! ```
//!
//! A plan makes one step; the change it causes wakes the next. Every write carries the resource
//! version it was decided on, so a step decided on an old view is refused and decided again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
    RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::Note;
use super::claim::{Claim, claim, controller_of, picks};
use super::{hash, pod, share};

pub(crate) mod drive;
mod revision;
mod rollout;
mod status;

/// The label that tells the pods of one template from those of another.
const HASH: &str = "pod-template-hash";

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The Deployment itself.
    pub deployment: &'a Deployment,
    /// ReplicaSets of its namespace: at least those it owns or picks.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Pods of its namespace: at least those of its ReplicaSets. Asked only by `Recreate`.
    pub pods: &'a [Arc<Pod>],
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Orphans to take up.
    pub adopt: Vec<Arc<ReplicaSet>>,
    /// Sets to let go.
    pub release: Vec<Arc<ReplicaSet>>,
    /// The set of the current template, where there is none yet.
    pub create: Option<ReplicaSet>,
    /// Sets to write: their size or annotations changed.
    pub update: Vec<ReplicaSet>,
    /// Old sets that history no longer keeps.
    pub delete: Vec<Arc<ReplicaSet>>,
    /// The Deployment's own revision annotation, where it differs.
    pub revision: Option<i64>,
    /// The status to write, where it differs.
    pub status: Option<DeploymentStatus>,
    /// What to tell people once the writes are done.
    pub notes: Vec<Note>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// The facts of a Deployment with every default applied.
struct Wanted<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    replicas: i32,
    surge: i32,
    unavailable: i32,
    recreate: bool,
    template: PodTemplateSpec,
}

impl<'a> Wanted<'a> {
    fn read(deployment: &'a Deployment) -> Option<Self> {
        let spec = deployment.spec.as_ref()?;
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let rolling = strategy.and_then(|s| s.rolling_update.clone());
        let RollingUpdateDeployment { max_surge, max_unavailable } = rolling.unwrap_or_default();
        let (surge, unavailable) =
            share::fenceposts(max_surge.as_ref(), max_unavailable.as_ref(), replicas);
        // Recreate lets everything be gone at once and nothing be there twice.
        let (surge, unavailable) = if recreate { (0, replicas) } else { (surge, unavailable) };
        let unavailable = unavailable.min(replicas);
        let template = plain(&spec.template);
        Some(Self { deployment, spec, replicas, surge, unavailable, recreate, template })
    }

    fn paused(&self) -> bool {
        self.spec.paused == Some(true)
    }

    /// The most pods there may be at a time.
    fn most(&self) -> i32 {
        if self.replicas == 0 { 0 } else { self.replicas.saturating_add(self.surge) }
    }
}

/// The sets of a Deployment, told apart.
struct Sets {
    /// Of the current template.
    new: Option<Arc<ReplicaSet>>,
    /// Of earlier ones, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(|set| size(set)).sum()
    }
}

/// Decides the next step for one Deployment at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let Some(wanted) = Wanted::read(snapshot.deployment) else { return Plan::default() };
    let mut plan = Plan::default();
    let sets = gather(snapshot, &wanted, &mut plan);
    if !(plan.adopt.is_empty() && plan.release.is_empty()) {
        return plan;
    }
    if snapshot.deployment.metadata.deletion_timestamp.is_some() {
        status::write(&mut plan, &wanted, &sets, now);
        return plan;
    }
    step(snapshot, &wanted, &sets, &mut plan);
    status::write(&mut plan, &wanted, &sets, now);
    plan
}

fn step(snapshot: &Snapshot<'_>, wanted: &Wanted<'_>, sets: &Sets, plan: &mut Plan) {
    let next = revision::next(&sets.old);
    if let Some(new) = &sets.new {
        let synced = revision::sync(wanted, new, next);
        plan.revision =
            revision::differs(&wanted.deployment.metadata, revision::of(&synced.metadata));
        if synced != **new {
            plan.update.push(synced);
            return;
        }
    }
    if wanted.paused() || rollout::resized(wanted, sets) {
        rollout::scale(wanted, sets, plan);
        if wanted.paused() && plan.update.is_empty() {
            rollout::forget(wanted, sets, plan);
        }
        return;
    }
    if wanted.recreate && rollout::old_must_end(wanted, sets, snapshot.pods, plan) {
        return;
    }
    match &sets.new {
        None => {
            let set = fresh(wanted, sets, next);
            plan.revision = revision::differs(&wanted.deployment.metadata, next);
            if size(&set) > 0 {
                plan.notes.push(scaled(&set, 0, size(&set)));
            }
            plan.create = Some(set);
        }
        Some(new) if wanted.recreate => rollout::resize(wanted, new, wanted.replicas, plan),
        Some(new) => rollout::roll(wanted, sets, new, plan),
    }
    if status::complete(wanted, sets) && plan.update.is_empty() {
        rollout::forget(wanted, sets, plan);
    }
}

fn gather(snapshot: &Snapshot<'_>, wanted: &Wanted<'_>, plan: &mut Plan) -> Sets {
    let picked = picks(&wanted.spec.selector);
    let mut ours = Vec::new();
    for set in snapshot.sets {
        match claim(&wanted.deployment.metadata, &set.metadata, picked(&set.metadata)) {
            Claim::Ours => ours.push(set.clone()),
            Claim::Adopt => plan.adopt.push(set.clone()),
            Claim::Release => plan.release.push(set.clone()),
            Claim::Foreign => {}
        }
    }
    ours.sort_by(|a, b| age(a).cmp(&age(b)));
    // Two sets of one template come from a hash collision long ago; the older one is kept up.
    let is_new = |set: &&Arc<ReplicaSet>| {
        set.metadata.deletion_timestamp.is_none()
            && template(set).is_some_and(|template| template == wanted.template)
    };
    let new = ours.iter().find(is_new).cloned();
    let old = ours.into_iter().filter(|set| Some(set) != new.as_ref()).collect();
    Sets { new, old }
}

/// The set of the current template, sized for its first step.
fn fresh(wanted: &Wanted<'_>, sets: &Sets, revision: i64) -> ReplicaSet {
    let meta = &wanted.deployment.metadata;
    let collisions = wanted.deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = hash::of_template(&wanted.template, collisions);
    let mut template = wanted.template.clone();
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut selector = wanted.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.into(), hash.clone());
    let replicas = rollout::room(wanted, sets, 0);
    let mut annotations = revision::inherited(meta);
    annotations.insert(revision::REVISION.into(), revision.to_string());
    annotations.insert(revision::DESIRED.into(), wanted.replicas.to_string());
    annotations.insert(revision::MAX.into(), wanted.most().to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner(meta)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: wanted.spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The reference that makes a Deployment the controller of its sets.
pub(crate) fn owner(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a failed `create` meant: a set of that name is there. Ours and of this template is what we
/// wanted; anything else has taken the name, and the hash must change.
pub(crate) fn collides(deployment: &Deployment, there: &ReplicaSet) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    let ours =
        controller_of(&there.metadata).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref();
    !(ours && template(there) == Some(plain(&spec.template)))
}

fn scaled(set: &ReplicaSet, from: i32, to: i32) -> Note {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let way = if to > from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {name} from {from} to {to}");
    Note { reason: "ScalingReplicaSet", message }
}

fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH);
    }
    template
}

fn template(set: &ReplicaSet) -> Option<PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref().map(plain)
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

fn still_running(pods: &[Arc<Pod>], sets: &[Arc<ReplicaSet>]) -> bool {
    let uids: BTreeMap<_, ()> =
        sets.iter().filter_map(|s| Some((s.metadata.uid.as_deref()?, ()))).collect();
    pods.iter().any(|pod| {
        !pod::is_finished(pod)
            && controller_of(&pod.metadata)
                .is_some_and(|owner| uids.contains_key(owner.uid.as_str()))
    })
}

#[cfg(test)]
mod tests;
