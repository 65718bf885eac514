//! Pods as they ended, and what a Job does next.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2030-01-01T01:00:00Z".parse().expect("a time")
}

fn job(spec: serde_json::Value) -> Job {
    let mut value = json!({
        "metadata": {"name": "sum", "namespace": "default", "uid": "j1"},
        "spec": {
            "selector": {"matchLabels": {"job": "sum"}},
            "template": {"metadata": {"labels": {"job": "sum"}},
                "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}
        }
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("a job")
}

fn pod(job: &Job, name: &str, phase: &str, index: Option<i32>) -> Arc<Pod> {
    let mut pod = pod_for(job, index).expect("it has a template");
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    let status = json!({"phase": phase, "containerStatuses": [{
        "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 1, "finishedAt": "2030-01-01T00:59:55Z"}}}]});
    pod.status = serde_json::from_value(status).ok();
    Arc::new(pod)
}

fn check(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(&Snapshot { job, pods }, now())
}

fn ended(plan: &Plan) -> Option<(&str, &str)> {
    let conditions = plan.status.as_ref()?.conditions.as_ref()?;
    let end = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed"))?;
    Some((&end.type_, end.reason.as_deref()?))
}

#[test]
fn as_many_pods_run_as_are_still_needed() {
    let three = job(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(check(&three, &[]).create.len(), 2);
    let done = |n: i32| (0..n).map(|i| pod(&three, &format!("s{i}"), "Succeeded", None));
    assert_eq!(check(&three, &done(2).collect::<Vec<_>>()).create.len(), 1);
    let plan = check(&three, &done(3).collect::<Vec<_>>());
    assert_eq!(ended(&plan), Some(("Complete", "CompletionsReached")));
    assert!(plan.create.is_empty());
}

#[test]
fn a_work_queue_ends_when_one_succeeded_and_none_runs() {
    let queue = job(json!({"parallelism": 2}));
    let done = pod(&queue, "s", "Succeeded", None);
    let running = pod(&queue, "r", "Running", None);
    let plan = check(&queue, &[done.clone(), running]);
    assert!(plan.create.is_empty() && ended(&plan).is_none());
    assert_eq!(ended(&check(&queue, &[done])), Some(("Complete", "CompletionsReached")));
}

#[test]
fn a_failed_pod_is_made_anew_after_a_wait_and_only_so_often() {
    let once = job(json!({"completions": 1, "backoffLimit": 1}));
    let plan = check(&once, &[pod(&once, "f0", "Failed", None)]);
    assert!(plan.create.is_empty());
    assert_eq!(plan.again, Some(Duration::from_millis(5_020)));
    let failed = [pod(&once, "f0", "Failed", None), pod(&once, "f1", "Failed", None)];
    assert_eq!(ended(&check(&once, &failed)), Some(("Failed", "BackoffLimitExceeded")));
}

#[test]
fn a_job_past_its_deadline_fails_and_its_pods_go() {
    let mut late = job(json!({"completions": 1, "activeDeadlineSeconds": 60}));
    let start = "2030-01-01T00:00:00Z".parse().expect("a time");
    late.status = Some(JobStatus { start_time: Some(Time(start)), ..Default::default() });
    let plan = check(&late, &[pod(&late, "r", "Running", None)]);
    assert_eq!(ended(&plan), Some(("Failed", "DeadlineExceeded")));
    assert_eq!(plan.delete.len(), 1);
}

#[test]
fn a_suspended_job_has_no_pods_and_goes_on_when_resumed() {
    let mut stopped = job(json!({"completions": 1, "suspend": true}));
    let plan = check(&stopped, &[pod(&stopped, "r", "Running", None)]);
    assert_eq!((plan.delete.len(), plan.create.len()), (1, 0));
    stopped.status = plan.status;
    stopped.spec.as_mut().expect("a spec").suspend = Some(false);
    let plan = check(&stopped, &[]);
    assert_eq!(plan.create.len(), 1);
    assert_eq!(plan.notes[0].reason, "Resumed");
}

#[test]
fn each_index_runs_until_it_has_succeeded() {
    let indexed = job(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    let pods = [pod(&indexed, "a", "Succeeded", Some(1)), pod(&indexed, "b", "Running", Some(0))];
    let plan = check(&indexed, &pods);
    assert_eq!(plan.create, [Some(2), Some(3)]);
    assert_eq!(plan.status.expect("a status").completed_indexes.as_deref(), Some("1"));
    let made = pod_for(&indexed, Some(2)).expect("a pod");
    assert_eq!(made.metadata.generate_name.as_deref(), Some("sum-2-"));
    let env = made.spec.expect("a spec").containers[0].env.clone().expect("variables");
    assert_eq!(env[0].name, "JOB_COMPLETION_INDEX");
}

#[test]
fn a_finished_job_goes_after_its_time_to_live() {
    let mut done = job(json!({"completions": 1, "ttlSecondsAfterFinished": 100}));
    let at = |end: &str| {
        let condition = json!({"type": "Complete", "status": "True", "lastTransitionTime": end});
        serde_json::from_value(json!({"conditions": [condition]})).ok()
    };
    done.status = at("2030-01-01T00:59:00Z");
    let plan = check(&done, &[]);
    assert_eq!((plan.expire, plan.again), (false, Some(Duration::from_millis(40_020))));
    done.status = at("2030-01-01T00:50:00Z");
    assert!(check(&done, &[]).expire);
}
