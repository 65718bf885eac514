//! Claims, quotas and autoscalers against a whole API server in this process. No node's agent runs:
//! what it would do about a volume is left undone, and the test looks that it was left to it.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers fail like the test

#[path = "support/api.rs"]
mod api;
#[path = "support/apps.rs"]
mod apps;

use std::time::Duration;

use berth_daemon::Tasks;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use api::serve;

/// What must come true does within this, or never.
const LIMIT: Duration = Duration::from_secs(40);
const CORE: &str = "/api/v1/namespaces/default";

struct Ground {
    client: Client,
    tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Ground {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let client = serve(dir.path(), &tasks).await;
        berth_controllers::start(
            client.clone(),
            berth_controllers::Config::new(String::new()),
            &tasks,
        );
        Self { client, tasks, _dir: dir }
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Value {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        self.client.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn create(&self, path: &str, body: Value) {
        self.send("POST", path, "application/json", &body).await;
    }

    async fn patch(&self, path: &str, body: Value) {
        self.send("PATCH", path, "application/merge-patch+json", &body).await;
    }

    async fn get(&self, path: &str) -> Value {
        let request = Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.unwrap_or(Value::Null)
    }

    /// Waits until the object at `path` is as wanted.
    async fn eventually(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let found = self.get(path).await;
            if holds(&found) {
                return found;
            }
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {path} is {found:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn claim(&self, name: &str, class: &str, size: &str) {
        let claim = json!({ "metadata": { "name": name }, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": { "requests": { "storage": size } } } });
        self.create(&format!("{CORE}/persistentvolumeclaims"), claim).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_directory_of_the_chosen_node_and_gives_it_back() {
    let ground = Ground::start().await;
    let class = json!({ "metadata": { "name": "local-path" },
        "provisioner": "berth.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer" });
    ground.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let node = json!({ "metadata": { "name": "one",
        "labels": { "kubernetes.io/hostname": "one" },
        "annotations": { "berth.dev/volumes-dir": "/data/volumes" } } });
    ground.create("/api/v1/nodes", node).await;
    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": {
        "requests.storage": "10Gi", "persistentvolumeclaims": "5", "count/configmaps": "50" } } });
    ground.create(&format!("{CORE}/resourcequotas"), quota).await;
    let quota = format!("{CORE}/resourcequotas/q");
    ground.eventually(&quota, |q| q["status"]["used"]["requests.storage"] == "0").await;

    ground.claim("data", "local-path", "3Gi").await;
    let path = format!("{CORE}/persistentvolumeclaims/data");
    let protected = |claim: &Value| {
        claim["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"])
            && claim["status"]["phase"] == "Pending"
    };
    ground.eventually(&path, protected).await;
    let events = format!("{CORE}/events?fieldSelector=reason=WaitForFirstConsumer");
    ground.eventually(&events, |list| !list["items"][0].is_null()).await;

    let chosen = json!({ "volume.kubernetes.io/selected-node": "one" });
    ground.patch(&path, json!({ "metadata": { "annotations": chosen } })).await;
    let bound = ground.eventually(&path, |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(bound["status"]["capacity"]["storage"], "3Gi");
    let name = bound["spec"]["volumeName"].as_str().unwrap();
    let volume = format!("/api/v1/persistentvolumes/{name}");
    let made = ground.eventually(&volume, |volume| volume["status"]["phase"] == "Bound").await;
    assert_eq!(made["spec"]["local"]["path"], format!("/data/volumes/{name}"));
    let counted = |quota: &Value| {
        let used = &quota["status"]["used"];
        used["requests.storage"] == "3Gi"
            && used["persistentvolumeclaims"] == "1"
            && used["count/configmaps"] == "1"
    };
    ground.eventually(&quota, counted).await;

    // The claim goes, the volume is deleted, and its data is the node's to remove.
    ground.send("DELETE", &path, "application/json", &json!({})).await;
    let left = |volume: &Value| {
        volume["metadata"]["deletionTimestamp"].is_string()
            && volume["metadata"]["finalizers"] == json!(["berth.dev/local-path"])
    };
    ground.eventually(&volume, left).await;
    ground.eventually(&path, Value::is_null).await;
    ground.eventually(&quota, |q| q["status"]["used"]["requests.storage"] == "0").await;
    ground.patch(&volume, json!({ "metadata": { "finalizers": null } })).await;
    ground.eventually(&volume, Value::is_null).await;
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_there_serves_one_claim_and_is_kept() {
    let ground = Ground::start().await;
    let volume = json!({ "metadata": { "name": "disk" }, "spec": {
        "capacity": { "storage": "5Gi" }, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "by-hand", "hostPath": { "path": "/tmp/none" },
        "persistentVolumeReclaimPolicy": "Retain" } });
    ground.create("/api/v1/persistentvolumes", volume).await;
    ground.claim("first", "by-hand", "4Gi").await;
    let first = format!("{CORE}/persistentvolumeclaims/first");
    let bound = ground.eventually(&first, |claim| claim["status"]["phase"] == "Bound").await;
    assert_eq!(bound["spec"]["volumeName"], "disk");
    ground.claim("second", "by-hand", "1Gi").await;
    let second = format!("{CORE}/persistentvolumeclaims/second");
    ground.eventually(&second, |claim| claim["status"]["phase"] == "Pending").await;
    ground.send("DELETE", &first, "application/json", &json!({})).await;
    let disk = "/api/v1/persistentvolumes/disk";
    ground.eventually(disk, |volume| volume["status"]["phase"] == "Released").await;
    assert_eq!(ground.get(&second).await["status"]["phase"], "Pending");
    // Whoever looked after the data lets the volume go.
    ground.patch(disk, json!({ "spec": { "claimRef": null } })).await;
    ground.eventually(&second, |claim| claim["status"]["phase"] == "Bound").await;
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_keeps_its_target_within_bounds_and_says_what_it_lacks() {
    let ground = Ground::start().await;
    let labels = json!({ "app": "web" });
    let deployment = json!({ "metadata": { "name": "web" }, "spec": { "replicas": 1,
        "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "web:1",
                "resources": { "requests": { "cpu": "100m" } } }] } } } });
    ground.create("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    let scaler = json!({ "metadata": { "name": "web" }, "spec": {
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
        "minReplicas": 2, "maxReplicas": 4, "targetCPUUtilizationPercentage": 50 } });
    let scalers = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    ground.create(scalers, scaler).await;
    let target = "/apis/apps/v1/namespaces/default/deployments/web";
    ground.eventually(target, |target| target["spec"]["replicas"] == 2).await;
    let events = format!("{CORE}/events?fieldSelector=reason=SuccessfulRescale");
    let told = ground.eventually(&events, |list| !list["items"][0].is_null()).await;
    let message = "New size: 2; reason: Current number of replicas below Spec.MinReplicas";
    assert_eq!(told["items"][0]["message"], message);
    // No node has been read: the next look says that there is nothing to go by.
    let scaler = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/web";
    let lacks = |scaler: &Value| {
        let conditions = scaler["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| {
            condition["type"] == "ScalingActive"
                && condition["status"] == "False"
                && condition["reason"] == "FailedGetResourceMetric"
        })
    };
    ground.eventually(scaler, lacks).await;
    ground.tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_as_a_group_of_their_own() {
    let ground = Ground::start().await;
    let group = "/apis/metrics.k8s.io/v1beta1";
    let served = ground.get(group).await;
    let names: Vec<(&str, &Value)> = served["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), &one["verbs"]))
        .collect();
    assert_eq!(names, [("nodes", &json!(["get", "list"])), ("pods", &json!(["get", "list"]))]);
    let list = ground.get(&format!("{group}/nodes")).await;
    assert_eq!((&list["kind"], &list["items"]), (&json!("NodeMetricsList"), &json!([])));
    let list = ground.get(&format!("{group}/namespaces/default/pods")).await;
    assert_eq!(list["kind"], "PodMetricsList");
    ground.tasks.stop(Duration::from_secs(5)).await;
}
