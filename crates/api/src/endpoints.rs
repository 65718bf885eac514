//! Which addresses stand behind Services, from any Kubernetes.
//!
//! EndpointSlices (`discovery.k8s.io/v1`) where they are served; Kubernetes before 1.21 has only
//! the older Endpoints, which are turned into slices: readers know one form.
//!
//! Refuses: `discovery.k8s.io/v1beta1`, which says nothing that Endpoints do not, and is gone
//! since 1.25.
//!
//! Source: KEP-752; the Endpoints API of Kubernetes 1.20.

mod follow;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use k8s_openapi::api::discovery::v1::{self as discovery, Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use follow::follow;

/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What `endpoints` says, as EndpointSlices: one for each set of ports and family of addresses.
///
/// A slice's name depends on its ports and family only, so that an address stays in its slice
/// while others come and go. Who terminates is not known: Endpoints drop a pod when it begins to.
pub fn slices(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, is_ready) in ready.chain(others) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let name = name(endpoints, family, ports);
            let slice = slices
                .entry(name)
                .or_insert_with_key(|name| empty(endpoints, name.clone(), family, ports));
            slice.endpoints.get_or_insert_default().push(endpoint(address, is_ready));
        }
    }
    slices.into_values().collect()
}

fn name(endpoints: &Endpoints, family: &str, ports: &[EndpointPort]) -> String {
    let mut hasher = DefaultHasher::new();
    family.hash(&mut hasher);
    for port in ports {
        (&port.name, port.port, &port.protocol, &port.app_protocol).hash(&mut hasher);
    }
    let service = endpoints.metadata.name.as_deref().unwrap_or_default();
    format!("{service}-{:016x}", hasher.finish())
}

fn empty(
    endpoints: &Endpoints,
    name: String,
    family: &str,
    ports: &[EndpointPort],
) -> EndpointSlice {
    let service = endpoints.metadata.name.clone().unwrap_or_default();
    let ports = ports.iter().map(|port| discovery::EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: port.name.clone(),
        port: Some(port.port),
        protocol: port.protocol.clone(),
    });
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: None,
        metadata: ObjectMeta {
            name: Some(name),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some([(SERVICE_NAME.to_owned(), service)].into()),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
    }
}

fn endpoint(address: &EndpointAddress, is_ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(discovery::EndpointConditions {
            ready: Some(is_ready),
            ..discovery::EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made_of(subsets: Value) -> Vec<EndpointSlice> {
        let object = json!({"metadata": {"name": "web", "namespace": "n"}, "subsets": subsets});
        slices(&serde_json::from_value(object).unwrap())
    }

    /// `expected`: each slice's family, ports and endpoints, sorted as text.
    fn check(subsets: Value, expected: Value) {
        let mut made: Vec<Value> = made_of(subsets)
            .iter()
            .map(|slice| {
                assert_eq!(slice.metadata.namespace.as_deref(), Some("n"));
                assert_eq!(slice.metadata.labels.as_ref().unwrap()[SERVICE_NAME], "web");
                json!([slice.address_type, slice.ports, slice.endpoints])
            })
            .collect();
        made.sort_by_key(Value::to_string);
        assert_eq!(Value::Array(made), expected);
    }

    #[test]
    fn each_set_of_ports_becomes_a_slice() {
        let up = json!({"ready": true});
        let http = json!({"name": "http", "port": 8080, "protocol": "TCP"});
        check(json!(null), json!([]));
        check(json!([{"ports": [http]}]), json!([]));
        check(
            json!([{"ports": [http], "addresses": [
                {"ip": "10.0.0.1", "hostname": "web-0", "nodeName": "a",
                 "targetRef": {"kind": "Pod", "name": "web-0"}}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}]}]),
            json!([["IPv4", [http], [
                {"addresses": ["10.0.0.1"], "conditions": up, "hostname": "web-0", "nodeName": "a",
                 "targetRef": {"kind": "Pod", "name": "web-0"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]]]),
        );
        // Another number under the same name; no ports; two families; what is no address.
        let other = json!({"name": "http", "port": 9090, "appProtocol": "h2c"});
        check(
            json!([
                {"ports": [http], "addresses": [{"ip": "10.0.0.1"}]},
                {"ports": [other], "addresses": [{"ip": "10.0.0.2"}]},
                {"addresses": [{"ip": "10.0.0.3"}, {"ip": "fd00::3"}, {"ip": "nowhere"}]},
            ]),
            json!([
                ["IPv4", [], [{"addresses": ["10.0.0.3"], "conditions": up}]],
                ["IPv4", [other], [{"addresses": ["10.0.0.2"], "conditions": up}]],
                ["IPv4", [http], [{"addresses": ["10.0.0.1"], "conditions": up}]],
                ["IPv6", [], [{"addresses": ["fd00::3"], "conditions": up}]],
            ]),
        );
        // Same ports, so one slice.
        check(
            json!([
                {"ports": [http], "addresses": [{"ip": "10.0.0.1"}]},
                {"ports": [http], "addresses": [{"ip": "10.0.0.2"}]},
            ]),
            json!([["IPv4", [http], [
                {"addresses": ["10.0.0.1"], "conditions": up},
                {"addresses": ["10.0.0.2"], "conditions": up}]]]),
        );
    }

    #[test]
    fn a_slice_keeps_its_name_while_addresses_change() {
        let subset =
            |port: u16, ip: &str| json!({"ports": [{"port": port}], "addresses": [{"ip": ip}]});
        let name = |made: &[EndpointSlice]| made[0].metadata.name.clone();
        let before = made_of(json!([subset(80, "10.0.0.1"), subset(90, "10.0.0.2")]));
        assert_ne!(name(&before), name(&before[1..]));
        let after = made_of(json!([subset(90, "10.0.0.7")]));
        assert!(before.iter().any(|slice| slice.metadata.name == after[0].metadata.name));
    }
}
