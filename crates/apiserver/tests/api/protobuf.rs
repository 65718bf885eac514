//! Answers in protobuf: by their headers and first bytes, and as Kubernetes' own programs read them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, PODS, Server, config_map};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// A controller manager on a busy machine takes some seconds to start.
const PATIENCE: Duration = Duration::from_secs(90);

/// Code, type and body of an answer; of a watch the first piece.
async fn ask(server: &Server, path: &str, accept: &str) -> (u16, String, Vec<u8>) {
    let request = http::Request::get(path).header(ACCEPT, accept).body(Body::empty()).unwrap();
    let response = server.admin().send(request).await.unwrap();
    let code = response.status().as_u16();
    let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    let mut body = response.into_body();
    let bytes = match path.contains("watch=") {
        true => body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec(),
        false => body.collect().await.unwrap().to_bytes().to_vec(),
    };
    (code, kind, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_kinds_are_answered_in_protobuf_and_custom_ones_are_not() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("a", json!({"k": "v"}))).await.unwrap();
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "deployments.apps.example.com"},
        "spec": {
            "group": "apps.example.com", "scope": "Namespaced",
            "names": {"kind": "Deployment", "plural": "deployments"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.create(crds, &crd).await.unwrap();

    let one = format!("{CONFIG_MAPS}/a");
    let gone = format!("{CONFIG_MAPS}/gone");
    let answers = [
        (CONFIG_MAPS, 200),
        (one.as_str(), 200),
        (gone.as_str(), 404),
        (crds, 200),
        ("/api", 200),
        ("/api/v1", 200),
        ("/apis", 200),
        ("/apis/apps/v1", 200),
    ];
    for (path, code) in answers {
        let (answered, kind, body) = ask(&server, path, PROTOBUF).await;
        assert_eq!((answered, kind.as_str()), (code, PROTOBUF), "{path}");
        assert!(body.starts_with(b"k8s\0"), "{path}");
    }
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, kind, body) = ask(&server, CONFIG_MAPS, &metadata).await;
    assert_eq!(kind, PROTOBUF);
    assert!(body.windows(25).any(|text| text == b"PartialObjectMetadataList"));

    let watch = format!("{CONFIG_MAPS}?watch=1");
    let (_, kind, body) = ask(&server, &watch, &format!("{PROTOBUF};stream=watch")).await;
    assert_eq!(kind, format!("{PROTOBUF};stream=watch"));
    assert_eq!(&body[4..11], b"\x0a\x05ADDED");

    let custom = "/apis/apps.example.com/v1/namespaces/default/deployments";
    let (code, ..) = ask(&server, custom, PROTOBUF).await;
    assert_eq!(code, 406);
    let (code, kind, _) = ask(&server, custom, &format!("{PROTOBUF}, application/json")).await;
    assert_eq!((code, kind.as_str()), (200, "application/json"));
    server.stop().await;
}

/// One of Kubernetes' own programs; ended when dropped.
struct Program(Child);

impl Program {
    fn start(name: &str, server: &Server, more: &[&str]) -> Option<Self> {
        let named = std::env::var_os("KUBEBUILDER_ASSETS");
        let place = named.map_or_else(|| PathBuf::from("/opt/kubernetes"), PathBuf::from);
        let program = place.join(name);
        if !program.exists() {
            eprintln!("skipped: {name} is neither in KUBEBUILDER_ASSETS nor /opt/kubernetes");
            return None;
        }
        let log = std::fs::File::create(server.path(name)).unwrap();
        let child = Command::new(program)
            .arg(format!("--kubeconfig={}", server.path("kubeconfig").display()))
            .arg(format!("--kube-api-content-type={PROTOBUF}"))
            .args(["--leader-elect=false", "--port=0", "--secure-port=0"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Self(child))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until(server: &Server, log: &str, what: &str, holds: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > end {
            let said = std::fs::read_to_string(server.path(log)).unwrap_or_default();
            panic!("never: {what}\n{said}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn workload(kind: &str, group: &str, name: &str, replicas: Value) -> Value {
    let spec = json!({"containers": [{
        "name": "c", "image": "i",
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
    }]});
    json!({
        "apiVersion": group, "kind": kind, "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_controller_manager_works_on_protobuf() {
    let server = Server::start().await;
    let name = "kube-controller-manager";
    let only = "--controllers=deployment,replicaset,garbagecollector,namespace,resourcequota";
    let Some(_manager) = Program::start(name, &server, &[only]) else { return };
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let web = workload("Deployment", "apps/v1", "web", json!(3));
    server.create(deployments, &web).await.unwrap();
    let pods = async || server.get(PODS).await.unwrap()["items"].as_array().unwrap().len();
    until(&server, name, "three pods", async || pods().await == 3).await;
    let live = server.get(PODS).await.unwrap();
    // What went there and back in protobuf is what was meant.
    let container = &live["items"][0]["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], "http");

    let smaller = json!({"spec": {"replicas": 1}});
    let path = format!("{deployments}/web");
    server.patch(&path, "merge-patch+json", &smaller).await.unwrap();
    let alive = async || {
        let live = server.get(PODS).await.unwrap();
        let all = live["items"].as_array().unwrap().iter();
        all.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count()
    };
    until(&server, name, "one pod, seen by a watch", async || alive().await == 1).await;
    let status = async || server.get(&path).await.unwrap()["status"].clone();
    until(&server, name, "a status that knows", async || {
        let status = status().await;
        status["replicas"] == 1 && status["observedGeneration"] == 2
    })
    .await;

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "brief"}});
    server.create("/api/v1/namespaces", &namespace).await.unwrap();
    let inside = "/api/v1/namespaces/brief/configmaps";
    server.create(inside, &config_map("a", json!({}))).await.unwrap();
    server.send("DELETE", "/api/v1/namespaces/brief", None).await.unwrap();
    let gone = async || server.get("/api/v1/namespaces/brief").await.is_err();
    until(&server, name, "the namespace is emptied", gone).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_scheduler_works_on_protobuf() {
    let server = Server::start().await;
    let name = "kube-scheduler";
    let Some(_scheduler) = Program::start(name, &server, &[]) else { return };
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    server.create("/api/v1/nodes", &node).await.unwrap();
    let room = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
    let status = json!({"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    server.patch("/api/v1/nodes/n1/status", "merge-patch+json", &status).await.unwrap();
    // A node is new and tainted until its agent has reported; no controller runs here.
    let untainted = json!({"spec": {"taints": null}});
    server.patch("/api/v1/nodes/n1", "merge-patch+json", &untainted).await.unwrap();

    for (pod, cpu) in [("fits", "500m"), ("large", "64")] {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {"containers": [container]},
        });
        server.create(PODS, &pod).await.unwrap();
    }
    let pod = async |name: &str| server.get(&format!("{PODS}/{name}")).await.unwrap();
    let bound = async || pod("fits").await["spec"]["nodeName"] == "n1";
    until(&server, name, "the pod that fits is bound", bound).await;
    let refused = async || {
        let conditions = pod("large").await["status"]["conditions"].clone();
        let mut all = conditions.as_array().into_iter().flatten();
        all.any(|one| one["type"] == "PodScheduled" && one["reason"] == "Unschedulable")
    };
    until(&server, name, "the other one says why not", refused).await;
    server.stop().await;
}
