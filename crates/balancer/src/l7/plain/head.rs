//! The header of a request, as far as it must be understood to pass it on.
//!
//! Here everything is refused that is not wholly clear: Pingora's path, which has its own checks and
//! words for it, gets what this one does not take.

use httparse::Header;

use crate::l7::proxy::has_lone_ends;

/// Fields that a request of this path has at most.
pub(super) const FIELDS: usize = 64;

/// A request without a body, all of whose header is there.
#[derive(Debug)]
pub(super) struct Head<'h, 'b> {
    pub(super) method: &'b str,
    /// Path and query.
    pub(super) target: &'b str,
    /// As the client names it, perhaps with a port.
    pub(super) host: &'b str,
    pub(super) fields: &'h [Header<'b>],
    /// Whether the client ends the connection after this one.
    pub(super) closes: bool,
    /// Of the header, bytes.
    pub(super) length: usize,
}

/// What was found at the beginning of some bytes.
#[derive(Debug)]
pub(super) enum Found<'h, 'b> {
    Plain(Head<'h, 'b>),
    /// Not whole, and nothing wrong with it so far.
    Partial,
    Other,
}

/// What a field is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Host,
    Connection,
    /// Means something between two neighbours only, and goes no further.
    Hop,
    /// Says who the client is; ours are put in its place.
    Forwarded,
    RequestId,
    AcceptEncoding,
    /// What this path does not do: bodies, expectations, other protocols.
    Demanding,
    Other,
}

impl Field {
    pub(super) fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Self::Demanding,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Demanding,
            7 if is("upgrade") || is("trailer") => Self::Demanding,
            9 if is("forwarded") || is("x-real-ip") => Self::Forwarded,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::Hop,
            12 if is("x-request-id") => Self::RequestId,
            12 if is("content-type") => Self::Demanding,
            14 if is("content-length") || is("http2-settings") => Self::Demanding,
            15 if is("accept-encoding") => Self::AcceptEncoding,
            15 if is("x-forwarded-for") => Self::Forwarded,
            16 if is("proxy-connection") => Self::Hop,
            16 if is("x-forwarded-host") || is("x-forwarded-port") => Self::Forwarded,
            17 if is("x-forwarded-proto") => Self::Forwarded,
            17 if is("transfer-encoding") => Self::Demanding,
            _ => Self::Other,
        }
    }
}

/// Reads what `bytes` begin with; `fields` is room for it.
pub(super) fn find<'h, 'b>(
    bytes: &'b [u8],
    fields: &'h mut [std::mem::MaybeUninit<Header<'b>>],
) -> Found<'h, 'b> {
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Found::Partial,
        Err(_) => return Found::Other,
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Found::Other;
    };
    let fields: &'h [Header<'b>] = request.headers;
    // Idempotent, so that they may be repeated, and usually without a body.
    if !matches!(method, "GET" | "HEAD" | "OPTIONS" | "DELETE")
        || !is_path(target)
        || has_lone_ends(&bytes[..length])
    {
        return Found::Other;
    }
    let (mut host, mut closes) = (None, false);
    for field in fields {
        match Field::of(field.name) {
            Field::Demanding => return Found::Other,
            Field::Host if host.is_some() => return Found::Other,
            Field::Host => host = std::str::from_utf8(field.value).ok(),
            Field::Connection if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            Field::Connection if field.value.eq_ignore_ascii_case(b"close") => closes = true,
            // It names fields that are for us alone.
            Field::Connection => return Found::Other,
            _ => {}
        }
    }
    let Some(host) = host.filter(|host| is_host(host)) else { return Found::Other };
    Found::Plain(Head { method, target, host, fields, closes, length })
}

impl<'b> Head<'_, 'b> {
    pub(super) fn path(&self) -> &'b str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    pub(super) fn query(&self) -> Option<&'b str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The first field called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }
}

/// Whether it begins with a slash and has nothing in it that would have to be coded.
pub(super) fn is_path(target: &str) -> bool {
    target.starts_with('/')
        && target.bytes().all(|byte| {
            byte.is_ascii_graphic()
                && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{'..=b'}')
        })
}

/// Whether it is a name or an IPv4 address, perhaps with a port.
fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    fn check(text: &str, plain: bool) {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS];
        let found = find(text.as_bytes(), &mut room);
        assert_eq!(matches!(found, Found::Plain(_)), plain, "{text:?}");
    }

    #[test]
    fn only_what_is_clear_and_has_no_body_is_plain() {
        let with = |lines: &str| format!("GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n");
        check(&with(""), true);
        check(&with("Accept: */*\r\nConnection: keep-alive\r\n"), true);
        check(&with("connection: Close\r\n"), true);
        check("HEAD / HTTP/1.1\r\nhost: a.example:8080\r\n\r\n", true);
        check("DELETE /x HTTP/1.1\r\nhost: 192.0.2.1\r\n\r\n", true);
        for line in [
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding : chunked",
            "Expect: 100-continue",
            "Upgrade: websocket",
            "Connection: upgrade",
            "Connection: close, x-private",
            "TE: trailers",
            "Content-Type: application/grpc",
            "Host: other.example",
            "X-A: b\r\n folded",
            "X-A: b\nX-C: d",
            "X-A: b\rc",
            "X-A: b\0c",
            ": no name",
        ] {
            check(&with(&format!("{line}\r\n")), false);
        }
        for text in [
            "",
            "GET / HTTP/1.1\r\nHost: a.exam",
            "GET / HTTP/1.1\nHost: a.example\n\n",
            "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /\"x HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            check(text, false);
        }
        check(&with(&"X: y\r\n".repeat(FIELDS)), false);
    }

    #[test]
    fn what_follows_stays_for_the_next() {
        let text = "GET /a?b=c&d HTTP/1.1\r\nHost: A.example\r\nCookie: x=1\r\n\r\nGET /hidden";
        let mut room = [const { MaybeUninit::uninit() }; FIELDS];
        let Found::Plain(head) = find(text.as_bytes(), &mut room) else { panic!("{text}") };
        assert_eq!((head.path(), head.query(), head.host), ("/a", Some("b=c&d"), "A.example"));
        assert_eq!(&text[head.length..], "GET /hidden");
        assert_eq!(head.get("cookie"), Some(&b"x=1"[..]));
        assert!(!head.closes);
    }
}
