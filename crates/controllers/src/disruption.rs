//! Disruption budgets: how many pods may be taken away now.
//!
//! ```text
//! PodDisruptionBudget ─selector─▶ pods ─owner─▶ how many there should be
//!          ▲                        │ healthy                │ desired
//!          └──── status: disruptionsAllowed = healthy − desired, never below 0
//! ```
//!
//! The eviction subresource of the API server spends what is written here and notes the pod in
//! `disruptedPods`; a noted pod counts as gone until it is, or until the eviction is known to have
//! come to nothing. Refuses percentages over pods whose number nobody set: Jobs, DaemonSets.
//!
//! Source: Kubernetes' disruption controller; KEP-85.

mod drive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};

use crate::driver::controller_of;
use crate::workloads::pod;
use crate::workloads::share::{self, Round};

pub use drive::Disruptions;

/// An eviction that has not ended its pod by then has failed somewhere (Kubernetes' own figure).
const EVICTION_LIMIT: SignedDuration = SignedDuration::from_mins(2);

const ALLOWED: &str = "DisruptionAllowed";

/// What a plan is made from: everything of the budget's namespace.
pub(crate) struct Snapshot<'a> {
    pub budget: &'a PodDisruptionBudget,
    pub pods: &'a [Arc<Pod>],
    pub sets: &'a [Arc<ReplicaSet>],
    pub deployments: &'a [Arc<Deployment>],
    /// StatefulSets of its namespace.
    pub stateful_sets: &'a [Arc<StatefulSet>],
}

/// What is to be written, and when to look again.
pub(crate) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// When a noted eviction is to be taken for failed.
    pub again: Option<SignedDuration>,
}

/// Whether `budget` covers `pod`: no selector covers nothing, an empty one everything.
pub(crate) fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let Some(Ok(selector)) = selector.map(Selector::try_from) else { return false };
    match &pod.metadata.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    }
}

/// Counts for one budget at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let budget = snapshot.budget;
    let before = budget.status.clone().unwrap_or_default();
    let covered: Vec<&Arc<Pod>> =
        snapshot.pods.iter().filter(|pod| !pod::is_finished(pod) && covers(budget, pod)).collect();
    let disrupted = still_disrupted(&before, &covered, now);
    let healthy = covered.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let (expected, desired, failure) = match aim(snapshot, &covered) {
        Ok((expected, desired)) => (expected, desired, None),
        Err(why) => {
            (before.expected_pods.unwrap_or(0), before.desired_healthy.unwrap_or(0), Some(why))
        }
    };
    let allowed = if expected > 0 && failure.is_none() { (healthy - desired).max(0) } else { 0 };
    let (reason, message) = match failure {
        Some(why) => ("SyncFailed", why),
        None if allowed > 0 => ("SufficientPods", String::new()),
        None => ("InsufficientPods", String::new()),
    };
    let generation = budget.metadata.generation;
    let again = disrupted.values().map(|since| since.0.duration_until(now)).max();
    let again = again.map(|age| (EVICTION_LIMIT - age).max(SignedDuration::ZERO));
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: generation,
        conditions: Some(condition(&before, generation, allowed > 0, reason, message, now)),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
    };
    Plan { status, again }
}

/// Evictions that are on their way: the pod is there, nobody began to end it, and it is not long
/// since.
fn still_disrupted(
    before: &PodDisruptionBudgetStatus,
    covered: &[&Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let waiting: BTreeSet<&str> = covered
        .iter()
        .filter(|pod| !pod::is_terminating(pod))
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect();
    let noted = before.disrupted_pods.clone().unwrap_or_default();
    noted
        .into_iter()
        .filter(|(name, since)| {
            waiting.contains(name.as_str()) && since.0.duration_until(now) < EVICTION_LIMIT
        })
        .collect()
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    let noted = pod.metadata.name.as_ref().is_some_and(|name| disrupted.contains_key(name));
    pod::is_ready(pod) && !pod::is_terminating(pod) && !noted
}

/// `(expected, desired)`: how many pods there should be, and how many must stay healthy.
fn aim(snapshot: &Snapshot<'_>, covered: &[&Arc<Pod>]) -> Result<(i32, i32), String> {
    let spec = snapshot.budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let expected = owned_size(snapshot, covered)?;
        let may_go = share::of(most, expected, Round::Up);
        return Ok((expected, (expected - may_go).max(0)));
    }
    match spec.min_available {
        Some(least @ IntOrString::String(_)) => {
            let expected = owned_size(snapshot, covered)?;
            Ok((expected, share::of(&least, expected, Round::Up)))
        }
        Some(IntOrString::Int(least)) => {
            Ok((i32::try_from(covered.len()).unwrap_or(i32::MAX), least.max(0)))
        }
        None => Ok((0, 0)),
    }
}

/// How many pods the covered ones' owners were told to keep; a pod without an owner counts for
/// nothing.
fn owned_size(snapshot: &Snapshot<'_>, covered: &[&Arc<Pod>]) -> Result<i32, String> {
    let mut sizes = BTreeMap::new();
    for pod in covered {
        let Some(owner) = controller_of(&pod.metadata) else { continue };
        if owner.kind == "StatefulSet" {
            let owns = |set: &&Arc<StatefulSet>| set.metadata.uid.as_deref() == Some(&owner.uid);
            if let Some(set) = snapshot.stateful_sets.iter().find(owns) {
                let size = set.spec.as_ref().and_then(|spec| spec.replicas);
                sizes.insert(&set.metadata.uid, size.unwrap_or(1));
            }
            continue;
        }
        if owner.kind != "ReplicaSet" {
            return Err(format!("{} {} has no scale", owner.kind, owner.name));
        }
        let is_owner =
            |set: &&Arc<ReplicaSet>| set.metadata.uid.as_deref() == Some(owner.uid.as_str());
        let Some(set) = snapshot.sets.iter().find(is_owner) else { continue };
        let above = controller_of(&set.metadata).and_then(|above| {
            let uid = Some(above.uid.as_str());
            snapshot.deployments.iter().find(|one| one.metadata.uid.as_deref() == uid)
        });
        let (uid, size) = match above {
            Some(deployment) => {
                (&deployment.metadata.uid, deployment.spec.as_ref().and_then(|spec| spec.replicas))
            }
            None => (&set.metadata.uid, set.spec.as_ref().and_then(|spec| spec.replicas)),
        };
        sizes.insert(uid, size.unwrap_or(1));
    }
    Ok(sizes.values().fold(0, |sum, size| sum.saturating_add(*size)))
}

fn condition(
    before: &PodDisruptionBudgetStatus,
    generation: Option<i64>,
    allowed: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let status = if allowed { "True" } else { "False" };
    let known = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = known
        .and_then(|at| conditions.get(at))
        .filter(|condition| condition.status == status)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match known {
        Some(at) => conditions.splice(at..=at, [condition]).for_each(drop),
        None => conditions.push(condition),
    }
    conditions
}
