//! What one pass over a CronJob does, case by case.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2030-01-01T12:00:30Z";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn cron(spec: Value, status: Value) -> CronJob {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "c",
            "creationTimestamp": "2030-01-01T11:00:00Z"},
        "spec": {"schedule": "*/10 * * * *", "jobTemplate": {
            "metadata": {"labels": {"app": "c"}, "annotations": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": []}}}}},
        "status": status,
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("a CronJob")
}

fn job(name: &str, how: Option<&str>, started: &str) -> Arc<Job> {
    let conditions: Vec<Value> =
        how.iter().map(|how| json!({"type": how, "status": "True"})).collect();
    let completed = (how == Some("Complete")).then_some(started);
    let value = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "c",
                "controller": true}]},
        "status": {"conditions": conditions, "startTime": started, "completionTime": completed},
    });
    Arc::new(serde_json::from_value(value).expect("a Job"))
}

fn check(cron: &CronJob, jobs: &[Arc<Job>]) -> Plan {
    plan(&Snapshot { cron, jobs }, at(NOW))
}

fn made(plan: &Plan) -> Option<&str> {
    plan.create.as_ref()?.metadata.name.as_deref()
}

fn names(jobs: &[Arc<Job>]) -> Vec<&str> {
    jobs.iter().filter_map(|job| job.metadata.name.as_deref()).collect()
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| note.reason).collect()
}

/// 2030-01-01T12:00:00Z in minutes.
const NOON: &str = "c-31558320";

#[test]
fn the_last_moment_gets_its_job_and_no_other() {
    let plan = check(&cron(json!({}), json!({})), &[]);
    assert_eq!(made(&plan), Some(NOON));
    assert_eq!(plan.status.last_schedule_time, Some(Time(at("2030-01-01T12:00:00Z"))));
    let made = plan.create.expect("a Job");
    let annotations = made.metadata.annotations.expect("annotations");
    assert_eq!(annotations[SCHEDULED], "2030-01-01T12:00:00Z");
    assert_eq!((annotations["a"].as_str(), made.metadata.labels.is_some()), ("b", true));
    let wait = plan.again.expect("it looks again");
    assert!(wait > Duration::from_secs(569) && wait < Duration::from_secs(571), "{wait:?}");
}

#[test]
fn a_moment_that_was_served_is_not_served_again() {
    let last = json!({"lastScheduleTime": "2030-01-01T12:00:00Z"});
    assert_eq!(made(&check(&cron(json!({}), last), &[])), None);
    // The status was not written, the Job was made.
    let there = [job(NOON, None, "2030-01-01T12:00:01Z")];
    let plan = check(&cron(json!({}), json!({})), &there);
    assert_eq!(made(&plan), None);
    assert!(plan.status.last_schedule_time.is_some());
}

#[test]
fn what_comes_too_late_is_left_out() {
    let since = json!({"lastScheduleTime": "2030-01-01T11:50:00Z"});
    let check = |deadline: i64, expected| {
        let plan = check(&cron(json!({"startingDeadlineSeconds": deadline}), since.clone()), &[]);
        assert_eq!(made(&plan), expected, "{deadline}");
    };
    check(60, Some(NOON));
    check(29, None);
}

#[test]
fn a_running_job_is_overtaken_waited_for_or_replaced() {
    let running = [job("c-1", None, "2030-01-01T11:50:01Z")];
    let policy = |policy: &str| {
        let last = json!({"lastScheduleTime": "2030-01-01T11:50:00Z"});
        check(&cron(json!({"concurrencyPolicy": policy}), last), &running)
    };
    let allow = policy("Allow");
    assert!(made(&allow).is_some() && allow.delete.is_empty());
    let forbid = policy("Forbid");
    assert!(made(&forbid).is_none() && reasons(&forbid) == ["JobAlreadyActive"]);
    assert_ne!(forbid.status.last_schedule_time, Some(Time(at("2030-01-01T12:00:00Z"))));
    let replace = policy("Replace");
    assert!(made(&replace).is_some() && names(&replace.delete) == ["c-1"]);
}

#[test]
fn nothing_is_made_while_it_is_suspended_or_going() {
    assert_eq!(made(&check(&cron(json!({"suspend": true}), json!({})), &[])), None);
    let mut going = cron(json!({}), json!({}));
    going.metadata.deletion_timestamp = Some(Time(at(NOW)));
    assert_eq!(made(&check(&going, &[])), None);
}

#[test]
fn history_keeps_the_latest_of_each_kind() {
    let jobs = [
        job("ok-1", Some("Complete"), "2030-01-01T11:10:00Z"),
        job("ok-2", Some("Complete"), "2030-01-01T11:20:00Z"),
        job("bad-1", Some("Failed"), "2030-01-01T11:15:00Z"),
        job("bad-2", Some("Failed"), "2030-01-01T11:25:00Z"),
    ];
    let limits = json!({"successfulJobsHistoryLimit": 1, "suspend": true});
    let plan = check(&cron(limits, json!({})), &jobs);
    assert_eq!(names(&plan.delete), ["ok-1", "bad-1"]);
    assert_eq!(plan.status.last_successful_time, Some(Time(at("2030-01-01T11:20:00Z"))));
}

#[test]
fn the_status_says_what_runs_and_events_what_ended() {
    let active = json!({"active": [{"name": "c-1", "uid": "c-1"}, {"name": "lost", "uid": "l"}]});
    let jobs = [
        job("c-1", Some("Complete"), "2030-01-01T11:50:00Z"),
        job("c-2", None, "2030-01-01T11:51:00Z"),
    ];
    let mut status = active;
    status["lastScheduleTime"] = json!("2030-01-01T12:00:00Z");
    let plan = check(&cron(json!({}), status), &jobs);
    assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
    let running = plan.status.active.expect("one runs");
    assert_eq!(running.iter().filter_map(|one| one.name.as_deref()).collect::<Vec<_>>(), ["c-2"]);
}

#[test]
fn a_clock_that_jumps_makes_one_job_and_a_note() {
    let long_ago = json!({"lastScheduleTime": "2029-01-01T00:00:00Z"});
    let plan = check(&cron(json!({}), long_ago), &[]);
    assert_eq!((made(&plan), reasons(&plan)), (Some(NOON), vec!["TooManyMissedTimes"]));
    let ahead = json!({"lastScheduleTime": "2031-01-01T00:00:00Z"});
    assert_eq!(made(&check(&cron(json!({}), ahead), &[])), None);
}

#[test]
fn what_cannot_be_read_is_told_and_history_still_kept_small() {
    let jobs = [
        job("bad-1", Some("Failed"), "2030-01-01T11:15:00Z"),
        job("bad-2", Some("Failed"), "2030-01-01T11:25:00Z"),
    ];
    let plan = check(&cron(json!({"timeZone": "Moon/Crater"}), json!({})), &jobs);
    assert_eq!((reasons(&plan), names(&plan.delete)), (vec!["UnknownTimeZone"], vec!["bad-1"]));
}
