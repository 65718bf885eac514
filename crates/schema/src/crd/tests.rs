//! A definition's life: refused, taken up, its objects pruned, defaulted, checked and merged.

use serde_json::json;

use super::*;
use crate::{Catalog, FieldValidation, Format};

fn definition() -> Value {
    let text = r#"{
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "apps.example.dev"},
        "spec": {
            "group": "example.dev", "scope": "Namespaced",
            "names": {"plural": "apps", "kind": "App", "shortNames": ["ap"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
                {"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.r"}},
                "additionalPrinterColumns": [
                    {"name": "Image", "type": "string", "jsonPath": ".spec.image"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["image"], "properties": {
                        "image": {"type": "string", "minLength": 1, "pattern": "^[a-z:]+$"},
                        "replicas": {"type": "integer", "default": 1, "minimum": 0},
                        "mode": {"type": "string", "enum": ["a", "b"], "nullable": true},
                        "port": {"x-kubernetes-int-or-string": true,
                            "anyOf": [{"type": "integer"}, {"type": "string"}]},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "env": {"type": "object", "additionalProperties": {"type": "string"}},
                        "routes": {"type": "array", "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["host"],
                            "items": {"type": "object", "required": ["host"], "properties": {
                                "host": {"type": "string"}, "path": {"type": "string", "default": "/"}
                            }}},
                        "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                            "x-kubernetes-preserve-unknown-fields": true}
                    }},
                    "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}
                }}}}
            ]
        }
    }"#;
    serde_json::from_str(text).unwrap()
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::builtin();
    catalog.add_crd(&definition()).unwrap();
    catalog
}

fn read(spec: Value) -> Result<Value, String> {
    let catalog = catalog();
    let resource = catalog.resource("example.dev", "v1", "apps").unwrap();
    let body = json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
    let decoded = crate::decode(resource, body.as_bytes(), Format::Json, FieldValidation::Ignore);
    let mut object = decoded.map_err(|wrong| wrong.to_string())?.object;
    crate::default(resource, &mut object);
    let causes = crate::validate(resource, &object, None, None);
    if causes.is_empty() {
        return Ok(object["spec"].clone());
    }
    Err(causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

#[test]
fn a_definition_makes_resources() {
    let mut catalog = catalog();
    let app = catalog.by_kind("example.dev", "v1", "App").unwrap();
    assert_eq!((app.singular.as_str(), app.storage_version.as_str()), ("app", "v1"));
    assert!(app.subresource("status").is_some() && app.subresource("scale").is_some());
    let headings: Vec<&str> = app.columns.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(headings, ["Name", "Image"]);
    let group = crate::discovery::group(&catalog, "example.dev").unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    catalog.add_crd(&definition()).unwrap();
    catalog.remove_crd("apps.example.dev");
    assert!(catalog.by_kind("example.dev", "v1", "App").is_none());
    assert!(catalog.by_kind("", "v1", "Pod").is_some());
}

#[test]
fn objects_are_pruned_and_defaulted() {
    let found = read(json!({
        "image": "a", "unknown": 1, "mode": null, "free": {"x": {"y": null}},
        "routes": [{"host": "h"}], "port": "http", "env": {},
        "pod": {"metadata": {"name": "p", "bogus": 1}, "kind": "Pod", "spec": {"z": []}},
    }));
    let expected = json!({
        "image": "a", "replicas": 1, "mode": null, "free": {"x": {"y": null}},
        "routes": [{"host": "h", "path": "/"}], "port": "http", "env": {},
        "pod": {"metadata": {"name": "p"}, "kind": "Pod", "spec": {"z": []}},
    });
    assert_eq!(found, Ok(expected));
}

#[test]
fn objects_that_break_their_schema_are_refused() {
    for (spec, expected) in [
        (json!({}), "spec.image: Required value"),
        (
            json!({"image": ""}),
            "spec.image: Invalid value: \"\": spec.image in body should be at least 1 chars long; \
             spec.image: Invalid value: \"\": spec.image in body should match '^[a-z:]+$'",
        ),
        (
            json!({"image": "a", "replicas": -1}),
            "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or \
             equal to 0",
        ),
        (
            json!({"image": "a", "mode": "c"}),
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"image": "a", "routes": [{"host": "h"}, {"host": "h"}]}),
            "spec.routes[1]: Duplicate value: {\"host\":\"h\"}",
        ),
        (
            json!({"image": null}),
            "spec.image: Invalid value: \"null\": spec.image in body must be of type string: \
             \"null\"",
        ),
    ] {
        assert_eq!(read(spec), Err(expected.to_owned()));
    }
    let wrong = read(json!({"image": "a", "replicas": "3"})).unwrap_err();
    assert!(wrong.contains("spec.replicas"), "{wrong}");
}

#[test]
fn malformed_definitions_are_refused() {
    let broken = |path: &str, value: Value| {
        let mut one = definition();
        *one.pointer_mut(path).unwrap() = value;
        let error = Catalog::builtin().add_crd(&one).unwrap_err();
        error.causes.iter().map(|cause| cause.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(broken("/metadata/name", json!("x")), ["metadata.name"]);
    assert_eq!(broken("/spec/scope", json!("Galaxy")), ["spec.scope"]);
    assert_eq!(broken("/spec/versions/0/storage", json!(true)), ["spec.versions"]);
    assert_eq!(broken("/spec/versions/0/name", json!("1")), ["spec.versions[0].name"]);
    let schema = "/spec/versions/1/schema/openAPIV3Schema";
    let root = "spec.versions[1].schema.openAPIV3Schema";
    let image = format!("{schema}/properties/spec/properties/image");
    let at = format!("{root}.properties[spec].properties[image]");
    assert_eq!(broken(&image, json!({})), [format!("{at}.type")]);
    assert_eq!(broken(&image, json!({"type": "array"})), [format!("{at}.items")]);
    let pattern = json!({"type": "string", "pattern": "("});
    assert_eq!(broken(&image, pattern), [format!("{at}.pattern")]);
    let default = json!({"type": "string", "default": 3});
    assert_eq!(broken(&image, default), [format!("{at}.default")]);
    let any = json!({"type": "string", "anyOf": [{"type": "string"}]});
    assert_eq!(broken(&image, any), [format!("{at}.anyOf[0].type")]);
    assert_eq!(broken(schema, Value::Null), [root]);
}

#[test]
fn versions_are_ranked() {
    let mut versions = ["v1alpha1", "v1", "foo", "v2beta1", "v2", "v10", "v1beta2"];
    versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
    assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
}
