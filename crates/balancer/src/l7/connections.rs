//! Listeners that several processes share, and what becomes of a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use berth_daemon::Tasks;

use super::proxy::Proxy;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
const KEEP: Duration = Duration::from_secs(60);
/// Connections that wait in the kernel until they are accepted.
const BACKLOG: i32 = 4096;
/// The pause after a failed accept: out of descriptors, it would fail at once again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

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
    /// Turns true when the process begins to drain.
    pub(super) shutdown: ShutdownWatch,
    /// One permit a connection.
    pub(super) room: Arc<Semaphore>,
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
    service.tasks.spawn("connection", async move {
        serve(stream, peer, tls, connection).await;
        drop(permit);
    });
}

async fn serve(stream: TcpStream, peer: SocketAddr, tls: Option<Arc<Acceptor>>, service: Service) {
    let _ = stream.set_nodelay(true);
    let mut io = TcpIo::from(stream);
    let digest = SocketDigest::from_raw_fd(io.as_raw_fd());
    let _ = digest.peer_addr.set(Some(peer.into()));
    io.set_socket_digest(digest);
    let stream: Stream = match tls {
        None => Box::new(io),
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.tls_handshake(io)).await {
            Ok(Ok(encrypted)) => Box::new(encrypted),
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake late"),
        },
    };
    if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
        service.proxy.process_new(stream, &service.shutdown).await;
    } else {
        http1(stream, service).await;
    }
}

/// One request after another, each header within its time.
async fn http1(stream: Stream, service: Service) {
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
        let seen = HeaderSeen::default();
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

/// Whether a request's header has arrived; set by the proxy once it is read.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderSeen(Arc<AtomicBool>);

impl HeaderSeen {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Resolves after `limit`, unless the header was seen by then.
    async fn is_late(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}
