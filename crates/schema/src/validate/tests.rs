//! Objects good and bad, by their fields and reasons.

use serde_json::json;

use super::*;
use crate::{Catalog, FieldValidation};

fn read(group: &str, plural: &str, object: &Value) -> (std::sync::Arc<Resource>, Value) {
    let catalog = Catalog::builtin();
    let resource = catalog.resource(group, "v1", plural).unwrap().clone();
    let mut object = object.clone();
    if object["metadata"].is_null() {
        object["metadata"] = json!({"name": "x"});
    }
    let mut object = crate::retype(&resource, object, FieldValidation::Strict).unwrap().object;
    crate::default(&resource, &mut object);
    (resource, object)
}

/// What is wrong with a new object, a line each.
fn wrong(group: &str, plural: &str, object: Value) -> Vec<String> {
    let (resource, object) = read(group, plural, &object);
    let causes = validate(&resource, &object, None, None);
    causes.iter().map(|cause| format!("{} {}", cause.reason, cause.field)).collect()
}

/// What is wrong with a change of an object.
fn changed(group: &str, plural: &str, old: Value, pointer: &str, value: Value) -> Vec<String> {
    let (resource, old) = read(group, plural, &old);
    let mut new = old.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    new.pointer_mut(parent).unwrap()[field] = value;
    let causes = validate(&resource, &new, Some(&old), None);
    causes.iter().map(|cause| format!("{} {}", cause.reason, cause.field)).collect()
}

fn pod() -> Value {
    json!({"spec": {"containers": [{"name": "a", "image": "i"}]}})
}

fn pod_with(pointer: &str, value: Value) -> Value {
    let mut one = pod();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    one.pointer_mut(parent).unwrap()[field] = value;
    one
}

#[test]
fn a_plain_pod_is_fine() {
    assert!(wrong("", "pods", pod()).is_empty());
    let full = json!({"metadata": {"name": "x", "labels": {"a/b": "c"}}, "spec": {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": "http"}}}],
        "tolerations": [{"operator": "Exists"}],
    }});
    assert_eq!(wrong("", "pods", full), Vec::<String>::new());
}

#[test]
fn faults_of_pods_are_named() {
    let at = "/spec/containers/0";
    for (pointer, value, expected) in [
        ("/spec/containers", json!([]), "FieldValueRequired spec.containers"),
        ("/spec/containers/0/name", json!("A"), "FieldValueInvalid spec.containers[0].name"),
        ("/spec/containers/0/image", json!(""), "FieldValueRequired spec.containers[0].image"),
        (
            "/spec/containers",
            json!([{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]),
            "FieldValueDuplicate spec.containers[1].name",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 70000}]),
            "FieldValueInvalid spec.containers[0].ports[0].containerPort",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "protocol": "HTTP"}]),
            "FieldValueNotSupported spec.containers[0].ports[0].protocol",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            "FieldValueInvalid spec.containers[0].env[0].valueFrom",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "none", "mountPath": "/a"}]),
            "FieldValueNotFound spec.containers[0].volumeMounts[0].name",
        ),
        (
            "/spec/containers/0/resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            "FieldValueInvalid spec.containers[0].resources.requests",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": "-1"}}),
            "FieldValueInvalid spec.containers[0].resources.limits[cpu]",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"periodSeconds": 5}),
            "FieldValueRequired spec.containers[0].livenessProbe",
        ),
        (
            "/spec/containers/0/imagePullPolicy",
            json!("Sometimes"),
            "FieldValueNotSupported spec.containers[0].imagePullPolicy",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
            "FieldValueForbidden spec.volumes[0].hostPath",
        ),
        ("/spec/restartPolicy", json!("Maybe"), "FieldValueNotSupported spec.restartPolicy"),
        (
            "/spec/tolerations",
            json!([{"key": "a", "operator": "Exists", "value": "b"}]),
            "FieldValueInvalid spec.tolerations[0].operator",
        ),
        ("/metadata", json!({"name": "Upper"}), "FieldValueInvalid metadata.name"),
        (
            "/metadata",
            json!({"name": "x", "labels": {"-": "b"}}),
            "FieldValueInvalid metadata.labels",
        ),
    ] {
        let found = wrong("", "pods", pod_with(pointer, value.clone()));
        assert!(found.contains(&expected.to_owned()), "{pointer} {value} {found:?} {at}");
    }
}

fn deployment() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}}})
}

#[test]
fn deployments_select_what_they_make() {
    assert!(wrong("apps", "deployments", deployment()).is_empty());
    for (pointer, value, expected) in [
        (
            "/spec/selector",
            json!({"matchLabels": {"a": "c"}}),
            "FieldValueInvalid spec.template.metadata.labels",
        ),
        ("/spec/selector", Value::Null, "FieldValueRequired spec.selector"),
        ("/spec/selector", json!({}), "FieldValueInvalid spec.selector"),
        ("/spec/replicas", json!(-1), "FieldValueInvalid spec.replicas"),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "FieldValueNotSupported spec.template.spec.restartPolicy",
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}),
            "FieldValueInvalid spec.strategy.rollingUpdate.maxUnavailable",
        ),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {}}),
            "FieldValueForbidden spec.strategy.rollingUpdate",
        ),
        ("/spec/strategy", json!({"type": "Later"}), "FieldValueNotSupported spec.strategy.type"),
    ] {
        let mut one = deployment();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        one.pointer_mut(parent).unwrap()[field] = value.clone();
        let found = wrong("apps", "deployments", one);
        assert!(found.contains(&expected.to_owned()), "{pointer} {value} {found:?}");
    }
}

#[test]
fn services_and_ingresses() {
    let service = |spec: Value| wrong("", "services", json!({"spec": spec}));
    assert!(service(json!({"ports": [{"port": 80}]})).is_empty());
    assert!(service(json!({"clusterIP": "None"})).is_empty());
    assert_eq!(service(json!({})), ["FieldValueRequired spec.ports"]);
    let two = json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]});
    assert_eq!(service(two), ["FieldValueDuplicate spec.ports[1]"]);
    let unnamed = json!({"ports": [{"port": 80}, {"port": 81}]});
    assert_eq!(service(unnamed).len(), 2);
    let node = json!({"ports": [{"port": 80, "nodePort": 30000}]});
    assert_eq!(service(node), ["FieldValueForbidden spec.ports[0].nodePort"]);
    let external = json!({"type": "ExternalName"});
    assert_eq!(service(external), ["FieldValueRequired spec.externalName"]);
    let ingress = |path: Value| {
        let rules = json!([{"host": "a.b", "http": {"paths": [path]}}]);
        wrong("networking.k8s.io", "ingresses", json!({"spec": {"rules": rules}}))
    };
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    assert!(ingress(json!({"path": "/", "pathType": "Prefix", "backend": backend})).is_empty());
    let at = "spec.rules[0].http.paths[0]";
    let bare = ingress(json!({"path": "/", "backend": backend}));
    assert_eq!(bare, [format!("FieldValueRequired {at}.pathType")]);
    let relative = ingress(json!({"path": "a", "pathType": "Exact", "backend": backend}));
    assert_eq!(relative, [format!("FieldValueInvalid {at}.path")]);
    let portless = json!({"path": "/", "pathType": "Exact", "backend": {"service": {"name": "s"}}});
    assert_eq!(ingress(portless), [format!("FieldValueRequired {at}.backend")]);
}

#[test]
fn a_stateful_set_mounts_what_it_claims() {
    let set = |claim: &str| {
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        let pod = json!({"containers": [{"name": "a", "image": "i", "volumeMounts": mounts}]});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        json!({"spec": {
            "serviceName": "a",
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": claim}, "spec": spec}],
        }})
    };
    assert!(wrong("apps", "statefulsets", set("data")).is_empty());
    let at = "spec.template.spec.containers[0].volumeMounts[0].name";
    assert_eq!(wrong("apps", "statefulsets", set("other")), [format!("FieldValueNotFound {at}")]);
}

#[test]
fn what_is_frozen_stays() {
    let set = |kind: &str, plural: &str, old: Value, pointer: &str, value: Value| {
        changed(kind, plural, old, pointer, value)
    };
    let selector = json!({"matchLabels": {"a": "c"}});
    let found = set("apps", "deployments", deployment(), "/spec/selector", selector);
    assert!(found.contains(&"FieldValueInvalid spec.selector".to_owned()), "{found:?}");
    assert!(set("apps", "deployments", deployment(), "/spec/replicas", json!(3)).is_empty());
    assert!(set("", "pods", pod(), "/spec/containers/0/image", json!("j")).is_empty());
    let found = set("", "pods", pod(), "/spec/containers/0/args", json!(["x"]));
    assert_eq!(found, ["FieldValueForbidden spec"]);
    let service = json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}});
    let found = set("", "services", service, "/spec/clusterIP", json!("10.0.0.2"));
    assert_eq!(found, ["FieldValueInvalid spec.clusterIPs[0]"]);
    let sealed = json!({"immutable": true, "data": {"a": "b"}});
    let found = set("", "configmaps", sealed, "/data/a", json!("c"));
    assert_eq!(found, ["FieldValueForbidden data"]);
    let found = set("", "secrets", json!({"type": "Opaque"}), "/type", json!("other"));
    assert_eq!(found, ["FieldValueInvalid type"]);
}

#[test]
fn the_rest() {
    let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    assert!(wrong("rbac.authorization.k8s.io", "roles", role).is_empty());
    let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]});
    let found = wrong("rbac.authorization.k8s.io", "roles", role);
    assert_eq!(found, ["FieldValueRequired rules[0].verbs"]);
    let binding = json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"kind": "User", "name": "u"}]});
    assert!(wrong("rbac.authorization.k8s.io", "rolebindings", binding).is_empty());
    let secret = json!({"type": "kubernetes.io/tls"});
    assert_eq!(wrong("", "secrets", secret).len(), 2);
    assert_eq!(wrong("", "configmaps", json!({"data": {"a b": "c"}})).len(), 1);
    let job =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}}});
    let found = wrong("batch", "jobs", job);
    assert_eq!(found, ["FieldValueRequired spec.template.spec.restartPolicy"]);
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3"]}]});
    let found = wrong("discovery.k8s.io", "endpointslices", slice);
    assert_eq!(found, ["FieldValueInvalid endpoints[0].addresses[0]"]);
    assert!(wrong("discovery.k8s.io", "endpointslices", json!({"addressType": "IPv4"})).is_empty());
}

#[test]
fn what_a_cluster_starts_with_is_fine() {
    let catalog = Catalog::builtin();
    for mut object in crate::facts::bootstrap() {
        let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
        let kind = object["kind"].as_str().unwrap();
        let resource = catalog.by_kind(group, version, kind).unwrap().clone();
        crate::default(&resource, &mut object);
        let causes = validate(&resource, &object, None, None);
        assert!(causes.is_empty(), "{} {causes:?}", object["metadata"]["name"]);
    }
}
