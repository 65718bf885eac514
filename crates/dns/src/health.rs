//! The smallest HTTP server that a probe and Prometheus are content with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::{Ready, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::served::Served;
use crate::{StartError, metrics};

/// Probes come one at a time; more connections than this are somebody else's.
const MOST_CONNECTIONS: usize = 16;
const MOST_REQUEST: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers `/metrics`, and 200 while `ready` is up and 503 while it is not on any other path.
pub(crate) async fn serve(
    address: SocketAddr,
    ready: Ready,
    served: Arc<Served>,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen {
        address,
        protocol: "health",
        source,
    })?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let inner = tasks.clone();
    tasks.spawn_until_stop("health", async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
            let (ready, served) = (ready.is_ready(), Arc::clone(&served));
            inner.spawn_until_stop("health", async move {
                let _ = tokio::time::timeout(PATIENCE, reply(stream, ready, &served)).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn reply(mut stream: TcpStream, ready: bool, served: &Served) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0u8; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut part).await?;
        if read == 0 || request.len() > MOST_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&part[..read]);
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, body) = match line.split(|byte| *byte == b' ').nth(1) {
        Some(b"/metrics") => ("200 OK", metrics::page(served)),
        _ if ready => ("200 OK", "ok\n".to_owned()),
        _ => ("503 Service Unavailable", "no names yet\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.shutdown().await
}
