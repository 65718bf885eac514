//! Health, both ways: what this process says of itself, and what it finds of endpoints.
//!
//! Of itself: 200 when routes are loaded and the listeners open, else 503. Of endpoints: at
//! `/metrics` what they answered, and at `/addresses` what is found of them (`checks`, `findings`),
//! which DNS servers follow.

mod checks;
mod findings;
mod probe;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use berth_api::found;
use berth_daemon::{Ready, Tasks};

pub(crate) use checks::{Check, CheckKind, keep as keep_checked};
pub(crate) use findings::Findings;

/// Who asks is near and quick, but for those who wait for news.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any prober sends.
const LONGEST_REQUEST: usize = 4096;
/// Connections at once; the next wait in the kernel.
const MOST: usize = 64;
/// Of these, so many may wait for news: probes must find room.
const MOST_WAITING: usize = 32;

/// What is told here.
struct Told {
    ready: Ready,
    findings: Arc<Findings>,
    waiting: Semaphore,
}

/// Answers probes and those who follow `findings`, for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    ready: Ready,
    findings: Arc<Findings>,
    tasks: Tasks,
) {
    let room = Arc::new(Semaphore::new(MOST));
    let told = Arc::new(Told { ready, findings, waiting: Semaphore::new(MOST_WAITING) });
    loop {
        let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let told = told.clone();
                tasks.spawn_until_stop("probe", async move {
                    if answer(stream, &told).await.is_err() {
                        tracing::debug!(%peer, "probe broke off");
                    }
                    drop(permit);
                });
            }
            // Out of descriptors: the next attempt would fail at once as well.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, told: &Told) -> std::io::Result<()> {
    let Some(target) = timeout(PATIENCE, target(&mut stream)).await?? else { return Ok(()) };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (status, kind, body) = match (path, told.ready.is_ready()) {
        ("/metrics", _) => ("200 OK", "text/plain", super::pick::metrics()),
        (found::PATH, _) => match news(query, told).await {
            Some(page) => ("200 OK", "application/json", page),
            None => ("503 Service Unavailable", "text/plain", "too many wait\n".to_owned()),
        },
        (_, true) => ("200 OK", "text/plain", "ok\n".to_owned()),
        (_, false) => ("503 Service Unavailable", "text/plain", "no\n".to_owned()),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    timeout(PATIENCE, async {
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

/// What is asked for; none where nothing is.
async fn target(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(target).into_owned()))
}

/// The page that `query` asks for; none where as many wait as may.
async fn news(query: &str, told: &Told) -> Option<String> {
    let word = |name: &str| {
        let words = query.split('&').filter_map(|word| word.split_once('='));
        words.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
    };
    let since = word("since").unwrap_or_default();
    let wait = word("wait").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    let mut page = told.findings.page(since);
    if page.is_none() && wait > 0 {
        let _permit = told.waiting.try_acquire().ok()?;
        let wait = Duration::from_secs(wait.min(found::LONGEST_WAIT));
        page = timeout(wait, told.findings.next(since)).await.ok();
    }
    let page = page.unwrap_or_else(|| told.findings.nothing(since));
    serde_json::to_string(&page).ok()
}

/// Opens the health port.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
