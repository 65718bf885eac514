//! From Services and endpoints to what the kernel should hold. Pure.
//!
//! Policies: `ClusterIP` traffic follows `internalTrafficPolicy`, everything from outside
//! `externalTrafficPolicy`; `Local` keeps the endpoints in this machine's ranges only. A Service
//! port whose endpoints are the same for both shares one chain.

mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{Config, Snapshot};
use crate::endpoints::Slices;

pub(super) use script::{DISPATCH, REFUSE, without_table};

/// Kubernetes' default for `ClientIP` affinity: three hours.
const AFFINITY_S: u32 = 10_800;

/// A transport protocol that a Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn from_kubernetes(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Where a client aims: an address of a Service, or (`None`) a port on every local address.
pub(super) type Front = (Option<Ipv4Addr>, Protocol, u16);

/// Everything in the table that depends on Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Affinity sets and their timeouts in seconds.
    sets: BTreeMap<String, u32>,
    /// Chains and their rules.
    chains: BTreeMap<String, Vec<String>>,
    /// Where each front leads: a chain's name.
    fronts: BTreeMap<Front, String>,
    /// The endpoints of each front.
    flows: BTreeMap<Front, BTreeSet<SocketAddrV4>>,
    /// Pods that may meet themselves.
    hairpins: BTreeSet<Ipv4Addr>,
}

impl Ruleset {
    /// The endpoints of each UDP front, for what the kernel remembers of flows.
    pub(super) fn udp_flows(&self) -> BTreeMap<Front, BTreeSet<SocketAddrV4>> {
        let udp = |front: &Front| front.1 == Protocol::Udp;
        self.flows.iter().filter(|(front, _)| udp(front)).map(|(k, v)| (*k, v.clone())).collect()
    }
}

/// What the kernel should hold for `snapshot`.
///
/// # Guarantees
/// The order of objects in the snapshot does not matter. Where two Services claim one front, the
/// first by namespace and name has it. What cannot be read (an address that is none) is passed over.
pub fn ruleset(snapshot: &Snapshot, config: &Config) -> Ruleset {
    let slices = Slices::new(&snapshot.slices);
    let mut services: Vec<&Arc<Service>> = snapshot.services.iter().collect();
    services.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut rules = Ruleset::default();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        for port in spec.ports.iter().flatten() {
            add_port(&mut rules, service, spec, port, &slices, config);
        }
    }
    rules
}

fn key(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn add_port(
    rules: &mut Ruleset,
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: &Slices<'_>,
    config: &Config,
) {
    let Some(protocol) = Protocol::from_kubernetes(port.protocol.as_deref()) else { return };
    let Ok(number) = u16::try_from(port.port) else { return };
    let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|p| *p > 0);
    let inner = address(spec.cluster_ip.as_deref()).map(|ip| (Some(ip), protocol, number));
    let outer = outer_addresses(service, spec).map(|ip| (Some(ip), protocol, number));
    let outer = outer.chain(node_port.map(|port| (None, protocol, port)));

    let name = port.name.as_deref().unwrap_or_default();
    let wire_name = port.protocol.as_deref().unwrap_or("TCP");
    let is_here = |ip| config.pod_range.contains(&ip) || ip == config.node_address;
    let endpoints = |policy: Option<&str>| {
        let local_only = policy == Some("Local");
        slices.backends(key(service), name, wire_name, |ip| !local_only || is_here(ip))
    };
    let (namespace, service_name) = key(service);
    let stem = format!("{namespace}/{service_name}/{protocol}/{number}");
    let affinity = affinity_s(spec);

    let inside = endpoints(spec.internal_traffic_policy.as_deref());
    if let Some(front) = inner {
        let chain = rules.chain(format!("svc-{stem}"), protocol, &inside, affinity, config);
        rules.front(front, chain, &inside);
    }
    let outside = endpoints(spec.external_traffic_policy.as_deref());
    let kind = if inner.is_some() && outside == inside { "svc" } else { "ext" };
    for front in outer {
        let chain = rules.chain(format!("{kind}-{stem}"), protocol, &outside, affinity, config);
        rules.front(front, chain, &outside);
    }
}

/// `None` and the empty text are headless.
fn address(text: Option<&str>) -> Option<Ipv4Addr> {
    text.and_then(|text| text.parse().ok())
}

fn outer_addresses<'a>(
    service: &'a Service,
    spec: &'a ServiceSpec,
) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let status = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let assigned = status.flat_map(|balancer| balancer.ingress.iter().flatten());
    let assigned = assigned
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| address(ingress.ip.as_deref()));
    let external = spec.external_ips.iter().flatten();
    external.filter_map(|ip| ip.parse().ok()).chain(assigned)
}

fn affinity_s(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    Some(seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(AFFINITY_S))
}

impl Ruleset {
    fn front(&mut self, front: Front, chain: String, endpoints: &[SocketAddrV4]) {
        if let std::collections::btree_map::Entry::Vacant(free) = self.fronts.entry(front) {
            free.insert(chain);
            self.flows.insert(front, endpoints.iter().copied().collect());
        }
    }

    /// Adds the chain `name` unless it is there, and says where a front should lead.
    fn chain(
        &mut self,
        name: String,
        protocol: Protocol,
        endpoints: &[SocketAddrV4],
        affinity: Option<u32>,
        config: &Config,
    ) -> String {
        if endpoints.is_empty() {
            return REFUSE.to_owned();
        }
        if self.chains.contains_key(&name) {
            return name;
        }
        let pods = endpoints.iter().map(|endpoint| *endpoint.ip());
        self.hairpins.extend(pods.filter(|ip| config.pod_range.contains(ip)));
        let mut rules = vec![script::mark_as_ours()];
        if let Some(seconds) = affinity {
            // The set's name carries the endpoint: when it goes, so does the memory of it.
            let sets: Vec<_> = endpoints
                .iter()
                .map(|endpoint| {
                    (format!("of-{name}/{}/{}", endpoint.ip(), endpoint.port()), endpoint)
                })
                .collect();
            rules.extend(script::sticky(protocol, &sets));
            self.sets.extend(sets.into_iter().map(|(set, _)| (set, seconds)));
        }
        rules.push(script::any_of(protocol, endpoints));
        self.chains.insert(name.clone(), rules);
        name
    }
}

#[cfg(test)]
mod tests;
