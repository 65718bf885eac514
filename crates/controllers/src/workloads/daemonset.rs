//! A DaemonSet keeps one pod on every node that its template fits.
//!
//! Its pods are bound by the scheduler like any other; a required affinity on `metadata.name` pins
//! each to its node, and tolerations keep it there when the node is in trouble. Templates are kept
//! as ControllerRevisions, from which `kubectl rollout undo` restores them.
//!
//! Source: Kubernetes' DaemonSet; maxSurge from KEP-1591.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claim::{Claim, claim, picks};
use super::history::{self, HASH, History, Subject};
use super::{pod, share};

pub(crate) mod drive;
mod fit;

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The DaemonSet itself.
    pub set: &'a DaemonSet,
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
    /// Pods of its namespace: at least those it owns or picks.
    pub pods: &'a [Arc<Pod>],
    /// ControllerRevisions of its namespace that it owns.
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
    /// Nodes that are to get a pod.
    pub create: Vec<String>,
    /// Pods to remove.
    pub delete: Vec<Arc<Pod>>,
    /// The status to write, where it differs.
    pub status: Option<DaemonSetStatus>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

struct Wanted<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    min_ready: i32,
    hash: String,
    now: Timestamp,
}

impl Wanted<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        !pod::is_terminating(pod) && pod::is_available(pod, self.min_ready, self.now)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod::label(&pod.metadata, HASH) == self.hash
    }
}

/// Decides for one DaemonSet at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let set = snapshot.set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let history = revise(snapshot, spec);
    let hash = history::hash_of(&history.current).to_owned();
    let wanted = Wanted { set, spec, min_ready, hash, now };
    let mut plan = Plan { history, ..Plan::default() };
    let on_nodes = gather(snapshot, &wanted, &mut plan);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let fits: BTreeMap<&str, fit::Fit> = snapshot
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, fit::judge(&spec.template, node))))
        .collect();
    place(&wanted, &fits, &on_nodes, &mut plan);
    if spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
        roll(&wanted, &fits, &on_nodes, &mut plan);
    }
    let status = status(&wanted, &fits, &on_nodes);
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    let waits = on_nodes.values().flatten().filter_map(|p| pod::available_from(p, min_ready));
    let next = waits.filter(|from| *from > now).min().map(|from| super::until(from, now));
    plan.again = plan.again.into_iter().chain(next).min();
    plan
}

fn revise(snapshot: &Snapshot<'_>, spec: &DaemonSetSpec) -> History {
    let meta = &snapshot.set.metadata;
    let subject = Subject {
        meta,
        owner: owner(meta),
        template: &spec.template,
        collisions: snapshot.set.status.as_ref().and_then(|status| status.collision_count),
        limit: usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0),
    };
    history::plan(&subject, snapshot.revisions, |revision| {
        let hash = history::hash_of(revision);
        snapshot.pods.iter().any(|pod| pod::label(&pod.metadata, HASH) == hash)
    })
}

/// Our pods by the node they run on or are meant for, oldest first.
fn gather(
    snapshot: &Snapshot<'_>,
    wanted: &Wanted<'_>,
    plan: &mut Plan,
) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let picked = picks(&wanted.spec.selector);
    let mut on_nodes: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods {
        match claim(&wanted.set.metadata, &pod.metadata, picked(&pod.metadata)) {
            Claim::Ours => {}
            Claim::Adopt => plan.adopt.push(pod.clone()),
            Claim::Release => {
                plan.release.push(pod.clone());
                continue;
            }
            Claim::Foreign => continue,
        }
        let node = pod::node(pod).or_else(|| fit::pinned_to(pod)).unwrap_or_default();
        on_nodes.entry(node.to_owned()).or_default().push(pod.clone());
    }
    for pods in on_nodes.values_mut() {
        pods.sort_by_key(|p| {
            let created = p.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pod::node(p).is_none(), created, p.metadata.name.clone())
        });
    }
    on_nodes
}

/// Which nodes lack a pod and which pods stand where none should.
fn place(
    wanted: &Wanted<'_>,
    fits: &BTreeMap<&str, fit::Fit>,
    on_nodes: &BTreeMap<String, Vec<Arc<Pod>>>,
    plan: &mut Plan,
) {
    for (node, fit) in fits {
        let pods = on_nodes.get(*node).map(Vec::as_slice).unwrap_or_default();
        if !fit.runs {
            if !fit.stays {
                plan.delete.extend(pods.iter().filter(|p| !pod::is_terminating(p)).cloned());
            }
            continue;
        }
        let mut alive = Vec::new();
        for pod in pods.iter().filter(|p| !pod::is_terminating(p)) {
            if pod::is_finished(pod) {
                match pod::replaced_from(pod).filter(|until| *until > wanted.now) {
                    Some(until) => {
                        let wait = super::until(until, wanted.now);
                        plan.again = plan.again.into_iter().chain([wait]).min();
                    }
                    None => plan.delete.push(pod.clone()),
                }
            } else {
                alive.push(pod.clone());
            }
        }
        if pods.is_empty() {
            plan.create.push((*node).to_owned());
        }
        // Two of one template are one too many; an old and a new one stand side by side in a surge.
        for current in [true, false] {
            let same = alive.iter().filter(|p| wanted.is_current(p) == current);
            plan.delete.extend(same.skip(1).cloned());
        }
    }
    for (_, pods) in on_nodes.iter().filter(|(node, _)| !fits.contains_key(node.as_str())) {
        // A pod bound to a node that is gone is the garbage collector's; one still waiting for
        // such a node would wait for ever.
        let waiting = pods.iter().filter(|p| pod::node(p).is_none() && !pod::is_terminating(p));
        plan.delete.extend(waiting.cloned());
    }
}

/// Replaces pods of earlier templates, as many at a time as the strategy allows.
fn roll(
    wanted: &Wanted<'_>,
    fits: &BTreeMap<&str, fit::Fit>,
    on_nodes: &BTreeMap<String, Vec<Arc<Pod>>>,
    plan: &mut Plan,
) {
    let rolling = wanted.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let desired = i32::try_from(fits.values().filter(|fit| fit.runs).count()).unwrap_or(i32::MAX);
    let one = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(1);
    let none = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(0);
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&none);
    let surge = share::of(surge, desired, share::Round::Up);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&one);
    let unavailable = share::of(unavailable, desired, share::Round::Up);
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };

    let mut missing = 0;
    let mut surging = 0;
    let mut replaceable = Vec::new();
    let mut surgeable = Vec::new();
    for (node, _) in fits.iter().filter(|(_, fit)| fit.runs) {
        let pods = on_nodes.get(*node).map(Vec::as_slice).unwrap_or_default();
        let alive = || pods.iter().filter(|p| pod::is_active(p));
        let new = alive().find(|p| wanted.is_current(p));
        let old = alive().find(|p| !wanted.is_current(p));
        match (old, new) {
            (Some(old), Some(new)) => {
                surging += 1;
                if wanted.is_available(new) {
                    push(&mut plan.delete, old);
                } else if !wanted.is_available(old) {
                    missing += 1;
                }
            }
            (Some(old), None) if !wanted.is_available(old) => {
                // It serves nobody: replacing it costs nothing.
                missing += 1;
                push(&mut plan.delete, old);
            }
            (Some(old), None) => {
                replaceable.push(old);
                surgeable.push(*node);
            }
            (None, Some(new)) => missing += i32::from(!wanted.is_available(new)),
            (None, None) => missing += 1,
        }
    }
    if surge > 0 {
        let room = usize::try_from(surge - surging).unwrap_or(0);
        plan.create.extend(surgeable.into_iter().take(room).map(str::to_owned));
    } else {
        let room = usize::try_from(unavailable - missing).unwrap_or(0);
        for old in replaceable.into_iter().take(room) {
            push(&mut plan.delete, old);
        }
    }
}

fn push(list: &mut Vec<Arc<Pod>>, pod: &Arc<Pod>) {
    if !list.iter().any(|known| known.metadata.uid == pod.metadata.uid) {
        list.push(pod.clone());
    }
}

fn status(
    wanted: &Wanted<'_>,
    fits: &BTreeMap<&str, fit::Fit>,
    on_nodes: &BTreeMap<String, Vec<Arc<Pod>>>,
) -> DaemonSetStatus {
    let before = wanted.set.status.as_ref();
    let mut status = DaemonSetStatus {
        observed_generation: wanted.set.metadata.generation,
        collision_count: before.and_then(|status| status.collision_count),
        conditions: before.and_then(|status| status.conditions.clone()),
        ..Default::default()
    };
    let (mut updated, mut available) = (0, 0);
    for (node, fit) in fits {
        let pods = on_nodes.get(*node).map(Vec::as_slice).unwrap_or_default();
        if !fit.runs {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        // The newest template's pod speaks for the node.
        let first = pods.iter().filter(|p| pod::is_active(p));
        let Some(shown) = first.max_by_key(|p| wanted.is_current(p)).or(pods.first()) else {
            continue;
        };
        status.current_number_scheduled += 1;
        updated += i32::from(wanted.is_current(shown));
        let alive = pods.iter().filter(|p| !pod::is_terminating(p));
        let alive: Vec<_> = alive.collect();
        status.number_ready += i32::from(alive.iter().any(|p| pod::is_ready(p)));
        available += i32::from(alive.iter().any(|p| wanted.is_available(p)));
    }
    status.updated_number_scheduled = Some(updated);
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status
}

/// The reference that makes a DaemonSet the controller of its pods.
pub(crate) fn owner(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".into(),
        kind: "DaemonSet".into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The pod of `set` for `node`.
pub(crate) fn pod_for(set: &DaemonSet, hash: &str, node: &str) -> Option<Pod> {
    let spec = set.spec.as_ref()?;
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let owner = owner(&set.metadata);
    let mut pod = pod::from_template(&spec.template, namespace, owner, &[(HASH, hash)]);
    fit::pin(&mut pod, node);
    Some(pod)
}

#[cfg(test)]
mod tests;
