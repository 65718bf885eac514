//! What each answering thread counts: written by it alone, so no step waits for another thread.
//!
//! A thread counts a batch in plain numbers ([`Tally`]) and adds them to what others read
//! ([`Counts`]) once a batch. TCP and TLS share one more set of counts.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::query::kind;
use crate::top::Top;

/// Record types that are counted by name, as CoreDNS does; the last is all others.
pub(crate) const TYPES: [(u16, &str); 12] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (kind::CNAME, "CNAME"),
    (kind::HTTPS, "HTTPS"),
    (kind::MX, "MX"),
    (kind::NS, "NS"),
    (kind::PTR, "PTR"),
    (kind::SOA, "SOA"),
    (kind::SRV, "SRV"),
    (kind::TXT, "TXT"),
    (kind::ANY, "ANY"),
    (0, "other"),
];
/// Response codes; the last is all others.
pub(crate) const CODES: [&str; 7] =
    ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];
/// Upper bounds in bytes, CoreDNS' own as far as a packet of ours goes.
pub(crate) const SIZES: [u32; 9] = [0, 100, 200, 300, 400, 511, 1023, 2047, 4095];
/// Upper bounds in microseconds: CoreDNS' (from 250 µs doubling), and finer ones below.
pub(crate) const TIMES: [u32; 14] = [
    25, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 64_000, 256_000, 1_024_000,
    4_096_000,
];

/// What all that is counted is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers<N> {
    /// By family (IPv4, IPv6) and type.
    pub requests: [[N; TYPES.len()]; 2],
    pub responses: [N; CODES.len()],
    /// One more than the bounds: what is over the last.
    pub request_sizes: [N; SIZES.len() + 1],
    pub response_sizes: [N; SIZES.len() + 1],
    pub times: [N; TIMES.len() + 1],
    pub request_bytes: N,
    pub response_bytes: N,
    /// Microseconds.
    pub time: N,
    /// Answered from what upstreams said before.
    pub hits: N,
    /// Given to a task that may have to ask an upstream.
    pub forwarded: N,
    /// Not forwarded, since too many waited.
    pub refused: N,
    /// Truncated and dropped by the rate limit.
    pub limited: N,
    pub dropped: N,
    /// Answers sent truncated.
    pub truncated: N,
}

/// A batch in plain numbers.
pub(crate) type Tally = Numbers<u64>;

impl Tally {
    /// A query of `size` bytes; `None` where it could not be read.
    #[inline]
    pub(crate) fn request(&mut self, client: IpAddr, kind: Option<u16>, size: usize) {
        let other = TYPES.len() - 1;
        let of = |kind| TYPES.iter().position(|(known, _)| *known == kind).unwrap_or(other);
        let at = match kind {
            Some(kind::A) => 0,
            Some(kind::AAAA) => 1,
            Some(kind) => of(kind),
            None => other,
        };
        self.requests[usize::from(client.is_ipv6())][at] += 1;
        self.request_sizes[size_bucket(size)] += 1;
        self.request_bytes += size as u64;
    }

    /// An answer as it is sent.
    #[inline]
    pub(crate) fn response(&mut self, packet: &[u8]) {
        let flags = packet.get(2..4).map_or(0, |flags| u16::from_be_bytes([flags[0], flags[1]]));
        let code = usize::from(flags & 0xF).min(CODES.len() - 1);
        self.responses[code] += 1;
        self.truncated += u64::from(flags & crate::query::flag::TRUNCATED != 0);
        self.response_sizes[size_bucket(packet.len())] += 1;
        self.response_bytes += packet.len() as u64;
    }

    /// So many answers took `time` each.
    pub(crate) fn took(&mut self, answers: u64, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = TIMES.iter().position(|bound| micros <= u64::from(*bound));
        self.times[at.unwrap_or(TIMES.len())] += answers;
        self.time = self.time.saturating_add(micros.saturating_mul(answers));
    }

    /// All requests.
    pub(crate) fn all(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }
}

fn size_bucket(size: usize) -> usize {
    SIZES.iter().position(|bound| size <= *bound as usize).unwrap_or(SIZES.len())
}

/// Counts of one thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    numbers: Numbers<AtomicU64>,
    kept: AtomicU64,
    /// Raised from outside: the thread forgets what it keeps when it sees another number.
    pub flushes: AtomicU64,
    /// What is asked for most, and who asks. Its thread never waits for it.
    pub top: Mutex<Tops>,
}

/// What is asked for most, and who asks most.
#[derive(Debug, Default)]
pub(crate) struct Tops {
    pub names: Top<Vec<u8>>,
    pub clients: Top<IpAddr>,
}

/// Counts of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Queries that came.
    pub queries: u64,
    /// Of them answered from what upstreams said before, without asking anybody.
    pub hits: u64,
    /// Of them given to a task that may have to ask an upstream.
    pub forwarded: u64,
    /// Answers that the threads keep.
    pub kept: u64,
}

impl Counts {
    /// Adds a batch; only the thread whose counts they are.
    pub(crate) fn add(&self, tally: &Tally, kept: usize) {
        // One writer: a load and a store are enough, and cheaper than a locked addition.
        each(&self.numbers, tally, |to, more| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        });
        self.kept.store(kept as u64, Ordering::Relaxed);
    }

    /// Adds from one of several writers.
    pub(crate) fn add_shared(&self, tally: &Tally) {
        each(&self.numbers, tally, |to, more| {
            to.fetch_add(more, Ordering::Relaxed);
        });
    }
}

/// Adds what is not zero.
fn each(to: &Numbers<AtomicU64>, from: &Tally, add: impl Fn(&AtomicU64, u64)) {
    let lists: [(&[AtomicU64], &[u64]); 6] = [
        (&to.requests[0], &from.requests[0]),
        (&to.requests[1], &from.requests[1]),
        (&to.responses, &from.responses),
        (&to.request_sizes, &from.request_sizes),
        (&to.response_sizes, &from.response_sizes),
        (&to.times, &from.times),
    ];
    for (to, from) in lists {
        for (to, more) in to.iter().zip(from).filter(|(_, more)| **more > 0) {
            add(to, *more);
        }
    }
    let single = [
        (&to.request_bytes, from.request_bytes),
        (&to.response_bytes, from.response_bytes),
        (&to.time, from.time),
        (&to.hits, from.hits),
        (&to.forwarded, from.forwarded),
        (&to.refused, from.refused),
        (&to.limited, from.limited),
        (&to.dropped, from.dropped),
        (&to.truncated, from.truncated),
    ];
    for (to, more) in single.into_iter().filter(|(_, more)| *more > 0) {
        add(to, more);
    }
}

/// The sum of these counts.
pub(crate) fn sum<'a>(all: impl IntoIterator<Item = &'a Counts>) -> Tally {
    // Added up in numbers of its own: nobody else writes them.
    let sum = Numbers::<AtomicU64>::default();
    for counts in all {
        let mut one = Tally::default();
        read(&counts.numbers, &mut one);
        each(&sum, &one, |to, more| {
            to.fetch_add(more, Ordering::Relaxed);
        });
    }
    let mut tally = Tally::default();
    read(&sum, &mut tally);
    tally
}

fn read(from: &Numbers<AtomicU64>, to: &mut Tally) {
    let all = |from: &[AtomicU64], to: &mut [u64]| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
    };
    all(&from.requests[0], &mut to.requests[0]);
    all(&from.requests[1], &mut to.requests[1]);
    all(&from.responses, &mut to.responses);
    all(&from.request_sizes, &mut to.request_sizes);
    all(&from.response_sizes, &mut to.response_sizes);
    all(&from.times, &mut to.times);
    let one = |from: &AtomicU64| from.load(Ordering::Relaxed);
    to.request_bytes = one(&from.request_bytes);
    to.response_bytes = one(&from.response_bytes);
    to.time = one(&from.time);
    to.hits = one(&from.hits);
    to.forwarded = one(&from.forwarded);
    to.refused = one(&from.refused);
    to.limited = one(&from.limited);
    to.dropped = one(&from.dropped);
    to.truncated = one(&from.truncated);
}

/// What people are shown of these counts.
pub(crate) fn totals<'a>(all: impl IntoIterator<Item = &'a Counts> + Clone) -> Totals {
    let kept = all.clone().into_iter().map(|one| one.kept.load(Ordering::Relaxed)).sum();
    let tally = sum(all);
    Totals { queries: tally.all(), hits: tally.hits, forwarded: tally.forwarded, kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_adds_up() {
        let (one, two) = (Counts::default(), Counts::default());
        let mut tally = Tally::default();
        tally.request("10.0.0.1".parse().expect("x"), Some(kind::AAAA), 40);
        tally.request("fd00::1".parse().expect("x"), Some(999), 600);
        tally.request("10.0.0.1".parse().expect("x"), None, 3);
        tally.response(&[0, 0, 0x82, 3]);
        tally.took(2, Duration::from_micros(30));
        one.add(&tally, 5);
        one.add(&tally, 5);
        two.add_shared(&tally);
        let sum = sum([&one, &two]);
        assert_eq!((sum.all(), sum.requests[0][1], sum.requests[1][11]), (9, 3, 3));
        assert_eq!((sum.responses[3], sum.truncated, sum.times[1], sum.time), (3, 3, 6, 180));
        assert_eq!((sum.request_sizes[1], sum.request_sizes[6], sum.request_bytes), (6, 3, 1929));
        assert_eq!(totals([&one, &two]).kept, 5);
    }
}
