//! The whole of a node, in the order in which its parts need each other.

use berth_daemon::Tasks;

use crate::containerd::{Containerd, ContainerdError};
use crate::meters::Meters;
use crate::network::NetworkError;
use crate::pod::PodTable;
use crate::server::ServerError;
use crate::{Config, agent, app_logs, logs, network, node_status, server, volumes};

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pods' network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The container runtime.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// The kubelet API.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Starts the node: its network, containerd, agent, kubelet API and status. They work until `tasks`
/// stop; pods and containerd go on afterwards.
///
/// # Errors
/// When the network or containerd cannot be had, or the kubelet port is taken.
pub async fn start(client: kube::Client, config: Config, tasks: &Tasks) -> Result<(), StartError> {
    // containerd reads the network's settings when it starts, and the node's address is the bridge's.
    network::start(&config).await?;
    let cri = Containerd::start(&config, tasks).await?.cri();
    let pods = PodTable::default();
    let meters = Meters::of_pods(&config, pods.clone(), tasks);
    server::start(config.clone(), cri.clone(), pods.clone(), meters, tasks).await?;
    node_status::start(client.clone(), config.clone(), cri.clone(), tasks);
    volumes::start_refreshing(&config, &client, pods.clone(), tasks);
    volumes::start_reclaiming(&config, &client, tasks);
    logs::start_rotating(cri.clone(), pods.clone(), tasks);
    app_logs::start_collecting(&config, tasks);
    network::start_host_ports(&config, pods.clone(), tasks);
    agent::start(client, config, cri, pods, tasks);
    Ok(())
}
