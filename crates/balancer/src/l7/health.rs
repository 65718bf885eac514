//! Health, both ways: what this process says of itself, and what it finds of endpoints.
//!
//! Of itself: 200 when routes are loaded and the listeners open, else 503, and at `/metrics` what
//! endpoints answered. Of endpoints: `checks`.

mod checks;
mod probe;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use berth_daemon::Ready;

pub(crate) use checks::{Check, CheckKind, keep as keep_checked};

/// A prober is near and quick.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any prober sends.
const LONGEST_REQUEST: usize = 4096;

/// Answers probes, for ever.
///
/// One at a time: probes are rare, and a stuck one is cut after two seconds.
pub(crate) async fn serve(listener: TcpListener, ready: Ready) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let answered = timeout(PATIENCE, answer(stream, ready.is_ready())).await;
                if !matches!(answered, Ok(Ok(()))) {
                    tracing::debug!(%peer, "probe broke off");
                }
            }
            // Out of descriptors: the next attempt would fail at once as well.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, ready: bool) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let metrics = request.starts_with(b"GET /metrics ").then(super::pick::metrics);
    let (status, body) = match (&metrics, ready) {
        (Some(metrics), _) => ("200 OK", metrics.as_str()),
        (None, true) => ("200 OK", "ok\n"),
        (None, false) => ("503 Service Unavailable", "no\n"),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Opens the health port.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
