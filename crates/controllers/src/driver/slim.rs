//! Pods as a scheduler and its advice read them: without environments, probes, mounts, and most of their status.
//!
//! What is left out of an object is neither decoded nor kept: a pod of a real cluster is mostly that.
//! The type is the whole pod's, so that whoever reads it need not know; who writes a pod back must
//! not take it from here.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{ListParams, ObjectList, WatchEvent};
use kube::core::Request;
use kube::{Api, Client};
use serde::Deserialize;
use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};

use super::feed::{Changes, Feed, watch_params};
use super::read::{changes, page};

/// All pods that `client` may read.
pub struct SlimPods {
    client: Client,
    path: String,
}

impl SlimPods {
    /// See the type.
    pub fn new(client: Client) -> Self {
        let all = Api::<core::Pod>::all(client.clone());
        Self { client, path: all.resource_url().to_owned() }
    }
}

impl Feed<core::Pod> for SlimPods {
    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<core::Pod>> {
        let request = Request::new(&self.path).list(params).map_err(kube::Error::BuildRequest)?;
        let found: ObjectList<Slim> = page(&self.client, request).await?;
        let items = found.items.into_iter().map(core::Pod::from).collect();
        Ok(ObjectList { types: found.types, metadata: found.metadata, items })
    }

    async fn watch(&self, version: &str) -> kube::Result<Changes<core::Pod>> {
        let request = Request::new(&self.path).watch(&watch_params(None), version);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let events = changes::<Slim>(&self.client, request).await?;
        let whole = |event| match event {
            WatchEvent::Added(pod) => WatchEvent::Added(core::Pod::from(pod)),
            WatchEvent::Modified(pod) => WatchEvent::Modified(core::Pod::from(pod)),
            WatchEvent::Deleted(pod) => WatchEvent::Deleted(core::Pod::from(pod)),
            WatchEvent::Bookmark(bookmark) => WatchEvent::Bookmark(bookmark),
            WatchEvent::Error(status) => WatchEvent::Error(status),
        };
        Ok(events.map_ok(whole).boxed())
    }

    fn fields(&self) -> Option<&str> {
        None
    }
}

/// Defines a struct with the fields of another that are read; those after `and` are of such structs
/// themselves, with how they are made whole.
macro_rules! part_of {
    ($name:ident of $whole:ty { $($field:ident: $kind:ty),* $(,)? }
        and { $($part:ident: $slim:ty => $by:ident),* $(,)? }) => {
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct $name { $($field: $kind,)* $($part: $slim,)* }

        impl From<$name> for $whole {
            #[allow(clippy::needless_update)] // a Pod has no further fields, the others do
            fn from(part: $name) -> Self {
                Self { $($field: part.$field,)* $($part: $by(part.$part),)* ..Self::default() }
            }
        }
    };
}

fn one<P, W: From<P>>(part: Option<P>) -> Option<W> {
    part.map(W::from)
}

fn all<P, W: From<P>>(parts: Vec<P>) -> Vec<W> {
    parts.into_iter().map(W::from).collect()
}

fn some<P, W: From<P>>(parts: Option<Vec<P>>) -> Option<Vec<W>> {
    parts.map(all)
}

part_of!(Slim of core::Pod { metadata: ObjectMeta }
    and { spec: Option<Spec> => one, status: Option<Status> => one });

part_of!(Spec of core::PodSpec {
    affinity: Option<core::Affinity>,
    host_network: Option<bool>,
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    overhead: Option<BTreeMap<String, Quantity>>,
    preemption_policy: Option<String>,
    priority: Option<i32>,
    priority_class_name: Option<String>,
    resources: Option<core::ResourceRequirements>,
    scheduler_name: Option<String>,
    scheduling_gates: Option<Vec<core::PodSchedulingGate>>,
    tolerations: Option<Vec<core::Toleration>>,
    topology_spread_constraints: Option<Vec<core::TopologySpreadConstraint>>,
} and {
    containers: Vec<Container> => all,
    init_containers: Option<Vec<Container>> => some,
    volumes: Option<Vec<Volume>> => some,
});

part_of!(Container of core::Container {
    image: Option<String>,
    name: String,
    ports: Option<Vec<core::ContainerPort>>,
    resources: Option<core::ResourceRequirements>,
    restart_policy: Option<String>,
} and {});

part_of!(Volume of core::Volume {
    aws_elastic_block_store: Option<core::AWSElasticBlockStoreVolumeSource>,
    ephemeral: Option<core::EphemeralVolumeSource>,
    gce_persistent_disk: Option<core::GCEPersistentDiskVolumeSource>,
    iscsi: Option<core::ISCSIVolumeSource>,
    name: String,
    persistent_volume_claim: Option<core::PersistentVolumeClaimVolumeSource>,
    rbd: Option<core::RBDVolumeSource>,
} and {});

part_of!(Status of core::PodStatus {
    conditions: Option<Vec<core::PodCondition>>,
    nominated_node_name: Option<String>,
    phase: Option<String>,
    start_time: Option<Time>,
} and {
    container_statuses: Option<Vec<Ran>> => some,
    init_container_statuses: Option<Vec<Ran>> => some,
});

part_of!(Ran of core::ContainerStatus {
    allocated_resources: Option<BTreeMap<String, Quantity>>,
    last_state: Option<core::ContainerState>,
    name: String,
    ready: bool,
    resources: Option<core::ResourceRequirements>,
    restart_count: i32,
    state: Option<core::ContainerState>,
} and {});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod with everything that a scheduler reads, and some that it does not.
    fn pod() -> Value {
        let amounts = json!({ "cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1" });
        let container = json!({ "name": "web", "image": "web:1", "command": ["serve"],
            "env": [{ "name": "A", "value": "b" }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            "ports": [{ "containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1" }],
            "livenessProbe": { "httpGet": { "path": "/", "port": 80 } },
            "resources": { "requests": amounts, "limits": amounts } });
        let starter = json!({ "name": "start", "restartPolicy": "Always",
            "resources": { "requests": { "cpu": "2" } } });
        let term = json!({ "matchExpressions": [{ "key": "disk", "operator": "In",
            "values": ["ssd"] }] });
        let near = json!({ "topologyKey": "zone", "namespaces": ["shop"],
            "labelSelector": { "matchLabels": { "app": "web" } } });
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "web-0", "namespace": "shop", "uid": "1", "resourceVersion": "7",
                "labels": { "app": "web", "pod-template-hash": "5d4" },
                "annotations": { "scheduling.berth.dev/gang": "g",
                    "scheduling.berth.dev/gang-min": "3",
                    "scheduling.berth.dev/rebuild": "preferred" },
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web-5d4", "uid": "2", "controller": true }] },
            "spec": {
                "nodeName": "node-1", "priority": 5, "priorityClassName": "high",
                "preemptionPolicy": "Never", "schedulerName": "berth", "hostNetwork": false,
                "terminationGracePeriodSeconds": 30, "serviceAccountName": "default",
                "containers": [container], "initContainers": [starter],
                "overhead": { "cpu": "10m" }, "resources": { "requests": { "memory": "4Gi" } },
                "nodeSelector": { "arch": "amd64" },
                "tolerations": [{ "key": "a", "operator": "Exists", "effect": "NoSchedule" }],
                "schedulingGates": [{ "name": "wait" }],
                "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": { "matchLabels": { "app": "web" } } }],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [term] },
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            { "weight": 2, "preference": term }] },
                    "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [near] },
                    "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                        { "weight": 3, "podAffinityTerm": near }] } },
                "volumes": [
                    { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
                    { "name": "scratch", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } },
                    { "name": "gce", "gcePersistentDisk": { "pdName": "d", "readOnly": true } },
                    { "name": "aws", "awsElasticBlockStore": { "volumeID": "v" } },
                    { "name": "iscsi", "iscsi": { "iqn": "i", "lun": 0, "targetPortal": "t" } },
                    { "name": "rbd", "rbd": { "image": "r", "monitors": ["m"] } },
                    { "name": "token", "projected": { "sources": [] } }],
            },
            "status": { "phase": "Running", "podIP": "10.0.0.9", "nominatedNodeName": "node-2",
                "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{ "type": "PodScheduled", "status": "True" },
                    { "type": "PodResizePending", "status": "True", "reason": "Deferred" }],
                "containerStatuses": [{ "name": "web", "image": "web:1", "imageID": "x",
                    "ready": true, "restartCount": 1, "allocatedResources": { "cpu": "3" },
                    "resources": { "requests": { "cpu": "3" } } }] },
        })
    }

    #[test]
    fn the_scheduler_reads_the_same_of_a_slim_pod() {
        let whole: core::Pod = serde_json::from_value(pod()).unwrap();
        let slim = core::Pod::from(serde_json::from_value::<Slim>(pod()).unwrap());
        let read = |pod: &core::Pod| format!("{:?}", berth_scheduler::snapshot::pod(pod));
        assert_eq!(read(&slim), read(&whole));
        assert_eq!(slim.metadata, whole.metadata);
        let gates = |pod: &core::Pod| pod.spec.as_ref().and_then(|it| it.scheduling_gates.clone());
        assert_eq!(gates(&slim), gates(&whole));
        let status =
            |pod: &core::Pod| pod.status.clone().map(|status| (status.phase, status.conditions));
        assert_eq!(status(&slim), status(&whole));
        let spec = slim.spec.unwrap();
        assert!(spec.containers[0].env.is_none() && spec.service_account_name.is_none());
    }
}
