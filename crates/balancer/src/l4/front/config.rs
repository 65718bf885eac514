//! What the front is told, and what of it cannot be right.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

/// Most services, and most backends of all services together.
pub(super) const MOST_SERVICES: usize = 256;
pub(super) const MOST_BACKENDS: usize = 4096;

/// One interface and the services that come in by it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Front {
    /// The only one that is touched.
    pub interface: String,
    /// Where in the kernel.
    #[serde(default)]
    pub mode: Mode,
    /// Connections that are remembered; the one unused for longest is forgotten first.
    #[serde(default = "connections")]
    pub connections: u32,
    /// Where tunnels begin and translated connections come from; the interface's first address
    /// unless it is said.
    pub source: Option<Ipv4Addr>,
    /// The same of IPv6; its first address that is not link-local unless it is said.
    pub source6: Option<Ipv6Addr>,
    /// The ports of translated connections, each core has its part of them; above those that Linux
    /// gives to connections of its own unless it is said.
    #[serde(default)]
    pub ports: Ports,
    /// Where programs and tables are kept; a folder of a BPF file system.
    #[serde(default = "pins")]
    pub pins: PathBuf,
    /// What is served.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Networks whose addresses are given to Services of the class `berth.dev/front`; none: the
    /// cluster is not asked.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

/// From one port to another, `61000-65535`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last, which is one of them.
    pub last: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { first: 61_000, last: 65_535 }
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        ends.ok_or_else(|| format!("{text:?} is no range of ports such as 61000-65535"))
    }
}

/// Where the kernel runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver where it can, else before the network stack, which a virtual cable (veth)
    /// gets in any case: its other end may not take what a driver sends.
    #[default]
    Best,
    /// In the driver or not at all.
    Native,
    /// Before the network stack.
    Generic,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp = 6,
    /// IP protocol 17.
    Udp = 17,
}

/// How packets come to backends; unless they are translated, the answers go to clients directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// With the backend's hardware address; it is in the same network.
    #[default]
    Routed,
    /// With a second header (IPIP, RFC 2003; of IPv6, RFC 2473); it may be anywhere.
    Tunnelled,
    /// From an address and port of the front's to its own; it need not have the service's address,
    /// does not see the client's, and answers the front.
    Translated,
}

/// An address and port that backends share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    /// What clients connect to, and backends have on their loopback interface.
    pub address: IpAddr,
    /// Of the clients' connections and of the backends, unless these say another one.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets come to backends.
    #[serde(default)]
    pub way: Way,
    /// All connections of a client go to one backend.
    #[serde(default)]
    pub by_address: bool,
    /// A TCP port of the backends that must take connections; none: all are taken to be up.
    pub check: Option<u16>,
    /// Who serves.
    pub backends: Vec<Backend>,
}

/// One that serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its own, of the same kind as the service's.
    pub address: IpAddr,
    /// Where it serves, if that is another one: only translated.
    pub port: Option<u16>,
    /// Its part of new connections.
    #[serde(default = "weight")]
    pub weight: u16,
    /// Keeps its connections and gets no new ones.
    #[serde(default)]
    pub drain: bool,
}

/// What cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Wrong {
    /// Which part is meant.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

fn connections() -> u32 {
    262_144
}

fn pins() -> PathBuf {
    "/sys/fs/bpf/berth-front".into()
}

fn weight() -> u16 {
    1
}

impl Front {
    /// Whether anything of it is IPv6.
    pub(super) fn has_v6(&self) -> bool {
        self.services.iter().any(|service| service.address.is_ipv6())
            || self.addresses.iter().any(|net| matches!(net, IpNet::V6(_)))
    }

    /// Refuses what cannot be right.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Wrong> {
        let wrong = |place: String, what: &str| Err(Wrong { place, what: what.to_owned() });
        if self.interface.is_empty() || self.interface.contains(['/', '\0']) {
            return wrong("interface".into(), "names no interface");
        }
        if self.ports.first == 0 || self.ports.first > self.ports.last {
            return wrong("ports".into(), "the first is above 0 and not above the last");
        }
        if self.connections == 0 {
            return wrong("connections".into(), "one at least is remembered");
        }
        if self.services.len() > MOST_SERVICES {
            return wrong("services".into(), "256 are the most");
        }
        let all: usize = self.services.iter().map(|service| service.backends.len()).sum();
        if all > MOST_BACKENDS {
            return wrong("services".into(), "4096 backends are the most");
        }
        let mut seen = BTreeSet::new();
        for service in &self.services {
            let Service { address, port, protocol, .. } = service;
            let place = || format!("service {address}:{port}");
            if *port == 0 || address.is_unspecified() || address.is_multicast() {
                return wrong(place(), "clients cannot connect to that");
            }
            if !seen.insert((address, port, protocol)) {
                return wrong(place(), "is there twice");
            }
            let mut backends = BTreeSet::new();
            for backend in &service.backends {
                if backend.address.is_ipv4() != address.is_ipv4() {
                    let what = format!("backend {} is of another kind of IP", backend.address);
                    return wrong(place(), &what);
                }
                if backend.port.is_some() && service.way != Way::Translated {
                    return wrong(place(), "a backend's port is the service's, unless translated");
                }
                if backend.port == Some(0) {
                    return wrong(place(), "a backend serves at no port 0");
                }
                if backend.address == *address {
                    return wrong(place(), "a backend's own address is another than the service's");
                }
                if !backends.insert((backend.address, backend.port)) {
                    return wrong(place(), &format!("backend {} is there twice", backend.address));
                }
            }
        }
        Ok(())
    }
}
