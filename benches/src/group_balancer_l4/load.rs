//! The backend that repeats what it gets, and clients that ask it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Clients at once.
const CLIENTS: usize = 32;
/// What a request and its answer have, bytes.
const LENGTH: usize = 64;

/// What is asked.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Requests on connections that stay open.
    Requests,
    /// A connection for each request.
    Connections,
}

/// Answers on a thread of its own until it is dropped.
pub struct Backend {
    pub port: u16,
    _runtime: Runtime,
}

impl Backend {
    /// Begins.
    pub fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        runtime.handle().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { port, _runtime: runtime })
    }
}

/// How many were answered in `round`.
pub fn run(kind: Kind, port: u16, round: Duration) -> Result<u64> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let done = Arc::new(AtomicU64::new(0));
    let deadline = Instant::now() + round;
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(client(kind, port, deadline, done.clone()));
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    Ok(done.load(Ordering::Relaxed))
}

async fn client(kind: Kind, port: u16, deadline: Instant, done: Arc<AtomicU64>) -> Result<()> {
    let mut stream = None;
    while Instant::now() < deadline {
        let mut open = match stream.take() {
            Some(open) => open,
            None => {
                let open = TcpStream::connect(("127.0.0.1", port)).await?;
                open.set_nodelay(true)?;
                open
            }
        };
        let mut buffer = [7; LENGTH];
        open.write_all(&buffer).await?;
        open.read_exact(&mut buffer).await?;
        done.fetch_add(1, Ordering::Relaxed);
        if matches!(kind, Kind::Requests) {
            stream = Some(open);
        }
    }
    Ok(())
}
