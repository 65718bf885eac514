//! An API server alone, for trying things out: `serve DIR PORT`, prints the kubeconfig's path.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Config, Pki, Sans, ServiceRange};
use berth_daemon::{Tasks, init_telemetry, wait_for_end};
use berth_store::{Embedded, Options};

/// As in `berth` itself, so that figures are its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("the first argument is the data directory")?);
    let port: u16 = args.next().ok_or("the second argument is the port")?.parse()?;
    init_telemetry(None)?;
    let tasks = Tasks::new();
    let first = Ipv4Addr::new(10, 43, 0, 1);
    let range = ServiceRange::new("10.43.0.0/16".parse()?).ok_or("a range of 16 bits")?;
    let names = Sans { ips: vec![IpAddr::V4(first)], dns: Vec::new() };
    let pki = Pki::load_or_create(&dir.join("pki"), &names, "localhost")?;
    let kubeconfig = dir.join("kubeconfig");
    std::fs::write(&kubeconfig, pki.kubeconfig(&format!("https://127.0.0.1:{port}")))?;
    let store = Arc::new(Embedded::open(&dir.join("store"), Options::default()).await?);
    let config = Config {
        advertise: SocketAddr::from(([127, 0, 0, 1], port)),
        service_range: range,
        node_ports: 30000..=32767,
        pki,
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, store, &tasks).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    server.serve(listener, &tasks);
    println!("{}", kubeconfig.display());
    wait_for_end().await?;
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
