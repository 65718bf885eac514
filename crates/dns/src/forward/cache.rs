//! Answers of upstream servers, kept as long as they say; a no as long as its SOA says (RFC 2308).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::wire::{HEADER_BYTES, Query, code};

/// Answers kept at most; at some 200 bytes each about 2 MiB.
const MOST_KEPT: usize = 8192;
/// However long an answer says it is good: a mistake upstream should end some time.
const LONGEST: u32 = 3600;
/// A no is kept no longer than this, in seconds.
const LONGEST_NO: u32 = 30;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Box<[u8]>,
    kind: u16,
    class: u16,
    /// Answers differ by it in their OPT record and in their size.
    edns: bool,
}

impl Key {
    /// The question of `query`.
    pub fn of(query: &Query<'_>) -> Self {
        let edns = query.edns.is_some();
        Self { name: query.name.into(), kind: query.kind, class: query.class, edns }
    }
}

#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    /// Where its TTLs are.
    ttls: Vec<usize>,
    since: Instant,
    until: Instant,
}

/// Bounded; when it is full, what has run out goes, and if nothing has, everything does.
#[derive(Debug, Default)]
pub struct Cache(HashMap<Key, Kept>);

impl Cache {
    /// The answer, its TTLs lowered by the time it was kept.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let kept = self.0.get(key).filter(|kept| now < kept.until)?;
        let age = now.saturating_duration_since(kept.since).as_secs() as u32;
        let mut answer = kept.answer.clone();
        for at in &kept.ttls {
            let place = answer.get_mut(*at..*at + 4)?;
            let ttl = u32::from_be_bytes(place.try_into().ok()?);
            place.copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
        }
        Some(answer)
    }

    /// Keeps an answer that says how long it is good.
    pub fn put(&mut self, key: Key, answer: &[u8], now: Instant) {
        let Some(facts) = facts(answer) else { return };
        if facts.good_for == 0 {
            return;
        }
        if self.0.len() >= MOST_KEPT {
            self.0.retain(|_, kept| now < kept.until);
        }
        if self.0.len() >= MOST_KEPT {
            self.0.clear();
        }
        let until = now + Duration::from_secs(u64::from(facts.good_for));
        let kept = Kept { answer: answer.to_vec(), ttls: facts.ttls, since: now, until };
        self.0.insert(key, kept);
    }
}

struct Facts {
    ttls: Vec<usize>,
    good_for: u32,
}

/// Reads how long an answer is good; `None` when it is broken, or an error that may pass.
fn facts(answer: &[u8]) -> Option<Facts> {
    let response = answer.get(3)? & 0xF;
    if response != code::NO_ERROR && response != code::NAME_ERROR {
        return None;
    }
    let count = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    let (answers, authorities, additionals) = (count(6)?, count(8)?, count(10)?);
    let mut at = skip_name(answer, HEADER_BYTES)? + 4;
    let mut facts = Facts { ttls: Vec::new(), good_for: LONGEST };
    let negative = response == code::NAME_ERROR || answers == 0;
    let mut said_no_for = None;
    for n in 0..usize::from(answers) + usize::from(authorities) + usize::from(additionals) {
        at = skip_name(answer, at)?;
        let fixed = answer.get(at..at + 10)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        if kind != code::OPT {
            facts.ttls.push(at + 4);
            if n < usize::from(answers) {
                facts.good_for = facts.good_for.min(ttl);
            }
        }
        at += 10 + length;
        if kind == code::SOA {
            let minimum = answer.get(at.checked_sub(4)?..at)?;
            said_no_for = Some(ttl.min(u32::from_be_bytes(minimum.try_into().ok()?)));
        }
    }
    if negative {
        facts.good_for = said_no_for.unwrap_or(0).min(LONGEST_NO);
    }
    Some(facts)
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xC0 == 0xC0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{self, Parts, Prepared};
    use crate::wire::{self, MOST_NAME_BYTES};
    use proptest::prelude::*;

    fn question() -> Vec<u8> {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(wire::Name::parse("example.org").unwrap().wire());
        bytes.extend([0, 1, 0, 1]);
        bytes
    }

    fn answered(code: u8, ttl: u32) -> Vec<u8> {
        let bytes = question();
        let mut place = [0; MOST_NAME_BYTES];
        let query = wire::read(&bytes, &mut place).unwrap();
        let mut records = Prepared::default();
        records.push(code::A, ttl, &[1, 2, 3, 4]);
        let answers = (code == code::NO_ERROR).then_some(&records);
        let mut out = Vec::new();
        answer::write(&query, &Parts { code, answers, ..Parts::default() }, 512, &mut out);
        out
    }

    fn key() -> Key {
        let bytes = question();
        let mut place = [0; MOST_NAME_BYTES];
        Key::of(&wire::read(&bytes, &mut place).unwrap())
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_and_ages() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key(), &answered(code::NO_ERROR, 60), now);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key(), at(0)).unwrap(), answered(code::NO_ERROR, 60));
        assert_eq!(cache.get(&key(), at(20)).unwrap(), answered(code::NO_ERROR, 40));
        assert_eq!(cache.get(&key(), at(61)), None);
    }

    #[test]
    fn failures_and_a_no_without_an_soa_are_not_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key(), &answered(code::SERVER_FAILURE, 60), now);
        cache.put(key(), &answered(code::NAME_ERROR, 60), now);
        assert_eq!(cache.get(&key(), now), None);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut cache = Cache::default();
            cache.put(key(), &bytes, Instant::now());
            let _ = cache.get(&key(), Instant::now());
        }
    }
}
