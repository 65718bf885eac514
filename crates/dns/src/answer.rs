//! From a packet to its answer, without allocating.

use std::net::IpAddr;

use crate::query::{self, CLASS_IN, HEADER, Query, Refused, code, flag, kind};
use crate::zone::{Found, RrSet, TTL, Zone};

/// The largest answer over UDP: what passes everywhere unfragmented (DNS flag day 2020).
pub(crate) const MAX_UDP: usize = 1232;
/// What a client without EDNS takes (RFC 1035 §4.2.1).
const MIN_UDP: usize = 512;
const OPT_LENGTH: usize = 11;

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Send this many bytes of the buffer.
    Reply(usize),
    /// Ask elsewhere.
    Forward,
    /// Say nothing.
    Drop,
}

/// Answers `packet` from `zone` into `out`, which must hold [`MAX_UDP`] bytes at least.
pub(crate) fn answer(zone: &Zone, packet: &[u8], transport: Transport, out: &mut [u8]) -> Outcome {
    let query = match query::parse(packet) {
        Ok(query) => query,
        Err(Refused::Silently) => return Outcome::Drop,
        Err(Refused::With { id, flags, code, question, edns }) => {
            let question =
                if question.len() + HEADER + OPT_LENGTH > out.len() { &[] } else { question };
            let mut reply = Reply::begin(out, id, flags, question, edns);
            reply.code(code);
            return Outcome::Reply(reply.finish());
        }
    };
    let limit = limit(&query, transport).min(out.len());
    let out = &mut out[..limit];
    if query.class != CLASS_IN || (kind::FIRST_META..kind::ANY).contains(&query.kind) {
        return refuse(&query, code::REFUSED, out);
    }
    let found = zone.find(query.name, query.kind);
    if matches!(found, Found::Foreign | Found::Alias(_)) {
        return Outcome::Forward;
    }
    let mut reply = Reply::begin(out, query.id, query.flags, query.question, query.edns.is_some());
    reply.flag(flag::AUTHORITATIVE);
    match found {
        Found::Records(set) => reply.records(set, usize::from(query.id)),
        Found::Address(ip) => reply.address(ip),
        Found::NoData | Found::NoName => {
            if matches!(found, Found::NoName) {
                reply.code(code::NAME_ERROR);
            }
            if reply.append(zone.soa().record(0)) {
                reply.authorities += 1;
            }
        }
        Found::Foreign | Found::Alias(_) => {}
    }
    Outcome::Reply(reply.finish())
}

/// An answer that only carries a code.
pub(crate) fn refuse(query: &Query<'_>, code: u16, out: &mut [u8]) -> Outcome {
    let edns = query.edns.is_some();
    let mut reply = Reply::begin(out, query.id, query.flags, query.question, edns);
    reply.code(code);
    Outcome::Reply(reply.finish())
}

/// The most bytes that the client of `query` takes.
pub(crate) fn limit(query: &Query<'_>, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => {
            query.edns.map_or(MIN_UDP, |edns| usize::from(edns.payload).clamp(MIN_UDP, MAX_UDP))
        }
    }
}

struct Reply<'a> {
    out: &'a mut [u8],
    length: usize,
    flags: u16,
    code: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
    edns: bool,
}

impl<'a> Reply<'a> {
    fn begin(out: &'a mut [u8], id: u16, flags: u16, question: &[u8], edns: bool) -> Self {
        out[..2].copy_from_slice(&id.to_be_bytes());
        out[2..HEADER].fill(0);
        out[5] = u8::from(!question.is_empty());
        out[HEADER..HEADER + question.len()].copy_from_slice(question);
        let kept = flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
        Self {
            out,
            length: HEADER + question.len(),
            flags: flag::RESPONSE | flag::RECURSION_AVAILABLE | (flags & kept),
            code: code::OK,
            answers: 0,
            authorities: 0,
            additionals: 0,
            edns,
        }
    }

    fn code(&mut self, code: u16) {
        self.code = code;
    }

    fn flag(&mut self, flag: u16) {
        self.flags |= flag;
    }

    /// Appends bytes, if they fit with what must still follow.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let reserved = if self.edns { OPT_LENGTH } else { 0 };
        let end = self.length + bytes.len();
        if end + reserved > self.out.len() {
            return false;
        }
        self.out[self.length..end].copy_from_slice(bytes);
        self.length = end;
        true
    }

    /// The records of a set, beginning with another one each time: clients take the first.
    fn records(&mut self, set: &RrSet, turn: usize) {
        let count = set.len();
        for index in 0..count {
            if !self.append(set.record((turn + index) % count)) {
                self.flag(flag::TRUNCATED);
                return;
            }
            self.answers += 1;
        }
        let (bytes, count) = set.additional();
        // They only save a question: left out when they do not fit, all or none.
        if count > 0 && self.append(bytes) {
            self.additionals += count;
        }
    }

    fn address(&mut self, ip: IpAddr) {
        let mut record = [0u8; 28];
        let (v4, v6);
        let (kind, data): (u16, &[u8]) = match ip {
            IpAddr::V4(ip) => {
                v4 = ip.octets();
                (kind::A, &v4)
            }
            IpAddr::V6(ip) => {
                v6 = ip.octets();
                (kind::AAAA, &v6)
            }
        };
        record[..2].copy_from_slice(&crate::zone::TO_QUESTION);
        record[2..4].copy_from_slice(&kind.to_be_bytes());
        record[4..6].copy_from_slice(&CLASS_IN.to_be_bytes());
        record[6..10].copy_from_slice(&TTL.to_be_bytes());
        record[11] = data.len() as u8; // 4 or 16
        record[12..12 + data.len()].copy_from_slice(data);
        if self.append(&record[..12 + data.len()]) {
            self.answers += 1;
        }
    }

    fn finish(mut self) -> usize {
        if self.edns {
            let mut opt = [0u8; OPT_LENGTH];
            opt[1..3].copy_from_slice(&kind::OPT.to_be_bytes());
            opt[3..5].copy_from_slice(&(MAX_UDP as u16).to_be_bytes());
            opt[5] = (self.code >> 4) as u8;
            self.edns = false; // its room is no longer reserved
            if self.append(&opt) {
                self.additionals += 1;
            }
        }
        let flags = self.flags | (self.code & 0xF);
        self.out[2..4].copy_from_slice(&flags.to_be_bytes());
        for (at, count) in [(6, self.answers), (8, self.authorities), (10, self.additionals)] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        self.length
    }
}

#[cfg(test)]
mod tests;
