//! Apps as people write them, and what comes of them.

use serde_json::{Value, json};

use super::*;

fn wanted(spec: Value) -> Value {
    let app: App = serde_json::from_value(json!({
        "apiVersion": "berth.dev/v1", "kind": "App",
        "metadata": { "name": "hello", "namespace": "shop", "uid": "u" },
        "spec": spec,
    }))
    .expect("an App");
    let domain = Domain { name: "apps.test".into(), http_port: 8080, https_port: 443 };
    let wanted = plan(&app, &domain, &Traffic::default()).expect("has name and UID");
    let mut all = serde_json::to_value(wanted).expect("serialises");
    let target = Target { replicas: app.spec.replicas, ..Target::default() };
    let strategy = app.spec.strategy.clone().unwrap_or_default();
    let pods = pods(&app, &app.spec).expect("has name and UID");
    let (made, set) = (
        deployment(&app, pods.clone(), &target, &strategy),
        stateful_set(&app, &app.spec, pods, &target, &strategy),
    );
    all["deployment"] = serde_json::to_value(made).expect("serialises");
    all["statefulSet"] = serde_json::to_value(set).expect("serialises");
    all
}

#[test]
fn an_app_with_a_port_is_reached_under_its_name() {
    let all = wanted(json!({ "image": "hello:1", "port": 3000, "replicas": 3 }));
    assert_eq!(all["url"], "http://hello.apps.test:8080/");
    let deployment = &all["deployment"];
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(
        deployment["spec"]["strategy"]["rollingUpdate"],
        json!({ "maxSurge": 1, "maxUnavailable": 0 })
    );
    assert_eq!(
        deployment["metadata"]["labels"],
        json!({
            "app.kubernetes.io/name": "hello", "app.kubernetes.io/instance": "hello",
            "app.kubernetes.io/part-of": "hello", "app.kubernetes.io/managed-by": "berth",
        }),
    );
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["controller"], true);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 33);
    let container = &pod["containers"][0];
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 3);
    assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], "http");
    assert!(container["livenessProbe"].is_null());
    assert_eq!(container["resources"]["limits"], json!({ "cpu": "1", "memory": "1Gi" }));
    assert_eq!(all["service"]["spec"]["ports"][0]["port"], 80);
    let rule = &all["ingress"]["spec"]["rules"][0];
    assert_eq!(rule["host"], "hello.apps.test");
    assert_eq!(rule["http"]["paths"][0]["backend"]["service"]["name"], "hello");
    assert_eq!(all["ingress"]["spec"]["ingressClassName"], "berth");
}

#[test]
fn an_app_without_a_port_has_no_address() {
    let all = wanted(json!({ "image": "worker:1" }));
    assert!(all["service"].is_null() && all["ingress"].is_null() && all["url"].is_null());
    assert!(
        all["deployment"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"].is_null()
    );
}

#[test]
fn an_empty_list_of_routes_keeps_the_service() {
    let all = wanted(json!({ "image": "hello:1", "port": 3000, "routes": [] }));
    assert!(all["ingress"].is_null() && all["url"].is_null());
    assert!(!all["service"].is_null());
}

#[test]
fn routes_of_one_host_share_a_rule_and_a_certificate() {
    let all = wanted(
        json!({ "image": "hello:1", "port": 3000, "health": { "path": "/healthz" }, "routes": [
        { "host": "a.test", "tlsSecret": "a" },
        { "host": "a.test", "path": "/api", "tlsSecret": "a" },
        {},
    ] }),
    );
    let spec = &all["ingress"]["spec"];
    assert_eq!(spec["rules"].as_array().map(Vec::len), Some(2));
    assert_eq!(spec["rules"][0]["http"]["paths"].as_array().map(Vec::len), Some(2));
    assert_eq!(spec["tls"], json!([{ "hosts": ["a.test"], "secretName": "a" }]));
    assert_eq!(all["url"], "https://a.test/");
    let container = &all["deployment"]["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["path"], "/healthz", "{probe}");
    }
}

#[test]
fn requests_never_exceed_limits() {
    let all = wanted(
        json!({ "image": "small:1", "resources": { "limits": { "cpu": "20m", "memory": "16Mi" } } }),
    );
    let resources = &all["deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"];
    assert_eq!(resources["requests"], json!({ "cpu": "20m", "memory": "16Mi" }));
}

#[test]
fn a_canary_by_the_balancer_is_written_on_its_routes() {
    let app: App = serde_json::from_value(json!({
        "apiVersion": "berth.dev/v1", "kind": "App",
        "metadata": { "name": "hello", "namespace": "shop", "uid": "u" },
        "spec": { "image": "hello:1", "port": 3000 },
    }))
    .expect("an App");
    let domain = Domain { name: "apps.test".into(), http_port: 80, https_port: 443 };
    let header = Header { name: "x-try".into(), value: "new".into() };
    let traffic = Traffic {
        preview: Some("2".into()),
        header: Some(header),
        weights: [("a".to_owned(), 30), ("b".to_owned(), 90)].into(),
        ..Traffic::default()
    };
    let all = plan(&app, &domain, &traffic).expect("has name and UID");
    let ingress = serde_json::to_value(&all.ingress).expect("serialises");
    let notes = &ingress["metadata"]["annotations"];
    assert_eq!(notes["berth.dev/pick"], "weighted");
    assert_eq!(notes["berth.dev/weights"], "a=30,b=90");
    let preview = serde_json::to_value(&all.preview).expect("serialises");
    assert_eq!(preview["spec"]["selector"]["berth.dev/release"], "2");
    let route = serde_json::to_value(&all.trial_routes[0]).expect("serialises");
    assert_eq!(route["spec"]["hostnames"], json!(["hello.apps.test"]));
    assert_eq!(route["metadata"]["ownerReferences"][0]["uid"], "u");
    let steady = plan(&app, &domain, &Traffic::default()).expect("has name and UID");
    assert!(steady.trial.is_none() && steady.trial_routes.is_empty());
    assert!(steady.ingress.expect("it is reached").metadata.annotations.is_none());
}

#[test]
fn log_directories_are_volumes_that_the_node_is_told_of() {
    let all = wanted(json!({
        "image": "hello:1", "logs": { "directories": ["/var/log/a", "/export/Logs"] },
        "cron": [{ "name": "tidy", "schedule": "0 3 * * *" }],
    }));
    let cron = &all["cron_jobs"][0]["spec"]["jobTemplate"]["spec"]["template"];
    for template in [&all["deployment"]["spec"]["template"], cron] {
        let pod = &template["spec"];
        assert_eq!(pod["volumes"][1], json!({ "name": "logs-1", "emptyDir": {} }));
        let mounts = &pod["containers"][0]["volumeMounts"];
        assert_eq!(mounts[0], json!({ "name": "logs-0", "mountPath": "/var/log/a" }));
        let said = template["metadata"]["annotations"]["berth.dev/logs"].as_str();
        let said: Value = serde_json::from_str(said.expect("said")).expect("JSON");
        assert_eq!(
            said,
            json!({ "app": "hello", "keepHours": 48, "quota": "1Gi",
                    "volumes": { "logs-0": "/var/log/a", "logs-1": "/export/Logs" } })
        );
    }
    let silent = wanted(json!({ "image": "hello:1" }));
    assert!(silent["deployment"]["spec"]["template"]["metadata"]["annotations"].is_null());
}

#[test]
fn scratch_is_a_volume_of_the_pod_with_its_bound() {
    let all = wanted(json!({
        "image": "hello:1", "stateful": true,
        "scratch": [{ "name": "models", "path": "/models", "size": "10Gi" }, { "path": "/tmp" }],
    }));
    let pod = &all["statefulSet"]["spec"]["template"]["spec"];
    assert_eq!(
        pod["volumes"],
        json!([{ "name": "scratch-models", "emptyDir": { "sizeLimit": "10Gi" } },
               { "name": "scratch-1", "emptyDir": {} }])
    );
    assert_eq!(
        pod["containers"][0]["volumeMounts"],
        json!([{ "name": "scratch-models", "mountPath": "/models" },
               { "name": "scratch-1", "mountPath": "/tmp" }])
    );
    assert!(all["statefulSet"]["spec"]["volumeClaimTemplates"].is_null(), "no claim");
}
