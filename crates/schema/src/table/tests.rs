//! Tables as people know them.

use serde_json::json;

use super::*;
use crate::Catalog;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn cells(group: &str, plural: &str, object: Value) -> Vec<String> {
    let catalog = Catalog::builtin();
    let version = if plural == "horizontalpodautoscalers" { "v2" } else { "v1" };
    let resource = catalog.resource(group, version, plural).unwrap();
    let mut object = object;
    object["kind"] = json!(resource.kind);
    let table = render(resource, &[object], IncludeObject::None, "v1", now(), json!({}), false);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    cells.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect()
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
            "nodeName": "n"},
        "status": status,
    })
}

#[test]
fn pods_tell_what_they_are_doing() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let crashed = json!({
        "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}},
    });
    let done = json!({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let killed = json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}});
    let init = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]});
    for (status, ready, expected, restarts) in [
        (json!({"phase": "Pending"}), "0/2", "Pending", "0"),
        (init(json!({"running": {}})), "0/2", "Init:0/1", "0"),
        (init(json!({"waiting": {"reason": "ErrImagePull"}})), "0/2", "Init:ErrImagePull", "0"),
        (init(json!({"terminated": {"exitCode": 2}})), "0/2", "Init:ExitCode:2", "0"),
        (
            json!({"phase": "Running", "containerStatuses": [running, running]}),
            "2/2",
            "Running",
            "0",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running, crashed]}),
            "1/2",
            "CrashLoopBackOff",
            "3 (5m ago)",
        ),
        (json!({"phase": "Succeeded", "containerStatuses": [done, done]}), "0/2", "Completed", "0"),
        (json!({"phase": "Failed", "containerStatuses": [killed]}), "0/2", "Signal:9", "0"),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted", "0"),
        (
            json!({"phase": "Running", "containerStatuses": [running, done],
                "conditions": [{"type": "Ready", "status": "False"}]}),
            "1/2",
            "NotReady",
            "0",
        ),
    ] {
        let found = cells("", "pods", pod(status.clone()));
        assert_eq!(found[..5], ["p", ready, expected, restarts, "60m"], "{status}");
        assert_eq!(found[5..], ["<none>", "n", "<none>", "<none>"]);
    }
    let mut ending = pod(json!({"phase": "Running"}));
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cells("", "pods", ending)[2], "Terminating");
}

#[test]
fn workloads_count_their_pods() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
    let object = json!({
        "metadata": {"name": "d", "creationTimestamp": "2026-01-01T00:59:30Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2, "replicas": 4},
    });
    assert_eq!(
        cells("apps", "deployments", object.clone()),
        ["d", "2/3", "3", "2", "30s", "a", "x:1", "a=b"]
    );
    assert_eq!(
        cells("apps", "replicasets", object.clone()),
        ["d", "3", "4", "2", "30s", "a", "x:1", "a=b"]
    );
    assert_eq!(cells("apps", "statefulsets", object)[..3], ["d", "2/3", "30s"]);
    let job = json!({
        "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:59:30Z"},
        "spec": {"completions": 2},
        "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:40Z"},
    });
    assert_eq!(cells("batch", "jobs", job)[..5], ["j", "Running", "1/2", "20s", "30s"]);
}

#[test]
fn networks_show_addresses_and_ports() {
    let service = json!({
        "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:59:30Z"},
        "spec": {"type": "NodePort", "clusterIP": "10.43.0.5", "selector": {"a": "b"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 53, "protocol": "UDP"}]},
    });
    assert_eq!(
        cells("", "services", service),
        ["s", "NodePort", "10.43.0.5", "<none>", "80:30001/TCP,53/UDP", "30s", "a=b"]
    );
    let endpoints = json!({
        "metadata": {"name": "e"},
        "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 1}, {"port": 2}]}],
    });
    assert_eq!(cells("", "endpoints", endpoints)[1], "1.1.1.1:1,1.1.1.1:2,1.1.1.2:1 + 1 more...");
    let ingress = json!({
        "metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.b"}], "tls": [{}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
    });
    assert_eq!(
        cells("networking.k8s.io", "ingresses", ingress)[..5],
        ["i", "<none>", "a.b", "1.2.3.4", "80, 443"]
    );
}

#[test]
fn every_cell_of_every_kind_has_a_rule() {
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
    for resource in Catalog::builtin().resources() {
        let mut object = object.clone();
        object["kind"] = json!(resource.kind);
        let table =
            render(resource, &[object], IncludeObject::Metadata, "v1", now(), json!({}), false);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        for (cell, column) in cells.iter().zip(table["columnDefinitions"].as_array().unwrap()) {
            assert!(!cell.is_null(), "{} {}", resource.plural, column["name"]);
        }
    }
}

#[test]
fn a_row_carries_as_much_of_the_object_as_asked_for() {
    let catalog = Catalog::builtin();
    let resource = catalog.resource("", "v1", "configmaps").unwrap();
    let object = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    let show = |include, omit| {
        render(resource, std::slice::from_ref(&object), include, "v1", now(), json!({}), omit)
    };
    assert!(show(IncludeObject::None, false)["rows"][0].get("object").is_none());
    let partial = &show(IncludeObject::Metadata, true);
    assert_eq!(partial["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(partial["columnDefinitions"], json!([]));
    assert_eq!(show(IncludeObject::Object, true)["rows"][0]["object"], object);
}
