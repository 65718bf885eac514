//! Where a proxied request goes: `[SCHEME:]NAME[:PORT]` of a node, pod or service.
//!
//! # Source
//! Kubernetes' `ResourceLocation` of nodes, pods and services.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use serde_json::Value;

use crate::object;
use crate::path::Target;
use crate::server::Core;
use crate::status::Failure;
use crate::subresources::node_place;
use crate::verbs;

/// How the other end is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    /// Whatever certificate it has.
    Https,
    /// A node agent of ours, which knows us by our certificate.
    Agent,
}

/// The other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
}

/// The three parts of a name.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

/// Reads `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn split(text: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https");
    (known && !name.is_empty()).then_some(Named { https: scheme == "https", name, port })
}

/// Whether an address may be reached this way: what is local to the API server's own machine is
/// not there for who may only use a pod.
fn is_proxyable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(own) => {
            !(own.is_unspecified()
                || own.is_loopback()
                || own.is_link_local()
                || own.is_multicast()
                || own.is_broadcast())
        }
        IpAddr::V6(own) => {
            !(own.is_unspecified()
                || own.is_loopback()
                || own.is_unicast_link_local()
                || own.is_multicast())
        }
    }
}

fn allowed(address: &str, port: u16) -> Result<SocketAddr, Failure> {
    let found = address.parse().ok().filter(|address| is_proxyable(*address));
    let address = found.ok_or_else(|| Failure::bad_request("address not allowed"))?;
    Ok(SocketAddr::new(address, port))
}

fn number(port: &str) -> Result<u16, Failure> {
    let found = port.parse().ok().filter(|port| *port != 0);
    found.ok_or_else(|| Failure::bad_request(format!("invalid port {port:?}")))
}

/// Finds the other end of a request.
pub(super) async fn find(core: &Arc<Core>, target: &Target) -> Result<Destination, Failure> {
    let wrong = || {
        let one = target.resource.trim_end_matches('s');
        Failure::bad_request(format!("invalid {one} request {:?}", target.name))
    };
    let named = split(&target.name).ok_or_else(wrong)?;
    match target.resource.as_str() {
        "nodes" => node(core, &named).await,
        "pods" => {
            let pod = verbs::found(core, "pods", &target.namespace, named.name).await?;
            of_pod(&pod, &named)
        }
        "services" => service(core, &target.namespace, &named).await,
        _ => Err(Failure::no_such_path()),
    }
}

async fn node(core: &Arc<Core>, named: &Named<'_>) -> Result<Destination, Failure> {
    let node = verbs::found(core, "nodes", "", named.name).await?;
    let place = node_place(&node)?;
    if named.port.is_empty() || number(named.port)? == place.port {
        let address = SocketAddr::new(place.address, place.port);
        return Ok(Destination { scheme: Scheme::Agent, address });
    }
    let address = allowed(&place.address.to_string(), number(named.port)?)?;
    Ok(Destination { scheme: scheme(named), address })
}

fn scheme(named: &Named<'_>) -> Scheme {
    if named.https { Scheme::Https } else { Scheme::Http }
}

/// The pod's address, and its first port unless another is named.
fn of_pod(pod: &Value, named: &Named<'_>) -> Result<Destination, Failure> {
    let scheme = scheme(named);
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports =
        containers.filter_map(|one| one["ports"].as_array()?.first()?["containerPort"].as_u64());
    let port = match (named.port, scheme) {
        ("", Scheme::Https) => ports.next().unwrap_or(443),
        ("", _) => ports.next().unwrap_or(80),
        (port, _) => u64::from(number(port)?),
    };
    let port = u16::try_from(port).map_err(|_| Failure::bad_request("invalid port"))?;
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    Ok(Destination { scheme, address: allowed(address, port)? })
}

/// One of the service's ready pods. Only pods: an endpoint may be anything its writer put there.
async fn service(
    core: &Arc<Core>,
    namespace: &str,
    named: &Named<'_>,
) -> Result<Destination, Failure> {
    let service = verbs::found(core, "services", namespace, named.name).await?;
    let port = port_name(&service, named)?;
    let none =
        || Failure::unavailable(format!("no endpoints available for service {:?}", named.name));
    let endpoints = core.core_object("endpoints", namespace, named.name).await?.ok_or_else(none)?;
    let mut ends = ends(&endpoints, &port);
    while !ends.is_empty() {
        let (end, port) = ends.swap_remove(rand::rng().random_range(0..ends.len()));
        let address = end["ip"].as_str().unwrap_or_default();
        let Ok(allowed) = allowed(address, port) else { continue };
        if end["targetRef"]["kind"] != "Pod" {
            continue;
        }
        let (name, of) = (&end["targetRef"]["name"], &end["targetRef"]["namespace"]);
        let of = of.as_str().unwrap_or(namespace);
        let pod = core.core_object("pods", of, name.as_str().unwrap_or_default()).await?;
        if pod.is_some_and(|pod| has_address(&pod, address)) {
            return Ok(Destination { scheme: scheme(named), address: allowed });
        }
    }
    Err(none())
}

/// The name of the port that is meant; of a number, that of the service's port of that number.
fn port_name(service: &Value, named: &Named<'_>) -> Result<String, Failure> {
    let Ok(number) = named.port.parse::<u64>() else { return Ok(named.port.to_owned()) };
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.into_iter().find(|port| port["port"].as_u64() == Some(number));
    let found = found.ok_or_else(|| {
        let name = object::name(service);
        Failure::unavailable(format!("no service port {number} found for service {name:?}"))
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
}

/// All ready addresses that have the port of this name.
fn ends<'a>(endpoints: &'a Value, name: &str) -> Vec<(&'a Value, u16)> {
    let list = |value: &'a Value| value.as_array().into_iter().flatten();
    list(&endpoints["subsets"])
        .filter_map(|subset| {
            let own = |port: &&Value| port["name"].as_str().unwrap_or_default() == name;
            let port = list(&subset["ports"]).find(own)?["port"].as_u64()?;
            Some((subset, u16::try_from(port).ok()?))
        })
        .flat_map(|(subset, port)| list(&subset["addresses"]).map(move |end| (end, port)))
        .collect()
}

fn has_address(pod: &Value, address: &str) -> bool {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    all.into_iter().any(|one| one["ip"] == address) || pod["status"]["podIP"] == address
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_have_up_to_three_parts() {
        let check = |text: &str, expected: Option<(bool, &str, &str)>| {
            let found = split(text).map(|one| (one.https, one.name, one.port));
            assert_eq!(found, expected, "{text}");
        };
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("web:", Some((false, "web", "")));
        check("https:web:", Some((true, "web", "")));
        check("http:web:named", Some((false, "web", "named")));
        check(":web:80", Some((false, "web", "80")));
        check("ftp:web:21", None);
        check("", None);
        check("a:b:c:d", None);
    }

    #[test]
    fn addresses_of_the_machine_itself_are_out_of_reach() {
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "",
            "x",
        ] {
            assert!(allowed(own, 80).is_err(), "{own}");
        }
        for other in ["10.42.0.7", "192.168.1.1", "8.8.8.8", "fd00::1"] {
            assert!(allowed(other, 80).is_ok(), "{other}");
        }
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port_or_the_one_named() {
        let pod = json!({
            "spec": {"containers": [{"name": "a"}, {"ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.0.0.1"},
        });
        let check = |name: &str, scheme: Scheme, port: u16| {
            let found = of_pod(&pod, &split(name).unwrap()).ok().unwrap();
            assert_eq!((found.scheme, found.address.port()), (scheme, port), "{name}");
        };
        check("p", Scheme::Http, 8080);
        check("p:90", Scheme::Http, 90);
        check("https:p:443", Scheme::Https, 443);
        assert!(of_pod(&pod, &split("p:http").unwrap()).is_err());
        assert!(of_pod(&pod, &split("p:70000").unwrap()).is_err());
        let bare = json!({"spec": {"containers": []}, "status": {"podIP": "10.0.0.1"}});
        assert_eq!(of_pod(&bare, &split("p").unwrap()).ok().unwrap().address.port(), 80);
        assert!(of_pod(&json!({"status": {}}), &split("p").unwrap()).is_err(), "no address yet");
    }

    #[test]
    fn a_service_is_reached_by_port_name_or_number() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "web", "port": 80}, {"name": "more", "port": 81},
        ]}});
        let name = |text: &str| port_name(&service, &split(text).unwrap());
        assert_eq!(name("s:80").ok().unwrap(), "web");
        assert_eq!(name("s:more").ok().unwrap(), "more");
        assert_eq!(name("s").ok().unwrap(), "");
        assert_eq!(name("s:82").err().unwrap().code, 503);
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "a"}, {"ip": "b"}], "ports": [{"name": "web", "port": 8080}]},
            {"notReadyAddresses": [{"ip": "c"}], "ports": [{"name": "web", "port": 8080}]},
            {"addresses": [{"ip": "d"}], "ports": [{"name": "more", "port": 9}]},
        ]});
        let found = ends(&endpoints, "web");
        assert_eq!(found, [(&json!({"ip": "a"}), 8080), (&json!({"ip": "b"}), 8080)]);
        assert!(ends(&endpoints, "").is_empty());
    }
}
