//! The other end of logs and sessions: the node agent, over TLS with certificates of our CA.
//!
//! Only connecting has a time limit: a log may be followed, and a session left open, for as long as
//! anybody likes. An upgrade is passed on with the client's own headers and then byte for byte, so
//! that WebSocket and SPDY need no understanding here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_daemon::Tasks;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::call::Call;
use crate::pki::Pki;
use crate::respond::{Body, BodyError};
use crate::status::Failure;
use crate::tls::{self, TlsError};

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
const ERROR_BODY: usize = 64 * 1024;

/// Where a node agent listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// Connects to node agents.
pub(crate) struct Kubelet(TlsConnector);

impl Kubelet {
    pub(crate) fn new(pki: &Pki) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair = pki.kubelet_client();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(tls::roots(pki.ca_pem())?)
            .with_client_auth_cert(tls::certificates(&pair.cert_pem)?, tls::private_key(pair)?)?;
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Speaks TLS to node agents.
    pub(crate) fn connector(&self) -> &TlsConnector {
        &self.0
    }

    /// Gets a path and passes the answer on as it comes.
    pub(crate) async fn get(
        &self,
        place: &Place,
        path: &str,
        tasks: &Tasks,
    ) -> Result<Response<Body>, Failure> {
        let mut sender = self.connect(place, tasks).await?;
        let request = request(Method::GET, place, path, HeaderMap::new())?;
        let response = answer(place, sender.send_request(request)).await?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        // Dropping the body, when the client goes, closes the connection to the node agent.
        let body = response.into_body().map_err(BodyError::from).boxed_unsync();
        let mut answer = Response::new(body);
        if let Some(kind) = kind {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(answer)
    }

    /// Passes an upgrade through, then the bytes of both sides until either ends.
    pub(crate) async fn session(
        &self,
        place: &Place,
        path: &str,
        mut call: Call,
        tasks: &Tasks,
    ) -> Result<Response<Body>, Failure> {
        let Some(client) = call.upgrade.take() else {
            return Err(Failure::bad_request("Upgrade request required"));
        };
        if !call.headers.contains_key(UPGRADE) {
            return Err(Failure::bad_request("Upgrade request required"));
        }
        let mut sender = self.connect(place, tasks).await?;
        let mut headers = call.headers;
        for name in ["authorization", "host", "accept-encoding", "content-length"] {
            headers.remove(name);
        }
        let request = request(call.method, place, path, headers)?;
        let mut response = answer(place, sender.send_request(request)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(response).await);
        }
        let headers = response.headers().clone();
        let node = hyper::upgrade::on(&mut response);
        join(client, node, (), tasks);
        let mut answer = Response::new(crate::respond::body(Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    async fn connect(
        &self,
        place: &Place,
        tasks: &Tasks,
    ) -> Result<SendRequest<Empty<Bytes>>, Failure> {
        let connecting = async {
            let stream = TcpStream::connect((place.address, place.port)).await?;
            stream.set_nodelay(true)?;
            self.0.connect(ServerName::from(place.address), stream).await
        };
        let stream = tokio::time::timeout(CONNECT, connecting).await;
        let stream = stream.map_err(|_| unreachable(place, "no connection in time"))?;
        let stream = stream.map_err(|error| unreachable(place, error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| unreachable(place, error))?;
        tasks.spawn_until_stop("kubelet connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "kubelet connection");
            }
        });
        Ok(sender)
    }
}

/// Passes the bytes of both sides on until either ends; then `held` goes too.
pub(crate) fn join<H: Send + 'static>(client: OnUpgrade, other: OnUpgrade, held: H, tasks: &Tasks) {
    tasks.spawn_until_stop("session", async move {
        let _held = held;
        let (client, other) = match tokio::try_join!(client, other) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "session"),
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut other).await {
            tracing::debug!(%error, "session");
        }
    });
}

async fn answer(
    place: &Place,
    sent: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Result<Response<Incoming>, Failure> {
    let answer = tokio::time::timeout(ANSWER, sent).await;
    let answer = answer.map_err(|_| unreachable(place, "no answer in time"))?;
    answer.map_err(|error| unreachable(place, error))
}

fn request(
    method: Method,
    place: &Place,
    path: &str,
    headers: HeaderMap,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Empty::new())
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    let host = std::net::SocketAddr::from((place.address, place.port)).to_string();
    let host = host.parse().map_err(Failure::internal)?;
    request.headers_mut().insert(HOST, host);
    if !request.headers().contains_key(UPGRADE) {
        request.headers_mut().remove(CONNECTION);
    }
    Ok(request)
}

fn unreachable(place: &Place, why: impl std::fmt::Display) -> Failure {
    Failure::internal(format!(
        "error dialing the node agent at {}:{}: {why}",
        place.address, place.port
    ))
}

/// What the node agent said, as far as it is not too long.
async fn refused(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), ERROR_BODY).collect();
    let collected = tokio::time::timeout(ANSWER, body).await;
    let text = match collected {
        Ok(Ok(collected)) => String::from_utf8_lossy(&collected.to_bytes()).trim().to_owned(),
        _ => String::new(),
    };
    match status {
        StatusCode::NOT_FOUND => Failure::not_found_plain(text),
        StatusCode::BAD_REQUEST => Failure::bad_request(text),
        _ => Failure::internal(format!("the node agent answered {status}: {text}")),
    }
}
