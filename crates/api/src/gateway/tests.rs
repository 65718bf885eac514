//! What the definitions take and refuse.

use super::*;
use serde_json::{Value, json};

/// Kubernetes refuses what its structural schemas do not have.
fn structural(path: &str, schema: &Value) {
    let Value::Object(map) = schema else { return };
    for word in ["$ref", "default", "definitions", "$defs", "anyOf", "oneOf", "const"] {
        assert!(!map.contains_key(word), "{word} in {path}");
    }
    if let Some(Value::Object(properties)) = map.get("properties") {
        for (name, property) in properties {
            assert!(property.get("type").is_some(), "no type of {path}.{name}: {property}");
            structural(&format!("{path}.{name}"), property);
        }
    }
    if let Some(items) = map.get("items") {
        structural(&format!("{path}[]"), items);
    }
}

#[test]
fn definitions_are_structural_and_say_whose_they_are() {
    for crd in definitions() {
        let name = crd.metadata.name.clone().unwrap();
        assert!(name.ends_with(GROUP), "{name}");
        assert!(crd.metadata.annotations.unwrap().contains_key("api-approved.kubernetes.io"));
        let version = &crd.spec.versions[0];
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        structural(&name, &serde_json::to_value(schema).unwrap());
    }
    let crd = serde_json::to_value(HTTPRoute::crd()).unwrap();
    let rules = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rules/items";
    let backend = crd.pointer(&format!("{rules}/properties/backendRefs/items/properties")).unwrap();
    for field in ["name", "namespace", "port", "weight", "filters"] {
        assert!(backend.get(field).is_some(), "{field}");
    }
}

#[test]
fn each_kind_is_served_in_the_versions_that_people_write() {
    for crd in definitions() {
        let stored: Vec<_> = crd.spec.versions.iter().filter(|one| one.storage).collect();
        assert_eq!(stored.len(), 1, "{}", crd.spec.names.kind);
        let served = crd.spec.versions.iter().filter(|one| one.served && one.schema.is_some());
        let names: Vec<_> = served.map(|one| one.name.as_str()).collect();
        match crd.spec.names.kind.as_str() {
            "TLSRoute" => assert_eq!(names, ["v1alpha2", "v1alpha3", "v1"]),
            "ReferenceGrant" => assert_eq!(names, ["v1", "v1beta1"]),
            "TCPRoute" | "UDPRoute" => assert_eq!(names, ["v1alpha2"]),
            _ => assert_eq!(names, ["v1"]),
        }
    }
}

#[test]
fn a_route_as_people_write_it_is_read_and_kept() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "n"},
        "spec": {
            "parentRefs": [{"name": "door", "sectionName": "http"}],
            "hostnames": ["web.example"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/a"},
                    "headers": [{"name": "x", "value": "1"}],
                    "queryParams": [{"type": "RegularExpression", "name": "q", "value": "a+"}],
                    "method": "GET"}],
                "filters": [
                    {"type": "URLRewrite", "urlRewrite": {"hostname": "in.example",
                        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
                    {"type": "RequestMirror", "requestMirror": {"percent": 10,
                        "backendRef": {"name": "copy", "port": 80}}}],
                "backendRefs": [{"name": "one", "port": 80, "weight": 9}, {"name": "two", "port": 80}],
                "timeouts": {"request": "10s", "backendRequest": "2s"},
                "retry": {"codes": [503], "attempts": 2, "backoff": "10ms"}
            }]
        }
    });
    let read: HTTPRoute = serde_json::from_value(route.clone()).unwrap();
    assert_eq!(read.spec.rules[0].backend_refs[0].target.name, "one");
    assert_eq!(serde_json::to_value(&read).unwrap(), route);
}

#[test]
fn a_selector_selects_by_labels() {
    let labels = [("team".to_owned(), "web".to_owned())].into();
    let check = |selector: Value, expected: bool| {
        let selector: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(selector.selects(&labels), expected, "{selector:?}");
    };
    check(json!({}), true);
    check(json!({"matchLabels": {"team": "web"}}), true);
    check(json!({"matchLabels": {"team": "db"}}), false);
    let one = |operator: &str, values: Value| {
        json!({"matchExpressions": [
        {"key": "team", "operator": operator, "values": values}]})
    };
    check(one("In", json!(["web"])), true);
    check(one("NotIn", json!(["web"])), false);
    check(one("Exists", json!([])), true);
    check(one("DoesNotExist", json!([])), false);
    check(one("Like", json!(["web"])), false);
}
