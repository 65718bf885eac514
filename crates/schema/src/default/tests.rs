//! Tables of what is filled in.

use serde_json::json;

use super::*;
use crate::Catalog;

/// Defaults an object of a built-in kind.
fn filled(group: &str, version: &str, plural: &str, object: Value) -> Value {
    let catalog = Catalog::builtin();
    let resource = catalog.resource(group, version, plural).unwrap();
    let mut object = object;
    default(resource, &mut object);
    object
}

#[test]
fn every_default_names_a_type_and_a_value() {
    let types = facts::types();
    for line in DEFAULTS.lines() {
        let (left, right) = line.split_once(" = ").unwrap();
        let (name, path) = left.split_once(' ').unwrap();
        serde_json::from_str::<Value>(right).unwrap();
        let mut object = types.named(name).unwrap_or_else(|| panic!("{line}"));
        let mut steps = path.split('.').peekable();
        while let Some(step) = steps.next() {
            let field = object.fields.get(step).unwrap_or_else(|| panic!("{line}"));
            if steps.peek().is_some() {
                object = field.schema.object().unwrap_or_else(|| panic!("{line}"));
            }
        }
    }
}

#[test]
fn a_pod_becomes_what_kubernetes_shows() {
    let pod = filled(
        "",
        "v1",
        "pods",
        json!({"spec": {
            "serviceAccountName": "bot",
            "containers": [{
                "name": "a", "image": "busybox", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }, {"name": "b", "image": "host:5000/busybox:1.2"}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
        }}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            "enableServiceLinks": true, "serviceAccountName": "bot", "serviceAccount": "bot",
            "containers": [{
                "name": "a", "image": "busybox", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi", "cpu": "1"}},
                "livenessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }, {
                "name": "b", "image": "host:5000/busybox:1.2", "imagePullPolicy": "IfNotPresent",
                "resources": {}, "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
            ],
        })
    );
}

#[test]
fn workloads_get_their_strategies() {
    let spec = filled("apps", "v1", "deployments", json!({"spec": {"template": {"spec": {}}}}));
    let spec = &spec["spec"];
    assert_eq!(spec["replicas"], 1);
    let rolling = json!({"maxUnavailable": "25%", "maxSurge": "25%"});
    assert_eq!(spec["strategy"], json!({"type": "RollingUpdate", "rollingUpdate": rolling}));
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());
    let recreate = json!({"spec": {"strategy": {"type": "Recreate"}}});
    let spec = filled("apps", "v1", "deployments", recreate);
    assert_eq!(spec["spec"]["strategy"], json!({"type": "Recreate"}));
    let job = filled("batch", "v1", "jobs", json!({"spec": {"parallelism": 3}}));
    assert_eq!(job["spec"]["parallelism"], 3);
    assert!(job["spec"].get("completions").is_none());
    assert_eq!(job["spec"]["backoffLimit"], 6);
}

#[test]
fn services_policies_and_subjects() {
    let ports = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let service = filled("", "v1", "services", ports);
    assert_eq!(
        service["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
    let policy = filled("networking.k8s.io", "v1", "networkpolicies", json!({"spec": {}}));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    let namespace = filled("", "v1", "namespaces", json!({"metadata": {"name": "a"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
    assert_eq!(namespace["status"]["phase"], "Active");
}

#[test]
fn defaulting_twice_changes_nothing() {
    for resource in Catalog::builtin().resources() {
        let mut once = json!({"metadata": {"name": "a"}, "spec": {}});
        default(resource, &mut once);
        let mut twice = once.clone();
        default(resource, &mut twice);
        assert_eq!(once, twice, "{}", resource.plural);
    }
}

#[test]
fn images_without_a_tag_are_the_latest() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("h:5/a", "Always"),
        ("h:5/a:1", "IfNotPresent"),
        ("a@sha256:0", "IfNotPresent"),
        ("a:1@sha256:0", "IfNotPresent"),
    ] {
        let pod = json!({"spec": {"containers": [{"image": image}]}});
        let pod = filled("", "v1", "pods", pod);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}
