//! Custom resources, from the definition to the last object.

use serde_json::{Value, json};

use crate::server::{Server, eventually, refused};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.size",
                        "statusReplicasPath": ".status.size",
                    },
                },
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "properties": {"size": {"type": "integer", "default": 2}},
                        },
                        "status": {
                            "type": "object",
                            "properties": {"size": {"type": "integer"}},
                        },
                    },
                }},
            }],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec,
    })
}

#[tokio::test]
async fn a_definition_is_served_until_it_and_its_objects_are_gone() {
    let server = Server::start().await;
    refused(server.get(WIDGETS).await, 404, "NotFound");
    server.create(DEFINITIONS, &definition()).await.unwrap();
    let path = format!("{DEFINITIONS}/widgets.example.com");
    eventually("established", async || {
        let got = server.get(&path).await.unwrap();
        let conditions = got["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
    })
    .await;

    let made = server.create(WIDGETS, &widget("w", json!({}))).await.unwrap();
    assert_eq!(made["spec"]["size"], 2);
    assert_eq!(made["metadata"]["generation"], 1);
    let mistyped = server.create(WIDGETS, &widget("x", json!({"size": "big"}))).await.unwrap_err();
    assert_eq!(mistyped.code, 422, "{mistyped:?}");
    assert!(mistyped.message.contains("spec.size in body must be of type integer"), "{mistyped:?}");
    let mistyped = widget("x", json!({"size": {"a": ["b"]}}));
    refused(server.create(WIDGETS, &mistyped).await, 422, "Invalid");
    let apply = format!("{WIDGETS}/x?fieldManager=me");
    refused(server.patch(&apply, "apply-patch+yaml", &mistyped).await, 422, "Invalid");
    let one = format!("{WIDGETS}/w");
    let body = json!({"spec": {"size": 5}, "status": {"size": 9}});
    let patched = server.patch(&one, "merge-patch+json", &body).await.unwrap();
    assert_eq!(patched["metadata"]["generation"], 2);
    assert!(patched.get("status").is_none());
    let strategic = server.patch(&one, "strategic-merge-patch+json", &body).await;
    refused(strategic, 415, "UnsupportedMediaType");
    let scale = server.get(&format!("{one}/scale")).await.unwrap();
    assert_eq!(scale["spec"]["replicas"], 5);
    let body = json!({"spec": {"replicas": 7}});
    server.patch(&format!("{one}/scale"), "merge-patch+json", &body).await.unwrap();
    assert_eq!(server.get(&one).await.unwrap()["spec"]["size"], 7);

    server.send("DELETE", &path, None).await.unwrap();
    eventually("gone", async || server.get(&path).await.is_err()).await;
    eventually("not served", async || server.get(WIDGETS).await.is_err()).await;
    let prefix = b"/registry/example.com/widgets/";
    assert!(server.store.list(prefix, None, 0, None).await.unwrap().entries.is_empty());
    server.stop().await;
}
