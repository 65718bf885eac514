//! The PROXY protocol, versions 1 and 2, in and out: who the client is, said before its first byte.
//!
//! Believed only where a listener is told that such a proxy stands in front of it: anybody else
//! could say anything. There it is demanded, so that nobody gets around the proxy unseen.
//!
//! # What it refuses
//! TLVs are skipped, UNIX addresses count as unknown, a header longer than [`LONGEST`] is none.
//!
//! Source: <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read: version 1 has at most 107 bytes, version 2 as much as it says.
pub const LONGEST: usize = 2048;
/// Version 1's longest line, with its end.
const LONGEST_LINE: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of the client's own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub from: SocketAddr,
    /// Where it connected to.
    pub to: SocketAddr,
}

/// Which form is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header: {0}")]
pub struct Malformed(&'static str);

/// Reads a header: the ends (`None` when the proxy speaks for itself, or does not know them) and
/// how many bytes it has. `Ok(None)` when more bytes are needed.
///
/// # Errors
/// When no header begins like this.
pub fn parse(bytes: &[u8]) -> Result<Option<(Option<Ends>, usize)>, Malformed> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return if common < SIGNATURE.len() { Ok(None) } else { two(bytes) };
    }
    one(bytes)
}

fn one(bytes: &[u8]) -> Result<Option<(Option<Ends>, usize)>, Malformed> {
    const WORD: &[u8] = b"PROXY ";
    let common = bytes.len().min(WORD.len());
    if bytes[..common] != WORD[..common] {
        return Err(Malformed("it begins otherwise"));
    }
    let searched = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = searched.windows(2).position(|two| two == b"\r\n") else {
        let full = searched.len() == LONGEST_LINE;
        return if full { Err(Malformed("the line is too long")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed("no text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let ends = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let from = SocketAddr::new(ip(family, from)?, port(from_port)?);
            Some(Ends { from, to: SocketAddr::new(ip(family, to)?, port(to_port)?) })
        }
        _ => return Err(Malformed("the words are others")),
    };
    Ok(Some((ends, end + 2)))
}

fn ip(family: &str, text: &str) -> Result<IpAddr, Malformed> {
    let ip = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        _ => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
    };
    ip.ok_or(Malformed("an address is none"))
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed("a port is none"))
}

/// `bytes` begin with the signature.
fn two(bytes: &[u8]) -> Result<Option<(Option<Ends>, usize)>, Malformed> {
    let Some((&[version_command, family_transport, high, low], rest)) =
        bytes[SIGNATURE.len()..].split_first_chunk::<4>()
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = SIGNATURE.len() + 4 + length;
    if version_command >> 4 != 2 {
        return Err(Malformed("the version is another"));
    }
    if whole > LONGEST {
        return Err(Malformed("it is too long"));
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let ends = match (version_command & 0x0f, family_transport >> 4) {
        (0, _) => None,
        (1, 1) => Some(ends::<4, _>(payload, |ip: [u8; 4]| IpAddr::from(ip))?),
        (1, 2) => Some(ends::<16, _>(payload, |ip: [u8; 16]| IpAddr::from(ip))?),
        // Unspecified and UNIX.
        (1, 0 | 3) => None,
        (1, _) => return Err(Malformed("the family is unknown")),
        _ => return Err(Malformed("the command is unknown")),
    };
    Ok(Some((ends, whole)))
}

fn ends<const N: usize, F>(payload: &[u8], ip: F) -> Result<Ends, Malformed>
where
    F: Fn([u8; N]) -> IpAddr,
{
    let short = Malformed("the addresses are cut off");
    let (from, rest) = payload.split_first_chunk::<N>().ok_or(short)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or(short)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(short)?;
    let from_port = u16::from_be_bytes([ports[0], ports[1]]);
    let to_port = u16::from_be_bytes([ports[2], ports[3]]);
    Ok(Ends { from: SocketAddr::new(ip(*from), from_port), to: SocketAddr::new(ip(*to), to_port) })
}

/// The header that says `ends`.
pub fn write(version: Version, ends: Ends) -> Vec<u8> {
    let (from, to) = same_family(ends);
    let mut header = Vec::with_capacity(64);
    match version {
        Version::One => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_ip, to_ip) = (from.ip(), to.ip());
            write!(header, "PROXY {family} {from_ip} {to_ip} {} {}\r\n", from.port(), to.port())
                .expect("writing to a Vec cannot fail");
        }
        Version::Two => {
            header.extend(SIGNATURE);
            header.push(0x21);
            match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.extend([0x11, 0, 12]);
                    header.extend(from.octets());
                    header.extend(to.octets());
                }
                (from, to) => {
                    header.extend([0x21, 0, 36]);
                    header.extend(mapped(from).octets());
                    header.extend(mapped(to).octets());
                }
            }
            header.extend(from.port().to_be_bytes());
            header.extend(to.port().to_be_bytes());
        }
    }
    header
}

/// Both of one family: IPv4 where both have it, also dressed as IPv6, else IPv6.
fn same_family(ends: Ends) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (plain(ends.from), plain(ends.to));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let six = |end: SocketAddr| SocketAddr::new(IpAddr::V6(mapped(end.ip())), end.port());
    (six(from), six(to))
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(from: &str, to: &str) -> Ends {
        Ends { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn lines_of_version_one() {
        let check = |line: &str, expected: Result<Option<Option<Ends>>, ()>| {
            let whole = expected.map(|found| found.map(|ends| (ends, line.len())));
            let with_more = [line.as_bytes(), b"GET /"].concat();
            assert_eq!(parse(&with_more).map_err(drop), whole, "{line:?}");
        };
        let four = ends("192.0.2.1:5000", "198.51.100.2:443");
        check("PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n", Ok(Some(Some(four))));
        let six = ends("[2001:db8::1]:0", "[::1]:65535");
        check("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", Ok(Some(Some(six))));
        check("PROXY UNKNOWN\r\n", Ok(Some(None)));
        check("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Ok(Some(None)));
        for wrong in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 5000\r\n",
            "PROXY TCP4 ::1 198.51.100.2 5000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 05000 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +500 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 70000 443\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "GET / HTTP/1.1\r\n",
            "proxy UNKNOWN\r\n",
        ] {
            check(wrong, Err(()));
        }
        assert_eq!(parse(b"PROX"), Ok(None));
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1"), Ok(None));
        assert!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()).is_err());
    }

    #[test]
    fn headers_of_version_two() {
        let known = ends("192.0.2.1:5000", "198.51.100.2:443");
        let mut header = write(Version::Two, known);
        assert_eq!(parse(&header), Ok(Some((Some(known), 28))));
        // Longer by a TLV, which is skipped.
        header[15] = 12 + 4;
        header.extend([0xea, 0, 1, 7, b'x']);
        assert_eq!(parse(&header), Ok(Some((Some(known), 32))));
        // Spoken for itself: a health check of the proxy.
        header[12] = 0x20;
        assert_eq!(parse(&header), Ok(Some((None, 32))));
        for (at, wrong) in [(12, 0x11), (12, 0x22), (13, 0x51), (15, 3), (14, 0xff)] {
            let mut header = write(Version::Two, known);
            header[at] = wrong;
            header.resize(80, 0);
            assert!(parse(&header).is_err(), "{at} {wrong}");
        }
    }

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        let four = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
        let six = (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from);
        prop_oneof![four, six]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(from in addresses(), to in addresses(), two: bool, cut in 0_usize..108) {
            let version = if two { Version::Two } else { Version::One };
            let header = write(version, Ends { from, to });
            let (from, to) = same_family(Ends { from, to });
            prop_assert_eq!(parse(&header), Ok(Some((Some(Ends { from, to }), header.len()))));
            // Any beginning of it asks for more.
            let beginning = &header[..cut.min(header.len() - 1)];
            prop_assert_eq!(parse(beginning), Ok(None));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
