//! DNS over TCP: each message behind its length (RFC 1035 §4.2.2, RFC 7766).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use socket2::Type;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::shared;
use crate::StartError;
use crate::answer::{Outcome, Transport, Via, answer};
use crate::forward::{Forward, Freshness};
use crate::own::Own;
use crate::zone::Current;

const MOST_CONNECTIONS: usize = 256;
/// How long a connection may be idle, or a write may take (RFC 7766 §6.2.3 suggests seconds).
const PATIENCE: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 128;

/// Opens the port and serves it in `tasks`.
pub(crate) fn tcp(
    address: SocketAddr,
    zone: Arc<Current>,
    forward: Arc<Forward>,
    own: Arc<Own>,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let open = || {
        let socket = shared(address, Type::STREAM)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let listener =
        open().map_err(|source| StartError::Listen { address, protocol: "TCP", source })?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let inner = tasks.clone();
    tasks.spawn_until_stop("dns over tcp", async move {
        loop {
            // A place first: who finds none waits in the kernel's queue.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "connection not accepted");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let (zone, forward) = (Arc::clone(&zone), Arc::clone(&forward));
            let own = Arc::clone(&own);
            inner.spawn_until_stop("dns over tcp", async move {
                if let Err(error) = connection(stream, client.ip(), &zone, &forward, &own).await {
                    tracing::trace!(%error, "connection ended");
                }
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn connection(
    mut stream: TcpStream,
    client: IpAddr,
    zone: &Current,
    forward: &Forward,
    own: &Own,
) -> std::io::Result<()> {
    let via = Via { transport: Transport::Tcp, client, own };
    let mut packet = Vec::new();
    let mut out = vec![0; 2 + usize::from(u16::MAX)];
    loop {
        let length = timeout(PATIENCE, stream.read_u16()).await??;
        packet.resize(usize::from(length), 0);
        timeout(PATIENCE, stream.read_exact(&mut packet)).await??;
        let outcome = answer(&zone.get(), &packet, via, &mut out[2..]);
        let length = match outcome {
            Outcome::Reply(length) => length,
            Outcome::Forward => match forward
                .answer(&packet, Transport::Tcp, Freshness::Kept)
                .await
                .map(|answered| answered.bytes)
            {
                Some(bytes) if bytes.len() <= usize::from(u16::MAX) => {
                    out[2..2 + bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                }
                _ => return Ok(()),
            },
            Outcome::Drop => return Ok(()),
        };
        out[..2].copy_from_slice(&(length as u16).to_be_bytes()); // at most u16::MAX, see `out`
        timeout(PATIENCE, stream.write_all(&out[..2 + length])).await??;
    }
}
