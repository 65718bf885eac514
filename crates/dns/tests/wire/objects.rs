//! Zones in ConfigMaps: taken, refused by line with an Event while the old stays, known after a
//! restart without an API server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::rr::RecordType;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Api, Frames, query, start, stop, until};

/// Empty but for ConfigMaps; it keeps the Events that it is given.
#[derive(Clone, Default)]
struct Maps {
    watcher: Arc<Mutex<Option<mpsc::Sender<Frames>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Maps {
    fn client(&self) -> kube::Client {
        let all = self.clone();
        let serve = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let all = all.clone();
            async move { Ok::<_, Infallible>(all.reply(request).await) }
        });
        kube::Client::new(serve, "default")
    }

    async fn reply(
        &self,
        request: http::Request<kube::client::Body>,
    ) -> http::Response<BoxBody<Bytes, Infallible>> {
        let uri = request.uri().clone();
        let maps = uri.path().ends_with("/configmaps");
        let body = if request.method() != http::Method::GET {
            let bytes = request.into_body().collect().await.expect("a body").to_bytes();
            let event: Value = serde_json::from_slice(&bytes).expect("an Event");
            self.events.lock().expect("no panic").push(event);
            Full::new(bytes).boxed()
        } else if uri.query().unwrap_or_default().contains("watch=true") {
            let (sender, receiver) = mpsc::channel(16);
            if maps {
                self.asked.lock().expect("no panic").push(uri.to_string());
                *self.watcher.lock().expect("no panic") = Some(sender);
            } else {
                std::mem::forget(sender);
            }
            StreamBody::new(ReceiverStream::new(receiver)).boxed()
        } else {
            let list = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": []});
            Full::new(Bytes::from(list.to_string())).boxed()
        };
        http::Response::new(body)
    }

    async fn say(&self, kind: &str, address: &str) {
        let text = format!("$TTL 60\n@ SOA ns admin 1 2 3 4 5\n@ NS ns\nns A {address}\n");
        let map = json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": "zone", "namespace": "kube-system", "resourceVersion": "3",
                "uid": "u", "labels": {"berth.dev/dns-zone": "one.test"}},
            "data": {"zone": text}
        });
        let line = format!("{}\n", json!({"type": kind, "object": map}));
        let watcher = async {
            loop {
                let watcher = self.watcher.lock().expect("no panic").clone();
                match watcher {
                    Some(watcher) => return watcher,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let watcher = tokio::time::timeout(Duration::from_secs(10), watcher).await;
        let frame = http_body::Frame::data(Bytes::from(line));
        watcher.expect("maps are watched").send(Ok(frame)).await.expect("it is watched");
    }

    async fn event(&self, reason: &str) -> Value {
        let there = async {
            loop {
                let events = self.events.lock().expect("no panic").clone();
                if let Some(event) = events.into_iter().find(|event| event["reason"] == reason) {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), there).await.expect("there is an Event")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_in_a_map_is_taken_and_a_bad_one_is_refused_by_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("snapshot");
    let maps = Maps::default();
    let (config, tasks) = start(maps.client(), |config| config.snapshot = Some(path.clone())).await;
    let asked = query("ns.one.test.", RecordType::A);
    let is = |message: &hickory_proto::op::Message, address: &str| {
        message.answers.iter().any(|record| record.data.to_string() == address)
    };
    maps.say("ADDED", "192.0.2.1").await;
    until(config.listen, &asked, |message| is(message, "192.0.2.1")).await;
    maps.event("ZoneTaken").await;
    let watched = maps.asked.lock().expect("no panic")[0].clone();
    assert!(watched.contains("/namespaces/kube-system/configmaps"), "{watched}");
    assert!(watched.contains("labelSelector=berth.dev%2Fdns-zone"), "{watched}");

    maps.say("MODIFIED", "192.0.2").await;
    let refused = maps.event("ZoneRefused").await;
    let note = refused["note"].as_str().expect("a text");
    assert!(note.contains("4:6: error: expected IPv4 address"), "{note}");
    assert_eq!(
        (&refused["type"], &refused["regarding"]["name"]),
        (&json!("Warning"), &json!("zone"))
    );
    let message = until(config.listen, &asked, |_| true).await;
    assert!(is(&message, "192.0.2.1"), "the old one stays");

    let kept = async {
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("ns A 192.0.2.1")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.expect("it is kept");
    stop(tasks).await;
    let (config, tasks) = start(Api::absent(), |config| config.snapshot = Some(path.clone())).await;
    until(config.listen, &asked, |message| is(message, "192.0.2.1")).await;
    stop(tasks).await;
}
