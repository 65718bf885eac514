//! Services of type LoadBalancer whose class is the front's: each is given an address of the
//! front's, which stands in its status, and its endpoints become backends.
//!
//! Packets are translated: a pod has its own address and port, and not the Service's. An endpoint
//! that terminates and still serves drains. Several fronts with the same addresses agree: what a
//! status says is kept, and of the free addresses all take the first.
//!
//! # What it refuses
//! A Service with `loadBalancerSourceRanges` (the front lets everybody in), and ports of protocols
//! but TCP and UDP. The Service, or the port, is named in the log, and the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service as Object;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use berth_api::endpoints::SERVICE_NAME;
use berth_daemon::Tasks;

use super::config::{Backend, Front, MOST_BACKENDS, MOST_SERVICES, Protocol, Service, Way};
use crate::follow::follow;

/// What `spec.loadBalancerClass` says of a Service that is ours.
pub const CLASS: &str = "berth.dev/front";

const PATIENCE: Duration = Duration::from_secs(5);
/// So many addresses of a network are looked at for one that is free.
const MOST_ADDRESSES: usize = 4096;

/// What there is in the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Those of the class.
    services: Vec<Arc<Object>>,
    slices: Vec<Arc<EndpointSlice>>,
}

/// What becomes of it.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub services: Vec<Service>,
    /// Statuses that say something else: namespace, name and addresses.
    statuses: Vec<(String, String, Vec<IpAddr>)>,
    pub refused: Vec<String>,
}

/// Follows the cluster; `None` until all is known.
pub(super) fn seen(client: &Client, tasks: &Tasks) -> watch::Receiver<Option<Seen>> {
    let (sender, receiver) = watch::channel(None);
    let changed = Arc::new(Notify::new());
    let all = watcher(Api::<Object>::all(client.clone()), watcher::Config::default());
    let services = follow("services", all, changed.clone(), tasks);
    let slices = berth_api::endpoints::follow(client.clone());
    let slices = follow("endpoints", slices, changed.clone(), tasks);
    tasks.spawn_until_stop("front class", async move {
        loop {
            changed.notified().await;
            let (Some(mut services), Some(mut slices)) = (services.objects(), slices.objects())
            else {
                continue;
            };
            services.retain(|service| is_ours(service));
            let names: BTreeSet<_> =
                services.iter().map(|one| (one.namespace(), Some(one.name_any()))).collect();
            slices.retain(|slice| {
                let of = slice.labels().get(SERVICE_NAME).cloned();
                names.contains(&(slice.namespace(), of))
            });
            sender.send_replace(Some(Seen { services, slices }));
        }
    });
    receiver
}

fn is_ours(service: &Object) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer")
            && spec.load_balancer_class.as_deref() == Some(CLASS)
    }) && service.metadata.deletion_timestamp.is_none()
}

/// What `seen` asks of `front`.
///
/// # Guarantees
/// The order of objects does not matter. A Service keeps the addresses that its status says as long
/// as they are the front's; of two that say the same, the older keeps it.
pub(super) fn give(seen: &Seen, front: &Front) -> Given {
    let mut given = Given::default();
    let mut services: Vec<&Object> = seen.services.iter().map(AsRef::as_ref).collect();
    services.sort_by_cached_key(|service| {
        let created = service.creation_timestamp().map(|time| time.0);
        (created, service.namespace(), service.name_any())
    });
    services.retain(|service| {
        let ranges =
            service.spec.as_ref().and_then(|spec| spec.load_balancer_source_ranges.as_ref());
        let open = ranges.is_none_or(Vec::is_empty);
        if !open {
            let why = "the front keeps no loadBalancerSourceRanges";
            given.refused.push(format!("Service {}: {why}", name_of(service)));
        }
        open
    });
    let mut taken: BTreeSet<IpAddr> = front.services.iter().map(|one| one.address).collect();
    let mut addresses = vec![BTreeMap::new(); services.len()];
    // First what is kept, so that nobody is given what is another's.
    for (service, mine) in services.iter().zip(&mut addresses) {
        for address in said(service) {
            let wanted = families(service).contains(&address.is_ipv6());
            let is_free = front.addresses.iter().any(|net| net.contains(&address))
                && !mine.contains_key(&address.is_ipv6());
            if wanted && is_free && taken.insert(address) {
                mine.insert(address.is_ipv6(), address);
            }
        }
    }
    let mut backends: usize = front.services.iter().map(|one| one.backends.len()).sum();
    for (service, mut mine) in services.iter().zip(addresses) {
        for v6 in families(service) {
            if mine.contains_key(&v6) {
                continue;
            }
            let all = front.addresses.iter().filter(|net| matches!(net, IpNet::V6(_)) == v6);
            let mut free = all.flat_map(|net| {
                // The first of a network is every router's (RFC 4291 §2.6.1).
                let routers = (v6 && net.prefix_len() < 127).then(|| net.network());
                let hosts = net.hosts().take(MOST_ADDRESSES);
                hosts.filter(move |address| Some(*address) != routers)
            });
            match free.find(|address| !taken.contains(address)) {
                Some(address) => {
                    taken.insert(address);
                    mine.insert(v6, address);
                }
                None => given.refused.push(format!(
                    "Service {}: no {} address is free",
                    name_of(service),
                    if v6 { "IPv6" } else { "IPv4" }
                )),
            }
        }
        let addresses: Vec<IpAddr> = mine.into_values().collect();
        for address in &addresses {
            for one in of_service(service, &seen.slices, *address, &mut given.refused) {
                backends += one.backends.len();
                let all = front.services.len() + given.services.len();
                if all >= MOST_SERVICES || backends > MOST_BACKENDS {
                    let why = "more than the front can have";
                    given.refused.push(format!("Service {}: {why}", name_of(service)));
                    backends -= one.backends.len();
                } else {
                    given.services.push(one);
                }
            }
        }
        if said(service) != addresses {
            let namespace = service.namespace().unwrap_or_default();
            given.statuses.push((namespace, service.name_any(), addresses));
        }
    }
    given
}

fn name_of(service: &Object) -> String {
    format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
}

/// The addresses in its status.
fn said(service: &Object) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    all.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

/// Whether it is reached by IPv4 (`false`), IPv6 (`true`) or both.
fn families(service: &Object) -> Vec<bool> {
    let named = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let named: Vec<bool> = named.into_iter().flatten().map(|family| family == "IPv6").collect();
    if named.is_empty() { vec![false] } else { named }
}

/// A Service's ports at one of its addresses.
fn of_service(
    service: &Object,
    slices: &[Arc<EndpointSlice>],
    address: IpAddr,
    refused: &mut Vec<String>,
) -> Vec<Service> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let by_address = spec.session_affinity.as_deref() == Some("ClientIP");
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            other => {
                refused.push(format!("Service {}: no front for {other}", name_of(service)));
                continue;
            }
        };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let name = port.name.as_deref().unwrap_or_default();
        let backends = backends(service, slices, address.is_ipv6(), (name, protocol));
        ports.push(Service {
            address,
            port: number,
            protocol,
            way: Way::Translated,
            by_address,
            // Whether a pod serves is known by its readiness.
            check: None,
            backends,
        });
    }
    ports
}

fn backends(
    service: &Object,
    slices: &[Arc<EndpointSlice>],
    v6: bool,
    (name, protocol): (&str, Protocol),
) -> Vec<Backend> {
    let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    let protocol = if protocol == Protocol::Udp { "UDP" } else { "TCP" };
    let is_its = |slice: &&Arc<EndpointSlice>| {
        slice.namespace() == service.namespace()
            && slice.labels().get(SERVICE_NAME) == Some(&service.name_any())
            && slice.address_type == if v6 { "IPv6" } else { "IPv4" }
    };
    for slice in slices.iter().filter(is_its) {
        let number = slice.ports.iter().flatten().find_map(|port| {
            let same = port.name.as_deref().unwrap_or_default() == name
                && port.protocol.as_deref().unwrap_or("TCP") == protocol;
            port.port.filter(|_| same).and_then(|port| u16::try_from(port).ok())
        });
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let to = match (is_ready(endpoint), is_leaving(endpoint)) {
                (true, _) => &mut ready,
                (false, true) => &mut leaving,
                (false, false) => continue,
            };
            // One pod is one endpoint; further addresses of an entry are the same pod.
            let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            to.extend(address.filter(|address| address.is_ipv6() == v6).map(|at| (at, number)));
        }
    }
    // Without any that is ready, those that still serve are better than none (KEP-1669).
    let drain = !ready.is_empty();
    let backend = |(address, port): &(IpAddr, u16), drain| {
        let port = Some(*port);
        Backend { address: *address, port, weight: 1, drain }
    };
    let leaving = leaving.difference(&ready).map(|one| backend(one, drain));
    ready.iter().map(|one| backend(one, false)).chain(leaving).collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn is_leaving(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| {
        conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(false)
    })
}

/// Writes the statuses that say something else; `false` when some could not be written.
pub(super) async fn write(client: &Client, given: &Given) -> bool {
    let mut all_written = true;
    for (namespace, name, addresses) in &given.statuses {
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let api: Api<Object> = Api::namespaced(client.clone(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match timeout(PATIENCE, api.patch_status(name, &params, &patch)).await {
            Ok(Ok(_)) => tracing::info!(namespace, name, ?addresses, "a Service has its address"),
            // It is gone, and the next look will say so.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "a Service's status is not written");
                all_written = false;
            }
            Err(_) => all_written = false,
        }
    }
    all_written
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn service(name: &str, age: u32, extra: Value, status: Value) -> Arc<Object> {
        let mut spec = json!({"type": "LoadBalancer", "loadBalancerClass": CLASS,
            "ports": [{"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "s", "port": 9, "protocol": "SCTP"}]});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let created = format!("2026-01-01T00:00:{age:02}Z");
        let object = json!({"metadata": {"namespace": "n", "name": name,
            "creationTimestamp": created}, "spec": spec, "status": status});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn at(ips: &[&str]) -> Value {
        let ingress: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({"loadBalancer": {"ingress": ingress}})
    }

    fn front() -> Front {
        serde_json::from_value(json!({"interface": "f0",
            "addresses": ["192.0.2.8/30", "2001:db8::/126"],
            "services": [{"address": "192.0.2.9", "port": 80, "protocol": "TCP", "backends": []}]}))
        .unwrap()
    }

    fn given(services: Vec<Arc<Object>>, slices: Vec<Value>) -> Given {
        let slices =
            slices.into_iter().map(|slice| Arc::new(serde_json::from_value(slice).unwrap()));
        give(&Seen { services, slices: slices.collect() }, &front())
    }

    fn statuses(given: &Given) -> Vec<(String, String)> {
        let of = |(_, name, all): &(String, String, Vec<IpAddr>)| {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            (name.clone(), all.join(" "))
        };
        given.statuses.iter().map(of).collect()
    }

    #[test]
    fn addresses_are_kept_and_the_first_free_one_is_given() {
        // .9 is the file's own; .10 is what an older one has said.
        let both = json!({"ipFamilies": ["IPv4", "IPv6"]});
        let given = given(
            vec![
                service("new", 1, json!({}), json!({})),
                service("kept", 5, json!({}), at(&["192.0.2.10"])),
                service("both", 6, both, at(&["192.0.2.10"])),
                service(
                    "ranges",
                    0,
                    json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
                    json!({}),
                ),
            ],
            vec![],
        );
        // There are two in the network, of which one is the file's: nothing is left for the others.
        assert_eq!(statuses(&given), [("both".to_owned(), "2001:db8::1".to_owned())]);
        let named = |what: &str| given.refused.iter().filter(|one| one.contains(what)).count();
        assert_eq!(named("Service n/new: no IPv4 address is free"), 1, "{:?}", given.refused);
        assert_eq!(named("Service n/both: no IPv4 address is free"), 1);
        assert_eq!(named("n/ranges: the front keeps no loadBalancerSourceRanges"), 1);
        assert!(named("no front for SCTP") >= 1);
        let of: Vec<_> = given.services.iter().map(|one| (one.address, one.port)).collect();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            of,
            [
                (ip("192.0.2.10"), 80),
                (ip("192.0.2.10"), 53),
                (ip("2001:db8::1"), 80),
                (ip("2001:db8::1"), 53)
            ]
        );
    }

    #[test]
    fn ready_endpoints_serve_and_those_that_leave_drain() {
        let slice = |name: &str, kind: &str, endpoints: Value| {
            json!({"metadata": {"namespace": "n", "name": name,
                    "labels": {"kubernetes.io/service-name": "a"}},
                "addressType": kind, "endpoints": endpoints,
                "ports": [{"name": "web", "port": 8080},
                    {"name": "dns", "port": 5353, "protocol": "UDP"}]})
        };
        let leaves = json!({"ready": false, "serving": true, "terminating": true});
        let all = json!([{"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": leaves},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}}]);
        let six = json!([{"addresses": ["fd00::1"]}]);
        let families = json!({"ipFamilies": ["IPv4", "IPv6"], "sessionAffinity": "ClientIP"});
        let one = |slices| {
            given(
                vec![service("a", 1, families.clone(), at(&["192.0.2.10", "2001:db8::1"]))],
                slices,
            )
        };
        let given = one(vec![slice("a", "IPv4", all), slice("b", "IPv6", six)]);
        assert!(given.statuses.is_empty(), "they say it already");
        let show = |service: &Service| {
            let backends = service.backends.iter();
            let of = |one: &Backend| {
                format!("{}:{}{}", one.address, one.port.unwrap(), if one.drain { "!" } else { "" })
            };
            backends.map(of).collect::<Vec<_>>().join(" ")
        };
        let shown: Vec<_> = given.services.iter().map(show).collect();
        assert_eq!(
            shown,
            [
                "10.0.0.1:8080 10.0.0.2:8080!",
                "10.0.0.1:5353 10.0.0.2:5353!",
                "fd00::1:8080",
                "fd00::1:5353"
            ]
        );
        assert!(given.services.iter().all(|one| one.by_address && one.way == Way::Translated));
        // Nobody is ready: who still serves does.
        let last = json!([{"addresses": ["10.0.0.2"], "conditions": leaves}]);
        assert_eq!(show(&one(vec![slice("a", "IPv4", last)]).services[0]), "10.0.0.2:8080");
    }
}
