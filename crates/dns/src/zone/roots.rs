//! Where zones begin, found by the hashes of a name's ends.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::asked::{Asked, hash_of};

/// Apexes, and a number for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    /// A bit for each apex, by its hash: most ends of foreign names are told by it alone.
    filter: u64,
    apexes: HashMap<u64, (Box<[u8]>, u32), RandomState>,
}

impl Roots {
    /// Adds a zone; the first of two with one apex stays.
    pub(super) fn add(&mut self, apex: &[u8], number: u32) {
        let hash = hash_of(apex);
        self.filter |= bit(hash);
        self.apexes.entry(hash).or_insert_with(|| (apex.into(), number));
    }

    /// The number of the zone that the name without its first `labels` is the apex of.
    #[inline]
    pub(super) fn at(&self, asked: &Asked, labels: usize) -> Option<u32> {
        let hash = asked.hash_above(labels);
        if self.filter & bit(hash) == 0 {
            return None;
        }
        let (apex, number) = self.apexes.get(&hash)?;
        (asked.above(labels).0 == &**apex).then_some(*number)
    }
}

fn bit(hash: u64) -> u64 {
    1 << (hash >> 58)
}
