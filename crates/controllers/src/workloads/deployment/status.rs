//! What a Deployment says of itself, and whether its rollout moves, is done or is stuck.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Plan, Sets, Wanted, available};
use crate::workloads::until;

/// The value at which `progressDeadlineSeconds` means "no deadline".
const NO_DEADLINE: i32 = i32::MAX;

/// Writes the status into the plan where it differs from the one there.
pub(super) fn write(plan: &mut Plan, wanted: &Wanted<'_>, sets: &Sets, now: Timestamp) {
    let before = wanted.deployment.status.clone().unwrap_or_default();
    let mut status = count(wanted, sets);
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let minimum = status.available_replicas.unwrap_or(0) >= wanted.replicas - wanted.unavailable;
    let available = if minimum {
        ("True", "MinimumReplicasAvailable", "As many replicas are available as there must be.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Fewer replicas are available than there must be.")
    };
    set(&mut conditions, "Available", available, now, false);
    match failure(sets) {
        Some(failed) => {
            let reason = failed.reason.as_deref().unwrap_or("FailedCreate");
            let message = failed.message.as_deref().unwrap_or_default();
            set(&mut conditions, "ReplicaFailure", ("True", reason, message), now, false);
        }
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
    plan.again = progress(&mut conditions, plan, wanted, sets, &before, &status, now);
    status.conditions = Some(conditions);
    plan.status = (wanted.deployment.status.as_ref() != Some(&status)).then_some(status);
}

/// Notes in `status` that the new set could not be made.
pub(super) fn create_failed(status: &mut DeploymentStatus, error: &str, now: Timestamp) {
    let message = format!("Failed to create new replica set: {error}");
    let conditions = status.conditions.get_or_insert_default();
    set(conditions, "Progressing", ("False", "ReplicaSetCreateError", &message), now, false);
}

/// Whether everything that was asked for is there, and nothing else.
pub(super) fn complete(wanted: &Wanted<'_>, sets: &Sets) -> bool {
    let status = count(wanted, sets);
    sets.new.is_some()
        && status.updated_replicas == Some(wanted.replicas)
        && status.replicas == Some(wanted.replicas)
        && status.available_replicas == Some(wanted.replicas)
}

fn count(wanted: &Wanted<'_>, sets: &Sets) -> DeploymentStatus {
    let sum = |f: &dyn Fn(&ReplicaSet) -> i32| sets.all().map(|set| f(set)).sum::<i32>();
    let replicas = sum(&|set| set.status.as_ref().map_or(0, |status| status.replicas));
    let available = sum(&available);
    let updated = sets.new.as_ref().and_then(|new| new.status.as_ref()).map_or(0, |s| s.replicas);
    let ready = sum(&|set| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
    let ending = sum(&|set| set.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0));
    let size: i32 = sets.total();
    DeploymentStatus {
        observed_generation: wanted.deployment.metadata.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        unavailable_replicas: Some((size - available).max(0)),
        terminating_replicas: Some(ending),
        collision_count: wanted.deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: None,
    }
}

fn progress(
    conditions: &mut Vec<DeploymentCondition>,
    plan: &Plan,
    wanted: &Wanted<'_>,
    sets: &Sets,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = wanted.spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == NO_DEADLINE {
        conditions.retain(|condition| condition.type_ != "Progressing");
        return None;
    }
    let name = wanted.deployment.metadata.name.as_deref().unwrap_or_default();
    let new = plan.create.as_ref().or(sets.new.as_deref());
    let new = new.and_then(|set| set.metadata.name.as_deref()).unwrap_or(name);
    let current = conditions.iter().find(|condition| condition.type_ == "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.as_deref()).unwrap_or_default();
    if wanted.paused() {
        if reason != "DeploymentPaused" {
            let paused = ("Unknown", "DeploymentPaused", "The rollout is paused.");
            set(conditions, "Progressing", paused, now, true);
        }
        return None;
    }
    if reason == "DeploymentPaused" {
        let resumed = ("Unknown", "DeploymentResumed", "The rollout goes on.");
        set(conditions, "Progressing", resumed, now, true);
        return Some(Duration::from_secs(u64::from(deadline.unsigned_abs())));
    }
    if plan.create.is_some() {
        let message = format!("Created new replica set \"{new}\"");
        set(conditions, "Progressing", ("True", "NewReplicaSetCreated", &message), now, true);
    } else if complete(wanted, sets) {
        let message = format!("ReplicaSet \"{new}\" has successfully progressed.");
        let fresh = reason != "NewReplicaSetAvailable";
        set(conditions, "Progressing", ("True", "NewReplicaSetAvailable", &message), now, fresh);
        return None;
    } else if reason == "NewReplicaSetAvailable"
        && status.updated_replicas == status.replicas
        && !plan_moves(plan)
    {
        // A finished rollout whose pods come and go is not a rollout that is late.
        return None;
    } else if current.is_none() {
        let message = format!("Found new replica set \"{new}\"");
        set(conditions, "Progressing", ("True", "FoundNewReplicaSet", &message), now, true);
    } else if advanced(before, status) {
        let message = format!("ReplicaSet \"{new}\" is progressing.");
        set(conditions, "Progressing", ("True", "ReplicaSetUpdated", &message), now, true);
    } else if reason != "ProgressDeadlineExceeded" {
        let since = current.and_then(|c| c.last_update_time).map_or(now, |time| time.0);
        let end = since.checked_add(SignedDuration::from_secs(i64::from(deadline))).unwrap_or(now);
        if end > now {
            return Some(until(end, now));
        }
        let message = format!("ReplicaSet \"{new}\" has timed out progressing.");
        set(conditions, "Progressing", ("False", "ProgressDeadlineExceeded", &message), now, true);
        return None;
    } else {
        return None;
    }
    Some(Duration::from_secs(u64::from(deadline.unsigned_abs())) + Duration::from_millis(20))
}

fn plan_moves(plan: &Plan) -> bool {
    plan.create.is_some() || !plan.update.is_empty()
}

fn advanced(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    let old = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(after.updated_replicas) > n(before.updated_replicas)
        || old(after) < old(before)
        || n(after.ready_replicas) > n(before.ready_replicas)
        || n(after.available_replicas) > n(before.available_replicas)
}

fn failure(sets: &Sets) -> Option<ReplicaSetCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True").cloned()
    };
    sets.new.as_deref().and_then(of).or_else(|| sets.old.iter().find_map(|set| of(set)))
}

/// Sets a condition; its times move only with its content, `lastUpdateTime` also when `touch` says
/// that the same state was reached anew.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
    touch: bool,
) {
    let at = conditions.iter().position(|condition| condition.type_ == type_);
    let before = at.map(|at| conditions[at].clone());
    let same =
        before.as_ref().is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason));
    if same && !touch {
        return;
    }
    let kept = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
    let condition = DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(kept.unwrap_or(Time(now))),
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}
