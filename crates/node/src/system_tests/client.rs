//! A client of the kubelet API, as the API server and kubectl are together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::codec::{Decoder, Encoder};

use crate::Config;
use crate::server::spdy::{Received, Sent, Spdy, StreamId};

/// No step of the test takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// Certificate and key, PEM.
pub(super) type Pair = (String, String);

pub(super) struct Certificates {
    pub api_server: Pair,
    pub outsider: Pair,
}

/// Puts an authority and a serving certificate into `config`.
pub(super) fn certificates(config: &mut Config) -> Certificates {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let issue = |group: Option<&str>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(config.address.into())];
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = key();
        let certificate = params.signed_by(&key, &authority).expect("signed");
        (certificate.pem(), key.serialize_pem())
    };
    let certificates = Certificates {
        api_server: issue(Some("system:masters")),
        outsider: issue(Some("developers")),
    };
    let serving = issue(None);
    config.serving = serving;
    config.client_ca_pem = authority.pem();
    certificates
}

#[derive(Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    authority: String,
    pair: Option<Pair>,
}

/// What a session said until it ended.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub stdout: String,
    pub stderr: String,
    pub status: String,
    /// The session ended with the code of a normal end.
    pub ended_well: bool,
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

impl Caller {
    pub fn new(config: &Config, certificates: &Certificates, port: u16) -> Self {
        Self {
            address: SocketAddr::from((config.address, port)),
            authority: config.client_ca_pem.clone(),
            pair: Some(certificates.api_server.clone()),
        }
    }

    pub fn with(&self, pair: &Pair) -> Self {
        Self { pair: Some(pair.clone()), ..self.clone() }
    }

    pub fn anonymous(&self) -> Self {
        Self { pair: None, ..self.clone() }
    }

    /// A connection that has exchanged a first byte, so that refused certificates show.
    pub async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("PEM"))
            .expect("an authority");
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
                )
                .expect("a pair"),
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        if self.pair.is_none() {
            // TLS 1.3 tells of a refused certificate only after the handshake.
            tokio::io::AsyncReadExt::read_u8(&mut stream).await?;
        }
        Ok(stream)
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        tokio::time::timeout(LIMIT, self.get_unlimited(path)).await.expect("in time")
    }

    #[allow(clippy::disallowed_methods)] // the test's own runtime ends it
    async fn get_unlimited(&self, path: &str) -> (u16, String) {
        let stream = TokioIo::new(self.connect().await.expect("connected"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.expect("a handshake");
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "node")
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn websocket(&self, path: &str, protocol: &str) -> Socket {
        let mut request =
            format!("ws://{}{path}", self.address).into_client_request().expect("a request");
        let protocol = protocol.parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let stream = self.connect().await.expect("connected");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("switched");
        socket
    }

    /// Runs a session that writes `input`, closes it, and reads until the status is there.
    pub async fn exec(&self, path: &str, protocol: &str, input: &[u8]) -> Said {
        let session = async {
            let (mut to, from) = self.websocket(path, protocol).await.split();
            let write = async {
                for part in input.chunks(32 << 10) {
                    let message = Message::binary([&[0], part].concat());
                    to.send(message).await.expect("sent");
                }
                if !input.is_empty() {
                    to.send(Message::binary(vec![255, 0])).await.expect("sent");
                }
            };
            tokio::join!(write, read(from)).1
        };
        tokio::time::timeout(LIMIT, session).await.expect("in time")
    }

    /// Runs a terminal session that has told its size first.
    pub async fn exec_resized(&self, path: &str, protocol: &str, rows: u16, columns: u16) -> Said {
        let session = async {
            let (mut to, from) = self.websocket(path, protocol).await.split();
            let size = format!("\u{4}{{\"Width\":{columns},\"Height\":{rows}}}");
            to.send(Message::binary(size.into_bytes())).await.expect("sent");
            read(from).await
        };
        tokio::time::timeout(LIMIT, session).await.expect("in time")
    }

    /// Sends `bytes` to `port` through SPDY inside WebSocket messages, until `answer` has come.
    pub async fn ask_through_tunnel(
        &self,
        path: &str,
        port: u16,
        bytes: &'static [u8],
        answer: &str,
    ) {
        let session = async {
            let mut socket = self.websocket(path, "SPDY/3.1+portforward.k8s.io").await;
            let mut spdy = Spdy::new().expect("a compressor");
            let mut wire = BytesMut::new();
            for (number, kind) in [(1, "error"), (3, "data")] {
                let headers = vec![
                    ("streamtype", kind.to_owned()),
                    ("port", port.to_string()),
                    ("requestid", "0".to_owned()),
                ];
                spdy.encode(Sent::Open { id: StreamId(number), headers }, &mut wire).expect("fits");
            }
            let data =
                Sent::Data { id: StreamId(3), bytes: Bytes::from_static(bytes), last: false };
            spdy.encode(data, &mut wire).expect("fits");
            socket.send(Message::binary(wire.freeze())).await.expect("sent");
            let (mut came, mut buffer) = (Vec::new(), BytesMut::new());
            while !String::from_utf8_lossy(&came).contains(answer) {
                let message = socket.next().await.expect("more").expect("whole");
                buffer.extend_from_slice(&message.into_data());
                while let Some(frame) = spdy.decode(&mut buffer).expect("valid") {
                    if let Received::Data { id: StreamId(3), bytes, .. } = frame {
                        came.extend_from_slice(&bytes);
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, session).await.expect("in time")
    }
}

async fn read(mut from: futures::stream::SplitStream<Socket>) -> Said {
    let mut said = Said::default();
    while let Some(Ok(message)) = from.next().await {
        if let Message::Close(Some(frame)) = &message {
            said.ended_well = frame.code == CloseCode::Normal;
        }
        let Message::Binary(message) = message else { continue };
        let Some((channel, text)) = message.split_first() else { continue };
        let text = String::from_utf8_lossy(text);
        match channel {
            1 => said.stdout.push_str(&text),
            2 => said.stderr.push_str(&text),
            3 => said.status.push_str(&text),
            _ => {}
        }
    }
    said
}
