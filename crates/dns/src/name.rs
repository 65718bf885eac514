//! Domain names on the wire: a length byte before each label, a zero byte at the end.
//!
//! Held in lower case wherever names are compared (RFC 4343).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 1035 §2.3.4.
pub(crate) const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// The cluster's domain.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    wire: Vec<u8>,
}

impl Domain {
    /// From text, with or without the final dot.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let wire = encode(text)?;
        // Room must be left for `_port._protocol.service.namespace.svc`.
        (wire.len() > 1 && wire.len() <= 100).then_some(Self { wire })
    }

    /// Lower-case wire form.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The wire form of `labels`, given from the left, under this domain; `None` if one is no label.
    pub(crate) fn under(&self, labels: &[&str]) -> Option<Vec<u8>> {
        let mut wire = Vec::with_capacity(MAX_NAME);
        for label in labels {
            push_label(&mut wire, label)?;
        }
        wire.extend_from_slice(&self.wire);
        (wire.len() <= MAX_NAME).then_some(wire)
    }
}

/// A name in lower-case wire form; `None` if it is no name.
pub(crate) fn encode(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.strip_suffix('.').unwrap_or(text).split('.').filter(|_| text != ".") {
        push_label(&mut wire, label)?;
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then_some(wire)
}

/// The name under which `ip` is asked for in reverse (RFC 1035 §3.5, RFC 3596 §2.5).
pub(crate) fn reverse(ip: IpAddr) -> Vec<u8> {
    let mut wire = Vec::with_capacity(80);
    let mut push = |label: &[u8]| {
        wire.push(label.len() as u8); // at most seven characters
        wire.extend_from_slice(label);
    };
    match ip {
        IpAddr::V4(ip) => {
            for octet in ip.octets().iter().rev() {
                push(octet.to_string().as_bytes());
            }
            push(b"in-addr");
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    push(&[char::from_digit(u32::from(nibble), 16).unwrap_or('0') as u8]);
                }
            }
            push(b"ip6");
        }
    }
    push(b"arpa");
    wire.push(0);
    wire
}

/// The labels of a well-formed wire name, without the root.
pub(crate) fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first()?;
        let length = usize::from(*length);
        if length == 0 || length > tail.len() {
            return None;
        }
        let (label, tail) = tail.split_at(length);
        rest = tail;
        Some(label)
    })
}

/// The name above; `None` for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first().filter(|length| **length > 0)?);
    wire.get(length + 1..)
}

/// A wire name as people write it, with the final dot.
pub(crate) fn text(wire: &[u8]) -> String {
    let mut text = String::with_capacity(wire.len());
    for label in labels(wire) {
        for byte in label {
            match byte {
                b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                    text.push('\\');
                    text.push(char::from(*byte));
                }
                b'!'..=b'~' => text.push(char::from(*byte)),
                byte => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// Whether `name` is `domain` or below it; both in lower case.
pub(crate) fn is_under(name: &[u8], domain: &[u8]) -> bool {
    let Some(start) = name.len().checked_sub(domain.len()) else { return false };
    if &name[start..] != domain {
        return false;
    }
    // Equal bytes are a parent only where a label begins.
    let mut at = 0;
    while at < start {
        at += usize::from(name[at]) + 1;
    }
    at == start
}

/// The address that a pod's name says: `10-42-0-7`, or `2001-db8--7` with the colons as dashes.
pub(crate) fn dashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let mut octets = [0u8; 4];
    let mut parts = text.split('-');
    let mut read = || -> Option<Ipv4Addr> {
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?;
            *octet = part.parse().ok()?;
        }
        parts.next().is_none().then(|| Ipv4Addr::from(octets))
    };
    if let Some(ip) = read() {
        return Some(IpAddr::V4(ip));
    }
    // On the stack: 39 characters are the longest there are.
    let mut colons = [0u8; 39];
    let colons = colons.get_mut(..label.len())?;
    for (to, from) in colons.iter_mut().zip(label) {
        *to = if *from == b'-' { b':' } else { *from };
    }
    let text = std::str::from_utf8(colons).ok()?;
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn push_label(wire: &mut Vec<u8>, label: &str) -> Option<()> {
    let length =
        u8::try_from(label.len()).ok().filter(|n| (1..=MAX_LABEL).contains(&usize::from(*n)))?;
    wire.push(length);
    wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_ends_where_a_label_begins() {
        let domain = encode("cluster.local").expect("a name");
        for (name, expected) in [
            ("cluster.local", true),
            ("web.default.svc.cluster.local", true),
            ("xcluster.local", false),
            ("local", false),
            ("example.org", false),
        ] {
            assert_eq!(is_under(&encode(name).expect("a name"), &domain), expected, "{name}");
        }
        // A label whose bytes look like the domain is no domain.
        let mut sly = vec![15u8];
        sly.extend_from_slice(&domain[..14]);
        sly.push(b'x');
        sly.push(0);
        assert!(!is_under(&sly, &domain));
    }

    #[test]
    fn dashes_stand_for_dots_and_colons() {
        let check = |text: &str, ip: &str| {
            assert_eq!(dashed(text.as_bytes()), ip.parse().ok(), "{text}");
        };
        check("10-42-0-7", "10.42.0.7");
        check("2001-db8--7", "2001:db8::7");
        check("--1", "::1");
        check("10-42-0", "none");
        check("256-1-1-1", "none");
        check("web", "none");
        check("1-2-3-4-5", "none");
    }

    #[test]
    fn names_out_of_bounds_are_none() {
        assert!(encode(&"a".repeat(64)).is_none());
        assert!(encode(&["a".repeat(63).as_str(); 4].join(".")).is_none());
        assert!(encode("a..b").is_none());
        assert_eq!(encode("."), Some(vec![0]));
        assert!(Domain::parse("").is_none());
        assert!(Domain::parse(".").is_none());
    }
}
