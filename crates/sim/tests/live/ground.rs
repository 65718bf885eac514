//! A cluster of hollow nodes with a scheduler at work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_controllers::World;
use berth_controllers::scheduler::{Config, start_with};
use berth_daemon::Tasks;
use berth_sim::hollow::{self, Counts};
use berth_store::{Embedded, Options};
use berth_tests::{Kubernetes, TOKEN};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What must come true does within this, or never.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Ground {
    pub client: Client,
    tasks: Tasks,
    _dir: TempDir,
    _real: Option<Kubernetes>,
}

impl Ground {
    /// Our own API server, in this process.
    pub async fn ours() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
        let pki = Pki::load_or_create(&dir.path().join("pki"), &Sans::default(), "node").unwrap();
        let config = berth_apiserver::Config {
            advertise: ([127, 0, 0, 1], 6443).into(),
            service_range: ServiceRange::new("10.89.0.0/16".parse().unwrap()).unwrap(),
            node_ports: 30000..=32767,
            pki,
            cluster_domain: "cluster.local".to_owned(),
        };
        let server = ApiServer::open(config, Arc::new(store), &tasks).await.unwrap();
        let client = server.client(User::new("admin", &["system:masters"]));
        Self::ready(client, tasks, dir, None).await
    }

    /// A real kube-apiserver; none where there is none to be had.
    pub async fn theirs() -> Option<Self> {
        let Some(real) = Kubernetes::start().unwrap() else {
            assert!(std::env::var_os("CI").is_none(), "KUBEBUILDER_ASSETS has no kube-apiserver");
            eprintln!("skipped: no kube-apiserver is here (set KUBEBUILDER_ASSETS)");
            return None;
        };
        let mut config = kube::Config::new(real.url().parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(TOKEN.to_owned().into());
        let client = Client::try_from(config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Some(Self::ready(client, Tasks::new(), dir, Some(real)).await)
    }

    async fn ready(client: Client, tasks: Tasks, dir: TempDir, real: Option<Kubernetes>) -> Self {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let account = json!({ "metadata": { "name": "default" } });
        let account = serde_json::from_value(account).unwrap();
        // The namespace is made soon after a real server is ready.
        eventually!("the account is there", {
            accounts.create(&PostParams::default(), &account).await.is_ok()
        });
        Self { client, tasks, _dir: dir, _real: real }
    }

    /// Hollow nodes that live as long as the ground.
    pub async fn nodes(&self, nodes: usize, cores: u32, gpus: u32) {
        let options = hollow::Options {
            nodes,
            prefix: "hollow".to_owned(),
            cores,
            memory_gib: 64,
            pods: 110,
            gpus,
            taint: false,
            in_flight: 16,
        };
        hollow::register(&self.client, &options, &Counts::default()).await.unwrap();
        let client = self.client.clone();
        // Without a controller manager nobody takes the mark of a new node away.
        let all: Api<Node> = Api::all(client.clone());
        let ready = Patch::Merge(json!({ "spec": { "taints": null } }));
        for node in all.list(&ListParams::default()).await.unwrap() {
            all.patch(&node.name_any(), &PatchParams::default(), &ready).await.unwrap();
        }
        self.tasks.spawn_until_stop("hollow", async move {
            hollow::live(client, &options, &Counts::default()).await;
        });
    }

    /// A scheduler that lives as long as the tasks that are returned.
    pub fn scheduler(&self, config: Config) -> Tasks {
        let tasks = Tasks::new();
        let world = Arc::new(World::for_scheduler(self.client.clone(), &tasks));
        start_with(self.client.clone(), &world, config.validate().unwrap(), &tasks);
        tasks
    }

    pub async fn pod(&self, name: &str, cpu: &str, more: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "web:1",
                "resources": { "requests": { "cpu": cpu, "memory": "64Mi" } } }] } });
        for part in ["metadata", "spec"] {
            for (key, value) in more[part].as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        let pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Pods with a node, by name.
    pub async fn bound(&self) -> BTreeMap<String, String> {
        let pods = self.pods().list(&ListParams::default()).await.unwrap();
        let node = |pod: Pod| Some((pod.name_any(), pod.spec?.node_name?));
        pods.items.into_iter().filter_map(node).collect()
    }

    pub async fn end(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

/// Waits until `holds`, looking again and again.
macro_rules! eventually {
    ($what:expr, $holds:expr) => {{
        let begun = tokio::time::Instant::now();
        while !$holds {
            let limit = $crate::ground::LIMIT;
            assert!(begun.elapsed() < limit, "not within {limit:?}: {}", $what);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }};
}
pub(crate) use eventually;
