//! A StatefulSet runs pods that have names, and claims that stay with the names.
//!
//! Each pass looks at all pods and does what may be done now: in order and one at a time, or all at
//! once when the set is Parallel. Pods below the partition keep the template of the last finished
//! rollout, which is read back from its ControllerRevision.
//!
//! ```text
//! ordinals   start … start+replicas-1      above or below: condemned, highest first
//! in order   make, wait until available, make the next;  then condemn;  then update from the top
//! ```
//!
//! Source: Kubernetes' StatefulSet; start ordinals from KEP-3335, claim retention from KEP-1847,
//! maxUnavailable from KEP-961.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claim::{Claim, claim, picks};
use super::history::{self, History, Subject};
use super::{pod, share};

mod claims;
pub(crate) mod drive;
mod identity;

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The StatefulSet itself.
    pub set: &'a StatefulSet,
    /// Pods of its namespace: at least those it owns or picks.
    pub pods: &'a [Arc<Pod>],
    /// Claims of its namespace: at least those of its pods.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// ControllerRevisions that it owns.
    pub revisions: &'a [ControllerRevision],
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// What becomes of its ControllerRevisions.
    pub history: History,
    /// Orphans to take up.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods to let go.
    pub release: Vec<Arc<Pod>>,
    /// Claims to make, before the pods that need them.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Claims whose owners are to change, so that they go with the set or with their pod, or stay.
    pub owners: Vec<(Arc<PersistentVolumeClaim>, Vec<OwnerReference>)>,
    /// Pods to make.
    pub create: Vec<Pod>,
    /// Pods whose labels do not say who they are.
    pub relabel: Vec<(Arc<Pod>, BTreeMap<String, String>)>,
    /// Pods to remove.
    pub delete: Vec<Arc<Pod>>,
    /// The status to write, where it differs.
    pub status: Option<StatefulSetStatus>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// What all steps look at.
struct Wanted<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    /// Its pods by ordinal.
    pods: BTreeMap<i32, Arc<Pod>>,
    /// Revision names: of the last finished rollout, and of the present template.
    current: String,
    update: String,
    revisions: &'a [ControllerRevision],
    claims: &'a [Arc<PersistentVolumeClaim>],
    now: Timestamp,
}

impl Wanted<'_> {
    fn first(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        self.first()..self.first().saturating_add(self.replicas())
    }

    /// The first ordinal that an update may touch.
    fn updated_from(&self) -> i32 {
        self.first().saturating_add(self.partition())
    }

    fn is_parallel(&self) -> bool {
        self.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn rolls(&self) -> bool {
        let kind =
            self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        kind != Some("OnDelete")
    }

    fn partition(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    fn most_unavailable(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        most.map_or(1, |most| share::of(most, self.replicas(), share::Round::Down).max(1))
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        pod::label(&pod.metadata, history::HASH) != self.update
    }

    fn is_ready(&self, pod: &Pod) -> bool {
        pod::phase(pod) == "Running" && pod::is_ready(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        self.is_ready(pod) && pod::is_available(pod, min_ready, self.now)
    }

    /// Whether it serves and will go on serving.
    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !pod::is_terminating(pod)
    }
}

/// Decides for one StatefulSet at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let set = snapshot.set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut plan = Plan::default();
    let mut pods = BTreeMap::new();
    gather(snapshot, spec, &mut pods, &mut plan);
    let is_leaving = set.metadata.deletion_timestamp.is_some();
    let history = revise(snapshot, spec, &pods);
    let update = history.name().to_owned();
    let before = set.status.as_ref();
    // Without a finished rollout, or when its revision was lost, everything is of the new template.
    let known = |name: &String| {
        snapshot.revisions.iter().any(|one| one.metadata.name.as_ref() == Some(name))
    };
    let current = before.and_then(|status| status.current_revision.clone()).filter(known);
    let current = current.unwrap_or_else(|| update.clone());
    let (revisions, claims) = (snapshot.revisions, snapshot.claims);
    let wanted = Wanted { set, spec, pods, current, update, revisions, claims, now };
    plan.owners = claims::owners(&wanted);
    if is_leaving {
        return plan;
    }
    plan.history = history;
    step(&wanted, &mut plan);
    let status = status(&wanted, before);
    plan.status = (before != Some(&status)).then_some(status);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let waits = wanted.pods.values().filter_map(|pod| pod::available_from(pod, min_ready));
    let next = waits.filter(|from| *from > now).min().map(|from| super::until(from, now));
    plan.again = plan.again.into_iter().chain(next).min();
    plan
}

/// Sorts the pods of the namespace: ours by ordinal.
fn gather(
    snapshot: &Snapshot<'_>,
    spec: &StatefulSetSpec,
    pods: &mut BTreeMap<i32, Arc<Pod>>,
    plan: &mut Plan,
) {
    let meta = &snapshot.set.metadata;
    let picked = picks(&spec.selector);
    for pod in snapshot.pods {
        // A pod with another kind of name can never be one of these.
        let ordinal = identity::ordinal(meta, &pod.metadata);
        match (claim(meta, &pod.metadata, picked(&pod.metadata)), ordinal) {
            (Claim::Ours, Some(ordinal)) => drop(pods.insert(ordinal, pod.clone())),
            (Claim::Adopt, Some(ordinal)) => {
                plan.adopt.push(pod.clone());
                pods.insert(ordinal, pod.clone());
            }
            (Claim::Release | Claim::Ours, _) => plan.release.push(pod.clone()),
            _ => {}
        }
    }
}

fn revise(
    snapshot: &Snapshot<'_>,
    spec: &StatefulSetSpec,
    pods: &BTreeMap<i32, Arc<Pod>>,
) -> History {
    let meta = &snapshot.set.metadata;
    let status = snapshot.set.status.as_ref();
    let subject = Subject {
        meta,
        owner: owner(meta),
        template: &spec.template,
        collisions: status.and_then(|status| status.collision_count),
        limit: usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0),
    };
    history::plan(&subject, snapshot.revisions, |revision| {
        let name = revision.metadata.name.as_ref();
        name == status.and_then(|status| status.current_revision.as_ref())
            || pods.values().any(|pod| {
                name.is_some_and(|name| pod::label(&pod.metadata, history::HASH) == name)
            })
    })
}

/// What may be done in this pass.
fn step(wanted: &Wanted<'_>, plan: &mut Plan) {
    if keep(wanted, plan) && condemn(wanted, plan) && wanted.rolls() {
        update(wanted, plan);
    }
}

/// Makes what is missing and replaces what ended; whether all that is there may be built upon.
fn keep(wanted: &Wanted<'_>, plan: &mut Plan) -> bool {
    for ordinal in wanted.ordinals() {
        let is_good = match wanted.pods.get(&ordinal) {
            // Its claim goes away with the pod before: the new pod waits for a claim of its own.
            None if claims::are_leaving(wanted, ordinal) => false,
            None => {
                plan.claims.extend(claims::missing(wanted, ordinal));
                plan.create.extend(identity::pod_for(wanted, ordinal));
                false
            }
            Some(pod) if pod::is_terminating(pod) => false,
            Some(pod) if pod::is_finished(pod) => {
                replace(wanted, pod, plan);
                false
            }
            Some(pod) => {
                plan.relabel.extend(identity::corrected(pod).map(|labels| (pod.clone(), labels)));
                if pod::phase(pod) == "Pending" {
                    plan.claims.extend(claims::missing(wanted, ordinal));
                }
                wanted.is_available(pod)
            }
        };
        if !is_good && !wanted.is_parallel() {
            // Kubernetes waits here for somebody to delete a pod whose old template never becomes
            // ready; the new template may be what mends it.
            let stuck = wanted.pods.get(&ordinal).filter(|pod| {
                let is_due = wanted.rolls() && ordinal >= wanted.updated_from();
                is_due && wanted.is_outdated(pod) && pod::is_active(pod) && !wanted.is_ready(pod)
            });
            plan.delete.extend(stuck.cloned());
            return false;
        }
    }
    true
}

/// Removes a pod that ended, but not as fast as it can end.
fn replace(wanted: &Wanted<'_>, pod: &Arc<Pod>, plan: &mut Plan) {
    match pod::replaced_from(pod).filter(|from| *from > wanted.now) {
        Some(from) => {
            let wait = super::until(from, wanted.now);
            plan.again = plan.again.into_iter().chain([wait]).min();
        }
        None => plan.delete.push(pod.clone()),
    }
}

/// Removes the pods of ordinals that are no longer wanted, highest first; whether none is left that
/// must go first.
fn condemn(wanted: &Wanted<'_>, plan: &mut Plan) -> bool {
    let ordinals = wanted.ordinals();
    let condemned: Vec<_> =
        wanted.pods.iter().rev().filter(|(ordinal, _)| !ordinals.contains(ordinal)).collect();
    for (_, pod) in &condemned {
        if !pod::is_terminating(pod) {
            plan.delete.push(Arc::clone(pod));
        }
        if !wanted.is_parallel() {
            return false;
        }
    }
    condemned.is_empty() || wanted.is_parallel()
}

/// Removes pods of earlier templates from the top, as many at a time as may be missing.
fn update(wanted: &Wanted<'_>, plan: &mut Plan) {
    let ordinals = wanted.ordinals();
    let is_missing =
        |ordinal: &i32| wanted.pods.get(ordinal).is_none_or(|pod| !wanted.is_healthy(pod));
    let most = wanted.most_unavailable();
    let missing = ordinals.clone().filter(is_missing).take(usize::try_from(most).unwrap_or(0));
    let mut room = most - i32::try_from(missing.count()).unwrap_or(most);
    for ordinal in (wanted.updated_from()..ordinals.end).rev() {
        let there = wanted.pods.get(&ordinal).filter(|pod| pod::is_active(pod));
        let outdated = there.filter(|pod| wanted.is_outdated(pod));
        let is_healthy = there.is_some_and(|pod| wanted.is_healthy(pod));
        if let Some(pod) = outdated {
            // One that serves nobody costs nothing; one at a time never looks at those below.
            if !is_healthy || room > 0 || most == 1 {
                room -= i32::from(is_healthy);
                plan.delete.push(pod.clone());
            }
        }
        if most == 1 && (outdated.is_some() || !is_healthy) {
            return;
        }
    }
}

fn status(wanted: &Wanted<'_>, before: Option<&StatefulSetStatus>) -> StatefulSetStatus {
    let mut status = StatefulSetStatus {
        observed_generation: wanted.set.metadata.generation,
        collision_count: before.and_then(|status| status.collision_count),
        conditions: before.and_then(|status| status.conditions.clone()),
        current_revision: Some(wanted.current.clone()),
        update_revision: Some(wanted.update.clone()),
        ..Default::default()
    };
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    for pod in wanted.pods.values() {
        status.replicas += 1;
        ready += i32::from(wanted.is_ready(pod));
        available += i32::from(wanted.is_available(pod));
        if !pod::is_terminating(pod) {
            let revision = pod::label(&pod.metadata, history::HASH);
            current += i32::from(revision == wanted.current);
            updated += i32::from(revision == wanted.update);
        }
    }
    let whole = status.replicas == wanted.replicas();
    if wanted.rolls() && whole && updated == status.replicas && ready == status.replicas {
        current = updated;
        status.current_revision = Some(wanted.update.clone());
    }
    status.ready_replicas = Some(ready);
    status.available_replicas = Some(available);
    status.current_replicas = Some(current);
    status.updated_replicas = Some(updated);
    status
}

/// The reference that makes a StatefulSet the controller of its pods.
pub(crate) fn owner(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "StatefulSet".into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests;
