//! What we answer ourselves: plain text that names the host, the rule and what is wrong.

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use pingora::ErrorSource;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorType, Result};
use pingora::proxy::Session;

use super::routes::Backend;

/// Writes `text` as the whole answer.
pub(super) async fn answer(
    session: &mut Session,
    status: StatusCode,
    request_id: &str,
    text: String,
) -> Result<()> {
    let body = Bytes::from(text + "\n");
    let mut response = ResponseHeader::build(status, Some(5))?;
    response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    response.insert_header(HeaderName::from_static("x-request-id"), request_id)?;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header(header::RETRY_AFTER, "1")?;
    }
    // An answer to HEAD has the length and no body.
    let has_body = session.req_header().method != http::Method::HEAD;
    session.write_response_header(Box::new(response), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// The same as bytes of HTTP/1.1, after which the connection ends.
pub(super) fn whole(status: StatusCode, request_id: &str, text: &str, has_body: bool) -> Vec<u8> {
    let again = if status == StatusCode::SERVICE_UNAVAILABLE { "Retry-After: 1\r\n" } else { "" };
    let reason = status.canonical_reason().unwrap_or_default();
    let (code, length) = (status.as_u16(), text.len() + 1);
    let mut bytes = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: no-store\r\nX-Request-Id: {request_id}\r\n\
         {again}Connection: close\r\n\r\n"
    )
    .into_bytes();
    if has_body {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

/// Sends the client elsewhere.
pub(super) async fn redirect(
    session: &mut Session,
    status: StatusCode,
    request_id: &str,
    location: &str,
) -> Result<()> {
    let mut response = ResponseHeader::build(status, Some(3))?;
    response.insert_header(header::LOCATION, location)?;
    response.insert_header(header::CONTENT_LENGTH, 0)?;
    response.insert_header(HeaderName::from_static("x-request-id"), request_id)?;
    session.write_response_header(Box::new(response), true).await
}

/// The status and text for a request that could not be carried; `None` when the client is gone.
pub(super) fn explain(
    error: &Error,
    host: &str,
    backend: Option<&Backend>,
) -> Option<(StatusCode, String)> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError,
        WriteTimedout,
    };
    let kind = error.etype();
    if let HTTPStatus(code) = kind {
        let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Some((status, format!("{host}: {status}")));
    }
    let to = backend.map(ToString::to_string).unwrap_or_default();
    Some(match error.esource() {
        ErrorSource::Downstream => match kind {
            WriteError | ReadError | ConnectionClosed | WriteTimedout => return None,
            ReadTimedout => (StatusCode::REQUEST_TIMEOUT, format!("{host}: the request is late")),
            _ => (StatusCode::BAD_REQUEST, format!("{host}: the request is malformed")),
        },
        ErrorSource::Upstream => match kind {
            ConnectTimedout => (
                StatusCode::GATEWAY_TIMEOUT,
                format!("{host}: no endpoint accepted a connection in time, {to}"),
            ),
            ReadTimedout | WriteTimedout => {
                (StatusCode::GATEWAY_TIMEOUT, format!("{host}: the answer is late, {to}"))
            }
            _ => (StatusCode::BAD_GATEWAY, format!("{host}: {}, {to}", reason(kind))),
        },
        ErrorSource::Internal | ErrorSource::Unset => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{host}: the balancer failed, {to}"))
        }
    })
}

fn reason(kind: &ErrorType) -> &'static str {
    match kind {
        ErrorType::ConnectRefused => "every endpoint that was tried refused the connection",
        ErrorType::ConnectNoRoute | ErrorType::ConnectError => "no endpoint can be reached",
        ErrorType::ConnectionClosed => "the endpoint closed the connection without an answer",
        ErrorType::TLSHandshakeFailure => "no endpoint showed a certificate that is trusted",
        ErrorType::InvalidHTTPHeader => "the endpoint's answer is no HTTP",
        _ => "the endpoint broke off",
    }
}
