//! What comes most often, in bounded memory: the space-saving algorithm.
//!
//! As many counters as there is room; what is not counted takes the place of the least one, and
//! its count with it, which is how much its own may be too high. Whatever makes up more than one
//! part in `MOST` of all is among them for certain.
//!
//! The counts are of a sample; a caller says for how many queries one of it stands.
//!
//! Source: Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k Elements in
//! Data Streams", 2005.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Counters of each list.
const MOST: usize = 512;

/// The counters of one list.
#[derive(Debug)]
pub(crate) struct Top<K> {
    /// A heap, the least count first.
    heap: Vec<Counter<K>>,
    places: HashMap<K, usize, RandomState>,
}

#[derive(Clone, Debug)]
struct Counter<K> {
    key: K,
    count: u64,
    over: u64,
}

/// How often something came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Often {
    pub count: u64,
    /// By how much `count` may be too high.
    pub over: u64,
}

impl Often {
    /// Adds what another list says.
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.over += other.over;
    }
}

impl<K> Default for Top<K> {
    fn default() -> Self {
        Self { heap: Vec::new(), places: HashMap::default() }
    }
}

impl<K: Clone + Eq + Hash> Top<K> {
    /// Counts `key` as `weight`.
    pub(crate) fn add<Q>(&mut self, key: &Q, weight: u64)
    where
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        K: Borrow<Q>,
    {
        if let Some(at) = self.places.get(key) {
            let at = *at;
            self.heap[at].count += weight;
            self.sink(at);
            return;
        }
        let key = key.to_owned();
        if self.heap.len() < MOST {
            let at = self.heap.len();
            self.heap.push(Counter { key: key.clone(), count: weight, over: 0 });
            self.places.insert(key, at);
            self.rise(at);
            return;
        }
        let least = &mut self.heap[0];
        let before = std::mem::replace(&mut least.key, key.clone());
        least.over = least.count;
        least.count += weight;
        self.places.remove(before.borrow());
        self.places.insert(key, 0);
        self.sink(0);
    }

    /// All that is counted, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, Often)> {
        self.heap.iter().map(|one| (&one.key, Often { count: one.count, over: one.over }))
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let count = |at: usize| self.heap.get(at).map_or(u64::MAX, |one| one.count);
            let least = if count(right) < count(left) { right } else { left };
            if count(least) >= count(at) {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let above = (at - 1) / 2;
            if self.heap[above].count <= self.heap[at].count {
                return;
            }
            self.swap(at, above);
            at = above;
        }
    }

    fn swap(&mut self, one: usize, two: usize) {
        self.heap.swap(one, two);
        for at in [one, two] {
            if let Some(place) = self.places.get_mut(&self.heap[at].key) {
                *place = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frequent_is_there_and_no_count_is_too_low_or_too_high_by_more_than_it_says() {
        let mut top = Top::<Vec<u8>>::default();
        let mut truth = HashMap::<Vec<u8>, u64>::new();
        let mut random = 7u64;
        for _ in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let draw = (random >> 33) % 100_000;
            // A third goes to ten names, the rest to a hundred thousand.
            let number = if draw.is_multiple_of(3) { draw % 10 } else { 10 + draw };
            let key = number.to_be_bytes();
            top.add(key.as_slice(), 2);
            *truth.entry(key.to_vec()).or_default() += 2;
        }
        let counted: HashMap<_, _> = top.all().map(|(key, often)| (key.to_vec(), often)).collect();
        assert_eq!(counted.len(), MOST);
        for (key, often) in &counted {
            let real = truth[key];
            assert!(often.count >= real && often.count - often.over <= real, "{key:?} {often:?}");
        }
        for number in 0..10u64 {
            assert!(counted.contains_key(number.to_be_bytes().as_slice()), "{number}");
        }
        let all: u64 = counted.values().map(|often| often.count).sum();
        assert_eq!(all, 400_000, "every count is somewhere");
    }
}
