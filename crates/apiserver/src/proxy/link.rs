//! A connection to the other end, made for one request.

use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::destination::{Destination, Scheme};
use crate::kubelet::Kubelet;
use crate::respond::Body;
use crate::status::Failure;
use crate::tls::TlsError;

const CONNECT: Duration = Duration::from_secs(10);
/// Requests that are passed on at the same time; the next get 429.
const MOST: usize = 1024;

/// Connects to nodes, pods and services.
pub(crate) struct Links {
    /// For pods and services.
    any: TlsConnector,
    pub(super) free: Arc<Semaphore>,
}

impl Links {
    pub(crate) fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unnamed(provider)))
            .with_no_client_auth();
        let free = Arc::new(Semaphore::new(MOST));
        Ok(Self { any: TlsConnector::from(Arc::new(config)), free })
    }

    /// A connection that takes one request.
    pub(super) async fn connect(
        &self,
        kubelet: &Kubelet,
        to: Destination,
        tasks: &Tasks,
    ) -> Result<SendRequest<Body>, Failure> {
        let connecting = self.stream(kubelet, to);
        let stream = tokio::time::timeout(CONNECT, connecting).await;
        let stream = stream.map_err(|_| unreachable("no connection in time"))?;
        let stream = TokioIo::new(stream.map_err(unreachable)?);
        let (sender, connection) = http1::handshake(stream).await.map_err(unreachable)?;
        tasks.spawn_until_stop("proxied connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "proxied connection");
            }
        });
        Ok(sender)
    }

    async fn stream(&self, kubelet: &Kubelet, to: Destination) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(to.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(to.address.ip());
        Ok(match to.scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Https => Box::new(self.any.connect(name, stream).await?),
            Scheme::Agent => Box::new(kubelet.connector().connect(name, stream).await?),
        })
    }
}

/// The other end cannot be reached, or breaks off before it answers.
pub(super) fn unreachable(why: impl std::fmt::Display) -> Failure {
    Failure::unavailable(format!("error trying to reach service: {why}"))
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Takes any certificate: pods make their own, for names that nobody here could check. The client
/// trusts the API server to have found the right pod, as it does with plain HTTP.
#[derive(Debug)]
struct Unnamed(Arc<CryptoProvider>);

impl ServerCertVerifier for Unnamed {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
