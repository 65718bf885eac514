//! TLS connections of browsers: how many, and how slow they may be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
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

use berth_daemon::Tasks;

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
            let Some(share) = shares.take(peer.ip().to_canonical()) else {
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

/// How many connections each address has.
#[derive(Clone, Default)]
struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
struct Share {
    of: IpAddr,
    shares: Shares,
}

impl Shares {
    /// Nothing when `of` has [`OF_ADDRESS`] already.
    fn take(&self, of: IpAddr) -> Option<Share> {
        let mut all = self.0.lock().expect("nothing panics under this lock");
        let count = all.entry(of).or_default();
        if *count >= OF_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Share { of, shares: self.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.shares.0.lock().expect("nothing panics under this lock");
        if let Entry::Occupied(mut count) = all.entry(self.of) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places() {
        let (shares, here, there) = (Shares::default(), [127, 0, 0, 1], [127, 0, 0, 2]);
        let taken: Vec<_> = (0..OF_ADDRESS).map_while(|_| shares.take(here.into())).collect();
        assert_eq!(taken.len(), OF_ADDRESS);
        assert!(shares.take(here.into()).is_none());
        assert!(shares.take(there.into()).is_some());
        drop(taken);
        assert!(shares.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
        assert!(shares.take(here.into()).is_some());
    }
}
