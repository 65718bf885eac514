//! One record: an entry or a file, with its own checksum.

use bytes::Bytes;
use flate2::Crc;

use super::Extra;
use crate::contract::{Entry, Revision};

const ENTRY: u8 = 1;
const FILE: u8 = 2;
/// Kind, length of key, length of value, created, modified, checksum.
const HEAD: usize = 1 + 4 + 4 + 8 + 8 + 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Entry),
    File(Extra),
}

pub(super) fn push_entry(block: &mut Vec<u8>, entry: &Entry) {
    push(block, ENTRY, &entry.key, &entry.value, (entry.created.0, entry.modified.0));
}

pub(super) fn push_file(block: &mut Vec<u8>, file: &Extra) {
    push(block, FILE, file.path.as_bytes(), &file.content, (0, 0));
}

fn push(block: &mut Vec<u8>, kind: u8, key: &[u8], value: &[u8], revisions: (u64, u64)) {
    let start = block.len();
    block.push(kind);
    block.extend_from_slice(&length(key).to_le_bytes());
    block.extend_from_slice(&length(value).to_le_bytes());
    block.extend_from_slice(&revisions.0.to_le_bytes());
    block.extend_from_slice(&revisions.1.to_le_bytes());
    let sum = sum(&block[start..], key, value);
    block.extend_from_slice(&sum.to_le_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys, values and files stay far below 4 GiB")
}

fn sum(head: &[u8], key: &[u8], value: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(head);
    crc.update(key);
    crc.update(value);
    crc.sum()
}

/// Takes one record from the front of `block`; none when it is not whole.
pub(super) fn take(block: &mut &[u8]) -> Option<Record> {
    let (head, rest) = block.split_at_checked(HEAD)?;
    let number = |at: usize| head[at..].first_chunk::<4>().map(|four| u32::from_le_bytes(*four));
    let revision =
        |at: usize| head[at..].first_chunk::<8>().map(|eight| Revision(u64::from_le_bytes(*eight)));
    let (key, rest) = rest.split_at_checked(usize::try_from(number(1)?).ok()?)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(number(5)?).ok()?)?;
    if sum(&head[..HEAD - 4], key, value) != number(HEAD - 4)? {
        return None;
    }
    *block = rest;
    match head[0] {
        ENTRY => Some(Record::Entry(Entry {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            created: revision(9)?,
            modified: revision(17)?,
        })),
        FILE => {
            let path = String::from_utf8(key.to_vec()).ok()?;
            Some(Record::File(Extra { path, content: value.to_vec() }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_and_no_flipped_bit_does() {
        let entry = Entry {
            key: "a/b".into(),
            value: "hello".into(),
            created: Revision(3),
            modified: Revision(1 << 40),
        };
        let file = Extra { path: "pki/ca.key".into(), content: vec![1, 2, 3] };
        let mut block = Vec::new();
        push_entry(&mut block, &entry);
        push_file(&mut block, &file);
        let mut rest = &block[..];
        assert_eq!(take(&mut rest), Some(Record::Entry(entry)));
        assert_eq!(take(&mut rest), Some(Record::File(file)));
        assert!(rest.is_empty() && take(&mut rest).is_none());
        let first = HEAD + 3 + 5;
        for bit in 0..first * 8 {
            let mut flipped = block[..first].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(take(&mut &flipped[..]), None, "bit {bit}");
        }
    }
}
