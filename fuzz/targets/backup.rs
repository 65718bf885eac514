//! A backup of any bytes: never a panic, never more memory than a block may have, never a path that
//! leads out of the data directory, and entries only where every checksum is right.
//!
//! The first byte says what is taken from the input: the whole file; what is in a block, with
//! checksums and digest that are right; records, these too with theirs.
#![no_main]

use berth_store::backup::Reader;
use flate2::{Compression, Crc, write::ZlibEncoder};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use std::io::Write;

fn sum(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum().to_le_bytes()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("inputs are short").to_le_bytes()
}

/// A file of one block, which says that it holds so many files and entries.
fn file(files: u8, entries: u8, block: &[u8]) -> Vec<u8> {
    let mut head = [0; 28];
    head[0] = 7;
    head[8] = entries;
    head[24] = files;
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(block).expect("memory takes it");
    let packed = packer.finish().expect("memory takes it");
    let mut out = b"berth backup\n".to_vec();
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&sum(&[&head]));
    if !block.is_empty() {
        out.extend_from_slice(&length(&packed));
        out.extend_from_slice(&length(block));
        out.extend_from_slice(&sum(&[&packed]));
        out.extend_from_slice(&packed);
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    let digest = Sha256::digest(&out);
    out.extend_from_slice(&digest);
    out
}

/// Records from lines: a kind, a key, a zero byte, a value. How many of each kind comes with them.
fn records(text: &[u8]) -> (u8, u8, Vec<u8>) {
    let (mut files, mut entries, mut block) = (0u8, 0u8, Vec::new());
    for line in text.split(|byte| *byte == b'\n').take(100) {
        let [kind, rest @ ..] = line else { continue };
        let mut parts = rest.splitn(2, |byte| *byte == 0);
        let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = if kind % 2 == 0 { 2 } else { 1 };
        if kind == 2 {
            files += 1;
        } else {
            entries += 1;
        }
        let mut head = vec![kind];
        head.extend_from_slice(&length(key));
        head.extend_from_slice(&length(value));
        head.extend_from_slice(&[0; 16]);
        let checked = sum(&[&head, key, value]);
        block.extend([&head[..], &checked, key, value].concat());
    }
    (files, entries, block)
}

fuzz_target!(|input: &[u8]| {
    let [mode, rest @ ..] = input else { return };
    let file = match (mode % 3, rest) {
        (0, rest) => rest.to_vec(),
        (1, [files, entries, block @ ..]) => file(*files, *entries, block),
        (1, _) => return,
        _ => {
            let (files, entries, block) = records(rest);
            file(files, entries, &block)
        }
    };
    let Ok(mut reader) = Reader::new(&file[..]) else { return };
    for extra in reader.files() {
        let plain =
            |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
        let path = std::path::Path::new(&extra.path);
        assert!(path.components().all(plain), "{}", extra.path);
    }
    let mut entries = 0;
    while let Ok(Some(_)) = reader.next_entry() {
        entries += 1;
    }
    assert!(entries <= file.len() * 1100, "{entries}");
});
