//! Asks Prometheus: directly over HTTP, or through the API server's proxy to a Service.

use std::time::Duration;

use berth_api::release::Release;
use http::Request;
use jiff::Timestamp;
use serde_json::Value;

use super::judge::{self, Reading};
use crate::driver::{Key, World, chain};

/// Where it is unless the strategy says otherwise.
const USUAL: &str = "monitoring/prometheus:9090";
/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest answer that is read: what a balancer says of 40,000 endpoints.
const MOST_BYTES: usize = 8 << 20;

/// Asks the checks at these places of the release's strategy.
pub async fn ask(world: &World, key: &Key, release: &Release, which: &[usize]) -> Vec<Reading> {
    let strategy = &release.spec.strategy;
    let place = strategy.prometheus.as_deref().unwrap_or(USUAL);
    let checks = which.iter().filter_map(|index| strategy.checks.get(*index));
    let checks = checks.filter(|check| check.balancer.is_none());
    let asked = checks.map(|check| async move {
        let query = judge::query(check, &key.namespace, &key.name, release.spec.revision);
        let value = match tokio::time::timeout(LIMIT, answer(world, place, &query)).await {
            Ok(Ok(answer)) => judge::number(&answer),
            Ok(Err(error)) => Err(format!("{place}: {error}")),
            Err(_) => Err(format!("{place} does not answer")),
        };
        Reading { check: check.name.clone(), value, at: Timestamp::now() }
    });
    futures::future::join_all(asked).await
}

async fn answer(world: &World, place: &str, query: &str) -> Result<Value, String> {
    let asked = format!("/api/v1/query?query={}", encoded(query));
    if let Some(rest) = place.strip_prefix("http://") {
        let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
        let base = base.trim_end_matches('/');
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        let (status, body) = get(authority, &format!("{base}{asked}")).await?;
        // Prometheus says what is wrong with a query in a body of the same form.
        return serde_json::from_str(body.trim()).map_err(|_| format!("it answers {status}"));
    }
    let (namespace, service) = place
        .split_once('/')
        .ok_or_else(|| "http://HOST:PORT or NAMESPACE/SERVICE:PORT is wanted".to_owned())?;
    let path = format!("/api/v1/namespaces/{namespace}/services/{service}/proxy{asked}");
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    world.client.request::<Value>(request).await.map_err(|error| chain(&error))
}

/// Status and body of one GET over a connection of its own.
pub(super) async fn get(authority: &str, path: &str) -> Result<(String, String), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let said = |error: std::io::Error| error.to_string();
    let mut stream = tokio::net::TcpStream::connect(&address).await.map_err(said)?;
    // HTTP/1.0: the body ends where the connection does, and is never chunked (RFC 1945 §7.2.2).
    let head = format!(
        "GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.map_err(said)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    stream.take(limit).read_to_end(&mut bytes).await.map_err(said)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

fn encoded(query: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let each = query.bytes().map(|byte| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    });
    each.collect()
}
