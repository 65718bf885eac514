//! What is done to a pod while it runs: claims mounted, resources changed, a container added.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::node::{self, Node};

#[tokio::test(flavor = "multi_thread")]
async fn a_claims_directory_is_made_mounted_and_removed() {
    let Some(mut node) = Node::start(6).await else { return };
    let place = node.config.volumes_dir().join("pv-a");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(node.client(), "default");
    let volumes: Api<PersistentVolume> = Api::all(node.client());
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "volumeName": "pv-a", "storageClassName": "l",
                  "resources": { "requests": { "storage": "1Gi" } } },
    });
    let claim = serde_json::from_value(claim).expect("a claim");
    let claim = claims.create(&PostParams::default(), &claim).await.expect("created");
    let params = PatchParams::default();
    let bound = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
    claims.patch_status("data", &params, &bound).await.expect("bound");
    let volume = json!({
        "metadata": { "name": "pv-a", "finalizers": ["berth.dev/local-path"],
            "annotations": { "pv.kubernetes.io/provisioned-by": "berth.dev/local-path" } },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "l", "persistentVolumeReclaimPolicy": "Delete",
            "local": { "path": place },
            "claimRef": { "namespace": "default", "name": "data", "uid": claim.metadata.uid },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In",
                  "values": [node.config.name] }] }] } },
        },
    });
    let volume = serde_json::from_value(volume).expect("a volume");
    volumes.create(&PostParams::default(), &volume).await.expect("created");
    // The controller that guards volumes in use does not run here.
    let unguarded = Patch::Merge(json!({ "metadata": { "finalizers": ["berth.dev/local-path"] } }));
    volumes.patch("pv-a", &params, &unguarded).await.expect("patched");
    node.create(
        "writer",
        json!({
            "restartPolicy": "Never",
            "securityContext": { "fsGroup": 4711 },
            "containers": [{ "name": "c", "image": node::IMAGE,
                "command": ["sh", "-c", "echo kept > /whole/a; echo below > /part/b"],
                "volumeMounts": [{ "name": "v", "mountPath": "/whole" },
                                 { "name": "v", "mountPath": "/part", "subPath": "sub" }] }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }],
        }),
    )
    .await;
    let over =
        |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
    node.wait("writer", "done", over).await;
    assert_eq!(std::fs::read_to_string(place.join("a")).expect("written"), "kept\n");
    assert_eq!(std::fs::read_to_string(place.join("sub/b")).expect("written"), "below\n");
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&place).expect("there"));
    assert_eq!(group, 4711);

    node.pods().delete("writer", &DeleteParams::default()).await.expect("deleted");
    node.wait_gone("writer").await;
    assert!(place.join("a").exists(), "a claim outlives its pods");
    volumes.delete("pv-a", &DeleteParams::default()).await.expect("deleted");
    node.until("the volume is gone", async |_| {
        volumes.get_opt("pv-a").await.is_ok_and(|found| found.is_none())
    })
    .await;
    assert!(!place.exists());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_resized_and_debugged_without_a_restart() {
    let Some(mut node) = Node::start(7).await else { return };
    node.create(
        "runs",
        json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": node::IMAGE, "command": ["sleep", "1000"],
                "resources": { "requests": { "cpu": "100m" }, "limits": { "cpu": "200m" } } }],
        }),
    )
    .await;
    let id = node::container_id(&node.wait("runs", "ready", node::is_ready).await);
    let params = PatchParams::default();
    let sized = |cpu: &str| {
        Patch::Strategic(json!({ "spec": { "containers": [
            { "name": "c", "resources": { "requests": { "cpu": cpu }, "limits": { "cpu": cpu } } },
        ] } }))
    };
    let has = |pod: &Pod, kind: &str| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|had| had.type_ == kind && had.status == "True")
    };
    let limit = |pod: &Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        Some(status.resources.as_ref()?.limits.as_ref()?.get("cpu")?.0.clone())
    };
    node.pods().patch_subresource("resize", "runs", &params, &sized("150m")).await.expect("taken");
    let done =
        |pod: &Pod| limit(pod).as_deref() == Some("150m") && !has(pod, "PodResizeInProgress");
    let pod = node.wait("runs", "resized", done).await;
    assert_eq!(node::container_id(&pod), id);
    node.pods().patch_subresource("resize", "runs", &params, &sized("9000")).await.expect("taken");
    let pod = node.wait("runs", "refused", |pod| has(pod, "PodResizePending")).await;
    assert_eq!(limit(&pod).as_deref(), Some("150m"));
    node.pods().patch_subresource("resize", "runs", &params, &sized("150m")).await.expect("taken");
    node.wait("runs", "content", |pod| !has(pod, "PodResizePending")).await;

    let debug = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [{
        "name": "look", "image": node::IMAGE, "command": ["sleep", "1000"],
        "targetContainerName": "c",
    }] } }));
    let pods = node.pods();
    let added = pods.patch_subresource("ephemeralcontainers", "runs", &params, &debug).await;
    added.expect("taken");
    let looking = |pod: &Pod| {
        let status = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?.first()?;
        status.state.as_ref()?.running.as_ref()?;
        status.container_id.clone()
    };
    let pod = node.wait("runs", "debugged", |pod| looking(pod).is_some()).await;
    assert_eq!(node::container_id(&pod), id);
    let debugger = looking(&pod).expect("it runs");
    // The first process that it sees is that of its target: two sleeps in one namespace.
    let script = "n=0; for p in /proc/[0-9]*; do read name < $p/comm; \
                  test $name = sleep && n=$((n+1)); done; test $n -ge 2";
    let look = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let debugger = debugger.trim_start_matches("containerd://");
    let seen = node.cri().exec_sync(debugger, &look, Duration::from_secs(5)).await.expect("run");
    assert_eq!(seen.exit_code, 0, "{seen:?}");
    node.pods().delete("runs", &DeleteParams::default()).await.expect("deleted");
    node.wait_gone("runs").await;
    node.end().await;
}
