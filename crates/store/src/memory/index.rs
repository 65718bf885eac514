//! Finding entries by what is in their values.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::contract::{Entry, Index};

/// An index as it stands.
#[derive(Debug)]
pub(super) struct Kept {
    index: Index,
    by_term: HashMap<Bytes, BTreeSet<Bytes>>,
}

impl Kept {
    pub(super) fn new<'a>(index: Index, entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut kept = Self { index, by_term: HashMap::new() };
        for entry in entries {
            kept.add(entry);
        }
        kept
    }

    pub(super) fn index(&self) -> Index {
        self.index
    }

    /// The keys of a term, in order.
    pub(super) fn keys(&self, term: &[u8]) -> Option<&BTreeSet<Bytes>> {
        self.by_term.get(term)
    }

    /// Follows a change.
    pub(super) fn see(&mut self, previous: Option<&Entry>, entry: Option<&Entry>) {
        let key = previous.or(entry).map(|entry| &entry.key);
        if !key.is_some_and(|key| key.starts_with(self.index.prefix)) {
            return;
        }
        if let (Some(previous), Some(entry)) = (previous, entry)
            && (self.index.terms)(&previous.value) == (self.index.terms)(&entry.value)
        {
            return;
        }
        if let Some(previous) = previous {
            self.drop(previous);
        }
        if let Some(entry) = entry {
            self.add(entry);
        }
    }

    fn add(&mut self, entry: &Entry) {
        for term in (self.index.terms)(&entry.value) {
            match self.by_term.get_mut(term) {
                Some(keys) => drop(keys.insert(entry.key.clone())),
                None => {
                    let keys = BTreeSet::from([entry.key.clone()]);
                    self.by_term.insert(Bytes::copy_from_slice(term), keys);
                }
            }
        }
    }

    fn drop(&mut self, entry: &Entry) {
        for term in (self.index.terms)(&entry.value) {
            let Some(keys) = self.by_term.get_mut(term) else { continue };
            keys.remove(&entry.key);
            if keys.is_empty() {
                self.by_term.remove(term);
            }
        }
    }
}
