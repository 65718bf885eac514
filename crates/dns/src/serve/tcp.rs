//! DNS over TCP and TLS: each message behind its length (RFC 1035 §4.2.2, RFC 7766, RFC 7858).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_daemon::Tasks;
use socket2::Type;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::shares::Shares;
use super::tls::Certificate;
use super::{shared, slow};
use crate::StartError;
use crate::answer::{Outcome, Transport, Via, reject, respond};
use crate::asked::Asked;
use crate::counts::Tally;
use crate::query;
use crate::served::Served;
use crate::transfer::outgoing;

const MOST_CONNECTIONS: usize = 256;
/// Of those, one client's.
const MOST_OF_ONE: usize = 64;
/// How long a connection may be idle, or a write may take (RFC 7766 §6.2.3 suggests seconds).
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a whole zone may take to be sent.
const TRANSFER: Duration = Duration::from_secs(600);
const BACKLOG: i32 = 128;

/// Opens the port and serves it in `tasks`; with a certificate, by TLS.
pub(crate) fn tcp(
    address: SocketAddr,
    served: &Arc<Served>,
    certificate: Option<Arc<Certificate>>,
    tasks: &Tasks,
) -> Result<(), StartError> {
    let open = || {
        let socket = shared(address, Type::STREAM)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let protocol = if certificate.is_some() { "TLS" } else { "TCP" };
    let listener = open().map_err(|source| StartError::Listen { address, protocol, source })?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let shares = Shares::new(MOST_OF_ONE);
    let (inner, served) = (tasks.clone(), Arc::clone(served));
    tasks.spawn_until_stop("dns streams", async move {
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
            let Some(share) = shares.take(client.ip()) else {
                tracing::debug!(%client, "has as many connections as it may have");
                continue;
            };
            let (served, certificate) = (Arc::clone(&served), certificate.clone());
            inner.spawn_until_stop("dns stream", async move {
                let ended = match certificate {
                    None => connection(stream, client, "tcp", &served).await,
                    Some(certificate) => {
                        match timeout(PATIENCE, certificate.acceptor().accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, client, "tls", &served).await,
                            Ok(Err(error)) => Err(error),
                            Err(late) => Err(late.into()),
                        }
                    }
                };
                if let Err(error) = ended {
                    tracing::trace!(%error, "connection ended");
                }
                drop((permit, share));
            });
        }
    });
    Ok(())
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    client: SocketAddr,
    protocol: &'static str,
    served: &Served,
) -> std::io::Result<()> {
    let mut packet = Vec::new();
    let mut out = vec![0; 2 + usize::from(u16::MAX)];
    loop {
        let length = timeout(PATIENCE, stream.read_u16()).await??;
        packet.resize(usize::from(length), 0);
        timeout(PATIENCE, stream.read_exact(&mut packet)).await??;
        let begun = Instant::now();
        if outgoing::is_transfer(&packet) {
            let (zones, rules) = (served.zone.get(), served.rules.load_full());
            let sent = outgoing::send(&zones, &rules, client.ip(), &packet, &mut stream);
            timeout(TRANSFER, sent).await??;
            stream.flush().await?;
            continue;
        }
        let mut outcome = fast(served, &packet, client, &mut out[2..]);
        if outcome == Outcome::Forward {
            let slow = slow::answer(served, &packet, client.ip(), Transport::Tcp).await;
            outcome = match slow {
                Some(answered) if answered.bytes.len() <= usize::from(u16::MAX) => {
                    out[2..2 + answered.bytes.len()].copy_from_slice(&answered.bytes);
                    Outcome::Reply(answered.bytes.len())
                }
                _ => Outcome::Drop,
            };
        }
        let Outcome::Reply(length) = outcome else { return Ok(()) };
        count(served, (client, protocol), &packet, &out[2..2 + length], begun);
        out[..2].copy_from_slice(&(length as u16).to_be_bytes()); // at most u16::MAX, see `out`
        timeout(PATIENCE, stream.write_all(&out[..2 + length])).await??;
        // A TLS stream may hold it back.
        timeout(PATIENCE, stream.flush()).await??;
    }
}

/// From the table, or not at all.
fn fast(served: &Served, packet: &[u8], client: SocketAddr, out: &mut [u8]) -> Outcome {
    if slow::is_notify(packet) {
        return Outcome::Forward;
    }
    match query::parse(packet) {
        Ok(query) if query.signed => Outcome::Forward,
        Ok(query) => {
            let (zone, own) = (served.zone.get(), served.own.load());
            let via = Via { transport: Transport::Tcp, client: client.ip(), own: &own };
            let asked = Asked::of(query.name);
            respond(&zone, zone.locate(&asked), &query, &asked, via, out)
        }
        Err(refused) => reject(refused, out),
    }
}

fn count(
    served: &Served,
    (client, protocol): (SocketAddr, &'static str),
    packet: &[u8],
    reply: &[u8],
    begun: Instant,
) {
    let query = query::parse(packet).ok();
    let mut tally = Tally::default();
    tally.request(client.ip(), query.map(|query| query.kind), packet.len());
    tally.response(reply);
    tally.took(1, begun.elapsed());
    served.streams.add_shared(&tally);
    let Some(query) = query else { return };
    if let Ok(mut top) = served.streams.top.try_lock() {
        top.names.add(query.name.to_ascii_lowercase().as_slice(), 1);
        top.clients.add(&client.ip().to_canonical(), 1);
    }
    if let Some(log) = &served.log
        && rand::random_range(0..log.sample) == 0
    {
        log.push((client, protocol), (&query, packet.len()), reply, begun.elapsed());
    }
}
