//! Tables of bodies, good and bad, and bodies at random.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Catalog;

fn read(plural: &str, body: &str, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let catalog = Catalog::builtin();
    let group = if plural == "deployments" { "apps" } else { "" };
    let resource = catalog.resource(group, "v1", plural).unwrap();
    let format = if body.starts_with('{') { Format::Json } else { Format::Yaml };
    decode(resource, body.as_bytes(), format, validation)
}

#[test]
fn a_mistyped_field_is_named_with_its_path() {
    for (plural, body, expected) in [
        (
            "deployments",
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of \
             type int32",
        ),
        (
            "pods",
            json!({"spec": {"containers": [{"ports": "80"}]}}),
            "json: cannot unmarshal string into Go struct field Container.spec.containers.ports of \
             type []v1.ContainerPort",
        ),
        (
            "pods",
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type \
             string",
        ),
        (
            "pods",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("secrets", json!({"data": {"a": "?"}}), "illegal base64 data at input byte 0"),
        (
            "services",
            json!({"spec": {"ports": [{"port": 99999999999_i64}]}}),
            "json: cannot unmarshal number 99999999999 into Go struct field \
             ServicePort.spec.ports.port of type int32",
        ),
    ] {
        let wrong = read(plural, &body.to_string(), FieldValidation::Ignore).unwrap_err();
        assert!(wrong.to_string().ends_with(expected), "{wrong}");
        assert!(wrong.to_string().contains("cannot be handled as a"), "{wrong}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_dropped_told_or_refused() {
    let body = r#"{"spec":{"containers":[{"name":"a","foo":1,"name":"b"}],"bar":{}}}"#;
    let read = |validation| read("pods", body, validation);
    let told = read(FieldValidation::Warn).unwrap();
    assert_eq!(told.object["spec"], json!({"containers": [{"name": "b"}]}));
    assert_eq!(
        told.warnings,
        [
            r#"unknown field "spec.containers[0].foo""#,
            r#"duplicate field "spec.containers[0].name""#,
            r#"unknown field "spec.bar""#
        ]
    );
    assert!(read(FieldValidation::Ignore).unwrap().warnings.is_empty());
    let refused = read(FieldValidation::Strict).unwrap_err().to_string();
    assert!(
        refused.starts_with(
            r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "#
        ),
        "{refused}"
    );
}

#[test]
fn values_take_their_canonical_form() {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "creationTimestamp": null, "labels": {}},
        "spec": {
            "nodeSelector": {"a": null},
            "containers": [{"name": "c", "args": [null, "x"], "ports": [], "securityContext": {},
                "resources": {"limits": {"cpu": 1, "memory": "1024Ki"}, "requests": {"cpu": 0.5}}}],
        },
        "status": {"startTime": "2026-01-02T03:04:05.678+01:00"},
    });
    let object = read("pods", &body.to_string(), FieldValidation::Strict).unwrap().object;
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {
                "nodeSelector": {"a": ""},
                "containers": [{"name": "c", "args": ["", "x"], "securityContext": {},
                    "resources": {
                        "limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"},
                    }}],
            },
            "status": {"startTime": "2026-01-02T02:04:05Z"},
        })
    );
}

#[test]
fn yaml_is_read_alike() {
    let body = "metadata:\n  name: a\n  labels: {x: 'true'}\nspec:\n  containers:\n  - name: c\n    \
                ports: [{containerPort: 80}]\n    env:\n    - {name: A, value: \"1\"}\n";
    let object = read("pods", body, FieldValidation::Strict).unwrap().object;
    assert_eq!(object["spec"]["containers"][0]["ports"], json!([{"containerPort": 80}]));
    assert_eq!(object["metadata"]["labels"], json!({"x": "true"}));
    assert_eq!(object["kind"], "Pod");
    let wrong = read("pods", "metadata:\n  labels: {x: true}\n", FieldValidation::Warn);
    assert!(wrong.unwrap_err().to_string().contains("cannot unmarshal bool into Go struct field"));
    assert!(read("pods", "a: [", FieldValidation::Warn).is_err());
    assert!(read("pods", "spec:\n  a: 1\nspec:\n  b: 2\n", FieldValidation::Strict).is_err());
}

#[test]
fn another_kind_too_deep_or_too_large_is_refused() {
    let other = read("pods", r#"{"kind":"Node"}"#, FieldValidation::Warn).unwrap_err();
    assert_eq!(other.to_string(), "kind in the data (Node) does not match the expected kind (Pod)");
    let deep = format!("{{\"metadata\":{}{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    assert!(read("pods", &deep, FieldValidation::Warn).is_err());
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MOST_BYTES));
    assert_eq!(read("pods", &large, FieldValidation::Warn).unwrap_err(), DecodeError::TooLarge);
    for text in ["", "{", "[]", "1", "null", "{\"spec\": }", "\u{0}", "{} {}"] {
        assert!(read("pods", text, FieldValidation::Warn).is_err(), "{text}");
    }
}

#[test]
fn kinds_that_are_no_resources_are_read_by_their_type() {
    let kind = Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
    let body = br#"{"spec":{"replicas":"2"}}"#;
    let wrong = decode_kind(&kind, body, Format::Json, FieldValidation::Warn).unwrap_err();
    assert!(wrong.to_string().contains("ScaleSpec.spec.replicas of type int32"), "{wrong}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.]{0,6}".prop_map(Value::from),
    ];
    let keys = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("containers"),
        Just("labels"),
        Just("ports"),
        Just("name"),
        Just("resources"),
        Just("limits"),
        Just("status"),
        Just("x"),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..5).prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        for format in [Format::Json, Format::Yaml] {
            drop(decode(pods, &bytes, format, FieldValidation::Strict));
        }
    }

    #[test]
    fn what_was_decoded_decodes_to_itself(value in any_json()) {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        if let Ok(first) = retype(pods, value, FieldValidation::Ignore) {
            let again = retype(pods, first.object.clone(), FieldValidation::Strict).unwrap();
            prop_assert_eq!(first.object, again.object);
        }
    }

    #[test]
    fn no_text_makes_the_yaml_decoder_panic(text in "[ a-z:{}\\[\\]\\-\n&*!'\"|>#,0-9]{0,80}") {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        drop(decode(pods, text.as_bytes(), Format::Yaml, FieldValidation::Warn));
    }
}

#[test]
fn more_objects_than_any_real_one_has_are_refused() {
    let body = |count: usize| {
        let items = vec!["{}"; count].join(",");
        format!("{{\"spec\":{{\"containers\":[{items}]}}}}")
    };
    assert!(read("pods", &body(50_000), FieldValidation::Warn).is_ok());
    let refused = read("pods", &body(200_000), FieldValidation::Warn).unwrap_err();
    assert!(refused.to_string().contains("more than 100000 objects"), "{refused}");
}
