//! Gateways, their routes, and what is said of them.

use serde_json::{Value, json};

use super::*;
use crate::l7::Snapshot;

fn object<K: serde::de::DeserializeOwned>(value: &Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value.clone()).unwrap())
}

fn scope() -> Scope {
    Scope { ingress_class: "berth".to_owned(), http_port: 8080, https_port: 8443 }
}

/// Services `one`, `two`, `three` of namespace `n` and `far` of `m`; objects by their kind.
fn snapshot(objects: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (namespace, name) in [("n", "one"), ("n", "two"), ("n", "three"), ("m", "far")] {
        let metadata = json!({"namespace": namespace, "name": name});
        let spec = json!({"ports": [{"name": "http", "port": 80}]});
        snapshot.services.push(object(&json!({"metadata": metadata, "spec": spec})));
        let metadata = json!({"namespace": namespace, "name": name,
            "labels": {"kubernetes.io/service-name": name}});
        snapshot.slices.push(object(&json!({"metadata": metadata, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]})));
    }
    let class =
        json!({"metadata": {"name": "berth"}, "spec": {"controllerName": "berth.dev/gateway"}});
    let other = json!({"metadata": {"name": "other"}, "spec": {"controllerName": "example.org/x"}});
    snapshot.gateway.classes = vec![object(&class), object(&other)];
    for value in objects {
        match value["kind"].as_str().unwrap() {
            "Gateway" => snapshot.gateway.gateways.push(object(value)),
            "HTTPRoute" => snapshot.gateway.http.push(object(value)),
            "GRPCRoute" => snapshot.gateway.grpc.push(object(value)),
            "ReferenceGrant" => snapshot.gateway.grants.push(object(value)),
            "Namespace" => snapshot.gateway.namespaces.push(object(value)),
            "Secret" => snapshot.secrets.push(object(value)),
            other => panic!("{other}"),
        }
    }
    snapshot
}

fn gateway(listeners: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"namespace": "n", "name": "door"},
        "spec": {"gatewayClassName": "berth", "listeners": listeners}})
}

fn plain() -> Value {
    gateway(json!([{"name": "http", "port": 80, "protocol": "HTTP"}]))
}

fn route(name: &str, age: u32, hosts: Value, rules: Value) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"namespace": "n", "name": name,
            "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
        "spec": {"parentRefs": [{"name": "door"}], "hostnames": hosts, "rules": rules}})
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

/// Who gets `METHOD PATH` of a host with `headers`, `-` for nobody.
fn who(table: &Table, host: &str, request: &str, headers: &[(&'static str, &str)]) -> String {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let method = method.parse().unwrap();
    let asked = Asked { host, path, query, method: &method, headers: &map };
    let Some((route, _)) = table.find(DoorName::Http, &asked) else { return "-".to_owned() };
    match route.targets.get(0).map(|target| &target.to) {
        Some(Ok(backend)) => backend.service.clone(),
        Some(Err(why)) => why.clone(),
        None => "nobody".to_owned(),
    }
}

fn table(objects: &[Value]) -> Table {
    routes(&snapshot(objects), &scope(), &Table::default())
}

/// `KIND=REASON` of each condition of the route's parents.
fn said(table: &Table, name: &str) -> Vec<String> {
    let reports = table.reports();
    let report = reports.routes.iter().find(|report| report.name == name);
    let found = report.into_iter().flat_map(|report| &report.parents).flat_map(|(_, all)| all);
    found.map(|one| format!("{}={}", one.kind, one.reason)).collect()
}

#[test]
fn of_rules_that_fit_the_more_particular_one_decides() {
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let with = |mut one: Value, key: &str, value: Value| {
        one[key] = value;
        one
    };
    let header = |name: &str| json!([{"name": name, "value": "1"}]);
    let two = json!([{"name": "x-a", "value": "1"}, {"name": "x-b", "value": "1"}]);
    let rules = json!([
        {"matches": [path("PathPrefix", "/")], "backendRefs": to("one")},
        {"matches": [with(path("PathPrefix", "/"), "headers", header("x-a"))], "backendRefs": to("two")},
        {"matches": [with(path("PathPrefix", "/"), "headers", two)], "backendRefs": to("three")},
        {"matches": [with(path("PathPrefix", "/"), "method", json!("PUT"))], "backendRefs": to("three")},
        {"matches": [path("PathPrefix", "/long/er")], "backendRefs": to("two")},
        {"matches": [path("PathPrefix", "/long")], "backendRefs": to("three")},
        {"matches": [path("Exact", "/long/er")], "backendRefs": to("one")},
        {"matches": [path("RegularExpression", "/re/[0-9]+")], "backendRefs": to("two")},
    ]);
    let table = table(&[plain(), route("web", 0, json!(["a.example"]), rules)]);
    let check = |request: &str, headers: &[(&'static str, &str)], expected: &str| {
        assert_eq!(who(&table, "a.example", request, headers), expected, "{request} {headers:?}");
    };
    check("GET /", &[], "n/one");
    check("GET /", &[("x-a", "1")], "n/two");
    check("GET /", &[("x-a", "2")], "n/one");
    check("GET /", &[("x-a", "1"), ("x-b", "1")], "n/three");
    check("PUT /", &[("x-a", "1")], "n/three");
    check("GET /long/x", &[("x-a", "1")], "n/three");
    check("GET /long/er/x", &[], "n/two");
    check("GET /long/er", &[], "n/one");
    check("GET /longer", &[], "n/one");
    check("GET /re/12", &[], "n/two");
    check("GET /re/12x", &[], "n/one");
}

#[test]
fn hosts_and_listeners_meet_and_the_nearest_listener_alone_answers() {
    let listeners = json!([
        {"name": "wild", "port": 80, "protocol": "HTTP", "hostname": "*.example"},
        {"name": "own", "port": 8080, "protocol": "HTTP", "hostname": "own.example"},
        {"name": "any", "port": 80, "protocol": "HTTP"},
    ]);
    let at = |name: &str, section: &str, hosts: Value, service: &str| {
        let mut route = route(name, 0, hosts, json!([{"backendRefs": to(service)}]));
        route["spec"]["parentRefs"][0]["sectionName"] = json!(section);
        route
    };
    let table = table(&[
        gateway(listeners),
        at("wild", "wild", json!([]), "one"),
        at("named", "wild", json!(["own.example", "a.b.example"]), "two"),
        at("any", "any", json!(["z.test"]), "three"),
        at("stray", "wild", json!(["other.test"]), "three"),
    ]);
    let check = |host: &str, expected: &str| {
        assert_eq!(who(&table, host, "GET /", &[]), expected, "{host}");
    };
    check("x.example", "n/one");
    check("x.y.example", "n/one");
    check("a.b.example", "n/two");
    check("own.example", "-");
    check("z.test", "n/three");
    check("example", "-");
    assert_eq!(said(&table, "stray")[0], "Accepted=NoMatchingListenerHostname");
    assert_eq!(said(&table, "wild"), ["Accepted=Accepted", "ResolvedRefs=ResolvedRefs"]);
    let attached: Vec<_> =
        table.reports().gateways[0].listeners.iter().map(|one| one.attached).collect();
    assert_eq!(attached, [2, 0, 1]);
}

#[test]
fn a_bad_route_is_refused_and_named_and_the_others_go_on() {
    let rule = |filters: Value, matches: Value| json!([{"filters": filters, "matches": matches, "backendRefs": to("one")}]);
    let check = |rules: Value, expected: &[&str], part: &str| {
        let good = json!([{"backendRefs": to("two")}]);
        let table = table(&[
            plain(),
            route("bad", 0, json!(["bad.example"]), rules.clone()),
            route("good", 1, json!(["good.example"]), good),
        ]);
        assert_eq!(said(&table, "bad"), expected, "{rules}");
        let reports = table.reports();
        let report = reports.routes.iter().find(|report| report.name == "bad").unwrap();
        let text = &report.parents[0].1.iter().find(|one| !one.is_so).unwrap().message;
        assert!(text.contains(part), "{text}");
        assert_eq!(who(&table, "good.example", "GET /", &[]), "n/two");
        who(&table, "bad.example", "GET /", &[])
    };
    let refused = ["Accepted=UnsupportedValue", "ResolvedRefs=ResolvedRefs"];
    let expression = json!([{"path": {"type": "RegularExpression", "value": "("}}]);
    let huge = json!([{"path": {"type": "RegularExpression", "value": "(a{1000}){1000}"}}]);
    let unknown = json!([{"type": "ExtensionRef"}]);
    let prefix = json!([{"type": "URLRewrite", "urlRewrite": {"path": {
        "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}}]);
    let exact = json!([{"path": {"type": "Exact", "value": "/a"}}]);
    let header = json!([{"type": "RequestHeaderModifier",
        "requestHeaderModifier": {"remove": ["no header"]}}]);
    for (rules, part) in [
        (rule(json!([]), expression), "rule 0: expression"),
        (rule(json!([]), huge), "rule 0: expression"),
        (rule(unknown, json!([])), "filter ExtensionRef is not supported"),
        (rule(prefix, exact), "needs a path of type PathPrefix"),
        (rule(header, json!([])), "names no header"),
        (json!([{"timeouts": {"request": "1x"}, "backendRefs": to("one")}]), "1x"),
        (
            json!([{"timeouts": {"request": "1s", "backendRequest": "2s"}, "backendRefs": to("one")}]),
            "backendRequest is longer",
        ),
    ] {
        assert_eq!(check(rules, &refused, part), "-");
    }
    let unresolved = ["Accepted=Accepted", "ResolvedRefs=BackendNotFound"];
    let missing = json!([{"backendRefs": to("missing")}]);
    assert_eq!(check(missing, &unresolved, "n/missing"), "there is no Service n/missing");
    let kind = json!([{"backendRefs": [{"kind": "Bucket", "name": "b", "port": 80}]}]);
    assert_eq!(
        check(kind, &["Accepted=Accepted", "ResolvedRefs=InvalidKind"], "n/b"),
        "n/b is no Service"
    );
}

#[test]
fn other_namespaces_need_a_grant_and_a_listener_that_takes_them() {
    let far = json!([{"backendRefs": [{"name": "far", "namespace": "m", "port": 80}]}]);
    let grant = |kind: &str, name: Value| {
        let mut to = json!({"group": "", "kind": "Service"});
        if name != Value::Null {
            to["name"] = name;
        }
        json!({"kind": "ReferenceGrant", "metadata": {"namespace": "m", "name": "g"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "n"}],
            "to": [to]}})
    };
    let check = |grants: &[Value], expected: &str| {
        let objects = [&[plain(), route("web", 0, json!([]), far.clone())], grants].concat();
        let table = table(&objects);
        let reason = &said(&table, "web")[1];
        assert_eq!(reason, &format!("ResolvedRefs={expected}"), "{grants:?}");
    };
    check(&[], "RefNotPermitted");
    check(&[grant("HTTPRoute", Value::Null)], "ResolvedRefs");
    check(&[grant("HTTPRoute", json!("far"))], "ResolvedRefs");
    check(&[grant("HTTPRoute", json!("near"))], "RefNotPermitted");
    check(&[grant("GRPCRoute", Value::Null)], "RefNotPermitted");

    let check = |from: Value, expected: &str| {
        let listener = json!([{"name": "http", "port": 80, "protocol": "HTTP",
            "allowedRoutes": {"namespaces": from}}]);
        let mut foreign = route("foreign", 0, json!([]), json!([{"backendRefs": to("far")}]));
        foreign["metadata"]["namespace"] = json!("m");
        foreign["spec"]["parentRefs"] = json!([{"name": "door", "namespace": "n"}]);
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": "m", "labels": {"team": "web"}}});
        let table = table(&[gateway(listener), foreign, namespace]);
        assert_eq!(said(&table, "foreign")[0], format!("Accepted={expected}"), "{from}");
    };
    check(json!({}), "NotAllowedByListeners");
    check(json!({"from": "All"}), "Accepted");
    check(json!({"from": "None"}), "NotAllowedByListeners");
    let team =
        |team: &str| json!({"from": "Selector", "selector": {"matchLabels": {"team": team}}});
    check(team("web"), "Accepted");
    check(team("db"), "NotAllowedByListeners");
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    let check = |listeners: Value, name: &str, expected: &[&str]| {
        let pem = "LS0tLS1CRUdJTiBYLS0tLS0="; // the first line of a PEM file
        let secret = json!({"kind": "Secret", "metadata": {"namespace": "n", "name": "cert"},
            "type": "kubernetes.io/tls", "data": {"tls.crt": pem, "tls.key": pem}});
        let mut kept = secret.clone();
        kept["metadata"]["name"] = json!("kept");
        kept["metadata"]["annotations"] =
            json!({"balancer.berth.dev/refused-renewal": "it is rubbish"});
        let table = table(&[gateway(listeners.clone()), secret, kept]);
        let gateway = &table.reports().gateways[0];
        let listener = gateway.listeners.iter().find(|one| one.name == name).unwrap();
        let found: Vec<_> = listener
            .conditions
            .iter()
            .map(|one| format!("{}={}{}", one.kind, one.reason, if one.is_so { "" } else { "!" }))
            .collect();
        for part in expected {
            assert!(found.iter().any(|one| one == part), "{part} in {found:?} of {listeners}");
        }
    };
    let one = |value: Value| json!([value]);
    let http = |port: u16| one(json!({"name": "a", "port": port, "protocol": "HTTP"}));
    check(
        http(80),
        "a",
        &["Accepted=Accepted", "Programmed=Programmed", "Conflicted=NoConflicts!"],
    );
    check(http(8080), "a", &["Programmed=Programmed"]);
    check(http(81), "a", &["Accepted=PortUnavailable!", "Programmed=Invalid!"]);
    let carrier = one(json!({"name": "a", "port": 80, "protocol": "PIGEON"}));
    check(carrier, "a", &["Accepted=UnsupportedProtocol!", "Programmed=Invalid!"]);
    let tls = |reference: Value| {
        one(json!({"name": "a", "port": 443, "protocol": "HTTPS",
            "tls": {"certificateRefs": [reference]}}))
    };
    check(
        tls(json!({"name": "cert"})),
        "a",
        &["ResolvedRefs=ResolvedRefs", "Programmed=Programmed"],
    );
    check(
        tls(json!({"name": "kept"})),
        "a",
        &["ResolvedRefs=InvalidCertificateRef!", "Programmed=Programmed"],
    );
    check(tls(json!({"name": "none"})), "a", &["ResolvedRefs=InvalidCertificateRef!"]);
    let far = json!({"name": "cert", "namespace": "m"});
    check(tls(far), "a", &["ResolvedRefs=RefNotPermitted!", "Programmed=Invalid!"]);
    let same = json!([{"name": "a", "port": 80, "protocol": "HTTP"},
        {"name": "b", "port": 80, "protocol": "HTTP"}]);
    check(same, "b", &["Conflicted=HostnameConflict", "Programmed=Invalid!"]);
    let kinds = one(json!({"name": "a", "port": 80, "protocol": "HTTP",
        "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}]}}));
    check(kinds, "a", &["ResolvedRefs=InvalidRouteKinds!"]);
}

#[test]
fn calls_match_by_service_and_method() {
    let method = |value: Value| json!([{"method": value}]);
    let calls = json!({"kind": "GRPCRoute", "metadata": {"namespace": "n", "name": "calls"},
        "spec": {"parentRefs": [{"name": "door"}], "rules": [
            {"matches": method(json!({"service": "a.B", "method": "C"})), "backendRefs": to("one")},
            {"matches": method(json!({"service": "a.B"})), "backendRefs": to("two")},
            {"matches": method(json!({"type": "RegularExpression", "method": "Get.*"})),
                "backendRefs": to("three")}]}});
    let table = table(&[plain(), calls]);
    let check = |request: &str, expected: &str| {
        assert_eq!(who(&table, "x", request, &[]), expected, "{request}");
    };
    check("POST /a.B/C", "n/one");
    check("POST /a.B/D", "n/two");
    check("POST /z.Z/GetIt", "n/three");
    check("POST /z.Z/Set", "-");
    check("GET /a.B/C", "-");
    let (route, _) = table
        .find(
            DoorName::Http,
            &Asked {
                host: "x",
                path: "/a.B/C",
                query: None,
                method: &http::Method::POST,
                headers: &http::HeaderMap::new(),
            },
        )
        .unwrap();
    assert_eq!(route.targets.get(0).unwrap().to.as_ref().unwrap().protocol, Protocol::H2c);
}

#[test]
fn ingress_and_gateway_share_a_host_and_the_older_has_what_both_claim() {
    let ingress = |age: u32| {
        let backend = json!({"service": {"name": "two", "port": {"number": 80}}});
        let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
        json!({"metadata": {"namespace": "n", "name": "web",
                "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
            "spec": {"ingressClassName": "berth",
                "rules": [{"host": "a.example", "http": {"paths": paths}}]}})
    };
    let rules = json!([{"backendRefs": to("one")},
        {"matches": [{"path": {"value": "/deeper"}}], "backendRefs": to("three")}]);
    for (age, expected) in [(1, "n/two"), (9, "n/one")] {
        let mut all = snapshot(&[plain(), route("web", 5, json!(["a.example"]), rules.clone())]);
        all.ingresses = vec![object(&ingress(age))];
        let table = routes(&all, &scope(), &Table::default());
        assert_eq!(who(&table, "a.example", "GET /", &[]), expected);
        assert_eq!(who(&table, "a.example", "GET /deeper/x", &[]), "n/three");
    }
}
