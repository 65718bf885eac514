//! Services' addresses and ports.

use serde_json::{Value, json};

use crate::server::{Server, refused};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

#[tokio::test]
async fn addresses_and_node_ports_are_given_once_and_back() {
    let server = Server::start().await;
    let own = server.get(&format!("{SERVICES}/kubernetes")).await.unwrap();
    assert_eq!(own["spec"]["clusterIP"], "10.43.0.1");
    let first = service("a", json!({"type": "NodePort", "clusterIP": "10.43.0.10"}));
    let made = server.create(SERVICES, &first).await.unwrap();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.43.0.10"]));
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));

    let taken = service("b", json!({"clusterIP": "10.43.0.10"}));
    let message = refused(server.create(SERVICES, &taken).await, 422, "Invalid");
    assert!(message.contains("already allocated"), "{message}");
    let foreign = service("b", json!({"clusterIP": "192.0.2.1"}));
    refused(server.create(SERVICES, &foreign).await, 422, "Invalid");
    let same_port =
        service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    refused(server.create(SERVICES, &same_port).await, 422, "Invalid");

    server.send("DELETE", &format!("{SERVICES}/a"), None).await.unwrap();
    server.create(SERVICES, &taken).await.unwrap();
    let put = service("b", json!({}));
    let put = server.send("PUT", &format!("{SERVICES}/b"), Some(&put)).await.unwrap();
    assert_eq!(put["spec"]["clusterIP"], "10.43.0.10", "a client need not name it again");
    server.stop().await;
}

#[tokio::test]
async fn a_headless_service_has_no_address_and_a_dry_run_takes_none() {
    let server = Server::start().await;
    let headless = service("h", json!({"clusterIP": "None"}));
    let made = server.create(SERVICES, &headless).await.unwrap();
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let asked = service("a", json!({"clusterIP": "10.43.0.99"}));
    server.create(&format!("{SERVICES}?dryRun=All"), &asked).await.unwrap();
    server.create(SERVICES, &asked).await.unwrap();
    server.stop().await;
}
