//! What the node agent is told at its start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

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
    pub pod_range: Cidr,
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

/// A range of IPv4 addresses, `10.42.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address: no bit set below the prefix.
    pub network: Ipv4Addr,
    /// How many bits name the network, 0..=32.
    pub prefix: u8,
}

impl Cidr {
    /// The mask of `prefix` bits.
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether `address` is in the range.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    /// The `n`-th address of the range, 0 being the network's own.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).wrapping_add(n))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError { text: text.to_owned() };
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: Ipv4Addr = network.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
        let cidr = Self { network, prefix };
        if u32::from(network) & !cidr.mask() != 0 {
            return Err(wrong());
        }
        Ok(cidr)
    }
}

/// A text that is no range of IPv4 addresses.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no IPv4 range such as 10.42.0.0/24 (no bits below the prefix)")]
pub struct CidrError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_and_refuses_host_bits() {
        let cidr: Cidr = "10.42.0.0/24".parse().expect("a range");
        assert!(cidr.contains(Ipv4Addr::new(10, 42, 0, 7)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 42, 1, 7)));
        assert_eq!(cidr.nth(1), Ipv4Addr::new(10, 42, 0, 1));
        assert_eq!(cidr.to_string(), "10.42.0.0/24");
        for wrong in ["10.42.0.1/24", "10.42.0.0", "10.42.0.0/33", "x/8"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
