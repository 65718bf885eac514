//! From Services and endpoints to what the kernel should hold, change by change. Pure.
//!
//! Policies: `ClusterIP` traffic follows `internalTrafficPolicy`, everything from outside
//! `externalTrafficPolicy`; `Local` keeps the endpoints in this machine's ranges only.
//!
//! # What a change costs
//! Only Services are worked out anew whose own object, or one of whose slices, is another one than
//! last time; of those only the fronts that differ are written. An endpoint is an element of a map
//! that all Services share (see `script`): nft and the kernel touch that element and nothing else,
//! however many Services there are. A chain for each Service, as it was first, cost a quarter of a
//! second a change with 10,000 Services, and half a minute at the start.
//!
//! The chains that pick one of so many endpoints are all made with the table: nft (1.0.6) refuses a
//! rule that looks up those maps when it has read them back from the kernel ("conflicting protocols
//! specified"). Numbers over 64 are made where they are in use; another one of those is a new table.

mod script;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use berth_api::endpoints::SERVICE_NAME;

use super::{Config, Snapshot};
use crate::endpoints::Slices;

use script::Script;
pub(super) use script::{DISPATCH, frame, without_table};

/// Kubernetes' default for `ClientIP` affinity: three hours.
const AFFINITY_S: u32 = 10_800;

/// Up to so many endpoints of a front come and go without a new table: 256 rules.
const USUAL: usize = 64;

/// A transport protocol that a Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Namespace and name of a Service.
type Key = (String, String);

/// Where a front leads, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Sorted; none refuses.
    endpoints: Vec<SocketAddrV4>,
    /// The chain that keeps clients at their endpoints, and for how long in seconds.
    sticky: Option<(String, u32)>,
    /// `loadBalancerSourceRanges`: others are dropped.
    sources: Option<Vec<Ipv4Net>>,
}

/// What a Service puts into the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part(BTreeMap<Front, Target>);

/// A Service as it was when its part was made.
#[derive(Debug)]
struct Known {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    part: Part,
}

/// What several fronts may need at once; there while any does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Shared {
    /// The chain of a Service with affinity.
    Sticky { chain: String, protocol: Protocol, endpoints: Vec<SocketAddrV4> },
    /// The clients that such a chain sent to an endpoint.
    Clients { chain: String, seconds: u32, endpoint: SocketAddrV4 },
    /// A pod that may meet itself.
    Hairpin(Ipv4Addr),
}

/// Everything in the table that depends on Services, as it was written last.
#[derive(Debug, Default)]
pub struct Ruleset {
    services: HashMap<Key, Known>,
    /// Who claims a front; the first has it.
    claims: HashMap<Front, BTreeSet<Key>>,
    shared: HashMap<Shared, usize>,
    /// The chains that pick; none before the table was first written.
    choices: BTreeSet<Choice>,
}

/// The chain that picks one of so many endpoints, of an address or of a node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    node_port: bool,
    count: usize,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// One transaction; empty for none.
    pub(super) script: String,
    /// Whether only a new table can hold it.
    pub(super) is_too_much: bool,
    /// Whether UDP may lead elsewhere than before.
    pub(super) udp: bool,
}

impl Ruleset {
    /// Takes `snapshot` in and says what to write.
    ///
    /// # Guarantees
    /// The order of objects does not matter. Where two Services claim one front, the first by
    /// namespace and name has it. What cannot be read (an address that is none) is passed over.
    pub(super) fn change(&mut self, snapshot: &Snapshot, config: &Config) -> Change {
        let mut slices: HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> = HashMap::new();
        for slice in &snapshot.slices {
            let service = slice.metadata.labels.as_ref().and_then(|all| all.get(SERVICE_NAME));
            if let (Some(name), Some(namespace)) = (service, &slice.metadata.namespace) {
                slices.entry((namespace, name)).or_default().push(slice);
            }
        }
        let mut changed: BTreeMap<Key, Option<Known>> = BTreeMap::new();
        let mut seen = HashSet::with_capacity(snapshot.services.len());
        for service in &snapshot.services {
            let name = key(service);
            seen.insert(name);
            let mut of_service = slices.remove(&name).unwrap_or_default();
            of_service.sort_by_key(|slice| Arc::as_ptr(slice) as usize);
            let owned = (name.0.to_owned(), name.1.to_owned());
            if self.services.get(&owned).is_some_and(|known| known.is_of(service, &of_service)) {
                continue;
            }
            let slices: Vec<_> = of_service.into_iter().cloned().collect();
            let part = part(service, &slices, config);
            changed.insert(owned, Some(Known { service: service.clone(), slices, part }));
        }
        for gone in self.services.keys().filter(|key| !seen.contains(&(&*key.0, &*key.1))) {
            changed.insert(gone.clone(), None);
        }
        self.take(changed, config)
    }

    fn take(&mut self, changed: BTreeMap<Key, Option<Known>>, config: &Config) -> Change {
        // Who had each front that is touched, before and after.
        let mut touched: BTreeMap<Front, Option<Target>> = BTreeMap::new();
        let fronts = |known: &Known| known.part.0.keys().copied().collect::<Vec<_>>();
        for (key, after) in &changed {
            let before = self.services.get(key);
            if let (Some(before), Some(after)) = (before, after)
                && before.part == after.part
            {
                continue;
            }
            for front in before.into_iter().chain(after).flat_map(fronts) {
                touched.entry(front).or_insert_with(|| self.target(&front).cloned());
            }
        }
        for (key, after) in changed {
            let before = self.services.remove(&key);
            for front in before.iter().flat_map(fronts) {
                if let Some(claims) = self.claims.get_mut(&front) {
                    claims.remove(&key);
                    if claims.is_empty() {
                        self.claims.remove(&front);
                    }
                }
            }
            if let Some(after) = after {
                for front in fronts(&after) {
                    self.claims.entry(front).or_default().insert(key.clone());
                }
                self.services.insert(key, after);
            }
        }
        let mut script = Script::new(&config.instance);
        let mut uses: BTreeMap<Shared, isize> = BTreeMap::new();
        let mut udp = false;
        let mut wanted = BTreeSet::new();
        for (front, before) in &touched {
            let after = self.target(front);
            if before.as_ref() == after {
                continue;
            }
            udp |= front.1 == Protocol::Udp;
            script.front(front, before.as_ref(), after);
            wanted.extend(after.and_then(|target| target.choice(front)));
            let mut count = |target: Option<&Target>, by: isize| {
                for shared in target.into_iter().flat_map(|target| target.needs(front, config)) {
                    *uses.entry(shared).or_default() += by;
                }
            };
            count(before.as_ref(), -1);
            count(after, 1);
        }
        for (shared, by) in uses {
            let before = self.shared.get(&shared).copied().unwrap_or(0);
            let after = before.saturating_add_signed(by);
            match (before, after) {
                (0, 0) => {}
                (0, _) => script.add(&shared),
                (_, 0) => script.remove(&shared),
                _ => {}
            }
            if after == 0 {
                self.shared.remove(&shared);
            } else {
                self.shared.insert(shared, after);
            }
        }
        let is_too_much = !self.choices.is_empty() && !wanted.is_subset(&self.choices);
        if self.choices.is_empty() {
            let both = [false, true].into_iter();
            let usual = both
                .flat_map(|node_port| (1..=USUAL).map(move |count| Choice { node_port, count }));
            self.choices = usual.chain(wanted).collect();
            self.choices.iter().for_each(|choice| script.choice(*choice));
        }
        Change { script: script.finish(), is_too_much, udp }
    }

    fn target(&self, front: &Front) -> Option<&Target> {
        let key = self.claims.get(front)?.first()?;
        self.services.get(key)?.part.0.get(front)
    }

    /// The endpoints of each UDP front, for what the kernel remembers of flows.
    pub(super) fn udp_flows(&self) -> BTreeMap<Front, BTreeSet<SocketAddrV4>> {
        let udp = self.claims.keys().filter(|front| front.1 == Protocol::Udp);
        let endpoints = |front: &Front| {
            let target = self.target(front)?;
            Some((*front, target.endpoints.iter().copied().collect()))
        };
        udp.filter_map(endpoints).collect()
    }
}

impl Known {
    /// Whether it was made of these very objects. It holds them, so that no other is at their
    /// place in memory.
    fn is_of(&self, service: &Arc<Service>, slices: &[&Arc<EndpointSlice>]) -> bool {
        let same = |(a, b): (&Arc<EndpointSlice>, &&Arc<EndpointSlice>)| Arc::ptr_eq(a, b);
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(same)
    }
}

impl Target {
    /// The chain that picks among its endpoints; none where there are none or a client stays.
    fn choice(&self, front: &Front) -> Option<Choice> {
        let count = self.endpoints.len();
        let is_any = count > 0 && self.sticky.is_none();
        is_any.then_some(Choice { node_port: front.0.is_none(), count })
    }

    fn needs(&self, front: &Front, config: &Config) -> Vec<Shared> {
        if self.endpoints.is_empty() {
            return Vec::new();
        }
        let pods = self.endpoints.iter().map(|endpoint| *endpoint.ip());
        let pods: BTreeSet<_> = pods.filter(|ip| config.pod_range.contains(ip)).collect();
        let mut needs: Vec<_> = pods.into_iter().map(Shared::Hairpin).collect();
        let Some((chain, seconds)) = &self.sticky else { return needs };
        let (chain, endpoints) = (chain.clone(), self.endpoints.clone());
        needs.push(Shared::Sticky { chain: chain.clone(), protocol: front.1, endpoints });
        needs.extend(self.endpoints.iter().map(|endpoint| Shared::Clients {
            chain: chain.clone(),
            seconds: *seconds,
            endpoint: *endpoint,
        }));
        needs
    }
}

fn key(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn part(service: &Service, slices: &[Arc<EndpointSlice>], config: &Config) -> Part {
    let mut part = Part::default();
    let Some(spec) = &service.spec else { return part };
    if spec.type_.as_deref() == Some("ExternalName") {
        return part;
    }
    let slices = Slices::new(slices);
    for port in spec.ports.iter().flatten() {
        part.add(service, spec, port, &slices, config);
    }
    part
}

impl Part {
    fn add(
        &mut self,
        service: &Service,
        spec: &ServiceSpec,
        port: &ServicePort,
        slices: &Slices<'_>,
        config: &Config,
    ) {
        let Some(protocol) = Protocol::from_kubernetes(port.protocol.as_deref()) else { return };
        let Ok(number) = u16::try_from(port.port) else { return };
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|p| *p > 0);

        let name = port.name.as_deref().unwrap_or_default();
        let wire_name = port.protocol.as_deref().unwrap_or("TCP");
        let is_here = |ip| config.pod_range.contains(&ip) || ip == config.node_address;
        let endpoints = |policy: Option<&str>| {
            let local_only = policy == Some("Local");
            slices.backends(key(service), name, wire_name, |ip| !local_only || is_here(ip))
        };
        let inside = endpoints(spec.internal_traffic_policy.as_deref());
        let outside = endpoints(spec.external_traffic_policy.as_deref());
        let inner = address(spec.cluster_ip.as_deref());
        let (namespace, service_name) = key(service);
        let stem = format!("{namespace}/{service_name}/{protocol}/{number}");
        let affinity = affinity_s(spec);
        // Inside and outside share a memory of clients when they share the endpoints.
        let outer = if inner.is_some() && outside == inside { "svc" } else { "ext" };
        let target = |endpoints: &[SocketAddrV4], kind: &str, sources| Target {
            endpoints: endpoints.to_vec(),
            sticky: affinity.map(|seconds| (format!("{kind}-{stem}"), seconds)),
            sources,
        };
        let mut add = |ip: Option<Ipv4Addr>, port: u16, target: Target| {
            self.0.entry((ip, protocol, port)).or_insert(target);
        };
        if let Some(ip) = inner {
            add(Some(ip), number, target(&inside, "svc", None));
        }
        for ip in spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()) {
            add(Some(ip), number, target(&outside, outer, None));
        }
        for ip in assigned(service) {
            add(Some(ip), number, target(&outside, outer, sources(spec)));
        }
        if let Some(port) = node_port {
            add(None, port, target(&outside, outer, None));
        }
    }
}

/// `None` and the empty text are headless.
fn address(text: Option<&str>) -> Option<Ipv4Addr> {
    text.and_then(|text| text.parse().ok())
}

/// The addresses that a load balancer gave.
fn assigned(service: &Service) -> impl Iterator<Item = Ipv4Addr> {
    let status = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    status
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| address(ingress.ip.as_deref()))
}

/// Who may come to those addresses. What cannot be read admits nobody: fail closed.
fn sources(spec: &ServiceSpec) -> Option<Vec<Ipv4Net>> {
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty())?;
    let mut ranges: Vec<Ipv4Net> =
        ranges.iter().filter_map(|range| range.trim().parse::<Ipv4Net>().ok()).collect();
    ranges.iter_mut().for_each(|range| *range = range.trunc());
    // Overlapping ones are no elements of an nftables set.
    Some(Ipv4Net::aggregate(&ranges))
}

fn affinity_s(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    Some(seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(AFFINITY_S))
}

#[cfg(test)]
mod tests;
