//! Ports of the machine that lead to pods (`hostPort`).
//!
//! Rules of our own table, not the portmap plugin's: that needs iptables, and leaves its chains in
//! the machine's tables for ever.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_daemon::Tasks;
use k8s_openapi::api::core::v1::Pod;

use tokio::time::Instant;

use super::table;
use crate::pod::PodTable;
use crate::{Config, tool};

/// The table of pods has no bell; a look at it costs microseconds.
const LOOK: Duration = Duration::from_millis(250);

/// After a start the pods become known one by one; until all are, what an earlier process wrote is
/// nearer to the truth.
const LEARN: Duration = Duration::from_secs(10);

/// One port of the machine and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HostPort {
    protocol: &'static str,
    /// Only at this address of the machine; none is all.
    at: Option<Ipv4Addr>,
    port: u16,
    pod: Ipv4Addr,
    pod_port: u16,
}

/// Keeps the rules as the pods of `pods` want them, until `tasks` stop. Then they stay as they are.
pub fn start_host_ports(config: &Config, pods: PodTable, tasks: &Tasks) {
    let config = config.clone();
    tasks.spawn_until_stop("host ports", async move {
        let (started, wanted_by_earlier) = (Instant::now(), has_rules(&config).await);
        let mut written = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let wanted: BTreeSet<HostPort> = pods
                .all()
                .iter()
                .filter(|entry| entry.sandbox_id.is_some())
                .flat_map(|entry| of_pod(&entry.pod, entry.pod_ip.as_deref()))
                .collect();
            if written.as_ref() == Some(&wanted) {
                continue;
            }
            if written.is_none() && wanted_by_earlier && started.elapsed() < LEARN {
                continue;
            }
            match tool::run_with_input("nft", &["-f", "-"], &rules(&config, &wanted)).await {
                Ok(_) => written = Some(wanted),
                Err(error) => tracing::warn!(%error, "host ports are not as they should be"),
            }
        }
    });
}

/// Whether an earlier process left rules for pods that may still be there.
async fn has_rules(config: &Config) -> bool {
    let table = table(&config.instance);
    let listed = tool::run("nft", &["list", "chain", "ip", &table, "host-ports"]).await;
    listed.is_ok_and(|text| text.contains("dnat to"))
}

/// The host ports of one pod; none for a pod on the machine's own network.
fn of_pod(pod: &Pod, ip: Option<&str>) -> Vec<HostPort> {
    let (Some(spec), Some(ip)) = (&pod.spec, ip.and_then(|ip| ip.parse().ok())) else {
        return Vec::new();
    };
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let at = match port.host_ip.as_deref().map(str::parse) {
                Some(Ok(IpAddr::V4(address))) if !address.is_unspecified() => Some(address),
                Some(Ok(IpAddr::V6(_))) => return None,
                _ => None,
            };
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => "udp",
                    Some("SCTP") => "sctp",
                    _ => "tcp",
                },
                at,
                port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                pod: ip,
                pod_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// One transaction that replaces the rules.
fn rules(config: &Config, ports: &BTreeSet<HostPort>) -> String {
    let table = table(&config.instance);
    let mut text = format!("flush chain ip {table} host-ports\n");
    for HostPort { protocol, at, port, pod, pod_port } in ports {
        let at = at.map_or_else(String::new, |address| format!("ip daddr {address} "));
        text.push_str(&format!(
            "add rule ip {table} host-ports {at}{protocol} dport {port} dnat to {pod}:{pod_port}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_become_rules() {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": { "containers": [{
            "name": "a",
            "ports": [
                { "containerPort": 80, "hostPort": 8080 },
                { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1" },
                { "containerPort": 9 },
            ],
        }] } }))
        .expect("a pod");
        let config = crate::sample::config(std::path::Path::new("/"));
        let ports = of_pod(&pod, Some("10.42.0.5")).into_iter().collect();
        let text = rules(&config, &ports);
        assert!(text.contains(" tcp dport 8080 dnat to 10.42.0.5:80\n"), "{text}");
        assert!(text.contains(" ip daddr 127.0.0.1 udp dport 53 dnat to 10.42.0.5:53\n"), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(of_pod(&pod, None).is_empty());
    }
}
