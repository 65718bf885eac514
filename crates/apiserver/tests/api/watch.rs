//! Watches.

use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, Server, config_map, refused};

/// The events of a watch, until it ends or says nothing for a while.
async fn events(server: &Server, query: &str, wanted: usize) -> Vec<Value> {
    let uri = format!("{CONFIG_MAPS}?watch=1&{query}&timeoutSeconds=5");
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    let body = server.admin().request_stream(request).await.unwrap();
    let lines = Box::pin(body).lines().take(wanted);
    let read = lines.map_ok(|line| serde_json::from_str(&line).unwrap()).try_collect();
    tokio::time::timeout(Duration::from_secs(8), read).await.unwrap().unwrap()
}

fn told(events: &[Value]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|event| {
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            (event["type"].as_str().unwrap(), name)
        })
        .collect()
}

async fn revision(server: &Server) -> String {
    let list = server.get(CONFIG_MAPS).await.unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_watch_tells_every_change_after_its_revision_once_and_in_order() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("before", json!({}))).await.unwrap();
    let from = revision(&server).await;
    let path = format!("{CONFIG_MAPS}/a");
    let made = server.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap();
    let body = json!({"data": {"x": "1"}});
    server.patch(&path, "merge-patch+json", &body).await.unwrap();
    server.send("DELETE", &path, None).await.unwrap();
    let seen = events(&server, &format!("resourceVersion={from}"), 3).await;
    assert_eq!(told(&seen), [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]);
    assert_eq!(seen[0]["object"], made);
    let revisions: Vec<u64> = seen
        .iter()
        .map(|event| event["object"]["metadata"]["resourceVersion"].as_str().unwrap())
        .map(|text| text.parse().unwrap())
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    server.stop().await;
}

#[tokio::test]
async fn coming_into_and_going_out_of_a_selection_is_added_and_deleted() {
    let server = Server::start().await;
    let from = revision(&server).await;
    let path = format!("{CONFIG_MAPS}/a");
    server.create(CONFIG_MAPS, &config_map("a", json!({}))).await.unwrap();
    for label in [json!("yes"), json!("no"), json!(null)] {
        let body = json!({"metadata": {"labels": {"in": label}}});
        server.patch(&path, "merge-patch+json", &body).await.unwrap();
    }
    let query = format!("resourceVersion={from}&labelSelector=in%3Dyes");
    let seen = events(&server, &query, 2).await;
    assert_eq!(told(&seen), [("ADDED", "a"), ("DELETED", "a")]);
    assert_eq!(seen[1]["object"]["metadata"]["labels"]["in"], "yes");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_from_forgotten_history_ends_with_an_error_event() {
    let server = Server::start().await;
    let from = revision(&server).await;
    for name in ["a", "b", "c"] {
        server.create(CONFIG_MAPS, &config_map(name, json!({}))).await.unwrap();
    }
    let now = server.store.revision().await.unwrap();
    server.store.compact(now).await.unwrap();
    let seen = events(&server, &format!("resourceVersion={from}"), 9).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["type"], "ERROR");
    assert_eq!(
        (&seen[0]["object"]["code"], &seen[0]["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    server.stop().await;
}

#[tokio::test]
async fn initial_events_come_first_and_are_closed_by_a_bookmark() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.create(CONFIG_MAPS, &config_map(name, json!({}))).await.unwrap();
    }
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let seen = events(&server, query, 3).await;
    assert_eq!(told(&seen), [("ADDED", "a"), ("ADDED", "b"), ("BOOKMARK", "")]);
    let annotations = &seen[2]["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    server.stop().await;
}

#[tokio::test]
async fn initial_events_are_asked_for_as_kubernetes_wants_it() {
    let server = Server::start().await;
    let check = async |query: &str, expected: &str| {
        let answer = server.get(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&{query}")).await;
        let message = refused(answer, 422, "Invalid");
        assert!(message.contains(expected), "{query}: {message}");
        assert!(message.contains("ListOptions"), "{query}: {message}");
    };
    let wanted = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    check("sendInitialEvents=true", wanted).await;
    check("sendInitialEvents=false", wanted).await;
    check("sendInitialEvents=true&resourceVersionMatch=Exact", wanted).await;
    let alone = "forbidden for watch unless sendInitialEvents is provided";
    check("resourceVersionMatch=NotOlderThan", alone).await;
    let both = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    check(&format!("{both}&continue=abc"), "forbidden when continue is provided").await;
    let listed = server.get(&format!("{CONFIG_MAPS}?{both}")).await;
    let message = refused(listed, 422, "Invalid");
    assert!(message.contains("sendInitialEvents is forbidden for list"), "{message}");
    server.stop().await;
}

#[tokio::test]
async fn who_wants_no_initial_events_sees_what_comes_next() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, &config_map("before", json!({}))).await.unwrap();
    let query = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let uri = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=5&{query}");
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    // The watch stands when its answer has begun.
    let body = server.admin().request_stream(request).await.unwrap();
    server.create(CONFIG_MAPS, &config_map("after", json!({}))).await.unwrap();
    let first = Box::pin(body).lines().next().await.unwrap().unwrap();
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(told(&[first]), [("ADDED", "after")]);
    server.stop().await;
}

#[tokio::test]
async fn initial_events_are_those_of_the_selection_and_changes_follow_them() {
    let server = Server::start().await;
    for (name, label) in [("a", "yes"), ("b", "no"), ("c", "yes")] {
        let mut body = config_map(name, json!({}));
        body["metadata"]["labels"] = json!({"in": label});
        server.create(CONFIG_MAPS, &body).await.unwrap();
    }
    let before = revision(&server).await;
    let both = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for selector in ["labelSelector=in%3Dyes", "labelSelector=in%21%3Dno"] {
        let seen = events(&server, &format!("{both}&{selector}"), 3).await;
        assert_eq!(told(&seen), [("ADDED", "a"), ("ADDED", "c"), ("BOOKMARK", "")], "{selector}");
        // What has been seen is as fresh as when the watch was asked for.
        let at = seen[2]["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        assert!(at.parse::<u64>().unwrap() >= before.parse().unwrap(), "{at} is before {before}");
    }
    let one = events(&server, &format!("{both}&fieldSelector=metadata.name%3Db"), 2).await;
    assert_eq!(told(&one), [("ADDED", "b"), ("BOOKMARK", "")]);
    let without = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&labelSelector=in%3Dno";
    let seen = events(&server, &format!("{without}&timeoutSeconds=1"), 9).await;
    assert_eq!(told(&seen), [("ADDED", "b")], "who takes no bookmarks gets none");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_at_its_time_with_a_bookmark_to_go_on_from() {
    let server = Server::start().await;
    let from = revision(&server).await;
    let uri = format!(
        "{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={from}"
    );
    let request = http::Request::get(uri).body(Vec::new()).unwrap();
    let body = server.admin().request_stream(request).await.unwrap();
    let lines: Vec<String> = Box::pin(body).lines().try_collect().await.unwrap();
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    let at: u64 = last["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(at >= from.parse().unwrap());
    server.stop().await;
}
