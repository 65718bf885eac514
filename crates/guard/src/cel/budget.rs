//! How much an evaluation may take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Turns and bytes that may still be spent, until a moment.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    until: Instant,
}

/// There is nothing left to spend.
#[derive(Debug)]
pub(super) struct Spent;

impl Budget {
    /// What all expressions of one request may take together: a million turns, a second.
    #[must_use]
    pub fn for_request(now: Instant) -> Self {
        Self::new(1_000_000, now + Duration::from_secs(1))
    }

    /// A budget of so many units until a moment.
    #[must_use]
    pub fn new(units: u64, until: Instant) -> Self {
        Self { left: AtomicU64::new(units), until }
    }

    pub(super) fn spend(&self, units: u64) -> Result<(), Spent> {
        let take = |left: u64| left.checked_sub(units);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() || Instant::now() >= self.until {
            self.left.store(0, Ordering::Relaxed);
            return Err(Spent);
        }
        Ok(())
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}
