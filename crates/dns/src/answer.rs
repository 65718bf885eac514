//! From a packet to its answer, without allocating.

use std::net::IpAddr;

use crate::asked::Asked;
use crate::own::Own;
use crate::query::{self, CLASS_IN, HEADER, Query, Refused, code, flag, kind};
use crate::zone::policy::{Asker, MOST};
use crate::zone::{FIXED, Found, Layers, Located, RrSet, Set, TTL};

/// The largest answer over UDP: what passes everywhere unfragmented (DNS flag day 2020).
pub(crate) const MAX_UDP: usize = 1232;
/// Aliases followed in one answer.
pub(crate) const MOST_ALIASES: usize = 8;
/// What a client without EDNS takes (RFC 1035 §4.2.1).
const MIN_UDP: usize = 512;
const OPT_LENGTH: usize = 11;
/// Furthest place in a message that a pointer can name (RFC 1035 §4.1.4).
const MOST_POINTER: usize = 0x3FFF;

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Who asks, how, and whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via<'a> {
    pub transport: Transport,
    pub client: IpAddr,
    pub own: &'a Own,
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
pub(crate) fn answer(zone: &Layers, packet: &[u8], via: Via<'_>, out: &mut [u8]) -> Outcome {
    match query::parse(packet) {
        Ok(query) => {
            let asked = Asked::of(query.name);
            respond(zone, zone.locate(&asked), &query, &asked, via, out)
        }
        Err(refused) => reject(refused, out),
    }
}

/// Says what is wrong with a packet that is no query.
pub(crate) fn reject(refused: Refused<'_>, out: &mut [u8]) -> Outcome {
    let Refused::With { id, flags, code, question, edns } = refused else { return Outcome::Drop };
    let question = if question.len() + HEADER + OPT_LENGTH > out.len() { &[] } else { question };
    let mut reply = Reply::begin(out, id, flags, question, edns);
    reply.code(code);
    Outcome::Reply(reply.finish())
}

/// Answers `query` into `out`, from the table that `located` says.
pub(crate) fn respond(
    zone: &Layers,
    located: Located<'_>,
    query: &Query<'_>,
    asked: &Asked,
    via: Via<'_>,
    out: &mut [u8],
) -> Outcome {
    let limit = limit(query, via.transport).min(out.len());
    let out = &mut out[..limit];
    if query.class != CLASS_IN || (kind::FIRST_META..kind::ANY).contains(&query.kind) {
        return refuse(query, code::REFUSED, out);
    }
    let found = located.find(asked, query.kind);
    if matches!(found, Found::Foreign) {
        return Outcome::Forward;
    }
    let mut reply = Reply::begin(out, query.id, query.flags, query.question, query.edns.is_some());
    if let Some(edns) = query.edns.as_ref().filter(|edns| edns.nsid || edns.cookie.is_some()) {
        let mut options = [0u8; crate::own::MOST_OPTIONS];
        let length = via.own.options(edns, via.client, &mut options);
        reply.options(&options[..length]);
    }
    reply.flag(flag::AUTHORITATIVE);
    match found {
        Found::Alias(set) => {
            if !aliases(zone, set, query, via, &mut reply) {
                return Outcome::Forward;
            }
        }
        found => reply.say(found, HEADER, true, via),
    }
    Outcome::Reply(reply.finish())
}

/// Follows aliases from the one in `first`; whether others need not be asked.
#[cold]
fn aliases(
    zone: &Layers,
    first: Set<'_>,
    query: &Query<'_>,
    via: Via<'_>,
    reply: &mut Reply<'_>,
) -> bool {
    let (mut set, mut owner) = (first, HEADER);
    let mut next = Asked::root();
    for _ in 0..MOST_ALIASES {
        let at = reply.length;
        if !reply.turning(set, owner, 0) {
            return true;
        }
        next.read(&set.record(0)[FIXED..]);
        // Its own target is where the next name stands in full.
        owner = at + FIXED;
        if owner > MOST_POINTER {
            return true;
        }
        match zone.find(&next, query.kind) {
            Found::Alias(further) => set = further,
            // Where nothing more is to be had, the alias alone is the answer (RFC 1034 §4.3.2).
            Found::Foreign => return query.flags & flag::RECURSION_DESIRED == 0,
            found => {
                reply.say(found, owner, false, via);
                return true;
            }
        }
    }
    reply.code(code::SERVER_FAILURE);
    true
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
    options: [u8; crate::own::MOST_OPTIONS],
    options_length: usize,
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
            options: [0; crate::own::MOST_OPTIONS],
            options_length: 0,
        }
    }

    fn code(&mut self, code: u16) {
        self.code = code;
    }

    fn flag(&mut self, flag: u16) {
        self.flags |= flag;
    }

    /// Options of the OPT record; before any record, or there may be no room for them.
    fn options(&mut self, options: &[u8]) {
        self.options[..options.len()].copy_from_slice(options);
        self.options_length = options.len();
    }

    fn reserved(&self) -> usize {
        if self.edns { OPT_LENGTH + self.options_length } else { 0 }
    }

    /// Appends bytes, if they fit with what must still follow.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        if end + self.reserved() > self.out.len() {
            return false;
        }
        self.out[self.length..end].copy_from_slice(bytes);
        self.length = end;
        true
    }

    /// One record, whose owner stands at `owner`.
    fn record(&mut self, record: &[u8], owner: usize) -> bool {
        let at = self.length;
        if !self.append(record) {
            self.flag(flag::TRUNCATED);
            return false;
        }
        self.own(at, owner);
        self.answers += 1;
        true
    }

    /// Lets the record at `at` belong to the name at `owner`.
    fn own(&mut self, at: usize, owner: usize) {
        if owner != HEADER {
            let pointer = 0xC000 | owner as u16; // at most MOST_POINTER
            self.out[at..at + 2].copy_from_slice(&pointer.to_be_bytes());
        }
    }

    /// Says what was found, for the name at `owner`; `first` where no alias led there.
    fn say(&mut self, found: Found<'_>, owner: usize, first: bool, via: Via<'_>) {
        match found {
            Found::Records(set) => self.records(set, owner, via),
            Found::Address(ip) => self.address(ip, owner),
            Found::Delegated(set, at) => self.refer(set, owner + at, first),
            Found::NoData(soa) => self.none(soa, false),
            Found::NoName(soa) => self.none(soa, true),
            Found::Alias(_) | Found::Foreign => {}
        }
    }

    /// The records of a set as its policy says, else beginning with another one each time: clients
    /// take the first.
    fn records(&mut self, set: Set<'_>, owner: usize, via: Via<'_>) {
        // The client's id is random; the product spreads its 16 bits, and keeps neighbours apart.
        let id = u32::from(u16::from_be_bytes([self.out[0], self.out[1]]));
        let seed = id.wrapping_mul(0x9E37_79B1);
        match set.policy() {
            None => {
                if !self.turning(set, owner, seed as usize % set.len().max(1)) {
                    return;
                }
            }
            Some(policy) => {
                let site = via.own.sites.of(via.client);
                let asker = Asker { client: via.client, site, seed };
                let mut picked = [0; MOST];
                let count = policy.pick(set, asker, &mut picked);
                for at in &picked[..count] {
                    if !self.record(set.record(usize::from(*at)), owner) {
                        return;
                    }
                }
            }
        }
        let (bytes, count) = set.additional();
        // They only save a question: left out when they do not fit, all or none.
        if count > 0 && self.append(bytes) {
            self.additionals += count;
        }
    }

    /// All records beginning with the one at `turn`; whether all fitted.
    fn turning(&mut self, set: Set<'_>, owner: usize, turn: usize) -> bool {
        let (all, from) = set.all_from(turn);
        let whole = self.length + all.len() + self.reserved() <= self.out.len();
        if whole && owner == HEADER {
            self.append(&all[from..]);
            self.append(&all[..from]);
            self.answers += set.len() as u16; // a set counts with 16 bits
            return true;
        }
        let count = set.len();
        (0..count).all(|index| self.record(set.record((turn + index) % count), owner))
    }

    /// Says who answers for the name that begins at `owner`.
    fn refer(&mut self, set: Set<'_>, owner: usize, first: bool) {
        if first {
            self.flags &= !flag::AUTHORITATIVE;
        }
        if owner > MOST_POINTER {
            return;
        }
        for index in 0..set.len() {
            let at = self.length;
            if !self.append(set.record(index)) {
                self.flag(flag::TRUNCATED);
                return;
            }
            self.own(at, owner);
            self.authorities += 1;
        }
        let (bytes, count) = set.additional();
        if self.append(bytes) {
            self.additionals += count;
        } else {
            // Without these addresses the servers may not be found (RFC 9471).
            self.flag(flag::TRUNCATED);
        }
    }

    /// There is nothing of that type, or at all.
    fn none(&mut self, soa: &RrSet, name: bool) {
        if name {
            self.code(code::NAME_ERROR);
        }
        if self.append(soa.record(0)) {
            self.authorities += 1;
        }
    }

    fn address(&mut self, ip: IpAddr, owner: usize) {
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
        self.record(&record[..12 + data.len()], owner);
    }

    fn finish(mut self) -> usize {
        if self.edns {
            let mut opt = [0u8; OPT_LENGTH];
            opt[1..3].copy_from_slice(&kind::OPT.to_be_bytes());
            opt[3..5].copy_from_slice(&(MAX_UDP as u16).to_be_bytes());
            opt[5] = (self.code >> 4) as u8;
            opt[9..11].copy_from_slice(&(self.options_length as u16).to_be_bytes());
            self.edns = false; // its room is no longer reserved
            if self.append(&opt) {
                self.additionals += 1;
                let options = self.options;
                self.append(&options[..self.options_length]);
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
