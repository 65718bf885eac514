//! Pods bound to hollow nodes are told to be Running, and to be gone.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_daemon::Backoff;
use futures::StreamExt;
use http::{Request, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::client::Body;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::{Counts, Options, answered};

/// Times a request is tried; the watch brings the pod again when it changes.
const TRIES: u32 = 5;
/// The first of 100.64.0.0/10 (RFC 6598), which no pod range of a cluster should be.
const FIRST_ADDRESS: u32 = 0x6440_0000;
const ADDRESSES: u32 = 1 << 22;

/// Acknowledges for ever.
pub(super) async fn acknowledge(client: Client, options: &Options, counts: &Counts) {
    let bound = watcher::Config::default().fields("spec.nodeName!=").page_size(500);
    let addresses = &AtomicU32::new(1);
    let client = &client;
    watcher(Api::<Pod>::all(client.clone()), bound)
        .default_backoff()
        .applied_objects()
        .filter_map(async |pod| match pod {
            Ok(pod) => wanted(&pod, options).map(|step| (pod, step)),
            Err(error) => {
                tracing::warn!(%error, "the watch of pods broke, it is taken up again");
                None
            }
        })
        .for_each_concurrent(options.in_flight.max(1), |(pod, step)| async move {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
            for _ in 0..TRIES {
                match step.take(client, &pod, addresses).await {
                    Ok(()) => return Counts::one_more(step.counter(counts)),
                    Err(error) => {
                        tracing::debug!(%error, pod = pod.name_any(), "no acknowledgement yet");
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                }
            }
            Counts::one_more(&counts.failed);
        })
        .await;
}

/// What a node would do next about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Run,
    Remove,
}

fn wanted(pod: &Pod, options: &Options) -> Option<Step> {
    let node = pod.spec.as_ref()?.node_name.as_ref()?;
    if !options.owns(node) {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Step::Remove);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, None | Some("Pending")).then_some(Step::Run)
}

impl Step {
    fn counter(self, counts: &Counts) -> &std::sync::atomic::AtomicU64 {
        match self {
            Self::Run => &counts.running,
            Self::Remove => &counts.removed,
        }
    }

    async fn take(
        self,
        client: &Client,
        pod: &Pod,
        addresses: &AtomicU32,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let done = match self {
            Self::Run => {
                let number = addresses.fetch_add(1, Ordering::Relaxed) % ADDRESSES;
                let address = std::net::Ipv4Addr::from(FIRST_ADDRESS + number);
                let status = running(pod, &address.to_string(), &Timestamp::now().to_string());
                let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
                let path = format!("{}/{name}/status", pods.resource_url());
                answered(tell(client, &path, &patch)).await
            }
            Self::Remove => {
                let same = Preconditions { uid: pod.uid(), ..Preconditions::default() };
                let now = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(same),
                    ..DeleteParams::default()
                };
                answered(pods.delete(&name, &now)).await.map(drop)
            }
        };
        match done {
            Err(error) => match error.downcast_ref() {
                // Gone, or another pod of this name: nothing is left to acknowledge.
                Some(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Some(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
                _ => Err(error),
            },
            done => done,
        }
    }
}

/// A merge patch of which nothing is wanted back: a node knows what it said.
async fn tell(client: &Client, path: &str, patch: &Value) -> kube::Result<()> {
    let request = Request::patch(path).header(header::CONTENT_TYPE, "application/merge-patch+json");
    let request = request.body(Body::from(patch.to_string().into_bytes()));
    let answer = client.send(request.map_err(kube::Error::HttpError)?).await?;
    let code = answer.status();
    let bytes = answer.into_body().collect_bytes().await?;
    if code.is_success() {
        return Ok(());
    }
    let status = serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?;
    Err(kube::Error::Api(status))
}

/// The status of a pod all of whose containers run.
fn running(pod: &Pod, address: &str, now: &str) -> Value {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers: Vec<Value> = containers
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image.clone().unwrap_or_default(),
                "imageID": "",
                "containerID": format!("hollow://{}", pod.uid().unwrap_or_default()),
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": { "running": { "startedAt": now } },
            })
        })
        .collect();
    let kinds = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    let conditions =
        kinds.map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now }));
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "startTime": now,
        "conditions": conditions,
        "containerStatuses": containers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_is_acknowledged_once_and_only_on_a_hollow_node() {
        let options = Options {
            nodes: 2,
            prefix: "hollow".to_owned(),
            cores: 1,
            memory_gib: 1,
            pods: 1,
            gpus: 0,
            taint: false,
            in_flight: 1,
        };
        let on = |node: &str| json!({ "spec": { "nodeName": node, "containers": [] } });
        let mut bound = pod(on("hollow-1"));
        assert_eq!(wanted(&bound, &options), Some(Step::Run));
        assert_eq!(wanted(&pod(on("worker")), &options), None);
        let status = running(&bound, "100.64.0.1", "2026-01-01T00:00:00Z");
        bound.status = serde_json::from_value(status).unwrap();
        assert_eq!(wanted(&bound, &options), None);
        let gone = json!({
            "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": "hollow-0", "containers": [] },
        });
        assert_eq!(wanted(&pod(gone), &options), Some(Step::Remove));
    }
}
