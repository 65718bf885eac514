//! What is held in memory: the current entries and a window of history.
//!
//! An older revision is read by undoing, on the current entries, the changes made since; no entry
//! is kept twice for it. A change retains the entry that it replaced and nothing else that is not
//! retained anyway, so the window's cost is the sum of the previous entries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::index::Kept;
use super::sorted::{Place, Sorted};
use crate::contract::{Change, Entry, Index, Page, ReadError, Revision};

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
    current: Sorted,
    indexes: Vec<Kept>,
    revision: Revision,
    /// Changes with a revision greater than `floor`, oldest first.
    history: VecDeque<Arc<Change>>,
    history_bytes: u64,
    floor: Revision,
    window: Window,
}

impl State {
    /// A state without history: its floor is `revision`.
    pub(crate) fn new(entries: Vec<Entry>, revision: Revision, window: Window) -> State {
        State {
            current: Sorted::from(entries),
            indexes: Vec::new(),
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

    /// Keeps an index from now on.
    pub(crate) fn index(&mut self, index: Index) {
        if self.indexes.iter().all(|kept| kept.index().name != index.name) {
            let entries = self.range(index.prefix, None);
            let kept = Kept::new(index, entries);
            self.indexes.push(kept);
        }
    }

    /// The indexes that are kept.
    pub(crate) fn indexes(&self) -> Vec<Index> {
        self.indexes.iter().map(Kept::index).collect()
    }

    /// Takes in a batch; its revisions are greater than the state's own and do not fall.
    pub(crate) fn apply(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            debug_assert!(change.revision() >= self.revision);
            match &**change {
                Change::Put { entry, previous } => {
                    self.indexes
                        .iter_mut()
                        .for_each(|kept| kept.see(previous.as_ref(), Some(entry)));
                    self.current.insert(entry.clone());
                }
                Change::Delete { previous, .. } => {
                    self.indexes.iter_mut().for_each(|kept| kept.see(Some(previous), None));
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
        let most = if limit == 0 { usize::MAX } else { limit };
        let start = self.start(prefix, after);
        let present = self.current.count(start, self.current.end_of(prefix));
        if at == self.revision {
            let entries: Vec<Entry> =
                self.current.onward(start).take(present.min(most)).cloned().collect();
            let remaining = (present - entries.len()) as u64;
            return Ok(Page { entries, revision: at, remaining });
        }
        let undone = self.undone(prefix, after, at);
        let gone = undone.keys().filter(|key| self.current.get(key).is_some()).count();
        let back = undone.values().filter(|entry| entry.is_some()).count();
        let there = present - gone + back;
        let untouched = self.current.onward(start).take(present);
        let mut untouched = untouched.filter(|e| !undone.contains_key(&e.key)).peekable();
        let mut undone = undone.values().copied().flatten().peekable();
        let merged = std::iter::from_fn(|| match (untouched.peek(), undone.peek()) {
            (Some(one), Some(other)) if one.key < other.key => untouched.next(),
            (Some(_), None) => untouched.next(),
            _ => undone.next(),
        });
        let entries: Vec<Entry> = merged.take(most).cloned().collect();
        let remaining = (there - entries.len()) as u64;
        Ok(Page { entries, revision: at, remaining })
    }

    /// What an index has under a term, at the current revision; none when there is no such index.
    pub(crate) fn list_by(
        &self,
        index: &str,
        term: &[u8],
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Option<Page> {
        let kept = self.indexes.iter().find(|kept| kept.index().name == index)?;
        let most = if limit == 0 { usize::MAX } else { limit };
        let mut keys =
            kept.keys(term).into_iter().flatten().filter(|key| {
                key.starts_with(prefix) && after.is_none_or(|after| &key[..] > after)
            });
        let entries: Vec<Entry> =
            keys.by_ref().take(most).filter_map(|key| self.current.get(key).cloned()).collect();
        Some(Page { entries, revision: self.revision, remaining: keys.count() as u64 })
    }

    fn start(&self, prefix: &[u8], after: Option<&[u8]>) -> Place {
        match after {
            Some(after) if after >= prefix => self.current.behind(after),
            _ => self.current.before(prefix),
        }
    }

    fn range(&self, prefix: &[u8], after: Option<&[u8]>) -> impl Iterator<Item = &Entry> {
        let start = self.start(prefix, after);
        let count = self.current.count(start, self.current.end_of(prefix));
        self.current.onward(start).take(count)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn state(changes: usize, bytes: u64) -> State {
        State::new(Vec::new(), Revision(1), Window { changes, bytes })
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

    #[test]
    fn pages_count_what_remains_while_keys_come_and_go() {
        let mut state = state(10_000, 1 << 20);
        let keys: Vec<&'static str> =
            (0..600).map(|at| &*Box::leak(format!("p/{at:04}").into_boxed_str())).collect();
        for key in ["o/1", "q/1"].iter().chain(&keys) {
            put(&mut state, key, "x");
        }
        let before = state.revision();
        for key in keys.iter().step_by(3) {
            delete(&mut state, key);
        }
        put(&mut state, "p/0001", "changed");
        put(&mut state, "p/0000/new", "x");
        for (at, all) in [(before, 600), (state.revision(), 401)] {
            let (mut after, mut left) = (None, all);
            while left > 0 {
                let page = state.list(b"p/", after.as_deref(), 7, Some(at)).expect("it is kept");
                let taken = left.min(7);
                assert_eq!((page.entries.len(), page.remaining), (taken, (left - taken) as u64));
                let in_order = page.entries.is_sorted_by(|a, b| a.key < b.key);
                assert!(in_order && page.entries.iter().all(|e| e.key.starts_with(b"p/")));
                after = page.entries.last().map(|entry| entry.key.to_vec());
                left -= taken;
            }
        }
    }

    fn words(value: &[u8]) -> Vec<&[u8]> {
        value.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn an_index_follows_changes_of_its_terms() {
        let mut state = state(100, 1 << 20);
        put(&mut state, "p/1", "a b");
        put(&mut state, "q/1", "a");
        state.index(Index { name: "words", prefix: b"p/", terms: words });
        put(&mut state, "p/2", "b");
        put(&mut state, "p/3", "");
        let by = |state: &State, term: &str, after: Option<&[u8]>, limit| {
            let page = state.list_by("words", term.as_bytes(), b"p/", after, limit).unwrap();
            assert_eq!(page.revision, state.revision());
            format!("{}+{}", shown(&page), page.remaining)
        };
        assert_eq!(by(&state, "a", None, 0), "p/1=a b +0");
        assert_eq!(by(&state, "b", None, 0), "p/1=a b p/2=b +0");
        assert_eq!(by(&state, "b", None, 1), "p/1=a b +1");
        assert_eq!(by(&state, "b", Some(b"p/1"), 1), "p/2=b +0");
        put(&mut state, "p/1", "b");
        put(&mut state, "p/3", "a");
        assert_eq!(by(&state, "a", None, 0), "p/3=a +0");
        assert_eq!(by(&state, "b", None, 0), "p/1=b p/2=b +0");
        delete(&mut state, "p/1");
        delete(&mut state, "p/3");
        assert_eq!(by(&state, "a", None, 0), "+0");
        assert_eq!(by(&state, "b", None, 0), "p/2=b +0");
        assert!(state.list_by("other", b"a", b"p/", None, 0).is_none());
    }
}
