//! Waits for what was installed, and says what a pod that does not come says of itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::manifests::Workload;
use crate::failure::{Exit, Failure};
use crate::pods;
use crate::progress::Steps;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// After so long without a change a pod's warnings are told too.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// How long trouble may last before it is taken for final: a first pull may fail by chance.
const TROUBLE_FOR: Duration = Duration::from_secs(20);

/// Waits until every one of `workloads` has rolled out.
///
/// # Errors
/// [`Exit::Rollout`] when pods have trouble that lasts, or after `patience`.
pub async fn ready(
    client: &Client,
    workloads: &[Workload],
    image: &str,
    patience: Duration,
    steps: &mut Steps,
) -> Result<()> {
    let until = Instant::now() + patience;
    for workload in workloads {
        steps.begin(format!("{} is ready", workload.name));
        one(client, workload, image, until, steps).await?;
    }
    steps.done();
    Ok(())
}

async fn one(
    client: &Client,
    workload: &Workload,
    image: &str,
    until: Instant,
    steps: &mut Steps,
) -> Result<()> {
    let Workload { namespace, name, .. } = workload;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let (mut said, mut since, begun) = (String::new(), None, Instant::now());
    loop {
        let state = State::read(client, workload).await;
        let state = state.with_context(|| format!("reading {name}"))?;
        if state.is_rolled_out {
            return Ok(());
        }
        let found = pods.list(&ListParams::default().labels(&state.selector)).await;
        let mut found = found.with_context(|| format!("listing the pods of {name}"))?;
        // What is wrong with those that are on their way out is what this is to mend.
        found.items.retain(|pod| image_of(pod.spec.as_ref()) == state.image.as_ref());
        let trouble = found.iter().find_map(|pod| {
            let why = pods::trouble(pod).or_else(|| unplaced(pod))?;
            Some(format!("pod {}: {why}", pod.name_any()))
        });
        let told = match &trouble {
            None if begun.elapsed() > QUIET_FOR => warned(&events, &found.items).await?,
            _ => trouble.clone(),
        };
        let line = match told {
            Some(told) => format!("{} of {}, {told}", state.ready, state.wanted),
            None => format!("{} of {}", state.ready, state.wanted),
        };
        let now = Instant::now();
        since = trouble.as_ref().and(since.or(Some(now)));
        let lasts = since.is_some_and(|since| now.duration_since(since) > TROUBLE_FOR);
        if lasts || now > until {
            let message = format!("{namespace}/{name} is not ready: {line}");
            let hint = hint(&line, image, namespace);
            return Err(Failure::new(Exit::Rollout, message, hint).into());
        }
        if line != said {
            steps.note(&line);
            said = line;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn image_of(spec: Option<&PodSpec>) -> Option<&String> {
    spec?.containers.first()?.image.as_ref()
}

/// What was last told of one of the pods that are not ready.
async fn warned(events: &Api<Event>, found: &[Pod]) -> Result<Option<String>> {
    let Some(pod) = found.iter().find(|pod| !pods::is_ready(pod)) else { return Ok(None) };
    let name = pod.name_any();
    let fields = format!("involvedObject.name={name},type=Warning");
    let told = events.list(&ListParams::default().fields(&fields)).await;
    let told = told.with_context(|| format!("listing the events of {name}"))?;
    let last = told.items.into_iter().max_by_key(|event| {
        event.last_timestamp.clone().or(event.metadata.creation_timestamp.clone()).map(|at| at.0)
    });
    Ok(last.map(|event| {
        let reason = event.reason.unwrap_or_default();
        format!("pod {name}: {reason}: {}", event.message.unwrap_or_default())
    }))
}

fn hint(line: &str, image: &str, namespace: &str) -> String {
    if line.contains("Image") {
        return format!(
            "the nodes need the image {image}: push it where they pull, or bring it to each \
             (berth install --save-image FILE --image {image}), and install again"
        );
    }
    format!("see `kubectl -n {namespace} describe pods`")
}

/// Why the scheduler has no node for it.
fn unplaced(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let placed = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
    let no = placed.status == "False" && placed.reason.as_deref() == Some("Unschedulable");
    no.then(|| format!("no node takes it: {}", placed.message.as_deref().unwrap_or_default()))
}

fn text_of(selector: &LabelSelector) -> String {
    let pairs = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// How far a Deployment or a DaemonSet is.
#[derive(Debug, Default, PartialEq)]
struct State {
    wanted: i32,
    ready: i32,
    is_rolled_out: bool,
    /// Which pods are its own.
    selector: String,
    /// The image of the new ones.
    image: Option<String>,
}

impl State {
    async fn read(client: &Client, workload: &Workload) -> kube::Result<Self> {
        let Workload { namespace, name, is_on_each_node } = workload;
        if *is_on_each_node {
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
            return Ok(Self::of_daemons(&api.get(name).await?));
        }
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        Ok(Self::of(&api.get(name).await?))
    }

    fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let wanted = spec.replicas.unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let observed = status.observed_generation >= deployment.metadata.generation;
        let updated = status.updated_replicas.unwrap_or(0);
        let available = status.available_replicas.unwrap_or(0);
        let only_new = status.replicas.unwrap_or(0) == updated;
        Self {
            wanted,
            ready: if observed { available.min(updated) } else { 0 },
            is_rolled_out: observed && only_new && updated == wanted && available >= wanted,
            selector: text_of(&spec.selector),
            image: image_of(spec.template.spec.as_ref()).cloned(),
        }
    }

    fn of_daemons(set: &DaemonSet) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let observed = status.observed_generation >= set.metadata.generation;
        let wanted = status.desired_number_scheduled;
        let updated = status.updated_number_scheduled.unwrap_or(0);
        let available = status.number_available.unwrap_or(0);
        Self {
            wanted,
            ready: if observed { available.min(updated) } else { 0 },
            is_rolled_out: observed && updated >= wanted && available >= wanted,
            selector: text_of(&spec.selector),
            image: image_of(spec.template.spec.as_ref()).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn old_pods_are_not_taken_for_new_ones() {
        let check = |generation: i64, status: serde_json::Value, expected: (i32, bool)| {
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": { "generation": generation },
                "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": status,
            }))
            .unwrap();
            let state = State::of(&deployment);
            assert_eq!((state.ready, state.is_rolled_out), expected, "{status}");
        };
        let all = json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2,
            "availableReplicas": 2 });
        check(2, all.clone(), (2, true));
        check(3, all, (0, false));
        let surge = json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 1,
            "availableReplicas": 2 });
        check(2, surge, (1, false));
        check(1, json!({}), (0, false));
    }

    #[test]
    fn a_daemon_on_each_node_is_waited_for() {
        let check = |generation: i64, status: serde_json::Value, expected: (i32, bool)| {
            let set: DaemonSet = serde_json::from_value(json!({
                "metadata": { "generation": generation },
                "spec": { "selector": {}, "template": {} }, "status": status,
            }))
            .unwrap();
            let state = State::of_daemons(&set);
            assert_eq!((state.ready, state.is_rolled_out), expected, "{status}");
        };
        let of = |updated: i32, available: i32| {
            json!({ "observedGeneration": 2, "desiredNumberScheduled": 3,
                "currentNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": available,
                "updatedNumberScheduled": updated, "numberAvailable": available })
        };
        check(2, of(3, 3), (3, true));
        check(3, of(3, 3), (0, false));
        check(2, of(1, 3), (1, false));
        check(2, of(3, 2), (2, false));
    }

    #[test]
    fn what_keeps_a_pod_from_a_node_is_said() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/1 nodes are available" } ] } }))
        .unwrap();
        assert_eq!(unplaced(&pod).as_deref(), Some("no node takes it: 0/1 nodes are available"));
        assert!(hint("ErrImagePull: no", "b:1", "x").contains("--save-image"));
    }
}
