//! The cells of Services, endpoints and Ingresses.

use serde_json::{Value, json};

use super::{joined, list, number, pairs, selector, text_or};

/// As many addresses or ports are shown in a cell.
const SHOWN: usize = 3;

pub fn service_cell(heading: &str, service: &Value) -> Option<Value> {
    Some(match heading {
        "Type" => json!(text_or(service, "/spec/type", "ClusterIP")),
        "Cluster-IP" => json!(
            list(service, "/spec/clusterIPs")
                .first()
                .and_then(Value::as_str)
                .unwrap_or_else(|| text_or(service, "/spec/clusterIP", "<none>"))
        ),
        "External-IP" => json!(external(service)),
        "Port(s)" => json!(ports(service)),
        "Selector" => json!(pairs(&service["spec"]["selector"])),
        _ => return None,
    })
}

fn external(service: &Value) -> String {
    let given = list(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let mut all: Vec<&str> = Vec::new();
    match text_or(service, "/spec/type", "ClusterIP") {
        "ExternalName" => return text_or(service, "/spec/externalName", "<none>").to_owned(),
        "LoadBalancer" => {
            let found = list(service, "/status/loadBalancer/ingress");
            all.extend(
                found.iter().filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str())),
            );
            all.extend(given);
            if all.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => all.extend(given),
    }
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

fn ports(service: &Value) -> String {
    let shown: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = text_or(port, "/protocol", "TCP");
            match number(port, "/nodePort") {
                0 => format!("{}/{protocol}", port["port"]),
                node => format!("{}:{node}/{protocol}", port["port"]),
            }
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(",") }
}

pub fn endpoints_cell(heading: &str, endpoints: &Value) -> Option<Value> {
    if heading != "Endpoints" {
        return None;
    }
    let mut all = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let ports = list(subset, "/ports");
        for address in list(subset, "/addresses").iter().filter_map(|one| one["ip"].as_str()) {
            let host =
                if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{host}:{}", port["port"])));
        }
    }
    Some(json!(few(&all, "<none>")))
}

/// The first few, joined by commas, and how many more there are.
fn few(all: &[String], nothing: &str) -> String {
    if all.is_empty() {
        return nothing.to_owned();
    }
    let shown = all[..all.len().min(SHOWN)].join(",");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

pub fn slice_cell(heading: &str, slice: &Value) -> Option<Value> {
    Some(match heading {
        "AddressType" => json!(text_or(slice, "/addressType", "")),
        "Ports" => {
            let number = |port: &Value| match port["port"].as_i64() {
                Some(number) => number.to_string(),
                None => "*".to_owned(),
            };
            let ports: Vec<String> = list(slice, "/ports").iter().map(number).collect();
            json!(few(&ports, "<unset>"))
        }
        "Endpoints" => {
            let each = list(slice, "/endpoints").iter();
            let all: Vec<String> = each
                .flat_map(|one| list(one, "/addresses"))
                .filter_map(|address| address.as_str().map(str::to_owned))
                .collect();
            json!(few(&all, "<unset>"))
        }
        _ => return None,
    })
}

pub fn ingress_cell(heading: &str, ingress: &Value) -> Option<Value> {
    Some(match heading {
        "Class" => json!(text_or(ingress, "/spec/ingressClassName", "<none>")),
        "Hosts" => {
            let mut hosts: Vec<&str> = Vec::new();
            for host in list(ingress, "/spec/rules").iter().filter_map(|rule| rule["host"].as_str())
            {
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
            let shown: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
            json!(few(&shown, "*"))
        }
        "Address" => {
            let found = list(ingress, "/status/loadBalancer/ingress").iter();
            let all = found.filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str()));
            json!(all.collect::<Vec<_>>().join(","))
        }
        "Ports" => json!(if list(ingress, "/spec/tls").is_empty() { "80" } else { "80, 443" }),
        _ => return None,
    })
}

pub fn other_cell(heading: &str, object: &Value) -> Option<Value> {
    Some(match heading {
        "Controller" => json!(text_or(object, "/spec/controller", "")),
        "Parameters" => match object["spec"]["parameters"].as_object() {
            None => json!("<none>"),
            Some(_) => {
                let parameters = &object["spec"]["parameters"];
                let kind = text_or(parameters, "/kind", "");
                let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}"));
                let name = text_or(parameters, "/name", "");
                json!(format!("{kind}{}/{name}", group.unwrap_or_default()))
            }
        },
        "Pod-Selector" => json!(selector(&object["spec"]["podSelector"])),
        "CIDRs" => {
            let all = list(object, "/spec/cidrs").iter().filter_map(Value::as_str);
            json!(all.collect::<Vec<_>>().join(","))
        }
        "ParentRef" => {
            let parent = &object["spec"]["parentRef"];
            let parts = ["resource", "group", "namespace", "name"].map(|key| parent[key].as_str());
            let parts: Vec<&str> =
                parts.into_iter().flatten().filter(|one| !one.is_empty()).collect();
            json!(parts.join("/"))
        }
        "Hosts" => json!(joined(list(object, "/spec/rules"), "host")),
        _ => return None,
    })
}
