//! The API's socket: TLS with optional client certificates, HTTP/1.1 and HTTP/2.
//!
//! Bounded in every direction: connections, also of one address, the time for a handshake, for a
//! request's head, idle, and (in `server`) for its body. On a stop no new connection is taken and open ones finish what they are
//! at.

mod inline;
mod places;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::audit::Source;
use crate::authentication::certificate_user;
use crate::pki::{KeyPair, Pki};
use crate::server::{Core, Origin};
use inline::Inline;
use places::{Activity, Answer, IDLE, Places};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Also how long a connection may be idle between two requests.
const REQUEST_HEAD: Duration = Duration::from_secs(60);
const HTTP2_PING: Duration = Duration::from_secs(30);
const STREAMS: u32 = 250;

/// The certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing of the kind in it.
    #[error("reading {0} from PEM")]
    Pem(&'static str),
    /// rustls refuses them.
    #[error("setting up TLS")]
    Rustls(#[from] rustls::Error),
    /// The CA cannot verify clients.
    #[error("setting up the verification of clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Pem("certificates"))
}

pub(crate) fn private_key(pair: &KeyPair) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|_| TlsError::Pem("a key"))
}

pub(crate) fn roots(pem: &str) -> Result<rustls::RootCertStore, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The server's side of TLS: whoever shows a certificate must have it from our CA.
pub(crate) fn server_config(pki: &Pki) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(pki.ca_pem())?),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&pki.api_serving().cert_pem)?,
            private_key(pki.api_serving())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes connections until the group stops.
pub(crate) async fn accept(
    core: Arc<Core>,
    config: Arc<ServerConfig>,
    listener: TcpListener,
    tasks: Tasks,
) {
    let places = Places::default();
    let acceptor = TlsAcceptor::from(config);
    loop {
        let permit = tokio::select! {
            permit = places.any() => permit,
            () = tasks.stopping() => return,
        };
        let Some(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a client gone already: leave the others some time.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = places.take(from.ip(), permit) else {
            tracing::debug!(%from, "refused: one address holds half of all connections");
            continue;
        };
        let (core, acceptor, inner) = (core.clone(), acceptor.clone(), tasks.clone());
        tasks.spawn("api connection", async move {
            connection(core, acceptor, stream, inner).await;
            drop(place);
        });
    }
}

async fn connection(core: Arc<Core>, acceptor: TlsAcceptor, stream: TcpStream, tasks: Tasks) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "handshake"),
            Err(_) => return,
        },
        () = tasks.stopping() => return,
    };
    let source = stream.get_ref().0.peer_addr().ok().map(|address| Source(address.ip()));
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let shown = shown.and_then(|certificate| certificate_user(certificate)).map(Arc::new);
    let origin = Origin::Network { shown, source };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Activity::default();
    let begun = activity.clone();
    let service = hyper::service::service_fn(move |request: http::Request<_>| {
        let (core, origin, open) = (core.clone(), origin.clone(), begun.begin());
        async move {
            let response = core.handle(request, origin).await;
            Ok::<_, Infallible>(response.map(|body| Answer { body, _open: open }))
        }
    });
    // What TLS agreed on is spoken: waiting for a first byte to guess from would have no end.
    let builder = Builder::new(Inline);
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = activity.idle(IDLE, 2) => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(HANDSHAKE, served).await.unwrap_or(Ok(()))
        }
        () = tasks.stopping() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection");
    }
}
