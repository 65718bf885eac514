//! A pod's port, and what this process knows of it.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use berth_api::found::Finding;

use super::Policy;
use super::totals::Totals;
use crate::l7::limits::{Load, Rate};
use crate::l7::outlier::Counts;
use crate::l7::slow_start;

/// How long an endpoint that refused is passed over: a pod that stops is out of the table long
/// before, and one that restarts is back soon after.
const REST_US: u64 = 1_000_000;
/// In so long an old latency loses most of its weight.
const DECAY_US: f64 = 10_000_000.0;

/// What active checks said.
const UNCHECKED: u8 = 0;
const WELL: u8 = 1;
const ILL: u8 = 2;

/// One endpoint of one set; lives on from table to table. Everything in it is atomic.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddrV4,
    /// When it came into a set that was there before it; 0 for those that came with the set.
    born_us: u64,
    weight: AtomicU32,
    local: AtomicBool,
    pub(super) open: AtomicUsize,
    /// Average latency in µs above, below when it was measured last, in ms.
    latency: AtomicU64,
    rests_until_us: AtomicU64,
    checked: AtomicU8,
    /// Why it is ill.
    why: Mutex<String>,
    /// What was told of it last, as a number.
    told: AtomicU8,
    pub(super) counts: Counts,
    pub(super) rate: Rate,
    pub(super) load: Load,
    pub(super) totals: Arc<Totals>,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddrV4, born_us: u64) -> Self {
        Self {
            address,
            born_us,
            weight: AtomicU32::new(1),
            local: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            rests_until_us: AtomicU64::new(0),
            checked: AtomicU8::new(UNCHECKED),
            why: Mutex::default(),
            told: AtomicU8::new(Finding::Unchecked as u8),
            counts: Counts::default(),
            rate: Rate::default(),
            load: Load::default(),
            totals: Totals::of(address),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    pub(super) fn place(&self, weight: u32, local: bool) {
        self.weight.store(weight, Ordering::Relaxed);
        self.local.store(local, Ordering::Relaxed);
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(super) fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    /// It refused a connection.
    pub(super) fn rest(&self, now_us: u64) {
        self.rests_until_us.store(now_us + REST_US, Ordering::Relaxed);
    }

    pub(super) fn rests(&self, now_us: u64) -> bool {
        self.rests_until_us.load(Ordering::Relaxed) > now_us
    }

    /// Says what an active check found.
    pub(crate) fn checked(&self, well: bool) {
        self.checked.store(if well { WELL } else { ILL }, Ordering::Relaxed);
    }

    /// Says why a check will not have it.
    pub(crate) fn ails(&self, why: String) {
        *self.why.lock().expect("no holder of the lock panics") = why;
    }

    /// Nobody checks it any more.
    pub(crate) fn unchecked(&self) {
        self.checked.store(UNCHECKED, Ordering::Relaxed);
    }

    /// What is found of it, and why if it is down.
    pub(crate) fn finding(&self, now_us: u64) -> (Finding, Option<String>) {
        let finding = self.found(now_us);
        let why = match finding {
            Finding::Ill => self.why.lock().expect("no holder of the lock panics").clone(),
            Finding::Ejected => "requests failed".to_owned(),
            Finding::Unchecked | Finding::Well => return (finding, None),
        };
        (finding, Some(format!("port {}: {why}", self.address.port())))
    }

    /// Whether another thing is found of it than when this was asked last.
    pub(crate) fn has_news(&self, now_us: u64) -> bool {
        let found = self.found(now_us) as u8;
        found != self.told.load(Ordering::Relaxed)
            && found != self.told.swap(found, Ordering::Relaxed)
    }

    fn found(&self, now_us: u64) -> Finding {
        match self.checked.load(Ordering::Relaxed) {
            ILL => Finding::Ill,
            _ if self.counts.is_ejected(now_us) => Finding::Ejected,
            WELL => Finding::Well,
            _ => Finding::Unchecked,
        }
    }

    /// What an active check found last, if there was one.
    pub(crate) fn check(&self) -> Option<bool> {
        match self.checked.load(Ordering::Relaxed) {
            UNCHECKED => None,
            state => Some(state == WELL),
        }
    }

    /// Neither ejected nor found ill.
    pub(super) fn is_well(&self, now_us: u64) -> bool {
        self.checked.load(Ordering::Relaxed) != ILL && !self.counts.is_ejected(now_us)
    }

    /// Whether the gates of slow start and load let a request through.
    pub(super) fn is_let(&self, policy: &Policy, now_us: u64, random: u64) -> bool {
        let draw = |shift: u32| u32::try_from(random.rotate_left(shift) >> 32).unwrap_or(0);
        if let Some(window) = policy.slow_start
            && self.born_us > 0
        {
            let share = slow_start::share(now_us.saturating_sub(self.born_us), window);
            if u64::from(draw(17)) % slow_start::WHOLE >= share {
                return false;
            }
        }
        match &policy.limits.load {
            Some(threshold) => self.load.admits(threshold, now_us, draw(41)),
            None => true,
        }
    }

    /// Averages a latency in; what is old counts less the longer ago it was.
    pub(super) fn measured(&self, latency_us: u64, now_us: u64) {
        let now_ms = u32::try_from(now_us / 1000).unwrap_or(u32::MAX);
        let sample = latency_us.clamp(1, u64::from(u32::MAX));
        let before = self.latency.load(Ordering::Relaxed);
        let (old, then_ms) = (before >> 32, before & u64::from(u32::MAX));
        let average = if old == 0 {
            sample
        } else {
            let passed_us = u64::from(now_ms).saturating_sub(then_ms) * 1000;
            // At least a tenth of the new one, so that a busy endpoint's average moves too.
            let keep = (-(passed_us as f64) / DECAY_US).exp().min(0.9);
            (old as f64 * keep + sample as f64 * (1.0 - keep)) as u64
        };
        // Of two at once one is lost: it is an average.
        self.latency.store(average.max(1) << 32 | u64::from(now_ms), Ordering::Relaxed);
    }

    /// The average latency in µs, if there is one.
    pub(super) fn latency_us(&self) -> Option<u64> {
        Some(self.latency.load(Ordering::Relaxed) >> 32).filter(|latency| *latency > 0)
    }

    /// Requests open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place for a request, within the endpoint's own limits.
    pub(super) fn enter(&self, policy: &Policy, now_us: u64) -> bool {
        let most = policy.limits.open;
        if self.open.fetch_add(1, Ordering::Relaxed) >= most && most > 0 {
            self.leave();
            return false;
        }
        if !self.rate.take(policy.limits.rate, now_us) {
            self.leave();
            return false;
        }
        true
    }

    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
