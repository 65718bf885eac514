//! One answer as the program in the kernel writes it: pure, by the code that answers at the sockets.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use foldhash::fast::FixedState;

use crate::answer::{MAX_UDP, MOST_ALIASES, Outcome, Transport, Via, answer};
use crate::asked::Asked;
use crate::name;
use crate::own::Own;
use crate::query::{CLASS_IN, HEADER, code, flag, kind, skip_name};
use crate::zone::policy::Order;
use crate::zone::{FIXED, Found, Layers, Set};

/// Longest name, so that a key is eight words.
const NAME: usize = 62;
/// Longest answer without header and question.
pub(super) const BODY: usize = 268;
/// Records that turn at most.
pub(super) const TURNS: usize = 16;
/// Numbers of `enum order`.
const AS_WRITTEN: u8 = 0;
pub(super) const BY_ID: u8 = 1;
pub(super) const BY_TURN: u8 = 2;

/// A name in lower case, filled up with zeros, and a type.
pub(crate) type Key = [u8; NAME + 2];

/// What is said to a question, but for what is taken from the question itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub flags: u16,
    /// Answers, authorities and additional records.
    pub counts: [u16; 3],
    /// All records, at most [`BODY`] bytes.
    pub body: Vec<u8>,
    /// Which record comes first: one of `enum order`.
    pub order: u8,
    /// Where each record that turns begins in the body, and where the last ends; empty if none does.
    pub starts: Vec<u16>,
    /// It depends on other names, by an alias.
    pub aliased: bool,
}

impl Answer {
    /// Whether it is that there is no such name.
    pub(super) fn says_no_name(&self) -> bool {
        self.flags & 0xF == code::NAME_ERROR
    }

    /// Where it only says that there is no such record: the zone's apex, which is the owner of the
    /// SOA record. All names of the zone share that body.
    pub(super) fn apex(&self) -> Option<&[u8]> {
        if self.counts != [0, 1, 0] {
            return None;
        }
        // Written out; a pointer would not do for another name.
        let length = name::labels(&self.body).map(|label| label.len() + 1).sum::<usize>() + 1;
        let apex = self.body.get(..length)?;
        let kind = self.body.get(length..length + 2)?;
        (apex.last() == Some(&0) && kind == kind::SOA.to_be_bytes()).then_some(apex)
    }

    /// What makes a slot another one: of a body that is shared, only whose it is.
    pub(super) fn digest(&self) -> u64 {
        let body = self.apex().unwrap_or(&self.body);
        let all = (self.flags, self.counts, body, self.order, &self.starts);
        FixedState::default().hash_one(all)
    }
}

/// The key of a question; `None` where the name is too long.
pub(super) fn key(name: &[u8], kind: u16) -> Option<Key> {
    let mut key = [0; NAME + 2];
    key.get_mut(..NAME)?.get_mut(..name.len())?.copy_from_slice(name);
    key[NAME..].copy_from_slice(&kind.to_be_bytes());
    Some(key)
}

/// The type in a key.
pub(super) fn kind_of(key: &Key) -> u16 {
    u16::from_be_bytes([key[NAME], key[NAME + 1]])
}

/// The key of the other kind of address, of one of an address.
pub(super) fn partner(key: &Key) -> Option<Key> {
    let other = match kind_of(key) {
        kind::A => kind::AAAA,
        kind::AAAA => kind::A,
        _ => return None,
    };
    let mut key = *key;
    key[NAME..].copy_from_slice(&other.to_be_bytes());
    Some(key)
}

/// The name in a key; what is none, such as a client may ask for, is as long as the room for it.
pub(super) fn name_of(key: &Key) -> &[u8] {
    question(key).map_or(&key[..NAME], |(name, _)| name)
}

/// What is asked by `key`; `None` where it is no name.
fn question(key: &Key) -> Option<(&[u8], u16)> {
    let kind = kind_of(key);
    let mut at = 0;
    loop {
        let length = usize::from(*key.get(at).filter(|_| at < NAME)?);
        at += length + 1;
        if length == 0 {
            return Some((&key[..at], kind));
        }
    }
}

/// What the kernel may answer to `key`; `None` where only the sockets can.
pub(super) fn prepare(zone: &Layers, key: &Key) -> Option<Answer> {
    let (name, kind) = question(key)?;
    if (kind::FIRST_META..=kind::ANY).contains(&kind) {
        return None;
    }
    let (order, turning, aliased) = turning(zone, name, kind)?;
    let mut packet = Vec::with_capacity(HEADER + name.len() + 4);
    packet.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(name);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&CLASS_IN.to_be_bytes());
    let mut out = [0; MAX_UDP];
    // The id is 0, with which the first record comes first; who asks does not matter here.
    let client = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let via = Via { transport: Transport::Tcp, client, own: &Own::default() };
    let Outcome::Reply(length) = answer(zone, &packet, via, &mut out) else { return None };
    let reply = &out[..length];
    let word = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    if word(2) & flag::TRUNCATED != 0 {
        return None;
    }
    let body = reply.get(packet.len()..).filter(|body| body.len() <= BODY)?;

    let starts = match turning {
        0 | 1 => vec![],
        _ => {
            let starts = starts(reply, packet.len(), usize::from(word(6)))?;
            starts.get(starts.len().checked_sub(turning + 1)?..)?.to_vec()
        }
    };
    Some(Answer {
        flags: word(2),
        counts: [word(6), word(8), word(10)],
        body: body.to_vec(),
        order,
        starts,
        aliased,
    })
}

/// What all names of the zone at `apex` share; `None` where there is no such zone.
pub(super) fn shared(zone: &Layers, apex: &[u8]) -> Option<Answer> {
    // No apex has records of this type (RFC 1035 §3.3.10: experimental).
    const NULL: u16 = 10;
    prepare(zone, &key(apex, NULL)?)
}

/// Which order the last records of the answer come in, how many they are, and whether an alias leads
/// there; `None` where it depends on more than the question.
fn turning(zone: &Layers, name: &[u8], kind: u16) -> Option<(u8, usize, bool)> {
    let mut asked = Asked::of(name);
    for aliases in 0..=MOST_ALIASES {
        match zone.find(&asked, kind) {
            Found::Records(set) => {
                let order = match set.policy() {
                    None => BY_ID,
                    Some(policy) => match policy.plain()? {
                        Order::Turn => BY_ID,
                        Order::RoundRobin => BY_TURN,
                        _ => AS_WRITTEN,
                    },
                };
                let turning = if order == AS_WRITTEN { 0 } else { set.len() };
                return (turning <= TURNS).then_some((order, turning, aliases > 0));
            }
            Found::Alias(set) => asked.read(target(set)?),
            Found::Address(_) | Found::Delegated(..) | Found::NoData(_) | Found::NoName(_) => {
                return Some((AS_WRITTEN, 0, aliases > 0));
            }
            Found::Foreign => return None,
        }
    }
    None
}

fn target(alias: Set<'_>) -> Option<&[u8]> {
    alias.record(0).get(FIXED..)
}

/// Where each record of the answer section begins, counted from `at`, and where the last ends.
fn starts(reply: &[u8], at: usize, count: usize) -> Option<Vec<u16>> {
    let mut place = at;
    let mut starts = vec![0];
    for _ in 0..count {
        let fixed = skip_name(reply, place)?;
        let length = reply.get(fixed + 8..fixed + 10)?;
        place = fixed + 10 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        starts.push(u16::try_from(place - at).ok()?);
    }
    Some(starts)
}
