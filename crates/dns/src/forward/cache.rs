//! Answers of upstreams, kept for as long as they say, within bounds.
//!
//! One that has ended stays until its room is needed: when no upstream answers it is better than
//! nothing (RFC 8767).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use tokio::time::Instant;

use super::Question;

/// How old an ended answer may be that is given when no upstream answers (RFC 8767 §5: 1 to 3 days).
pub(super) const STALE: Duration = Duration::from_secs(86_400);
/// What such an answer may live with its client (RFC 8767 §4).
pub(super) const STALE_TTL: u32 = 30;
/// How long "there is none" is believed where no SOA record says (RFC 2308 §5).
const NONE_WITHOUT_SOA: u32 = 5;

/// The cache; the oldest answer goes when it is full.
#[derive(Debug)]
pub(super) struct Cache {
    kept: Mutex<Kept>,
    most: usize,
    longest: u32,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Question, Answer>,
    order: VecDeque<Question>,
}

#[derive(Debug)]
struct Answer {
    message: Message,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// For at most `most` answers, none longer than `longest` seconds.
    pub(super) fn new(most: usize, longest: u32) -> Self {
        Self { kept: Mutex::default(), most, longest }
    }

    /// How many answers are kept, ended ones too.
    pub(super) fn len(&self) -> usize {
        self.lock().answers.len()
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        *self.lock() = Kept::default();
    }

    /// What was kept for `question` and has ended, for when nobody can be asked.
    pub(super) fn stale(&self, question: &Question) -> Option<Message> {
        let kept = self.lock();
        let answer = kept.answers.get(question)?;
        if Instant::now() >= answer.until + STALE {
            return None;
        }
        let mut message = answer.message.clone();
        drop(kept);
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.min(STALE_TTL);
        }
        Some(message)
    }

    /// What is kept for `question`, its times to live reduced by its age, and its seconds left.
    pub(super) fn get(&self, question: &Question) -> Option<(Message, u32)> {
        let now = Instant::now();
        let kept = self.lock();
        let answer = kept.answers.get(question).filter(|answer| now < answer.until)?;
        let age = u32::try_from((now - answer.since).as_secs()).unwrap_or(u32::MAX);
        let left = u32::try_from((answer.until - now).as_secs()).unwrap_or(u32::MAX);
        let mut message = answer.message.clone();
        drop(kept);
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some((message, left))
    }

    /// Keeps `message`, if it may be kept; for how many seconds.
    pub(super) fn put(&self, question: Question, message: &Message) -> u32 {
        let seconds = time_to_live(message).min(self.longest);
        if seconds == 0 {
            return 0;
        }
        let since = Instant::now();
        let until = since + Duration::from_secs(u64::from(seconds));
        let mut kept = self.lock();
        let answer = Answer { message: message.clone(), since, until };
        if kept.answers.insert(question.clone(), answer).is_none() {
            kept.order.push_back(question);
        }
        while kept.order.len() > self.most
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.answers.remove(&oldest);
        }
        seconds
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder of the lock panics")
    }
}

/// Seconds that an answer may be kept; 0 for not at all.
fn time_to_live(message: &Message) -> u32 {
    let negative = match message.metadata.response_code {
        ResponseCode::NoError => message.answers.is_empty(),
        ResponseCode::NXDomain => true,
        _ => return 0,
    };
    if message.metadata.truncation {
        return 0;
    }
    let answers = message.answers.iter().map(|record| record.ttl).min();
    let none = negative.then(|| {
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        soa.unwrap_or(NONE_WITHOUT_SOA)
    });
    answers.into_iter().chain(none).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record};

    fn name() -> Name {
        Name::from_ascii("example.org.").expect("a name")
    }

    fn question() -> Question {
        Question { name: vec![1, b'a', 0], kind: 1, dnssec: false, checking_disabled: false }
    }

    fn message(code: ResponseCode, answer_ttl: Option<u32>, soa: Option<(u32, u32)>) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        if let Some(ttl) = answer_ttl {
            message.add_answer(Record::from_rdata(name(), ttl, RData::A(A::new(1, 2, 3, 4))));
        }
        if let Some((ttl, minimum)) = soa {
            let soa = SOA::new(name(), name(), 1, 1, 1, 1, minimum);
            message.add_authority(Record::from_rdata(name(), ttl, RData::SOA(soa)));
        }
        message
    }

    #[test]
    fn answers_live_as_long_as_they_say() {
        let ok = ResponseCode::NoError;
        for (message, expected) in [
            (message(ok, Some(10), None), 10),
            (message(ok, Some(3600), None), 3600),
            (message(ok, Some(0), None), 0),
            (message(ok, None, Some((20, 7))), 7),
            (message(ResponseCode::NXDomain, None, Some((4, 60))), 4),
            (message(ResponseCode::NXDomain, None, None), NONE_WITHOUT_SOA),
            (message(ResponseCode::ServFail, None, None), 0),
        ] {
            assert_eq!(time_to_live(&message), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_answer_grows_old_and_goes() {
        let cache = Cache::new(10, 30);
        assert_eq!(cache.put(question(), &message(ResponseCode::NoError, Some(60), None)), 30);
        cache.put(question(), &message(ResponseCode::NoError, Some(10), None));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(cache.get(&question()).expect("it is kept").0.answers[0].ttl, 6);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(cache.get(&question()).is_none());
        assert_eq!(cache.stale(&question()).expect("better than nothing").answers[0].ttl, 10);
        tokio::time::advance(STALE).await;
        assert!(cache.stale(&question()).is_none());
    }

    #[tokio::test]
    async fn a_full_cache_forgets_the_oldest() {
        const MOST: usize = 64;
        let cache = Cache::new(MOST, 30);
        let numbered = |n: usize| Question { name: n.to_be_bytes().to_vec(), ..question() };
        let message = message(ResponseCode::NoError, Some(10), None);
        for number in 0..=MOST {
            cache.put(numbered(number), &message);
        }
        assert!(cache.get(&numbered(0)).is_none());
        assert!(cache.get(&numbered(MOST)).is_some());
    }
}
