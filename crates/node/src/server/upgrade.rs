//! Connections to containerd's streaming server, and bytes passed through in both directions.

use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use berth_daemon::Tasks;

/// containerd answers at once: the container was looked up when the address was made.
const ANSWER: Duration = Duration::from_secs(15);
/// A refusal's text, not more.
const REFUSAL_BYTES: usize = 64 << 10;

/// Why there is no stream to the container.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The address that containerd gave cannot be used.
    #[error("containerd gave the unusable streaming address {0:?}")]
    Address(String),
    /// containerd's streaming server cannot be reached.
    #[error("cannot reach containerd's streaming server")]
    Connect(#[source] std::io::Error),
    /// The exchange broke off.
    #[error("containerd's streaming server broke off")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("containerd's streaming server did not answer within {} s", ANSWER.as_secs())]
    Late,
    /// It answered with something else than a switch of protocols.
    #[error("containerd refused the stream ({status}): {said}")]
    Refused {
        /// Its answer.
        status: StatusCode,
        /// Its text.
        said: String,
    },
}

/// A stream to a container: what containerd said, and the connection.
pub(super) struct Upgrade {
    pub headers: HeaderMap,
    pub connection: TokioIo<Upgraded>,
}

/// Asks for the stream at `url` with the upgrade `headers`.
pub(super) async fn open(
    url: &str,
    method: Method,
    headers: HeaderMap,
    tasks: &Tasks,
) -> Result<Upgrade, UpgradeError> {
    match tokio::time::timeout(ANSWER, exchange(url, method, headers, tasks)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(UpgradeError::Late),
    }
}

async fn exchange(
    url: &str,
    method: Method,
    headers: HeaderMap,
    tasks: &Tasks,
) -> Result<Upgrade, UpgradeError> {
    let wrong = || UpgradeError::Address(url.to_owned());
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?.to_string();
    let path = uri.path_and_query().ok_or_else(wrong)?.as_str();
    let stream = TcpStream::connect(&authority).await.map_err(UpgradeError::Connect)?;
    // Keystrokes are small; waiting for more of them is felt.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn_until_stop("containerd stream", async move {
        // Its errors come out at the sender or the upgraded stream.
        let _ = connection.with_upgrades().await;
    });
    let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| wrong())?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&authority).map_err(|_| wrong())?;
    request.headers_mut().insert(HOST, host);
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
        let said = body.map(|body| body.to_bytes()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        return Err(UpgradeError::Refused { status, said });
    }
    let upgraded = hyper::upgrade::on(&mut response).await?;
    let headers = response.headers().clone();
    Ok(Upgrade { headers, connection: TokioIo::new(upgraded) })
}

/// The headers of `request` that make it an upgrade, for asking containerd the same.
pub(super) fn upgrade_headers(request: &HeaderMap) -> HeaderMap {
    kept(request, |name| {
        *name == CONNECTION
            || *name == UPGRADE
            || name.as_str() == "x-stream-protocol-version"
            || name.as_str().starts_with("sec-websocket-")
    })
}

/// Headers that ask containerd for SPDY with one of `protocols`.
pub(super) fn spdy_headers(protocols: &[&'static str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for protocol in protocols {
        let name = HeaderName::from_static("x-stream-protocol-version");
        headers.append(name, HeaderValue::from_static(protocol));
    }
    headers
}

/// The answer that switches our client to the protocol that containerd chose.
pub(super) fn switching(answer: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = kept(answer, |name| {
        *name == CONNECTION
            || *name == UPGRADE
            || name.as_str().starts_with("x-")
            || name.as_str().starts_with("sec-websocket-")
    });
    response
}

fn kept(headers: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| keep(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
