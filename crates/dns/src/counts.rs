//! What each answering thread counts: written by it alone, so no step waits for another thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    queries: AtomicU64,
    /// Answered from what upstreams said before.
    hits: AtomicU64,
    forwarded: AtomicU64,
    kept: AtomicU64,
    /// Raised from outside: the thread forgets what it keeps when it sees another number.
    pub flushes: AtomicU64,
}

/// Counts of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Packets that came over UDP.
    pub queries: u64,
    /// Of them answered from what upstreams said before, without asking anybody.
    pub hits: u64,
    /// Of them given to a task that may have to ask an upstream.
    pub forwarded: u64,
    /// Answers that the threads keep.
    pub kept: u64,
}

impl Counts {
    /// Adds a batch.
    pub(crate) fn add(&self, queries: usize, hits: u64, forwarded: u64, kept: usize) {
        let add = |to: &AtomicU64, more: u64| {
            // One writer: a load and a store are enough, and cheaper than a locked addition.
            to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&self.queries, queries as u64);
        add(&self.hits, hits);
        add(&self.forwarded, forwarded);
        self.kept.store(kept as u64, Ordering::Relaxed);
    }
}

/// The sum of all threads.
pub(crate) fn totals<'a>(all: impl IntoIterator<Item = &'a Counts>) -> Totals {
    all.into_iter().fold(Totals::default(), |sum, one| Totals {
        queries: sum.queries + one.queries.load(Ordering::Relaxed),
        hits: sum.hits + one.hits.load(Ordering::Relaxed),
        forwarded: sum.forwarded + one.forwarded.load(Ordering::Relaxed),
        kept: sum.kept + one.kept.load(Ordering::Relaxed),
    })
}
