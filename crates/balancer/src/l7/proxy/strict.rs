//! What is refused before anything is routed by it: messages that two readers could understand in
//! two ways.
//!
//! Pingora's parser is forgiving where RFC 9112 allows it: a lone LF ends a line, a length beside
//! chunks is passed over, equal lengths are one. Whoever stands before or behind us may read the
//! same bytes otherwise, and then a body becomes a request (request smuggling). So all of that is
//! an error here.

use http::{StatusCode, header};
use pingora::proxy::Session;

/// The longest header of a request, all lines together, bytes.
pub(in crate::l7) const LONGEST_HEADER: usize = 32 * 1024;

/// Why the request is refused, if it is.
pub(super) fn refuse(session: &Session) -> Option<(StatusCode, &'static str)> {
    let bad = |why| Some((StatusCode::BAD_REQUEST, why));
    if let Some(raw) = raw(session) {
        if raw.len() > LONGEST_HEADER {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Some((status, "the header is longer than 32 KiB"));
        }
        if has_lone_ends(&raw) {
            return bad("a line of the header does not end in CR LF");
        }
        // The parser drops a length beside chunks, so it is looked for in what was sent.
        let headers = &session.req_header().headers;
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if chunked && has_length(&raw) {
            return bad("both Content-Length and Transfer-Encoding");
        }
        let codings = headers.get_all(header::TRANSFER_ENCODING);
        if chunked
            && (codings.iter().count() != 1
                || !codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")))
        {
            return bad("a Transfer-Encoding other than chunked");
        }
    }
    let headers = &session.req_header().headers;
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(length), next) = (lengths.next(), lengths.next())
        && (next.is_some()
            || length.is_empty()
            || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return bad("a Content-Length that is not one number");
    }
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return bad("more than one Host");
    }
    None
}

/// The header as it was sent; HTTP/2 has none.
fn raw(session: &Session) -> Option<bytes::Bytes> {
    match session.as_downstream() {
        pingora::protocols::http::ServerSession::H1(h1) => Some(h1.get_headers_raw_bytes()),
        _ => None,
    }
}

/// Whether there is a CR without LF, or LF without CR.
pub(in crate::l7) fn has_lone_ends(raw: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &raw[at..]) {
        let end = at + found;
        if raw[end] != b'\r' || raw.get(end + 1) != Some(&b'\n') {
            return true;
        }
        at = end + 2;
    }
    false
}

fn has_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|byte| *byte == b'\n').any(|line| {
        let Some((name, rest)) = line.split_at_checked(NAME.len()) else { return false };
        name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), Some(b':' | b' ' | b'\t'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_both() {
        for good in ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            assert!(!has_lone_ends(good.as_bytes()), "{good:?}");
        }
        for bad in ["a\nb\r\n", "a\r\nb\n\n", "a\rb\r\n", "a\r", "a\r\r\n", "\n"] {
            assert!(has_lone_ends(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn a_length_is_found_whatever_its_case() {
        let check = |raw: &str, expected| assert_eq!(has_length(raw.as_bytes()), expected, "{raw}");
        check("GET / HTTP/1.1\r\nContent-Length: 3\r\n", true);
        check("GET / HTTP/1.1\r\nCONTENT-LENGTH:3\r\n", true);
        check("GET / HTTP/1.1\r\nX-Content-Length: 3\r\n", false);
        check("GET / HTTP/1.1\r\nContent-Lengthy: 3\r\n", false);
    }
}
