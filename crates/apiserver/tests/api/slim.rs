//! Writes of a pod's status and bindings have a short way (`write::slim`), which a webhook of
//! whatever kind closes: both ways end in the same answers and the same objects.

use serde_json::{Value, json};

use crate::server::{Answer, PODS, Server, pod};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// One request: method, what follows the pods' path, content type, body.
type Step = (&'static str, &'static str, &'static str, Value);

fn steps() -> Vec<Step> {
    let binding = |node: &str, meta: Value| {
        json!({"kind": "Binding", "apiVersion": "v1", "metadata": meta,
            "target": {"kind": "Node", "name": node}})
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let (merge, strategic) = ("merge-patch+json", "strategic-merge-patch+json");
    let (post, patch) = ("POST", "PATCH");
    let early = "/NAME/status?fieldManager=early";
    let agent = "/NAME/status?fieldManager=agent";
    vec![
        (patch, early, merge, json!({"status": {"conditions": [condition("Gate", "False")]}})),
        (post, "/NAME/binding", "json", binding("Not_A_Name", json!({}))),
        (post, "/NAME/binding", "json", binding("n1", json!({"uid": "another"}))),
        (post, "/NAME/binding", "json", binding("", json!({}))),
        (post, "/NAME/binding?dryRun=All", "json", binding("n1", json!({}))),
        (post, "/NAME/binding", "json", binding("n1", json!({"annotations": {"why": "so"}}))),
        (post, "/NAME/binding", "json", binding("n2", json!({}))),
        (
            patch,
            agent,
            strategic,
            json!({"status": {
                "phase": "Running", "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [condition("Ready", "False"), condition("PodScheduled", "True")],
                "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": true,
                    "restartCount": 0, "state": {"running": {}}}],
            }}),
        ),
        (patch, agent, strategic, json!({"status": {"conditions": [condition("Ready", "True")]}})),
        (patch, agent, strategic, json!({"status": {"conditions": [condition("Ready", "True")]}})),
        (patch, early, merge, json!({"status": {"phase": "Failed", "message": "\u{1f6a2}\n"}})),
        (patch, agent, merge, json!({"status": {"message": null, "phase": "Running"}})),
        (patch, agent, merge, json!({"status": {"conditions": []}})),
        (
            patch,
            agent,
            merge,
            json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}),
        ),
        (patch, agent, merge, json!({"metadata": {"labels": {"a": "not valid!"}}})),
        (patch, agent, merge, json!({"metadata": {"name": "other"}})),
        (
            patch,
            agent,
            merge,
            json!({"metadata": {"resourceVersion": "1"}, "status": {"reason": "x"}}),
        ),
        (
            patch,
            agent,
            merge,
            json!({"metadata": {"finalizers": ["a.b/c"]}, "status": {"reason": "y"}}),
        ),
        (patch, agent, merge, json!({"spec": {"priority": 7}, "status": {"reason": "z"}})),
        (patch, agent, merge, json!({"status": {"phase": 7}})),
        (patch, agent, merge, json!({"status": {"unknown": 1}})),
        (patch, "/NAME/status?fieldValidation=Strict", merge, json!({"status": {"unknown": 1}})),
        (patch, agent, merge, json!({"status": null})),
        (patch, agent, strategic, json!({"status": {"$patch": "replace", "phase": "Pending"}})),
        (
            patch,
            agent,
            strategic,
            json!({"$retainKeys": ["status"], "status": {"phase": "Running"}}),
        ),
        (
            patch,
            agent,
            merge,
            json!({"metadata": {"managedFields": [{}]}, "status": {"reason": "v"}}),
        ),
        (patch, agent, "json-patch+json", json!([{"op": "remove", "path": "/status/reason"}])),
        (patch, "/NAME/status?dryRun=All", merge, json!({"status": {"reason": "dry"}})),
        ("DELETE", "/NAME", "json", json!({"gracePeriodSeconds": 9})),
        (patch, agent, merge, json!({"status": {"phase": "Succeeded"}})),
        ("DELETE", "/NAME", "json", json!({"gracePeriodSeconds": 0})),
        (patch, agent, merge, json!({"status": {"phase": "Succeeded"}})),
    ]
}

/// Every answer and the object after it, without what no two objects share.
async fn outcomes(server: &Server, name: &str) -> Vec<(Value, bool, Value)> {
    let mut made = pod(name);
    made["spec"]["automountServiceAccountToken"] = json!(false);
    let made = server.create(&format!("{PODS}?fieldManager=maker"), &made).await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let told = |answer: &Answer| {
        let told = match answer {
            Ok(object) => plain(object.clone()).to_string(),
            // One that shows the object shows its version and times.
            Err(refusal) => {
                let said = refusal.message.split("patch: Invalid value").next();
                format!("{} {} {}", refusal.code, refusal.reason, said.unwrap_or_default())
            }
        };
        json!(told.replace(&uid, "UID").replace(name, "NAME"))
    };
    let version = |answer: &Answer| {
        answer.as_ref().map_or(Value::Null, |object| object["metadata"]["resourceVersion"].clone())
    };
    let path = format!("{PODS}/{name}");
    let mut all = Vec::new();
    for (method, tail, kind, body) in steps() {
        let before = server.get(&path).await;
        let at = format!("{PODS}{}", tail.replace("NAME", name));
        let answer = match method {
            "PATCH" => server.patch(&at, kind, &body).await,
            _ => server.send(method, &at, Some(&body)).await,
        };
        let after = server.get(&path).await;
        all.push((told(&answer), version(&before) == version(&after), told(&after)));
    }
    all
}

/// Without versions and times.
fn plain(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            let is_own = |name: &str| {
                matches!(name, "resourceVersion" | "time" | "lastTransitionTime")
                    || name.ends_with("Timestamp")
            };
            fields.retain(|name, _| !is_own(name));
            fields.values_mut().for_each(|field| *field = plain(field.take()));
            // By time, to the second.
            if let Some(Value::Array(entries)) = fields.get_mut("managedFields") {
                entries.sort_by_key(Value::to_string);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| *item = plain(item.take())),
        _ => {}
    }
    value
}

#[tokio::test]
async fn the_short_way_ends_where_the_long_one_does() {
    let server = Server::start().await;
    let short = outcomes(&server, "podshort").await;
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "nobody"},
        "webhooks": [{
            "name": "nobody.example.com", "sideEffects": "None", "failurePolicy": "Fail",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["configmaps"]}],
        }],
    });
    server.create(hooks, &hook).await.unwrap();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}});
    // In force once it is asked for ConfigMaps, and cannot be reached.
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while server.create(&format!("{MAPS}?dryRun=All"), &map).await.is_ok() {
        assert!(tokio::time::Instant::now() < until, "the webhook is never asked");
        tokio::task::yield_now().await;
    }
    let long = outcomes(&server, "podlongs").await;
    for ((step, short), long) in steps().iter().zip(&short).zip(&long) {
        assert_eq!(short, long, "{step:?}");
    }
    let done = short.iter().filter(|(told, ..)| !told.as_str().unwrap().starts_with('4')).count();
    assert!(done > short.len() / 2, "most requests are fine: {done}");
    server.stop().await;
}
