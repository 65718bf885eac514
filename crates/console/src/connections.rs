//! TLS connections of browsers: how many, and how slow they may be.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use berth_daemon::{Shares, Tasks};

use crate::Config;

const CONNECTIONS: usize = 4096;
/// Of one address, which may be that of a whole office: so much that nobody keeps all others out.
const OF_ADDRESS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST_HEAD: Duration = Duration::from_secs(15);
const STREAMS: u32 = 128;

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A certificate or key cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// They do not fit.
    #[error("certificate and key do not fit")]
    Tls(#[from] rustls::Error),
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

pub(crate) async fn serve(
    config: &Config,
    routes: Router,
    tasks: &Tasks,
) -> Result<SocketAddr, ServeError> {
    let tls = TlsAcceptor::from(Arc::new(tls(&config.certificate, &config.key)?));
    let address = config.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let group = tasks.clone();
    tasks.spawn_until_stop("console", async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let shares = Shares::default();
        loop {
            let place = places.clone().acquire_owned().await.expect("never closed");
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors: others have to end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(share) = shares.take(peer.ip().to_canonical(), OF_ADDRESS) else {
                tracing::debug!(%peer, "has as many connections as one address may have");
                continue;
            };
            let (tls, routes) = (tls.clone(), routes.clone());
            group.spawn_until_stop("console connection", async move {
                let _held = (place, share);
                if let Err(error) = connection(stream, peer, tls, routes).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    });
    Ok(address)
}

fn tls(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, ServeError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| ServeError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    routes: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        routes.clone().oneshot(request)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    server.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}
