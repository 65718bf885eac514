//! A ReplicaSet keeps as many pods of one template as it says.
//!
//! The plan only counts pods; that none is made twice while a cache lags is the driver's care: it
//! plans again on what it read from the API server before it makes or removes a pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::claim::{Claim, claim, controller_of, picks};
use super::{pod, rank};

pub(crate) mod drive;

/// Pods made or removed by one pass, as Kubernetes bounds it: a set of ten thousand must not keep
/// its worker for minutes.
const BURST: usize = 500;

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The set itself.
    pub set: &'a ReplicaSet,
    /// Pods of its namespace: at least those it owns or picks, and its siblings'.
    pub pods: &'a [Arc<Pod>],
    /// UIDs of the sets with the same controller, this one among them.
    pub siblings: &'a BTreeSet<String>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Orphans to take up.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods to let go.
    pub release: Vec<Arc<Pod>>,
    /// How many to make.
    pub create: usize,
    /// Which to remove.
    pub delete: Vec<Arc<Pod>>,
    /// The status to write, where it differs from the one there.
    pub status: Option<ReplicaSetStatus>,
    /// When to look again although nothing changes: the next pod becomes available.
    pub again: Option<Duration>,
}

impl Plan {
    /// Whether it changes any pod.
    pub(crate) fn acts(&self) -> bool {
        self.create > 0
            || !(self.adopt.is_empty() && self.release.is_empty() && self.delete.is_empty())
    }
}

/// Decides for one set at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let set = snapshot.set;
    let Some(spec) = &set.spec else { return Plan::default() };
    let picked = picks(&spec.selector);
    let mut plan = Plan::default();
    let mut ours: Vec<Arc<Pod>> = Vec::new();
    let mut terminating = 0;
    for pod in snapshot.pods {
        match claim(&set.metadata, &pod.metadata, picked(&pod.metadata)) {
            Claim::Ours if pod::is_active(pod) => ours.push(pod.clone()),
            Claim::Ours if pod::is_terminating(pod) => terminating += 1,
            Claim::Adopt if pod::is_active(pod) => {
                plan.adopt.push(pod.clone());
                ours.push(pod.clone());
            }
            Claim::Release => plan.release.push(pod.clone()),
            _ => {}
        }
    }
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        if ours.len() < wanted {
            plan.create = (wanted - ours.len()).min(BURST);
        } else if ours.len() > wanted {
            let related = snapshot.pods.iter().filter(|p| is_related(p, snapshot)).cloned();
            let related: Vec<_> = related.collect();
            let surplus = (ours.len() - wanted).min(BURST);
            let mut order = ours.clone();
            rank::sort(&mut order, &related, now);
            order.truncate(surplus);
            plan.delete = order;
        }
    }
    let (status, again) = status(set, &ours, terminating, now);
    plan.again = again;
    plan.status = (set.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn is_related(pod: &Pod, snapshot: &Snapshot<'_>) -> bool {
    controller_of(&pod.metadata).is_some_and(|owner| snapshot.siblings.contains(&owner.uid))
}

fn status(
    set: &ReplicaSet,
    ours: &[Arc<Pod>],
    terminating: i32,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template_labels = spec
        .and_then(|spec| spec.template.as_ref())
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    let carries_all = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels.iter().all(|(k, v)| labels.and_then(|all| all.get(k)) == Some(v))
    };
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(ours.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&carries_all)),
        ready_replicas: Some(count(&pod::is_ready)),
        available_replicas: Some(count(&|p| pod::is_available(p, min_ready, now))),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let waits = ours.iter().filter_map(|p| pod::available_from(p, min_ready));
    let next = waits.filter(|from| *from > now).min();
    (status, next.map(|from| super::until(from, now)))
}

/// `status` with the outcome of making or removing pods written into it: the `ReplicaFailure`
/// condition is there exactly while the last attempt failed.
pub(crate) fn with_outcome(
    mut status: ReplicaSetStatus,
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let mut conditions = status.conditions.take().unwrap_or_default();
    let before = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    let before = before.map(|at| conditions.remove(at));
    if let Some((reason, message)) = failure {
        let since = before.filter(|c| c.reason.as_deref() == Some(reason));
        let since = since.and_then(|c| c.last_transition_time).unwrap_or(Time(now));
        conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
        });
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}

#[cfg(test)]
mod tests;
