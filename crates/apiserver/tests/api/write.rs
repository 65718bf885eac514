//! Creating, replacing and deleting.

use serde_json::json;

use crate::server::{CONFIG_MAPS, Server, config_map, refused, send};

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let server = Server::start().await;
    let made = server.create(CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await.unwrap();
    assert_eq!(made["data"], json!({"x": "1"}));
    assert!(
        made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string()
    );
    let path = format!("{CONFIG_MAPS}/a");
    let got = server.get(&path).await.unwrap();
    assert_eq!(got, made);

    let mut new = got.clone();
    new["data"] = json!({"x": "2"});
    let put = server.send("PUT", &path, Some(&new)).await.unwrap();
    assert_eq!(put["data"], json!({"x": "2"}));
    assert_ne!(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let again = server.send("PUT", &path, Some(&put)).await.unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], put["metadata"]["resourceVersion"]);

    refused(server.send("PUT", &path, Some(&new)).await, 409, "Conflict");
    let gone = server.send("DELETE", &path, None).await.unwrap();
    assert_eq!(gone["status"], "Success");
    let message = refused(server.get(&path).await, 404, "NotFound");
    assert_eq!(message, "configmaps \"a\" not found");
    server.stop().await;
}

#[tokio::test]
async fn what_exists_is_not_created_again_unless_its_name_is_generated() {
    let server = Server::start().await;
    let one = config_map("a", json!({}));
    server.create(CONFIG_MAPS, &one).await.unwrap();
    refused(server.create(CONFIG_MAPS, &one).await, 409, "AlreadyExists");
    let generated = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"},
    });
    let first = server.create(CONFIG_MAPS, &generated).await.unwrap();
    let second = server.create(CONFIG_MAPS, &generated).await.unwrap();
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert!(first["metadata"]["name"].as_str().unwrap().starts_with("a-"));
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_shows_and_keeps_nothing() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let shown = server.create(&path, &config_map("a", json!({"x": "1"}))).await.unwrap();
    assert_eq!(shown["data"], json!({"x": "1"}));
    refused(server.get(&format!("{CONFIG_MAPS}/a")).await, 404, "NotFound");
    refused(
        server.create(&format!("{CONFIG_MAPS}?dryRun=Some"), &config_map("a", json!({}))).await,
        422,
        "Invalid",
    );
    server.create(CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await.unwrap();
    server.send("DELETE", &format!("{CONFIG_MAPS}/a?dryRun=All"), None).await.unwrap();
    server.get(&format!("{CONFIG_MAPS}/a")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_field_is_refused_when_asked_and_named() {
    let server = Server::start().await;
    let mut wrong = config_map("a", json!({}));
    wrong["dta"] = json!({"x": "1"});
    let path = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let message = refused(server.create(&path, &wrong).await, 400, "BadRequest");
    assert!(message.contains("unknown field \"dta\""), "{message}");
    let made = server.create(CONFIG_MAPS, &wrong).await.unwrap();
    assert!(made.get("dta").is_none());
    let mut mistyped = config_map("b", json!({}));
    mistyped["immutable"] = json!("yes");
    let message = refused(server.create(CONFIG_MAPS, &mistyped).await, 400, "BadRequest");
    assert!(message.contains("immutable"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_its_field() {
    let server = Server::start().await;
    let message = refused(
        server.create(CONFIG_MAPS, &config_map("Not_A_Name", json!({}))).await,
        422,
        "Invalid",
    );
    assert!(message.contains("metadata.name"), "{message}");
    for name in ["a/b", "..", "a%2Fb"] {
        refused(server.create(CONFIG_MAPS, &config_map(name, json!({}))).await, 422, "Invalid");
    }
    server.stop().await;
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut held = config_map("a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.create(CONFIG_MAPS, &held).await.unwrap();
    let path = format!("{CONFIG_MAPS}/a");
    let deleting = server.send("DELETE", &path, None).await.unwrap();
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    let body = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    refused(server.patch(&path, "merge-patch+json", &body).await, 422, "Invalid");
    let body = json!({"metadata": {"finalizers": null}});
    server.patch(&path, "merge-patch+json", &body).await.unwrap();
    refused(server.get(&path).await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test]
async fn preconditions_and_propagation_are_honoured() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap();
    let path = format!("{CONFIG_MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "another"}});
    refused(server.send("DELETE", &path, Some(&wrong)).await, 409, "Conflict");
    let foreground = json!({"propagationPolicy": "Foreground"});
    let waiting = server.send("DELETE", &path, Some(&foreground)).await.unwrap();
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    server.stop().await;
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_only() {
    let server = Server::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
        "status": {"replicas": 9},
    });
    let made = server.create(path, &deployment).await.unwrap();
    assert_eq!(made["metadata"]["generation"], 1);
    assert_ne!(made["status"]["replicas"], 9);
    let one = format!("{path}/web");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = server.patch(&one, "merge-patch+json", &label).await.unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = json!({"spec": {"replicas": 3}, "status": {"replicas": 7}});
    let scaled = server.patch(&one, "merge-patch+json", &scaled).await.unwrap();
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_ne!(scaled["status"]["replicas"], 7);
    let status = json!({"spec": {"replicas": 5}, "status": {"replicas": 2}});
    let status = server.patch(&format!("{one}/status"), "merge-patch+json", &status).await.unwrap();
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(3), &json!(2))
    );

    let scale = server.get(&format!("{one}/scale")).await.unwrap();
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(3), &json!("app=web"))
    );
    let body = json!({"spec": {"replicas": 6}});
    server.patch(&format!("{one}/scale"), "merge-patch+json", &body).await.unwrap();
    assert_eq!(server.get(&one).await.unwrap()["spec"]["replicas"], 6);
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_absent_or_going_away() {
    let server = Server::start().await;
    let map = config_map("a", json!({}));
    let absent = server.create("/api/v1/namespaces/nowhere/configmaps", &map).await;
    assert_eq!(refused(absent, 404, "NotFound"), "namespaces \"nowhere\" not found");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let made = server.create("/api/v1/namespaces", &namespace).await.unwrap();
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    let going = server.send("DELETE", "/api/v1/namespaces/n", None).await.unwrap();
    assert_eq!(going["status"]["phase"], "Terminating");
    refused(server.create("/api/v1/namespaces/n/configmaps", &map).await, 403, "Forbidden");

    let mut done = server.get("/api/v1/namespaces/n").await.unwrap();
    done["spec"]["finalizers"] = json!([]);
    server.send("PUT", "/api/v1/namespaces/n/finalize", Some(&done)).await.unwrap();
    refused(server.get("/api/v1/namespaces/n").await, 404, "NotFound");
    refused(server.send("DELETE", "/api/v1/namespaces/default", None).await, 403, "Forbidden");
    server.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut map = config_map(name, json!({}));
        map["metadata"]["labels"] = json!({"l": label});
        server.create(CONFIG_MAPS, &map).await.unwrap();
    }
    server.send("DELETE", &format!("{CONFIG_MAPS}?labelSelector=l%3Dx"), None).await.unwrap();
    let left = server.get(CONFIG_MAPS).await.unwrap();
    let names: Vec<_> =
        left["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["c"]);
    server.stop().await;
}

#[tokio::test]
async fn bodies_of_foreign_forms_are_refused() {
    let server = Server::start().await;
    let map = config_map("a", json!({}));
    let xml = send(&server.admin(), "POST", CONFIG_MAPS, "text/xml", Some(&map)).await;
    refused(xml, 415, "UnsupportedMediaType");
    let cbor = server.patch(&format!("{CONFIG_MAPS}/a"), "cbor", &map).await;
    refused(cbor, 415, "UnsupportedMediaType");
    let big = config_map("big", json!({"x": "y".repeat(3 * 1024 * 1024)}));
    refused(server.create(CONFIG_MAPS, &big).await, 413, "RequestEntityTooLarge");
    refused(server.get("/apis/nothing.example/v1/things").await, 404, "NotFound");
    server.stop().await;
}
