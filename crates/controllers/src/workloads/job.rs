//! A Job runs pods until enough of them have succeeded.
//!
//! Counts what it sees: finished pods stay until the Job goes, and the counts in the status never
//! fall, so that a pod removed by hand is not run twice. Refuses the tracking finalizer, pod failure
//! policies and success policies.
//!
//! Source: Kubernetes' Job; Indexed completion from KEP-2214.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::Note;
use super::claim::{Claim, claim, picks};
use super::{pod, rank};

pub(crate) mod drive;
mod indexes;

/// The annotation and label with a pod's completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The wait after the first failed pod; it doubles with each further one.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// No wait is longer.
const LAST_WAIT: SignedDuration = SignedDuration::from_secs(600);
/// Pods made by one pass.
const BURST: usize = 500;

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The Job itself.
    pub job: &'a Job,
    /// Pods of its namespace: at least those it owns or picks.
    pub pods: &'a [Arc<Pod>],
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Orphans to take up.
    pub adopt: Vec<Arc<Pod>>,
    /// Pods to let go.
    pub release: Vec<Arc<Pod>>,
    /// One entry for each pod to make: its completion index in Indexed mode.
    pub create: Vec<Option<i32>>,
    /// Pods to remove.
    pub delete: Vec<Arc<Pod>>,
    /// The time to live after the end is over: the Job itself goes.
    pub expire: bool,
    /// The status to write, where it differs.
    pub status: Option<JobStatus>,
    /// What to tell people once the writes are done.
    pub notes: Vec<Note>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

struct Pods {
    active: Vec<Arc<Pod>>,
    succeeded: Vec<Arc<Pod>>,
    failed: Vec<Arc<Pod>>,
    terminating: i32,
}

/// Decides for one Job at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let job = snapshot.job;
    let Some(spec) = &job.spec else { return Plan::default() };
    let mut plan = Plan::default();
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return plan;
    }
    if job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    if let Some(ended) = ended_at(job) {
        // Its pods were told to end when it did; one that was not reached then is told now.
        plan.delete = gather(snapshot, spec, &mut plan).active;
        expire(spec, ended, now, &mut plan);
        return plan;
    }
    let pods = gather(snapshot, spec, &mut plan);
    let mut status = job.status.clone().unwrap_or_default();
    let suspended = spec.suspend == Some(true);
    // The deadline runs while the Job does.
    status.start_time = match (suspended, status.start_time.take()) {
        (true, _) => None,
        (false, since) => Some(since.unwrap_or(Time(now))),
    };
    let succeeded = count(&pods.succeeded).max(status.succeeded.unwrap_or(0));
    let failed = count(&pods.failed).max(status.failed.unwrap_or(0));
    status.succeeded = Some(succeeded).filter(|n| *n > 0);
    status.failed = Some(failed).filter(|n| *n > 0);

    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let done_indexes = indexes::done(&pods.succeeded, status.completed_indexes.as_deref(), spec);
    if indexed {
        status.completed_indexes = indexes::write(&done_indexes);
        status.succeeded = Some(count_of(done_indexes.len())).filter(|n| *n > 0);
    }
    let done = if indexed { count_of(done_indexes.len()) } else { succeeded };

    let end = verdict(spec, &status, &pods, done, failed, now);
    let mut active = pods.active.len();
    if let Some(end) = end {
        plan.delete = pods.active.clone();
        active = 0;
        finish(&mut status, end, now, &mut plan);
        if let Some(ttl) = spec.ttl_seconds_after_finished {
            plan.again = Some(Duration::from_secs(u64::from(ttl.unsigned_abs())));
        }
    } else if suspended {
        plan.delete = pods.active.clone();
        active = 0;
        suspend(&mut status, true, now, &mut plan);
    } else {
        suspend(&mut status, false, now, &mut plan);
        fill(spec, &pods, &done_indexes, done, failed, now, &mut plan);
        active = active + plan.create.len() - plan.delete.len();
        plan.again = plan.again.into_iter().chain(deadline_wait(spec, &status, now)).min();
    }
    status.active = Some(count_of(active)).filter(|n| *n > 0);
    let ready = pods.active.iter().filter(|p| pod::is_ready(p)).count();
    status.ready = Some(if active == 0 { 0 } else { count_of(ready) });
    status.terminating = Some(pods.terminating);
    plan.status = (job.status.as_ref() != Some(&status)).then_some(status);
    plan
}

fn gather(snapshot: &Snapshot<'_>, spec: &JobSpec, plan: &mut Plan) -> Pods {
    let picked = picks(&spec.selector.clone().unwrap_or_default());
    let mut pods = Pods { active: vec![], succeeded: vec![], failed: vec![], terminating: 0 };
    for pod in snapshot.pods {
        match claim(&snapshot.job.metadata, &pod.metadata, picked(&pod.metadata)) {
            Claim::Ours => {}
            Claim::Adopt => plan.adopt.push(pod.clone()),
            Claim::Release => {
                plan.release.push(pod.clone());
                continue;
            }
            Claim::Foreign => continue,
        }
        match pod::phase(pod) {
            "Succeeded" => pods.succeeded.push(pod.clone()),
            "Failed" => pods.failed.push(pod.clone()),
            _ if pod::is_terminating(pod) => pods.terminating += 1,
            _ => pods.active.push(pod.clone()),
        }
    }
    pods
}

#[derive(Clone, Copy)]
enum End {
    Complete,
    Failed(&'static str, &'static str),
}

/// Whether the Job is over, and how.
fn verdict(
    spec: &JobSpec,
    status: &JobStatus,
    pods: &Pods,
    done: i32,
    failed: i32,
    now: Timestamp,
) -> Option<End> {
    let limit = spec.backoff_limit.unwrap_or(6);
    // A pod that is restarted in place fails without ending.
    let restarts: i32 = pods.active.iter().map(|pod| restarts(pod)).sum();
    let in_place = restarts_in_place(spec) && restarts > 0 && restarts >= limit.max(1);
    if failed > limit || in_place {
        return Some(End::Failed(
            "BackoffLimitExceeded",
            "More pods failed than backoffLimit allows",
        ));
    }
    if deadline(spec, status).is_some_and(|end| end <= now) {
        return Some(End::Failed(
            "DeadlineExceeded",
            "The Job ran longer than activeDeadlineSeconds",
        ));
    }
    let complete = match spec.completions {
        Some(completions) => done >= completions,
        // A work queue: one success says that the queue is empty, the rest run out.
        None => done > 0 && pods.active.is_empty() && pods.terminating == 0,
    };
    complete.then_some(End::Complete)
}

fn finish(status: &mut JobStatus, end: End, now: Timestamp, plan: &mut Plan) {
    let conditions = status.conditions.get_or_insert_default();
    match end {
        End::Complete => {
            let text = "Reached expected number of succeeded pods";
            set(conditions, "SuccessCriteriaMet", "True", "CompletionsReached", text, now);
            set(conditions, "Complete", "True", "CompletionsReached", text, now);
            status.completion_time = Some(Time(now));
            plan.notes.push(Note { reason: "Completed", message: "Job completed".into() });
        }
        End::Failed(reason, text) => {
            set(conditions, "FailureTarget", "True", reason, text, now);
            set(conditions, "Failed", "True", reason, text, now);
            plan.notes.push(Note { reason, message: text.into() });
        }
    }
}

fn suspend(status: &mut JobStatus, suspended: bool, now: Timestamp, plan: &mut Plan) {
    let conditions = status.conditions.get_or_insert_default();
    let was = conditions.iter().find(|c| c.type_ == "Suspended").map(|c| c.status == "True");
    if was.unwrap_or(false) != suspended {
        let (value, reason, text) = if suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        set(conditions, "Suspended", value, reason, text, now);
        let reason = if suspended { "Suspended" } else { "Resumed" };
        plan.notes.push(Note { reason, message: text.into() });
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
}

/// How many pods, and of which indexes, are to be made or removed.
fn fill(
    spec: &JobSpec,
    pods: &Pods,
    done_indexes: &BTreeSet<i32>,
    done: i32,
    failed: i32,
    now: Timestamp,
    plan: &mut Plan,
) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match spec.completions {
        Some(completions) => usize::try_from(completions - done).unwrap_or(0).min(parallelism),
        // No new pods once one has succeeded.
        None if done > 0 => pods.active.len().min(parallelism),
        None => parallelism,
    };
    if pods.active.len() > wanted {
        let mut order = pods.active.clone();
        rank::sort(&mut order, &pods.active, now);
        order.truncate(pods.active.len() - wanted);
        plan.delete = order;
        return;
    }
    let missing = (wanted - pods.active.len()).min(BURST);
    if missing == 0 {
        return;
    }
    if let Some(wait) = backoff(&pods.failed, failed, now) {
        plan.again = Some(wait);
        return;
    }
    plan.create = if spec.completion_mode.as_deref() == Some("Indexed") {
        let busy: BTreeSet<i32> = pods.active.iter().filter_map(|p| indexes::of(p)).collect();
        let all = 0..spec.completions.unwrap_or(0);
        let free = all.filter(|index| !done_indexes.contains(index) && !busy.contains(index));
        free.take(missing).map(Some).collect()
    } else {
        vec![None; missing]
    };
}

/// How long to wait since the last failure before the next pod.
fn backoff(failed: &[Arc<Pod>], count: i32, now: Timestamp) -> Option<Duration> {
    let last = failed.iter().filter_map(|pod| failed_at(pod)).max()?;
    let doublings = u32::try_from(count.saturating_sub(1)).unwrap_or(0).min(16);
    let wait = FIRST_WAIT.checked_mul(1 << doublings).unwrap_or(LAST_WAIT).min(LAST_WAIT);
    let end = last.checked_add(wait).ok()?;
    (end > now).then(|| super::until(end, now))
}

/// When the pod's last container ended; the agent's word, else the pod's last change.
fn failed_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ended = status.container_statuses.iter().flatten().filter_map(|container| {
        let state = container.state.as_ref()?.terminated.as_ref()?;
        state.finished_at.as_ref().map(|time| time.0)
    });
    let changed =
        status.conditions.iter().flatten().filter_map(|c| c.last_transition_time.as_ref());
    ended
        .max()
        .or_else(|| changed.map(|time| time.0).max())
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

fn restarts_in_place(spec: &JobSpec) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy == Some("OnFailure")
}

fn deadline(spec: &JobSpec, status: &JobStatus) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    status.start_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn deadline_wait(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    deadline(spec, status).map(|end| super::until(end, now))
}

/// When the Job ended, if it has.
fn ended_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over =
        |c: &&JobCondition| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True";
    let end = conditions.iter().find(over)?;
    Some(end.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

fn expire(spec: &JobSpec, ended: Timestamp, now: Timestamp, plan: &mut Plan) {
    let Some(ttl) = spec.ttl_seconds_after_finished else { return };
    let at = ended.checked_add(SignedDuration::from_secs(i64::from(ttl))).unwrap_or(ended);
    if at <= now {
        plan.expire = true;
    } else {
        plan.again = Some(super::until(at, now));
    }
}

fn set(
    conditions: &mut Vec<JobCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// The reference that makes a Job the controller of its pods.
pub(crate) fn owner(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod of `job`, for `index` in Indexed mode.
pub(crate) fn pod_for(job: &Job, index: Option<i32>) -> Option<Pod> {
    let spec = job.spec.as_ref()?;
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pod::from_template(&spec.template, namespace, owner(&job.metadata), &[]);
    if let Some(index) = index {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let text = index.to_string();
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
        pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), text.clone());
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), text);
        if let Some(spec) = &mut pod.spec {
            spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
            let containers =
                spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            for container in containers {
                tell_index(container.env.get_or_insert_default());
            }
        }
    }
    Some(pod)
}

/// Adds the variable by which a container learns its index.
fn tell_index(env: &mut Vec<EnvVar>) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    if env.iter().any(|var| var.name == NAME) {
        return;
    }
    let field_path = format!("metadata.annotations['{INDEX}']");
    let field = ObjectFieldSelector { field_path, api_version: None };
    let value_from = EnvVarSource { field_ref: Some(field), ..Default::default() };
    env.push(EnvVar { name: NAME.into(), value_from: Some(value_from), value: None });
}

fn count(pods: &[Arc<Pod>]) -> i32 {
    count_of(pods.len())
}

fn count_of(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
