//! Which endpoint gets a request.
//!
//! ```text
//! route ──▶ BackendSet::pick(tried, key) ──▶ OpenRequest ──▶ refused() | answered() ──▶ dropped
//! ```
//!
//! A [`Policy`] comes from annotations of the Service, overridden by the route's. Default: of two
//! endpoints taken at random, the one with fewer open requests times latency (Mitzenmacher 2001;
//! Finagle's peak EWMA). A pick looks at two endpoints, whatever their number, and takes no lock;
//! only when both may not be had the list is gone through.
//!
//! Those that refused a connection rest for a second; those that fail are ejected ([`outlier`]);
//! those that a check found ill are passed over; and when too few are left, all of that is passed
//! over. New ones get their share slowly ([`slow_start`]); loaded ones get less ([`limits`]).
//!
//! [`outlier`]: super::outlier
//! [`slow_start`]: super::slow_start
//! [`limits`]: super::limits

mod choice;
mod endpoint;
mod policy;
mod set;
mod totals;

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use endpoint::Endpoint;
pub(crate) use policy::{HashOn, Pick, Policy};
pub(crate) use set::{BackendSet, Member, OpenRequest, Sets};
pub(crate) use totals::metrics;

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is none.
    NoEndpoint,
    /// As many requests are open as may be.
    TooManyOpen,
    /// As many requests came this second as may.
    TooManyASecond,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEndpoint => "no endpoint is ready any more",
            Self::TooManyOpen => "as many requests are open as the route allows",
            Self::TooManyASecond => "more requests a second than the route allows",
        })
    }
}

/// Microseconds since this process first asked, and never 0.
pub(crate) fn now_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX) + 1
}

/// Evenly spread numbers without a lock or a generator per thread (SplitMix64 over a counter).
pub(crate) fn random() -> u64 {
    static STEP: AtomicU64 = AtomicU64::new(0);
    mix(STEP.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
}

/// SplitMix64's finish: every bit of the result depends on every bit given.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The same in every process: several balancers send a key to the same endpoint. (FNV-1a, mixed.)
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}
