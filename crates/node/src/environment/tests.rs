//! What variables a container gets, from tables of sources.

use super::*;

fn config() -> Config {
    crate::sample::config(std::path::Path::new("/nowhere"))
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an object of the API")
}

fn sources() -> Sources {
    let map = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    };
    Sources {
        config_maps: [
            ("settings".to_owned(), map(&[("COLOR", "red"), ("SIZE", "$(COLOR)")])),
            ("absent".to_owned(), None),
        ]
        .into(),
        secrets: [("login".to_owned(), map(&[("password", "s3cret")]))].into(),
        services: vec![object(serde_json::json!({
            "metadata": { "name": "kubernetes", "namespace": "default" },
            "spec": { "clusterIP": "10.43.0.1", "ports": [{ "name": "https", "port": 443, "protocol": "TCP" }] },
        }))],
    }
}

fn pod() -> Pod {
    object(serde_json::json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "status": { "podIP": "10.42.0.5" },
    }))
}

#[test]
fn every_container_is_told_of_the_api_server() {
    let container = object(serde_json::json!({ "name": "a" }));
    let variables = compose(&config(), &sources(), &pod(), &container).expect("no references");
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.43.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
    ] {
        assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{name}={value}");
    }
}

#[test]
fn later_definitions_win_and_only_plain_values_are_expanded() {
    let container = object(serde_json::json!({
        "name": "a",
        "envFrom": [
            { "configMapRef": { "name": "settings" } },
            { "prefix": "X_", "secretRef": { "name": "login" } },
            { "configMapRef": { "name": "absent", "optional": true } },
        ],
        "env": [
            { "name": "COLOR", "value": "blue" },
            { "name": "GREETING", "value": "$(COLOR) $(NONE) $$(COLOR) $X $(" },
            { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } },
            { "name": "LEFT_OUT", "valueFrom": { "secretKeyRef": { "name": "login", "key": "no", "optional": true } } },
        ],
    }));
    let mut sources = sources();
    sources.services.clear();
    let variables = compose(&config(), &sources, &pod(), &container).expect("all there");
    let expected = [
        ("COLOR", "blue"),
        ("SIZE", "$(COLOR)"),
        ("X_password", "s3cret"),
        ("GREETING", "blue $(NONE) $(COLOR) $X $("),
        ("IP", "10.42.0.5"),
        ("PASSWORD", "s3cret"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(variables, expected);
}

#[test]
fn what_is_missing_is_named() {
    let check = |env: serde_json::Value, expected: &str| {
        let container = object(serde_json::json!({ "name": "a", "env": [env] }));
        let error =
            compose(&config(), &sources(), &pod(), &container).expect_err("something is missing");
        assert_eq!(error.to_string(), expected);
    };
    check(
        serde_json::json!({ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "absent", "key": "k" } } }),
        "configmap \"absent\" not found",
    );
    check(
        serde_json::json!({ "name": "A", "valueFrom": { "secretKeyRef": { "name": "login", "key": "k" } } }),
        "secret \"login\" has no key \"k\"",
    );
}
