//! Entries in key order that can also be counted: how many lie between two keys costs no walk.
//!
//! A list tells how many entries remain behind its page, so a plain tree would be walked to the end
//! for each page. Two levels do for what fits in memory: chunks of some hundred entries, found by
//! their last key; a count adds up the chunks' lengths, and an insert moves half a chunk at most.
//!
//! A get goes by a hash beside them: keys of one kind begin alike, so that a search by order
//! compares some seventeen of them nearly to their ends, each in another place of the memory; that
//! was a seventh of what a read of the API costs.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::contract::Entry;

/// A chunk that grows beyond this is split.
const CHUNK: usize = 256;
/// Chunks that are made at once leave room to grow.
const FILLED: usize = 192;

#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// None is empty; in order, and so is each.
    chunks: Vec<Vec<Entry>>,
    /// The same entries.
    by_key: HashSet<ByKey>,
}

/// An entry that is told from others by its key alone.
#[derive(Debug)]
struct ByKey(Entry);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key[..].hash(state);
    }
}

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

/// Between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    chunk: usize,
    at: usize,
}

impl From<Vec<Entry>> for Sorted {
    fn from(mut entries: Vec<Entry>) -> Self {
        if !entries.is_sorted_by(|a, b| a.key < b.key) {
            entries.sort_by(|a, b| a.key.cmp(&b.key));
        }
        let by_key = entries.iter().cloned().map(ByKey).collect();
        let mut chunks = Vec::with_capacity(entries.len().div_ceil(FILLED));
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            chunks.push(entries.by_ref().take(FILLED).collect());
        }
        Self { chunks, by_key }
    }
}

impl Sorted {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.by_key.get(key).map(|ByKey(entry)| entry)
    }

    /// Puts an entry in, or in the place of the one with its key.
    pub(super) fn insert(&mut self, entry: Entry) {
        self.by_key.replace(ByKey(entry.clone()));
        let at = self.chunk_of(&entry.key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            // Behind all others: keys that come in order fill their chunks.
            match self.chunks.last_mut() {
                Some(last) if last.len() < CHUNK => last.push(entry),
                _ => self.chunks.push(vec![entry]),
            }
            return;
        };
        match chunk.binary_search_by(|own| own.key.cmp(&entry.key)) {
            Ok(place) => chunk[place] = entry,
            Err(place) => {
                chunk.insert(place, entry);
                if chunk.len() > CHUNK {
                    let behind = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(at + 1, behind);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Bytes) {
        self.by_key.remove(&key[..]);
        let at = self.chunk_of(key);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.binary_search_by(|own| own.key.cmp(key)) else { return };
        chunk.remove(place);
        let left = chunk.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if self.chunks.get(at + 1).is_some_and(|next| left + next.len() < CHUNK / 2) {
            let mut next = self.chunks.remove(at + 1);
            self.chunks[at].append(&mut next);
        }
    }

    /// Before the first entry whose key is not less than `key`.
    pub(super) fn before(&self, key: &[u8]) -> Place {
        self.place(|own| own < key)
    }

    /// Behind `key`, and before everything greater.
    pub(super) fn behind(&self, key: &[u8]) -> Place {
        self.place(|own| own <= key)
    }

    /// Behind everything that begins with `prefix`.
    pub(super) fn end_of(&self, prefix: &[u8]) -> Place {
        self.place(|own| own < prefix || own.starts_with(prefix))
    }

    fn place(&self, is_left: impl Fn(&[u8]) -> bool) -> Place {
        let chunk = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(|last| is_left(&last.key)));
        let at = self
            .chunks
            .get(chunk)
            .map_or(0, |chunk| chunk.partition_point(|entry| is_left(&entry.key)));
        Place { chunk, at }
    }

    /// How many entries lie between two places; none when the second is not behind the first.
    pub(super) fn count(&self, from: Place, to: Place) -> usize {
        if (to.chunk, to.at) <= (from.chunk, from.at) {
            return 0;
        }
        let whole: usize = self.chunks[from.chunk..to.chunk].iter().map(Vec::len).sum();
        whole + to.at - from.at
    }

    /// Everything from a place on.
    pub(super) fn onward(&self, place: Place) -> impl Iterator<Item = &Entry> {
        let first = self.chunks.get(place.chunk).and_then(|chunk| chunk.get(place.at..));
        let rest = self.chunks.get(place.chunk + 1..).unwrap_or_default();
        first.unwrap_or_default().iter().chain(rest.iter().flatten())
    }

    /// The first chunk whose last key is not less than `key`.
    fn chunk_of(&self, key: &[u8]) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| &last.key[..] < key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::contract::Revision;

    fn entry(key: &str, at: u64) -> Entry {
        Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::new(),
            created: Revision(at),
            modified: Revision(at),
        }
    }

    fn same(sorted: &Sorted, map: &BTreeMap<Bytes, u64>) {
        assert!(sorted.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
        let all: Vec<_> =
            sorted.onward(sorted.before(b"")).map(|e| (e.key.clone(), e.modified.0)).collect();
        let wanted: Vec<_> = map.iter().map(|(key, at)| (key.clone(), *at)).collect();
        assert_eq!(all, wanted);
        assert_eq!(sorted.by_key.len(), map.len());
        assert!(map.iter().all(|(key, at)| sorted.get(key).is_some_and(|e| e.modified.0 == *at)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_a_map_that_counts(
            start in proptest::collection::btree_set("[ab]/[a-z]{1,3}", 0..900),
            steps in proptest::collection::vec((any::<bool>(), "[ab]/[a-z]{1,2}"), 0..1200),
            prefix in "[abc]?/?[a-z]?",
            from in "[abc]/[a-z]{0,2}",
        ) {
            let mut map: BTreeMap<Bytes, u64> =
                start.iter().map(|key| (Bytes::from(key.clone()), 1)).collect();
            let mut sorted =
                Sorted::from(start.iter().map(|key| entry(key, 1)).collect::<Vec<_>>());
            for (at, (puts, key)) in steps.iter().enumerate() {
                let (at, key) = (at as u64 + 2, Bytes::from(key.clone()));
                if *puts {
                    sorted.insert(Entry { key: key.clone(), ..entry("", at) });
                    map.insert(key, at);
                } else {
                    sorted.remove(&key);
                    map.remove(&key);
                }
            }
            same(&sorted, &map);
            let begin = sorted.before(prefix.as_bytes());
            let end = sorted.end_of(prefix.as_bytes());
            let wanted = map.keys().filter(|key| key.starts_with(prefix.as_bytes())).count();
            prop_assert_eq!(sorted.count(begin, end), wanted);
            let wanted = map.keys().filter(|key| &key[..] > from.as_bytes()).count();
            let behind = sorted.behind(from.as_bytes());
            prop_assert_eq!(sorted.onward(behind).count(), wanted);
            prop_assert_eq!(sorted.count(behind, sorted.end_of(b"")), wanted);
            let got = sorted.get(from.as_bytes()).map(|entry| entry.modified.0);
            prop_assert_eq!(got, map.get(from.as_bytes()).copied());
        }
    }

    #[test]
    fn keys_in_order_fill_their_chunks_and_nothing_is_left_of_what_goes() {
        let mut sorted = Sorted::default();
        let keys: Vec<String> = (0..10_000).map(|at| format!("{at:05}")).collect();
        keys.iter().for_each(|key| sorted.insert(entry(key, 1)));
        assert_eq!(sorted.chunks.len(), 10_000_usize.div_ceil(CHUNK));
        for key in keys.iter().skip(1) {
            sorted.remove(&Bytes::from(key.clone()));
        }
        assert_eq!(sorted.chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
    }
}
