//! One check of one endpoint: TCP, HTTP/1.1, or gRPC's health service over HTTP/2.
//!
//! The gRPC message is so small that it is written here: a frame of five bytes and one field.
//! (grpc.health.v1, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.)

use std::net::{SocketAddr, SocketAddrV4};

use bytes::{Buf, Bytes};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::checks::{Check, CheckKind};

/// Of a body so much is looked at.
const LONGEST_BODY: usize = 64 * 1024;
/// `SERVING` of `grpc.health.v1.HealthCheckResponse.ServingStatus`, as its field is encoded.
const SERVING: [u8; 2] = [0x08, 1];

/// Asks; the error says what was wrong.
pub(super) async fn ask(check: &Check, address: SocketAddrV4) -> Result<(), String> {
    let port = check.port.unwrap_or(address.port());
    let address = SocketAddrV4::new(*address.ip(), port);
    let asked = timeout(check.timeout, async {
        let stream = TcpStream::connect(SocketAddr::V4(address)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match &check.kind {
            CheckKind::Tcp => Ok(()),
            CheckKind::Http(path) => http(check, stream, address, path).await,
            CheckKind::Grpc(service) => grpc(stream, address, service).await,
        }
    });
    asked.await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn http(
    check: &Check,
    stream: TcpStream,
    address: SocketAddrV4,
    path: &str,
) -> Result<(), String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(said)?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "berth-health")
        .header(header::CONNECTION, "close")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status().as_u16();
        if status < check.statuses.0 || status > check.statuses.1 {
            return Err(format!("status {status}"));
        }
        let Some(wanted) = &check.body else { return Ok(()) };
        let body = Limited::new(response.into_body(), LONGEST_BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let found = body.windows(wanted.len().max(1)).any(|part| part == wanted.as_bytes());
        if found || wanted.is_empty() { Ok(()) } else { Err("the body lacks the text".to_owned()) }
    };
    driven(connection, exchange).await
}

async fn grpc(stream: TcpStream, address: SocketAddrV4, service: &str) -> Result<(), String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(said)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(question(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(said)?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let in_header = status_of(response.headers());
        let body = Limited::new(response.into_body(), LONGEST_BODY).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let status = body.trailers().and_then(status_of).or(in_header);
        if status != Some(0) {
            return Err(format!("gRPC status {}", status.map_or("none".into(), |s| s.to_string())));
        }
        if is_serving(body.to_bytes()) { Ok(()) } else { Err("not serving".to_owned()) }
    };
    driven(connection, exchange).await
}

/// Runs `exchange` with the connection under it.
async fn driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = connection => match ended {
            // The answer is in, and whoever waits for it is told in a moment.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

fn status_of(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// `HealthCheckRequest { service }`: field 1, a text of at most 127 bytes.
fn question(service: &str) -> Bytes {
    let name: Vec<u8> = service.bytes().take(127).collect();
    let length = u8::try_from(name.len()).expect("127 at most");
    let message = if name.is_empty() { Vec::new() } else { [&[0x0a, length], &name[..]].concat() };
    let length = u8::try_from(message.len()).expect("129 at most");
    Bytes::from([&[0, 0, 0, 0, length], &message[..]].concat())
}

/// Whether a frame holds `HealthCheckResponse { status: SERVING }`.
fn is_serving(mut frame: Bytes) -> bool {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return false;
    }
    let length = frame.get_u32() as usize;
    frame.get(..length).is_some_and(|message| message == SERVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_as_the_protocol_has_them() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let answers: [(&'static [u8], bool); 6] = [
            (&[0, 0, 0, 0, 2, 8, 1], true),
            (&[0, 0, 0, 0, 2, 8, 2], false),
            (&[0, 0, 0, 0, 0], false),
            (&[1, 0, 0, 0, 2, 8, 1], false),
            (&[0, 0, 0, 0, 9, 8, 1], false),
            (&[], false),
        ];
        for (answer, expected) in answers {
            assert_eq!(is_serving(Bytes::from_static(answer)), expected, "{answer:?}");
        }
    }
}
