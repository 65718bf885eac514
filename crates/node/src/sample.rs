//! A configuration for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use ipnet::Ipv4Net;

use crate::Config;

/// Everything under `dir`; addresses that no machine uses (RFC 2544), other ones in each process.
pub(crate) fn config(dir: &Path) -> Config {
    let part = u8::try_from(std::process::id() % 256).expect("less than 256");
    let pod_range =
        Ipv4Net::new(Ipv4Addr::new(198, 18, part, 0), 24).expect("24 bits are a prefix");
    Config {
        name: "node".to_owned(),
        address: Ipv4Addr::new(198, 18, part, 1),
        data_dir: dir.to_owned(),
        instance: format!("bt{:x}", std::process::id()),
        pod_range,
        cluster_dns: Ipv4Addr::new(198, 19, part, 10),
        cluster_domain: "cluster.local".to_owned(),
        sandbox_image: "berth.local/pause:1".to_owned(),
        kubelet_port: 0,
        serving: (String::new(), String::new()),
        client_ca_pem: String::new(),
        registry: SocketAddr::from(([127, 0, 0, 1], 5050)),
        max_pods: 110,
        parallel_pulls: 2,
    }
}
