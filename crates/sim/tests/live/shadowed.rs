//! A policy shadows a living scheduler, is asked over HTTP, goes on after a restart and is promoted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_controllers::scheduler::{CONFIG_KEY, CONFIG_MAP, Config};
use berth_daemon::Tasks;
use berth_scheduler::Profile;
use berth_scheduler::profile::{Score, Strategy};
use berth_sim::shadow::{Least, Report, Saved, Shadow, cluster_id, follow, judge, serve};
use berth_sim::{Candidate, PolicyKind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ground::{Ground, eventually};

const NODES: usize = 8;

fn packed() -> Profile {
    let mut packed = Profile { strategy: Strategy::MostAllocated, ..Profile::default() };
    // Nothing may speak for spreading.
    packed.scores = [(Score::NodeResourcesFit, 1)].into();
    packed
}

fn candidates() -> Vec<Candidate> {
    let profiles = vec![packed()];
    let packed = Candidate::Profiles { name: "profile:packed".to_owned(), profiles };
    vec![packed, Candidate::Packer(PolicyKind::BestFit)]
}

/// A shadow at work, until its tasks are stopped.
struct Shadowing {
    shadow: Arc<Mutex<Shadow>>,
    tasks: Tasks,
}

impl Shadowing {
    fn start(ground: &Ground, shadow: Shadow) -> Self {
        let (shadow, tasks) = (Arc::new(Mutex::new(shadow)), Tasks::new());
        let (client, fed) = (ground.client.clone(), Arc::clone(&shadow));
        tasks.spawn_until_stop("shadow", async move { follow(&client, &fed, || ()).await });
        Self { shadow, tasks }
    }

    fn report(&self) -> Report {
        self.shadow.lock().unwrap().report(Timestamp::now())
    }

    async fn end(self) -> Saved {
        let saved = self.shadow.lock().unwrap().saved(Timestamp::now());
        self.tasks.stop(Duration::from_secs(5)).await;
        saved
    }
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nHost: shadow\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

async fn shadow_and_promote(ground: Ground) {
    ground.nodes(NODES, 8, 0).await;
    let scheduler = ground.scheduler(Config::default());
    for at in 0..8 {
        ground.pod(&format!("old-{at}"), "500m", json!({})).await;
    }
    eventually!("the old pods are bound", ground.bound().await.len() == 8);

    let cluster = cluster_id(&ground.client).await.unwrap();
    // Pods are made at whole seconds; those of this one would count as new.
    let older = Timestamp::now() + Duration::from_secs(1);
    eventually!("another second", Timestamp::now() > older);
    let shadow = Shadow::new(&cluster, candidates(), 1, Timestamp::now());
    let running = Shadowing::start(&ground, shadow);
    eventually!("the cluster is seen", running.report().pods == 8);
    for at in 0..16 {
        ground.pod(&format!("new-{at}"), "500m", json!({})).await;
    }
    let compared = |report: &Report, wanted: u64| {
        let done = |each: &berth_sim::shadow::Standing| {
            each.decided == wanted && each.same + each.other == wanted
        };
        report.live.decided == wanted && report.policies.iter().all(done)
    };
    eventually!("all are compared", compared(&running.report(), 16));
    let report = running.report();
    // The old pods are everywhere; the live scheduler spread the new ones, the others did not.
    assert_eq!((report.nodes, report.pods, report.live.empty_nodes), (NODES, 24, 0));
    assert!(report.live.took.count > 0);
    for each in &report.policies {
        assert_eq!(each.fault, None);
        assert!(each.cpu_deviation > report.live.cpu_deviation + 10.0, "{}", report.table());
        assert_eq!(each.cpu_percent, report.live.cpu_percent);
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(Arc::clone(&running.shadow), listener, &running.tasks);
    assert!(get(address, "/").await.contains("profile:packed"));
    let asked: Report = serde_json::from_str(&get(address, "/report").await).unwrap();
    assert_eq!((asked.policies.len(), asked.live.decided), (2, 16));
    let metrics = get(address, "/metrics").await;
    for wanted in [
        "berth_shadow_decided_total{policy=\"live\"} 16\n",
        "berth_shadow_decided_total{policy=\"profile:packed\"} 16\n",
        "berth_shadow_decision_duration_seconds_count{policy=\"bestfit\"} 16\n",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in {metrics}");
    }
    assert!(!metrics.contains("gpu_allocated_percent{"), "there are no devices");

    // Nothing was written: every pod is where the live scheduler put it, and nobody was evicted.
    assert_eq!(ground.bound().await.len(), 24);

    // While the shadow is away four pods come and an old one goes.
    let saved = running.end().await;
    let gone = ground.pods();
    gone.delete("old-0", &DeleteParams::default().grace_period(0)).await.unwrap();
    for at in 0..4 {
        ground.pod(&format!("later-{at}"), "500m", json!({})).await;
    }
    eventually!("the later pods are bound", ground.bound().await.len() == 27);
    let mut shadow = Shadow::new(&cluster, candidates(), 1, Timestamp::now());
    shadow.restore(saved);
    let running = Shadowing::start(&ground, shadow);
    eventually!("those that came meanwhile are compared", compared(&running.report(), 20));
    assert_eq!(running.report().pods, 27);
    let saved = running.end().await;

    // What the shadow saw is enough for little, and what is promoted is followed.
    let least = Least { pods: 20, watched_s: 0, ..Least::default() };
    judge(&saved.report, "profile:packed", least, Timestamp::now()).unwrap();
    let more = Least { pods: 21, ..least };
    let refused = judge(&saved.report, "profile:packed", more, Timestamp::now()).unwrap_err();
    assert_eq!(refused.to_string(), "profile:packed has decided about 20 pods, 21 are wanted");
    let Some(Candidate::Profiles { profiles, .. }) = saved.candidate("profile:packed") else {
        panic!("the shadow keeps what it rehearsed");
    };
    let text = serde_json::to_string(&json!({ "profiles": profiles })).unwrap();
    let map = json!({ "metadata": { "name": CONFIG_MAP.1 }, "data": { CONFIG_KEY: text } });
    let maps: Api<ConfigMap> = Api::namespaced(ground.client.clone(), CONFIG_MAP.0);
    let before = ground.bound().await;
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let mut round = 0;
    // The change takes a moment to be seen; from then on eight pods share one node.
    eventually!("pods are packed", {
        round += 1;
        for at in 0..8 {
            ground.pod(&format!("round-{round}-{at}"), "100m", json!({})).await;
        }
        let prefix = format!("round-{round}-");
        let mut nodes: Vec<String>;
        eventually!("the round is bound", {
            let bound = ground.bound().await;
            nodes = bound
                .iter()
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(_, node)| node.clone())
                .collect();
            nodes.len() == 8
        });
        nodes.sort();
        nodes.dedup();
        nodes.len() == 1
    });
    // Nobody who was placed before was moved.
    let after = ground.bound().await;
    assert!(before.iter().all(|(name, node)| after.get(name) == Some(node)));
    scheduler.stop(Duration::from_secs(5)).await;
    ground.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_shadows_our_cluster_and_is_promoted() {
    shadow_and_promote(Ground::ours().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_shadows_a_real_kubernetes_and_is_promoted() {
    if let Some(ground) = Ground::theirs().await {
        shadow_and_promote(ground).await;
    }
}
