//! What the machine itself has to grant besides rules.
//!
//! - `route_localnet` on the bridge: a node port on 127.0.0.1 leads to a pod.
//! - `bridge-nf-call-iptables`: traffic between two pods of one bridge passes the rules, so that
//!   the answer of a Service comes from the Service's address. Where the kernel has no such switch,
//!   pods see the machine's address instead (masquerade).
//! - A route to the service range over the bridge: a machine without a default route reaches
//!   Services too, and from the address that pods know.
//!
//! - `tcp_migrate_req`: when one of two balancers closes its listener, handshakes under way and
//!   connections not yet accepted go to the other one instead of being reset (Linux 5.14).
//!
//! The first three hang on the bridge and the machine's pods and go with them. The last stays set: it
//! changes nothing for sockets that do not share a port, and whose wish it was before is not known.

use std::path::Path;

use super::Config;
use super::nft::{NftError, output};

const BRIDGE_CALLS_RULES: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const MIGRATE_REQUESTS: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Why the machine was not prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("the bridge {bridge} is not there yet")]
    NoBridge { bridge: String },
    #[error("write {path}")]
    Sysctl { path: String, source: std::io::Error },
    #[error("add the route to the service range")]
    Route(#[source] NftError),
}

/// Whether pods that call each other through a Service need the machine's address.
pub(super) fn needs_masquerade_between_pods() -> bool {
    if let Err(error) = set(BRIDGE_CALLS_RULES) {
        tracing::debug!(%error, "bridged traffic passes no rules, masquerading between pods");
        return true;
    }
    false
}

/// Grants what hangs on the bridge; run again when the bridge may be a new one.
pub(super) async fn prepare(config: &Config) -> Result<(), HostError> {
    let Config { bridge, service_range, node_address, .. } = config;
    // Not /sys/class/net: that shows the network namespace of whoever mounted it.
    let settings = format!("/proc/sys/net/ipv4/conf/{bridge}");
    if !Path::new(&settings).exists() {
        return Err(HostError::NoBridge { bridge: bridge.clone() });
    }
    set(&format!("{settings}/route_localnet"))?;
    if let Err(error) = set(MIGRATE_REQUESTS) {
        tracing::debug!(%error, "a balancer that leaves may reset connections not yet accepted");
    }
    let (range, source) = (service_range.to_string(), node_address.to_string());
    let route = ["route", "replace", &range, "dev", bridge, "src", &source];
    output("ip", "iproute2", &route, "").await.map(drop).map_err(HostError::Route)
}

fn set(path: &str) -> Result<(), HostError> {
    let failed = |source| HostError::Sysctl { path: path.to_owned(), source };
    // Read first: what is set already may be read-only in a container.
    if std::fs::read_to_string(path).map_err(failed)?.trim() != "1" {
        std::fs::write(path, "1").map_err(failed)?;
    }
    Ok(())
}

/// Names the tables other than ours that drop what is forwarded unless they allow it.
pub(super) async fn foreign_drops(config: &Config) -> Result<Vec<String>, NftError> {
    let chains = output("nft", "nftables", &["-j", "list", "chains"], "").await?;
    let parsed: serde_json::Value = serde_json::from_str(&chains).unwrap_or_default();
    Ok(drops(&parsed, &config.instance))
}

fn drops(listing: &serde_json::Value, instance: &str) -> Vec<String> {
    let parts = listing["nftables"].as_array().into_iter().flatten();
    let chains = parts.map(|part| &part["chain"]);
    let dropping = chains.filter(|chain| {
        chain["hook"] == "forward"
            && chain["policy"] == "drop"
            && matches!(chain["family"].as_str(), Some("ip" | "inet"))
            && chain["table"] != instance
    });
    let word =
        |chain: &serde_json::Value, key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    dropping
        .map(|chain| {
            format!("{} {} {}", word(chain, "family"), word(chain, "table"), word(chain, "name"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_forward_chains_of_others_that_drop_are_named() {
        let chain = |table: &str, name: &str, hook: &str, policy: &str| {
            serde_json::json!({"chain": {"family": "ip", "table": table, "name": name,
                "type": "filter", "hook": hook, "policy": policy}})
        };
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            chain("filter", "FORWARD", "forward", "drop"),
            chain("filter", "INPUT", "input", "drop"),
            chain("open", "forward", "forward", "accept"),
            chain("berth0", "forward", "forward", "drop"),
            {"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}},
        ]});
        assert_eq!(drops(&listing, "berth0"), ["ip filter FORWARD"]);
        assert!(drops(&serde_json::Value::Null, "berth0").is_empty());
    }
}
