//! Ingress rules and where requests go by them.

use serde_json::{Value, json};

use super::*;
use crate::l7::Snapshot;

fn parsed<K: serde::de::DeserializeOwned>(objects: Value) -> Vec<Arc<K>> {
    let objects: Vec<K> = serde_json::from_value(objects).unwrap();
    objects.into_iter().map(Arc::new).collect()
}

fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind,
        "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(name: &str, age: u32, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("ingressClassName").is_none() {
        spec["ingressClassName"] = json!("berth");
    }
    json!({"metadata": {"namespace": "n", "name": name,
        "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}, "spec": spec})
}

/// Who gets a plain GET.
fn find<'t>(table: &'t Table, host: &str, path: &str) -> Option<&'t Arc<Backend>> {
    let headers = http::HeaderMap::new();
    let asked = Asked { host, path, query: None, method: &http::Method::GET, headers: &headers };
    let (route, _) = table.find(DoorName::Http, &asked)?;
    route.targets.get(0)?.to.as_ref().ok()
}

fn scope() -> Scope {
    Scope { ingress_class: "berth".to_owned(), http_port: 8080, https_port: 8443 }
}

fn names(table: &Table, requests: &[(&str, &str)]) -> Vec<String> {
    let found = |(host, path): &(&str, &str)| match find(table, host, path) {
        Some(backend) => backend.service.trim_start_matches("n/").to_owned(),
        None => "-".to_owned(),
    };
    requests.iter().map(found).collect()
}

#[track_caller]
fn check(ingresses: Value, expected: &[(&str, &str, &str)]) {
    let snapshot = Snapshot { ingresses: parsed(ingresses), ..Snapshot::default() };
    let table = routes(&snapshot, &scope(), &Table::default());
    let requests: Vec<_> = expected.iter().map(|(host, path, _)| (*host, *path)).collect();
    let services: Vec<_> = expected.iter().map(|(_, _, service)| (*service).to_owned()).collect();
    assert_eq!(names(&table, &requests), services, "{requests:?}");
}

#[test]
fn paths_match_by_element_exact_before_the_longest_prefix() {
    let rule = json!({"host": "a.example", "http": {"paths": [
        path("/", "Prefix", "root"), path("/foo", "Prefix", "foo"),
        path("/foo/bar/", "Prefix", "bar"), path("/foo", "Exact", "exact"),
        path("/impl", "ImplementationSpecific", "impl"), path("/only/", "Exact", "slash"),
    ]}});
    check(
        json!([ingress("a", 0, json!({"rules": [rule]}))]),
        &[
            ("a.example", "/", "root"),
            ("a.example", "/foo", "exact"),
            ("a.example", "/foo/", "foo"),
            ("a.example", "/foo/x", "foo"),
            ("a.example", "/foobar", "root"),
            ("a.example", "/foo/bar", "bar"),
            ("a.example", "/foo/bar/baz", "bar"),
            ("a.example", "/foo/barz", "foo"),
            ("a.example", "/impl/x", "impl"),
            ("a.example", "/only/", "slash"),
            ("a.example", "/only", "root"),
            ("b.example", "/", "-"),
        ],
    );
}

#[test]
fn hosts_match_as_given_then_one_wildcard_label_then_without_a_host() {
    let rule = |host: Option<&str>, service: &str| {
        let mut rule = json!({"http": {"paths": [path("/", "Prefix", service)]}});
        if let Some(host) = host {
            rule["host"] = json!(host);
        }
        rule
    };
    let rules =
        json!([rule(Some("*.example"), "wild"), rule(Some("A.example"), "a"), rule(None, "any"),]);
    check(
        json!([ingress("a", 0, json!({"rules": rules}))]),
        &[
            ("a.example", "/", "a"),
            ("b.example", "/", "wild"),
            ("x.b.example", "/", "any"),
            ("example", "/", "any"),
            ("", "/", "any"),
        ],
    );
}

#[test]
fn the_older_ingress_has_a_path_and_default_backends_come_last() {
    let default = |service: &str| json!({"service": {"name": service, "port": {"number": 80}}});
    let rule = |at: &str, service: &str| json!([{"host": "a.example", "http": {"paths": [path(at, "Prefix", service)]}}]);
    check(
        json!([
            ingress("young", 9, json!({"rules": rule("/x", "young")})),
            ingress("old", 1, json!({"rules": rule("/x", "old"), "defaultBackend": default("d1")})),
            ingress("all", 5, json!({"defaultBackend": default("d2")})),
        ]),
        &[("a.example", "/x", "old"), ("a.example", "/y", "d1"), ("z.example", "/", "d1")],
    );
}

#[test]
fn only_ingresses_of_the_class_are_served() {
    let rules = json!([{"http": {"paths": [path("/", "Prefix", "web")]}}]);
    let served = |ingress: Value, classes: Value| {
        let snapshot = Snapshot {
            ingresses: parsed(json!([ingress])),
            classes: parsed(classes),
            ..Snapshot::default()
        };
        routes(&snapshot, &scope(), &Table::default()).rules() > 0
    };
    let class = |is_default: &str| {
        json!([{"metadata": {"name": "berth",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": is_default}}}])
    };
    let named = |name: Value| ingress("a", 0, json!({"rules": rules, "ingressClassName": name}));
    assert!(served(named(json!("berth")), json!([])));
    assert!(!served(named(json!("nginx")), class("true")));
    assert!(!served(named(Value::Null), class("false")));
    assert!(served(named(Value::Null), class("true")));
    let mut annotated = named(Value::Null);
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "berth"});
    assert!(served(annotated.clone(), json!([])));
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "nginx"});
    assert!(!served(annotated, class("true")));
}

#[test]
fn ports_are_found_by_name_or_number_and_lead_to_ready_pods() {
    let backends = |port: Value, service: &str| {
        let backend = json!({"service": {"name": service, "port": port}});
        let snapshot = Snapshot {
            ingresses: parsed(json!([ingress("a", 0, json!({"defaultBackend": backend}))])),
            services: parsed(json!([{"metadata": {"namespace": "n", "name": "web"}, "spec": {
                "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]}}])),
            slices: parsed(json!([{"metadata": {"namespace": "n", "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
                "endpoints": [
                    {"addresses": ["10.42.0.2"], "conditions": {"ready": true}},
                    {"addresses": ["10.42.0.3"], "conditions": {"ready": false}}]}])),
            ..Snapshot::default()
        };
        let table = routes(&snapshot, &scope(), &Table::default());
        let backend = find(&table, "", "/").unwrap().endpoints();
        let addresses = |set: &Arc<BackendSet>| {
            set.endpoints().map(|endpoint| endpoint.address().to_string()).collect::<Vec<_>>()
        };
        backend.as_ref().map(addresses).map_err(|why| *why)
    };
    let web = Ok(vec!["10.42.0.2:8080".to_owned()]);
    assert_eq!(backends(json!({"number": 80}), "web"), web);
    assert_eq!(backends(json!({"name": "http"}), "web"), web);
    assert_eq!(backends(json!({"name": "admin"}), "web"), Err(NoEndpoints::NoneReady));
    assert_eq!(backends(json!({"number": 8080}), "web"), Err(NoEndpoints::NoPort));
    assert_eq!(backends(json!({"number": 80}), "shop"), Err(NoEndpoints::NoService));
}
