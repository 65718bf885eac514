//! Keys, slots and bodies as the program in the kernel reads them: `struct key`, `struct slot` and
//! `struct body` of `bpf/dns.bpf.c`, little-endian as the machine.

use super::prepare::{Answer, BODY, BY_TURN, Key, TURNS};

/// Two lines of cache.
pub(super) type Slot = [u8; 128];
/// A long answer, or one that many names share.
pub(super) type Body = [u8; 320];

/// Longest body that stands beside its name.
const SHORT: usize = 44;

const WRITING: usize = 64;
const MORE: usize = 68;
const FLAGS: usize = 72;
const LENGTH: usize = 74;
const COUNTS: usize = 76;
const ORDER: usize = 79;
const TURNING: usize = 80;
const FIRST: usize = 81;
const STEP: usize = 82;
const PAST: usize = 83;
const BYTES: usize = 84;

const BODY_BYTES: usize = 8;
const STARTS: usize = BODY_BYTES + BODY;

/// Where a name's own slot is, before the mask.
pub(super) fn hash(key: &Key, seed: u64) -> u64 {
    let words = key.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    words.fold(seed, |mixed, word| {
        let mixed = (mixed ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 32
    })
}

/// Whether the answer fits beside its name.
pub(super) fn is_short(answer: &Answer) -> bool {
    answer.body.len() <= SHORT
        && answer.order != BY_TURN
        && steps(answer).is_some()
        && answer.counts.iter().all(|count| u8::try_from(*count).is_ok())
}

/// Where the first record that turns begins, and how long each is; `None` where they differ.
fn steps(answer: &Answer) -> Option<(u8, u8)> {
    let [first, second, ..] = answer.starts[..] else { return Some((0, 0)) };
    let step = second - first;
    let even = answer.starts.windows(2).all(|pair| pair[1] - pair[0] == step);
    even.then_some((u8::try_from(first).ok()?, u8::try_from(step).ok()?))
}

/// A slot for `answer`, whose body stands at `more` unless it is short. It is not held yet.
pub(super) fn slot(key: &Key, answer: &Answer, more: Option<u32>) -> Slot {
    let mut to: Slot = [0; 128];
    to[..WRITING].copy_from_slice(key);
    to[MORE..FLAGS].copy_from_slice(&more.map_or(0, |place| place + 1).to_ne_bytes());
    to[FLAGS..LENGTH].copy_from_slice(&answer.flags.to_ne_bytes());
    to[LENGTH..COUNTS].copy_from_slice(&(answer.body.len() as u16).to_ne_bytes()); // at most BODY
    for (to, count) in to[COUNTS..ORDER].iter_mut().zip(&answer.counts) {
        *to = *count as u8; // a body of that length has fewer records
    }
    to[ORDER] = answer.order;
    to[TURNING] = answer.starts.len().saturating_sub(1) as u8; // at most TURNS
    if more.is_none() {
        (to[FIRST], to[STEP]) = steps(answer).unwrap_or_default();
        to[BYTES..BYTES + answer.body.len()].copy_from_slice(&answer.body);
    }
    to
}

/// A body, by the writing of that number.
pub(super) fn body(answer: &Answer, writing: u32) -> Body {
    let mut to: Body = [0; 320];
    to[..4].copy_from_slice(&writing.to_ne_bytes());
    to[BODY_BYTES..BODY_BYTES + answer.body.len()].copy_from_slice(&answer.body);
    for (to, start) in to[STARTS..].chunks_exact_mut(2).zip(&answer.starts[..]).take(TURNS + 1) {
        to.copy_from_slice(&start.to_ne_bytes());
    }
    to
}

/// By which writing a slot is as it is.
pub(super) fn writing(slot: &Slot) -> u32 {
    u32::from_ne_bytes([slot[WRITING], slot[WRITING + 1], slot[WRITING + 2], slot[WRITING + 3]])
}

/// Marks it as written by the writing of that number.
pub(super) fn set_writing(slot: &mut Slot, number: u32) {
    slot[WRITING..MORE].copy_from_slice(&number.to_ne_bytes());
}

/// Says whether others stand further on than where they belong.
pub(super) fn set_past(slot: &mut Slot, past: bool) {
    slot[PAST] = past.into();
}

/// The writing of a body.
pub(super) fn body_writing(body: &Body) -> u32 {
    u32::from_ne_bytes([body[0], body[1], body[2], body[3]])
}

/// Marks a body as written by the writing of that number.
pub(super) fn set_body_writing(body: &mut Body, number: u32) {
    body[..4].copy_from_slice(&number.to_ne_bytes());
}
