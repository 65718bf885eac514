//! Where a balancer says what it finds.

use std::net::{IpAddr, SocketAddr};

use crate::asked::Asked;
use crate::name;
use crate::query::kind;
use crate::zone::{FIXED, Found, Layers, ip_of};

/// `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address.
    At(SocketAddr),
    /// All addresses of a name, in lower-case wire form; its port.
    Named(Vec<u8>, u16),
}

impl Place {
    /// From text; none where it is no such URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let host = text.strip_prefix("http://")?;
        let host = host.strip_suffix('/').unwrap_or(host);
        if let Ok(address) = host.parse::<SocketAddr>() {
            return Some(Self::At(address)).filter(|_| address.port() > 0);
        }
        let (host, port) = host.rsplit_once(':')?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let named = !host.is_empty() && host.chars().all(good) && host.parse::<IpAddr>().is_err();
        let port = port.parse().ok().filter(|port| *port > 0)?;
        Some(Self::Named(name::encode(host).filter(|_| named)?, port))
    }

    /// What it is now.
    pub(super) fn addresses(&self, zone: &Layers) -> Vec<SocketAddr> {
        let (wire, port) = match self {
            Self::At(address) => return vec![*address],
            Self::Named(wire, port) => (wire, *port),
        };
        let asked = Asked::of(wire);
        let mut all = Vec::new();
        for kind in [kind::A, kind::AAAA] {
            if let Found::Records(set) = zone.find(&asked, kind) {
                let data = (0..set.len()).filter_map(|at| set.record(at).get(FIXED..));
                let ips = data.filter_map(|data| ip_of(kind, data));
                all.extend(ips.map(|ip| SocketAddr::new(ip, port)));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_name_with_a_port_is_a_place() {
        let named = |wire: &[u8], port| Some(Place::Named(wire.to_vec(), port));
        for (text, expected) in [
            ("http://127.0.0.1:10260", "127.0.0.1:10260".parse().ok().map(Place::At)),
            ("http://[fd00::1]:80/", "[fd00::1]:80".parse().ok().map(Place::At)),
            ("http://Lb.example:81", named(b"\x02lb\x07example\0", 81)),
            ("http://lb.example", None),
            ("https://lb.example:81", None),
            ("lb.example:81", None),
            ("http://10.0.0.1", None),
            ("http://:80", None),
            ("http://lb.example:0", None),
            ("http://lb.example:80/down", None),
            ("http://a b:80", None),
            ("http://fd00::1:80", None),
        ] {
            assert_eq!(Place::parse(text), expected, "{text}");
        }
    }
}
