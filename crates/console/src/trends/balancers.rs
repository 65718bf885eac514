//! What Berth's balancers answered for, as they tell it beside their readiness.

use std::time::{Duration, Instant};

use berth_api::answers::{self, Count};
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::TcpStream;

const NAMESPACE: &str = "berth-system";
const LABEL: &str = "app.kubernetes.io/name=berth-balancer";
const CALL: Duration = Duration::from_secs(3);
/// Balancers come and go seldom.
const KNOWN: Duration = Duration::from_secs(60);
/// What one says of 40,000 endpoints.
const LONG: usize = 8 << 20;

/// Where they tell it, and when that was looked up.
#[derive(Debug, Default)]
pub(super) struct Places(Option<(Instant, Vec<String>)>);

/// Who tells it, of which endpoint, what; none where nobody does.
pub(super) async fn counts(
    client: &Client,
    places: &mut Places,
) -> Option<Vec<(String, String, Count)>> {
    if places.0.as_ref().is_none_or(|(at, _)| at.elapsed() > KNOWN) {
        places.0 = Some((Instant::now(), find(client).await));
    }
    let (_, places) = places.0.as_ref()?;
    let told = places.iter().map(|place| async move {
        let text = tokio::time::timeout(CALL, ask(place)).await.ok().flatten()?;
        Some(read(place, &text))
    });
    let told: Vec<_> = futures::future::join_all(told).await.into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.into_iter().flatten().collect())
}

async fn find(client: &Client) -> Vec<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(LABEL);
    let found = tokio::time::timeout(CALL, api.list(&params)).await;
    let Ok(Ok(pods)) = found else { return Vec::new() };
    pods.items.iter().flat_map(answers::places).collect()
}

async fn ask(place: &str) -> Option<String> {
    let stream = TcpStream::connect(place).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/metrics")
        .header(header::HOST, place)
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .ok()?;
    let answered = async move {
        let answer = sender.send_request(request).await.ok()?;
        let body = Limited::new(answer.into_body(), LONG).collect().await.ok()?;
        String::from_utf8(body.to_bytes().to_vec()).ok()
    };
    futures::join!(answered, connection).0
}

fn read(place: &str, text: &str) -> Vec<(String, String, Count)> {
    let told = |(endpoint, count): (&str, Count)| (place.to_owned(), endpoint.to_owned(), count);
    answers::read(text).into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_read_by_endpoint() {
        let text = "# TYPE berth_balancer_answers_total counter\n\
                    berth_balancer_answers_total{endpoint=\"10.0.0.5:80\"} 7\n\
                    berth_balancer_failures_total{endpoint=\"10.0.0.5:80\"} 2\n\
                    berth_balancer_seconds_total{endpoint=\"10.0.0.5:80\"} 0.5\n\
                    process_threads 3\n";
        let count = Count { answers: 7.0, failures: 2.0, seconds: 0.5 };
        assert_eq!(read("b:1", text), [("b:1".to_owned(), "10.0.0.5:80".to_owned(), count)]);
    }

    #[test]
    fn a_balancer_is_asked_where_its_readiness_is() {
        let pod = |get: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {},
                "spec": { "containers": [
                    { "name": "b", "readinessProbe": { "httpGet": get },
                      "ports": [{ "name": "health", "containerPort": 9 }] },
                    { "name": "none" },
                ] },
                "status": { "podIP": "10.0.0.9" },
            }))
            .unwrap()
        };
        assert_eq!(answers::places(&pod(json!({ "port": "health" }))), ["10.0.0.9:9"]);
        assert_eq!(
            answers::places(&pod(json!({ "port": 7, "host": "127.0.0.1" }))),
            ["127.0.0.1:7"]
        );
        assert!(answers::places(&pod(json!({ "port": "other" }))).is_empty());
    }
}
