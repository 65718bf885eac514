//! Listeners that several processes share, and what becomes of a connection.

mod bounds;
mod guarded;
mod proxied;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpServerApp, ServerApp};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as TcpIo;
use pingora::protocols::{ALPN, GetSocketDigest, SocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use berth_daemon::Tasks;

use super::plain::{Left, Plain};
use super::proxy::Proxy;

pub(super) use bounds::{Clients, Resets};
use guarded::Guarded;
pub(super) use guarded::HeaderSeen;
use proxied::HeaderError;
pub(super) use proxied::Proxies;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
const KEEP: Duration = Duration::from_secs(60);
/// Connections that wait in the kernel until they are accepted.
const BACKLOG: i32 = 4096;
/// The pause after a failed accept: out of descriptors, it would fail at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long an HTTP/2 client that resets too much may finish what it has begun.
const LAST_STREAMS: Duration = Duration::from_secs(1);
/// How HTTP/2 begins where nothing was agreed upon before, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The pause between two looks at a first line that is not whole yet.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Takes `address` without listening yet: a conflict is known before anything starts, and no
/// connection comes before there are routes.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Opens a socket that was taken.
pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) proxy: Arc<HttpProxy<Proxy>>,
    /// Gets what comes in the clear first.
    pub(super) plain: Arc<Plain>,
    /// Turns true when the process begins to drain.
    pub(super) shutdown: ShutdownWatch,
    /// One permit a connection.
    pub(super) room: Arc<Semaphore>,
    pub(super) clients: Clients,
    pub(super) proxies: Proxies,
    pub(super) resets: Resets,
    pub(super) header_timeout: Duration,
    pub(super) tasks: Tasks,
}

/// Accepts until the group is told to stop, then what the kernel has queued, then closes.
pub(super) async fn accept(listener: TcpListener, tls: Option<Arc<Acceptor>>, service: Service) {
    loop {
        let room = service.room.clone().acquire_owned();
        let permit = tokio::select! {
            biased;
            () = service.tasks.stopping() => break,
            permit = room => permit.expect("the semaphore is never closed"),
        };
        tokio::select! {
            biased;
            () = service.tasks.stopping() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => start(stream, peer, tls.clone(), &service, permit),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    // A closed listener resets what waits in its queue; the other processes never see it.
    while let Ok(permit) = service.room.clone().try_acquire_owned() {
        let accepted = futures::FutureExt::now_or_never(listener.accept());
        let Some(Ok((stream, peer))) = accepted else { break };
        start(stream, peer, tls.clone(), &service, permit);
    }
}

fn start(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Acceptor>>,
    service: &Service,
    permit: OwnedSemaphorePermit,
) {
    let connection = service.clone();
    if service.proxies.have(peer.ip()) {
        service.tasks.spawn("proxied-connection", async move {
            behind(stream, peer, tls, connection).await;
            drop(permit);
        });
        return;
    }
    let Some(place) = service.clients.enter(peer.ip()) else {
        return tracing::debug!(%peer, "too many connections of one client");
    };
    service.tasks.spawn("connection", async move {
        serve(stream, peer, tls, connection).await;
        drop((permit, place));
    });
}

/// A connection that `proxy` says first whose it is.
async fn behind(
    mut stream: TcpStream,
    proxy: SocketAddr,
    tls: Option<Arc<Acceptor>>,
    service: Service,
) {
    let said = tokio::time::timeout(service.header_timeout, proxied::header(&mut stream)).await;
    let client = match said {
        Ok(Ok(client)) => client,
        // As some look whether the port is open.
        Ok(Err(HeaderError::Left)) => return tracing::debug!(%proxy, "the proxy left"),
        Ok(Err(error)) => return tracing::warn!(%proxy, %error, "connection refused"),
        Err(_) => return tracing::warn!(%proxy, "the PROXY header is late, connection refused"),
    };
    let peer = client.unwrap_or(proxy);
    let Some(_place) = service.clients.enter(peer.ip()) else {
        return tracing::debug!(%peer, %proxy, "too many connections of one client");
    };
    serve(stream, peer, tls, service).await;
}

async fn serve(stream: TcpStream, peer: SocketAddr, tls: Option<Arc<Acceptor>>, service: Service) {
    let _ = stream.set_nodelay(true);
    let preface = tls.is_none() && {
        let looked = tokio::time::timeout(service.header_timeout, begins_http2(&stream)).await;
        looked.unwrap_or(false)
    };
    let (stream, read) = if tls.is_none() && !preface && service.plain.takes(peer) {
        match service.plain.serve(stream, peer).await {
            Left::Closed => return,
            Left::HandedOver(stream, read) => (stream, read),
        }
    } else {
        (stream, Vec::new())
    };
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let _ = digest.peer_addr.set(Some(peer.into()));
    let seen = HeaderSeen::default();
    let mut io: TcpIo = Guarded::new(stream, seen.clone()).into();
    io.rewind(&read);
    drop(read);
    io.set_socket_digest(digest);
    let stream: Stream = match tls {
        None => Box::new(io),
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.tls_handshake(io)).await {
            Ok(Ok(encrypted)) => Box::new(encrypted),
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake late"),
        },
    };
    if preface || matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
        // h2 bounds headers by itself.
        seen.set();
        http2(stream, peer, service).await;
    } else {
        http1(stream, seen, service).await;
    }
}

/// Whether the client's first bytes are HTTP/2's; they are left where they are.
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 24];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if length >= PREFACE.len() => return first == *PREFACE,
            // No method of HTTP/1 begins with PRI.
            Ok(length) if !PREFACE.starts_with(&first[..length]) => return false,
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Every stream of one connection, which leaves in order when it is told to or resets too much.
async fn http2(stream: Stream, peer: SocketAddr, mut service: Service) {
    let (leave, shutdown) = watch::channel(*service.shutdown.borrow());
    let watched = service.resets.watch(peer);
    let proxy = service.proxy.clone();
    let mut serving = std::pin::pin!(proxy.process_new(stream, &shutdown));
    let mut leaving = *shutdown.borrow();
    loop {
        tokio::select! {
            _ = &mut serving => return,
            changed = service.shutdown.changed(), if !leaving => {
                leaving = changed.is_err() || *service.shutdown.borrow();
                leave.send_replace(leaving);
            }
            () = watched.too_many() => {
                tracing::info!(%peer, "an HTTP/2 client resets too many requests, cut");
                leave.send_replace(true);
                let _ = tokio::time::timeout(LAST_STREAMS, serving).await;
                return;
            }
        }
    }
}

/// One request after another, each header within its time.
async fn http1(stream: Stream, seen: HeaderSeen, service: Service) {
    let mut limit = service.header_timeout;
    let mut next = Some((stream, None));
    while let Some((stream, settings)) = next {
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => {
                pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session)
            }
            None => session.set_keepalive(Some(KEEP.as_secs())),
        }
        seen.begin();
        session.set_connection_user_context(Some(Box::new(seen.clone())));
        next = tokio::select! {
            reused = service.proxy.process_new_http(session, &service.shutdown) => {
                reused.map(pingora::apps::ReusedHttpStream::consume)
            }
            () = seen.is_late(limit) => None,
        };
        limit = KEEP + service.header_timeout;
    }
}
