//! Answers made shorter for clients that ask for it (`Accept-Encoding`): brotli, gzip, zstd.
//!
//! Only text, from a kibibyte on, and never streams of events or gRPC, which must not wait for a
//! block to fill. The coding itself is Pingora's.

use http::{Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::compression::ResponseCompressionCtx;

/// Below this the header of the coding and the time cost more than they save.
const SHORTEST: u64 = 1024;
/// Most of the gain for a fraction of the time of the highest.
const LEVEL: u32 = 4;

/// Begins to compress when request and answer allow it; the answer's header says so then.
pub(super) fn begin(
    request: &RequestHeader,
    response: &mut ResponseHeader,
) -> Option<Box<ResponseCompressionCtx>> {
    if !is_wanted(request, response) {
        return None;
    }
    let mut compression = Box::new(ResponseCompressionCtx::new(LEVEL, false, false));
    compression.request_filter(request);
    compression.response_header_filter(response, false);
    // Without a coding that both know it has none, and nothing comes out of it.
    compression.get_info().is_some().then_some(compression)
}

fn is_wanted(request: &RequestHeader, response: &ResponseHeader) -> bool {
    let text = |name| response.headers.get(name).and_then(|value| value.to_str().ok());
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    request.method != Method::HEAD
        && request.headers.contains_key(header::ACCEPT_ENCODING)
        && response.status.is_success()
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT)
        && text(header::CONTENT_ENCODING).is_none()
        && !text(header::CACHE_CONTROL).is_some_and(|value| value.contains("no-transform"))
        && length.is_none_or(|length| length >= SHORTEST)
        && text(header::CONTENT_TYPE).is_some_and(is_text)
}

fn is_text(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let applications = ["json", "javascript", "xml", "wasm", "x-yaml", "yaml", "manifest+json"];
    match kind.split_once('/') {
        Some(("text", kind)) => kind != "event-stream",
        Some(("application", kind)) => {
            applications.contains(&kind) || kind.ends_with("+json") || kind.ends_with("+xml")
        }
        Some(("image", kind)) => kind == "svg+xml",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_some_length_that_is_not_coded_yet() {
        let check = |headers: &[(&'static str, &str)], expected: bool| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("accept-encoding", "gzip").unwrap();
            let mut response = ResponseHeader::build(200, None).unwrap();
            for (name, value) in headers {
                response.insert_header(*name, *value).unwrap();
            }
            assert_eq!(is_wanted(&request, &response), expected, "{headers:?}");
            request.remove_header("accept-encoding");
            assert!(!is_wanted(&request, &response));
        };
        let json = ("content-type", "application/json; charset=utf-8");
        check(&[json], true);
        check(&[json, ("content-length", "1024")], true);
        check(&[json, ("content-length", "1023")], false);
        check(&[json, ("content-encoding", "br")], false);
        check(&[json, ("cache-control", "public, no-transform")], false);
        check(&[("content-type", "text/html")], true);
        check(&[("content-type", "text/event-stream")], false);
        check(&[("content-type", "application/grpc")], false);
        check(&[("content-type", "image/png")], false);
        check(&[("content-type", "image/svg+xml")], true);
        check(&[], false);
    }
}
