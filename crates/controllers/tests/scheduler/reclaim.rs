//! Batch pods borrow what is unused, and give it back: against a whole API server in this process,
//! where what nodes and pods are measured to use is what the test says.

use std::sync::Mutex;

use berth_controllers::reclaim::{self, CONFIG_KEY, CONFIG_MAP};
use berth_scheduler::reclaim::{CPU, MEMORY};
use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;

use super::*;

/// Thousandths of a core that the node `n`, and each of its pods, is measured to use.
#[derive(Clone, Default)]
struct Gauge(Arc<Mutex<BTreeMap<String, i64>>>);

impl Gauge {
    fn set(&self, name: &str, cpu: i64) {
        self.0.lock().unwrap().insert(name.to_owned(), cpu);
    }

    /// What metrics.k8s.io would answer.
    fn list(&self, path: &str) -> Value {
        let usage = |cpu: &i64| json!({ "cpu": format!("{cpu}m"), "memory": "1Gi" });
        let all = self.0.lock().unwrap();
        let items: Vec<Value> = all
            .iter()
            .filter(|(name, _)| (name.as_str() == "n") == path.ends_with("/nodes"))
            .map(|(name, cpu)| match name.as_str() {
                "n" => json!({ "metadata": { "name": "n" }, "usage": usage(cpu),
                    "timestamp": Timestamp::now().to_string(), "window": "15s" }),
                _ => json!({ "metadata": { "name": name, "namespace": "default" },
                    "containers": [{ "name": "c", "usage": usage(cpu) }] }),
            })
            .collect();
        json!({ "apiVersion": "metrics.k8s.io/v1beta1", "kind": "List", "metadata": {},
            "items": items })
    }

    /// A client for which the gauge measures.
    fn before(&self, client: Client) -> Client {
        let gauge = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (gauge, client) = (gauge.clone(), client.clone());
            async move {
                let path = request.uri().path().to_owned();
                if path.starts_with("/apis/metrics.k8s.io/") {
                    let body = serde_json::to_vec(&gauge.list(&path)).unwrap();
                    return Ok::<_, kube::Error>(http::Response::new(Body::from(body)));
                }
                client.send(request).await
            }
        });
        Client::new(service, "default")
    }
}

impl Ground {
    /// Thousandths of a core and bytes that the node offers.
    async fn offered(&self) -> (Option<i64>, Option<i64>) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let all = nodes.get("n").await.unwrap().status.unwrap().allocatable.unwrap();
        let whole = |text: &str| text.parse::<berth_api::Quantity>().unwrap().whole();
        let of = |name: &str| all.get(name).map(|quantity| whole(&quantity.0));
        (of(CPU), of(MEMORY))
    }

    async fn rules(&self, text: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), CONFIG_MAP.0);
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": CONFIG_MAP.1 }, "data": { CONFIG_KEY: text } });
        let params = PatchParams::apply("test").force();
        maps.patch(CONFIG_MAP.1, &params, &Patch::Apply(map)).await.unwrap();
    }

    async fn batch_pod(&self, name: &str, label: &str) {
        let asked = json!({ CPU: "2000", MEMORY: "1Gi" });
        let resources = json!({ "requests": asked, "limits": asked });
        let containers = json!([{ "name": "c", "image": "sum:1", "resources": resources }]);
        let labels = json!({ "app": label });
        let more =
            json!({ "metadata": { "labels": labels }, "spec": { "containers": containers } });
        self.pod(name, "0", more).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_pods_borrow_what_is_unused_and_go_when_it_is_wanted_back() {
    let ground = Ground::start().await;
    let namespaces: Api<Namespace> = Api::all(ground.client.clone());
    if namespaces.get_opt(CONFIG_MAP.0).await.unwrap().is_none() {
        ground.create::<Namespace>(json!({ "metadata": { "name": CONFIG_MAP.0 } })).await;
    }
    ground.node("n", "10").await;
    let nodes: Api<Node> = Api::all(ground.client.clone());
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    nodes.patch_status("n", &PatchParams::default(), &Patch::Merge(ready)).await.unwrap();
    let gauge = Gauge::default();
    gauge.set("n", 2000);
    let scheduler = ground.scheduler(Config::default());
    let tasks = Tasks::new();
    let client = gauge.before(ground.client.clone());
    let world = Arc::new(World::start(client.clone(), &tasks));
    let config = reclaim::Config { every: Duration::from_millis(100) };
    reclaim::start(client, &world, config, || true, &tasks);

    // 65 % of ten cores, less two and their margin of 15 %, in steps of half a core.
    ground.rules("pools: [{settleSeconds: 1}]\nevictionsPerMinute: 600").await;
    eventually!("it is offered", ground.offered().await.0 == Some(4000));
    for (name, label) in [("a", "kept"), ("b", "free"), ("c", "free")] {
        ground.batch_pod(name, label).await;
    }
    eventually!("as many as there is room for are bound", ground.bound().await == 2);
    let bound: Vec<String> =
        ground.placed().await.into_iter().filter_map(|(name, node)| node.map(|_| name)).collect();
    assert_eq!(bound, ["a", "b"], "the older first");
    // Budgets are for those that run.
    for name in &bound {
        let running = json!({ "status": { "phase": "Running" } });
        let params = PatchParams::default();
        ground.pods().patch_status(name, &params, &Patch::Merge(running)).await.unwrap();
    }

    // One of them is under a budget that lets none go. Online wakes up.
    ground
        .create_in::<PodDisruptionBudget>(json!({ "metadata": { "name": "kept" }, "spec": {
            "minAvailable": 1, "selector": { "matchLabels": { "app": "kept" } } } }))
        .await;
    for name in ["a", "b"] {
        gauge.set(name, 1500);
    }
    gauge.set("n", 8500);
    eventually!("the one that may go is gone", !ground.placed().await.contains_key("b"));
    gauge.0.lock().unwrap().remove("b");
    gauge.set("n", 7000);
    eventually!("less is offered", ground.offered().await.0 < Some(2000));
    let placed = ground.placed().await;
    assert!(placed["a"].is_some() && placed["c"].is_none(), "{placed:?}");
    let events: Api<Event> = Api::default_namespaced(ground.client.clone());
    let told = async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.into_iter().any(|each| {
            each.reason.as_deref() == Some("BatchEvicted")
                && each.involved_object.name.as_deref() == Some("b")
        })
    };
    eventually!("it is told", told().await);

    // A text that cannot be meant changes nothing; without rules the offer is taken away, and who
    // has no budget's protection any more goes.
    ground.rules("pools: [{ceiling: 0}]").await;
    ground.rules("pools: []").await;
    eventually!("nothing is offered", ground.offered().await == (None, None));
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(ground.client.clone());
    assert!(ground.placed().await.contains_key("a"), "its budget holds");
    budgets.delete("kept", &DeleteParams::default()).await.unwrap();
    ground.end([scheduler, tasks]).await;
}
