//! Apps and their releases against a whole API server and all controllers in this process. What
//! nodes do is done by a loop that says of every pod that it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_api::app::App;
use berth_api::release::{Phase, Release};
use berth_controllers::{Config, start};
use berth_daemon::Tasks;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::serve;

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

struct Ground {
    client: Client,
    tasks: Tasks,
    most: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

impl Ground {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let client = serve(dir.path(), &tasks).await;
        start(client.clone(), Config::new("CA".to_owned()), &tasks);
        let most = Arc::new(AtomicUsize::new(0));
        tasks.spawn_until_stop("hollow", hollow(client.clone(), most.clone()));
        let ground = Self { client, tasks, most, _dir: dir };
        ground.made::<ServiceAccount>("default", |_| true).await;
        ground
    }

    fn of<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn app(&self, spec: Value) {
        let app = json!({ "apiVersion": "berth.dev/v1", "kind": "App",
            "metadata": { "name": "web" }, "spec": spec });
        let params = PatchParams::apply("test").force();
        let api = self.of::<App>();
        let begun = tokio::time::Instant::now();
        // The kind's definition is brought by the controllers, in their own time.
        while let Err(error) = api.patch("web", &params, &Patch::Apply(&app)).await {
            assert!(begun.elapsed() < LIMIT, "{error}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The object once it is as `holds` says.
    async fn made<K>(&self, name: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let begun = tokio::time::Instant::now();
        loop {
            let found = self.of::<K>().get_opt(name).await.ok().flatten();
            match &found {
                Some(object) if holds(object) => return object.clone(),
                _ => assert!(begun.elapsed() < LIMIT, "{} {name}: {found:?}", K::kind(&())),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn gone<K>(&self, name: &str)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let begun = tokio::time::Instant::now();
        while self.of::<K>().get_opt(name).await.unwrap().is_some() {
            assert!(begun.elapsed() < LIMIT, "{} {name} is still there", K::kind(&()));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn phase(&self, release: &str, phase: Phase) -> Release {
        self.made::<Release>(release, |one| {
            one.status.as_ref().is_some_and(|status| status.phase == phase)
        })
        .await
    }

    async fn wish(&self, release: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.of::<Release>().patch(release, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Images of the App's pods and how many have each.
    async fn images(&self) -> BTreeMap<String, usize> {
        let listed = ListParams::default().labels("app.kubernetes.io/instance=web");
        let mut counts = BTreeMap::new();
        for pod in self.of::<Pod>().list(&listed).await.unwrap() {
            let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
            *counts.entry(image).or_default() += 1;
        }
        counts
    }

    async fn end(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// Says of each pod that it runs its image; remembers how many there were at most.
async fn hollow(client: Client, most: Arc<AtomicUsize>) {
    let api: Api<Pod> = Api::default_namespaced(client);
    loop {
        let pods = api.list(&ListParams::default()).await.map(|list| list.items);
        let pods = pods.unwrap_or_default();
        let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        most.fetch_max(staying.clone().count(), Ordering::Relaxed);
        for pod in staying {
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let id = format!("test://{}", container.image.as_deref().unwrap_or_default());
            let known = pod.status.as_ref().and_then(|status| {
                status.container_statuses.as_ref()?.first()?.container_id.clone()
            });
            if known.as_ref() == Some(&id) {
                continue;
            }
            let now = jiff::Timestamp::now().to_string();
            let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": now });
            let status = json!({ "status": { "phase": "Running", "conditions": [ready],
                "containerStatuses": [{ "name": container.name, "image": container.image,
                    "imageID": "", "ready": true, "restartCount": 0, "containerID": id,
                    "state": { "running": { "startedAt": now } } }] } });
            let params = PatchParams::default();
            drop(api.patch_status(&pod.name_any(), &params, &Patch::Merge(status)).await);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn unreserved(strategy: Value) -> Value {
    let mut strategy = strategy;
    strategy["reserve"] = json!(false);
    strategy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_becomes_objects_that_others_may_read_and_change() {
    let ground = Ground::start().await;
    let spec = |drift: &str, mode: &str| {
        json!({
            "image": "web:1", "replicas": 2, "port": 8080, "drift": drift,
            "ports": [{ "name": "admin", "port": 9000 }],
            "tcp": [{ "port": "admin" }],
            "config": { "values": { "MODE": mode }, "files": { "/etc/web.conf": "x = 1" } },
            "secrets": [{ "name": "db", "env": { "URL": "url" } }],
            "cron": [{ "name": "nightly", "schedule": "0 3 * * *", "command": ["report"] }],
            "scale": { "min": 2, "max": 5, "cpu": 70 },
            "strategy": unreserved(json!({ "type": "rolling" })),
        })
    };
    ground.app(spec("repair", "a")).await;
    ground.phase("web-1", Phase::Succeeded).await;
    let deployment = ground.made::<Deployment>("web", |_| true).await;
    let scaler = ground.made::<HorizontalPodAutoscaler>("web", |_| true).await;
    assert_eq!(scaler.spec.scale_target_ref.kind, "App");
    ground.made::<CronJob>("web-nightly", |_| true).await;
    let doors = ground.made::<Service>("web-tcp", |_| true).await;
    assert_eq!(doors.spec.unwrap().type_.as_deref(), Some("NodePort"));
    let map_of = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref().unwrap().template.spec.clone().unwrap();
        let from = pod.containers[0].env_from.clone().unwrap();
        from[0].config_map_ref.clone().unwrap().name
    };
    let first = map_of(&deployment);
    let map = ground.made::<ConfigMap>(&first, |_| true).await;
    assert_eq!((map.immutable, map.data.unwrap()["MODE"].as_str()), (Some(true), "a"));

    // Another version of the configuration is another ConfigMap, and a release.
    ground.app(spec("repair", "b")).await;
    ground.phase("web-2", Phase::Succeeded).await;
    let second = map_of(&ground.made::<Deployment>("web", |_| true).await);
    assert_ne!(first, second);
    ground.made::<ConfigMap>(&first, |_| true).await;

    // What somebody else changes is put right, and told field by field.
    let image = |image: &str| {
        json!({ "spec": { "template": { "spec": {
            "containers": [{ "name": "web", "image": image }] } } } })
    };
    let change = |image: Value| {
        let api = ground.of::<Deployment>();
        async move {
            let params = PatchParams::default();
            api.patch("web", &params, &Patch::Strategic(image)).await.unwrap();
        }
    };
    change(image("web:theirs")).await;
    let field = "spec.template.spec.containers[web].image";
    let told = |app: &App, outcome: &str| {
        let drift = app.status.clone().unwrap_or_default().drift;
        drift.iter().any(|one| {
            one.field == field && one.found == "\"web:theirs\"" && one.outcome == outcome
        })
    };
    ground.made::<App>("web", |app| told(app, "repaired")).await;
    let is = |deployment: &Deployment, image: &str| {
        let pod = deployment.spec.as_ref().unwrap().template.spec.clone().unwrap();
        pod.containers[0].image.as_deref() == Some(image)
    };
    ground.made::<Deployment>("web", |one| is(one, "web:1")).await;

    // Or taken over, if the App says so.
    ground.app(spec("adopt", "b")).await;
    ground
        .made::<App>("web", |app| {
            let status = app.status.as_ref();
            status.is_some_and(|status| status.observed_generation == app.metadata.generation)
        })
        .await;
    change(image("web:theirs")).await;
    let app = ground.made::<App>("web", |app| told(app, "adopted")).await;
    assert_eq!(app.name_any(), "web");
    ground.made::<App>("web", |app| app.spec.image == "web:theirs").await;
    ground.phase("web-3", Phase::Succeeded).await;
    ground.made::<Deployment>("web", |one| is(one, "web:theirs")).await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_keeps_within_its_bounds_while_an_autoscaler_works() {
    let ground = Ground::start().await;
    let spec = |image: &str| {
        json!({ "image": image, "port": 8080,
            "strategy": unreserved(json!({ "type": "canary", "steps": [{ "weight": 50 }] })) })
    };
    let scale = |count: i32| {
        let patch = Patch::Merge(json!({ "spec": { "replicas": count } }));
        let api = ground.of::<App>();
        async move { api.patch_scale("web", &PatchParams::default(), &patch).await.unwrap() }
    };
    ground.app(spec("web:1")).await;
    ground.phase("web-1", Phase::Succeeded).await;
    scale(4).await;
    let size = |count: i32| {
        move |app: &App| {
            app.status
                .as_ref()
                .is_some_and(|status| (status.replicas, status.ready_replicas) == (count, count))
        }
    };
    ground.made::<App>("web", size(4)).await;
    ground.most.store(0, Ordering::Relaxed);

    ground.app(spec("web:2")).await;
    ground.phase("web-2", Phase::Paused).await;
    assert_eq!(ground.images().await, [("web:1".into(), 2), ("web:2".into(), 2)].into());
    assert!(ground.most.load(Ordering::Relaxed) <= 5, "4 and a surge of 1");
    // As an autoscaler does it.
    scale(6).await;
    ground.made::<App>("web", size(6)).await;
    assert_eq!(ground.images().await, [("web:1".into(), 3), ("web:2".into(), 3)].into());
    ground.wish("web-2", json!({ "promoted": 1 })).await;
    ground.phase("web-2", Phase::Succeeded).await;
    assert_eq!(ground.images().await, [("web:2".into(), 6)].into());
    assert!(ground.most.load(Ordering::Relaxed) <= 7, "6 and a surge of 1");
    ground.gone::<ReplicaSet>("web-2").await;
    ground.made::<Deployment>("web", |one| one.spec.as_ref().unwrap().replicas == Some(6)).await;

    // A version that is taken back leaves nothing, and may be tried again after the App went back.
    ground.app(spec("web:3")).await;
    ground.phase("web-3", Phase::Paused).await;
    ground.wish("web-3", json!({ "abort": true })).await;
    ground.phase("web-3", Phase::Aborted).await;
    ground.gone::<ReplicaSet>("web-3").await;
    assert_eq!(ground.images().await, [("web:2".into(), 6)].into());
    ground.app(spec("web:2")).await;
    ground.made::<Release>("web-3", |one| one.status.as_ref().unwrap().closed).await;
    ground.app(spec("web:3")).await;
    ground.phase("web-4", Phase::Paused).await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_goes_by_ordinals_and_in_place() {
    let ground = Ground::start().await;
    let spec = |image: &str, strategy: Value| {
        json!({ "image": image, "port": 8080, "replicas": 3, "stateful": true,
            "strategy": unreserved(strategy) })
    };
    let canary = json!({ "type": "canary", "steps": [{ "weight": 30 }] });
    ground.app(spec("web:1", canary.clone())).await;
    ground.phase("web-1", Phase::Succeeded).await;
    ground.app(spec("web:2", canary)).await;
    ground.phase("web-2", Phase::Paused).await;
    assert_eq!(ground.images().await, [("web:1".into(), 2), ("web:2".into(), 1)].into());
    ground.wish("web-2", json!({ "promoted": 1 })).await;
    ground.phase("web-2", Phase::Succeeded).await;
    assert_eq!(ground.images().await, [("web:2".into(), 3)].into());

    let uids = || async {
        let pods = ground.of::<Pod>().list(&ListParams::default()).await.unwrap();
        let mut uids: Vec<_> = pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect();
        uids.sort();
        uids
    };
    // The mark by which requests are kept away comes with the first release of this way.
    ground.app(spec("web:2", json!({ "type": "inPlace" }))).await;
    ground.phase("web-3", Phase::Succeeded).await;
    let before = uids().await;
    ground.app(spec("web:3", json!({ "type": "inPlace" }))).await;
    ground.phase("web-4", Phase::Succeeded).await;
    assert_eq!(ground.images().await, [("web:3".into(), 3)].into());
    assert_eq!(uids().await, before, "the same pods");
    let set = ground
        .made::<StatefulSet>("web", |set| {
            set.status
                .as_ref()
                .is_some_and(|status| status.update_revision == status.current_revision)
        })
        .await;
    assert_eq!(set.spec.unwrap().update_strategy.unwrap().type_.as_deref(), Some("RollingUpdate"));
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_prometheus_speaks_against_is_taken_back_by_itself() {
    let ground = Ground::start().await;
    let (place, errors) = prometheus(&ground.tasks).await;
    let spec = |image: &str| {
        json!({ "image": image, "port": 8080, "replicas": 4, "strategy": unreserved(json!({
            "type": "canary", "prometheus": place,
            "steps": [{ "weight": 50, "pauseSeconds": 2 }],
            "checks": [{ "name": "errors", "query": "errors{release=\"{{release}}\"}",
                "max": 0.05, "everySeconds": 1, "failures": 2 }] })) })
    };
    ground.app(spec("web:1")).await;
    ground.phase("web-1", Phase::Succeeded).await;
    ground.app(spec("web:2")).await;
    let good = ground.phase("web-2", Phase::Succeeded).await;
    let steps = good.status.unwrap().steps;
    assert!(steps[0].checks[0].good > 0, "it was measured: {steps:?}");
    errors.store(50, Ordering::Relaxed);
    ground.app(spec("web:3")).await;
    let bad = ground.phase("web-3", Phase::Aborted).await;
    let message = bad.status.unwrap().message;
    assert!(message.starts_with("check errors says 0.5, at most 0.05 is wanted"), "{message}");
    assert_eq!(ground.images().await, [("web:2".into(), 4)].into());
    ground.end().await;
}

/// What speaks Prometheus' API: the error rate of any release, in hundredths.
async fn prometheus(tasks: &Tasks) -> (String, Arc<AtomicUsize>) {
    let errors = Arc::new(AtomicUsize::new(0));
    let known = errors.clone();
    let answer =
        move |axum::extract::Query(asked): axum::extract::Query<BTreeMap<String, String>>| {
            let value = known.load(Ordering::Relaxed) as f64 / 100.0;
            async move {
                let query = asked.get("query").cloned().unwrap_or_default();
                let right = query.starts_with("errors{release=\"") && !query.contains("{{");
                let result = if right {
                    json!([{ "metric": {}, "value": [0, value.to_string()] }])
                } else {
                    json!([])
                };
                (json!({ "status": "success",
                "data": { "resultType": "vector", "result": result } }))
                .to_string()
            }
        };
    let routes = axum::Router::new().route("/api/v1/query", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn_until_stop("prometheus", async move {
        drop(axum::serve(listener, routes).await);
    });
    (place, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_swapped_inside_a_deployments_pods() {
    let ground = Ground::start().await;
    let spec = |image: &str| {
        json!({ "image": image, "port": 8080, "replicas": 3,
            "strategy": unreserved(json!({ "type": "inPlace" })) })
    };
    ground.app(spec("web:1")).await;
    ground.phase("web-1", Phase::Succeeded).await;
    let uids = || async {
        let pods = ground.of::<Pod>().list(&ListParams::default()).await.unwrap();
        let mut uids: Vec<_> = pods.iter().map(|pod| pod.uid()).collect();
        uids.sort();
        uids
    };
    let before = uids().await;
    ground.app(spec("web:2")).await;
    ground.phase("web-2", Phase::Succeeded).await;
    assert_eq!(ground.images().await, [("web:2".into(), 3)].into());
    assert_eq!(uids().await, before, "the same pods");
    let service = ground.made::<Service>("web", |service| {
        !service.spec.as_ref().unwrap().selector.as_ref().unwrap().contains_key("berth.dev/traffic")
    });
    service.await;
    let deployment = ground
        .made::<Deployment>("web", |one| {
            let status = one.status.clone().unwrap_or_default();
            one.spec.as_ref().unwrap().paused != Some(true) && status.updated_replicas == Some(3)
        })
        .await;
    // A pod that is made anew has the new image: the set's template went along.
    let pods = ground.of::<Pod>().list(&ListParams::default()).await.unwrap();
    let params = kube::api::DeleteParams::default();
    ground.of::<Pod>().delete(&pods.items[0].name_any(), &params).await.unwrap();
    ground.gone::<Pod>(&pods.items[0].name_any()).await;
    let begun = tokio::time::Instant::now();
    while ground.images().await != [("web:2".into(), 3)].into() {
        assert!(begun.elapsed() < LIMIT, "{:?}", ground.images().await);
        tokio::time::sleep(LOOK).await;
    }
    let now = ground.made::<Deployment>("web", |_| true).await;
    assert_eq!(now.metadata.generation, deployment.metadata.generation, "nothing rolled");
    ground.end().await;
}

/// The App of a namespace is refused by its own schema, not by what comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_app_is_refused_by_field() {
    let ground = Ground::start().await;
    ground.app(json!({ "image": "web:1" })).await;
    let wrong = json!({ "apiVersion": "berth.dev/v1", "kind": "App",
        "metadata": { "name": "bad" }, "spec": { "image": "a", "drift": "maybe" } });
    let wrong: kube::core::DynamicObject = serde_json::from_value(wrong).unwrap();
    let kind = kube::api::ApiResource::erase::<App>(&());
    let api: Api<kube::core::DynamicObject> =
        Api::default_namespaced_with(ground.client.clone(), &kind);
    let error = api.create(&PostParams::default(), &wrong).await.unwrap_err();
    assert!(error.to_string().contains("spec.drift"), "{error}");
    ground.end().await;
}
