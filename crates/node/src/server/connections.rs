//! TLS connections to the kubelet API: who may connect, and how many.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use x509_parser::prelude::{FromDer, X509Certificate};

use berth_daemon::Tasks;

use crate::Config;

/// The API server keeps a handful; streams come one a connection.
const CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST_HEAD: Duration = Duration::from_secs(30);
/// Who the API server's own client certificate belongs to.
const ALLOWED_GROUP: &str = "system:masters";

/// Why the kubelet API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A certificate or key cannot be read.
    #[error("cannot read the {what}")]
    Pem {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The certificates do not fit.
    #[error("cannot use the kubelet certificate")]
    Tls(#[from] rustls::Error),
    /// The authority's certificates do not fit.
    #[error("cannot use the client certificate authority")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The port cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

pub(super) async fn serve(
    config: &Config,
    routes: Router,
    tasks: &Tasks,
) -> Result<(), ServerError> {
    let address = SocketAddr::from((config.address, config.kubelet_port));
    listen(address, tls(config)?, Door { routes, is_guarded: true }, tasks).await
}

/// What stands behind an address.
#[derive(Clone)]
pub(crate) struct Door {
    pub routes: Router,
    /// Whether only members of [`ALLOWED_GROUP`] may pass, by their certificates.
    pub is_guarded: bool,
}

/// Serves what is behind `door` at `address` until `tasks` stop.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn listen(
    address: SocketAddr,
    tls: rustls::ServerConfig,
    door: Door,
    tasks: &Tasks,
) -> Result<(), ServerError> {
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen { address, source })?;
    let group = tasks.clone();
    tasks.spawn_until_stop("HTTPS of a node", async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.expect("never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: others have to end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (tls, door) = (tls.clone(), door.clone());
            group.spawn_until_stop("HTTPS connection", async move {
                let _place = place;
                if let Err(error) = connection(stream, tls, door).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    });
    Ok(())
}

/// TLS with a certificate of one's own, for clients that show none.
///
/// # Errors
/// When certificate and key cannot be used.
pub(crate) fn tls_for_all(serving: &(String, String)) -> Result<rustls::ServerConfig, ServerError> {
    let pem = |what| move |source| ServerError::Pem { what, source };
    let chain = CertificateDer::pem_slice_iter(serving.0.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(serving.1.as_bytes()).map_err(pem("key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn tls(config: &Config) -> Result<rustls::ServerConfig, ServerError> {
    let pem = |what| move |source| ServerError::Pem { what, source };
    let certificates = |text: &str, what| {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(pem(what))
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&config.client_ca_pem, "client certificate authority")? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = certificates(&config.serving.0, "kubelet certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(config.serving.1.as_bytes()).map_err(pem("kubelet key"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    // Upgrades to SPDY and WebSocket are HTTP/1.1's.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, door: Door) -> io::Result<()> {
    // Keystrokes are small, and a peer that has vanished is to be noticed: neither is fatal.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
    let accepted = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await;
    let stream = accepted.map_err(|_| io::ErrorKind::TimedOut)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let may = !door.is_guarded || shown.is_some_and(|certificate| is_allowed(certificate));
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let routes = door.routes.clone();
        async move {
            if may {
                return routes.oneshot(request.map(axum::body::Body::new)).await;
            }
            let text = format!("only members of {ALLOWED_GROUP} may use the kubelet API\n");
            let mut response = http::Response::new(axum::body::Body::from(text));
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            Ok(response)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD);
    server
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// Every certificate of the cluster is of the same authority; only the API server's may pass.
fn is_allowed(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate
        .subject()
        .iter_organization()
        .any(|group| group.as_str().is_ok_and(|group| group == ALLOWED_GROUP))
}
