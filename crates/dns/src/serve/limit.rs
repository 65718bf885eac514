//! Limits on answers to one network: who sends queries with somebody else's address gets little
//! to throw at them.
//!
//! A table of fixed size for each thread, a bucket for each network (/24, /56), picked by a hash:
//! two that share one share its rate. TCP and a good cookie prove where a client is, and are not
//! limited. Every second answer over the rate is sent truncated, so that a real client comes back
//! over TCP.
//!
//! Source: Vixie and Schryver, DNS Response Rate Limiting, 2012.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Instant;

use foldhash::fast::RandomState;

const BUCKETS: usize = 1 << 14;

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// Only that it is truncated.
    Truncate,
    Drop,
}

/// The limits of one thread.
#[derive(Debug)]
pub(super) struct Limits {
    /// Answers a second and network; 0 for no limit.
    rate: u32,
    begun: Instant,
    hash: RandomState,
    buckets: Box<[Bucket]>,
}

/// Answers left, and the second in which they were last filled up.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u32,
    left: u32,
    over: u32,
}

impl Limits {
    pub(super) fn new(rate: u32) -> Self {
        let buckets = if rate == 0 { vec![] } else { vec![Bucket::default(); BUCKETS] };
        let (begun, hash) = (Instant::now(), RandomState::default());
        Self { rate, begun, hash, buckets: buckets.into() }
    }

    /// Whether there is any limit.
    pub(super) fn is_on(&self) -> bool {
        self.rate > 0
    }

    /// Counts an answer to `client` at `now`.
    pub(super) fn judge(&mut self, client: IpAddr, now: Instant) -> Verdict {
        let network = match client.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => (u128::from(ip) >> 72) as u64 | 1 << 63, // a /56; apart from IPv4
        };
        let at = self.hash.hash_one(network) as usize % BUCKETS;
        let Some(bucket) = self.buckets.get_mut(at) else { return Verdict::Send };
        let second = now.saturating_duration_since(self.begun).as_secs() as u32 + 1;
        if bucket.second != second {
            *bucket = Bucket { second, left: self.rate, over: 0 };
        }
        match bucket.left.checked_sub(1) {
            Some(left) => {
                bucket.left = left;
                Verdict::Send
            }
            None => {
                bucket.over = bucket.over.wrapping_add(1);
                if bucket.over % 2 == 1 { Verdict::Truncate } else { Verdict::Drop }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_network_gets_its_rate_and_no_other_is_the_less() {
        let mut limits = Limits::new(3);
        let now = Instant::now();
        let mut judge = |client: [u8; 4], after: u64| {
            limits.judge(client.into(), now + Duration::from_secs(after))
        };
        for host in 1..=3 {
            assert_eq!(judge([10, 0, 0, host], 0), Verdict::Send);
        }
        assert_eq!(judge([10, 0, 0, 4], 0), Verdict::Truncate);
        assert_eq!(judge([10, 0, 0, 4], 0), Verdict::Drop);
        assert_eq!(judge([10, 0, 0, 4], 0), Verdict::Truncate);
        assert_eq!(judge([10, 0, 0, 4], 1), Verdict::Send);
        let mut none = Limits::new(0);
        assert!((0..100).all(|_| none.judge([10, 0, 0, 1].into(), now) == Verdict::Send));
    }
}
