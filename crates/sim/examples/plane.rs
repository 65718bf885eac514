//! A whole control plane and hollow nodes in one process, for measuring: `plane DIR PORT NODES`.
//!
//! As `berth up` runs it (API server, controllers, scheduler, one store), but for the node's agent,
//! balancer and DNS. Says `ready` when every node is registered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_apiserver::{ApiServer, Config, Pki, Sans, ServiceRange, User};
use berth_daemon::{Tasks, init_telemetry, wait_for_end};
use berth_sim::hollow::{self, Counts};
use berth_store::{Embedded, Options};

/// As in `berth` itself, so that figures are its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("the first argument is the data directory")?);
    let port: u16 = args.next().ok_or("the second argument is the port")?.parse()?;
    let nodes: usize = args.next().ok_or("the third argument is how many nodes")?.parse()?;
    init_telemetry(None)?;
    let tasks = Tasks::new();
    let first = Ipv4Addr::new(10, 43, 0, 1);
    let range = ServiceRange::new("10.43.0.0/16".parse()?).ok_or("a range of 16 bits")?;
    let names = Sans { ips: vec![IpAddr::V4(first)], dns: Vec::new() };
    let pki = Pki::load_or_create(&dir.join("pki"), &names, "localhost")?;
    std::fs::write(dir.join("kubeconfig"), pki.kubeconfig(&format!("https://127.0.0.1:{port}")))?;
    let store = Arc::new(Embedded::open(&dir.join("store"), Options::default()).await?);
    let config = Config {
        advertise: SocketAddr::from(([127, 0, 0, 1], port)),
        service_range: range,
        node_ports: 30000..=32767,
        pki: pki.clone(),
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::open(config, store, &tasks).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    server.serve(listener, &tasks);
    let part = |name: &str| server.client(User::new(name, &["system:masters"]));
    let controllers = berth_controllers::Config::new(pki.ca_pem().to_owned());
    let world =
        berth_controllers::start(part("system:kube-controller-manager"), controllers, &tasks);
    berth_controllers::start_scheduler(part("system:kube-scheduler"), &world, &tasks);
    let options = hollow::Options {
        nodes,
        prefix: "hollow".to_owned(),
        cores: 32,
        memory_gib: 128,
        pods: 110,
        gpus: 0,
        taint: false,
        in_flight: 64,
    };
    let (client, counts) = (part("system:hollow-nodes"), Counts::default());
    hollow::register(&client, &options, &counts).await.map_err(|error| error.to_string())?;
    println!("ready");
    tokio::select! {
        () = hollow::live(client, &options, &counts) => {}
        end = wait_for_end() => end?,
    }
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
