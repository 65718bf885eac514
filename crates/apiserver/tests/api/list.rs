//! Lists: pages, selectors, revisions and shapes.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod, refused};

async fn with_maps(count: usize) -> Server {
    let server = Server::start().await;
    for at in 0..count {
        let mut map = config_map(&format!("m{at:02}"), json!({}));
        map["metadata"]["labels"] = json!({"odd": (at % 2 == 1).to_string()});
        server.create(CONFIG_MAPS, &map).await.unwrap();
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|one| one["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_show_one_moment_whatever_is_written_meanwhile() {
    let server = with_maps(5).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2")).await.unwrap();
    assert_eq!(names(&first), ["m00", "m01"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    server.send("DELETE", &format!("{CONFIG_MAPS}/m03"), None).await.unwrap();
    server.create(CONFIG_MAPS, &config_map("m02b", json!({}))).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=9&continue={token}")).await.unwrap();
    assert_eq!(names(&second), ["m02", "m03", "m04"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    server.stop().await;
}

#[tokio::test]
async fn pages_of_a_selection_are_full() {
    let server = with_maps(9).await;
    let maps: Api<ConfigMap> = Api::namespaced(server.admin(), "default");
    let params = ListParams::default().labels("odd=true").limit(3);
    let first = maps.list(&params).await.unwrap();
    assert_eq!(first.items.len(), 3);
    let params = params.continue_token(first.metadata.continue_.as_deref().unwrap());
    let second = maps.list(&params).await.unwrap();
    assert_eq!(second.items.len(), 1);
    assert_eq!(second.metadata.continue_.unwrap_or_default(), "");
    server.stop().await;
}

#[tokio::test]
async fn forgotten_and_future_revisions_are_told_apart() {
    let server = with_maps(3).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=1")).await.unwrap();
    let old = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.create(CONFIG_MAPS, &config_map("more", json!({}))).await.unwrap();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.get(&exact).await.unwrap()).len(), 3);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&server.get(&newer).await.unwrap()).len(), 4);

    let now = server.store.revision().await.unwrap();
    server.store.compact(now).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?continue={token}");
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let expired = server.admin().request_text(request).await.unwrap_err();
    let kube::Error::Api(status) = expired else { panic!("no status: {expired}") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    // Whoever would rather have the rest than all of one moment goes on with this.
    let next = status.metadata.and_then(|meta| meta.continue_).expect("a token");
    let rest = server.get(&format!("{CONFIG_MAPS}?continue={next}")).await.unwrap();
    assert!(!names(&rest).is_empty() && !names(&rest).contains(&names(&first)[0]));
    refused(server.get(&exact).await, 410, "Expired");
    let future = server.get(&format!("{CONFIG_MAPS}?resourceVersion=99999999")).await;
    refused(future, 504, "Timeout");
    refused(server.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await, 400, "BadRequest");
    server.stop().await;
}

#[tokio::test]
async fn fields_select_by_name_node_and_phase_and_nothing_unknown() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.create(PODS, &pod(name)).await.unwrap();
    }
    let bind = json!({"target": {"kind": "Node", "name": "n1"}});
    server.create(&format!("{PODS}/b/binding"), &bind).await.unwrap();
    let by = |selector: &str| {
        let path = format!("{PODS}?fieldSelector={}", selector.replace('=', "%3D"));
        let server = &server;
        async move { server.get(&path).await }
    };
    assert_eq!(names(&by("metadata.name=a").await.unwrap()), ["a"]);
    assert_eq!(names(&by("spec.nodeName=n1").await.unwrap()), ["b"]);
    assert_eq!(names(&by("spec.nodeName=").await.unwrap()), ["a"]);
    assert_eq!(names(&by("status.phase=Pending").await.unwrap()), ["a", "b"]);
    assert_eq!(names(&by("status.phase!=Pending").await.unwrap()), [""; 0]);
    let message = refused(by("spec.hostname=x").await, 400, "BadRequest");
    assert!(message.contains("field label not supported: spec.hostname"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn lists_come_as_tables_metadata_and_yaml() {
    let server = with_maps(2).await;
    let get = |accept: &'static str| {
        let request = http::Request::get(CONFIG_MAPS).header("accept", accept);
        let (request, client) = (request.body(Vec::new()).unwrap(), server.admin());
        async move { client.request_text(request).await }
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io").await.unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "m00");
    let partial = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    let partial: Value = serde_json::from_str(&partial.unwrap()).unwrap();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("data").is_none());
    let yaml = get("application/yaml").await.unwrap();
    assert!(yaml.contains("kind: ConfigMapList"), "{yaml}");
    let refused = get("application/cbor").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 406));
    server.stop().await;
}

/// The pods of a node come from an index; whatever happens to them, it says what a look at every pod
/// would.
#[tokio::test]
async fn pods_of_a_node_follow_bindings_and_deletions() {
    let server = Server::start().await;
    for name in ["one", "two"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        server.create("/api/v1/nodes", &node).await.unwrap();
    }
    for (at, node) in [None, Some("one"), Some("two"), Some("one"), None].into_iter().enumerate() {
        let mut pod = pod(&format!("p{at}"));
        pod["spec"]["automountServiceAccountToken"] = json!(false);
        // Found by the bytes, and not by the field.
        pod["metadata"]["annotations"] = json!({"nodeName": "two"});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        server.create(PODS, &pod).await.unwrap();
    }
    let check = async |node: &str, expected: &[&str]| {
        for more in ["", "&resourceVersion=0", "&limit=1", "&limit=500", "&labelSelector=app"] {
            for path in ["/api/v1/pods", PODS] {
                let path = format!("{path}?fieldSelector=spec.nodeName%3D{node}{more}");
                let (mut names, mut next) = (Vec::new(), String::new());
                loop {
                    let list = server.get(&format!("{path}{next}")).await.unwrap();
                    for item in list["items"].as_array().unwrap() {
                        names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
                    }
                    let Some(text) = list["metadata"]["continue"].as_str() else { break };
                    next = format!("&continue={text}");
                }
                assert_eq!(names, expected, "{path}");
            }
        }
    };
    check("one", &["p1", "p3"]).await;
    check("two", &["p2"]).await;
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p0"},
        "target": {"kind": "Node", "name": "two"},
    });
    server.create(&format!("{PODS}/p0/binding"), &binding).await.unwrap();
    let now = json!({"gracePeriodSeconds": 0});
    server.send("DELETE", &format!("{PODS}/p1"), Some(&now)).await.unwrap();
    check("one", &["p3"]).await;
    check("two", &["p0", "p2"]).await;
    check("three", &[]).await;
    server.stop().await;
}
