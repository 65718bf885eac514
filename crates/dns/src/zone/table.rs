//! Names to their records, packed: two steps through memory lead to an answer.
//!
//! ```text
//!  slots  ┌ tag, place ┐    arena  ┌ header │ name │ first records ┐ ... one line of cache
//!         └────────────┘ ────────▶ └────────┴──────┴───────────────┘
//! ```
//!
//! A slot is 8 bytes, so neighbours share a line; an entry holds its name and its first plain set
//! together. What more a name has (other types, policies, additional records) stands in a [`Node`].
//! Immutable: a change makes a new table, which is why the changing ones are small ([`Sharded`]).

use std::sync::Arc;

use super::rrset::Set;
use super::{Node, Place};
use crate::asked::hash_of;

/// No entry, no node.
const NONE: u32 = u32::MAX;
/// Bytes before an entry's name.
const HEADER: usize = 12;
/// What the processor fetches at a time.
const LINE: usize = 64;

const WILD: u8 = 4;
const ROOTED: u8 = 8;

/// A table that does not change.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    arena: Vec<u8>,
    nodes: Vec<Arc<Node>>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    at: u32,
}

/// One name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    bytes: &'a [u8],
    node: Option<&'a Arc<Node>>,
}

impl<'a> Entry<'a> {
    pub(super) fn name(self) -> &'a [u8] {
        &self.bytes[HEADER..HEADER + usize::from(self.bytes[0])]
    }

    pub(super) fn place(self) -> Place {
        match self.bytes[1] & 3 {
            1 => Place::Cut,
            2 => Place::Below,
            3 => Place::Pods,
            _ => Place::Inside,
        }
    }

    /// `*` below it exists.
    pub(super) fn is_wild(self) -> bool {
        self.bytes[1] & WILD != 0
    }

    /// It is in a zone.
    pub(super) fn is_rooted(self) -> bool {
        self.bytes[1] & ROOTED != 0
    }

    /// Of which of its table's zones it is.
    pub(super) fn zone(self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// The records of type `kind`.
    #[inline]
    pub(super) fn set(self, kind: u16) -> Option<Set<'a>> {
        match self.plain().filter(|set| set.kind() == kind) {
            Some(set) => Some(set),
            None => self.node?.sets.iter().find(|set| set.kind() == kind).map(|set| set.view()),
        }
    }

    /// Any records.
    pub(super) fn any(self) -> Option<Set<'a>> {
        self.plain().or_else(|| self.node?.sets.first().map(|set| set.view()))
    }

    /// All of its sets.
    pub(super) fn sets(self) -> impl Iterator<Item = Set<'a>> {
        let alone = self.plain().filter(|_| self.node.is_none());
        let node = self.node.into_iter().flat_map(|node| node.sets.iter().map(|set| set.view()));
        alone.into_iter().chain(node)
    }

    fn plain(self) -> Option<Set<'a>> {
        let (count, stride) = (self.bytes[10], self.bytes[11]);
        let begin = HEADER + usize::from(self.bytes[0]);
        let end = begin + usize::from(count) * usize::from(stride);
        let kind = u16::from_be_bytes([self.bytes[8], self.bytes[9]]);
        (count > 0).then(|| Set::plain(kind, count, stride, &self.bytes[begin..end]))
    }

    fn len(self) -> usize {
        let records = usize::from(self.bytes[10]) * usize::from(self.bytes[11]);
        HEADER + usize::from(self.bytes[0]) + records
    }
}

impl Table {
    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry of `name`, whose hash is `hash`.
    #[inline]
    pub(super) fn get(&self, hash: u64, name: &[u8]) -> Option<Entry<'_>> {
        let mask = self.slots.len().wrapping_sub(1);
        let tag = tag_of(hash);
        let mut index = hash as usize & mask;
        loop {
            let slot = self.slots.get(index)?;
            if slot.at == NONE {
                return None;
            }
            if slot.tag == tag {
                let entry = self.entry(slot.at);
                if entry.name() == name {
                    return Some(entry);
                }
            }
            index = (index + 1) & mask;
        }
    }

    /// Where an entry with this hash would stand first; reads the slot and nothing more.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        let mask = self.slots.len().wrapping_sub(1);
        self.slots.get(hash as usize & mask).map_or(NONE, |slot| slot.at)
    }

    /// Reads a byte of the entry at `at`, so that it is near when it is wanted.
    #[inline]
    pub(super) fn touch_entry(&self, at: u32) -> u8 {
        self.arena.get(at as usize).copied().unwrap_or_default()
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.slots.iter().filter(|slot| slot.at != NONE).map(|slot| self.entry(slot.at))
    }

    fn entry(&self, at: u32) -> Entry<'_> {
        let bytes = &self.arena[at as usize..];
        let node = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let node = if node == NONE { None } else { self.nodes.get(node as usize) };
        Entry { bytes, node }
    }
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A table that is being made.
#[derive(Debug, Default)]
pub(super) struct Packing {
    arena: Vec<u8>,
    /// Hash and place of each entry.
    places: Vec<(u64, u32)>,
    nodes: Vec<Arc<Node>>,
}

impl Packing {
    /// Room for so many names.
    pub(super) fn with_room(names: usize) -> Self {
        let arena = Vec::with_capacity(names.saturating_mul(LINE));
        Self { arena, places: Vec::with_capacity(names), nodes: Vec::new() }
    }

    /// Adds a name with all it has.
    pub(super) fn push(&mut self, name: &[u8], node: Node) {
        let mut head = [0u8; HEADER];
        head[0] = name.len() as u8; // at most 255
        head[1] = match node.place {
            Place::Inside => 0,
            Place::Cut => 1,
            Place::Below => 2,
            Place::Pods => 3,
        } | if node.wild { WILD } else { 0 }
            | if node.rooted { ROOTED } else { 0 };
        head[2..4].copy_from_slice(&node.zone.to_be_bytes());
        let plain = node.sets.iter().find_map(|set| set.view().as_plain());
        let mut records: &[u8] = &[];
        if let Some((kind, count, stride, bytes)) = plain {
            head[8..10].copy_from_slice(&kind.to_be_bytes());
            (head[10], head[11]) = (count, stride);
            records = bytes;
        }
        let whole = node.sets.len() <= usize::from(plain.is_some());
        let number = if whole { NONE } else { self.nodes.len() as u32 };
        head[4..8].copy_from_slice(&number.to_be_bytes());
        let at = self.room(HEADER + name.len() + records.len());
        for part in [&head, name, records] {
            self.arena.extend_from_slice(part);
        }
        self.places.push((hash_of(name), at));
        if !whole {
            self.nodes.push(Arc::new(node));
        }
    }

    /// Adds an entry of another table as it is.
    pub(super) fn push_entry(&mut self, entry: Entry<'_>) {
        let length = entry.len();
        let at = self.room(length);
        let start = self.arena.len();
        self.arena.extend_from_slice(&entry.bytes[..length]);
        let number = if entry.node.is_some() { self.nodes.len() as u32 } else { NONE };
        self.arena[start + 4..start + 8].copy_from_slice(&number.to_be_bytes());
        self.nodes.extend(entry.node.cloned());
        self.places.push((hash_of(entry.name()), at));
    }

    /// Where the next entry begins: one that fits a line does not lie over two.
    fn room(&mut self, length: usize) -> u32 {
        let used = self.arena.len() % LINE;
        if used > 0 && used + length > LINE {
            self.arena.resize(self.arena.len() + LINE - used, 0);
        }
        self.arena.len() as u32 // below 4 GiB: a zone of so many bytes is refused before
    }

    /// The table.
    pub(super) fn finish(self) -> Table {
        if self.places.is_empty() {
            return Table::default();
        }
        // At most two thirds full: a search then looks at one line.
        let size = (self.places.len() * 3 / 2 + 1).next_power_of_two();
        let mut slots = vec![Slot { tag: 0, at: NONE }; size].into_boxed_slice();
        // Lines begin where the processor's do.
        let mut arena: Vec<u8> = Vec::with_capacity(self.arena.len() + LINE);
        let skip = (LINE - arena.as_ptr().addr() % LINE) % LINE;
        arena.resize(skip, 0);
        arena.extend_from_slice(&self.arena);
        for (hash, at) in &self.places {
            let mut index = *hash as usize & (size - 1);
            while slots[index].at != NONE {
                index = (index + 1) & (size - 1);
            }
            slots[index] = Slot { tag: tag_of(*hash), at: *at + skip as u32 };
        }
        Table { slots, arena, nodes: self.nodes, len: self.places.len() }
    }
}

/// How many small tables a [`Sharded`] has.
pub(crate) const SHARDS: usize = FAN * FAN;

/// Shards of one level; a change copies two such lists and one shard.
const FAN: usize = 64;

/// Names in 4,096 small tables: a change makes anew those of the names that changed, and shares
/// the others with what was before.
#[derive(Clone, Debug)]
pub(super) struct Sharded {
    blocks: Vec<Arc<[Arc<Table>]>>,
    len: usize,
}

impl Default for Sharded {
    fn default() -> Self {
        let none = Arc::new(Table::default());
        let block: Arc<[Arc<Table>]> = vec![none; FAN].into();
        Self { blocks: vec![block; FAN], len: 0 }
    }
}

impl Sharded {
    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The small table of names with this hash.
    #[inline]
    pub(super) fn shard(&self, hash: u64) -> &Table {
        let shard = shard_of(hash);
        &self.blocks[shard / FAN][shard % FAN]
    }

    /// The small tables, in which each name stands once.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.blocks.iter().flat_map(|block| block.iter()).map(AsRef::as_ref)
    }

    /// The small tables of these numbers.
    pub(super) fn some(&self, shards: &[usize]) -> impl Iterator<Item = &Table> {
        shards.iter().filter_map(|shard| Some(&**self.blocks.get(shard / FAN)?.get(shard % FAN)?))
    }

    /// The numbers of the small tables that are others than `before`.
    pub(super) fn changed_since(&self, before: &Self) -> Vec<usize> {
        let blocks = self.blocks.iter().zip(&before.blocks).enumerate();
        let others = blocks.filter(|(_, (now, before))| !Arc::ptr_eq(now, before));
        let changed = others.flat_map(|(number, (now, before))| {
            let tables = now.iter().zip(before.iter()).enumerate();
            let others = tables.filter(|(_, (now, before))| !Arc::ptr_eq(now, before));
            others.map(move |(shard, _)| number * FAN + shard)
        });
        changed.collect()
    }

    /// All names, their sets as text; for tests.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], Vec<String>)> {
        let tables = self.blocks.iter().flat_map(|block| block.iter());
        tables.flat_map(|table| table.entries()).map(|entry| {
            let records = entry
                .sets()
                .flat_map(|set| (0..set.len()).map(move |at| format!("{:?}", set.record(at))));
            (entry.name(), records.collect())
        })
    }

    /// With these names changed, or gone where there is no node. Each name is there once.
    pub(super) fn with(&self, changes: Vec<(Vec<u8>, Option<Node>)>) -> Self {
        let mut changes: Vec<_> = changes
            .into_iter()
            .map(|(name, node)| (shard_of(hash_of(&name)), name, node))
            .collect();
        changes.sort_by_key(|(shard, ..)| *shard);
        let mut after = self.clone();
        let mut rest = changes.into_iter().peekable();
        while let Some((first, ..)) = rest.peek() {
            let number = *first / FAN;
            let mut block: Vec<Arc<Table>> = after.blocks[number].to_vec();
            while let Some((shard, ..)) = rest.peek().filter(|(shard, ..)| shard / FAN == number) {
                let shard = *shard;
                let mut own = Vec::new();
                while let Some((_, name, node)) = rest.next_if(|(other, ..)| *other == shard) {
                    own.push((name, node));
                }
                let before = &block[shard % FAN];
                let mut packing = Packing::with_room(before.len() + own.len());
                for entry in before.entries() {
                    if !own.iter().any(|(name, _)| name.as_slice() == entry.name()) {
                        packing.push_entry(entry);
                    }
                }
                for (name, node) in own {
                    if let Some(node) = node {
                        packing.push(&name, node);
                    }
                }
                let table = packing.finish();
                after.len = after.len + table.len() - before.len();
                block[shard % FAN] = Arc::new(table);
            }
            after.blocks[number] = block.into();
        }
        after
    }
}

/// Of which small table a name is, were it in one.
pub(crate) fn shard_of_name(name: &[u8]) -> usize {
    shard_of(hash_of(name))
}

/// From bits that neither a tag nor a small table's slots use.
fn shard_of(hash: u64) -> usize {
    (hash >> 20) as usize % (FAN * FAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::encode;
    use crate::query::kind;
    use crate::zone::RrSet;

    fn node(last: u8, more: bool) -> Node {
        let mut set = RrSet::new(kind::A);
        set.push(5, &[10, 0, 0, last]);
        let mut sets = vec![set];
        if more {
            let mut text = RrSet::new(kind::TXT);
            text.push(5, b"\x01x");
            sets.push(text);
        }
        Node { sets, rooted: true, ..Node::default() }
    }

    fn name(number: u32) -> Vec<u8> {
        encode(&format!("n{number}.example.org")).expect("a name")
    }

    #[test]
    fn what_is_packed_is_found_and_nothing_else() {
        let mut packing = Packing::default();
        (0..1000).for_each(|n| packing.push(&name(n), node(n as u8, n % 7 == 0)));
        let table = packing.finish();
        assert_eq!((table.len(), table.entries().count()), (1000, 1000));
        for number in 0..1000 {
            let name = name(number);
            let entry = table.get(hash_of(&name), &name).expect("it is there");
            let set = entry.set(kind::A).expect("it has an address");
            assert_eq!(set.record(0).last(), Some(&(number as u8)));
            assert_eq!(entry.set(kind::TXT).is_some(), number % 7 == 0);
            assert_eq!(entry.sets().count(), 1 + usize::from(number % 7 == 0));
            assert!(entry.is_rooted() && !entry.is_wild() && entry.place() == Place::Inside);
        }
        assert!(table.get(hash_of(&name(1000)), &name(1000)).is_none());
        assert!(Table::default().get(7, &name(1)).is_none());
    }

    #[test]
    fn a_change_leaves_the_rest_and_what_was_before_as_they_were() {
        let all = (0..20_000).map(|n| (name(n), Some(node(1, n % 3 == 0)))).collect();
        let before = Sharded::default().with(all);
        let changes = vec![(name(5), Some(node(2, true))), (name(6), None), (name(30_000), None)];
        let after = before.with(changes);
        let last = |of: &Sharded, number| {
            let (name, hash) = (name(number), hash_of(&name(number)));
            let entry = of.shard(hash).get(hash, &name)?;
            entry.set(kind::A)?.record(0).last().copied()
        };
        assert_eq!((last(&before, 5), last(&after, 5)), (Some(1), Some(2)));
        assert_eq!((last(&before, 6), last(&after, 6)), (Some(1), None));
        assert_eq!((before.len(), after.len()), (20_000, 19_999));
        let mut shards = [5, 6, 30_000].map(|number| shard_of_name(&name(number))).to_vec();
        shards.sort_unstable();
        shards.dedup();
        assert_eq!(after.changed_since(&before), shards);
        assert!(after.some(&shards).all(|table| table.len() < 200));
        assert!((7..20_000).all(|number| last(&after, number) == Some(1)));
    }
}
