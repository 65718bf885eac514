//! What the server says about itself, and the same object under two groups.

use serde_json::{Value, json};

use crate::server::{Server, refused};

#[tokio::test]
async fn discovery_says_the_same_piece_by_piece_and_at_once() {
    let server = Server::start().await;
    let groups = server.get("/apis").await.unwrap();
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!("apps")), "{names:?}");
    let apps = server.get("/apis/apps/v1").await.unwrap();
    let find = |name: &str| {
        let list = apps["resources"].as_array().unwrap();
        list.iter().find(|one| one["name"] == name).cloned().unwrap()
    };
    assert_eq!(find("deployments")["shortNames"], json!(["deploy"]));
    assert_eq!(find("deployments/scale")["kind"], "Scale");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = http::Request::get("/apis").header("accept", accept).body(Vec::new()).unwrap();
    let text = server.admin().request_text(request).await.unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(whole["kind"], "APIGroupDiscoveryList");
    assert!(whole["items"].as_array().unwrap().iter().any(|one| one["metadata"]["name"] == "apps"));
    refused(server.get("/apis/none.example").await, 404, "NotFound");
    server.stop().await;
}

#[tokio::test]
async fn keys_and_issuer_are_published_for_those_who_verify_tokens() {
    let server = Server::start().await;
    let openid = server.get("/.well-known/openid-configuration").await.unwrap();
    assert_eq!(openid["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = server.get("/openid/v1/jwks").await.unwrap();
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["crv"]), (&json!("EC"), &json!("P-256")));
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let server = Server::start().await;
    server.get("/api/v1/pods").await.unwrap();
    let metrics = server.get("/metrics").await.unwrap();
    let line = "apiserver_request_total{verb=\"LIST\",group=\"\",resource=\"pods\",\
                subresource=\"\",code=\"200\"} 1";
    assert!(metrics.as_str().unwrap().contains(line), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn an_event_of_one_group_is_an_event_of_the_other() {
    let server = Server::start().await;
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tried",
        "message": "it was tried",
        "type": "Normal",
    });
    server.create("/api/v1/namespaces/default/events", &event).await.unwrap();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let other = server.get(&format!("{path}/e")).await.unwrap();
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (&other["note"], &other["regarding"]["name"]),
        (&json!("it was tried"), &json!("p"))
    );
    for (name, count) in [("p", 1), ("q", 0)] {
        let list = server.get(&format!("{path}?fieldSelector=regarding.name%3D{name}")).await;
        assert_eq!(list.unwrap()["items"].as_array().unwrap().len(), count, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn text_of_a_secret_is_stored_as_data() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"a": "z"},
    });
    let made = server.create(path, &secret).await.unwrap();
    assert_eq!((&made["data"], made.get("stringData")), (&json!({"a": "eg=="}), None));
    assert_eq!(made["type"], "Opaque");
    let body = json!({"stringData": {"b": "y"}});
    let patched = server.patch(&format!("{path}/s"), "merge-patch+json", &body).await.unwrap();
    assert_eq!(patched["data"], json!({"a": "eg==", "b": "eQ=="}));
    server.stop().await;
}
