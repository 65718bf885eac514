//! Which endpoints of a Service get traffic.
//!
//! The ready ones. When there is none, those that still serve while they terminate: a rolling
//! restart of a single replica then has no gap. Never an endpoint that is neither. The rule is
//! Kubernetes' (KEP-1669).

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use berth_api::endpoints::SERVICE_NAME;

/// Slices by the Service they belong to: (namespace, name).
pub(crate) struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

impl<'a> Slices<'a> {
    pub(crate) fn new(slices: &'a [Arc<EndpointSlice>]) -> Self {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
            let (Some(service), Some(namespace)) = (service, slice.metadata.namespace.as_ref())
            else {
                continue;
            };
            if slice.address_type == "IPv4" {
                by_service
                    .entry((namespace.as_str(), service.as_str()))
                    .or_default()
                    .push(slice.as_ref());
            }
        }
        Self(by_service)
    }

    /// The addresses that get traffic for the port called `port` (empty for a nameless one),
    /// among those that `admits` lets through; sorted, each once.
    pub(crate) fn backends(
        &self,
        service: (&str, &str),
        port: &str,
        protocol: &str,
        admits: impl Fn(Ipv4Addr) -> bool,
    ) -> Vec<SocketAddrV4> {
        self.admitted(service, port, protocol, admits).into_keys().collect()
    }

    /// Those addresses, each with what its slice says of it.
    pub(crate) fn members(
        &self,
        service: (&str, &str),
        port: &str,
        protocol: &str,
    ) -> BTreeMap<SocketAddrV4, &'a Endpoint> {
        self.admitted(service, port, protocol, |_| true)
    }

    fn admitted(
        &self,
        (namespace, service): (&str, &str),
        port: &str,
        protocol: &str,
        admits: impl Fn(Ipv4Addr) -> bool,
    ) -> BTreeMap<SocketAddrV4, &'a Endpoint> {
        let mut ready = BTreeMap::new();
        let mut leaving = BTreeMap::new();
        for slice in self.0.get(&(namespace, service)).into_iter().flatten() {
            let number = slice.ports.iter().flatten().find_map(|candidate| {
                let same = candidate.name.as_deref().unwrap_or_default() == port
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol;
                candidate.port.filter(|_| same).and_then(|number| u16::try_from(number).ok())
            });
            let Some(number) = number else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let addresses = match condition(endpoint) {
                    Condition::Ready => &mut ready,
                    Condition::Leaving => &mut leaving,
                    Condition::Away => continue,
                };
                // One pod is one endpoint; further addresses of an entry are the same pod.
                let address = endpoint.addresses.first().and_then(|text| text.parse().ok());
                if let Some(address) = address.filter(|address| admits(*address)) {
                    addresses.insert(SocketAddrV4::new(address, number), endpoint);
                }
            }
        }
        if ready.is_empty() { leaving } else { ready }
    }
}

enum Condition {
    Ready,
    Leaving,
    Away,
}

fn condition(endpoint: &Endpoint) -> Condition {
    let Some(conditions) = &endpoint.conditions else { return Condition::Ready };
    // An absent `ready` means ready, an absent `serving` means what `ready` says.
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, conditions.serving.unwrap_or(ready), terminating) {
        (true, _, _) => Condition::Ready,
        (false, true, true) => Condition::Leaving,
        (false, _, _) => Condition::Away,
    }
}
