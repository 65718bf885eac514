//! Writing answers: the body in the form asked for, compressed when that pays.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::media::{Format, Output};
use crate::protobuf;
use crate::status::Failure;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Below this a body goes out as it is: compressing costs more than it saves.
const GZIP_FROM: usize = 128 * 1024;

pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(body(text.into()));
    *response.status_mut() = code;
    set(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

/// An answer of one JSON value, in the form asked for.
pub(crate) fn value(code: StatusCode, value: &Value, output: &Output) -> Response<Body> {
    match output.format {
        Format::Protobuf => protobuf(code, value, output),
        _ => json(code, value.to_string().into_bytes(), output),
    }
}

/// An answer in Kubernetes' protobuf form, or in JSON where there is none.
fn protobuf(code: StatusCode, value: &Value, output: &Output) -> Response<Body> {
    match protobuf::encode(value) {
        Some(bytes) => finished(code, Bytes::from(bytes), protobuf::MEDIA_TYPE, output),
        None => finished(code, Bytes::from(value.to_string()), "application/json", output),
    }
}

/// An answer of bytes that are JSON, in the form asked for.
pub(crate) fn json(code: StatusCode, json: impl Into<Bytes>, output: &Output) -> Response<Body> {
    let json = json.into();
    let (bytes, kind) = match output.format {
        Format::Json | Format::OpenApi => (json, "application/json"),
        Format::Yaml => (to_yaml(json), "application/yaml"),
        Format::Protobuf => match serde_json::from_slice(&json) {
            Ok(value) => return protobuf(code, &value, output),
            Err(_) => (json, "application/json"),
        },
    };
    finished(code, bytes, kind, output)
}

fn finished(code: StatusCode, bytes: Bytes, kind: &'static str, output: &Output) -> Response<Body> {
    let zipped = (output.gzip && bytes.len() >= GZIP_FROM).then(|| gzip(&bytes)).flatten();
    let is_zipped = zipped.is_some();
    let mut response = Response::new(body(zipped.map_or(bytes, Bytes::from)));
    *response.status_mut() = code;
    set(&mut response, CONTENT_TYPE, kind);
    set(&mut response, CACHE_CONTROL, "no-cache, private");
    set(&mut response, VARY, "Accept");
    if is_zipped {
        set(&mut response, CONTENT_ENCODING, "gzip");
    }
    response
}

/// Whether [`json`] would send a body of this size as it is.
pub(crate) fn is_plain(output: &Output, size: usize) -> bool {
    output.format == Format::Json && !(output.gzip && size >= GZIP_FROM)
}

/// An answer of JSON that is made while it is sent; for who [`is_plain`] says so.
pub(crate) fn plain<B>(code: StatusCode, json: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let mut response = Response::new(json.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    set(&mut response, CONTENT_TYPE, "application/json");
    set(&mut response, CACHE_CONTROL, "no-cache, private");
    set(&mut response, VARY, "Accept");
    response
}

fn to_yaml(json: Bytes) -> Bytes {
    let parsed = serde_json::from_slice::<Value>(&json).ok();
    match parsed.and_then(|value| serde_saphyr::to_string(&value).ok()) {
        Some(yaml) => Bytes::from(yaml),
        None => json,
    }
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn set(response: &mut Response<Body>, name: http::HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

/// A refusal as a `Status`.
pub(crate) fn failure(failure: &Failure, output: &Output) -> Response<Body> {
    let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, &failure.to_status(), output);
    response.extensions_mut().insert(crate::audit::Reason(failure.reason));
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds warnings that kubectl prints (RFC 7234 §5.5, code 299).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .filter(|letter| !letter.is_control())
            .flat_map(|letter| {
                let escape = matches!(letter, '"' | '\\').then_some('\\');
                escape.into_iter().chain([letter])
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
