//! A query as it came in: read without copying, in bounds, never panicking.
//!
//! Compression pointers are refused in a question: there is nothing before it to point to.

use crate::name::MAX_NAME;

pub(crate) const HEADER: usize = 12;

/// Flags of the header's second word (RFC 1035 §4.1.1).
pub(crate) mod flag {
    pub(crate) const RESPONSE: u16 = 1 << 15;
    pub(crate) const OPCODE: u16 = 0xF << 11;
    /// RFC 1996, within [`OPCODE`].
    pub(crate) const NOTIFY: u16 = 4 << 11;
    pub(crate) const AUTHORITATIVE: u16 = 1 << 10;
    pub(crate) const TRUNCATED: u16 = 1 << 9;
    pub(crate) const RECURSION_DESIRED: u16 = 1 << 8;
    pub(crate) const RECURSION_AVAILABLE: u16 = 1 << 7;
    pub(crate) const CHECKING_DISABLED: u16 = 1 << 4;
}

/// Response codes.
pub(crate) mod code {
    pub(crate) const OK: u16 = 0;
    pub(crate) const FORMAT_ERROR: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NAME_ERROR: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    /// Needs EDNS: its upper eight bits stand there.
    pub(crate) const BAD_VERSION: u16 = 16;
}

/// Record types.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const DS: u16 = 43;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    /// From here to 254: transfers and other questions about zones, not about names.
    pub(crate) const FIRST_META: u16 = 128;
    pub(crate) const ANY: u16 = 255;
}

pub(crate) const CLASS_IN: u16 = 1;

/// What the client's OPT record says (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns<'a> {
    /// The largest UDP answer it takes.
    pub payload: u16,
    /// It wants DNSSEC records.
    pub dnssec: bool,
    /// It asks which server this is (RFC 5001).
    pub nsid: bool,
    /// Its own cookie and, if it has one, ours (RFC 7873).
    pub cookie: Option<&'a [u8]>,
}

/// Options of an OPT record.
pub(crate) mod option {
    pub(crate) const NSID: u16 = 3;
    pub(crate) const COOKIE: u16 = 10;
}

/// A well-formed query with one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub id: u16,
    pub flags: u16,
    /// Name, type and class as they came, to be sent back.
    pub question: &'a [u8],
    /// The name as it came, in wire form.
    pub name: &'a [u8],
    pub kind: u16,
    pub class: u16,
    pub edns: Option<Edns<'a>>,
    /// A signature follows (RFC 8945), which is not looked at here.
    pub signed: bool,
}

/// Why a packet is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused<'a> {
    /// Not even a header, or a response: answering could loop.
    Silently,
    /// Answered with a code.
    With {
        id: u16,
        flags: u16,
        code: u16,
        /// Empty where it could not be read.
        question: &'a [u8],
        edns: bool,
    },
}

/// Reads one packet.
pub(crate) fn parse(packet: &[u8]) -> Result<Query<'_>, Refused<'_>> {
    let header = packet.get(..HEADER).ok_or(Refused::Silently)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags) = (word(0), word(2));
    if flags & flag::RESPONSE != 0 {
        return Err(Refused::Silently);
    }
    let with = |code, question, edns| Refused::With { id, flags, code, question, edns };
    if flags & flag::OPCODE != 0 {
        return Err(with(code::NOT_IMPLEMENTED, &[], false));
    }
    let bad = with(code::FORMAT_ERROR, &[], false);
    let (questions, answers, authorities, additionals) = (word(4), word(6), word(8), word(10));
    if questions != 1 || answers != 0 || authorities != 0 {
        return Err(bad);
    }
    let end = name_end(packet, HEADER).ok_or(bad)?;
    let question = packet.get(HEADER..end + 4).ok_or(bad)?;
    let fixed = &question[question.len() - 4..];
    let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
    let class = u16::from_be_bytes([fixed[2], fixed[3]]);
    let bad = with(code::FORMAT_ERROR, question, false);
    let (options, signed) = additional(packet, end + 4, additionals).ok_or(bad)?;
    if let Some((version, _)) = options
        && version != 0
    {
        return Err(with(code::BAD_VERSION, question, true));
    }
    let edns = options.map(|(_, edns)| edns);
    let name = &question[..question.len() - 4];
    Ok(Query { id, flags, question, name, kind, class, edns, signed })
}

/// The position after the name at `at`.
fn name_end(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length > 63 || at - start > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
        at += length;
        if at - start >= MAX_NAME {
            return None;
        }
    }
}

/// The OPT record among the additional ones, with its version, and whether the last is a
/// signature; `None` for a malformed section.
fn additional(packet: &[u8], mut at: usize, count: u16) -> Option<(Option<(u8, Edns<'_>)>, bool)> {
    let mut found = None;
    let mut signed = false;
    for _ in 0..count {
        let root = packet.get(at) == Some(&0);
        at = skip_name(packet, at)?;
        let fixed = packet.get(at..at + 10)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        at = at.checked_add(10 + length).filter(|end| *end <= packet.len())?;
        // Nothing may follow one (RFC 8945 §5.1).
        if std::mem::replace(&mut signed, kind == kind::TSIG) {
            return None;
        }
        if kind == kind::OPT {
            if found.is_some() || !root {
                return None;
            }
            let payload = u16::from_be_bytes([fixed[2], fixed[3]]);
            let mut edns =
                Edns { payload, dnssec: fixed[6] & 0x80 != 0, nsid: false, cookie: None };
            options(&packet[at - length..at], &mut edns)?;
            found = Some((fixed[5], edns));
        }
    }
    Some((found, signed))
}

/// Reads the options; `None` where one is malformed.
fn options<'a>(mut rest: &'a [u8], edns: &mut Edns<'a>) -> Option<()> {
    while !rest.is_empty() {
        let code = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let value = rest.get(4..4 + length)?;
        match code {
            option::NSID => edns.nsid = true,
            // RFC 7873 §5.2.2: other lengths are malformed.
            option::COOKIE if length == 8 || (16..=40).contains(&length) => {
                edns.cookie = Some(value);
            }
            option::COOKIE => return None,
            _ => {}
        }
        rest = &rest[4 + length..];
    }
    Some(())
}

/// Past a name that may end in a compression pointer; it is not followed.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *packet.get(at)?;
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 => at += usize::from(length) + 1,
            3 => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns as TheirEdns, Message, MessageType, OpCode, Query as TheirQuery};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn packet(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(TheirQuery::query(Name::from_ascii(name).expect("a name"), kind));
        if let Some(payload) = edns {
            let mut options = TheirEdns::new();
            options.set_max_payload(payload).set_version(0);
            message.set_edns(options);
        }
        message.to_vec().expect("it encodes")
    }

    #[test]
    fn what_others_write_is_read() {
        let bytes = packet("Web.default.svc.cluster.local.", RecordType::SRV, Some(1400));
        let query = parse(&bytes).expect("a query");
        assert_eq!((query.id, query.kind, query.class), (7, kind::SRV, CLASS_IN));
        assert_eq!(
            query.edns,
            Some(Edns { payload: 1400, dnssec: false, nsid: false, cookie: None })
        );
        assert_eq!(&query.name[..5], b"\x03Web\x07");
        let bytes = packet(".", RecordType::NS, None);
        assert_eq!(parse(&bytes).expect("a query").name, [0]);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let code = |bytes: &[u8]| match parse(bytes) {
            Err(Refused::With { code, .. }) => Some(code),
            _ => None,
        };
        let good = packet("a.b.", RecordType::A, None);
        assert_eq!(parse(&good[..11]), Err(Refused::Silently));
        let edit = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(parse(&edit(2, 0x80)), Err(Refused::Silently));
        assert_eq!(code(&edit(2, 0x28)), Some(code::NOT_IMPLEMENTED));
        assert_eq!(code(&edit(5, 2)), Some(code::FORMAT_ERROR));
        assert_eq!(
            code(&edit(HEADER, 0xC0)),
            Some(code::FORMAT_ERROR),
            "a pointer in the question"
        );
        assert_eq!(code(&good[..good.len() - 1]), Some(code::FORMAT_ERROR));
        let mut newer = packet("a.b.", RecordType::A, Some(512));
        let version = newer.len() - 5;
        newer[version] = 1;
        assert_eq!(code(&newer), Some(code::BAD_VERSION));
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at in 0usize..60, byte: u8, cut in 0usize..80) {
            let mut bytes = packet("web.default.svc.cluster.local.", RecordType::A, Some(1232));
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            let _ = parse(&bytes);
        }
    }
}
