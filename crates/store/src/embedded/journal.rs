//! Mends a journal whose last batch a power cut tore.
//!
//! fjall drops a last batch that breaks off, but refuses to open one that is all there with a hole
//! in it: pages of one write reach the disk in any order, so after a power cut some of them can
//! read as zeros. Such a batch was never synced, so it was never acknowledged, and is cut off
//! here. A batch with others behind it was synced: damage there is damage, and is left alone.
//!
//! # Source
//! fjall 3.1, `journal/entry.rs`: a batch is a start (tag 1, number of items, sequence number),
//! its items (tag 2; a cleared keyspace is tag 4) and an end (tag 3, checksum, four bytes of magic).
//! Integers are little-endian; values are not compressed in our build.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

const START_BYTES: usize = 1 + 4 + 8;
/// Tag, kind of value, compression, keyspace, then the three lengths of key, value and stored value.
const ITEM_BYTES: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
const CHECKSUM_BYTES: usize = 8;
const MAGIC: &[u8] = b"FJL\x03";
const END_BYTES: usize = 1 + CHECKSUM_BYTES + MAGIC.len();
const CLEAR_BYTES: usize = 1 + 8;

/// Cuts the last batch off the journal that fjall writes to; false when it is not certain that the
/// batch was the last.
pub(super) fn cut_torn_batch(database: &Path) -> io::Result<bool> {
    let Some(journal) = active(database)? else { return Ok(false) };
    let content = std::fs::read(&journal)?;
    let Some(at) = last_batch(&content) else { return Ok(false) };
    if ends(&content[at..]) > 1 {
        return Ok(false);
    }
    let lost = content[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    tracing::warn!(journal = %journal.display(), at, lost, "cutting off a batch that was never synced");
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    File::open(database)?.sync_all()?;
    Ok(true)
}

/// The journal with the highest number.
fn active(database: &Path) -> io::Result<Option<PathBuf>> {
    let mut highest: Option<(u64, PathBuf)> = None;
    for file in std::fs::read_dir(database)? {
        let path = file?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (is_journal, number)
            && highest.as_ref().is_none_or(|(other, _)| number > *other)
        {
            highest = Some((number, path));
        }
    }
    Ok(highest.map(|(_, path)| path))
}

/// Where the last batch starts that can be told apart.
fn last_batch(content: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut last = None;
    while let Some(tag) = content.get(at) {
        let length = match *tag {
            START => {
                last = Some(at);
                START_BYTES
            }
            ITEM => match item_bytes(&content[at..]) {
                Some(length) => length,
                None => break,
            },
            END if content.get(at + 1 + CHECKSUM_BYTES..at + END_BYTES) == Some(MAGIC) => END_BYTES,
            CLEAR => CLEAR_BYTES,
            _ => break,
        };
        at += length;
    }
    last
}

fn item_bytes(item: &[u8]) -> Option<usize> {
    let (_, lengths) = item.split_at_checked(ITEM_BYTES - 10)?;
    let (key, lengths) = lengths.split_first_chunk::<2>()?;
    let (_, stored) = lengths.split_first_chunk::<4>()?;
    let stored = stored.first_chunk::<4>()?;
    let key = usize::from(u16::from_le_bytes(*key));
    let stored = usize::try_from(u32::from_le_bytes(*stored)).ok()?;
    Some(ITEM_BYTES + key + stored)
}

/// How many batches seem to end in `content`. A value that looks like an end makes it one more,
/// which errs on the side of leaving the journal alone.
fn ends(content: &[u8]) -> usize {
    content.windows(END_BYTES).filter(|window| window[0] == END && window.ends_with(MAGIC)).count()
}
