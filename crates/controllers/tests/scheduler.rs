//! The scheduler against a whole API server in this process, and nothing else: no nodes' agents.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers fail like the test

#[path = "support/api.rs"]
mod api;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers::World;
use berth_controllers::scheduler::{Config, metrics, start_with};
use berth_daemon::Tasks;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use api::serve;

/// What must come true does within this, or never.
const LIMIT: Duration = Duration::from_secs(40);

struct Ground {
    client: Client,
    tasks: Tasks,
    _dir: TempDir,
}

impl Ground {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let client = serve(dir.path(), &tasks).await;
        let ground = Self { client, tasks, _dir: dir };
        ground.create_in::<ServiceAccount>(json!({ "metadata": { "name": "default" } })).await;
        ground
    }

    /// Another scheduler, which ends with the tasks that are returned.
    fn scheduler(&self, config: Config) -> Tasks {
        let tasks = Tasks::new();
        let world = Arc::new(World::start(self.client.clone(), &tasks));
        start_with(self.client.clone(), &world, config.validate().unwrap(), &tasks);
        tasks
    }

    async fn node(&self, name: &str, cpu: &str) {
        let labels = json!({ "kubernetes.io/hostname": name });
        let node = json!({ "metadata": { "name": name, "labels": labels } });
        self.create::<Node>(node).await;
        let room = json!({ "cpu": cpu, "memory": "64Gi", "pods": "110" });
        let status = json!({ "status": { "capacity": room, "allocatable": room } });
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, more: Value) {
        let mut pod = json!({
            "metadata": { "name": name },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c",
                "image": "web:1", "resources": { "requests": { "cpu": cpu } } }] } });
        for part in ["metadata", "spec"] {
            for (key, value) in more[part].as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        self.create_in::<Pod>(pod).await;
    }

    async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn create_in<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::default_namespaced(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Pods by name, with the node of those that have one.
    async fn placed(&self) -> BTreeMap<String, Option<String>> {
        let pods = self.pods().list(&ListParams::default()).await.unwrap();
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        pods.into_iter().map(|pod| (pod.name_any(), node(&pod))).collect()
    }

    /// How many pods have a node.
    async fn bound(&self) -> usize {
        self.placed().await.values().flatten().count()
    }

    /// How many pods each node has.
    async fn by_node(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.placed().await.into_values().flatten() {
            *counts.entry(node).or_default() += 1;
        }
        counts
    }

    async fn end(self, schedulers: impl IntoIterator<Item = Tasks>) {
        for tasks in schedulers {
            tasks.stop(Duration::from_secs(5)).await;
        }
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// Waits until `holds`, looking again and again.
macro_rules! eventually {
    ($what:expr, $holds:expr) => {{
        let begun = tokio::time::Instant::now();
        while !$holds {
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {}", $what);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_fill_nodes_and_no_further_and_are_told_why() {
    let ground = Ground::start().await;
    for at in 0..4 {
        ground.node(&format!("n{at}"), "10").await;
    }
    for at in 0..42 {
        ground.pod(&format!("p{at:02}"), "1", json!({})).await;
    }
    let scheduler = ground.scheduler(Config::default());
    eventually!("forty are bound", ground.bound().await == 40);
    assert!(ground.by_node().await.values().all(|count| *count == 10));
    let placed = ground.placed().await;
    let left = placed.iter().find(|(_, node)| node.is_none()).unwrap().0.clone();
    let told = async || {
        let pod = ground.pods().get(&left).await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let message = conditions.into_iter().find(|each| each.type_ == "PodScheduled");
        message.and_then(|each| each.message).unwrap_or_default()
    };
    eventually!("it is told", !told().await.is_empty());
    let text = told().await;
    assert!(
        text.starts_with("0/4 nodes are available: 4 Insufficient cpu. preemption: "),
        "{text}"
    );
    // Room that a pod leaves is given to one that waits.
    let gone = placed.iter().find(|(_, node)| node.is_some()).unwrap().0;
    ground.pods().delete(gone, &DeleteParams::default()).await.unwrap();
    eventually!("the room is taken", ground.bound().await == 40);
    assert!(metrics().contains("scheduler_schedule_attempts_total{result=\"scheduled\"}"));
    ground.end([scheduler]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_binding_loses_and_doubles_nothing() {
    let ground = Ground::start().await;
    for at in 0..3 {
        ground.node(&format!("n{at}"), "40").await;
    }
    for at in 0..120 {
        ground.pod(&format!("p{at:03}"), "1", json!({})).await;
    }
    // Few at a time, so that it is in the middle for a while.
    let slow = Config { bindings: 4, ..Config::default() };
    let first = ground.scheduler(slow.clone());
    eventually!("some are bound", ground.bound().await >= 20);
    first.stop(Duration::ZERO).await;
    let before = ground.placed().await;
    assert!(before.values().any(Option::is_none), "it was stopped in the middle");
    let second = ground.scheduler(slow);
    eventually!("all are bound", ground.bound().await == 120);
    assert!(ground.by_node().await.values().all(|count| *count == 40));
    let after = ground.placed().await;
    let moved = before.iter().filter(|(name, node)| node.is_some() && after[*name] != **node);
    assert_eq!(moved.count(), 0);
    ground.end([second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_schedulers_one_works_and_the_other_takes_over() {
    let ground = Ground::start().await;
    ground
        .create::<k8s_openapi::api::core::v1::Namespace>(json!({ "metadata": { "name": "lock" } }))
        .await;
    for at in 0..2 {
        ground.node(&format!("n{at}"), "30").await;
    }
    let config = Config { lease: Some("lock/berth".to_owned()), ..Config::default() };
    let one = ground.scheduler(config.clone());
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(ground.client.clone(), "lock");
    let holder = async || {
        let lease = leases.get_opt("berth").await.unwrap()?;
        lease.spec?.holder_identity
    };
    eventually!("the first holds the lease", holder().await.is_some());
    let first = holder().await;
    let other = ground.scheduler(config);
    for at in 0..50 {
        ground.pod(&format!("p{at:02}"), "1", json!({})).await;
    }
    eventually!("all are bound", ground.bound().await == 50);
    assert_eq!(holder().await, first, "nobody takes a lease that is renewed");
    one.stop(Duration::from_secs(1)).await;
    for at in 50..70 {
        ground.pod(&format!("p{at:02}"), "1", json!({})).await;
    }
    eventually!("as many as there is room for are bound", ground.bound().await == 60);
    let by_node = ground.by_node().await;
    assert!(by_node.values().all(|count| *count == 30), "{by_node:?}");
    assert_ne!(holder().await, first);
    ground.end([other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_important_displaces_the_less_important() {
    let ground = Ground::start().await;
    ground.node("n", "2").await;
    for (name, value) in [("low", 10), ("high", 1000)] {
        ground
            .create::<PriorityClass>(json!({ "metadata": { "name": name }, "value": value }))
            .await;
    }
    let class = |name: &str, value: i32| json!({ "spec": { "priorityClassName": name, "priority": value } });
    let scheduler = ground.scheduler(Config::default());
    for name in ["a", "b"] {
        ground.pod(name, "1", class("low", 10)).await;
    }
    eventually!("both are bound", ground.bound().await == 2);
    ground.pod("c", "1", class("high", 1000)).await;
    ground.pod("d", "1", class("low", 10)).await;
    eventually!("it is bound", ground.placed().await["c"].is_some());
    let placed = ground.placed().await;
    assert_eq!(placed.values().flatten().count(), 2, "{placed:?}");
    assert!(placed["d"].is_none());
    assert_eq!(placed.len(), 3, "one of the two had to go: {placed:?}");
    ground.end([scheduler]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_waits_until_all_of_it_fits() {
    let ground = Ground::start().await;
    ground.node("n0", "2").await;
    let scheduler = ground.scheduler(Config::default());
    let gang = json!({ "metadata": { "annotations": {
        "scheduling.berth.dev/gang": "train", "scheduling.berth.dev/gang-min": "3" } } });
    for name in ["a", "b", "c"] {
        ground.pod(name, "1", gang.clone()).await;
    }
    ground.pod("alone", "1", json!({})).await;
    eventually!("the other is bound", ground.placed().await["alone"].is_some());
    assert_eq!(ground.bound().await, 1, "of the gang, none");
    ground.node("n1", "2").await;
    eventually!("the gang is bound", ground.bound().await == 4);
    ground.end([scheduler]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_room_waits_for_its_owner() {
    let ground = Ground::start().await;
    ground.node("n", "2").await;
    ground
        .create_in::<ConfigMap>(json!({
            "metadata": { "name": "release", "labels": { "berth.dev/reservation": "" } },
            "data": { "selector": "app=web", "slots": "1", "cpu": "1" } }))
        .await;
    let scheduler = ground.scheduler(Config::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(ground.client.clone());
    let slots = async || {
        let map = maps.get("release").await.unwrap();
        map.annotations().get("berth.dev/reservation-slots").cloned()
    };
    eventually!("its slot is set", slots().await.is_some());
    assert_eq!(slots().await.unwrap(), r#"{"n":{"floor":1,"set":1}}"#);
    for name in ["a", "b"] {
        ground.pod(name, "1", json!({})).await;
    }
    eventually!("one stranger is bound", ground.bound().await == 1);
    let owner = json!({ "metadata": { "labels": { "app": "web" } } });
    ground.pod("w", "1", owner).await;
    eventually!("the owner's pod is bound", ground.placed().await["w"].is_some());
    assert_eq!(ground.bound().await, 2);
    ground.end([scheduler]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waits_gets_a_volume_where_the_pod_goes() {
    let ground = Ground::start().await;
    ground.node("a", "1").await;
    ground.node("b", "1").await;
    ground
        .create::<StorageClass>(json!({ "metadata": { "name": "local" },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer" }))
        .await;
    ground
        .create::<PersistentVolume>(json!({ "metadata": { "name": "disk" }, "spec": {
            "storageClassName": "local", "capacity": { "storage": "1Gi" },
            "accessModes": ["ReadWriteOnce"], "local": { "path": "/disk" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": ["b"] }] }] } } } }))
        .await;
    ground
        .create_in::<PersistentVolumeClaim>(json!({ "metadata": { "name": "claim" }, "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } } }))
        .await;
    let scheduler = ground.scheduler(Config::default());
    let volume = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "claim" } }]);
    ground.pod("p", "1", json!({ "spec": { "volumes": volume } })).await;
    let volumes: Api<PersistentVolume> = Api::all(ground.client.clone());
    let claimed = async || volumes.get("disk").await.unwrap().spec.unwrap().claim_ref;
    eventually!("the volume is the claim's", claimed().await.is_some());
    assert_eq!(claimed().await.unwrap().name.as_deref(), Some("claim"));
    assert!(ground.placed().await["p"].is_none(), "not before the claim is bound");
    // It is ended between the claim and the pod; the next one goes on where it was.
    scheduler.stop(Duration::ZERO).await;
    ground.pod("q", "1", json!({ "spec": { "nodeName": "a", "schedulerName": "foreign" } })).await;
    let scheduler = ground.scheduler(Config::default());
    // The volume controller's part.
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(ground.client.clone());
    let bound = json!({ "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
        "spec": { "volumeName": "disk" } });
    claims.patch("claim", &PatchParams::default(), &Patch::Merge(bound)).await.unwrap();
    eventually!("the pod is bound", ground.placed().await["p"].as_deref() == Some("b"));
    // What it was assumed to take it takes once: the room is neither lost nor there twice.
    ground.pod("r", "1", json!({})).await;
    ground.pods().delete("q", &DeleteParams::default()).await.unwrap();
    eventually!("the rest is given", ground.placed().await["r"].as_deref() == Some("a"));
    ground.end([scheduler]).await;
}

/// A free port's listener with what answers at it.
async fn listen() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// One HTTP request; its status and body.
async fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extender_gives_room_once_however_many_ask() {
    let ground = Ground::start().await;
    ground.node("small", "1").await;
    ground.node("large", "4").await;
    for at in 0..8 {
        let foreign = json!({ "spec": { "schedulerName": "foreign" } });
        ground.pod(&format!("p{at}"), "1", foreign).await;
    }
    let tasks = Tasks::new();
    let world = Arc::new(World::for_scheduler(ground.client.clone(), &tasks));
    let config = Config::default().validate().unwrap();
    let scheduler = start_with(ground.client.clone(), &world, config, &tasks);
    let ((health, at_health), (extender, at)) = (listen().await, listen().await);
    berth_controllers::scheduler::serve_health(scheduler.clone(), health, &tasks);
    berth_controllers::scheduler::serve_extender(scheduler, extender, &tasks);
    eventually!("it is ready", ask(&at_health, "GET", "/readyz", "").await.0 == 200);
    let (_, shown) = ask(&at_health, "GET", "/metrics", "").await;
    assert!(shown.contains("scheduler_pending_pods"), "{shown}");

    let pods = ground.pods().list(&ListParams::default()).await.unwrap().items;
    let mut large = pods[0].clone();
    let asked: Value = json!({ "requests": { "cpu": "2" } });
    large.spec.as_mut().unwrap().containers[0].resources =
        Some(serde_json::from_value(asked).unwrap());
    let args = json!({ "Pod": large, "Nodes": null, "NodeNames": ["large", "small", "gone"] });
    let (status, body) = ask(&at, "POST", "/filter", &args.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let filtered: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(filtered["NodeNames"], json!(["large"]));
    assert_eq!(filtered["FailedNodes"]["small"], "Insufficient cpu");
    assert_eq!(filtered["Error"], "");
    let (_, body) = ask(&at, "POST", "/prioritize", &args.to_string()).await;
    let rated: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(rated[0], json!({ "Host": "large", "Score": 10 }));
    assert_eq!(ask(&at, "POST", "/filter", "{").await.0, 400);

    // Of victims on two nodes, those that are enough; nobody as important goes.
    for (name, node, cpu) in [("v1", "small", "1"), ("v2", "large", "4")] {
        ground.pod(name, cpu, json!({ "spec": { "nodeName": node } })).await;
    }
    eventually!("the victims are seen", {
        let (_, body) = ask(&at, "POST", "/filter", &args.to_string()).await;
        serde_json::from_str::<Value>(&body).unwrap()["FailedNodes"]["large"] == "Insufficient cpu"
    });
    let uid = async |name: &str| ground.pods().get(name).await.unwrap().metadata.uid.unwrap();
    let mut important = large.clone();
    important.spec.as_mut().unwrap().priority = Some(5);
    let named = |uid: String| json!({ "Pods": [{ "UID": uid }], "NumPDBViolations": 1 });
    let victims = json!({ "small": named(uid("v1").await), "large": named(uid("v2").await),
        "gone": named("nobody".to_owned()) });
    let asked = json!({ "Pod": important, "NodeNameToVictims": null,
        "NodeNameToMetaVictims": victims });
    let (status, body) = ask(&at, "POST", "/preempt", &asked.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let kept: Value = serde_json::from_str(&body).unwrap();
    let enough = json!({ "large": victims["large"] });
    assert_eq!(kept["NodeNameToMetaVictims"], enough, "two cores never fit on the small one");
    let equal = json!({ "Pod": large, "NodeNameToMetaVictims": victims });
    let (_, body) = ask(&at, "POST", "/preempt", &equal.to_string()).await;
    let kept: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(kept["NodeNameToMetaVictims"], json!({}));
    for name in ["v1", "v2"] {
        ground.pods().delete(name, &DeleteParams::default()).await.unwrap();
    }
    eventually!("the victims are gone", {
        let (_, body) = ask(&at, "POST", "/filter", &args.to_string()).await;
        serde_json::from_str::<Value>(&body).unwrap()["NodeNames"] == json!(["large"])
    });

    // All want the small node, which has room for one, and then the large one.
    let bind = async |pod: &Pod, node: &str| {
        let args = json!({ "PodName": pod.name_any(), "PodNamespace": "default",
            "PodUID": pod.metadata.uid, "Node": node });
        let (status, body) = ask(&at, "POST", "/bind", &args.to_string()).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["Error"].as_str().unwrap().to_owned()
    };
    for node in ["small", "large"] {
        let answers = futures::future::join_all(pods.iter().map(|pod| bind(pod, node))).await;
        let bound = answers.iter().filter(|error| error.is_empty()).count();
        assert_eq!(bound, if node == "small" { 1 } else { 4 }, "{answers:?}");
    }
    assert_eq!(ground.by_node().await, BTreeMap::from([("large".into(), 4), ("small".into(), 1)]));
    ground.end([tasks]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_of_a_pod_that_waits_and_of_one_that_is_placed() {
    let ground = Ground::start().await;
    for (name, cpu) in [("a", "2"), ("b", "4"), ("c", "8")] {
        ground.node(name, cpu).await;
    }
    ground.pod("placed", "3", json!({ "spec": { "nodeName": "b" } })).await;
    ground.pod("vast", "16", json!({})).await;
    ground.pod("modest", "1", json!({ "spec": { "schedulerName": "foreign" } })).await;
    let config = Config::default();
    let ask = async |name: &str| {
        berth_controllers::scheduler::why(&ground.client, &config, "default", name).await.unwrap()
    };
    let vast = ask("vast").await.unwrap();
    assert_eq!((vast.nodes, vast.passed, vast.decision), (3, 0, None));
    assert_eq!((vast.filters[0].name.as_str(), vast.filters[0].nodes), ("NodeResourcesFit", 3));
    assert!(vast.remedies[0].contains("ask for less cpu"), "{:?}", vast.remedies);
    let modest = ask("modest").await.unwrap();
    assert_eq!((modest.passed, modest.decision.as_deref()), (3, Some("c")));
    assert_eq!(modest.best[0].node, "c");
    let total: i64 = modest.best[0].scores.iter().map(|worth| worth.value * worth.weight).sum();
    assert_eq!(total, modest.best[0].total);
    assert!(modest.notes[0].starts_with("foreign decides"), "{:?}", modest.notes);
    let placed = ask("placed").await.unwrap();
    assert_eq!((placed.node.as_deref(), placed.passed), (Some("b"), 2));
    assert_eq!(placed.standing.unwrap().place, 2, "c would be better");
    assert!(ask("nobody").await.is_none());
    ground.end([]).await;
}

#[path = "scheduler/devices.rs"]
mod devices;
#[path = "scheduler/gangs.rs"]
mod gangs;
#[path = "scheduler/reclaim.rs"]
mod reclaim;
