//! A CronJob makes Jobs by the clock.
//!
//! Each pass asks which moment of the schedule was the last one, and makes its Job unless that was
//! done, came too late, or another one still runs and must not be overtaken. Moments missed before
//! the last one are not made up for. A Job is named after its moment, so that none is made twice.
//!
//! Source: Kubernetes' CronJob controller v2 (KEP-19), time zones from KEP-3140.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::Note;
use super::claim::controller_of;
use schedule::Schedule;

pub(crate) mod drive;
mod schedule;

/// The annotation with the moment that a Job was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed moments than this are told: a clock was wrong, or a controller away for long.
const MANY_MISSED: usize = 100;

/// What a plan is made from.
pub(crate) struct Snapshot<'a> {
    /// The CronJob itself.
    pub cron: &'a CronJob,
    /// Jobs of its namespace: at least those it owns.
    pub jobs: &'a [Arc<Job>],
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Jobs to remove: replaced ones, and finished ones that history no longer keeps.
    pub delete: Vec<Arc<Job>>,
    /// The Job whose moment has come.
    pub create: Option<Job>,
    /// The status to write first; the Job's reference is added once it is made.
    pub status: CronJobStatus,
    /// What to tell people.
    pub notes: Vec<Note>,
    /// When to look again although nothing changes.
    pub again: Option<Duration>,
}

/// Decides for one CronJob at `now`.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let cron = snapshot.cron;
    let spec = &cron.spec;
    let status = cron.status.clone().unwrap_or_default();
    let mut plan = Plan { status, ..Plan::default() };
    let own = |job: &&Arc<Job>| {
        controller_of(&job.metadata).map(|owner| &owner.uid) == cron.metadata.uid.as_ref()
    };
    let jobs: Vec<Arc<Job>> = snapshot.jobs.iter().filter(own).cloned().collect();
    observe(&jobs, &mut plan);
    forget(spec, &jobs, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    match Schedule::read(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => make(cron, spec, &schedule, &jobs, now, &mut plan),
        Err(note) => plan.notes.push(note),
    }
    plan
}

/// Which Jobs run, and which have ended since the last look.
fn observe(jobs: &[Arc<Job>], plan: &mut Plan) {
    let known = plan.status.active.take().unwrap_or_default();
    let is_known = |job: &Job| known.iter().any(|one| one.uid == job.metadata.uid);
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match ended(job) {
            Some(how) if is_known(job) => {
                let message = format!("Saw completed job: {name}, condition: {how}");
                plan.notes.push(Note { reason: "SawCompletedJob", message });
            }
            _ => {}
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if completed > plan.status.last_successful_time {
            plan.status.last_successful_time = completed;
        }
    }
    for one in &known {
        if !jobs.iter().any(|job| job.metadata.uid == one.uid) {
            let name = one.name.as_deref().unwrap_or_default();
            let message = format!("Active job went missing: {name}");
            plan.notes.push(Note { reason: "MissingJob", message });
        }
    }
    let active: Vec<_> =
        jobs.iter().filter(|job| ended(job).is_none()).map(|job| reference(job)).collect();
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// How a Job ended, if it has.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over = conditions
        .iter()
        .find(|one| one.status == "True" && matches!(one.type_.as_str(), "Complete" | "Failed"))?;
    Some(over.type_.as_str())
}

/// What the status says about a running Job.
pub(crate) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Finished Jobs beyond what history keeps go, oldest first.
fn forget(spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (how, limit) in limits {
        let mut over: Vec<_> = jobs
            .iter()
            .filter(|job| ended(job) == Some(how) && job.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect();
        over.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|status| status.start_time.clone());
            (started, job.metadata.name.clone())
        });
        let kept = usize::try_from(limit).unwrap_or(0);
        let surplus = over.len().saturating_sub(kept);
        plan.delete.extend(over.into_iter().take(surplus));
    }
}

/// Makes the Job of the last moment that has come, if it is due.
fn make(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    jobs: &[Arc<Job>],
    now: Timestamp,
    plan: &mut Plan,
) {
    plan.again = schedule.next(now).map(|next| super::until(next, now));
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let begin = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
    let since = last.unwrap_or(made).max(begin.unwrap_or(Timestamp::MIN));
    let missed = schedule.between(since, now, MANY_MISSED + 1);
    if missed.count > MANY_MISSED {
        let message = format!(
            "too many missed start times: more than {MANY_MISSED}. Set or decrease \
             .spec.startingDeadlineSeconds or check clock skew"
        );
        plan.notes.push(Note { reason: "TooManyMissedTimes", message });
    }
    let Some(moment) = missed.last.filter(|moment| Some(*moment) != last) else { return };
    let name = job_name(cron, moment);
    if jobs.iter().any(|job| job.metadata.name.as_ref() == Some(&name)) {
        plan.status.last_schedule_time = Some(Time(moment));
        return;
    }
    let running: Vec<_> = jobs.iter().filter(|job| ended(job).is_none()).cloned().collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            plan.notes.push(Note { reason: "JobAlreadyActive", message: message.to_owned() });
            return;
        }
        Some("Replace") => {
            plan.delete.extend(running);
            plan.status.active = None;
        }
        _ => {}
    }
    plan.create = Some(job_for(cron, spec, schedule, name, moment));
    plan.status.last_schedule_time = Some(Time(moment));
}

/// One name for each minute of the schedule, short enough for the labels of its pods.
fn job_name(cron: &CronJob, moment: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", moment.as_second() / 60)
}

fn job_for(
    cron: &CronJob,
    spec: &CronJobSpec,
    schedule: &Schedule,
    name: String,
    moment: Timestamp,
) -> Job {
    let given = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), schedule.local(moment));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner(&cron.metadata)]),
            ..Default::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// The reference that makes a CronJob the controller of its Jobs.
pub(crate) fn owner(meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "batch/v1".into(),
        kind: "CronJob".into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests;
