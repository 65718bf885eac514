//! What is held in memory: the current entries and a window of history.
//!
//! An older revision is read by undoing, on the current entries, the changes made since; no entry
//! is kept twice for it. A change retains the entry that it replaced and nothing else that is not
//! retained anyway, so the window's cost is the sum of the previous entries.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Change, Entry, Page, ReadError, Revision};

/// What a change costs besides the bytes of the entry it replaced: the enum, the reference
/// counts and the queue slot, rounded up.
const CHANGE_OVERHEAD: u64 = 256;

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) changes: usize,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    current: BTreeMap<Bytes, Entry>,
    revision: Revision,
    /// Changes with a revision greater than `floor`, oldest first.
    history: VecDeque<Arc<Change>>,
    history_bytes: u64,
    floor: Revision,
    window: Window,
}

impl State {
    /// A state without history: its floor is `revision`.
    pub(crate) fn new(
        current: BTreeMap<Bytes, Entry>,
        revision: Revision,
        window: Window,
    ) -> State {
        State {
            current,
            revision,
            history: VecDeque::new(),
            history_bytes: 0,
            floor: revision,
            window,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.current.get(key)
    }

    /// Takes in a batch; its revisions are greater than the state's own and do not fall.
    pub(crate) fn apply(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            debug_assert!(change.revision() >= self.revision);
            match &**change {
                Change::Put { entry, .. } => {
                    self.current.insert(entry.key.clone(), entry.clone());
                }
                Change::Delete { previous, .. } => {
                    self.current.remove(&previous.key);
                }
            }
            self.revision = change.revision();
            self.history_bytes += cost(change);
            self.history.push_back(change.clone());
        }
        while self.history.len() > self.window.changes || self.history_bytes > self.window.bytes {
            self.forget_oldest();
        }
    }

    /// Nothing more will come up to `revision`.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.history.pop_front() {
            self.history_bytes -= cost(&oldest);
            self.floor = oldest.revision();
        }
    }

    /// Forgets history up to and including `floor`.
    pub(crate) fn compact(&mut self, floor: Revision) -> Result<(), ReadError> {
        if floor > self.revision {
            return Err(ReadError::Future { current: self.revision });
        }
        while self.history.front().is_some_and(|change| change.revision() <= floor) {
            self.forget_oldest();
        }
        self.floor = self.floor.max(floor);
        Ok(())
    }

    fn check(&self, revision: Revision) -> Result<(), ReadError> {
        if revision > self.revision {
            return Err(ReadError::Future { current: self.revision });
        }
        if revision < self.floor {
            return Err(ReadError::Compacted { floor: self.floor });
        }
        Ok(())
    }

    fn since(&self, revision: Revision) -> impl Iterator<Item = &Arc<Change>> {
        let start = self.history.partition_point(|change| change.revision() <= revision);
        self.history.range(start..)
    }

    /// Changes of `prefix` after `revision`.
    pub(crate) fn replay(
        &self,
        prefix: &[u8],
        revision: Revision,
    ) -> Result<Vec<Arc<Change>>, ReadError> {
        self.check(revision)?;
        let wanted = |change: &&Arc<Change>| change.key().starts_with(prefix);
        Ok(self.since(revision).filter(wanted).cloned().collect())
    }

    pub(crate) fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        let at = at.unwrap_or(self.revision);
        self.check(at)?;
        if at == self.revision {
            return Ok(page(self.range(prefix, after), limit, at));
        }
        let undone = self.undone(prefix, after, at);
        let untouched = self.range(prefix, after).filter(|e| !undone.contains_key(&e.key));
        let mut entries: Vec<&Entry> =
            untouched.chain(undone.values().copied().flatten()).collect();
        // Two runs in order one after the other: a merge for the stable sort.
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(page(entries.into_iter(), limit, at))
    }

    fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = &'a Entry> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.current
            .range::<[u8], _>((start, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(move |entry| entry.key.starts_with(prefix))
    }

    /// Every key of the range that was written after `at`, as it was then.
    fn undone(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        at: Revision,
    ) -> BTreeMap<&Bytes, Option<&Entry>> {
        let mut undone = BTreeMap::new();
        for change in self.since(at) {
            let key = change.key();
            if key.starts_with(prefix) && after.is_none_or(|after| &key[..] > after) {
                undone.entry(key).or_insert(change.previous());
            }
        }
        undone
    }
}

fn cost(change: &Change) -> u64 {
    let previous = change.previous().map_or(0, |entry| entry.key.len() + entry.value.len());
    previous as u64 + CHANGE_OVERHEAD
}

fn page<'a>(
    mut entries: impl Iterator<Item = &'a Entry>,
    limit: usize,
    revision: Revision,
) -> Page {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page: Vec<Entry> = entries.by_ref().take(limit).cloned().collect();
    Page { entries: page, revision, remaining: entries.count() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(changes: usize, bytes: u64) -> State {
        State::new(BTreeMap::new(), Revision(1), Window { changes, bytes })
    }

    fn put(state: &mut State, key: &'static str, value: &'static str) {
        let previous = state.get(key.as_bytes()).cloned();
        let modified = state.revision().next();
        let created = previous.as_ref().map_or(modified, |p| p.created);
        let entry = Entry { key: key.into(), value: value.into(), created, modified };
        state.apply(&[Arc::new(Change::Put { entry, previous })]);
    }

    fn delete(state: &mut State, key: &str) {
        let previous = state.get(key.as_bytes()).cloned().expect("the test put it there");
        let revision = state.revision().next();
        state.apply(&[Arc::new(Change::Delete { previous, revision })]);
    }

    fn shown(page: &Page) -> String {
        let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
        page.entries.iter().map(|e| format!("{}={} ", text(&e.key), text(&e.value))).collect()
    }

    #[test]
    fn older_revision_shows_what_was_there() {
        let mut state = state(100, 1 << 20);
        put(&mut state, "a", "1"); // 2
        put(&mut state, "b", "1"); // 3
        put(&mut state, "a", "2"); // 4
        delete(&mut state, "b"); // 5
        put(&mut state, "c", "1"); // 6
        put(&mut state, "b", "2"); // 7
        let at = |r| shown(&state.list(b"", None, 0, Some(Revision(r))).expect("it is kept"));
        assert_eq!(at(1), "");
        assert_eq!(at(2), "a=1 ");
        assert_eq!(at(3), "a=1 b=1 ");
        assert_eq!(at(4), "a=2 b=1 ");
        assert_eq!(at(5), "a=2 ");
        assert_eq!(at(6), "a=2 c=1 ");
        assert_eq!(at(7), "a=2 b=2 c=1 ");
        assert!(matches!(
            state.list(b"", None, 0, Some(Revision(8))),
            Err(ReadError::Future { current: Revision(7) })
        ));
    }

    #[test]
    fn pages_of_an_older_revision_do_not_shift() {
        let mut state = state(100, 1 << 20);
        for key in ["p/1", "p/2", "p/3", "q/1"] {
            put(&mut state, key, "x");
        }
        let at = state.revision();
        let first = state.list(b"p/", None, 1, Some(at)).expect("it is kept");
        assert_eq!((shown(&first).as_str(), first.remaining), ("p/1=x ", 2));
        delete(&mut state, "p/2");
        put(&mut state, "p/0", "new");
        let second = state.list(b"p/", Some(b"p/1"), 1, Some(at)).expect("it is kept");
        assert_eq!((shown(&second).as_str(), second.remaining), ("p/2=x ", 1));
        let third = state.list(b"p/", Some(b"p/2"), 1, Some(at)).expect("it is kept");
        assert_eq!((shown(&third).as_str(), third.remaining), ("p/3=x ", 0));
    }

    #[test]
    fn window_is_bounded_by_count_and_by_bytes() {
        let mut few = state(3, 1 << 20);
        for _ in 0..10 {
            put(&mut few, "a", "x");
        }
        assert_eq!((few.history.len(), few.floor), (3, Revision(8)));
        assert!(few.replay(b"", Revision(8)).is_ok());
        assert!(matches!(
            few.replay(b"", Revision(7)),
            Err(ReadError::Compacted { floor: Revision(8) })
        ));

        let mut small = state(1000, 3 * CHANGE_OVERHEAD);
        for _ in 0..10 {
            put(&mut small, "a", "x");
        }
        assert_eq!(small.history.len(), 2);
        assert!(small.history_bytes <= 3 * CHANGE_OVERHEAD);
    }

    #[test]
    fn compaction_stops_at_the_present() {
        let mut state = state(100, 1 << 20);
        put(&mut state, "a", "1");
        put(&mut state, "a", "2");
        assert!(matches!(state.compact(Revision(4)), Err(ReadError::Future { .. })));
        state.compact(Revision(3)).expect("it has happened");
        state.compact(Revision(2)).expect("a lower floor changes nothing");
        assert_eq!((state.floor, state.history.len(), state.history_bytes), (Revision(3), 0, 0));
    }
}
