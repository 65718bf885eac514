//! Queries as they come over the wire, read without allocating and without trust.
//!
//! Only what a server must read: the header, the first question, the OPT record. Compression
//! pointers have no place in a first question and are refused. Source: RFC 1035 §4.1, RFC 6891.

use std::borrow::Borrow;
use std::fmt;

/// Most bytes of a name on the wire, its final zero included (RFC 1035 §3.1).
pub const MOST_NAME_BYTES: usize = 255;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 12;
/// What a client without EDNS takes over UDP.
pub const PLAIN_UDP_BYTES: usize = 512;
/// What is sent at most over UDP: fits every path without fragments (DNS flag day 2020).
pub const MOST_UDP_BYTES: usize = 1232;

/// Record types and codes by their RFC names.
pub mod code {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Canonical name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// Service location.
    pub const SRV: u16 = 33;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Internet.
    pub const IN: u16 = 1;
    /// Response codes.
    pub const NO_ERROR: u8 = 0;
    /// The query could not be read.
    pub const FORMAT_ERROR: u8 = 1;
    /// Something else failed.
    pub const SERVER_FAILURE: u8 = 2;
    /// No such name.
    pub const NAME_ERROR: u8 = 3;
    /// The kind of query is not served.
    pub const NOT_IMPLEMENTED: u8 = 4;
    /// The query is not served for this client or class.
    pub const REFUSED: u8 = 5;
}

/// A name: length-prefixed labels in lower case, ended by a zero byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// From text, with or without the final dot.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for label in
            text.trim_end_matches('.').split('.').filter(|_| text != "." && !text.is_empty())
        {
            let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
            bytes.push(length);
            bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        bytes.push(0);
        (bytes.len() <= MOST_NAME_BYTES).then(|| Self(bytes.into()))
    }

    /// This name with `label` before it; `None` when it gets too long or the label is none.
    pub fn under(&self, label: &str) -> Option<Self> {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        let mut bytes = Vec::with_capacity(self.0.len() + label.len() + 1);
        bytes.push(length);
        bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        bytes.extend_from_slice(&self.0);
        (bytes.len() <= MOST_NAME_BYTES).then(|| Self(bytes.into()))
    }

    /// On the wire.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        parent(&self.0).map(|rest| Self(rest.into()))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest: &[u8] = &self.0;
        while let Some((label, after)) = split_label(rest) {
            write!(f, "{}.", String::from_utf8_lossy(label))?;
            rest = after;
        }
        Ok(())
    }
}

/// The first label of a name on the wire, and the rest of the name.
pub fn split_label(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = name.split_first()?;
    if *length == 0 { None } else { rest.split_at_checked(usize::from(*length)) }
}

/// A name on the wire without its first label.
pub fn parent(name: &[u8]) -> Option<&[u8]> {
    split_label(name).map(|(_, rest)| rest)
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The whole message.
    pub message: &'a [u8],
    /// Where the question ends in it.
    pub question_end: usize,
    /// The name asked for, lower case.
    pub name: &'a [u8],
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// The client's UDP payload size, when it speaks EDNS.
    pub edns: Option<u16>,
}

/// Why a message is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not to be answered at all: too short, or an answer itself.
    Ignore,
    /// To be answered with this code.
    Answer(u8),
}

/// Reads a message; `name` is where its name is put in lower case.
///
/// # Errors
/// See [`Unreadable`].
pub fn read<'a>(
    message: &'a [u8],
    name: &'a mut [u8; MOST_NAME_BYTES],
) -> Result<Query<'a>, Unreadable> {
    let header = message.first_chunk::<HEADER_BYTES>().ok_or(Unreadable::Ignore)?;
    if header[2] & 0x80 != 0 {
        return Err(Unreadable::Ignore); // an answer: never answer answers
    }
    if (header[2] >> 3) & 0xF != 0 {
        return Err(Unreadable::Answer(code::NOT_IMPLEMENTED));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(4) != 1 || count(6) != 0 {
        return Err(Unreadable::Answer(code::FORMAT_ERROR));
    }
    let format = Unreadable::Answer(code::FORMAT_ERROR);
    let length = lower_name(&message[HEADER_BYTES..], name).ok_or(format)?;
    let after = HEADER_BYTES + length;
    let fixed = message.get(after..after + 4).ok_or(format)?;
    let question_end = after + 4;
    let edns = read_edns(message.get(question_end..).unwrap_or_default(), count(10));
    Ok(Query {
        message,
        question_end,
        name: &name[..length],
        kind: u16::from_be_bytes([fixed[0], fixed[1]]),
        class: u16::from_be_bytes([fixed[2], fixed[3]]),
        edns: edns.map_err(|()| format)?,
    })
}

/// Copies a name in lower case; its length on the wire.
fn lower_name(bytes: &[u8], name: &mut [u8; MOST_NAME_BYTES]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > 63 {
            return None; // a compression pointer, or a label type that was never used
        }
        let label = bytes.get(at..=at + length)?;
        let place = name.get_mut(at..=at + length)?;
        place.copy_from_slice(label);
        place[1..].make_ascii_lowercase();
        at += length + 1;
        if length == 0 {
            return Some(at);
        }
    }
}

/// The UDP payload size of the OPT record among `count` additional records.
fn read_edns(mut bytes: &[u8], count: u16) -> Result<Option<u16>, ()> {
    for _ in 0..count.min(4) {
        // OPT's owner is the root; anything else here (TSIG) is not for us.
        let [0, rest @ ..] = bytes else { return Ok(None) };
        let fixed = rest.first_chunk::<10>().ok_or(())?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let after = rest.get(10 + length..).ok_or(())?;
        if u16::from_be_bytes([fixed[0], fixed[1]]) == code::OPT {
            return Ok(Some(u16::from_be_bytes([fixed[2], fixed[3]])));
        }
        bytes = after;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, Message, Query as Question};
    use hickory_proto::rr::{Name as Theirs, RecordType};
    use proptest::prelude::*;
    use std::str::FromStr;

    fn ask(name: &str, edns: bool) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Question::query(Theirs::from_str(name).unwrap(), RecordType::A));
        if edns {
            let mut options = Edns::new();
            options.set_max_payload(1400);
            message.set_edns(options);
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn a_query_made_by_another_library_is_read() {
        let bytes = ask("Hello.Default.svc.cluster.local.", true);
        let mut name = [0; MOST_NAME_BYTES];
        let query = read(&bytes, &mut name).unwrap();
        let expected = Name::parse("hello.default.svc.cluster.local").unwrap();
        assert_eq!(query.name, expected.wire());
        assert_eq!((query.kind, query.class, query.edns), (code::A, code::IN, Some(1400)));
        let plain = ask("a.", false);
        let mut name = [0; MOST_NAME_BYTES];
        assert_eq!(read(&plain, &mut name).unwrap().edns, None);
    }

    #[test]
    fn what_is_no_query_is_told_apart() {
        let mut answer = ask("a.", false);
        answer[2] |= 0x80;
        let mut update = ask("a.", false);
        update[2] |= 5 << 3;
        let mut pointer = ask("a.", false);
        pointer[12] = 0xC0;
        for (bytes, expected) in [
            (vec![0; 5], Unreadable::Ignore),
            (answer, Unreadable::Ignore),
            (update, Unreadable::Answer(code::NOT_IMPLEMENTED)),
            (pointer, Unreadable::Answer(code::FORMAT_ERROR)),
            (ask("a.", false)[..14].to_vec(), Unreadable::Answer(code::FORMAT_ERROR)),
        ] {
            let mut name = [0; MOST_NAME_BYTES];
            assert_eq!(read(&bytes, &mut name).map(|_| ()), Err(expected));
        }
    }

    #[test]
    fn names_have_limits() {
        assert_eq!(Name::parse("").unwrap().wire(), [0]);
        assert_eq!(Name::parse("A.b.").unwrap(), Name::parse("a.B").unwrap());
        assert!(Name::parse("a..b").is_none());
        assert!(Name::parse(&"x".repeat(64)).is_none());
        assert!(Name::parse(&"x.".repeat(128)).is_none());
        assert_eq!(Name::parse("a.b").unwrap().parent(), Name::parse("b"));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut name = [0; MOST_NAME_BYTES];
            let _ = read(&bytes, &mut name);
        }

        #[test]
        fn a_query_with_flipped_bytes_never_panics(at in 0usize..60, value: u8) {
            let mut bytes = ask("some.name.in.cluster.local.", true);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let mut name = [0; MOST_NAME_BYTES];
            let _ = read(&bytes, &mut name);
        }
    }
}
