//! Waits for what was installed, and says what a pod that does not come says of itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Pod, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::failure::{Exit, Failure};
use crate::pods;
use crate::progress::Steps;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// After so long without a change a pod's warnings are told too.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// How long trouble may last before it is taken for final: a first pull may fail by chance.
const TROUBLE_FOR: Duration = Duration::from_secs(20);

/// Waits until every one of `deployments` has rolled out.
///
/// # Errors
/// [`Exit::Rollout`] when pods have trouble that lasts, or after `patience`.
pub async fn ready(
    client: &Client,
    deployments: &[(String, String)],
    image: &str,
    patience: Duration,
    steps: &mut Steps,
) -> Result<()> {
    let until = Instant::now() + patience;
    for (namespace, name) in deployments {
        steps.begin(format!("{name} is ready"));
        one(client, namespace, name, image, until, steps).await?;
    }
    steps.done();
    Ok(())
}

async fn one(
    client: &Client,
    namespace: &str,
    name: &str,
    image: &str,
    until: Instant,
    steps: &mut Steps,
) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let (mut said, mut since, begun) = (String::new(), None, Instant::now());
    loop {
        let deployment = deployments.get(name).await.with_context(|| format!("reading {name}"))?;
        let state = State::of(&deployment);
        if state.is_rolled_out {
            return Ok(());
        }
        let labels = selector(&deployment);
        let found = pods.list(&ListParams::default().labels(&labels)).await;
        let mut found = found.with_context(|| format!("listing the pods of {name}"))?;
        // What is wrong with those that are on their way out is what this is to mend.
        let new = template_image(&deployment);
        found.items.retain(|pod| image_of(pod.spec.as_ref()) == new);
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

fn template_image(deployment: &Deployment) -> Option<&String> {
    image_of(deployment.spec.as_ref()?.template.spec.as_ref())
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

fn selector(deployment: &Deployment) -> String {
    let spec = deployment.spec.as_ref();
    let labels = spec.and_then(|spec| spec.selector.match_labels.as_ref());
    let pairs = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// How far a Deployment is.
#[derive(Debug, PartialEq)]
struct State {
    wanted: i32,
    ready: i32,
    is_rolled_out: bool,
}

impl State {
    fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let observed = status.observed_generation >= deployment.metadata.generation;
        let updated = status.updated_replicas.unwrap_or(0);
        let available = status.available_replicas.unwrap_or(0);
        let only_new = status.replicas.unwrap_or(0) == updated;
        let is_rolled_out = observed && only_new && updated == wanted && available >= wanted;
        Self { wanted, ready: if observed { available.min(updated) } else { 0 }, is_rolled_out }
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
    fn what_keeps_a_pod_from_a_node_is_said() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/1 nodes are available" } ] } }))
        .unwrap();
        assert_eq!(unplaced(&pod).as_deref(), Some("no node takes it: 0/1 nodes are available"));
        assert!(hint("ErrImagePull: no", "b:1", "x").contains("--save-image"));
    }
}
