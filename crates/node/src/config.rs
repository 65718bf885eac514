//! What the node agent is told at its start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The node agent's settings. Everything it writes is under `data_dir`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node object's name.
    pub name: String,
    /// The node's address: the bridge's own, so that it stays when the machine moves.
    pub address: Ipv4Addr,
    /// Where Berth keeps everything.
    pub data_dir: PathBuf,
    /// The instance's name: bridge, nftables table and cgroup parent carry it.
    pub instance: String,
    /// Addresses of pods; the first is the bridge's.
    pub pod_range: Ipv4Net,
    /// Where pods ask for names.
    pub cluster_dns: Ipv4Addr,
    /// What cluster names end in, `cluster.local`.
    pub cluster_domain: String,
    /// The image of a sandbox's first process.
    pub sandbox_image: String,
    /// Port of the kubelet API on `address`.
    pub kubelet_port: u16,
    /// Certificate and key of the kubelet API, PEM.
    pub serving: (String, String),
    /// Who may call the kubelet API: certificates of this authority, PEM.
    pub client_ca_pem: String,
    /// The registry that containerd pulls from without TLS.
    pub registry: SocketAddr,
    /// Pods this node takes at most.
    pub max_pods: u32,
    /// Pulls that run at the same time.
    pub parallel_pulls: usize,
}

impl Config {
    /// `node/`: what belongs to pods.
    pub fn node_dir(&self) -> PathBuf {
        self.data_dir.join("node")
    }

    /// `volumes/`: one directory a PersistentVolume that this node gave out.
    pub fn volumes_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// `node/logs`: one directory a pod.
    pub fn logs_dir(&self) -> PathBuf {
        self.node_dir().join("logs")
    }

    /// `node/pods/UID`: volumes, hosts file, termination messages of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.node_dir().join("pods").join(uid)
    }

    /// `node/logs/NS_NAME_UID`: the logs of one pod.
    pub fn pod_logs_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs_dir().join(format!("{namespace}_{name}_{uid}"))
    }

    /// `containerd/`: configuration, root, state, socket and log of our instance.
    pub fn containerd_dir(&self) -> PathBuf {
        self.data_dir.join("containerd")
    }

    /// The socket that our containerd answers CRI on.
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_dir().join("containerd.sock")
    }

    /// `cni/`: the network list and the address book of our bridge.
    pub fn cni_dir(&self) -> PathBuf {
        self.data_dir.join("cni")
    }
}
