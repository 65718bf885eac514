//! Answers of upstreams as bytes, one table for each answering thread: no lock, no allocation.
//!
//! Tasks that asked an upstream hand what came over in a bounded queue; the thread takes it in
//! between batches. Full, the table forgets what was not asked for lately (a clock hand).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, OpCode, ResponseCode};

use super::Question;
use super::cache::{STALE, STALE_TTL};
use crate::answer::{self, Transport, Via};
use crate::asked::{self, Asked};
use crate::own::MOST_OPTIONS;
use crate::query::{self, CLASS_IN, HEADER, Query, flag, kind};

const OPT_LENGTH: usize = 11;
/// Asked for this often, an answer is worth asking for again before it ends.
const POPULAR: u32 = 3;
/// The last tenth of its life is when it is asked for again.
const LAST_PART: u32 = 10;
/// Pointers into the question stay right, since the question is as long as it was.
const AUTHENTIC: u16 = 1 << 5;

/// An answer to be kept.
#[derive(Debug)]
pub(crate) struct Kept {
    hash: u64,
    /// Key (name, type, flags); what follows the question, without an OPT record; where in that
    /// times to live stand, two bytes each: together, since they are wanted together.
    bytes: Box<[u8]>,
    key: u16,
    body: u16,
    /// Response code and whether it is authentic.
    flags: u16,
    /// Of the last three sections.
    counts: [u16; 3],
    since: Instant,
    lasting: Duration,
    asked: u32,
    /// Set on a hit, taken away by the clock hand.
    used: bool,
    renewing: bool,
}

/// What of an answer's time to live is left.
#[derive(Clone, Copy)]
enum Life {
    /// All but so many seconds.
    Passed(u32),
    /// Nothing: it is given for want of a newer one.
    Ended,
}

/// What a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Send so many bytes.
    Reply(usize),
    /// Send them, and ask for the answer again: it ends soon.
    Renew(usize),
    /// It is not here.
    None,
}

/// One thread's table.
#[derive(Debug)]
pub(crate) struct Hot {
    /// By the hash of the key. Of two keys with one hash the later is kept: it is 64 bits long.
    kept: HashMap<u64, u32, Itself>,
    places: Vec<Kept>,
    hand: usize,
    most: usize,
}

/// A hash is its own hash.
#[derive(Clone, Copy, Debug, Default)]
struct Itself(u64);

impl BuildHasher for Itself {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hot {
    /// For at most `most` answers.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.clamp(1, u32::MAX as usize);
        Self { kept: HashMap::default(), places: Vec::new(), hand: 0, most }
    }

    /// How many answers are kept.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Where the answer to a query stands, if it may be here: the first of two steps.
    #[inline]
    pub(crate) fn locate(&self, query: &Query<'_>, asked: &Asked) -> Option<u32> {
        self.kept.get(&hash_of(asked.hash(), query.kind, flags_of(query))).copied()
    }

    /// Reads what stands there, so that it is near when it is wanted.
    #[inline]
    pub(crate) fn touch(&self, at: u32) -> u8 {
        let kept = self.places.get(at as usize);
        kept.and_then(|kept| kept.bytes.first()).copied().unwrap_or_default()
    }

    /// Answers `query` into `out` with what stands at `at`, if that is known at `now`.
    pub(crate) fn answer(
        &mut self,
        at: u32,
        (query, asked): (&Query<'_>, &Asked),
        via: Via<'_>,
        now: Instant,
        out: &mut [u8],
    ) -> Hit {
        if query.flags & flag::RECURSION_DESIRED == 0 || query.class != CLASS_IN {
            return Hit::None;
        }
        let Some(kept) = self.places.get_mut(at as usize) else { return Hit::None };
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.lasting || !kept.is_for(query, asked) {
            return Hit::None;
        }
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let Some(length) = kept.write(query, via, Life::Passed(seconds), out) else {
            return Hit::None;
        };
        kept.used = true;
        kept.asked = kept.asked.saturating_add(1);
        let ends_soon = kept.lasting - age <= kept.lasting / LAST_PART;
        if ends_soon && kept.asked >= POPULAR && !kept.renewing {
            kept.renewing = true;
            return Hit::Renew(length);
        }
        Hit::Reply(length)
    }

    /// Answers with what stands at `at` though it has ended, for when nobody can be asked.
    pub(crate) fn stale(
        &self,
        at: u32,
        (query, asked): (&Query<'_>, &Asked),
        via: Via<'_>,
        now: Instant,
        out: &mut [u8],
    ) -> Option<usize> {
        let kept = self.places.get(at as usize)?;
        let ended = now.saturating_duration_since(kept.since).saturating_sub(kept.lasting);
        let recursive = query.flags & flag::RECURSION_DESIRED != 0 && query.class == CLASS_IN;
        if !recursive || ended >= STALE || !kept.is_for(query, asked) {
            return None;
        }
        kept.write(query, via, Life::Ended, out)
    }

    /// Takes an answer in; where there is no room another one goes.
    pub(crate) fn put(&mut self, kept: Kept) {
        if let Some(at) = self.kept.get(&kept.hash) {
            self.places[*at as usize] = kept;
            return;
        }
        if self.places.len() < self.most {
            self.kept.insert(kept.hash, self.places.len() as u32); // `most` bounds it
            self.places.push(kept);
            return;
        }
        while std::mem::take(&mut self.places[self.hand].used) {
            self.hand = (self.hand + 1) % self.most;
        }
        self.kept.remove(&self.places[self.hand].hash);
        self.kept.insert(kept.hash, self.hand as u32);
        self.places[self.hand] = kept;
        self.hand = (self.hand + 1) % self.most;
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.places.clear();
        self.hand = 0;
    }
}

impl Kept {
    /// From an upstream's answer that may be kept for `seconds`; `None` for one that has no place
    /// here, such as one that fits no UDP answer.
    pub(super) fn new(question: &Question, message: &Message, seconds: u32) -> Option<Self> {
        let code = match (message.metadata.op_code, message.metadata.response_code) {
            (OpCode::Query, ResponseCode::NoError) => 0,
            (OpCode::Query, ResponseCode::NXDomain) => 3,
            _ => return None,
        };
        let mut plain = message.clone();
        plain.queries = Message::from_vec(&super::encode(question, 0)).ok()?.queries;
        plain.edns = None;
        let bytes = plain.to_vec().ok()?;
        let begin = HEADER + question.name.len() + 4;
        let body = bytes.get(begin..).filter(|body| body.len() <= answer::MAX_UDP)?;
        let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let counts = [count(6), count(8), count(10)];
        let mut ttls = Vec::new();
        let mut at = 0;
        for _ in 0..counts.iter().map(|count| u32::from(*count)).sum() {
            at = query::skip_name(body, at)?;
            ttls.push(u16::try_from(at + 4).ok()?);
            let length = u16::from_be_bytes([*body.get(at + 8)?, *body.get(at + 9)?]);
            at += 10 + usize::from(length);
        }
        let mut all = question.name.clone();
        all.extend_from_slice(&question.kind.to_be_bytes());
        let flags = flags(question.dnssec, question.checking_disabled);
        all.push(flags);
        let key = u16::try_from(all.len()).ok()?;
        all.extend_from_slice(body);
        let body = u16::try_from(all.len()).ok()?;
        all.extend(ttls.iter().flat_map(|at: &u16| at.to_be_bytes()));
        let authentic = message.metadata.authentic_data && question.dnssec;
        Some(Self {
            hash: hash_of(asked::hash_of(&question.name), question.kind, flags),
            bytes: all.into(),
            key,
            body,
            flags: code | if authentic { AUTHENTIC } else { 0 },
            counts,
            since: Instant::now(),
            lasting: Duration::from_secs(u64::from(seconds)),
            asked: 0,
            used: false,
            renewing: false,
        })
    }

    fn is_for(&self, query: &Query<'_>, asked: &Asked) -> bool {
        let key = &self.bytes[..usize::from(self.key)];
        let Some((name, [high, low, flags])) = key.split_last_chunk() else { return false };
        name == asked.name()
            && u16::from_be_bytes([*high, *low]) == query.kind
            && *flags == flags_of(query)
    }

    /// `None` where it does not fit: truncating is for the slower path.
    fn write(&self, query: &Query<'_>, via: Via<'_>, life: Life, out: &mut [u8]) -> Option<usize> {
        let mut opt = [0u8; OPT_LENGTH + MOST_OPTIONS];
        let opt_length = match &query.edns {
            None => 0,
            Some(edns) => {
                let mut options = [0; MOST_OPTIONS];
                let length = via.own.options(edns, via.client, &mut options);
                opt[1..3].copy_from_slice(&kind::OPT.to_be_bytes());
                opt[3..5].copy_from_slice(&(answer::MAX_UDP as u16).to_be_bytes());
                opt[7] = if edns.dnssec { 0x80 } else { 0 };
                opt[9..11].copy_from_slice(&(length as u16).to_be_bytes());
                opt[11..11 + length].copy_from_slice(&options[..length]);
                OPT_LENGTH + length
            }
        };
        let body = &self.bytes[usize::from(self.key)..usize::from(self.body)];
        let begin = HEADER + query.question.len();
        let end = begin + body.len();
        if end + opt_length > answer::limit(query, Transport::Udp).min(out.len()) {
            return None;
        }
        let kept = flag::RECURSION_DESIRED | flag::CHECKING_DISABLED;
        let flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | (query.flags & kept) | self.flags;
        let additional = self.counts[2] + u16::from(opt_length > 0);
        let words = [query.id, flags, 1, self.counts[0], self.counts[1], additional];
        for (to, word) in out.chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        out[HEADER..begin].copy_from_slice(query.question);
        out[begin..end].copy_from_slice(body);
        let ttls = match life {
            Life::Passed(0) => &[],
            _ => &self.bytes[usize::from(self.body)..],
        };
        for at in ttls.chunks_exact(2) {
            let at = begin + usize::from(u16::from_be_bytes([at[0], at[1]]));
            let ttl = out[at..at + 4].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            let left = match life {
                Life::Passed(seconds) => ttl.saturating_sub(seconds),
                Life::Ended => ttl.min(STALE_TTL),
            };
            out[at..at + 4].copy_from_slice(&left.to_be_bytes());
        }
        out[end..end + opt_length].copy_from_slice(&opt[..opt_length]);
        Some(end + opt_length)
    }
}

fn hash_of(name: u64, kind: u16, flags: u8) -> u64 {
    let more = (u64::from(kind) << 8 | u64::from(flags)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (name ^ more).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

fn flags_of(query: &Query<'_>) -> u8 {
    let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
    flags(dnssec, query.flags & flag::CHECKING_DISABLED != 0)
}

fn flags(dnssec: bool, checking_disabled: bool) -> u8 {
    u8::from(dnssec) | u8::from(checking_disabled) << 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::Own;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record};

    fn question(name: &str) -> Question {
        let name = crate::name::encode(name).expect("a name");
        Question { name, kind: kind::A, dnssec: false, checking_disabled: false }
    }

    fn kept(name: &str, seconds: u32) -> Kept {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let owner = Name::from_ascii(format!("{name}.")).expect("a name");
        message.add_answer(Record::from_rdata(owner, seconds, RData::A(A::new(192, 0, 2, 1))));
        Kept::new(&question(name), &message, seconds).expect("it may be kept")
    }

    /// What `look` makes of a question for `name` so many seconds from now: how many bytes of answer.
    fn asked<T>(
        name: &str,
        after: u64,
        look: impl FnOnce((&Query<'_>, &Asked), Via<'_>, Instant, &mut [u8]) -> Option<(T, usize)>,
    ) -> Option<(T, Message)> {
        let (own, client) = (Own::default(), std::net::Ipv4Addr::LOCALHOST.into());
        let via = Via { transport: Transport::Udp, client, own: &own };
        let packet = super::super::encode(&question(name), 7);
        let mut out = [0; answer::MAX_UDP];
        let now = Instant::now() + Duration::from_secs(after);
        let query = query::parse(&packet).expect("a query");
        let (said, length) = look((&query, &Asked::of(query.name)), via, now, &mut out)?;
        Some((said, Message::from_vec(&out[..length]).expect("it can be read")))
    }

    fn ask(hot: &mut Hot, name: &str, after: u64) -> Option<(Hit, Message)> {
        asked(name, after, |(query, asked), via, now, out| {
            let at = hot.locate(query, asked)?;
            match hot.answer(at, (query, asked), via, now, out) {
                Hit::None => None,
                hit @ (Hit::Reply(length) | Hit::Renew(length)) => Some((hit, length)),
            }
        })
    }

    #[test]
    fn a_kept_answer_is_the_answer_grows_old_and_is_renewed_while_it_is_wanted() {
        let mut hot = Hot::new(10);
        hot.put(kept("example.org", 100));
        let (hit, message) = ask(&mut hot, "example.org", 0).expect("it is kept");
        assert!(matches!(hit, Hit::Reply(_)) && message.edns.is_some());
        assert_eq!((message.metadata.id, message.answers[0].ttl), (7, 100));
        assert_eq!(message.answers[0].name.to_ascii(), "example.org.");
        assert_eq!(ask(&mut hot, "example.org", 40).expect("still").1.answers[0].ttl, 60);
        assert!(matches!(ask(&mut hot, "example.org", 95), Some((Hit::Renew(_), _))));
        assert!(matches!(ask(&mut hot, "example.org", 96), Some((Hit::Reply(_), _))), "once");
        assert!(ask(&mut hot, "example.org", 100).is_none());
        assert!(ask(&mut hot, "example.com", 0).is_none());
    }

    #[test]
    fn an_answer_that_has_ended_is_there_for_a_day_when_nobody_can_be_asked() {
        let mut hot = Hot::new(1);
        hot.put(kept("example.org", 100));
        let stale = |name: &str, after: u64| {
            let look = |question: (&Query<'_>, &Asked), via: Via<'_>, now, out: &mut [u8]| {
                Some(((), hot.stale(0, question, via, now, out)?))
            };
            asked(name, after, look).map(|((), message)| message.answers[0].ttl)
        };
        assert_eq!(stale("example.org", 101), Some(30), "RFC 8767 §4");
        assert_eq!(stale("example.org", 86_499), Some(30));
        assert_eq!(stale("example.org", 86_501), None);
        assert_eq!(stale("example.com", 101), None, "another name");
    }

    #[test]
    fn a_full_table_forgets_what_was_not_asked_for() {
        let mut hot = Hot::new(3);
        for name in ["a", "b", "c"] {
            hot.put(kept(name, 100));
        }
        assert!(ask(&mut hot, "a", 0).is_some() && ask(&mut hot, "c", 0).is_some());
        hot.put(kept("d", 100));
        assert!(ask(&mut hot, "b", 0).is_none(), "nobody asked for it");
        assert!(["a", "c", "d"].iter().all(|name| ask(&mut hot, name, 0).is_some()));
        assert_eq!(hot.len(), 3);
        hot.clear();
        assert!(ask(&mut hot, "a", 0).is_none());
    }
}
