//! HTTP and HTTPS requests of probes and hooks. Certificates are not checked, as with the kubelet:
//! the question is whether the container answers, not who it is.

use std::sync::{Arc, LazyLock};

use ::http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::probes::verdict::Answer;

/// Of an answer this much is read.
const BODY_MOST: usize = 10 * 1024;

/// A GET request.
pub(super) struct Request {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub tls: bool,
    pub headers: Vec<(String, String)>,
}

/// Sends it; 200 to 399 is a success. Redirects are not followed: they are answers.
pub(super) async fn get(request: &Request) -> Answer {
    match status(request).await {
        Ok(status) if status.is_success() || status.is_redirection() => Answer::Success,
        Ok(status) => {
            Answer::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
        Err(error) => {
            let scheme = if request.tls { "https" } else { "http" };
            let Request { host, port, path, .. } = request;
            Answer::Failure(format!("Get \"{scheme}://{host}:{port}{path}\": {error}"))
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn status(request: &Request) -> Result<::http::StatusCode, Failure> {
    let stream = TcpStream::connect((request.host.as_str(), request.port)).await?;
    stream.set_nodelay(true)?;
    if !request.tls {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(request.host.clone())?;
    exchange(CONNECTOR.connect(name, stream).await?, request).await
}

async fn exchange<S>(stream: S, request: &Request) -> Result<::http::StatusCode, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = if request.path.starts_with('/') {
        request.path.clone()
    } else {
        format!("/{}", request.path)
    };
    let mut message = ::http::Request::get(path).body(Empty::<Bytes>::new())?;
    let headers = message.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&format!("{}:{}", request.host, request.port))?);
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    for (name, value) in &request.headers {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::from_str(value)?);
    }
    let exchange = async {
        let response = sender.send_request(message).await?;
        let status = response.status();
        // The whole answer counts: one that breaks off is none. One that is too long is enough.
        match Limited::new(response.into_body(), BODY_MOST).collect().await {
            Ok(_) => Ok(status),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(status),
            Err(error) => Err(error),
        }
    };
    // The connection is driven here, beside the request, so that nothing of it stays behind.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring speaks every protocol version that rustls does")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
