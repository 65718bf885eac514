//! Requests over TLS byte by byte, as no client library would send them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::Server;

/// Far above what any of these take, far below what an attack costs that works.
pub const BOUND: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });

/// A connection of the administrator.
pub async fn connect(server: &Server) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let kubeconfig = std::fs::read_to_string(server.path("kubeconfig")).unwrap();
    let pem = |field: &str| {
        let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap();
        STANDARD.decode(line.trim_matches([':', ' ', '"'])).unwrap()
    };
    let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data"))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends bytes and reads what comes until the server ends the connection or the body is whole;
/// code 0 when it ended without an answer.
pub async fn raw(server: &Server, bytes: &[u8]) -> (u16, Value) {
    raw_within(server, bytes, BOUND).await
}

/// As [`raw`], with a bound of its own.
pub async fn raw_within(server: &Server, bytes: &[u8], bound: Duration) -> (u16, Value) {
    let mut stream = connect(server).await;
    // The server may answer and close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut got = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => got.extend_from_slice(&buffer[..count]),
            }
            if let Some(body) = body_of(&got) {
                return body;
            }
        }
        Value::Null
    };
    let body = tokio::time::timeout(bound, read).await.expect("answered in time");
    let head = String::from_utf8_lossy(&got);
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or(0), body)
}

fn body_of(got: &[u8]) -> Option<Value> {
    let end = got.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&got[..end]).to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    (got.len() - end >= length).then(|| serde_json::from_slice(&got[end..]).unwrap_or(Value::Null))
}
