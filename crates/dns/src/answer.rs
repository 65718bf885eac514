//! Answers as they go over the wire: a header, the question as it was asked, prepared records.
//!
//! Records are prepared with the owner `C0 0C`, a pointer to the name in the question, so that one
//! preparation serves whatever case the client asked in (RFC 1035 §4.1.4).

use crate::wire::{HEADER_BYTES, MOST_UDP_BYTES, PLAIN_UDP_BYTES, Query, code};

/// Points to the name in the question.
const OWNER: [u8; 2] = [0xC0, 0x0C];

/// Records of one kind, ready to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The records, one after another.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Prepared {
    /// Adds a record whose owner is the name asked for.
    pub fn push(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        self.bytes.extend(OWNER);
        self.push_rest(kind, ttl, data);
    }

    /// Adds a record of another owner.
    pub fn push_owned(&mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) {
        self.bytes.extend(owner);
        self.push_rest(kind, ttl, data);
    }

    fn push_rest(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(code::IN.to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        // Data is a name or an address: far below 64 KiB.
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
        self.ends.push(self.bytes.len() as u32);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes before and from the record at `first`, so that answers may begin at any record.
    fn rotated(&self, first: usize) -> (&[u8], &[u8]) {
        let start = match first.checked_sub(1) {
            Some(before) => self.ends.get(before).map_or(0, |end| *end as usize),
            None => 0,
        };
        let (before, from) = self.bytes.split_at(start);
        (from, before)
    }
}

/// What is said to a query.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// The response code.
    pub code: u8,
    /// Whether the name is in a zone of ours.
    pub authoritative: bool,
    /// Whether more than one server may be asked on the client's behalf.
    pub answers: Option<&'a Prepared>,
    /// The SOA that says for how long a no is valid.
    pub authority: Option<&'a Prepared>,
    /// Addresses of the names in the answers.
    pub additional: Option<&'a Prepared>,
    /// Which answer goes first.
    pub first: usize,
}

/// How much may be sent to the client in one datagram.
pub fn udp_limit(query: &Query<'_>) -> usize {
    query
        .edns
        .map_or(PLAIN_UDP_BYTES, |size| usize::from(size).clamp(PLAIN_UDP_BYTES, MOST_UDP_BYTES))
}

/// Writes the answer into `out`, at most `limit` bytes of it: what does not fit is left out, and
/// the client is told to come by TCP.
pub fn write(query: &Query<'_>, parts: &Parts<'_>, limit: usize, out: &mut Vec<u8>) {
    let opt: &[u8] = match query.edns {
        // Root, OPT, our payload size, no extended code, version 0, no flags, no data.
        Some(_) => &[0, 0, 41, 0x04, 0xD0, 0, 0, 0, 0, 0, 0],
        None => &[],
    };
    let empty = Prepared::default();
    let [answers, authority, additional] =
        [parts.answers, parts.authority, parts.additional].map(|part| part.unwrap_or(&empty));
    let question = query.message.get(HEADER_BYTES..query.question_end).unwrap_or_default();
    let fixed = HEADER_BYTES + question.len() + opt.len();
    let needed = fixed + answers.bytes.len() + authority.bytes.len();
    let truncated = needed > limit;
    let with_additional = !truncated && needed + additional.bytes.len() <= limit;

    out.clear();
    out.extend_from_slice(query.message.get(..2).unwrap_or(&[0, 0]));
    let recursion_desired = query.message.get(2).map_or(0, |flags| flags & 1);
    let authoritative = u8::from(parts.authoritative) << 2;
    out.push(0x80 | authoritative | (u8::from(truncated) << 1) | recursion_desired);
    out.push(0x80 | parts.code); // recursion is available
    let count = |n: usize| (n as u16).to_be_bytes();
    let shown = if truncated { (0, 0) } else { (answers.len(), authority.len()) };
    let more = if with_additional { additional.len() } else { 0 };
    out.extend_from_slice(&count(1));
    out.extend_from_slice(&count(shown.0));
    out.extend_from_slice(&count(shown.1));
    out.extend_from_slice(&count(more + usize::from(!opt.is_empty())));
    out.extend_from_slice(question);
    if !truncated {
        let (from, before) = answers.rotated(parts.first % answers.len().max(1));
        out.extend_from_slice(from);
        out.extend_from_slice(before);
        out.extend_from_slice(&authority.bytes);
    }
    if with_additional {
        out.extend_from_slice(&additional.bytes);
    }
    out.extend_from_slice(opt);
}

/// Writes the answer to a message that could not be read: its id and a code.
pub fn write_unreadable(message: &[u8], code: u8, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(message.get(..2).unwrap_or(&[0, 0]));
    let opcode_and_rd = message.get(2).map_or(0, |flags| flags & 0x79);
    out.extend_from_slice(&[0x80 | opcode_and_rd, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0]);
}
