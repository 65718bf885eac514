//! What a watcher holds, and the fan-out to all of them.
//!
//! ```text
//!   writer ── publish(batch) ──▶ Watchers ── by prefix ──▶ queue ──▶ Watch::next
//! ```
//!
//! The fan-out never waits: a watcher whose backlog is full is dropped, gets what was queued for
//! it and then none. A batch is cut once per prefix and shared by all who watch that prefix, so a
//! thousand watchers cost a thousand pointers.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use crate::contract::{Change, Revision};

/// How many replayed changes one event carries at most, so that a long replay comes in pieces.
const REPLAY_PIECE: usize = 1000;

type Batch = Arc<[Arc<Change>]>;

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes in order of revision, never empty.
    Changes(Vec<Arc<Change>>),
    /// Everything up to this revision has been told. Comes now and then in quiet times.
    Progress(Revision),
}

/// A stream of changes. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    replay: std::vec::IntoIter<Arc<Change>>,
    queue: mpsc::Receiver<Batch>,
    pending: Arc<AtomicUsize>,
    watchers: Arc<Watchers>,
    prefix: Bytes,
    id: u64,
    told: Revision,
    progress_every: Duration,
    progress_due: Instant,
}

impl Watch {
    /// The next changes, or word of progress. None when the watcher was too slow, or the store
    /// closed: list, and watch anew.
    ///
    /// May be dropped and called again without losing anything.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        let piece: Vec<_> = self.replay.by_ref().take(REPLAY_PIECE).collect();
        if !piece.is_empty() {
            return Some(WatchEvent::Changes(piece));
        }
        loop {
            match tokio::time::timeout_at(self.progress_due, self.queue.recv()).await {
                Ok(batch) => return batch.map(|batch| self.deliver(&batch)),
                Err(_) => self.progress_due = Instant::now() + self.progress_every,
            }
            // The order matters: what was published before this load is in the queue by now.
            let published = self.watchers.published();
            match self.queue.try_recv() {
                Ok(batch) => return Some(self.deliver(&batch)),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if published > self.told {
                self.told = published;
                return Some(WatchEvent::Progress(published));
            }
        }
    }

    fn deliver(&mut self, batch: &Batch) -> WatchEvent {
        self.pending.fetch_sub(batch.len(), Ordering::AcqRel);
        if let Some(last) = batch.last() {
            self.told = last.revision();
        }
        self.progress_due = Instant::now() + self.progress_every;
        WatchEvent::Changes(batch.to_vec())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchers.remove(&self.prefix, self.id);
    }
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    /// Everything up to here is in the replay that the watcher started with.
    replayed: Revision,
    queue: mpsc::Sender<Batch>,
    pending: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Registry {
    by_prefix: HashMap<Bytes, Vec<Watcher>>,
    /// How many prefixes there are of each length: a key is looked up once per length.
    lengths: BTreeMap<usize, usize>,
    next_id: u64,
    closed: bool,
}

impl Registry {
    fn forget_prefix(&mut self, prefix: &Bytes) {
        self.by_prefix.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}

/// All watchers of one store.
#[derive(Debug)]
pub(crate) struct Watchers {
    registry: Mutex<Registry>,
    published: AtomicU64,
    backlog: usize,
    progress_every: Duration,
}

impl Watchers {
    /// No watchers yet; each may lag by `backlog` changes.
    pub(crate) fn new(revision: Revision, backlog: usize, progress_every: Duration) -> Arc<Self> {
        Arc::new(Watchers {
            registry: Mutex::default(),
            published: AtomicU64::new(revision.0),
            backlog: backlog.max(1),
            progress_every,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    /// Adds a watcher that starts with `replay`, which is everything up to `replayed`.
    ///
    /// The caller holds the store's state so that no batch slips in between its reading of the
    /// history and this call; a batch that is already in the history and not yet published is
    /// told apart by `replayed`.
    pub(crate) fn add(
        self: &Arc<Self>,
        prefix: Bytes,
        replay: Vec<Arc<Change>>,
        replayed: Revision,
    ) -> Option<Watch> {
        let mut registry = self.lock();
        if registry.closed {
            return None;
        }
        let (sender, queue) = mpsc::channel(self.backlog);
        let pending = Arc::new(AtomicUsize::new(0));
        let id = registry.next_id;
        registry.next_id += 1;
        if !registry.by_prefix.contains_key(&prefix) {
            *registry.lengths.entry(prefix.len()).or_default() += 1;
        }
        registry.by_prefix.entry(prefix.clone()).or_default().push(Watcher {
            id,
            replayed,
            queue: sender,
            pending: pending.clone(),
        });
        Some(Watch {
            replay: replay.into_iter(),
            queue,
            pending,
            watchers: self.clone(),
            prefix,
            id,
            told: replayed,
            progress_every: self.progress_every,
            progress_due: Instant::now() + self.progress_every,
        })
    }

    fn remove(&self, prefix: &Bytes, id: u64) {
        let mut registry = self.lock();
        let Some(group) = registry.by_prefix.get_mut(prefix) else { return };
        group.retain(|watcher| watcher.id != id);
        if group.is_empty() {
            registry.forget_prefix(prefix);
        }
    }

    /// Tells everyone concerned; `changes` are in order and go up to `revision`.
    pub(crate) fn publish(&self, changes: &[Arc<Change>], revision: Revision) {
        let mut registry = self.lock();
        let mut cuts: HashMap<Bytes, Vec<Arc<Change>>> = HashMap::new();
        for change in changes {
            let key = change.key();
            for length in registry.lengths.range(..=key.len()).map(|(length, _)| *length) {
                if let Some((prefix, _)) = registry.by_prefix.get_key_value(&key[..length]) {
                    cuts.entry(prefix.clone()).or_default().push(change.clone());
                }
            }
        }
        for (prefix, cut) in cuts {
            let cut: Batch = cut.into();
            let Some(group) = registry.by_prefix.get_mut(&prefix) else { continue };
            group.retain(|watcher| watcher.offer(&cut, self.backlog));
            if group.is_empty() {
                registry.forget_prefix(&prefix);
            }
        }
        self.published.store(revision.0, Ordering::Release);
    }

    /// Ends every watch; new ones start at `revision`.
    pub(crate) fn restart(&self, revision: Revision) {
        let mut registry = self.lock();
        registry.by_prefix.clear();
        registry.lengths.clear();
        self.published.store(revision.0, Ordering::Release);
    }

    /// Ends every watch and refuses new ones.
    pub(crate) fn close(&self) {
        let mut registry = self.lock();
        registry.closed = true;
        registry.by_prefix.clear();
        registry.lengths.clear();
    }
}

impl Watcher {
    /// Queues `cut`; false when the watcher is to be dropped.
    fn offer(&self, cut: &Batch, backlog: usize) -> bool {
        // A batch becomes visible as a whole: the replay holds all of it or nothing.
        if cut.last().is_none_or(|last| last.revision() <= self.replayed) {
            return true;
        }
        let pending = self.pending.fetch_add(cut.len(), Ordering::AcqRel);
        if pending > 0 && pending + cut.len() > backlog {
            tracing::warn!(pending, "a watcher is too slow and is dropped");
            return false;
        }
        self.queue.try_send(cut.clone()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Entry;

    fn change(key: &str, revision: u64) -> Arc<Change> {
        let revision = Revision(revision);
        let key = Bytes::copy_from_slice(key.as_bytes());
        let entry = Entry { key, value: Bytes::new(), created: revision, modified: revision };
        Arc::new(Change::Put { entry, previous: None })
    }

    fn revisions(event: Option<WatchEvent>) -> Vec<u64> {
        match event {
            Some(WatchEvent::Changes(changes)) => changes.iter().map(|c| c.revision().0).collect(),
            other => panic!("expected changes, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn batch_in_the_replay_is_not_told_again() {
        let watchers = Watchers::new(Revision(1), 10, Duration::from_secs(5));
        let first = change("a/1", 2);
        let mut watch =
            watchers.add("a/".into(), vec![first.clone()], Revision(2)).expect("it is open");
        watchers.publish(&[first], Revision(2));
        watchers.publish(&[change("a/2", 3), change("b/1", 4)], Revision(4));
        assert_eq!(revisions(watch.next().await), [2]);
        assert_eq!(revisions(watch.next().await), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_watcher_hears_of_progress() {
        let watchers = Watchers::new(Revision(1), 10, Duration::from_secs(5));
        let mut watch = watchers.add("a/".into(), vec![], Revision(1)).expect("it is open");
        watchers.publish(&[change("b/1", 2)], Revision(2));
        assert_eq!(watch.next().await, Some(WatchEvent::Progress(Revision(2))));
    }

    #[tokio::test]
    async fn slow_watcher_gets_its_queue_and_then_none() {
        let watchers = Watchers::new(Revision(1), 2, Duration::from_secs(5));
        let mut slow = watchers.add("a".into(), vec![], Revision(1)).expect("it is open");
        for revision in 2..=4 {
            watchers.publish(&[change("a", revision)], Revision(revision));
        }
        assert_eq!(revisions(slow.next().await), [2]);
        assert_eq!(revisions(slow.next().await), [3]);
        assert_eq!(slow.next().await, None);
        assert!(watchers.lock().by_prefix.is_empty());
    }

    #[test]
    fn dropped_watch_leaves_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime starts");
        let _inside = runtime.enter();
        let watchers = Watchers::new(Revision(1), 2, Duration::from_secs(5));
        drop(watchers.add("a".into(), vec![], Revision(1)));
        let registry = watchers.lock();
        assert!(registry.by_prefix.is_empty() && registry.lengths.is_empty());
    }
}
