//! A map whose copies share what is the same in them.
//!
//! A copy costs one count, a change what lies on the way to it, and the difference of two copies
//! what differs: how many entries there are counts for nothing in all three. Two levels of 64
//! branches by hash, then small ordered maps: a million entries are 244 in each of these. The idea
//! is the hash trie's (Bagwell 2001), with a fixed depth.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Branches of a level.
const FAN: usize = 64;

/// Namespace and name.
pub(crate) type Key = (String, String);

type Leaf<K, T> = Arc<BTreeMap<K, Arc<T>>>;
type Branch<K, T> = Arc<Vec<Leaf<K, T>>>;

/// Values by key, in no order that means something.
pub(crate) struct Kept<K, T> {
    root: Arc<Vec<Branch<K, T>>>,
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        let leaf = Leaf::<K, T>::new(BTreeMap::new());
        let branch = Arc::new(vec![leaf; FAN]);
        Self { root: Arc::new(vec![branch; FAN]) }
    }
}

impl<K, T> Clone for Kept<K, T> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<K: fmt::Debug, T: fmt::Debug> fmt::Debug for Kept<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.root.iter().flat_map(|b| b.iter()).flat_map(|l| l.iter()))
            .finish()
    }
}

fn place<Q: Hash + ?Sized>(key: &Q) -> (usize, usize) {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let hash = hasher.finish();
    (usize::from(hash as u8) % FAN, usize::from((hash >> 8) as u8) % FAN)
}

impl<K: Hash + Ord + Clone, T> Kept<K, T> {
    pub(crate) fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<T>>
    where
        K: Borrow<Q>,
    {
        let (branch, leaf) = place(key);
        self.root[branch][leaf].get(key)
    }

    fn leaf<Q: Hash + ?Sized>(&mut self, key: &Q) -> &mut BTreeMap<K, Arc<T>> {
        let (branch, leaf) = place(key);
        let branch = &mut Arc::make_mut(&mut self.root)[branch];
        Arc::make_mut(&mut Arc::make_mut(branch)[leaf])
    }

    pub(crate) fn insert(&mut self, key: K, value: Arc<T>) -> Option<Arc<T>> {
        self.leaf(&key).insert(key, value)
    }

    pub(crate) fn remove<Q: Hash + Ord + ?Sized>(&mut self, key: &Q) -> Option<Arc<T>>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        self.leaf(key).remove(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Arc<T>)> + Clone {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter())
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<T>> + Clone {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether nothing was changed since one was made of the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// The keys whose values are not the very same in both, in order.
    pub(crate) fn differing(&self, other: &Self) -> Vec<K> {
        let mut keys = Vec::new();
        if self.is_same(other) {
            return keys;
        }
        for (ours, theirs) in self.root.iter().zip(other.root.iter()) {
            if Arc::ptr_eq(ours, theirs) {
                continue;
            }
            for (ours, theirs) in ours.iter().zip(theirs.iter()) {
                if Arc::ptr_eq(ours, theirs) {
                    continue;
                }
                let is_same = |key: &K, value: &Arc<T>, other: &Leaf<K, T>| {
                    other.get(key).is_some_and(|other| Arc::ptr_eq(value, other))
                };
                let changed = ours.iter().filter(|(key, value)| !is_same(key, value, theirs));
                keys.extend(changed.map(|(key, _)| key.clone()));
                let new = theirs.keys().filter(|key| !ours.contains_key(*key));
                keys.extend(new.cloned());
            }
        }
        keys.sort_unstable();
        keys
    }
}

impl<K: Hash + Ord + Clone, T> FromIterator<(K, Arc<T>)> for Kept<K, T> {
    fn from_iter<I: IntoIterator<Item = (K, Arc<T>)>>(entries: I) -> Self {
        let mut kept = Self::default();
        for (key, value) in entries {
            kept.insert(key, value);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn it_is_a_map_and_a_copy_stays_what_it_was(
            changes in prop::collection::vec((0u16..90, prop::option::of(0u8..4)), 0..60),
        ) {
            let mut kept = Kept::<u16, u8>::default();
            let mut plain = BTreeMap::new();
            let mut copies = vec![(kept.clone(), plain.clone())];
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        let value = Arc::new(value);
                        kept.insert(key, value.clone());
                        plain.insert(key, value);
                    }
                    None => prop_assert_eq!(kept.remove(&key), plain.remove(&key)),
                }
                copies.push((kept.clone(), plain.clone()));
            }
            for (copy, as_it_was) in &copies {
                let all: BTreeMap<_, _> = copy.iter().map(|(k, v)| (*k, v.clone())).collect();
                prop_assert_eq!(&all, as_it_was);
                let differing: Vec<u16> = (0..90).filter(|key| {
                    match (as_it_was.get(key), plain.get(key)) {
                        (Some(a), Some(b)) => !Arc::ptr_eq(a, b),
                        (a, b) => a.is_some() || b.is_some(),
                    }
                }).collect();
                prop_assert_eq!(copy.differing(&kept), differing);
            }
        }
    }
}
