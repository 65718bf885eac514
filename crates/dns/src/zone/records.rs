//! What a zone is made from: the little of Services and EndpointSlices that names need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Every Service that has a name; also the format of the snapshot on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Ordered by namespace and name.
    pub services: Vec<Service>,
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its name leads to.
    pub kind: Kind,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Where it is served; only headless Services have use for it.
    pub endpoints: Vec<Endpoint>,
}

/// What the name of a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Addresses of its own.
    Addresses(Vec<IpAddr>),
    /// Those of its endpoints.
    Headless,
    /// Another name.
    External(String),
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Empty when it has none.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub number: u16,
}

/// One place that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its own name below that of the Service, if it has one.
    pub hostname: Option<String>,
    /// Its ports, which may differ from the Service's.
    pub ports: Vec<Port>,
}

impl Endpoint {
    /// Its label below the Service: its host name, else its address with dashes.
    pub fn label(&self) -> String {
        let dashed = || self.address.to_string().replace(['.', ':'], "-");
        self.hostname.clone().unwrap_or_else(dashed)
    }
}

impl Records {
    /// Takes from the API's objects what names need.
    pub fn of<'a>(
        services: impl IntoIterator<Item = &'a core::Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut places: BTreeMap<(&str, &str), Vec<Endpoint>> = BTreeMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|all| all.get(SERVICE_NAME));
            let (Some(service), Some(namespace)) = (service, &slice.metadata.namespace) else {
                continue;
            };
            places.entry((namespace, service)).or_default().extend(endpoints(slice));
        }
        let mut services: Vec<Service> = services
            .into_iter()
            .filter_map(|service| {
                let namespace = service.metadata.namespace.as_deref()?;
                let name = service.metadata.name.as_deref()?;
                let mut endpoints = places.remove(&(namespace, name)).unwrap_or_default();
                endpoints.sort_by_key(|endpoint| endpoint.address);
                record(service, namespace, name, endpoints)
            })
            .collect();
        services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self { services }
    }
}

fn record(
    service: &core::Service,
    namespace: &str,
    name: &str,
    endpoints: Vec<Endpoint>,
) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let own = spec.cluster_ips.clone().or_else(|| spec.cluster_ip.clone().map(|ip| vec![ip]));
    let kind = match (spec.type_.as_deref(), own) {
        (Some("ExternalName"), _) => Kind::External(spec.external_name.clone()?),
        (_, Some(own)) if own.iter().any(|ip| ip == "None") => Kind::Headless,
        (_, own) => {
            Kind::Addresses(own.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect())
        }
    };
    let endpoints = if kind == Kind::Headless { endpoints } else { Vec::new() };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: u16::try_from(port.port).ok()?,
        })
    });
    Some(Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind,
        ports: ports.collect(),
        endpoints,
    })
}

/// The ready ones of a slice. A slice of a Service that publishes what is not ready says ready.
fn endpoints(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                number: u16::try_from(port.port?).ok()?,
            })
        })
        .collect();
    let ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(ready)
        .flat_map(|endpoint| {
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
            addresses.map(|address| Endpoint {
                address,
                hostname: endpoint.hostname.clone(),
                ports: ports.clone(),
            })
        })
        .collect()
}
