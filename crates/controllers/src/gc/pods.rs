//! Removes pods that nobody else can: those bound to a node that is no more.
//!
//! The node agent ends a pod's containers and then lets its object go; without a node there is no
//! agent. A node that vanished may come back under its name, so there is a pause, and the API server
//! itself is asked before anything is removed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::driver::{Controller, Error, Queue, World, gone_is_none};

/// How long a node may be away before its pods are given up, as in Kubernetes.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Removes pods of vanished nodes.
pub struct LostPods;

impl Controller for LostPods {
    const NAME: &'static str = "pod-garbage-collector";
    const WORKERS: usize = 1;
    /// The name of a node that may be gone.
    type Key = String;

    fn wire(&self, world: &World, queue: &Queue<String>) {
        let own = queue.clone();
        world.nodes.subscribe(move |change| {
            if change.new.is_none()
                && let Some(name) = &change.latest().metadata.name
            {
                own.add_after(name.clone(), QUARANTINE);
            }
        });
        let own = queue.clone();
        let nodes = world.nodes.clone();
        world.pods.subscribe(move |change| {
            let Some(pod) = change.new else { return };
            if let Some(name) = node_of(pod)
                && nodes.get("", name).is_none()
            {
                own.add_after(name.to_owned(), QUARANTINE);
            }
        });
    }

    async fn reconcile(&self, world: &World, name: &String) -> Result<Option<Duration>, Error> {
        let nodes: Api<Node> = Api::all(world.client.clone());
        if world.nodes.get("", name).is_some() || nodes.get_opt(name).await?.is_some() {
            return Ok(None);
        }
        for pod in world.pods.all().iter().filter(|pod| node_of(pod) == Some(name)) {
            let (Some(pod_name), Some(namespace)) = (&pod.metadata.name, &pod.metadata.namespace)
            else {
                continue;
            };
            let api: Api<Pod> = world.api(namespace);
            if !is_over(pod) {
                // Owners count it as failed from now on, and make another.
                let patch = Patch::Merge(json!({
                    "metadata": { "uid": pod.metadata.uid },
                    "status": { "phase": "Failed", "reason": "NodeLost",
                        "message": format!("node {name} is no more") },
                }));
                gone_is_none(api.patch_status(pod_name, &PatchParams::default(), &patch).await)?;
            }
            tracing::info!(pod = %pod_name, node = %name, "removed: its node is no more");
            let uid = pod.metadata.uid.clone();
            let params = DeleteParams::default()
                .grace_period(0)
                .preconditions(Preconditions { uid, resource_version: None });
            gone_is_none(api.delete(pod_name, &params).await)?;
        }
        Ok(None)
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
