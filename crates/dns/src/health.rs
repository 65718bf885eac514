//! 200 once names are known, 503 before: HTTP for probes, nothing more.

use std::net::SocketAddr;
use std::time::Duration;

use berth_daemon::{Ready, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::StartError;

/// Probes come from next door.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers every request on `address` by whether `ready` is up.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(address: SocketAddr, ready: Ready, tasks: &Tasks) -> Result<(), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    tasks.spawn_until_stop("health", async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            // One at a time: a probe that dawdles is cut off before the next is due.
            let answered = tokio::time::timeout(PATIENCE, answer(stream, ready.is_ready())).await;
            if let Ok(Err(error)) = answered {
                tracing::debug!(%error, "a health check went away");
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, ready: bool) -> std::io::Result<()> {
    let mut head = [0; 1024];
    if stream.read(&mut head).await? == 0 {
        return Ok(()); // looked whether the port is open
    }
    let (status, body) =
        if ready { ("200 OK", "ok\n") } else { ("503 Service Unavailable", "no\n") };
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
