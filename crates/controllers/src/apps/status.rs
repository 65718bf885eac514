//! How an App is: read off its workload and its pods.

use std::sync::Arc;

use berth_api::app::{App, AppCondition, AppStatus, Drifted};
use berth_api::release;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;

use super::template::selector;
use crate::releases::transfer::Side;

/// Why a container waits that will not start by waiting alone.
const FAILURES: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// What others did is shown for the last so many fields.
const DRIFT_SHOWN: usize = 20;

/// What an App's status is read off.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its Deployment, if it has one.
    pub deployment: Option<Arc<Deployment>>,
    /// Its StatefulSet, if it has one.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// The candidate of a release.
    pub candidate: Option<Side>,
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Where it answers.
    pub url: Option<String>,
    /// The release that runs or is on its way.
    pub release: Option<String>,
    /// The number of the release whose instances alone get requests, while others stand beside.
    pub only: Option<String>,
    /// What others did just now.
    pub drifted: Vec<Drifted>,
}

/// The status of `app`; a condition keeps its time while its status stays.
pub fn plan(app: &App, seen: &Seen, now: Timestamp) -> AppStatus {
    let name = app.metadata.name.as_deref().unwrap_or_default();
    let (mut replicas, mut ready, updated) = counts(app, seen);
    if let Some(candidate) = seen.candidate {
        replicas += candidate.there;
        ready += candidate.available;
    }
    let mut selector = selector(name);
    // What an autoscaler averages over and multiplies with. Instances that only stand by are not
    // asked for: counted, they would be, and then as many again stand by.
    selector.extend(seen.only.iter().map(|only| (release::LABEL.to_owned(), only.clone())));
    let selector: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let before = app.status.clone().unwrap_or_default();
    let mut conditions = conditions(app, seen);
    for condition in &mut conditions {
        let same = before
            .conditions
            .iter()
            .find(|known| known.kind == condition.kind && known.status == condition.status);
        condition.last_transition_time = match same {
            Some(known) => known.last_transition_time.clone(),
            None => Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        };
    }
    AppStatus {
        observed_generation: app.metadata.generation,
        replicas,
        ready_replicas: ready,
        updated_replicas: updated,
        ready: format!("{ready}/{}", app.spec.replicas),
        url: seen.url.clone(),
        selector: Some(selector.join(",")),
        release: seen.release.clone(),
        drift: drift(before.drift, &seen.drifted),
        conditions,
    }
}

/// There, ready, of the newest version.
fn counts(app: &App, seen: &Seen) -> (i32, i32, i32) {
    if app.spec.is_stateful() {
        let status = seen.stateful_set.as_ref().and_then(|set| set.status.clone());
        let status = status.unwrap_or_default();
        let updated = status.updated_replicas.unwrap_or(0);
        return (status.replicas, status.ready_replicas.unwrap_or(0), updated);
    }
    let status = seen.deployment.as_ref().and_then(|deployment| deployment.status.clone());
    let status = status.unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    (status.replicas.unwrap_or(0), ready, status.updated_replicas.unwrap_or(0))
}

/// What was known and what is new; the same fact is told once.
fn drift(mut known: Vec<Drifted>, new: &[Drifted]) -> Vec<Drifted> {
    for one in new {
        let told = one.outcome == "kept"
            && known.iter().any(|old| {
                (&old.object, &old.field, &old.found, &old.outcome)
                    == (&one.object, &one.field, &one.found, &one.outcome)
            });
        if !told {
            known.push(one.clone());
        }
    }
    let old = known.len().saturating_sub(DRIFT_SHOWN);
    known.split_off(old)
}

fn conditions(app: &App, seen: &Seen) -> Vec<AppCondition> {
    let pods = &seen.pods;
    let of = |kind: &str| {
        let status = seen.deployment.as_ref().and_then(|deployment| deployment.status.as_ref());
        let mut all = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let found = all.find(|condition| condition.type_ == kind);
        AppCondition {
            kind: kind.to_owned(),
            status: found.map_or("Unknown", |found| found.status.as_str()).to_owned(),
            reason: found.and_then(|found| found.reason.clone()).unwrap_or_default(),
            message: found.and_then(|found| found.message.clone()).unwrap_or_default(),
            last_transition_time: None,
        }
    };
    // A StatefulSet has no conditions of its own.
    let by_count = |kind: &str, holds: bool| AppCondition {
        kind: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: String::new(),
        message: String::new(),
        last_transition_time: None,
    };
    let (available, progressing) = if app.spec.is_stateful() {
        let (replicas, ready, _) = counts(app, seen);
        let whole = ready >= app.spec.replicas;
        (by_count("Available", whole), by_count("Progressing", !whole || replicas > ready))
    } else {
        (of("Available"), of("Progressing"))
    };
    let (status, reason, message) = match pods.iter().find_map(|pod| failure(pod)) {
        Some((reason, message)) => ("True", reason, message),
        None => ("False", String::new(), String::new()),
    };
    let failing = AppCondition {
        kind: "Failing".to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: None,
    };
    vec![available, progressing, failing]
}

/// Why an instance does not run, if there is such a reason.
fn failure(pod: &Pod) -> Option<(String, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let unplaced = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unplaced {
        let message = condition.message.as_deref().unwrap_or_default();
        return Some(("Unschedulable".to_owned(), format!("{name}: {message}")));
    }
    let containers =
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).find_map(
        |waiting| {
            let reason = waiting.reason.as_deref().filter(|reason| FAILURES.contains(reason))?;
            let message = waiting.message.as_deref().unwrap_or(reason);
            Some((reason.to_owned(), format!("{name}: {message}")))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(deployment: Value, pods: Value, known: Option<AppStatus>) -> AppStatus {
        let mut app: App = serde_json::from_value(json!({
            "apiVersion": "berth.dev/v1", "kind": "App",
            "metadata": { "name": "hello", "generation": 4 },
            "spec": { "image": "hello:1", "replicas": 3 },
        }))
        .unwrap();
        app.status = known;
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let seen = Seen { deployment: Some(Arc::new(deployment)), pods, ..Seen::default() };
        plan(&app, &seen, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn counts_come_from_the_deployment_and_times_stay_while_nothing_changes() {
        let deployment = json!({ "status": { "replicas": 4, "readyReplicas": 2, "updatedReplicas": 1,
            "conditions": [{ "type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable" }] } });
        let first = check(deployment.clone(), json!([]), None);
        assert_eq!((first.ready.as_str(), first.replicas, first.updated_replicas), ("2/3", 4, 1));
        assert_eq!(first.observed_generation, Some(4));
        assert_eq!(first.conditions[0].reason, "MinimumReplicasUnavailable");
        assert_eq!(first.conditions[2].status, "False");
        let mut known = first;
        known.conditions[0].last_transition_time = Some("earlier".into());
        let again = check(deployment, json!([]), Some(known));
        assert_eq!(again.conditions[0].last_transition_time.as_deref(), Some("earlier"));
    }

    #[test]
    fn an_autoscaler_is_shown_only_those_that_get_requests() {
        let app: App = serde_json::from_value(json!({
            "apiVersion": "berth.dev/v1", "kind": "App",
            "metadata": { "name": "hello" }, "spec": { "image": "hello:1" },
        }))
        .unwrap();
        let all = "app.kubernetes.io/instance=hello,app.kubernetes.io/name=hello";
        for (only, expected) in
            [(None, all.to_owned()), (Some("2"), format!("{all},berth.dev/release=2"))]
        {
            let seen = Seen { only: only.map(str::to_owned), ..Seen::default() };
            let status = plan(&app, &seen, Timestamp::UNIX_EPOCH);
            assert_eq!(status.selector, Some(expected));
        }
    }

    #[test]
    fn an_image_that_does_not_come_is_told() {
        let pod = json!([{ "metadata": { "name": "hello-1" }, "status": { "containerStatuses": [{
            "name": "hello", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } }] } }]);
        let status = check(json!({}), pod, None);
        let failing = &status.conditions[2];
        assert_eq!(failing.status, "True");
        assert_eq!(failing.reason, "ErrImagePull");
        assert_eq!(failing.message, "hello-1: not found");
        assert_eq!(failing.last_transition_time.as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
