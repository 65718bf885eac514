//! Which endpoint gets a request.
//!
//! Of two taken at random, the one with fewer requests open: close to the best choice, without
//! looking at all of them (Mitzenmacher 2001). Endpoints that refused a moment ago rest.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long an endpoint that refused is passed over: a pod that stops is out of the table long
/// before, and one that restarts is back soon after.
const REST: Duration = Duration::from_secs(1);

/// A pod's port, and what this process knows of it. Lives on from table to table.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddrV4,
    open: AtomicUsize,
    /// Milliseconds of [`now_ms`].
    rests_until: AtomicU64,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddrV4) -> Self {
        Self { address, open: AtomicUsize::new(0), rests_until: AtomicU64::new(0) }
    }

    pub(super) fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// It refused a connection.
    pub(super) fn rest(&self) {
        let rest = u64::try_from(REST.as_millis()).expect("a second fits");
        self.rests_until.store(now_ms() + rest, Ordering::Relaxed);
    }
}

/// A request counted as open at an endpoint, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Endpoint>);

impl OpenRequest {
    pub(super) fn at(endpoint: Arc<Endpoint>) -> Self {
        endpoint.open.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Picks for a request that was at `tried` in vain; `None` only when there is no endpoint.
///
/// Prefers one that was not tried and does not rest, then one that was not tried, then any.
pub(super) fn pick(
    endpoints: &[Arc<Endpoint>],
    tried: &[SocketAddrV4],
    now_ms: u64,
    random: u64,
) -> Option<Arc<Endpoint>> {
    let untried = |endpoint: &&Arc<Endpoint>| !tried.contains(&endpoint.address);
    let awake = |endpoint: &&Arc<Endpoint>| {
        untried(endpoint) && endpoint.rests_until.load(Ordering::Relaxed) <= now_ms
    };
    two_of(endpoints, awake, random)
        .or_else(|| two_of(endpoints, untried, random))
        .or_else(|| two_of(endpoints, |_| true, random))
        .cloned()
}

fn two_of(
    endpoints: &[Arc<Endpoint>],
    admits: impl Fn(&&Arc<Endpoint>) -> bool,
    random: u64,
) -> Option<&Arc<Endpoint>> {
    let admitted = || endpoints.iter().filter(&admits);
    let count = admitted().count();
    if count < 2 {
        return admitted().next();
    }
    // The halves of `random` are independent enough to be two draws without repetition.
    let first = (random >> 32) as usize % count;
    let second = (first + 1 + (random & 0xffff_ffff) as usize % (count - 1)) % count;
    let open = |index| {
        let endpoint = admitted().nth(index)?;
        Some((endpoint.open.load(Ordering::Relaxed), endpoint))
    };
    // A resting endpoint may wake between two looks, so an index may be off: then the other one.
    match (open(first), open(second)) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b.1 } else { a.1 }),
        (one, other) => one.or(other).map(|(_, endpoint)| endpoint),
    }
}

/// Milliseconds since this process first asked.
pub(super) fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Evenly spread numbers without a lock or a generator per thread (SplitMix64 over a counter).
pub(super) fn random() -> u64 {
    static STEP: AtomicU64 = AtomicU64::new(0);
    let mut z = STEP.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn endpoints(count: u8) -> Vec<Arc<Endpoint>> {
        (1..=count)
            .map(|last| SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, last), 80))
            .map(|address| Arc::new(Endpoint::new(address)))
            .collect()
    }

    #[test]
    fn requests_spread_evenly_when_all_are_idle() {
        let pods = endpoints(3);
        let mut counts = [0_u32; 3];
        for _ in 0..3000 {
            let picked = pick(&pods, &[], 0, random()).unwrap();
            counts[usize::from(picked.address.ip().octets()[3]) - 1] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_busy_endpoint_is_left_alone() {
        let pods = endpoints(2);
        let _open = OpenRequest::at(pods[0].clone());
        for _ in 0..100 {
            assert_eq!(pick(&pods, &[], 0, random()).unwrap().address, pods[1].address);
        }
    }

    #[test]
    fn tried_and_resting_endpoints_come_last() {
        let pods = endpoints(3);
        pods[1].rest();
        let at = |tried: &[SocketAddrV4], now| pick(&pods, tried, now, random()).unwrap().address;
        let later = now_ms() + 10_000;
        for _ in 0..100 {
            assert_eq!(at(&[pods[0].address], 0), pods[2].address);
            assert_eq!(at(&[pods[0].address, pods[2].address], 0), pods[1].address);
            assert_ne!(at(&[pods[0].address], later), pods[0].address);
        }
        let all: Vec<_> = pods.iter().map(|pod| pod.address).collect();
        assert!(pick(&pods, &all, 0, random()).is_some());
        assert!(pick(&[], &[], 0, random()).is_none());
    }
}
