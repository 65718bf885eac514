//! What a request and its connection say of themselves.

use std::net::SocketAddr;
use std::sync::LazyLock;

use http::{HeaderValue, Version, header};
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::super::pick::random;
use super::super::routes::DoorName;
use super::REQUEST_ID;

/// Unlike any other of this process or another; no secret. (A system call for each would cost as
/// much as the lookup.)
pub(super) fn new_id() -> String {
    static SEED: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().0);
    format!("{:016x}{:016x}", *SEED, random())
}

/// Who is at the other end of the connection.
pub(super) fn peer(session: &Session) -> Option<SocketAddr> {
    session.client_addr()?.as_inet().copied()
}

pub(super) fn door(session: &Session) -> DoorName {
    let encrypted = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    if encrypted { DoorName::Https } else { DoorName::Http }
}

pub(super) fn scheme(session: &Session) -> &'static str {
    match door(session) {
        DoorName::Http => "http",
        DoorName::Https => "https",
    }
}

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

pub(super) fn is_grpc(header: &RequestHeader) -> bool {
    let kind = header.headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Host and port as the client named them.
pub(super) fn authority(header: &RequestHeader) -> Option<&str> {
    let from_uri = header.uri.authority().map(http::uri::Authority::as_str);
    from_uri.or_else(|| header.headers.get(header::HOST)?.to_str().ok())
}

/// The host in lower case, without a port and the root's dot.
pub(super) fn host(header: &RequestHeader) -> String {
    let named = authority(header).unwrap_or_default();
    // An IPv6 address has colons of its own; no rule can name one.
    let host = if named.starts_with('[') { named } else { named.split(':').next().unwrap_or("") };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The client's own, if it is short and plain, else a new one.
pub(super) fn request_id(header: &RequestHeader) -> String {
    request_id_or_new(header.headers.get(REQUEST_ID).map(HeaderValue::as_bytes))
}

/// What the client gave, if it is short and plain, else a new one.
pub(in crate::l7) fn request_id_or_new(given: Option<&[u8]>) -> String {
    let plain = |bytes: &&[u8]| {
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    let given = given.filter(plain).and_then(|given| std::str::from_utf8(given).ok());
    given.map_or_else(new_id, str::to_owned)
}
