//! One answer as the program in the kernel writes it: pure, by the code that answers at the sockets.
//!
//! The layout is that of `struct key` and `struct answer` in `bpf/dns.bpf.c`, little-endian as the
//! machine.

use std::net::{IpAddr, Ipv4Addr};

use crate::answer::{MAX_UDP, MOST_ALIASES, Outcome, Transport, Via, answer};
use crate::asked::Asked;
use crate::own::Own;
use crate::query::{CLASS_IN, HEADER, code, flag, kind, skip_name};
use crate::zone::policy::Order;
use crate::zone::{FIXED, Found, Layers, Set};

/// Longest name, so that a key is eight words.
const NAME: usize = 62;
/// Longest answer without header and question.
const BODY: usize = 268;
/// Records that turn at most.
const TURNS: usize = 16;

const FLAGS: usize = 8;
const COUNTS: usize = 10;
const LENGTH: usize = 16;
const ORDER: usize = 18;
const TURNING: usize = 19;
const BYTES: usize = 24;
const STARTS: usize = BYTES + BODY;
const ALL: usize = STARTS + 2 * (TURNS + 1) + 2;

/// A name in lower case, filled up with zeros, and a type.
pub(crate) type Key = [u8; NAME + 2];
/// An answer, not yet marked.
pub(crate) type Answer = [u8; ALL];

/// Marks `answer` as that of `key`, written by the writing of that number.
pub(super) fn mark(answer: &mut Answer, key: &Key, number: u32) {
    let words = key.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let mixed = words.fold(0u64, |mixed, word| (mixed ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    answer[..4].copy_from_slice(&number.to_ne_bytes());
    answer[4..8].copy_from_slice(&((mixed >> 32) as u32).to_ne_bytes());
}

/// Whether the answer is that there is no such name.
pub(super) fn says_no_name(answer: &Answer) -> bool {
    u16::from_ne_bytes([answer[FLAGS], answer[FLAGS + 1]]) & 0xF == code::NAME_ERROR
}

/// The key of a question; `None` where the name is too long.
pub(super) fn key(name: &[u8], kind: u16) -> Option<Key> {
    let mut key = [0; NAME + 2];
    key.get_mut(..NAME)?.get_mut(..name.len())?.copy_from_slice(name);
    key[NAME..].copy_from_slice(&kind.to_be_bytes());
    Some(key)
}

/// What is asked by `key`; `None` where it is no name.
fn question(key: &Key) -> Option<(&[u8], u16)> {
    let kind = u16::from_be_bytes([key[NAME], key[NAME + 1]]);
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
    let (order, turning) = turning(zone, name, kind)?;
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

    let mut to: Answer = [0; ALL];
    let mut put = |at: usize, value: u16| to[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    put(FLAGS, word(2));
    (0..3).for_each(|section| put(COUNTS + 2 * section, word(6 + 2 * section)));
    put(LENGTH, body.len() as u16); // at most BODY
    if turning > 1 {
        let starts = starts(reply, packet.len(), usize::from(word(6)))?;
        let starts = starts.get(starts.len().checked_sub(turning + 1)?..)?;
        for (index, start) in starts.iter().enumerate() {
            put(STARTS + 2 * index, *start);
        }
        to[ORDER] = order;
        to[TURNING] = turning as u8; // at most TURNS
    }
    to[BYTES..BYTES + body.len()].copy_from_slice(body);
    Some(to)
}

/// Which order the last records of the answer come in, and how many they are; `None` where it
/// depends on more than the question.
fn turning(zone: &Layers, name: &[u8], kind: u16) -> Option<(u8, usize)> {
    const AS_WRITTEN: u8 = 0;
    const BY_ID: u8 = 1;
    const BY_TURN: u8 = 2;
    let mut asked = Asked::of(name);
    for _ in 0..=MOST_ALIASES {
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
                return (turning <= TURNS).then_some((order, turning));
            }
            Found::Alias(set) => asked.read(target(set)?),
            Found::Address(_) | Found::Delegated(..) | Found::NoData(_) | Found::NoName(_) => {
                return Some((AS_WRITTEN, 0));
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
