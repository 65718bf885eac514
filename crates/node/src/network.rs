//! The node's own network: a bridge, the list of CNI plugins, masquerade, kernel parameters.
//!
//! ```text
//!  pod ── veth ── bridge (first address of the pod range) ── routing ── masquerade ── the world
//! ```
//!
//! Service addresses are not here (berth-balancer programs them), and nothing is taken away when
//! the process ends: pods keep their network. `teardown` removes it all.

mod addresses;
mod host_ports;
mod sysctls;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::json;

use crate::Config;
use crate::tool::{self, ToolError};

pub(crate) use addresses::Addresses;
pub use host_ports::start_host_ports;
pub use sysctls::{SysctlError, restore as restore_sysctls};

/// Where Debian's containernetworking-plugins and the upstream archive put the plugins.
const PLUGIN_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Why the node's network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Another network of the machine has addresses of the pod range.
    #[error("the pod range {range} overlaps {other} on {device}")]
    Overlap {
        /// The pod range asked for.
        range: Ipv4Net,
        /// The route or address in the way.
        other: String,
        /// The interface it is on.
        device: String,
    },
    /// No directory has the CNI plugins.
    #[error(
        "no CNI plugins found in /usr/lib/cni or /opt/cni/bin (Debian package containernetworking-plugins)"
    )]
    NoPlugins,
    /// A tool of the machine failed.
    #[error("cannot set up the bridge")]
    Tool(#[from] ToolError),
    /// What `ip` printed was not understood.
    #[error("cannot read the machine's routes")]
    Routes(#[from] serde_json::Error),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A kernel parameter could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// The directory that holds the `bridge` and `host-local` plugins.
pub fn plugin_dir() -> Option<PathBuf> {
    PLUGIN_DIRS
        .iter()
        .map(PathBuf::from)
        .find(|dir| dir.join("bridge").is_file() && dir.join("host-local").is_file())
}

/// Makes the network ready for the first pod. Running it again changes nothing.
///
/// # Errors
/// When the pod range is taken by another network, or a part cannot be made.
pub async fn start(config: &Config) -> Result<(), NetworkError> {
    check_range(config)?;
    plugin_dir().ok_or(NetworkError::NoPlugins)?;
    write(config.cni_dir().join("10-berth.conflist"), &plugin_list(config).to_string()).await?;
    make_bridge(config).await?;
    sysctls::set(config).await?;
    tool::run_with_input("nft", &["-f", "-"], &rules(config)).await?;
    Ok(())
}

/// Refuses a pod range that another interface already routes or has an address of.
///
/// # Errors
/// `Overlap` names the first interface in the way.
pub fn check_range(config: &Config) -> Result<(), NetworkError> {
    let routes: Vec<Route> =
        parse(&tool::run_here("ip", &["-4", "-j", "route", "show", "table", "all"])?)?;
    let interfaces: Vec<Interface> = parse(&tool::run_here("ip", &["-4", "-j", "addr"])?)?;
    match overlap(config.pod_range, &config.instance, &routes, &interfaces) {
        None => Ok(()),
        Some((other, device)) => {
            Err(NetworkError::Overlap { range: config.pod_range, other, device })
        }
    }
}

/// `ip` prints nothing at all for an empty list.
fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<Vec<T>, serde_json::Error> {
    if text.trim().is_empty() { Ok(Vec::new()) } else { serde_json::from_str(text) }
}

#[derive(Deserialize)]
struct Route {
    dst: String,
    #[serde(default)]
    dev: String,
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    local: Option<Ipv4Addr>,
    #[serde(default)]
    prefixlen: u8,
}

/// The first network on another interface than `bridge` that shares an address with `range`.
fn overlap(
    range: Ipv4Net,
    bridge: &str,
    routes: &[Route],
    interfaces: &[Interface],
) -> Option<(String, String)> {
    let addresses = interfaces.iter().flat_map(|interface| {
        interface.addr_info.iter().filter_map(move |address| {
            let network = Ipv4Net::new(address.local?, address.prefixlen).ok()?.trunc();
            Some((network, interface.ifname.as_str()))
        })
    });
    let routes = routes
        .iter()
        .filter(|route| route.kind.is_empty() || route.kind == "unicast")
        .filter_map(|route| Some((read_destination(&route.dst)?, route.dev.as_str())));
    addresses
        .chain(routes)
        .filter(|(_, device)| *device != bridge)
        .find(|(other, _)| other.contains(&range) || range.contains(other))
        .map(|(other, device)| (other.to_string(), device.to_owned()))
}

/// `ip` writes `default`, an address, or a range; a default route is in nobody's way.
fn read_destination(text: &str) -> Option<Ipv4Net> {
    if text == "default" {
        return None;
    }
    let range: Ipv4Net = match text.contains('/') {
        true => text.parse().ok()?,
        false => Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?),
    };
    // 0.0.0.0/1 and 128.0.0.0/1 are how VPN clients spell a default route.
    (range.prefix_len() > 1).then_some(range)
}

/// The CNI list that containerd runs for each sandbox.
fn plugin_list(config: &Config) -> serde_json::Value {
    let plugins = vec![json!({
        "type": "bridge",
        "bridge": config.instance,
        "isGateway": true,
        // A pod reaches itself through its service only when the bridge sends frames back out of
        // the port that they came from.
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": config.cni_dir().join("ipam"),
            "ranges": [[{
                "subnet": config.pod_range.to_string(),
                "gateway": config.address.to_string(),
            }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    })];
    json!({ "cniVersion": "0.4.0", "name": config.instance, "plugins": plugins })
}

/// One transaction that makes the table anew but leaves `host-ports` as it is: a second start is
/// the same as the first, and open ports stay open.
fn rules(config: &Config) -> String {
    let (range, bridge) = (config.pod_range, &config.instance);
    let table = table(&config.instance);
    format!(
        "table ip {table} {{\n\
           chain host-ports {{ }}\n\
           chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}\n\
           chain output {{ type nat hook output priority -100; policy accept; }}\n\
           chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n\
         }}\n\
         flush chain ip {table} prerouting\n\
         flush chain ip {table} output\n\
         flush chain ip {table} postrouting\n\
         add rule ip {table} prerouting fib daddr type local jump host-ports\n\
         add rule ip {table} output fib daddr type local jump host-ports\n\
         add rule ip {table} postrouting \
           ip saddr 127.0.0.0/8 oifname \"{bridge}\" ct status dnat masquerade\n\
         add rule ip {table} postrouting \
           ip saddr {range} ip daddr != {range} oifname != {{ \"{bridge}\", \"lo\" }} masquerade\n"
    )
}

/// The node's nftables table: masquerade, host ports.
pub fn table(instance: &str) -> String {
    format!("{instance}-masq")
}

async fn make_bridge(config: &Config) -> Result<(), NetworkError> {
    let bridge = config.instance.as_str();
    let shown = std::path::Path::new("/sys/class/net").join(bridge);
    if !shown.exists() {
        tool::run("ip", &["link", "add", "name", bridge, "type", "bridge", "stp_state", "0"])
            .await?;
    }
    // Unless somebody has chosen its address, it is the lowest of its ports': another one with each
    // pod that comes or goes, and for a while pods speak to one that nobody has any more.
    if let Ok(own) = std::fs::read_to_string(shown.join("address")) {
        tool::run("ip", &["link", "set", "dev", bridge, "address", own.trim()]).await?;
    }
    let address = format!("{}/{}", config.address, config.pod_range.prefix_len());
    tool::run("ip", &["address", "replace", &address, "dev", bridge]).await?;
    tool::run("ip", &["link", "set", "dev", bridge, "up"]).await?;
    Ok(())
}

async fn write(path: PathBuf, text: &str) -> Result<(), NetworkError> {
    let error = |source| NetworkError::Write { path: path.clone(), source };
    if let Some(dir) = path.parent() {
        tokio::fs::create_dir_all(dir).await.map_err(error)?;
    }
    tokio::fs::write(&path, text).await.map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str, dev: &str) -> Route {
        Route { dst: dst.to_owned(), dev: dev.to_owned(), kind: String::new() }
    }

    #[test]
    fn another_network_in_the_pod_range_is_found() {
        let range: Ipv4Net = "10.42.0.0/24".parse().expect("a range");
        let check = |dst: &str, dev: &str, expected: Option<&str>| {
            let found = overlap(range, "berth0", &[route(dst, dev)], &[]);
            assert_eq!(found.map(|(other, _)| other).as_deref(), expected, "{dst} on {dev}");
        };
        check("default", "eth0", None);
        check("0.0.0.0/1", "tun0", None);
        check("10.43.0.0/24", "eth0", None);
        check("10.42.0.0/24", "berth0", None);
        check("10.42.0.0/24", "docker0", Some("10.42.0.0/24"));
        check("10.0.0.0/8", "eth0", Some("10.0.0.0/8"));
        check("10.42.0.9", "eth0", Some("10.42.0.9/32"));
    }

    #[test]
    fn another_interfaces_address_in_the_pod_range_is_found() {
        let range: Ipv4Net = "10.42.0.0/24".parse().expect("a range");
        let interface = Interface {
            ifname: "br1".to_owned(),
            addr_info: vec![Address { local: Some(Ipv4Addr::new(10, 42, 3, 1)), prefixlen: 16 }],
        };
        let found = overlap(range, "berth0", &[], &[interface]);
        assert_eq!(found, Some(("10.42.0.0/16".to_owned(), "br1".to_owned())));
    }
}
