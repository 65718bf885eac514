//! Which routes have which doors, and what is said of the others.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::l7::Snapshot;
use crate::l7::routes::Table;

fn object<K: serde::de::DeserializeOwned>(value: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value.clone()).unwrap())
}

fn scope() -> Scope {
    Scope { ingress_class: "berth".to_owned(), http_port: 8080, https_port: 8443 }
}

/// Services `one` and `two` of namespace `n` and `far` of `m`, with TCP and UDP at port 53 and TCP
/// at 443; objects by their kind.
fn world(objects: &[Value]) -> World {
    let mut snapshot = Snapshot::default();
    for (namespace, name) in [("n", "one"), ("n", "two"), ("m", "far")] {
        let ports = json!([{"name": "tcp", "port": 53}, {"name": "tls", "port": 443},
            {"name": "udp", "port": 53, "protocol": "UDP"}]);
        let metadata = json!({"namespace": namespace, "name": name});
        let service = json!({"metadata": metadata, "spec": {"ports": ports}});
        snapshot.services.push(object(&service));
    }
    let class =
        json!({"metadata": {"name": "berth"}, "spec": {"controllerName": "berth.dev/gateway"}});
    snapshot.gateway.classes = vec![object(&class)];
    for value in objects {
        match value["kind"].as_str().unwrap() {
            "Gateway" => snapshot.gateway.gateways.push(object(value)),
            "TCPRoute" => snapshot.gateway.tcp.push(object(value)),
            "UDPRoute" => snapshot.gateway.udp.push(object(value)),
            "TLSRoute" => snapshot.gateway.tls.push(object(value)),
            "HTTPRoute" => snapshot.gateway.http.push(object(value)),
            "ReferenceGrant" => snapshot.gateway.grants.push(object(value)),
            other => panic!("{other}"),
        }
    }
    World::from(&snapshot)
}

fn gateway(name: &str, listeners: Value) -> Value {
    let age = if name == "door" { 0 } else { 1 };
    json!({"kind": "Gateway", "metadata": {"namespace": "n", "name": name,
            "creationTimestamp": format!("2026-01-01T00:00:0{age}Z")},
        "spec": {"gatewayClassName": "berth", "listeners": listeners}})
}

fn tls(name: &str, port: u16, host: Option<&str>) -> Value {
    let mut listener = json!({"name": name, "port": port, "protocol": "TLS",
        "tls": {"mode": "Passthrough"}});
    if let Some(host) = host {
        listener["hostname"] = json!(host);
    }
    listener
}

fn route(kind: &str, name: &str, age: u32, parent: Value, rules: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": "n", "name": name,
            "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
        "spec": {"parentRefs": [parent], "rules": rules}})
}

fn to(service: &str, port: u16) -> Value {
    json!([{"backendRefs": [{"name": service, "port": port}]}])
}

fn door() -> Value {
    json!({"name": "door"})
}

/// `ROUTE: DOORS` of those that have doors.
fn doors(objects: &[Value]) -> Vec<String> {
    let (routes, _) = stream_routes(&world(objects), &scope(), &BTreeMap::new());
    let show = |route: &StreamRoute| {
        let doors = route.doors.iter().map(|(at, name)| format!("{at:?} {name}"));
        format!("{}: {}", route.name, doors.collect::<Vec<_>>().join(", "))
    };
    routes.iter().map(show).collect()
}

/// `KIND=REASON` of each condition of a route's parents, of all reports together.
fn said(objects: &[Value], name: &str) -> Vec<String> {
    let reports = reports(objects, &BTreeMap::new());
    let report = reports.routes.iter().find(|report| report.name == name);
    let found = report.into_iter().flat_map(|report| &report.parents).flat_map(|(_, all)| all);
    found.map(|one| format!("{}={}", one.kind, one.reason)).collect()
}

fn reports(objects: &[Value], refused: &BTreeMap<Place, String>) -> Reports {
    let world = world(objects);
    let (_, streams) = stream_routes(&world, &scope(), refused);
    Table::default().next(&world, &scope()).reports().with(streams)
}

/// `LISTENER: REASON…, ATTACHED` of each listener of a Gateway.
fn of_gateway(reports: &Reports, name: &str) -> Vec<String> {
    let gateway = reports.gateways.iter().find(|one| one.name == name).unwrap();
    let show = |one: &ListenerReport| {
        let reasons = one.conditions.iter().map(|found| found.reason).collect::<Vec<_>>();
        format!("{}: {} {}", one.name, reasons.join(" "), one.attached)
    };
    gateway.listeners.iter().map(show).collect()
}

#[test]
fn each_protocol_has_its_routes_and_ports_of_either_protocol_are_told_apart() {
    let objects = [
        gateway(
            "door",
            json!([{"name": "tcp", "port": 5353, "protocol": "TCP"},
                {"name": "udp", "port": 5353, "protocol": "UDP"},
                {"name": "http", "port": 80, "protocol": "HTTP"},
                tls("tls", 6443, Some("*.example"))]),
        ),
        route("TCPRoute", "t", 1, door(), to("one", 53)),
        route("UDPRoute", "u", 1, door(), to("one", 53)),
        route("TLSRoute", "s", 1, door(), to("two", 443)),
        // The port is no UDP port.
        route("UDPRoute", "v", 2, json!({"name": "door", "sectionName": "udp"}), to("one", 443)),
    ];
    assert_eq!(
        doors(&objects),
        [
            "TCPRoute n/t: Tcp(5353) ",
            "UDPRoute n/u: Udp(5353) ",
            "TLSRoute n/s: Tls(6443) *.example"
        ]
    );
    let (routes, _) = stream_routes(&world(&objects), &scope(), &BTreeMap::new());
    let named = |index: usize| routes[index].targets[0].to.clone().unwrap().1;
    assert_eq!((named(0).as_deref(), named(1).as_deref()), (Some("tcp"), Some("udp")));
    assert_eq!(said(&objects, "t"), ["Accepted=Accepted", "ResolvedRefs=ResolvedRefs"]);
    assert_eq!(said(&objects, "v"), ["Accepted=Conflicted", "ResolvedRefs=BackendNotFound"]);
    let reports = reports(&objects, &BTreeMap::new());
    let good = "Accepted NoConflicts ResolvedRefs Programmed";
    assert_eq!(
        of_gateway(&reports, "door"),
        [
            format!("tcp: {good} 1"),
            format!("udp: {good} 1"),
            format!("http: {good} 0"),
            format!("tls: {good} 1")
        ]
    );
    let gateway = &reports.gateways[0];
    assert!(gateway.conditions.iter().all(|found| found.is_so), "{:?}", gateway.conditions);
}

#[test]
fn names_at_a_port_are_the_oldest_routes_and_the_nearest_listeners() {
    let mut objects = vec![
        gateway("door", json!([tls("all", 6443, None), tls("some", 6443, Some("*.example"))])),
        // Another Gateway may have other names at the same port.
        gateway("other", json!([tls("one", 6443, Some("own.test"))])),
    ];
    let mut with = |name: &str, age: u32, parent: Value, hosts: Value| {
        let mut one = route("TLSRoute", name, age, parent, to("one", 443));
        one["spec"]["hostnames"] = hosts;
        objects.push(one);
    };
    with("young", 9, door(), json!(["a.example", "b.example"]));
    with("old", 1, door(), json!(["A.example"]));
    with("late", 9, door(), json!(["a.example"]));
    with("rest", 5, json!({"name": "door", "sectionName": "all"}), json!([]));
    with("own", 5, json!({"name": "other"}), json!(["own.test", "not.test"]));
    with("away", 5, json!({"name": "other"}), json!(["not.test"]));
    let mut all = doors(&objects);
    all.sort();
    assert_eq!(
        all,
        [
            "TLSRoute n/old: Tls(6443) a.example",
            "TLSRoute n/own: Tls(6443) own.test",
            "TLSRoute n/rest: Tls(6443) ",
            "TLSRoute n/young: Tls(6443) b.example",
        ]
    );
    assert_eq!(said(&objects, "late")[0], "Accepted=Conflicted");
    assert_eq!(said(&objects, "young")[0], "Accepted=Accepted");
    assert_eq!(said(&objects, "away")[0], "Accepted=NoMatchingListenerHostname");
}

#[test]
fn a_bad_route_is_refused_and_named_and_a_bad_backend_has_its_share() {
    let listeners = json!([{"name": "tcp", "port": 5353, "protocol": "TCP"},
        {"name": "open", "port": 5354, "protocol": "TCP",
            "allowedRoutes": {"namespaces": {"from": "None"}}},
        {"name": "kinds", "port": 5355, "protocol": "TCP",
            "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}}]);
    let door_named = |section: &str| json!({"name": "door", "sectionName": section});
    let two_rules = json!([to("one", 53)[0], to("two", 53)[0]]);
    let shared = json!([{"backendRefs": [
        {"name": "one", "port": 53, "weight": 3}, {"name": "gone", "port": 53},
        {"name": "far", "namespace": "m", "port": 53}, {"name": "one"},
        {"kind": "Pod", "name": "one", "port": 53}]}]);
    let negative = json!([{"backendRefs": [{"name": "one", "port": 53, "weight": -1}]}]);
    let mut objects = vec![
        gateway("door", listeners),
        route("TCPRoute", "rules", 1, door_named("tcp"), two_rules),
        route("TCPRoute", "negative", 2, door_named("tcp"), negative),
        route("TCPRoute", "shared", 3, door_named("tcp"), shared),
        route("TCPRoute", "shut", 4, door_named("open"), to("one", 53)),
        route("TCPRoute", "kind", 4, door_named("kinds"), to("one", 53)),
        route("UDPRoute", "udp", 4, door_named("tcp"), to("one", 53)),
        route("TCPRoute", "lost", 4, door_named("nowhere"), to("one", 53)),
        route("TCPRoute", "port", 4, json!({"name": "door", "port": 9}), to("one", 53)),
        route("TCPRoute", "theirs", 4, json!({"name": "another"}), to("one", 53)),
    ];
    assert_eq!(doors(&objects), ["TCPRoute n/shared: Tcp(5353) "]);
    for (name, reason) in [
        ("rules", "Accepted=UnsupportedValue"),
        ("negative", "Accepted=UnsupportedValue"),
        ("shared", "Accepted=Accepted"),
        ("shut", "Accepted=NotAllowedByListeners"),
        ("kind", "Accepted=NotAllowedByListeners"),
        ("udp", "Accepted=NotAllowedByListeners"),
        ("lost", "Accepted=NoMatchingParent"),
        ("port", "Accepted=NoMatchingParent"),
    ] {
        assert_eq!(said(&objects, name)[0], reason, "{name}");
    }
    assert!(said(&objects, "theirs").is_empty());
    assert_eq!(said(&objects, "shared")[1], "ResolvedRefs=BackendNotFound");
    let targets = |objects: &[Value]| {
        let (routes, _) = stream_routes(&world(objects), &scope(), &BTreeMap::new());
        let of = |target: &StreamTarget| (target.weight, target.to.is_ok());
        routes[0].targets.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(targets(&objects), [(3, true), (1, false), (1, false), (1, false), (1, false)]);
    objects.push(json!({"kind": "ReferenceGrant", "metadata": {"namespace": "m", "name": "g"},
        "spec": {"from": [{"group": GROUP, "kind": "TCPRoute", "namespace": "n"}],
            "to": [{"group": "", "kind": "Service"}]}}));
    assert!(targets(&objects)[2].1, "it is granted now");
    let reports = reports(&objects, &BTreeMap::new());
    let kinds = &of_gateway(&reports, "door")[2];
    assert!(kinds.contains("InvalidRouteKinds"), "{kinds}");
}

#[test]
fn ports_that_are_not_to_be_had_are_named() {
    let objects = [
        gateway(
            "door",
            json!([{"name": "own", "port": 8080, "protocol": "TCP"},
                {"name": "ended", "port": 6444, "protocol": "TLS"},
                {"name": "kept", "port": 5353, "protocol": "TCP"},
                {"name": "shut", "port": 443, "protocol": "TCP"},
                {"name": "twice", "port": 7000, "protocol": "UDP"},
                {"name": "again", "port": 7000, "protocol": "UDP"}]),
        ),
        gateway(
            "other",
            json!([{"name": "late", "port": 5353, "protocol": "TCP"}, tls("tls", 5353, None),
                {"name": "udp", "port": 5353, "protocol": "UDP"}]),
        ),
        route("TCPRoute", "t", 1, json!({"name": "other"}), to("one", 53)),
    ];
    let refused = [(Place::Tcp(443), "permission denied".to_owned())].into();
    let reports = reports(&objects, &refused);
    let unavailable = "PortUnavailable NoConflicts ResolvedRefs Invalid 0";
    assert_eq!(
        of_gateway(&reports, "door"),
        [
            format!("own: {unavailable}"),
            "ended: UnsupportedProtocol NoConflicts ResolvedRefs Invalid 0".to_owned(),
            "kept: Accepted NoConflicts ResolvedRefs Programmed 0".to_owned(),
            format!("shut: {unavailable}"),
            "twice: Accepted HostnameConflict ResolvedRefs Invalid 0".to_owned(),
            "again: Accepted HostnameConflict ResolvedRefs Invalid 0".to_owned(),
        ]
    );
    let other = of_gateway(&reports, "other");
    assert_eq!(other[0], "late: PortUnavailable ProtocolConflict ResolvedRefs Invalid 1");
    assert_eq!(other[2], "udp: Accepted NoConflicts ResolvedRefs Programmed 0");
    assert!(doors(&objects).is_empty());
    // It attaches all the same, and is served once the listener works.
    assert_eq!(said(&objects, "t")[0], "Accepted=Accepted");
    let shut = &reports.gateways[0].listeners[3].conditions[0].message;
    assert!(shut.contains("permission denied"), "{shut}");
}
