//! A name that is asked for: in lower case, and hashed once for itself and for every name above it.
//!
//! The hash goes from the root to the left, label by label, so that the hash of a zone's apex is a
//! step on the way to that of a name in it: one pass says which zone a name is of, where it stands
//! in that zone's table, and whether it is any of ours at all.
//!
//! The seed is the process's own: who chooses names cannot choose where they stand. The mixing is
//! that of folded multiplication (wyhash, Wang Yi 2019).

use std::sync::LazyLock;

use crate::name::MAX_NAME;

/// A name has at most this many labels, each with a length byte, and the root.
const MOST_LABELS: usize = MAX_NAME / 2 + 1;
/// Room to read eight bytes from any place of the name.
const PADDED: usize = MAX_NAME + 9;
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

static SEED: LazyLock<u64> = LazyLock::new(rand::random);

/// A name and its hashes; used again for one name after another, so that nothing is cleared.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    bytes: [u8; PADDED],
    length: u8,
    labels: u8,
    starts: [u8; MOST_LABELS],
    hashes: [u64; MOST_LABELS],
}

impl Asked {
    /// The root.
    pub(crate) fn root() -> Self {
        let mut root = Self {
            bytes: [0; PADDED],
            length: 0,
            labels: 0,
            starts: [0; MOST_LABELS],
            hashes: [0; MOST_LABELS],
        };
        root.read(&[0]);
        root
    }

    /// Of a well-formed wire name.
    pub(crate) fn of(name: &[u8]) -> Self {
        let mut asked = Self::root();
        asked.read(name);
        asked
    }

    /// Takes another name: wire form without pointers, in any case. What is none is cut off.
    #[inline]
    pub(crate) fn read(&mut self, name: &[u8]) {
        let length = name.len().min(MAX_NAME);
        // Length bytes are below any letter, so the whole name is made lower case at once.
        for (to, from) in self.bytes.iter_mut().zip(&name[..length]) {
            *to = from.to_ascii_lowercase();
        }
        let mut labels = 0;
        let mut at = 0;
        while let Some(count) = self.bytes[..length].get(at).filter(|count| **count > 0) {
            if labels + 1 >= MOST_LABELS {
                break;
            }
            self.starts[labels] = at as u8; // names are at most 255 bytes
            labels += 1;
            at += usize::from(*count) + 1;
        }
        self.length = length as u8;
        self.labels = labels as u8;
        let mut hash = *SEED;
        let mut end = at.min(length);
        self.starts[labels] = end as u8;
        self.hashes[labels] = hash;
        for label in (0..labels).rev() {
            let start = usize::from(self.starts[label]);
            hash = mix(&self.bytes, start, end, hash);
            self.hashes[label] = hash;
            end = start;
        }
    }

    /// In lower case, with the root's zero byte.
    pub(crate) fn name(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Of the whole name.
    pub(crate) fn hash(&self) -> u64 {
        self.hashes[0]
    }

    /// How many labels there are, without the root.
    pub(crate) fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// The name without its first `labels`, where it begins, and its hash.
    pub(crate) fn above(&self, labels: usize) -> (&[u8], usize, u64) {
        let start = usize::from(self.starts[labels]);
        (&self.name()[start..], start, self.hashes[labels])
    }

    /// The hash of the name without its first `labels`.
    pub(crate) fn hash_above(&self, labels: usize) -> u64 {
        self.hashes[labels]
    }
}

/// The hash of a wire name in lower case.
pub(crate) fn hash_of(name: &[u8]) -> u64 {
    let mut padded = [0; PADDED];
    let length = name.len().min(MAX_NAME);
    padded[..length].copy_from_slice(&name[..length]);
    let mut starts = [0u8; MOST_LABELS];
    let (mut labels, mut at) = (0, 0);
    while let Some(count) = padded[..length].get(at).filter(|count| **count > 0) {
        starts[labels] = at as u8; // names are at most 255 bytes
        labels += 1;
        at += usize::from(*count) + 1;
    }
    let (mut hash, mut end) = (*SEED, at.min(length));
    for start in starts[..labels].iter().rev().map(|start| usize::from(*start)) {
        hash = mix(&padded, start, end, hash);
        end = start;
    }
    hash
}

/// Takes one label, its length byte included, into the hash.
#[inline]
fn mix(bytes: &[u8; PADDED], start: usize, end: usize, mut hash: u64) -> u64 {
    let mut at = start;
    while at < end {
        let word = bytes.get(at..at + 8).and_then(|word| word.first_chunk());
        let mut word = word.map_or(0, |word| u64::from_le_bytes(*word));
        let left = end - at;
        if left < 8 {
            word &= (1 << (left * 8)) - 1;
        }
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        hash = (product as u64) ^ (product >> 64) as u64;
        hash = hash.rotate_left(23).wrapping_add(FACTOR);
        at += 8;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::encode;

    #[test]
    fn a_name_has_the_hash_that_it_has_as_the_end_of_another() {
        let long = Asked::of(&encode("Web.a-label-of-many-bytes.Example.ORG").expect("a name"));
        assert_eq!(long.labels(), 4);
        for (labels, text) in [
            "web.a-label-of-many-bytes.example.org",
            "a-label-of-many-bytes.example.org",
            "example.org",
            "org",
            ".",
        ]
        .iter()
        .enumerate()
        {
            let wire = encode(text).expect("a name");
            let (name, start, hash) = long.above(labels);
            assert_eq!((name, hash), (wire.as_slice(), hash_of(&wire)), "{text}");
            assert_eq!(start + name.len(), long.name().len());
            assert_eq!(Asked::of(&wire).hash(), hash);
        }
    }

    #[test]
    fn neighbours_and_moved_dots_have_other_hashes() {
        let mut seen = std::collections::HashSet::new();
        for number in 0..20_000 {
            let wire = encode(&format!("n{number}.bench.example")).expect("a name");
            assert!(seen.insert(hash_of(&wire)), "{number}");
        }
        let of = |text: &str| hash_of(&encode(text).expect("a name"));
        assert_ne!(of("ab.c"), of("a.bc"));
        assert_ne!(of("a.b"), of("b.a"));
    }

    #[test]
    fn the_longest_names_are_read_whole() {
        let most = [[1, b'a'].repeat(127), vec![0]].concat();
        assert_eq!(most.len(), MAX_NAME);
        let asked = Asked::of(&most);
        assert_eq!((asked.labels(), asked.name()), (127, most.as_slice()));
        assert_eq!(asked.hash(), hash_of(&most));
    }
}
