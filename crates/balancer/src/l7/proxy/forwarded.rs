//! Who the client is, and how the pods learn of it.
//!
//! Headers that say so are believed only from proxies that the configuration trusts: from anybody
//! else they are taken away. Of a chain of addresses the last one that is no trusted proxy's is
//! the client; what stands before it anybody could have written.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use pingora::http::RequestHeader;
use pingora::prelude::Result;
use pingora::proxy::Session;

use super::said::{authority, peer, scheme};
use crate::l7::Config;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL: HeaderName = HeaderName::from_static("x-real-ip");
/// RFC 7239.
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// The client behind `peer`.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let mut nearest = peer;
    for line in headers.get_all(FOR).iter().rev() {
        for text in line.to_str().unwrap_or_default().rsplit(',') {
            let Some(address) = address(text.trim()) else { return nearest };
            nearest = address;
            if !is_trusted(&address) {
                return address;
            }
        }
    }
    nearest
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Writes what the pod is to know.
pub(super) fn put(config: &Config, session: &Session, upstream: &mut RequestHeader) -> Result<()> {
    let peer = peer(session).map(|address| address.ip());
    let trusted = peer.is_some_and(|peer| config.trusted_proxies.iter().any(|n| n.contains(&peer)));
    let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let headers = &session.req_header().headers;
    let received = |name: &HeaderName| {
        let value = headers.get(name)?.to_str().ok()?;
        trusted.then_some(value)
    };
    let chain = trusted.then(|| {
        let lines = headers.get_all(FOR).iter().filter_map(|line| line.to_str().ok());
        lines.chain([peer.as_str()]).collect::<Vec<_>>().join(", ")
    });
    let scheme = received(&PROTO).unwrap_or_else(|| scheme(session));
    let host = received(&HOST).or_else(|| authority(session.req_header())).unwrap_or_default();
    if config.forwarded {
        let node = if peer.contains(':') { format!("\"[{peer}]\"") } else { peer.clone() };
        let own = format!("for={node};host=\"{host}\";proto={scheme}");
        let before = received(&FORWARDED);
        let value = before.map_or(own.clone(), |before| format!("{before}, {own}"));
        upstream.insert_header(FORWARDED, value)?;
    }
    if !trusted {
        for name in [&PORT, &REAL] {
            if headers.contains_key(name) {
                upstream.remove_header(name);
            }
        }
        if !config.forwarded && headers.contains_key(FORWARDED) {
            upstream.remove_header(&FORWARDED);
        }
    }
    upstream.insert_header(PROTO, scheme)?;
    upstream.insert_header(HOST, host)?;
    upstream.insert_header(FOR, chain.unwrap_or(peer))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_that_is_no_trusted_proxy() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FOR, line.parse().unwrap());
            }
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), expected, "{peer} {lines:?}");
        };
        check("192.0.2.1", &["1.2.3.4"], "192.0.2.1");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["1.2.3.4"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6", "1.2.3.4:80"], "1.2.3.4");
        check("10.0.0.1", &["6.6.6.6, nonsense"], "10.0.0.1");
        check("10.0.0.1", &["2001:db8::1"], "2001:db8::1");
        check("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
    }
}
