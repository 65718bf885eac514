//! Services, endpoints and Ingresses.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_api::names;
use serde_json::{Value, json};

use super::path::Path;
use super::rules::{Fields, list, named, number, object, port, text, unique};
use crate::Cause;

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// As many addresses and ports a slice may have.
const MOST_IN_SLICE: usize = 1000;
const MOST_PORTS: usize = 20_000;

pub fn service(path: &Path<'_>, spec: &Fields, causes: &mut Vec<Cause>) {
    let kind = text(spec, "type");
    let address = text(spec, "clusterIP");
    let ports = list(spec, "ports");
    if ports.is_empty() && address != "None" && kind != "ExternalName" {
        causes.push(Cause::required(path.field("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if address == "None" => {
            let wrong = "may not be set to 'None' for LoadBalancer or NodePort services";
            causes.push(Cause::invalid(path.field("clusterIPs").index(0), &json!(address), wrong));
        }
        "ExternalName" => {
            if !address.is_empty() && address != "None" {
                let wrong = "may not be set when `type` is 'ExternalName'";
                causes.push(Cause::forbidden(path.field("clusterIPs"), wrong));
            }
            let name = text(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                causes.push(Cause::required(path.field("externalName"), ""));
            } else if let Err(wrong) = names::dns_subdomain(name) {
                causes.push(Cause::invalid(path.field("externalName"), &json!(name), &wrong));
            }
        }
        _ => {}
    }
    if !matches!(address, "" | "None") && address.parse::<IpAddr>().is_err() {
        let wrong = json!([address]);
        causes.push(Cause::invalid(path.field("clusterIPs"), &wrong, NO_ADDRESS));
    }
    for (at, address) in list(spec, "externalIPs").iter().enumerate() {
        if address.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
            causes.push(Cause::invalid(path.field("externalIPs").index(at), address, NO_ADDRESS));
        }
    }
    super::labels::labels(&path.field("selector"), object(spec, "selector"), causes);
    service_ports(&path.field("ports"), ports, kind, causes);
}

/// Several ports are named, each once; none is served twice.
fn service_ports(path: &Path<'_>, ports: &[Value], kind: &str, causes: &mut Vec<Cause>) {
    unique(path, ports, "name", causes);
    let mut seen: HashSet<(i64, &str)> = HashSet::new();
    let mut on_node: HashSet<(i64, &str)> = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let Some(fields) = port.as_object() else { continue };
        let here = path.index(at);
        if ports.len() > 1 && text(fields, "name").is_empty() {
            causes.push(Cause::required(here.field("name"), ""));
        }
        let protocol = text(fields, "protocol");
        let served = (number(fields, "port").unwrap_or(0), protocol);
        if seen.contains(&served) {
            causes.push(Cause::duplicate(&here, &json!({"port": served.0, "protocol": protocol})));
        }
        seen.insert(served);
        let Some(node) = number(fields, "nodePort").filter(|node| *node != 0) else { continue };
        if matches!(kind, "ClusterIP" | "ExternalName") {
            let wrong = "may not be used when `type` is 'ClusterIP'";
            causes.push(Cause::forbidden(here.field("nodePort"), wrong));
        }
        if on_node.contains(&(node, protocol)) {
            causes.push(Cause::duplicate(here.field("nodePort"), &json!(node)));
        }
        on_node.insert((node, protocol));
    }
}

pub fn service_port(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::dns_label, causes);
    let own = fields.get("port").cloned().unwrap_or_else(|| json!(0));
    port(&path.field("port"), &own, causes);
    if let Some(target) = fields.get("targetPort") {
        port(&path.field("targetPort"), target, causes);
    }
}

pub fn ingress(path: &Path<'_>, spec: &Fields, causes: &mut Vec<Cause>) {
    if list(spec, "rules").is_empty() && !spec.contains_key("defaultBackend") {
        let wrong = "either `defaultBackend` or `rules` must be specified";
        causes.push(Cause::invalid(path, &Value::Object(spec.clone()), wrong));
    }
    named(path, spec, "ingressClassName", names::dns_subdomain, causes);
    for (at, tls) in list(spec, "tls").iter().enumerate() {
        let all = path.field("tls");
        let here = all.index(at);
        for (at, found) in tls["hosts"].as_array().into_iter().flatten().enumerate() {
            host(&here.field("hosts").index(at), found.as_str().unwrap_or_default(), causes);
        }
    }
}

pub fn ingress_rule(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "host");
    if !found.is_empty() {
        host(&path.field("host"), found, causes);
    }
}

fn host(path: &Path<'_>, host: &str, causes: &mut Vec<Cause>) {
    if host.parse::<IpAddr>().is_ok() {
        causes.push(Cause::invalid(path, &json!(host), "must be a DNS name, not an IP address"));
        return;
    }
    let check = if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::dns_subdomain(host)
    };
    if let Err(wrong) = check {
        causes.push(Cause::invalid(path, &json!(host), &wrong));
    }
}

pub fn ingress_path(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "path");
    let here = path.field("path");
    if text(fields, "pathType").is_empty() {
        causes.push(Cause::required(path.field("pathType"), "pathType must be specified"));
    }
    if matches!(text(fields, "pathType"), "Exact" | "Prefix") {
        if !found.starts_with('/') {
            causes.push(Cause::invalid(&here, &json!(found), "must be an absolute path"));
        }
        for wrong in ["//", "/./", "/../", "%2f", "%2F"] {
            if found.contains(wrong) {
                let wrong = format!("must not contain '{wrong}'");
                causes.push(Cause::invalid(&here, &json!(found), &wrong));
            }
        }
        for wrong in ["/..", "/."] {
            if found.ends_with(wrong) {
                let wrong = format!("cannot end with '{wrong}'");
                causes.push(Cause::invalid(&here, &json!(found), &wrong));
            }
        }
    } else if !found.is_empty() && !found.starts_with('/') {
        causes.push(Cause::invalid(&here, &json!(found), "must be an absolute path"));
    }
}

pub fn ingress_backend(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let Some(service) = object(fields, "service") else {
        if !fields.contains_key("resource") {
            causes.push(Cause::required(path, "resource or service backend is required"));
        }
        return;
    };
    if fields.contains_key("resource") {
        let wrong = "cannot set both resource and service backends";
        causes.push(Cause::invalid(path, &json!(""), wrong));
    }
    let here = path.field("service");
    named(&here, service, "name", names::dns1035_label, causes);
    let own = here.field("port");
    match object(service, "port").map(|port| (text(port, "name"), number(port, "number"))) {
        None | Some(("", None | Some(0))) => {
            causes.push(Cause::required(path, "port name or number is required"));
        }
        Some(("", Some(number))) => port(&own.field("number"), &json!(number), causes),
        Some((name, None | Some(0))) => port(&own.field("name"), &json!(name), causes),
        Some(_) => {
            causes.push(Cause::invalid(
                path,
                &json!(""),
                "cannot set both port name & port number",
            ));
        }
    }
}

pub fn ip_block(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let found = text(fields, "cidr");
    let good = found.split_once('/').is_some_and(|(address, length)| {
        match (address.parse::<IpAddr>(), length.parse::<u8>()) {
            (Ok(IpAddr::V4(_)), Ok(length)) => length <= 32,
            (Ok(IpAddr::V6(_)), Ok(length)) => length <= 128,
            _ => false,
        }
    });
    if !found.is_empty() && !good {
        let wrong = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        causes.push(Cause::invalid(path.field("cidr"), &json!(found), wrong));
    }
}

pub fn endpoints(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let all = path.field("subsets");
    for (at, subset) in list(fields, "subsets").iter().enumerate() {
        let here = all.index(at);
        for group in ["addresses", "notReadyAddresses"] {
            let addresses = here.field(group);
            for (at, address) in subset[group].as_array().into_iter().flatten().enumerate() {
                let found = &address["ip"];
                let here = addresses.index(at);
                match found.as_str().map(str::parse::<IpAddr>) {
                    None => {}
                    Some(Err(_)) => {
                        causes.push(Cause::invalid(here.field("ip"), found, NO_ADDRESS));
                    }
                    Some(Ok(_)) if is_api(fields) => {}
                    Some(Ok(address)) => own_address(&here.field("ip"), address, causes),
                }
            }
        }
    }
}

/// Whether these are the API server's own endpoints: where it listens is its choice.
fn is_api(fields: &Fields) -> bool {
    let metadata = object(fields, "metadata");
    let is = |key: &str, word: &str| metadata.is_some_and(|one| text(one, key) == word);
    is("name", "kubernetes") && is("namespace", "default")
}

/// Endpoints may not lead back to whoever asks, or to everyone around.
fn own_address(path: &Path<'_>, address: IpAddr, causes: &mut Vec<Cause>) {
    let link = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let wrong = if address.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if link {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if address.is_multicast() {
        "may not be in the multicast range (224.0.0.0/4, ff00::/8)"
    } else {
        return;
    };
    causes.push(Cause::invalid(path, &json!(address.to_string()), wrong));
}

pub fn endpoint_port(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    named(path, fields, "name", names::dns_label, causes);
    if let Some(found) = fields.get("port") {
        port(&path.field("port"), found, causes);
    }
}

pub fn slice(path: &Path<'_>, fields: &Fields, causes: &mut Vec<Cause>) {
    let kind = text(fields, "addressType");
    let endpoints = list(fields, "endpoints");
    if endpoints.len() > MOST_IN_SLICE {
        causes.push(Cause::too_many(path.field("endpoints"), endpoints.len(), MOST_IN_SLICE));
    }
    let ports = list(fields, "ports");
    if ports.len() > MOST_PORTS {
        causes.push(Cause::too_many(path.field("ports"), ports.len(), MOST_PORTS));
    }
    unique(&path.field("ports"), ports, "name", causes);
    for (at, endpoint) in endpoints.iter().enumerate() {
        let all = path.field("endpoints");
        let here = all.index(at);
        let addresses = here.field("addresses");
        for (at, found) in endpoint["addresses"].as_array().into_iter().flatten().enumerate() {
            let text = found.as_str().unwrap_or_default();
            let here = addresses.index(at);
            let read = match kind {
                "IPv4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                "IPv6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                _ => {
                    if let Err(wrong) = names::dns_subdomain(text) {
                        causes.push(Cause::invalid(&here, found, &wrong));
                    }
                    continue;
                }
            };
            match read {
                Some(_) if is_api(fields) => {}
                Some(address) => own_address(&here, address, causes),
                None => {
                    let wrong = format!("must be a valid {kind} address");
                    causes.push(Cause::invalid(&here, found, &wrong));
                }
            }
        }
    }
}
