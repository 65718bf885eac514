//! A pod as one Service sees it: address, ports, and whether it takes connections.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::workloads::pod;

/// The address family of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// As an EndpointSlice writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// One port of a member, named as the Service names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// One pod behind a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub address: IpAddr,
    pub ports: Vec<Port>,
    pub hostname: Option<String>,
    pub node: Option<String>,
    pub pod: ObjectReference,
    /// Passes its readiness probe, ending or not.
    pub serving: bool,
    /// Was told to end.
    pub terminating: bool,
}

/// The families a Service wants, the first one first.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten();
    let read = |name: &String| if name == "IPv6" { Family::V6 } else { Family::V4 };
    let mut all: Vec<Family> = named.map(read).collect();
    if all.is_empty() {
        let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let v6 = ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
        all.push(if v6 { Family::V6 } else { Family::V4 });
    }
    all
}

/// The pods that `service` selects and that have an address of `family`, by address.
pub(super) fn of(service: &Service, pods: &[Arc<Pod>], family: Family) -> Vec<Member> {
    let mut members: Vec<Member> = pods
        .iter()
        .filter(|pod| selects(service, pod) && !pod::is_finished(pod))
        .filter_map(|pod| member(service, pod, family))
        .collect();
    members.sort_by(|a, b| (a.address, &a.pod.name).cmp(&(b.address, &b.pod.name)));
    members
}

/// Whether the Service's selector picks the pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|all| all.get(key)) == Some(value))
}

/// Whether the Service wants members that are not ready treated as if they were.
pub(super) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

fn member(service: &Service, pod: &Pod, family: Family) -> Option<Member> {
    let address = address(pod, family)?;
    let spec = pod.spec.as_ref()?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    // A host name counts in the Service that the pod names as its subdomain, and in no other.
    let hostname = given(&spec.hostname).filter(|_| spec.subdomain == service.metadata.name);
    Some(Member {
        address,
        ports: ports(service, pod),
        hostname,
        node: given(&spec.node_name),
        pod: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        serving: pod::is_ready(pod),
        terminating: pod::is_terminating(pod),
    })
}

fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    all.filter_map(|text| text.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv6() == (family == Family::V6))
}

fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let mut ports: Vec<Port> = wanted
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                number: target(port, pod)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The number behind a target port; `None` where the pod has no port of that name.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
            let mut open =
                spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            open.find(|open| {
                open.name.as_ref() == Some(name)
                    && open.protocol.as_deref().unwrap_or("TCP") == protocol
            })
            .map(|open| open.container_port)
        }
    }
}
