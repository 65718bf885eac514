//! A node for a test: an API server in process, a containerd of its own, an agent between them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use berth_node::cri::Cri;
use berth_node::{
    Config, agent, containerd::Containerd, network, pod::PodTable, teardown, volumes,
};
use berth_store::{Embedded, Options};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// busybox, with a shell.
pub const IMAGE: &str = "test.local/busybox:1";
const PAUSE: &str = "test.local/pause:1";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Node {
    pub config: Config,
    dir: tempfile::TempDir,
    client: kube::Client,
    cri: Cri,
    servers: Tasks,
    agent: Tasks,
}

/// Why the test cannot run here.
fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root".to_owned());
    }
    let wanted = ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/lib/cni/bridge", "/bin/busybox"];
    wanted.into_iter().find(|path| !Path::new(path).exists()).map(str::to_owned)
}

impl Node {
    /// `number` tells the nodes of tests that run side by side apart.
    pub async fn start(number: u8) -> Option<Self> {
        Self::start_for(number, 110).await
    }

    /// As [`Node::start`], for so many pods.
    pub async fn start_for(number: u8, max_pods: u32) -> Option<Self> {
        if let Some(lacking) = lacking() {
            assert!(std::env::var_os("CI").is_none(), "this test needs {lacking}");
            eprintln!("skipped: needs {lacking}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("bn").tempdir_in("/tmp").expect("a directory");
        let range = format!("10.88.{number}.0/24").parse::<ipnet::Ipv4Net>().expect("a range");
        let address = range.hosts().next().expect("a range with addresses");
        let name = format!("bt{number}");
        let config = Config {
            name: name.clone(),
            address,
            data_dir: dir.path().join("d"),
            instance: name,
            pod_range: range,
            cluster_dns: address,
            cluster_domain: "cluster.local".to_owned(),
            sandbox_image: PAUSE.to_owned(),
            kubelet_port: 0,
            serving: (String::new(), String::new()),
            client_ca_pem: String::new(),
            registry: ([127, 0, 0, 1], 5050).into(),
            max_pods,
            parallel_pulls: 2,
        };
        let servers = Tasks::new();
        let client = api(dir.path(), &servers).await;
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        let account: ServiceAccount = serde_json::from_value(account).expect("an account");
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        accounts.create(&PostParams::default(), &account).await.expect("an account");
        network::start(&config).await.expect("a network");
        let agent = Tasks::new();
        let cri = Containerd::start(&config, &agent).await.expect("containerd").cri();
        for (name, entrypoint) in
            [(PAUSE, json!(["/bin/busybox", "sleep", "2147483647"])), (IMAGE, Value::Null)]
        {
            import(&config, name, &entrypoint);
        }
        agent::start(client.clone(), config.clone(), cri.clone(), PodTable::default(), &agent);
        volumes::start_reclaiming(&config, &client, &agent);
        Some(Self { config, dir, client, cri, servers, agent })
    }

    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn pod(&self, name: &str) -> Option<Pod> {
        self.pods().get_opt(name).await.expect("an answer")
    }

    /// Creates a pod bound to this node.
    pub async fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!(self.config.name);
        spec["automountServiceAccountToken"] = json!(false);
        spec["serviceAccountName"] = json!("default");
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created");
    }

    /// The pod as soon as it `is` what is waited for.
    pub async fn wait(&self, name: &str, what: &str, is: impl Fn(&Pod) -> bool) -> Pod {
        let end = Instant::now() + PATIENCE;
        loop {
            let pod = self.pod(name).await;
            if let Some(pod) = pod.as_ref().filter(|pod| is(pod)) {
                return pod.clone();
            }
            assert!(Instant::now() < end, "{name} never was {what}: {pod:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn wait_gone(&self, name: &str) {
        self.until("the pod is gone", async |node| node.pod(name).await.is_none()).await;
    }

    pub async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(Instant::now() < end, "it never came to: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the agent, as a crash would: nothing is told to anybody.
    pub async fn stop_agent(&mut self) {
        self.agent.stop(Duration::from_secs(5)).await;
    }

    pub fn kill_containerd(&self) {
        let pid = self.config.containerd_dir().join("containerd.pid");
        let pid =
            std::fs::read_to_string(pid).expect("a process id").trim().parse().expect("a number");
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    }

    pub async fn start_agent(&mut self) {
        self.agent = Tasks::new();
        self.cri = Containerd::start(&self.config, &self.agent).await.expect("containerd").cri();
        let (client, config) = (self.client.clone(), self.config.clone());
        agent::start(client, config, self.cri.clone(), PodTable::default(), &self.agent);
    }

    /// Ends everything and removes what the machine was made to hold.
    pub async fn end(&mut self) {
        self.agent.stop(Duration::from_secs(5)).await;
        teardown(&self.config.data_dir, &self.config.instance).await.expect("torn down");
        self.servers.stop(Duration::from_secs(5)).await;
        assert!(self.dir.path().exists());
    }
}

async fn api(dir: &Path, tasks: &Tasks) -> kube::Client {
    let store = Embedded::open(&dir.join("store"), Options::default()).await.expect("a store");
    let pki =
        Pki::load_or_create(&dir.join("pki"), &Sans::default(), "node").expect("certificates");
    let config = berth_apiserver::Config {
        advertise: ([127, 0, 0, 1], 6443).into(),
        service_range: ServiceRange::new("10.89.0.0/16".parse().expect("a range"))
            .expect("a range"),
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, Arc::new(store), tasks).await.expect("an API server");
    server.client(User {
        name: "admin".to_owned(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        ..User::default()
    })
}

/// An image with nothing but busybox, straight into our containerd.
fn import(config: &Config, name: &str, entrypoint: &Value) {
    let mut layer = tar::Builder::new(Vec::new());
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    append(&mut layer, "bin/busybox", &busybox, 0o755);
    for applet in ["sh", "sleep", "echo", "httpd", "test", "true", "mkdir", "kill"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("a Vec takes everything");
    }
    let layer = layer.into_inner().expect("a Vec takes everything");
    let mut image = tar::Builder::new(Vec::new());
    let mut blob = |bytes: Vec<u8>, kind: &str| {
        let hash = hex(&bytes);
        append(&mut image, &format!("blobs/sha256/{hash}"), &bytes, 0o644);
        json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len()})
    };
    let diff = format!("sha256:{}", hex(&layer));
    let layer = blob(layer, "application/vnd.oci.image.layer.v1.tar");
    let settings = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    let settings = blob(json_bytes(&settings), "application/vnd.oci.image.config.v1+json");
    let manifest_kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_kind, "config": settings, "layers": [layer],
    });
    let mut manifest = blob(json_bytes(&manifest), manifest_kind);
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    append(&mut image, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    append(&mut image, "index.json", &json_bytes(&index), 0o644);
    let file = config.data_dir.join("image.tar");
    std::fs::write(&file, image.into_inner().expect("a Vec takes everything")).expect("written");
    let imported = Command::new("ctr")
        .arg("-a")
        .arg(config.containerd_socket())
        .args(["-n", "k8s.io", "images", "import"])
        .arg(&file)
        .output()
        .expect("ctr runs");
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(bytes.len()).expect("a size"));
    header.set_mode(mode);
    archive.append_data(&mut header, path, bytes).expect("a Vec takes everything");
}

fn json_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|had| had.type_ == "Ready" && had.status == "True")
}

/// The id of the pod's only container.
pub fn container_id(pod: &Pod) -> String {
    let mut all = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let id = all.next().and_then(|status| status.container_id.clone()).unwrap_or_default();
    id.trim_start_matches("containerd://").to_owned()
}

/// Why the pod's only container does not run.
pub fn waiting_reason(pod: &Pod) -> Option<String> {
    let mut all = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    all.next()?.state.clone()?.waiting?.reason
}
