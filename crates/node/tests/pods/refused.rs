//! What a node does not take: pods beyond its room, pods that mean other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_controllers::{World, scheduler, workloads};
use berth_daemon::Tasks;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{self as core, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::node::{self, Node};

fn sleeps() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "c", "image": node::IMAGE, "command": ["sleep", "1000"] }],
    })
}

/// Phase, reason and message.
fn end_of(pod: &Pod) -> (String, String, String) {
    let status = pod.status.clone().unwrap_or_default();
    let text = Option::unwrap_or_default;
    (text(status.phase), text(status.reason), text(status.message))
}

fn failed(pod: &Pod) -> bool {
    end_of(pod).0 == "Failed"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_fails_and_what_runs_stays() {
    let Some(mut node) = Node::start_for(20, 2).await else { return };
    for name in ["a", "b"] {
        node.create(name, sleeps()).await;
        node.wait(name, "ready", node::is_ready).await;
    }
    node.create("c", sleeps()).await;
    let refused = node.wait("c", "refused", failed).await;
    let message = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, \
                   capacity: 2";
    let expected = ("Failed", "OutOfpods", message);
    assert_eq!(end_of(&refused), (expected.0.into(), expected.1.into(), expected.2.into()));
    let status = refused.status.expect("a status");
    assert!(status.container_statuses.is_none() && status.start_time.is_some());

    // It comes back smaller, and ends nothing for it.
    let id = node::container_id(&node.pod("a").await.expect("a pod"));
    node.stop_agent().await;
    node.config.max_pods = 1;
    node.start_agent().await;
    node.create("d", sleeps()).await;
    node.wait("d", "refused", failed).await;
    for name in ["a", "b"] {
        assert!(node::is_ready(&node.pod(name).await.expect("a pod")), "{name}");
    }
    assert_eq!(node::container_id(&node.pod("a").await.expect("a pod")), id);

    // What is refused leaves like any other, and what leaves makes room.
    for name in ["a", "b", "c", "d"] {
        node.pods().delete(name, &Default::default()).await.expect("deleted");
    }
    for name in ["a", "b", "c", "d"] {
        node.wait_gone(name).await;
    }
    node.create("e", sleeps()).await;
    node.wait("e", "ready", node::is_ready).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_the_kubelets_reason() {
    let Some(mut node) = Node::start_for(21, 110).await else { return };
    let asks = |name: &str, amount: &str| {
        let mut spec = sleeps();
        spec["containers"][0]["resources"] = json!({ "requests": { name: amount } });
        spec
    };
    let mut elsewhere = sleeps();
    elsewhere["nodeSelector"] = json!({ "kubernetes.io/hostname": "another" });
    let mut listens = sleeps();
    listens["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 18_732 }]);
    node.create("first", listens.clone()).await;
    node.wait("first", "ready", node::is_ready).await;
    for (name, spec, reason) in [
        ("cpu", asks("cpu", "4000"), "OutOfcpu"),
        ("memory", asks("memory", "900Ti"), "OutOfmemory"),
        ("disk", asks("ephemeral-storage", "900Pi"), "OutOfephemeral-storage"),
        ("selector", elsewhere, "NodeAffinity"),
        ("port", listens, "NodePorts"),
    ] {
        node.create(name, spec).await;
        assert_eq!(end_of(&node.wait(name, "refused", failed).await).1, reason, "{name}");
    }
    let events: Api<core::Event> = Api::namespaced(node.client(), "default");
    node.until("an event says so", async |_| {
        let all = events.list(&ListParams::default()).await.expect("events");
        all.iter().any(|event| {
            event.reason.as_deref() == Some("OutOfcpu")
                && event.message.as_deref().unwrap_or_default().starts_with("Node didn't have")
        })
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_waits_for_the_end_of_whom_it_displaces() {
    let Some(mut node) = Node::start_for(22, 2).await else { return };
    let classes: Api<PriorityClass> = Api::all(node.client());
    let class = json!({ "metadata": { "name": "vital" }, "value": 1_000_000_000 });
    let class: PriorityClass = serde_json::from_value(class).expect("a class");
    classes.create(&PostParams::default(), &class).await.expect("created");
    // It takes its time to end.
    let slow = "trap 'sleep 1; exit 0' TERM; while true; do sleep 0.05; done";
    let mut lazy = sleeps();
    lazy["terminationGracePeriodSeconds"] = json!(20);
    lazy["containers"][0]["command"] = json!(["sh", "-c", slow]);
    let mut vital = sleeps();
    vital["priorityClassName"] = json!("vital");
    node.create("lazy", lazy).await;
    node.create("vital", vital).await;
    for name in ["lazy", "vital"] {
        node.wait(name, "ready", node::is_ready).await;
    }
    let mut critical = sleeps();
    critical["priorityClassName"] = json!("system-node-critical");
    node.create("critical", critical).await;
    let displaced = node.wait("lazy", "displaced", failed).await;
    assert_eq!(end_of(&displaced).1, "Preempting");
    let status = displaced.status.expect("a status");
    let told = status.conditions.iter().flatten().any(|each| {
        each.type_ == "DisruptionTarget" && each.reason.as_deref() == Some("TerminationByKubelet")
    });
    assert!(told);
    let ended =
        status.container_statuses.iter().flatten().filter_map(|container| {
            container.state.as_ref()?.terminated.as_ref()?.finished_at.clone()
        });
    let critical = node.wait("critical", "ready", node::is_ready).await;
    let started = critical.status.expect("a status").start_time.expect("a start");
    assert!(ended.max().expect("an end") <= started, "not before there was room");
    assert!(node::is_ready(&node.pod("vital").await.expect("a pod")));
    node.end().await;
}

/// Pods of the node that have not failed, and those that run, by the ReplicaSet they are of.
async fn count(node: &Node) -> (BTreeMap<String, usize>, usize, usize) {
    let pods = node.pods().list(&ListParams::default()).await.expect("a list");
    let (mut alive, mut bound, mut running) = (BTreeMap::new(), 0, 0);
    for pod in pods.iter().filter(|pod| !failed(pod)) {
        let set = pod.metadata.labels.as_ref().and_then(|all| all.get("set")).cloned();
        *alive.entry(set.unwrap_or_default()).or_default() += 1;
        let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        bound += usize::from(is_bound);
        running += usize::from(is_bound && end_of(pod).0 == "Running");
    }
    (alive, bound, running)
}

/// A scheduler that asks nobody: no Lease, no extender.
fn schedule(node: &Node, name: &str, tasks: &Tasks) {
    let profile =
        berth_scheduler::Profile { scheduler_name: name.to_owned(), ..Default::default() };
    let config = scheduler::Config { profiles: vec![profile], ..scheduler::Config::default() };
    let world = Arc::new(World::for_scheduler(node.client(), tasks));
    scheduler::start_with(node.client(), &world, config.validate().expect("valid"), tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_that_race_never_overcommit_a_node() {
    const ROOM: u32 = 6;
    let Some(mut node) = Node::start_for(23, ROOM).await else { return };
    let object = json!({ "metadata": { "name": node.config.name } });
    let object: core::Node = serde_json::from_value(object).expect("a node");
    let nodes: Api<core::Node> = Api::all(node.client());
    nodes.create(&PostParams::default(), &object).await.expect("created");
    let room = json!({ "cpu": "64", "memory": "64Gi", "pods": ROOM.to_string() });
    let status = Patch::Merge(json!({ "status": { "capacity": room, "allocatable": room } }));
    let name = node.config.name.clone();
    nodes.patch_status(&name, &PatchParams::default(), &status).await.expect("patched");

    let tasks = Tasks::new();
    workloads::start(&Arc::new(World::start(node.client(), &tasks)), &tasks);
    let sets: Api<ReplicaSet> = Api::namespaced(node.client(), "default");
    for name in ["one", "two"] {
        let mut spec = sleeps();
        spec["schedulerName"] = json!(name);
        spec["automountServiceAccountToken"] = json!(false);
        let labels = json!({ "set": name });
        let set = json!({ "metadata": { "name": name }, "spec": { "replicas": 5,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": spec } } });
        let set: ReplicaSet = serde_json::from_value(set).expect("a set");
        sets.create(&PostParams::default(), &set).await.expect("created");
    }
    let each_has_five = BTreeMap::from([("one".to_owned(), 5), ("two".to_owned(), 5)]);
    node.until("there are pods", async |node| count(node).await.0 == each_has_five).await;
    // Both find all pods at once.
    schedule(&node, "one", &tasks);
    schedule(&node, "two", &tasks);
    let settled = async |node: &Node| {
        let (alive, bound, running) = count(node).await;
        assert!(running <= ROOM as usize, "{running} pods run");
        alive == each_has_five && (bound, running) == (ROOM as usize, ROOM as usize)
    };
    node.until("the node is full, and every set has its pods", settled).await;

    // And whoever binds without looking at all: the pod fails, and another takes its place.
    let pods = node.pods().list(&ListParams::default()).await.expect("a list");
    let waits = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
    let blind = pods.iter().find(waits).expect("four wait").metadata.name.clone().expect("a name");
    let binding = json!({ "metadata": { "name": blind },
        "target": { "apiVersion": "v1", "kind": "Node", "name": name } });
    let _: Value = node
        .pods()
        .create_subresource("binding", &blind, &PostParams::default(), &binding)
        .await
        .expect("the API server takes it");
    assert_eq!(end_of(&node.wait(&blind, "refused", failed).await).1, "OutOfpods");
    node.until("another takes its place", settled).await;
    let refused = node.pods().list(&ListParams::default()).await.expect("a list");
    eprintln!("{} pods were refused", refused.iter().filter(|pod| failed(pod)).count());
    tasks.stop(Duration::from_secs(5)).await;
    node.end().await;
}
