//! What DNS needs of Services and EndpointSlices, and nothing else: small enough to keep on disk.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_api::endpoints::SERVICE_NAME;
use berth_api::zone;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

use crate::zone::policy::Wanted;

/// A Service's annotation: a policy as JSON, such as `{"order":"consistent","limit":2}`.
const POLICY: &str = "dns.berth.dev/policy";

/// Everything known, by `namespace/name`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Services.
    pub services: BTreeMap<String, ServiceFacts>,
    /// EndpointSlices.
    pub slices: BTreeMap<String, SliceFacts>,
    /// Zones from objects, as they were last found to be in order.
    #[serde(default)]
    pub zones: BTreeMap<String, ZoneText>,
}

/// A zone file that stands in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ZoneText {
    /// What its relative names are of, where the text does not say.
    pub origin: Option<String>,
    pub text: String,
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ServiceFacts {
    pub namespace: String,
    pub name: String,
    pub kind: Addressing,
    pub ports: Vec<Port>,
    /// What its annotations say of the order of its addresses.
    #[serde(default)]
    pub policy: Option<Wanted>,
}

/// How a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Addressing {
    /// At addresses of its own.
    Cluster(Vec<IpAddr>),
    /// At its endpoints.
    Headless,
    /// Under another name.
    External(String),
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Port {
    pub name: String,
    /// Lower case, without the underscore.
    pub protocol: String,
    pub number: u16,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SliceFacts {
    pub namespace: String,
    pub service: String,
    pub ports: Vec<Port>,
    pub endpoints: Vec<EndpointFacts>,
}

impl SliceFacts {
    /// `namespace/name` of its Service.
    pub(crate) fn service_key(&self) -> String {
        format!("{}/{}", self.namespace, self.service)
    }
}

/// One ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct EndpointFacts {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
}

/// What a Service says; `None` while it has no address.
pub(crate) fn of_service(service: &Service) -> Option<ServiceFacts> {
    let spec = service.spec.as_ref()?;
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        Addressing::External(spec.external_name.clone()?)
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Addressing::Headless
    } else {
        let many = spec.cluster_ips.iter().flatten();
        let mut ips: Vec<IpAddr> =
            many.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
        ips.sort();
        ips.dedup();
        if ips.is_empty() {
            return None;
        }
        Addressing::Cluster(ips)
    };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port).ok()?,
        })
    });
    Some(ServiceFacts {
        namespace: service.metadata.namespace.clone()?,
        name: service.metadata.name.clone()?,
        kind,
        ports: ports.collect(),
        policy: policy(service),
    })
}

/// One that cannot be read is none: the Service must be found all the same.
fn policy(service: &Service) -> Option<Wanted> {
    let text = service.metadata.annotations.as_ref()?.get(POLICY)?;
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut wanted: Wanted = serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(service = name, %error, "{POLICY} cannot be read"))
        .ok()?;
    if wanted.check.take().is_some() {
        // Whoever may write a Service could have this server connect to anything.
        tracing::warn!(service = name, "{POLICY}: `check` is for the server's settings alone");
    }
    Some(wanted)
}

/// What an EndpointSlice says; `None` for one that belongs to no Service.
pub(crate) fn of_slice(slice: &EndpointSlice) -> Option<SliceFacts> {
    if slice.address_type == "FQDN" {
        return None;
    }
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port?).ok()?,
        })
    });
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| {
        // Not said is ready, by the API's own words.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let endpoints = endpoints.map(|endpoint| EndpointFacts {
        addresses: endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
        hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
    });
    Some(SliceFacts {
        namespace: slice.metadata.namespace.clone()?,
        service,
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    })
}

fn protocol(name: Option<&str>) -> String {
    name.unwrap_or("TCP").to_ascii_lowercase()
}

/// The zone file in a ConfigMap; `None` for one that has none.
pub(crate) fn of_zone(map: &ConfigMap) -> Option<ZoneText> {
    let origin = map.metadata.labels.as_ref()?.get(zone::LABEL)?;
    let text = map.data.as_ref().and_then(|data| data.get(zone::KEY)).cloned();
    let origin = Some(origin.clone()).filter(|origin| !origin.is_empty());
    // One without a text is a zone that is not in order, and is told so.
    Some(ZoneText { origin, text: text.unwrap_or_default() })
}
