//! TCP connections from a door to an endpoint.
//!
//! In order: the PROXY header where one is demanded, the name in the TLS hello where several
//! Services share the door, an endpoint, the PROXY header to it, and then bytes both ways.

mod relay;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use berth_daemon::Tasks;

use crate::l7::pick::{self, OpenRequest};
use crate::proxy_protocol::{self, Ends};
use crate::sni;
use crate::streams::{Serving, Target, pick_for};

/// The first try and three more.
const TRIES: usize = 4;
/// The pause after a failed accept: out of descriptors, it would fail at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why a connection was not carried.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the client did not say in time who it is or what it wants")]
    Late,
    #[error("the client left")]
    Left,
    #[error(transparent)]
    Proxy(#[from] proxy_protocol::Malformed),
    #[error(transparent)]
    Hello(#[from] sni::Malformed),
    #[error("nobody has the name {0:?}")]
    Nobody(Option<String>),
    #[error("{service}: {why}")]
    NoEndpoint { service: String, why: String },
    #[error("{service} has as many connections as it may")]
    Full { service: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Accepts until `group` is told to stop, then what the kernel has queued, then closes.
pub(crate) async fn accept(listener: TcpListener, port: u16, serving: Serving, group: Tasks) {
    loop {
        let room = serving.room.clone().acquire_owned();
        let permit = tokio::select! {
            biased;
            () = group.stopping() => break,
            permit = room => permit.expect("the semaphore is never closed"),
        };
        tokio::select! {
            biased;
            () = group.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => start(stream, peer, port, &serving, permit),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    // A closed listener resets what waits in its queue; the other processes never see it.
    while let Ok(permit) = serving.room.clone().try_acquire_owned() {
        let accepted = futures::FutureExt::now_or_never(listener.accept());
        let Some(Ok((stream, peer))) = accepted else { break };
        start(stream, peer, port, &serving, permit);
    }
}

fn start(
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
    serving: &Serving,
    permit: OwnedSemaphorePermit,
) {
    let connection = serving.clone();
    serving.tasks.spawn("connection", async move {
        if let Err(why) = carry(stream, peer, port, &connection).await {
            tracing::debug!(%peer, port, %why, "connection ended");
        }
        drop(permit);
    });
}

async fn carry(
    mut client: TcpStream,
    peer: SocketAddr,
    port: u16,
    serving: &Serving,
) -> Result<(), Refused> {
    let _ = client.set_nodelay(true);
    let mut read = Vec::new();
    let mut ends = Ends { from: peer, to: client.local_addr()? };
    let streams = serving.streams.load_full();
    let Some(door) = streams.tcp.get(&port) else { return Err(Refused::Nobody(None)) };
    let says = async {
        if door.proxied {
            ends = proxy_header(&mut client, &mut read).await?.unwrap_or(ends);
        }
        if door.asks_for_name() { hello(&mut client, &mut read).await } else { Ok(None) }
    };
    let name = timeout(serving.config.hello_timeout, says).await.map_err(|_| Refused::Late)??;
    let Some(target) = door.target(name.as_deref()).cloned() else {
        return Err(Refused::Nobody(name));
    };
    drop(streams);
    let Some(_counted) = target.enter() else {
        return Err(Refused::Full { service: target.name.clone() });
    };
    let (mut server, open) = connect(&target, ends.from, serving.config.connect_timeout).await?;
    let mut first =
        target.tell.map(|version| proxy_protocol::write(version, ends)).unwrap_or_default();
    first.append(&mut read);
    if !first.is_empty() {
        timeout(serving.config.hello_timeout, server.write_all(&first))
            .await
            .map_err(|_| Refused::Late)??;
    }
    drop(first);
    let idle = target.idle.unwrap_or(serving.config.idle_timeout);
    drop(target);
    relay::relay(client, server, idle).await?;
    drop(open);
    Ok(())
}

/// Reads until the PROXY header is whole; what came after it stays in `read`.
async fn proxy_header(client: &mut TcpStream, read: &mut Vec<u8>) -> Result<Option<Ends>, Refused> {
    loop {
        if let Some((ends, length)) = proxy_protocol::parse(read)? {
            read.drain(..length);
            return Ok(ends);
        }
        more(client, read, proxy_protocol::LONGEST).await?;
    }
}

/// Reads until the hello is whole, all of which stays in `read`.
async fn hello(client: &mut TcpStream, read: &mut Vec<u8>) -> Result<Option<String>, Refused> {
    loop {
        match sni::parse(read)? {
            sni::Hello::Whole(name) => return Ok(name),
            sni::Hello::Partial => more(client, read, sni::LONGEST).await?,
        }
    }
}

async fn more(client: &mut TcpStream, read: &mut Vec<u8>, most: usize) -> Result<(), Refused> {
    read.reserve(512);
    match client.read_buf(read).await? {
        0 => Err(Refused::Left),
        // Both parsers refuse what is longer; this holds them to it.
        _ if read.len() > 2 * most => Err(Refused::Left),
        _ => Ok(()),
    }
}

/// A connection to an endpoint, from one to the next while they refuse.
async fn connect(
    target: &Arc<Target>,
    client: SocketAddr,
    patience: Duration,
) -> Result<(TcpStream, OpenRequest), Refused> {
    let mut tried = Vec::new();
    let mut last = String::new();
    let refused = |why| Refused::NoEndpoint { service: target.name.clone(), why };
    let set = target.choose(pick::random()).map_err(refused)?;
    while tried.len() < TRIES {
        let open = match pick_for(set, client, &tried) {
            Ok(open) => open,
            Err(why) => {
                last = why;
                break;
            }
        };
        let address = open.endpoint().address();
        match timeout(patience, TcpStream::connect(SocketAddr::V4(address))).await {
            Ok(Ok(server)) => {
                let _ = server.set_nodelay(true);
                // What is measured is how long it took to be connected.
                open.answered(true, None);
                return Ok((server, open));
            }
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no connection in time"),
        }
        open.refused();
        tried.push(address);
    }
    Err(refused(last))
}
