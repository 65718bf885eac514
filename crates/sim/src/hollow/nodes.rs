//! Hollow nodes come and go.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::{Counts, LABEL, Options, answered};

/// The namespace of nodes' leases.
pub(super) const LEASES: &str = "kube-node-lease";
/// Objects a page.
const PAGE: u32 = 500;

/// What could not be done.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Registers every node with its lease; those that are there already are taken over.
///
/// # Errors
/// The first refusal.
pub async fn register(client: &Client, options: &Options, counts: &Counts) -> Result<(), Failure> {
    stream::iter(0..options.nodes)
        .map(|index| register_one(client, options, index, counts))
        .buffer_unordered(options.in_flight.max(1))
        .try_collect::<()>()
        .await
}

async fn register_one(
    client: &Client,
    options: &Options,
    index: usize,
    counts: &Counts,
) -> Result<(), Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let name = options.name(index);
    let node: Node = serde_json::from_value(node(options, &name))?;
    let made = match answered(nodes.create(&PostParams::default(), &node)).await {
        Err(error) if exists(&error) => answered(nodes.get(&name)).await?,
        made => made?,
    };
    let status = json!({ "status": status(options, &name) });
    answered(nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))).await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let lease = json!({
        "metadata": {
            "name": name,
            "labels": { LABEL: "true" },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": name,
                "uid": made.uid().unwrap_or_default(),
            }],
        },
        "spec": lease(&name),
    });
    let lease: Lease = serde_json::from_value(lease)?;
    match answered(leases.create(&PostParams::default(), &lease)).await {
        Err(error) if !exists(&error) => return Err(error),
        _ => {}
    }
    Counts::one_more(&counts.nodes);
    Ok(())
}

/// Removes all hollow nodes, whoever made them, their leases and the pods bound to them. Returns how
/// many nodes there were.
///
/// # Errors
/// The first refusal.
pub async fn clean(client: &Client, in_flight: usize) -> Result<usize, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let label = format!("{LABEL}=true");
    let mut names = std::collections::HashSet::new();
    let mut page = ListParams::default().labels(&label).limit(PAGE);
    loop {
        let found = answered(nodes.list_metadata(&page)).await?;
        names.extend(found.items.iter().map(ResourceExt::name_any));
        match found.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => break,
        }
    }
    let mut page = ListParams::default().limit(PAGE);
    let mut bound = Vec::new();
    loop {
        let found = answered(Api::<Pod>::all(client.clone()).list(&page)).await?;
        let ours = |pod: &Pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            node.is_some_and(|node| names.contains(node))
        };
        let pods = found.items.into_iter().filter(ours);
        bound.extend(pods.map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())));
        match found.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => break,
        }
    }
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let (at_once, width) = (&at_once, in_flight.max(1));
    stream::iter(bound)
        .map(|(namespace, name)| async move {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            gone(answered(pods.delete(&name, at_once)).await.map(drop))
        })
        .buffer_unordered(width)
        .try_collect::<()>()
        .await?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let (nodes, leases) = (&nodes, &leases);
    stream::iter(&names)
        .map(|name| async move {
            let plain = DeleteParams::default();
            gone(answered(leases.delete(name, &plain)).await.map(drop))?;
            gone(answered(nodes.delete(name, &plain)).await.map(drop))
        })
        .buffer_unordered(width)
        .try_collect::<()>()
        .await?;
    Ok(names.len())
}

fn node(options: &Options, name: &str) -> Value {
    let taint = json!([{ "key": LABEL, "value": "true", "effect": "NoSchedule" }]);
    json!({
        "metadata": {
            "name": name,
            "labels": {
                LABEL: "true",
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
            },
        },
        "spec": if options.taint { json!({ "taints": taint }) } else { json!({}) },
        "status": status(options, name),
    })
}

pub(super) fn status(options: &Options, name: &str) -> Value {
    let mut room = json!({
        "cpu": options.cores.to_string(),
        "memory": format!("{}Gi", options.memory_gib),
        "pods": options.pods.to_string(),
        "ephemeral-storage": "1Ti",
    });
    if options.gpus > 0 {
        room["nvidia.com/gpu"] = json!(options.gpus.to_string());
    }
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "a hollow node",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    json!({
        "capacity": room,
        "allocatable": room,
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
        "addresses": [{ "type": "Hostname", "address": name }],
        "nodeInfo": {
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "hollow://1",
            "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0-hollow",
            "machineID": "", "operatingSystem": "linux", "osImage": "hollow", "systemUUID": "",
        },
    })
}

pub(super) fn lease(name: &str) -> Value {
    // The API's times of leases have microseconds.
    let now = format!("{:.6}", Timestamp::now());
    json!({ "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now })
}

fn exists(error: &Failure) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.is_already_exists())
}

/// What is gone already need not be removed.
fn gone(removed: Result<(), Failure>) -> Result<(), Failure> {
    match removed {
        Err(error) => match error.downcast_ref() {
            Some(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            _ => Err(error),
        },
        done => done,
    }
}
