//! Keys that wait for a run: each at most once, some only later, failed ones ever later.
//!
//! Bounded by the number of keys there are: adding a key that waits changes nothing.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The wait after the first failure; it doubles from there.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// No failed key waits longer.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A queue of keys. Cheap to clone.
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    due: VecDeque<K>,
    waiting: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    times: HashMap<K, Instant>,
    running: HashSet<K>,
    again: HashSet<K>,
    failures: HashMap<K, u32>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            due: VecDeque::new(),
            waiting: HashSet::new(),
            later: BTreeSet::new(),
            times: HashMap::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }
}

impl<K: Clone + Ord + Hash> Queue<K> {
    /// Asks for a run of `key`, as soon as may be.
    pub fn add(&self, key: K) {
        self.state().add(key);
        self.shared.changed.notify_one();
    }

    /// Asks for a run of `key` after `delay`, unless one comes sooner.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state().add_at(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// The next key that is due. It runs until [`Queue::succeeded`] or [`Queue::failed`].
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.state();
                if let Some(key) = state.take(Instant::now()) {
                    return key;
                }
                state.later.first().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = self.shared.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.shared.changed.notified().await,
            }
        }
    }

    /// Ends a run; `next` asks for another one by then.
    pub fn succeeded(&self, key: K, next: Option<Duration>) {
        let mut state = self.state();
        state.failures.remove(&key);
        state.end(&key);
        if let Some(delay) = next {
            state.add_at(key, Instant::now() + delay);
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Ends a run that is to be tried again, the later the more have failed in a row.
    pub fn failed(&self, key: K) {
        let mut state = self.state();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        let delay = FIRST_RETRY.saturating_mul(1 << (*failures).min(16)).min(LAST_RETRY);
        *failures += 1;
        // Spread over a quarter, so that what failed together is not tried together.
        let delay = delay.mul_f64(rand::random_range(0.75..=1.0));
        state.again.remove(&key);
        state.end(&key);
        state.add_at(key, Instant::now() + delay);
        drop(state);
        self.shared.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().expect("no holder of the lock panics")
    }
}

impl<K: Clone + Ord + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.due.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(known) = self.times.get(&key) {
            if *known <= at {
                return;
            }
            self.later.remove(&(*known, key.clone()));
        }
        self.times.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.times.remove(&key);
            self.add(key);
        }
        let key = self.due.pop_front()?;
        self.waiting.remove(&key);
        // The run that begins now says anew when it wants another.
        if let Some(at) = self.times.remove(&key) {
            self.later.remove(&(at, key.clone()));
        }
        self.running.insert(key.clone());
        Some(key)
    }

    fn end(&mut self, key: &K) {
        self.running.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_runs_once_at_a_time() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "b");
        queue.succeeded("a", None);
        assert_eq!(queue.next().await, "a", "a change during the run causes another");
        queue.succeeded("a", None);
        queue.succeeded("b", None);
        assert!(queue.state().take(Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_soonest_of_two_times_holds() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_ever_longer_and_success_begins_anew() {
        let queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..14 {
            let start = Instant::now();
            let key = queue.next().await;
            waits.push(start.elapsed());
            queue.failed(key);
        }
        assert!(
            waits[1] <= FIRST_RETRY + Duration::from_millis(2)
                && waits[13] > Duration::from_secs(40)
        );
        let key = queue.next().await;
        queue.succeeded(key, None);
        assert!(queue.state().failures.is_empty());
    }
}
