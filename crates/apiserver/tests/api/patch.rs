//! The four kinds of patches.

use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, Server, config_map, refused, send};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    })
}

#[tokio::test]
async fn json_and_merge_patches_change_what_they_name() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("a", json!({"x": "1", "y": "2"}))).await.unwrap();
    let path = format!("{CONFIG_MAPS}/a");
    let patch = json!([{"op": "test", "path": "/data/x", "value": "1"},
                       {"op": "remove", "path": "/data/x"}]);
    let patched = server.patch(&path, "json-patch+json", &patch).await.unwrap();
    assert_eq!(patched["data"], json!({"y": "2"}));
    let unfit = server.patch(&path, "json-patch+json", &patch).await;
    let message = refused(unfit, 422, "Invalid");
    assert!(message.contains("patch: cannot be applied"), "{message}");
    let patch = json!({"data": {"y": null, "z": "3"}});
    let patched = server.patch(&path, "merge-patch+json", &patch).await.unwrap();
    assert_eq!(patched["data"], json!({"z": "3"}));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "4"}});
    refused(server.patch(&path, "merge-patch+json", &stale).await, 409, "Conflict");
    server.stop().await;
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_their_key() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, &deployment(1, "one")).await.unwrap();
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "env": [{"name": "A", "value": "1"}]},
        {"name": "d", "image": "two"},
    ]}}}});
    let path = format!("{DEPLOYMENTS}/web");
    let patched = server.patch(&path, "strategic-merge-patch+json", &patch).await.unwrap();
    let containers = patched["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let by_name = |name: &str| containers.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(containers.len(), 2);
    assert_eq!(by_name("c")["image"], "one");
    assert_eq!(by_name("c")["env"][0]["name"], "A");
    assert_eq!(by_name("d")["image"], "two");
    server.stop().await;
}

#[tokio::test]
async fn apply_creates_owns_and_refuses_what_others_own() {
    let server = Server::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    let apply = |manager: &str, force: bool, body: Value| {
        let (path, client) =
            (format!("{path}?fieldManager={manager}&force={force}"), server.admin());
        async move { send(&client, "PATCH", &path, "application/apply-patch+yaml", Some(&body)).await }
    };
    refused(server.patch(&path, "apply-patch+yaml", &deployment(1, "a")).await, 422, "Invalid");
    let made = apply("one", false, deployment(1, "a")).await.unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let same = apply("one", false, deployment(1, "a")).await.unwrap();
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    let mut two = deployment(5, "a");
    two["spec"]["template"] = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
    let message = refused(apply("two", false, two.clone()).await, 409, "Conflict");
    assert!(
        message.contains("conflict with \"one\"") && message.contains(".spec.replicas"),
        "{message}"
    );
    let forced = apply("two", true, two).await.unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);

    let mut without = deployment(0, "b");
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let message = refused(apply("one", false, without.clone()).await, 409, "Conflict");
    assert!(message.contains("image"), "{message}");
    let applied = apply("one", true, without).await.unwrap();
    assert_eq!(applied["spec"]["replicas"], 5, "the other manager's field stays");
    server.stop().await;
}
