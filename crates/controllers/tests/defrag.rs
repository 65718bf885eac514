//! Defragmentation against a whole API server, the controllers and the scheduler in this process;
//! what a node's agent would report of its pods, the test does.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers fail like the test

#[path = "support/api.rs"]
mod api;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::Duration;

use berth_controllers::scheduler::{Aim, Config, Plan, Step, Surprise, carry_out, defrag};
use berth_daemon::Tasks;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tempfile::TempDir;

use api::serve;

/// What must come true does within this, or never.
const LIMIT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);

struct Ground {
    client: Client,
    tasks: Tasks,
    _dir: TempDir,
}

impl Ground {
    /// Three nodes of four cores, and three Deployments of one pod each, on a node each.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let client = serve(dir.path(), &tasks).await;
        let config = berth_controllers::Config {
            // Nobody renews leases here.
            node_monitor_grace: Duration::from_secs(3600),
            ..berth_controllers::Config::new(String::new())
        };
        let world = berth_controllers::start(client.clone(), config, &tasks);
        berth_controllers::start_scheduler(client.clone(), &world, &tasks);
        tasks.spawn_until_stop("nodes", report(client.clone()));
        let ground = Self { client, tasks, _dir: dir };
        for name in ["n0", "n1", "n2"] {
            ground.node(name).await;
        }
        for name in ["a", "b", "c"] {
            ground.deployment(name).await;
            ground.until_ready(name).await;
        }
        assert_eq!(ground.nodes_of_pods().await.len(), 3, "they are spread");
        ground
    }

    async fn node(&self, name: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels = json!({ "kubernetes.io/hostname": name });
        let node = json!({ "metadata": { "name": name, "labels": labels } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let room = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
        let status = json!({ "status": { "capacity": room, "allocatable": room,
            "conditions": [{ "type": "Ready", "status": "True" }] } });
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn deployment(&self, name: &str) {
        let labels = json!({ "app": name });
        let object = json!({ "metadata": { "name": name }, "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "c", "image": "web:1", "resources": {
                    "requests": { "cpu": "1", "memory": "1Gi" } } }] } } } });
        let api: Api<Deployment> = Api::default_namespaced(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    async fn until_ready(&self, name: &str) {
        let api: Api<Deployment> = Api::default_namespaced(self.client.clone());
        let ready = async {
            loop {
                let status = api.get(name).await.unwrap().status.unwrap_or_default();
                if status.ready_replicas == Some(1) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LIMIT, ready).await.unwrap_or_else(|_| panic!("{name} is not ready"));
    }

    async fn nodes_of_pods(&self) -> BTreeSet<String> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let pods = pods.list(&ListParams::default()).await.unwrap();
        pods.into_iter().filter_map(|pod| pod.spec?.node_name).collect()
    }

    async fn cordoned(&self) -> BTreeSet<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.unwrap();
        let is = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        nodes.into_iter().filter(is).map(|node| node.name_any()).collect()
    }

    async fn plan(&self, aim: Aim) -> Plan {
        defrag(&self.client, &Config::default(), &aim).await.unwrap()
    }

    async fn end(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// Says of every pod that has a node that it runs and is ready.
async fn report(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    loop {
        for pod in pods.list(&ListParams::default()).await.into_iter().flatten() {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            if !placed || phase == Some("Running") {
                continue;
            }
            let status = json!({ "status": { "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "True" }] } });
            let own: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            // It may be gone again.
            let patch = Patch::Strategic(status);
            drop(own.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn aim() -> Aim {
    Aim { most_moves: 10, ..Aim::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_emptied_one_pod_at_a_time_as_planned() {
    let ground = Ground::start().await;
    let plan = ground.plan(aim()).await;
    assert_eq!((plan.freed.len(), plan.moves.len()), (2, 2), "{plan:?}");
    assert_eq!((plan.before.nodes_in_use, plan.after.nodes_in_use), (3, 1));
    assert!(ground.cordoned().await.is_empty(), "a plan changes nothing");
    let (mut ends, mut freed) = (BTreeMap::new(), Vec::new());
    let tell = |step: Step<'_>| match step {
        Step::Begun(_) => {}
        Step::Done(each, node) => drop(ends.insert(each.pod.clone(), node)),
        Step::Freed(node) => freed.push(node.to_owned()),
    };
    carry_out(&ground.client, &plan, pending(), tell).await.unwrap();
    assert_eq!(freed, plan.freed);
    assert!(plan.moves.iter().all(|each| ends[&each.pod] == each.to), "{plan:?} and {ends:?}");
    for name in ["a", "b", "c"] {
        ground.until_ready(name).await;
    }
    let left = ground.nodes_of_pods().await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(ground.cordoned().await, plan.freed.iter().cloned().collect());
    let again = ground.plan(aim()).await;
    assert!(again.moves.is_empty(), "{again:?}");
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_and_a_changed_world_stop_it_and_nodes_are_given_back() {
    let ground = Ground::start().await;
    let plan = ground.plan(aim()).await;
    let first = plan.moves[0].clone();
    let app = first.pod.split('-').next().unwrap().to_owned();
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(ground.client.clone());
    let budget = json!({ "metadata": { "name": "all" }, "spec": { "minAvailable": 1,
        "selector": { "matchLabels": { "app": app } } } });
    let budget = serde_json::from_value(budget).unwrap();
    budgets.create(&PostParams::default(), &budget).await.unwrap();
    let counted = async {
        while budgets
            .get("all")
            .await
            .unwrap()
            .status
            .is_none_or(|status| status.expected_pods != Some(1))
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(LIMIT, counted).await.unwrap();

    // The plan is older than the budget: the eviction itself is refused.
    let stopped = carry_out(&ground.client, &plan, pending(), |_| {}).await.unwrap_err();
    assert!(matches!(stopped, Surprise::Refused(..)), "{stopped:?}");
    assert!(ground.cordoned().await.is_empty());
    assert_eq!(ground.nodes_of_pods().await.len(), 3);

    // A new one leaves that node alone.
    let next = ground.plan(Aim { free: Some(first.from.clone()), ..aim() }).await;
    assert!(next.kept[&first.from].contains("lets none go"), "{next:?}");

    let mut stale = plan.clone();
    stale.moves[0].uid = "another".to_owned();
    let stopped = carry_out(&ground.client, &stale, pending(), |_| {}).await.unwrap_err();
    assert!(matches!(stopped, Surprise::Changed(_)), "{stopped:?}");
    let stopped = carry_out(&ground.client, &plan, async {}, |_| {}).await.unwrap_err();
    assert!(matches!(stopped, Surprise::Interrupted), "{stopped:?}");
    assert!(ground.cordoned().await.is_empty());
    ground.end().await;
}
