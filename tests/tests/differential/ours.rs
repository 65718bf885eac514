//! Our API server alone, in process, over TLS.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Config, Pki, Sans, ServiceRange};
use berth_daemon::Tasks;
use berth_store::{Embedded, Options};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::script::Target;

pub struct Server {
    url: String,
    dir: TempDir,
    tasks: Tasks,
    runtime: Runtime,
}

impl Server {
    pub fn start() -> Self {
        let (runtime, tasks) = (Runtime::new().unwrap(), Tasks::new());
        let dir = tempfile::tempdir().unwrap();
        let url = runtime.block_on(open(&dir, &tasks));
        Self { url, dir, tasks, runtime }
    }

    pub fn target(&self) -> Target {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let words =
            ["--cacert", &at("ca.crt"), "--cert", &at("admin.crt"), "--key", &at("admin.key")]
                .map(str::to_owned)
                .to_vec();
        Target { url: self.url.clone(), words }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.block_on(self.tasks.stop(Duration::from_secs(5)));
    }
}

async fn open(dir: &TempDir, tasks: &Tasks) -> String {
    let names = Sans { ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], dns: Vec::new() };
    let pki = Pki::load_or_create(&dir.path().join("pki"), &names, "node-1").unwrap();
    let store = Embedded::open(&dir.path().join("store"), Options::default()).await.unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("https://{address}");
    let kubeconfig: serde_json::Value = serde_saphyr::from_str(&pki.kubeconfig(&url)).unwrap();
    for (file, pointer) in [
        ("ca.crt", "/clusters/0/cluster/certificate-authority-data"),
        ("admin.crt", "/users/0/user/client-certificate-data"),
        ("admin.key", "/users/0/user/client-key-data"),
    ] {
        use base64::Engine;
        let text = kubeconfig.pointer(pointer).unwrap().as_str().unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        std::fs::write(dir.path().join(file), bytes).unwrap();
    }
    let config = Config {
        advertise: address,
        service_range: ServiceRange::new("10.43.0.0/16".parse().unwrap()).unwrap(),
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let api = ApiServer::open(config, Arc::new(store), tasks).await.unwrap();
    api.serve(listener, tasks);
    url
}
