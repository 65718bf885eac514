//! Names, slots and bodies as the program in the kernel reads them: `struct name`, `struct slot` and
//! `struct body` of `bpf/dns.bpf.c`, little-endian as the machine.

use super::prepare::{Answer, BODY, BY_ID, Key, TURNS, kind_of, name_of};
use crate::query::kind;

/// A line of cache.
pub(super) type Slot = [u8; 64];
/// A long answer, or one that many names share.
pub(super) type Body = [u8; 320];
/// What names are hashed with; secret.
pub(super) type Keys = [u32; 4 * PAIRS];

/// Longest body that stands in its slot.
const SHORT: usize = 32;
/// Pairs of words that a name's hash is made of: the name itself, type and length.
const PAIRS: usize = 9;

const MORE: usize = 16;
const NONE: usize = 20;
const WRITING: usize = 24;
const FLAGS: usize = 26;
const MARKS: usize = 28;
const LENGTH: usize = 29;
const COUNT: usize = 30;
const OTHERS: usize = 31;
const BYTES: usize = 32;

/// Bits of the marks.
const OWN: u8 = 1;
const SIX: u8 = 2;
const PAST: u8 = 128;

const BODY_BYTES: usize = 8;
const STARTS: usize = BODY_BYTES + BODY;
const BODY_LENGTH: usize = STARTS + 2 * (TURNS + 1);
const BODY_COUNTS: usize = BODY_LENGTH + 2;
const BODY_ORDER: usize = BODY_COUNTS + 3;
const BODY_TURNING: usize = BODY_ORDER + 1;

const BODY_FLAGS: usize = BODY_TURNING + 2;

/// What a name and type are known by; both kinds of addresses are one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    one: u64,
    two: u64,
}

impl Name {
    /// By two hashes: two are taken for one by at most one in 2^64 choices of `keys`.
    pub(super) fn of(key: &Key, keys: &Keys) -> Self {
        let name = name_of(key);
        let kind = match kind_of(key) {
            kind::AAAA => kind::A,
            other => other,
        };
        let words = name.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let word = u64::from_le_bytes(word);
            (word as u32, (word >> 32) as u32)
        });
        // As it reads in the packet, for a little-endian machine.
        let last = (u32::from(kind.swap_bytes()), name.len() as u32);
        let hash = |keys: &[u32]| {
            let pairs = keys.chunks_exact(2).map(|keys| (keys[0], keys[1]));
            let end = pairs.clone().skip(PAIRS - 1).map(|keys| (last, keys));
            words.clone().zip(pairs).chain(end).fold(0u64, |sum, ((low, high), (one, two))| {
                let [low, high] = [low.wrapping_add(one), high.wrapping_add(two)];
                sum.wrapping_add(u64::from(low).wrapping_mul(u64::from(high)))
            })
        };
        let (one, two) = keys.split_at(2 * PAIRS);
        Self { one: hash(one), two: hash(two) }
    }

    /// Where its own slot is, as a part of 2^32.
    pub(super) fn place(self) -> u32 {
        ((self.one ^ self.two >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

/// What a slot says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// An answer of its own.
    Own,
    /// That there is no address of the other kind.
    None,
}

/// Which part of the slot that holds something of the same name has room for an answer, if one has.
pub(super) fn room(slot: &Slot, key: &Key, answer: &Answer) -> Option<Part> {
    let same = (slot[MARKS] & SIX != 0) == (kind_of(key) == kind::AAAA);
    match same {
        true => (!has(slot, Part::Own)).then_some(Part::Own),
        false => (!has(slot, Part::None) && says_none(answer)).then_some(Part::None),
    }
}

/// Whether the part of an answer that is held may hold this one.
pub(super) fn keeps(part: Part, answer: &Answer) -> bool {
    part == Part::Own || says_none(answer)
}

/// Whether all there is to it is that the name has no such record.
fn says_none(answer: &Answer) -> bool {
    answer.apex().is_some() && !answer.says_no_name()
}

/// Whether a slot has that part.
pub(super) fn has(slot: &Slot, part: Part) -> bool {
    match part {
        Part::Own => slot[MARKS] & OWN != 0,
        Part::None => slot[NONE..WRITING] != [0; 4],
    }
}

/// Takes a part out; whether nothing is left.
pub(super) fn take_out(slot: &mut Slot, part: Part) -> bool {
    match part {
        Part::Own => slot[MARKS] &= !OWN,
        Part::None => slot[NONE..WRITING].fill(0),
    }
    !has(slot, Part::Own) && !has(slot, Part::None)
}

/// Makes a slot one of that name, without anything in it.
pub(super) fn begin(slot: &mut Slot, name: Name, key: &Key) {
    let writing = writing(slot);
    *slot = [0; 64];
    set_writing(slot, writing);
    slot[..8].copy_from_slice(&name.one.to_ne_bytes());
    slot[8..MORE].copy_from_slice(&name.two.to_ne_bytes());
    slot[MARKS] = if kind_of(key) == kind::AAAA { SIX } else { 0 };
}

/// Writes a part of a slot; the body of `answer` stands at `more` unless it is short.
pub(super) fn put(to: &mut Slot, part: Part, answer: &Answer, more: Option<u32>) {
    let place = more.map_or(0, |place| place + 1).to_ne_bytes();
    if part == Part::None {
        to[NONE..WRITING].copy_from_slice(&place);
        return;
    }
    to[MORE..NONE].copy_from_slice(&place);
    to[FLAGS..MARKS].copy_from_slice(&answer.flags.to_ne_bytes());
    to[MARKS] |= OWN;
    if more.is_none() {
        // A short body has few records.
        let [answers, authorities, additionals] = answer.counts.map(|count| count as u8);
        let turning = !answer.starts.is_empty();
        to[LENGTH] = answer.body.len() as u8;
        to[COUNT] = answers;
        to[OTHERS] = authorities << 4 | additionals << 1 | u8::from(turning);
        to[BYTES..BYTES + answer.body.len()].copy_from_slice(&answer.body);
    }
}

/// Whether an answer fits in its slot.
pub(super) fn is_short(answer: &Answer) -> bool {
    let length = answer.body.len();
    let halves = match answer.starts[..] {
        [] => true,
        [0, half, end] => {
            answer.order == BY_ID && usize::from(half) * 2 == length && usize::from(end) == length
        }
        _ => false,
    };
    length <= SHORT && halves
}

/// A body, by the writing of that number.
pub(super) fn body(answer: &Answer, writing: u32) -> Body {
    let mut to: Body = [0; 320];
    to[..4].copy_from_slice(&writing.to_ne_bytes());
    to[BODY_BYTES..BODY_BYTES + answer.body.len()].copy_from_slice(&answer.body);
    for (to, start) in
        to[STARTS..BODY_LENGTH].chunks_exact_mut(2).zip(&answer.starts[..]).take(TURNS + 1)
    {
        to.copy_from_slice(&start.to_ne_bytes());
    }
    let length = answer.body.len() as u16; // at most BODY
    to[BODY_LENGTH..BODY_COUNTS].copy_from_slice(&length.to_ne_bytes());
    for (to, count) in to[BODY_COUNTS..BODY_ORDER].iter_mut().zip(&answer.counts) {
        *to = *count as u8; // a body of that length has fewer records
    }
    to[BODY_ORDER] = answer.order;
    to[BODY_TURNING] = answer.starts.len().saturating_sub(1) as u8; // at most TURNS
    // A name that does not exist shares it too, and says so itself.
    to[BODY_FLAGS..].copy_from_slice(&(answer.flags & !0xF).to_ne_bytes());
    to
}

/// By which writing a slot is as it is.
pub(super) fn writing(slot: &Slot) -> u16 {
    u16::from_ne_bytes([slot[WRITING], slot[WRITING + 1]])
}

/// Marks it as written by the writing of that number.
pub(super) fn set_writing(slot: &mut Slot, number: u16) {
    slot[WRITING..FLAGS].copy_from_slice(&number.to_ne_bytes());
}

/// Says whether others stand further on than where they belong.
pub(super) fn set_past(slot: &mut Slot, past: bool) {
    slot[MARKS] = slot[MARKS] & !PAST | if past { PAST } else { 0 };
}

/// The writing of a body.
pub(super) fn body_writing(body: &Body) -> u32 {
    u32::from_ne_bytes([body[0], body[1], body[2], body[3]])
}

/// Marks a body as written by the writing of that number.
pub(super) fn set_body_writing(body: &mut Body, number: u32) {
    body[..4].copy_from_slice(&number.to_ne_bytes());
}
