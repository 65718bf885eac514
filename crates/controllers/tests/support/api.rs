//! An API server in the test's own process, over a store of its own.

use std::path::Path;
use std::sync::Arc;

use berth_apiserver::{ApiServer, Pki, Sans, ServiceRange, User};
use berth_daemon::Tasks;
use berth_store::{Embedded, Options};
use kube::Client;

/// Serves what is in `dir` until `tasks` end; the client may do anything.
pub async fn serve(dir: &Path, tasks: &Tasks) -> Client {
    let store = Embedded::open(&dir.join("store"), Options::default()).await.unwrap();
    let pki = Pki::load_or_create(&dir.join("pki"), &Sans::default(), "node").unwrap();
    let config = berth_apiserver::Config {
        advertise: ([127, 0, 0, 1], 6443).into(),
        service_range: ServiceRange::new("10.89.0.0/16".parse().unwrap()).unwrap(),
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, Arc::new(store), tasks).await.unwrap();
    server.client(User::new("admin", &["system:masters"]))
}
