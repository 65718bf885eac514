//! A node agent beside any API server: `agent DATA_DIR INSTANCE POD_RANGE SANDBOX_IMAGE`.
//!
//! The API server is the one of `KUBECONFIG`. The node's name is the instance's; pods are bound to
//! it by `spec.nodeName`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use berth_daemon::Tasks;
use berth_node::{Config, agent, containerd::Containerd, network, pod::PodTable};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    berth_daemon::init_telemetry(None)?;
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().with_context(|| format!("missing {what}"));
    let data_dir = PathBuf::from(next("DATA_DIR")?);
    let instance = next("INSTANCE")?;
    let pod_range: ipnet::Ipv4Net = next("POD_RANGE")?.parse()?;
    let address = pod_range.hosts().next().context("a range with addresses")?;
    let config = Config {
        name: instance.clone(),
        address,
        data_dir,
        instance,
        pod_range,
        cluster_dns: address,
        cluster_domain: "cluster.local".to_owned(),
        sandbox_image: next("SANDBOX_IMAGE")?,
        kubelet_port: 0,
        serving: (String::new(), String::new()),
        client_ca_pem: String::new(),
        registry: SocketAddr::from(([127, 0, 0, 1], 5050)),
        max_pods: 110,
        parallel_pulls: 2,
    };
    let tasks = Tasks::new();
    network::start(&config).await?;
    let containerd = Containerd::start(&config, &tasks).await?;
    let client = kube::Client::try_default().await?;
    agent::start(client, config, containerd.cri(), PodTable::default(), &tasks);
    tokio::select! {
        ended = berth_daemon::wait_for_end() => ended?,
        () = tasks.stopping() => {}
    }
    tasks.stop(Duration::from_secs(5)).await;
    Ok(())
}
